import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"


def table(train_dir, *arguments):
  program = [sys.executable, SCRIPTS / "table.py", train_dir, *arguments]
  return subprocess.run(program, capture_output=True, text=True, check=False)


@pytest.fixture
def recorded(tmp_path):
  """A chain of which only the evaluations are there; version 1 was evaluated twice."""
  for version, parameters, precision in [(0, 1000, 0.5), (1, 999, 0.1), (1, 1000, 0.6), (2, 790, 0.7), (3, 790, 0.8)]:
    directory = tmp_path / f"run_{version}"
    directory.mkdir(exist_ok=True)
    record = {"parameters": parameters, "multiply_adds": 12345, "precision": precision, "loss": 1.5}
    record |= {"eval_data": "test", "checkpoint_iter": 0 if version else 20}
    others = [{"eval_data": "train_eval"}, {"checkpoint_iter": 10 if version else 0}]
    with open(directory / "evaluations.jsonl", "a") as file:
      for line in (record, *({**record, "precision": 0.99, **other} for other in others)):
        file.write(json.dumps(line) + "\n")
  return tmp_path / "run"


def test_the_table_passes_over_a_record_that_was_cut(recorded):
  before = table(recorded).stdout
  with open(f"{recorded}_1/evaluations.jsonl", "a") as file:
    file.write('{"eval_data": "te\n')
  result = table(recorded)
  assert (result.returncode, result.stdout) == (0, before)


def test_the_table_shows_the_newest_evaluation_of_each_version(recorded):
  result = table(recorded)
  assert result.returncode == 0
  assert result.stdout.splitlines()[2:] == [
    "| 0 | 1,000 | 12,345 | 0.5000 | 1.5000 |",
    "| 1 | 1,000 | 12,345 | 0.6000 | 1.5000 |",
    "| 2 | 790 | 12,345 | 0.7000 | 1.5000 |",
    "| 3 | 790 | 12,345 | 0.8000 | 1.5000 |",
  ]


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    (["--min_reduction=0.2"], ""),
    (["--min_reduction=0.22"], "Version 2 has 21.0% fewer parameters than version 0, not 22%."),
    (["--min_precision=0.8"], ""),
    (["--min_precision=0.81"], "Version 3 has precision 0.8000, not 0.81."),
  ],
)
def test_the_table_fails_where_a_condition_does_not_hold(recorded, arguments, sentence):
  result = table(recorded, *arguments)
  assert result.stderr.strip() == sentence
  assert result.returncode == bool(sentence)


def test_scripts_refuse_unknown_models():
  result = subprocess.run([SCRIPTS / "reproduce.sh", "vgg"], capture_output=True, text=True, check=False)
  assert result.returncode == 2
  assert "usage: ./scripts/reproduce.sh [resnet20|cnn4]" in result.stderr
  environment = {**os.environ, "MODEL": "vgg"}
  result = subprocess.run([SCRIPTS / "stage1_warm_up.sh"], capture_output=True, text=True, check=False, env=environment)
  assert result.returncode == 2
  assert "MODEL is 'vgg'; expected resnet20 or cnn4." in result.stderr


@pytest.mark.parametrize("flag", ["--data_dir=/x", "--train_dir", "--dataset=cifar10", "-model=cnn4", "--help"])
def test_reproduce_refuses_flags_that_its_evaluations_would_not_get(flag):
  result = subprocess.run([SCRIPTS / "reproduce.sh", "resnet20", flag], capture_output=True, text=True, check=False)
  assert result.returncode == 2
  assert result.stderr.startswith(f"{flag} goes by argument or environment here")


def test_reproduce_stops_at_the_first_failure(tmp_path):
  foreign = tmp_path / "run_0"
  foreign.mkdir()
  (foreign / "notes.txt").write_text("mine")
  environment = {**os.environ, "DATASET": "synthetic", "TRAIN_DIR": str(tmp_path / "run")}
  result = subprocess.run([SCRIPTS / "reproduce.sh"], capture_output=True, text=True, check=False, env=environment)
  assert result.returncode == 1
  assert "written by something else" in result.stderr
  assert "cifar10-eval" not in result.stderr
  assert list(tmp_path.iterdir()) == [foreign]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet20", "cnn4"])
def test_reproduce_runs_the_chain_and_can_run_again(tmp_path, model):
  environment = {
    **os.environ, "DATASET": "synthetic", "TRAIN_DIR": str(tmp_path / "a run"), "STAGE1_STEPS": "2",
    "STAGE2_STEPS": "3", "STAGE3_STEPS": "2", "STAGE2_PENALTY": "4",
  }  # fmt: skip
  for again in (False, True):
    result = subprocess.run(
      [SCRIPTS / "reproduce.sh", model, "--batch_size=2"], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("is finished") == 3 * again
    assert result.stdout.count("precision @ 1") == 4 + 1
    assert [line[:4] for line in result.stdout.splitlines()[-4:]] == ["| 0 ", "| 1 ", "| 2 ", "| 3 "]
