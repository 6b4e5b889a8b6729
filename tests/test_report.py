import html.parser
import json
import shutil
import sys

import numpy as np
import pytest
from helpers import build_tiny_network, change, cut, directory, short_stage, version, write_record
from matplotlib import image

from cifar10 import input_pipeline
from cifar10.cli import report as command
from cifar10.config import EvalConfig, ReportConfig
from cifar10.errors import UserError
from cifar10.evaluate import evaluate
from cifar10.models import MODELS
from cifar10.report import report
from cifar10.report.facts import read_chain
from cifar10.report.page import page
from cifar10.train import train

HOSTILE = "<script>alert(1)</script>$x^$&\"'"
VOID = {"meta", "br", "img", "link"}


class Page(html.parser.HTMLParser):
  """The tags, attributes and text of a page, whose tags must all be closed in order."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.attributes, self.texts = [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self.attributes += attributes
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append(tag)
    self.attributes += attributes

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, text):
    if text.strip():
      self.texts.append(" ".join(text.split()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, synthetic):
  """A chain of three versions; two of the four gammas of version 1 are 0, so that version 2 is smaller."""
  directory = tmp_path_factory.mktemp("chain")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(MODELS, "cnn4", build_tiny_network)
    patch.setattr(input_pipeline, "load", lambda dataset, split, data_dir: synthetic[split])
    config = short_stage(directory / "run", log_frequency=2, exact_squeeze=False)
    train(config)
    network = version(config, 1).network()
    network.get_layer("conv1_bn").gamma.assign([1.0, 0.0, 0.8, 0.0])
    version(config, 1).replace(network)
    train(change(config, checkpoint_version=1, l1_penalty=2.0))
    evaluation = EvalConfig(
      checkpoint_dir=config.train_dir, dataset="synthetic", num_examples=100, eval_dir=str(directory / "eval")
    )
    for number, iteration in enumerate((20, 0, 0)):
      evaluate(change(evaluation, checkpoint_version=number, checkpoint_iter=iteration))
  return directory


@pytest.fixture
def chain(trained, tmp_path):
  """The `--train_dir` of a copy of the chain."""
  shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
  return tmp_path / "run"


def written(*chains, output_dir=None):
  """The directory of the report on some chains, and its page."""
  report(ReportConfig(tuple(map(str, chains)), output_dir and str(output_dir)))
  directory = output_dir or chains[0].with_name(chains[0].name + ("_report" if len(chains) == 1 else "_comparison"))
  return directory, Page((directory / "index.html").read_text())


def said(chain):
  """The text of the page on one chain, in one line, without its pictures, which take most of the time."""
  text = page([read_chain(chain, "run")], [], [[]])
  return " ".join(Page(text).texts)


@pytest.fixture(scope="module")
def reported(trained):
  """The directory of the report on the whole chain, and its page."""
  return written(trained / "run", output_dir=trained / "report")


def rewrite_stage(chain, number, change):
  """Writes a version's stage.json, and its backup, as `change` changes it, with a true checksum."""
  stage = json.loads((directory(chain, number) / "stage.json").read_text())
  del stage["sha256"]
  change(stage)
  for name in ("stage.json", "stage.json.old"):
    write_record(directory(chain, number) / name, stage)


def append(path, record):
  with open(path, "a") as file:
    file.write(json.dumps(record) + "\n")


def test_the_page_has_the_figures_of_the_chain(reported, trained):
  made, shown = reported
  evaluations = [
    json.loads((directory(trained / "run", number) / "evaluations.jsonl").read_text()) for number in range(3)
  ]
  for number, parameters in enumerate(("2,916", "2,916", "1,478")):
    start = shown.texts.index(str(number), shown.texts.index("latency"))
    figures = [parameters, "21,760" if number < 2 else "10,880"]
    figures += [f"{evaluations[number][name]:.4f}" for name in ("precision", "loss")]
    assert shown.texts[start + 1 : start + 5] == figures
  assert "2 of 4" in shown.texts
  assert "conv1_bn: 2 of 4 at 0" in shown.texts
  assert "2,916 parameters became 1,478 (49% fewer)" in " ".join(shown.texts)
  assert "What is missing" not in shown.texts
  names = {"precision_parameters", "precision_multiply_adds", "channels", "training", "gammas_0", "gammas_1"}
  assert {path.name for path in made.iterdir()} == {"index.html", *(f"{name}.png" for name in names)}
  assert shown.tags.count("svg") == len(names)


def test_the_pictures_show_something(reported):
  directory, _ = reported
  assert len(list(directory.glob("*.png"))) == 6
  for path in directory.glob("*.png"):
    pixels = image.imread(path)
    assert min(pixels.shape[:2]) > 60, path
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20, path


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


def test_exports_are_listed(chain):
  exports = [
    {
      "format": "keras",
      "path": None,
      "bytes": 2**20,
      "largest_difference": 0.0,
      "agreement": 1.0,
      "precision": 0.5,
      "latency_ms": 3.0,
    },
    {
      "format": "litert",
      "path": "model.tflite",
      "bytes": 2**19,
      "largest_difference": 1.2e-6,
      "agreement": 0.99,
      "precision": 0.51,
      "latency_ms": 1.5,
    },
  ]
  (directory(chain, 2) / "export.json").write_text(json.dumps({"exports": exports}))
  _, shown = written(chain)
  assert "1.50 ms (litert)" in shown.texts
  start = shown.texts.index("model.tflite")
  assert shown.texts[start : start + 6] == ["model.tflite", "0.50 MiB", "1.2e-06", "0.9900", "0.5100", "1.50 ms"]


def test_several_chains_are_compared(chain):
  for number in range(2):
    shutil.copytree(directory(chain, number), directory(chain.with_name("other"), number))
  made, shown = written(chain, chain.with_name("other"))
  assert made.name == "run_comparison"
  assert shown.texts[0] == "2 chains compared"
  first = shown.texts.index("Versions")
  assert shown.texts[first + 1] == "chain"
  table = shown.texts[first : shown.texts.index("Stages")]
  assert table.count("run") == 3 + 1  # The heading of its section too.
  assert table.count("other") == 2
  names = {path.name for path in made.glob("*.png")}
  assert {"chain_1_training.png", "chain_2_training.png", "chain_1_channels.png", "precision_parameters.png"} <= names


def test_chains_of_one_name_are_told_apart_by_their_paths(chain, tmp_path):
  other = tmp_path / "elsewhere" / "run"
  shutil.copytree(directory(chain, 0), directory(other, 0))
  _, shown = written(chain, other, output_dir=tmp_path / "out")
  assert {str(chain), str(other)} <= set(shown.texts)


def remove_stage(directory):
  for name in ("stage.json", "stage.json.old"):
    (directory / name).unlink(missing_ok=True)
  for path in directory.glob("model.ckpt-*"):
    path.unlink()


def damage_stage(directory):
  cut(directory / "stage.json")
  cut(directory / "stage.json.old")


DAMAGE = [
  (remove_stage, "stage.json is not there: how it was trained is unknown."),
  (damage_stage, "stage.json is damaged: it does not match its checksum"),
  (lambda directory: cut(directory / "stage.json"), "stage.json.old from before it is used"),
  (lambda directory: cut(directory / "gammas.npz"), "gammas.npz is damaged"),
  (lambda directory: (directory / "gammas.npz").unlink(), "gammas.npz is not there"),
  (lambda directory: np.savez(directory / "gammas.npz", step=[0], g=["text"]), "holds something else than gammas"),
  (lambda directory: np.savez(directory / "gammas.npz", step=[0], g=[[np.nan]]), "gammas that are not finite"),
  (lambda directory: cut(directory / "metrics.csv"), "The last line of"),
  (lambda directory: (directory / "metrics.csv").write_text("a,b\n1,2\n"), "metrics.csv is damaged"),
  (lambda directory: (directory / "metrics.csv").unlink(), "metrics.csv has no rows"),
  (lambda directory: cut(directory / "evaluations.jsonl"), "1 of 1 lines of"),
  (lambda directory: (directory / "evaluations.jsonl").unlink(), "There is no evaluation on test images in"),
  (lambda directory: cut(directory / "model.keras"), "model.keras is damaged"),
  (lambda directory: (directory / "model.keras").write_bytes(b""), "model.keras is damaged"),
  (lambda directory: (directory / "model.keras").unlink(), "model.keras is not there."),
  (lambda directory: (directory / "export.json").write_text("{"), "export.json cannot be read"),
  (lambda directory: (directory / "export.json").write_text('{"exports": [1]}'), "else than a list of exports"),
  (lambda directory: (directory / "evaluations.jsonl").write_bytes(b'\xff{"precision": 1e999}\n'), "1 of 1 lines of"),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE)
def test_what_is_missing_is_said_and_the_rest_is_shown(chain, damage, sentence):
  damage(directory(chain, 1))
  text = said(chain)
  assert "What is missing" in text
  assert sentence in text
  assert "1,478" in text


def test_a_chain_of_which_little_is_left_gives_a_page(chain):
  for number in range(2):
    for name in ("metrics.csv", "gammas.npz", "evaluations.jsonl"):
      cut(directory(chain, number) / name)
    remove_stage(directory(chain, number))
  (directory(chain, 2) / "evaluations.jsonl").unlink()
  _, shown = written(chain)
  assert len([text for text in shown.texts if text.startswith("Version ")]) >= 7
  assert "1,478" in shown.texts


def test_a_version_missing_in_the_middle_is_said(chain):
  shutil.rmtree(directory(chain, 1))
  text = said(chain)
  assert "Version 1 is missing." in text
  assert "1,478" in text


def test_a_far_version_leaves_one_sentence(chain):
  directory(chain, 20231124).mkdir()  # Has too many digits: something else than a version.
  directory(chain, 2000000).mkdir()
  text = said(chain)
  assert "Versions 3 to 1999999 are missing." in text
  assert "20231124" not in text


def test_an_interrupted_stage_is_said(chain):
  rewrite_stage(chain, 1, lambda stage: stage.update(finished=None))
  assert "Version 1: The stage stands at step 20 and is not squeezed." in said(chain)


JUNK = [None, [], HOSTILE, 1e999, float("nan"), -5, True, 10**400, {"conv1": None}, {"conv1": {"channels": 4}}]


@pytest.mark.parametrize("field", ["layers", "parameters_after"])
def test_a_squeeze_report_with_other_fields_gives_a_page(chain, field):
  for junk in JUNK:
    rewrite_stage(chain, 1, lambda stage, junk=junk: stage["finished"]["report"].update({field: junk}))
    assert "1,478" in said(chain)


@pytest.mark.parametrize("field", ["precision", "loss", "parameters", "multiply_adds", "checkpoint_iter", "eval_data"])
def test_an_evaluation_with_other_fields_gives_a_page(chain, field):
  path = directory(chain, 2) / "evaluations.jsonl"
  record = json.loads(path.read_text())
  for junk in JUNK:
    path.write_text(json.dumps({**record, field: junk}) + "\n")
    assert "2,916" in said(chain)


def test_costs_come_from_the_squeeze_before_or_the_network_itself(chain):
  (directory(chain, 2) / "evaluations.jsonl").unlink()
  assert [v.parameters for v in read_chain(chain, "run").versions] == [2916, 2916, 1478]
  shutil.rmtree(directory(chain, 1))
  shutil.rmtree(directory(chain, 0))
  (only,) = read_chain(chain, "run").versions
  assert (only.parameters, only.multiply_adds) == (1478, 10880)


def test_the_newest_evaluation_on_test_images_of_the_squeezed_network_counts(chain):
  path = directory(chain, 2) / "evaluations.jsonl"
  record = json.loads(path.read_text())
  append(path, {**record, "precision": 0.25})
  append(path, {**record, "precision": 0.5, "eval_data": "train_eval"})
  append(path, {**record, "precision": 0.75, "checkpoint_iter": 10})
  assert read_chain(chain, "run").versions[2].evaluation["precision"] == 0.25


def test_evaluations_of_training_checkpoints_do_not_stand_for_a_version(chain):
  path = directory(chain, 2) / "evaluations.jsonl"
  path.write_text(json.dumps({**json.loads(path.read_text()), "checkpoint_iter": 10}) + "\n")
  assert read_chain(chain, "run").versions[2].evaluation is None
  assert f"{path} tells of training checkpoints alone" in said(chain)


def test_a_sentence_keeps_the_path_that_it_begins_with(chain, monkeypatch):
  monkeypatch.chdir(chain.parent)
  shutil.copytree(directory("run", 1), "my chains/run_1")
  for train_dir in ("run", "my chains/run"):
    (directory(train_dir, 1) / "gammas.npz").write_bytes(b"junk")
    (sentence,) = [text for each in read_chain(train_dir, "run").versions for text in each.missing if "damaged" in text]
    assert sentence.startswith(f"{train_dir}_1/gammas.npz is damaged")


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


def test_without_matplotlib_the_sentence_names_the_extra(chain, monkeypatch):
  monkeypatch.delitem(sys.modules, "cifar10.report.pictures", raising=False)
  monkeypatch.delattr("cifar10.report.pictures", raising=False)
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  with pytest.raises(UserError, match=r"pip install --editable '\.\[report\]' in the checkout, or .*WHEEL\[report\]'"):
    report(ReportConfig((str(chain),)))


def test_the_chain_is_left_as_it_is(chain):
  before = {path: path.read_bytes() for path in chain.parent.rglob("*") if path.is_file()}
  written(chain, output_dir=chain.parent / "out" / "deep")
  assert {path: path.read_bytes() for path in before} == before
