import dataclasses
import pathlib
import re
import shlex

import pytest

from cifar10.cli import evaluate, report, train
from cifar10.config import EvalConfig, TrainConfig

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = {"cifar10-train": (train, TrainConfig), "cifar10-eval": (evaluate, EvalConfig)}


def blocks(language):
  return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_commands_parse():
  lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("cifar10-")]
  assert len(lines) >= 6
  for line in lines:
    program, *arguments = shlex.split(line, comments=True)
    module = report if program == "cifar10-report" else COMMANDS[program][0]
    assert module.flag_values()([program, *arguments]) == [program]


@pytest.mark.parametrize("program", COMMANDS)
def test_the_flag_table_lists_every_flag_with_its_default(program):
  _, config = COMMANDS[program]
  column = list(COMMANDS).index(program)
  rows = [row.strip("| ").split(" | ") for row in README.splitlines() if row.startswith("| `--")]
  listed = {re.match(r"`--(\w+)`", row[0])[1]: row[1 + column].strip() for row in rows}
  listed = {name: default for name, default in listed.items() if default != "-"}
  assert listed.keys() == {field.name for field in dataclasses.fields(config)}
  for field in dataclasses.fields(config):
    if field.default is not None:
      assert listed[field.name] == f"`{field.default!s}`", field.name


def test_scripts_and_files_that_it_names_exist():
  root = pathlib.Path(__file__).parent.parent
  names = re.findall(r"(?:\./)?(scripts/[\w.]+|cifar10/[\w/]+\.py)", README)
  assert len(names) >= 10
  for name in names:
    assert (root / name).exists(), name


def test_the_python_example_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (example,) = blocks("python")
  exec(example, {})
  assert (tmp_path / "smaller.keras").exists()
