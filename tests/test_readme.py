import dataclasses
import pathlib
import re
import shlex

import pytest

from cifar10.cli import evaluate, export, predict, report, train
from cifar10.config import EvalConfig, TrainConfig

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
IN_FLAG_TABLE = {"cifar10-train": (train, TrainConfig), "cifar10-eval": (evaluate, EvalConfig)}
MODULES = {
  "cifar10-train": train, "cifar10-eval": evaluate, "cifar10-export": export, "cifar10-predict": predict,
  "cifar10-report": report,
}  # fmt: skip


def blocks(language):
  return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_commands_parse():
  lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("cifar10-")]
  assert len(lines) >= 6
  for line in lines:
    program, *arguments = shlex.split(line, comments=True)
    strays = MODULES[program].flag_values()([program, *arguments])[1:]
    assert bool(strays) == (program == "cifar10-predict")


@pytest.mark.parametrize("program", IN_FLAG_TABLE)
def test_the_flag_table_lists_every_flag_with_its_default(program):
  _, config = IN_FLAG_TABLE[program]
  column = list(IN_FLAG_TABLE).index(program)
  section = README.partition("## Flags\n")[2].partition("\n## ")[0]
  rows = [row.strip("| ").split(" | ") for row in section.splitlines() if row.startswith("| `--")]
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
