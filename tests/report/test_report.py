import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import directory
from reader import rewrite_stage, written

from cifar10.cli import report as command
from cifar10.config import ReportConfig
from cifar10.errors import UserError
from cifar10.report import report

HOSTILE = "<script>alert(1)</script>$x^$&\"'"


def test_the_page_asks_for_nothing_from_elsewhere_and_runs_nothing(reported):
  _, shown = reported
  assert not {"script", "link", "iframe", "object"} & set(shown.tags)
  links = [value for name, value in shown.attributes if name in ("href", "src", "xlink:href")]
  assert links
  assert all(value.startswith(("#", "data:image/png")) for value in links)
  assert not [name for name, _ in shown.attributes if name.startswith("on")]
  ids = [value for name, value in shown.attributes if name == "id"]
  targets = {value[1:] for value in links if value.startswith("#")}
  assert targets <= set(ids)


def test_hostile_text_is_escaped(chain):
  def spoil(stage):
    layers = stage["finished"]["report"]["layers"]
    layers[HOSTILE] = layers.pop("conv1")

  rewrite_stage(chain, 0, lambda stage: stage["flags"].update(dataset=HOSTILE, l1_penalty=HOSTILE, seed=[HOSTILE]))
  rewrite_stage(chain, 1, spoil)
  gammas = directory(chain, 1) / "gammas.npz"
  np.savez(gammas, step=[0, 5], **{HOSTILE.replace("/", ""): np.ones((2, 4), np.float32)})
  exports = [{"format": HOSTILE, "path": HOSTILE, "bytes": HOSTILE, "latency_ms": 2.5, "precision": None}]
  (directory(chain, 2) / "export.json").write_text(json.dumps({"exports": exports}))
  renamed = chain.with_name("<b>&run")
  for number in range(3):
    directory(chain, number).rename(directory(renamed, number))
  _, shown = written(renamed)
  assert shown.texts[0] == "<b>&run"
  assert not {"b", "script"} & set(shown.tags)
  assert HOSTILE in shown.texts
  assert any(f"dataset is {HOSTILE!r}; expected one of" in text for text in shown.texts)
  assert f"2.50 ms ({HOSTILE})" in shown.texts
  assert any(text.startswith(HOSTILE[:23] + "…") for text in shown.texts)


def test_the_page_can_be_used_without_seeing_it(reported):
  _, shown = reported
  levels = [int(tag[1]) for tag in shown.tags if re.fullmatch("h[1-6]", tag)]
  assert levels[0] == 1
  assert levels.count(1) == 1
  assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
  pictures = [attributes for tag, attributes in shown.elements if tag == "svg"]
  assert all(picture["role"] == "img" and len(picture["aria-label"]) > 20 for picture in pictures)
  assert shown.tags.count("caption") == shown.tags.count("table") == 4
  assert shown.tags.count("figcaption") == len(pictures)
  assert all(attributes.get("scope") in ("col", "row") for tag, attributes in shown.elements if tag == "th")
  assert all(attributes["alt"] for tag, attributes in shown.elements if tag == "img")
  ids = [value for name, value in shown.attributes if name == "id"]
  assert len(ids) == len(set(ids))
  scrolled = [attributes for _, attributes in shown.elements if attributes.get("role") == "region"]
  assert all(attributes["tabindex"] == "0" for attributes in scrolled)
  assert len({attributes["aria-label"] for attributes in scrolled}) == len(scrolled)


def luminance(colour):
  channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
  linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
  low, high = sorted((luminance(one), luminance(other)))
  return (high + 0.05) / (low + 0.05)


def test_text_has_a_contrast_of_4_5_in_light_and_dark_and_lines_one_of_3(reported):
  directory, _ = reported
  light, dark = re.findall(r":root \{(.*?)\}", (directory / "index.html").read_text(), re.DOTALL)
  for theme in (light, dark):
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", theme))
    text = [(ink, paper) for ink in ("ink", "muted") for paper in ("paper", "panel")] + [("warn", "warn-paper")]
    assert min(contrast(colours[one], colours[other]) for one, other in [*text, ("warn", "paper")]) >= 4.5
    assert min(contrast(colours[name], colours["paper"]) for name in ("blue", "orange")) >= 3


def test_the_same_chain_gives_the_same_files(reported, trained, tmp_path):
  made, _ = reported
  report(ReportConfig((str(trained / "run"),), str(tmp_path)))
  assert {path.name: path.read_bytes() for path in made.iterdir()} == {
    path.name: path.read_bytes() for path in tmp_path.iterdir()
  }


def test_report_and_table_load_neither_tensorflow_nor_keras(trained, tmp_path):
  program = """
import sys
from cifar10.cli import report
from cifar10.version.evaluations import newest_evaluation
assert report.main(["cifar10-report", *sys.argv[1:]]) == 0
assert newest_evaluation(sys.argv[2], 2)
assert not {"keras", "tensorflow"} & set(sys.modules)
"""
  arguments = ["--train_dir", str(trained / "run"), f"--output_dir={tmp_path}"]
  finished = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
  assert (finished.stderr, finished.returncode) == ("", 0)


def test_without_a_version_there_is_one_sentence_and_nothing_is_written(tmp_path, capsys):
  (tmp_path / "run_1.txt").write_text("no directory")
  assert command.main(["cifar10-report", f"--train_dir={tmp_path / 'run'}"]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"cifar10-report: there is no directory {tmp_path / 'run'}_0 nor of another version; give a")
  assert [path.name for path in tmp_path.iterdir()] == ["run_1.txt"]


def test_an_output_dir_that_is_a_file_is_one_sentence(chain, tmp_path, capsys):
  (tmp_path / "file").write_text("mine")
  arguments = [f"--train_dir={chain}", f"--output_dir={tmp_path / 'file'}"]
  assert command.main(["cifar10-report", *arguments]) == 1
  assert f"--output_dir {tmp_path / 'file'} cannot be written" in capsys.readouterr().err
  assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_without_what_draws_and_writes_the_page_the_sentence_names_the_extra(chain, monkeypatch, package):
  for module in ("drawing", "page", "pictures"):
    monkeypatch.delitem(sys.modules, f"cifar10.report.{module}", raising=False)
    monkeypatch.delattr(f"cifar10.report.{module}", raising=False)
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(UserError, match=r"pip install --editable '\.\[report\]' in the checkout, or .*WHEEL\[report\]'"):
    report(ReportConfig((str(chain),)))


def test_the_chain_is_left_as_it_is(chain):
  before = {path: path.read_bytes() for path in chain.parent.rglob("*") if path.is_file()}
  written(chain, output_dir=chain.parent / "out" / "deep")
  assert {path: path.read_bytes() for path in before} == before
