import dataclasses
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import build_tiny_network

from cifar10 import checkpoints
from cifar10.cli import evaluate, export, predict, report, train
from cifar10.config import EvalConfig, TrainConfig
from cifar10.input_pipeline import load

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
IN_FLAG_TABLE = {"cifar10-train": (train, TrainConfig), "cifar10-eval": (evaluate, EvalConfig)}
MODULES = {
  "cifar10-train": train, "cifar10-eval": evaluate, "cifar10-export": export, "cifar10-predict": predict,
  "cifar10-report": report,
}  # fmt: skip
# What is added to each command, so that it takes no time.
SHRUNK = {
  "cifar10-train": ["--dataset=synthetic", "--max_steps=3", "--batch_size=2", "--overwrite"],
  "cifar10-eval": ["--dataset=synthetic", "--num_examples=10"],
  "cifar10-export": ["--dataset=synthetic", "--formats=saved_model", "--checkpoint_dir=checkpoints/cifar10_train"],
  "cifar10-predict": ["--dataset=synthetic"],
  "cifar10-report": [],
}


def blocks(language):
  return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def shell_lines():
  joined = "\n".join(blocks("sh")).replace("\\\n", " ")
  return [line for line in joined.splitlines() if line and not line.startswith("#")]


@pytest.mark.usefixtures("tiny_world")
def test_the_commands_run_one_after_the_other(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  for name in ("cat.png", "holiday.jpg"):
    tf.io.write_file(name, tf.io.encode_png(np.zeros((40, 50, 3), np.uint8)))
  lines = [line for line in shell_lines() if line.startswith("cifar10-") and "multi_worker" not in line]
  assert len(lines) >= 12
  for line in lines:
    program, *arguments = shlex.split(line, comments=True)
    code = MODULES[program].main([program, *arguments, *SHRUNK[program]])
    assert code == 0, (line, capsys.readouterr().err)


def test_the_scripts_are_run_by_other_tests():
  tests = pathlib.Path(__file__).parent
  text = "".join(path.read_text() for path in tests.rglob("test_*.py") if path.name != "test_readme.py")
  names = set(re.findall(r"scripts/(\w+)\.(?:sh|py)", "\n".join(shell_lines())))
  assert len(names) >= 8
  for name in names - {"test"}:
    assert f"{name}.main()" in text or f"{name}.sh" in text or f"{name}.py" in text, name


def test_the_example_of_predictions_runs(tmp_path):
  checkpoints.replace_version(tmp_path / "checkpoints" / "quickstart_3", build_tiny_network())
  (tmp_path / ".venv").symlink_to(sys.prefix)
  (example,) = (block for block in blocks("sh") if "label_*.png" in block)
  result = subprocess.run(["bash", "-ec", example], cwd=tmp_path, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  assert [line.split(":")[0] for line in result.stdout.splitlines()] == [f"label_{label}.png" for label in range(3)]


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


@pytest.mark.parametrize("example", blocks("python"))
def test_the_python_examples_run(example, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  images, labels = load("synthetic", "train")
  for number, (image, label) in enumerate(zip(images[:64], labels)):
    (tmp_path / "photos" / f"{label}").mkdir(parents=True, exist_ok=True)
    tf.io.write_file(f"photos/{label}/{number}.png", tf.io.encode_png(image))
  exec(example, {})
  keras.models.load_model(tmp_path / "smaller.keras")
