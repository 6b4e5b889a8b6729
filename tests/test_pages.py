"""Every Markdown page of the project: fences and links hold, and what it shows runs."""

import collections
import dataclasses
import itertools
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import urllib.parse

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import build_tiny_network
from markdown_it import MarkdownIt

from cifar10 import input_pipeline
from cifar10.cli import evaluate, export, flag_table, predict, report, squeeze, sweep, table, train
from cifar10.config import declarations
from cifar10.datasets.examples import Examples
from cifar10.pruning.rules import base
from cifar10.version.directory import Version

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted({*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md")} - {README})]
MARKDOWN = MarkdownIt("commonmark").enable("table")
LANGUAGES = ("bibtex", "python", "sh", "text")
FENCES = ("```", "~~~")
MODULES = {
  "cifar10-train": train,
  "cifar10-eval": evaluate,
  "cifar10-export": export,
  "cifar10-predict": predict,
  "cifar10-report": report,
  "cifar10-table": table,
  "cifar10-sweep": sweep,
  "keras-squeeze": squeeze,
}
# What is added to each command, so that it takes no time.
SHRUNK = {
  "cifar10-train": ["--dataset=synthetic", "--max_steps=3", "--batch_size=2", "--overwrite"],
  "cifar10-eval": ["--dataset=synthetic", "--num_examples=10"],
  "cifar10-export": ["--dataset=synthetic", "--formats=saved_model", "--checkpoint_dir=checkpoints/cifar10_train"],
  "cifar10-predict": ["--dataset=synthetic"],
  "cifar10-report": [],
  "keras-squeeze": [],
}
# What else a line of a shell block may begin with: the shell's own words, and what installs, tests or does not end.
OTHER_COMMANDS = (
  *("(", ")", "export ", "mkdir ", "source "),
  *("python3 -m venv ", "pip install ", "uv ", "pre-commit ", ".venv/bin/pytest ", ".venv/bin/ruff ", "tensorboard "),
)
RUN_AS_A_WHOLE = ("label_*.png", "scontrol")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def parsed(page):
  return MARKDOWN.parse(page.read_text())


def tokens(page, *types):
  """The tokens of some types, those within paragraphs, headings and cells too."""
  everything = itertools.chain.from_iterable([token, *(token.children or [])] for token in parsed(page))
  return [token for token in everything if token.type in types]


def blocks(language, pages=PAGES):
  return [token.content for page in pages for token in tokens(page, "fence") if token.info == language]


def shell_lines():
  joined = "\n".join(blocks("sh")).replace("\\\n", " ")
  return [line for line in joined.splitlines() if line and not line.startswith("#")]


def anchors(page):
  """What GitHub calls the headings of a page in links."""
  counts, found = collections.Counter(), set()
  for token, inline in itertools.pairwise(parsed(page)):
    if token.type == "heading_open":
      text = "".join(child.content for child in inline.children if child.type in ("text", "code_inline"))
      slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
      found.add(f"{slug}-{counts[slug]}" if counts[slug] else slug)
      counts[slug] += 1
  return found


def table_rows(text):
  """The cells of each row of a table, as they are written."""
  rows = []
  for token in MARKDOWN.parse(text):
    if token.type == "tr_open":
      rows.append([])
    elif token.type == "inline" and rows:
      rows[-1].append(token.content)
  return rows


def test_the_readme_is_short():
  assert len(README.read_text().splitlines()) <= 250


@each_page
def test_fences_begin_and_end_on_lines_of_their_own(page):
  lines = page.read_text().splitlines()
  for token in parsed(page):
    if token.type == "fence":
      first, last = token.map[0], token.map[1] - 1
      assert token.info in LANGUAGES, lines[first]
      assert lines[first].lstrip() == token.markup + token.info
      assert first < last, lines[first]
      assert lines[last].strip() == token.markup, f"{lines[first]} does not end"
      assert not [line for line in token.content.splitlines() if line.strip().startswith(FENCES)], lines[first]
    else:
      assert not any(fence in token.content for fence in FENCES), token.content


@each_page
def test_links_and_pictures_lead_somewhere(page):
  for token in tokens(page, "link_open", "image"):
    target = token.attrs["src" if token.type == "image" else "href"]
    if target.startswith("https://"):
      continue
    path, _, anchor = urllib.parse.unquote(target).partition("#")
    there = (page.parent / path).resolve() if path else page
    assert target, "a link without a target"
    assert there.is_relative_to(ROOT), target
    assert there.is_file() if token.type == "image" or anchor else there.exists(), target
    assert not anchor or anchor in anchors(there), target


@each_page
def test_all_brackets_are_links_and_nothing_is_taken_for_html(page):
  for token in tokens(page, "text"):
    assert "](" not in token.content, token.content
    assert "][" not in token.content, token.content
  for token in tokens(page, "html_inline", "html_block"):
    assert token.content.startswith("<!--"), token.content


@pytest.mark.parametrize("block", blocks("sh"))
def test_shell_blocks_hold_commands_that_tests_run(block):
  subprocess.run(["bash", "-n", "-c", block], check=True)
  lines = [] if any(mark in block for mark in RUN_AS_A_WHOLE) else block.replace("\\\n", " ").splitlines()
  for line in lines:
    command = re.sub(r"^(\w+=\S* )*", "", line.strip())
    script = re.match(r"(\./|python )scripts/\w+\.(sh|py)", command)
    assert not command or script or command.startswith(("#", *MODULES, *OTHER_COMMANDS)), line


@pytest.mark.usefixtures("tiny_world")
def test_the_commands_run_one_after_the_other(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  for name in ("cat.png", "holiday.jpg"):
    tf.io.write_file(name, tf.io.encode_png(np.zeros((40, 50, 3), np.uint8)))
  build_tiny_network().save("model.keras")
  elsewhere = ("multi_worker", "cifar10-sweep", "--published")  # Other tests run those.
  commands = [line for line in shell_lines() if line.startswith(("cifar10-", "keras-"))]
  lines = [line for line in commands if not any(map(line.count, elsewhere))]
  assert len(lines) >= 12
  for line in lines:
    program, *arguments = shlex.split(line, comments=True)
    code = MODULES[program].main([program, *arguments, *SHRUNK[program]])
    assert code == 0, (line, capsys.readouterr().err)


def test_the_scripts_are_run_by_other_tests():
  tests = pathlib.Path(__file__).parent
  text = "".join(path.read_text() for path in tests.rglob("test_*.py") if path.name != "test_pages.py")
  names = set(re.findall(r"scripts/(\w+)\.(?:sh|py)", "\n".join(shell_lines())))
  assert len(names) >= 7
  for name in names - {"install", "test"}:
    assert f"{name}.main()" in text or f"{name}.sh" in text or f"{name}.py" in text, name


def test_the_example_of_predictions_runs(tmp_path):
  Version(tmp_path / "checkpoints" / "quickstart", 3).replace(build_tiny_network())
  (tmp_path / ".venv").symlink_to(sys.prefix)
  (example,) = (block for block in blocks("sh") if "label_*.png" in block)
  result = subprocess.run(["bash", "-ec", example], cwd=tmp_path, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  assert [line.split(":")[0] for line in result.stdout.splitlines()] == [f"label_{label}.png" for label in range(3)]


def test_the_flag_tables_are_those_of_the_settings(capsys):
  page = (ROOT / "cifar10" / "cli" / "README.md").read_text()
  (shown,) = re.findall(r"^<!-- flags -->\n(.*)^<!-- /flags -->\n", page, re.DOTALL | re.MULTILINE)
  flag_table.main()
  assert capsys.readouterr().out == shown
  for program, config in flag_table.COMMANDS.items():
    _, _, section = shown.partition(f"### {program}\n")
    head, *rows = table_rows(section.strip().partition("\n\n")[0])
    rows = [row for row in rows if not row[0].startswith("**")]  # Those are headings.
    listed = {re.match(r"`--(\w+)`", row[0])[1]: row[head.index("default")] for row in rows}
    fields = [field for field in dataclasses.fields(config) if not declarations(config)[field.name].positional]
    assert list(listed) == [field.name for field in fields]
    for field in fields:
      if isinstance(field.default, str | bool | int):
        assert listed[field.name] == f"`{field.default}`", field.name


def test_scripts_and_files_that_the_pages_name_exist():
  code = "\n".join(token.content for page in PAGES for token in tokens(page, "fence", "code_inline"))
  names = {name.rstrip(".") for name in re.findall(r"(?<![\w/])(?:\./)?((?:scripts|cifar10|tests)/[\w./]*)", code)}
  assert len(names) >= 10
  for name in names:
    assert (ROOT / name).exists(), name


def test_under_slurm_each_task_gets_its_place(tmp_path):
  (example,) = (block for block in blocks("sh") if "scontrol" in block)
  for name, script in {
    "srun": 'SLURM_PROCID=1 exec "$@"',
    "scontrol": "printf 'node1\\nnode2\\n'",
    "cifar10-train": 'echo "$TF_CONFIG"',
  }.items():
    (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / name).chmod(0o755)
  environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
  result = subprocess.run(["bash", "-ec", example], capture_output=True, text=True, check=True, env=environment)
  assert json.loads(result.stdout) == {
    "cluster": {"worker": ["node1:2222", "node2:2222"]},
    "task": {"type": "worker", "index": 1},
  }


@pytest.mark.parametrize(
  "page", [page for page in PAGES if blocks("python", [page])], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_python_examples_run(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  images, labels = (array[:2000] for array in input_pipeline.load("synthetic", "train"))
  monkeypatch.setattr(input_pipeline, "load", lambda dataset, split: Examples(images, labels))
  for number, (image, label) in enumerate(zip(images[:64], labels)):
    (tmp_path / "photos" / f"{label}").mkdir(parents=True, exist_ok=True)
    tf.io.write_file(f"photos/{label}/{number}.png", tf.io.encode_png(image))
  monkeypatch.setattr(base, "RULES", dict(base.RULES))
  examples, names = blocks("python", [page]), {"__name__": page.stem}
  for example in examples:
    exec(example, names)
  if any("smaller.keras" in example for example in examples):
    keras.models.load_model(tmp_path / "smaller.keras")
