"""Consoles that take nothing, and values that would make a message of several lines."""

import subprocess
import sys

import pytest

from cifar10.cli import evaluate, export, predict, report, train
from cifar10.cli import train as command
from cifar10.errors import UserError
from cifar10.input_pipeline import load

MODULES = [train, evaluate, export, predict, report]


@pytest.mark.parametrize("module", MODULES)
def test_help_for_somebody_who_stops_reading_ends_quietly(module):
  process = subprocess.Popen(
    [sys.executable, "-m", module.__name__, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )
  with process:
    process.stdout.close()
    error = process.stderr.read()
  assert (process.returncode, error) == (0, b"")


@pytest.mark.parametrize("module", MODULES)
def test_help_that_cannot_be_written_is_one_sentence(module):
  with open("/dev/full", "w") as full:
    ended = subprocess.run(
      [sys.executable, "-m", module.__name__, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
    )
  name = module.__file__.rpartition("/")[2]
  assert (ended.returncode, ended.stderr) == (1, f"{name}: stdout cannot be written (No space left on device).\n")


def test_without_stderr_the_exit_code_is_left():
  with open("/dev/full", "w") as full:
    ended = subprocess.run([sys.executable, "-m", command.__name__, "--max_steps=x"], stderr=full, check=False)
  assert ended.returncode == 2


@pytest.mark.parametrize("value", ["a\nb", "a\r\nb", "a\u2028b", "a\x1b[1mb"])
@pytest.mark.parametrize("flag", ["--max_steps=", "--model=", "--stop_at_plateau=", "--no_such_flag=", "stray "])
def test_a_value_with_a_line_break_gives_a_message_of_one_line(capsys, flag, value):
  with pytest.raises(SystemExit) as end:
    train.main(["cifar10-train", flag + value])
  error = capsys.readouterr().err
  assert end.value.code == 2
  assert error.endswith("\n")
  assert len(error.splitlines()) == 1
  assert error.rstrip("\n").isprintable()


def test_a_path_with_a_line_break_gives_a_message_of_one_line(tmp_path, capsys):
  (tmp_path / "a\nb_0").write_text("mine")
  assert train.main(["cifar10-train", f"--train_dir={tmp_path}/a\nb", "--dataset=synthetic"]) == 1
  (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cifar10-train: ")]
  assert line.startswith(f"cifar10-train: {tmp_path}/a\\nb_0 is a file; expected")


def test_the_home_of_an_unknown_user_is_one_sentence():
  with pytest.raises(UserError, match="data_dir ~nosuchuser/x names the home of a user who is not known"):
    load("cifar10", "train", "~nosuchuser/x")
