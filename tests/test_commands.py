"""`python -m cifar10`, and what all commands have: --version, --helpfull, --flagfile, flags by what they are about."""

import importlib.metadata
import pathlib
import subprocess
import sys
import tomllib

import pytest

from cifar10.cli import command, commands, evaluate, sweep, table, train
from cifar10.config import EvalConfig, TrainConfig, groups

VERSION = f"cifar10-channel-pruning {importlib.metadata.version('cifar10-channel-pruning')}\n"
PROJECT = tomllib.loads((pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def test_commands_are_those_that_are_installed():
  modules = {f"cifar10-{name}": f"cifar10.cli.{module}:main" for name, (module, _) in commands.COMMANDS.items()}
  modules["keras-squeeze"] = modules.pop("cifar10-squeeze")
  assert modules == PROJECT["scripts"]


def test_commands_are_listed_and_run(capsys):
  assert commands.main(["cifar10"]) == 2
  listed = capsys.readouterr().out
  assert commands.main(["cifar10", "--help"]) == 0
  assert capsys.readouterr().out == listed
  assert all(f"\n  {name} " in listed for name in commands.COMMANDS)
  assert commands.main(["cifar10", "walk"]) == 2
  assert "there is no command 'walk'; expected one of train, eval" in capsys.readouterr().err
  assert commands.main(["cifar10", "--version"]) == 0
  assert capsys.readouterr().out == VERSION
  with pytest.raises(SystemExit) as end:
    commands.main(["cifar10", "train", "--nonsense"])
  assert end.value.code == 2
  assert capsys.readouterr().err.startswith("cifar10 train: Unknown command line flag 'nonsense'")


def test_listing_and_help_need_no_tensorflow():
  check = (
    "import sys; from cifar10.cli import commands\n"
    "for arguments in ([], *([name, '--help'] for name in commands.COMMANDS)):\n"
    "  try: commands.main(['cifar10', *arguments])\n"
    "  except SystemExit as end: assert not end.code\n"
    "sys.exit(any(name.startswith(('tensorflow', 'keras', 'matplotlib')) for name in sys.modules))"
  )
  assert subprocess.run([sys.executable, "-c", check], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("module", [train, evaluate, sweep, table])
def test_each_command_says_its_version(module, capsys):
  with pytest.raises(SystemExit) as end:
    module.main(["program", "--version"])
  assert not end.value.code
  assert capsys.readouterr().out == VERSION


@pytest.mark.parametrize("flag", ["--help", "--helpfull"])
def test_help_lists_flags_by_what_they_are_about_and_the_flagfile(flag, capsys):
  with pytest.raises(SystemExit) as end:
    train.main(["cifar10-train", flag])
  assert end.value.code == 0
  shown = capsys.readouterr().out
  headings = [*groups(TrainConfig), command.COMMON]
  assert len(headings) == 8
  places = [shown.index(f"\n{heading}:\n") for heading in headings]
  assert places == sorted(places)
  for names, start, end in zip(groups(TrainConfig).values(), places, places[1:], strict=False):
    assert all(f"  --{name}:" in shown[start:end] or f"--[no]{name}:" in shown[start:end] for name in names)
  assert "--flagfile: Read further flags from a file" in shown


def test_flags_are_read_from_a_file(tmp_path, capsys):
  path = tmp_path / "flags"
  path.write_text("# the first run\n--batch_size=7\n\n--norun_once\n")
  parsed = command.parse(EvalConfig, "", ["p", "--batch_size=1", f"--flagfile={path}", "--num_examples", "5"])
  assert (parsed["batch_size"], parsed["run_once"], parsed["num_examples"]) == (7, False, 5)
  path.write_bytes(b"\xff\xfe")
  for file, sentence in ((path, "the --flagfile is no text in UTF-8"), (tmp_path / "none", "No such file")):
    with pytest.raises(SystemExit) as end:
      evaluate.main(["p", "--flagfile", str(file)])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
