import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import applications
import benchmark
import compare_importances
import compare_methods
import compare_squeezes
import compare_thresholds
import compress_images
import keras
import numpy as np
import prune_applications
import pytest
from helpers import build_tiny_network

from cifar10 import input_pipeline
from cifar10.cli import sweep
from cifar10.config import TrainConfig
from cifar10.datasets import binary_files
from cifar10.datasets.examples import Examples
from cifar10.errors import UserError
from cifar10.models import MODELS
from cifar10.pruning import multiply_adds
from cifar10.train import train
from cifar10.version.directory import Version

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"


def table(train_dir, *arguments):
  program = [sys.executable, "-m", "cifar10", "table", train_dir, *arguments]
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
    (
      ["--min_precision=0.75", "--of=1,2,3"],
      "Version 1 has precision 0.6000, not 0.75.\nVersion 2 has precision 0.7000, not 0.75.",
    ),
  ],
)
def test_the_table_fails_where_a_condition_does_not_hold(recorded, arguments, sentence):
  result = table(recorded, *arguments)
  assert result.stderr.strip() == (f"cifar10 table: {sentence}" if sentence else "")
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


# Stands for both commands: writes what the sweep reads, notes each call, and fails or waits where it is told to.
COMMAND = """
import json, os, pathlib, signal, sys, time
module, flags = sys.argv[2], dict(flag.lstrip("-").split("=") for flag in sys.argv[3:])
workplace = pathlib.Path(os.environ["WORKPLACE"])
with open(workplace / "calls", "a") as file:
  file.write(json.dumps([module, flags]) + chr(10))
version = int(flags["checkpoint_version"])
if module == "cifar10.cli.evaluate":
  directory = pathlib.Path(f"{flags['checkpoint_dir']}_{version}")
  record = {"eval_data": "test", "checkpoint_iter": 0, "precision": version / 10, "loss": 1.0}
  record |= {"parameters": 1000 if version == 1 else 750, "multiply_adds": 12345}
  (directory / "evaluations.jsonl").write_text(json.dumps(record) + chr(10))
else:
  if os.environ.get("WAIT"):
    signal.signal(signal.SIGTERM, lambda *_: (workplace / "saved").touch() or sys.exit(130))
    (workplace / "waits").touch()
    time.sleep(60)
  if f"{version} {flags['seed']}" == os.environ.get("FAIL"):
    sys.exit(1)
  pathlib.Path(f"{flags['train_dir']}_{version + 1}").mkdir(exist_ok=True)
"""


@pytest.fixture
def start_sweep(tmp_path, default_signals):
  """Starts a sweep over commands that take no time; returns its process."""
  (tmp_path / "command.py").write_text(COMMAND)
  (tmp_path / "command").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/command.py" "$@"\n')
  (tmp_path / "command").chmod(0o755)
  program = f"import sys; from cifar10.cli import sweep; sys.executable = {str(tmp_path / 'command')!r}; "
  program += "sys.exit(sweep.main(['cifar10-sweep', *sys.argv[1:]]))"

  def start(*arguments, **environment):
    return subprocess.Popen(
      [sys.executable, "-c", program, str(tmp_path / "run"), *arguments],
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      env={**os.environ, "WORKPLACE": str(tmp_path), **environment},
    )

  return start


def swept(process):
  output, errors = process.communicate()
  return process.returncode, output.splitlines(), errors


def calls(tmp_path):
  lines = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
  (tmp_path / "calls").unlink()
  return lines


GRID = ["--penalties=0.003,5e-3", "--seeds=1,2", "--steps=10,20,30", "--dataset=synthetic"]
CHAINS = ["p0.003_s1", "p0.003_s2", "p0.005_s1", "p0.005_s2"]


def test_a_sweep_runs_every_chain_and_its_table_shows_them(start_sweep, tmp_path):
  code, output, _ = swept(start_sweep(*GRID, "--", "--batch_size=4"))
  assert code == 0
  assert output[-5:] == [
    "| resnet20 | 0.003 | 1 | 750 | 25.0% | 12,345 | 0.1000 | 0.2000 | 0.3000 |",
    "| resnet20 | 0.003 | 2 | 750 | 25.0% | 12,345 | 0.1000 | 0.2000 | 0.3000 |",
    "| resnet20 | 0.005 | 1 | 750 | 25.0% | 12,345 | 0.1000 | 0.2000 | 0.3000 |",
    "| resnet20 | 0.005 | 2 | 750 | 25.0% | 12,345 | 0.1000 | 0.2000 | 0.3000 |",
    f"cifar10-report --train_dir {','.join(f'{tmp_path}/run_resnet20_{end}' for end in CHAINS)}",
  ]
  made = calls(tmp_path)
  assert [module for module, _ in made] == ["cifar10.cli.train", "cifar10.cli.evaluate"] * 12
  assert [flags for _, flags in made[:6:2]] == [
    {
      "dataset": "synthetic",
      "train_dir": f"{tmp_path}/run_resnet20_p0.003_s1",
      "checkpoint_version": str(version),
      "seed": "1",
      "max_steps": steps,
      "batch_size": "4",
      **flags,
    }
    for version, (steps, flags) in enumerate(
      [
        ("10", {"model": "resnet20", "l1_penalty": "0.001"}),
        ("20", {"l1_penalty": "0.003"}),
        ("30", {"l1_penalty": "0.0", "learning_rate": "0.01"}),
      ]
    )
  ]


def test_a_sweep_goes_on_after_a_failure_and_runs_again(start_sweep, tmp_path):
  code, output, errors = swept(start_sweep(*GRID, FAIL="1 1"))
  assert code == 1
  assert errors.count("The command above ended with exit code 1; its chain ends here.") == 2
  assert f"failed: {tmp_path}/run_resnet20_p0.003_s1, {tmp_path}/run_resnet20_p0.005_s1;" in errors
  assert output[-5] == "| resnet20 | 0.003 | 1 | - | - | - | 0.1000 | - | - |"
  assert output[-1].count("_s1") == 0
  assert output[-1].count("_s2") == 2
  assert len(calls(tmp_path)) == 2 * 3 + 2 * 6
  code, output, errors = swept(start_sweep(*GRID))
  assert (code, errors) == (0, "")
  made = calls(tmp_path)
  assert [module for module, _ in made].count("cifar10.cli.train") == 12
  assert [module for module, _ in made].count("cifar10.cli.evaluate") == 4


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_sweep_once_its_stage_has_saved(start_sweep, tmp_path, signum):
  process = start_sweep(*GRID, WAIT="1")
  while not (tmp_path / "waits").exists():
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(signum)
  code, _, errors = swept(process)
  assert (code, errors) == (130, "cifar10-sweep: interrupted.\n")
  assert (tmp_path / "saved").exists()
  assert len(calls(tmp_path)) == 1


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    (["--penalties=0.1,nan"], "argument --penalties: nan is no finite number of 0 or more"),
    (["--penalties=0.1,"], "argument --penalties: invalid list value: '0.1,'"),
    (["--seeds=-1"], "argument --seeds: '-1' is no whole number of 0 or more"),
    (["--steps=1,2"], "--steps has 2 numbers; expected three"),
    (["--models=vgg"], "--models has 'vgg'; expected resnet20 or cnn4"),
    (["--", "--max_steps=5"], "--max_steps=5 is cifar10-sweep's own to give; leave it out"),
    (["--", "--nosqueeze_model"], "--nosqueeze_model is cifar10-sweep's own to give; leave it out"),
  ],
)
def test_a_sweep_refuses_bad_arguments(capsys, arguments, sentence):
  with pytest.raises(SystemExit) as end:
    sweep.main(["cifar10-sweep", "run", "--penalties=0.1", "--seeds=1", *arguments])
  assert end.value.code == 2
  assert sentence in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_world")
def test_both_ways_to_squeeze_are_compared(tmp_path, monkeypatch, capsys):
  train(TrainConfig(train_dir=str(tmp_path / "run"), dataset="synthetic", batch_size=8, max_steps=20, l1_penalty=30.0))
  monkeypatch.setattr(sys, "argv", ["compare_squeezes.py", str(tmp_path / "run_0"), "--dataset=synthetic"])
  capsys.readouterr()
  compare_squeezes.main()
  rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
  assert [row[0] for row in rows[2:]] == ["unsqueezed", "`exact=True`", "`exact=False`"]
  before, exact, _ = (int(row[1].replace(",", "")) for row in rows[2:])
  assert exact < before
  assert rows[2][2:] == rows[3][2:]


@pytest.fixture
def small_cifar10(monkeypatch):
  """CIFAR-10 in files of 10 images, each of one hue, with noise in its brightness; gives splits and loader."""
  monkeypatch.setattr(binary_files, "RECORDS_PER_FILE", 10)
  rng = np.random.default_rng(0)
  splits = {}
  for split, number in (("train", 50), ("test", 10)):
    images = rng.integers(60, 196, (number, 32, 32, 1)) + rng.integers(-60, 60, (number, 1, 1, 3))
    splits[split] = Examples(images.astype(np.uint8), rng.integers(0, 10, number, np.int32))
  load = input_pipeline.load
  monkeypatch.setattr(input_pipeline, "load", lambda name, split, place: splits[split])
  return splits, load


@pytest.mark.parametrize(("quality", "least", "most"), [(100, 0, 2), (50, 7, 20), (1, 25, 60)])
def test_compressed_images_lose_what_the_quality_says(tmp_path, monkeypatch, small_cifar10, quality, least, most):
  splits, load = small_cifar10
  place = tmp_path / "jpeg"
  monkeypatch.setattr(sys, "argv", ["compress_images.py", str(place), f"--quality={quality}"])
  compress_images.main()
  for split, before in splits.items():
    after = load("cifar10", split, str(place))
    np.testing.assert_array_equal(after.labels, before.labels)
    error = np.abs(after.images.astype(int) - before.images).mean(axis=(1, 2, 3))
    assert least < error.min() <= error.max() < most


def test_compressed_images_take_no_place_that_is_taken(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["compress_images.py", str(tmp_path)])
  with pytest.raises(SystemExit) as end:
    compress_images.main()
  assert end.value.code == 2
  assert f"{tmp_path} is there already" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_nothing_is_left_where_there_are_no_images_to_compress(tmp_path, monkeypatch):
  data = tmp_path / "data"
  (data / "cifar-10-batches-bin").mkdir(parents=True)
  monkeypatch.setattr(sys, "argv", ["compress_images.py", str(tmp_path / "jpeg"), f"--data_dir={data}"])
  with pytest.raises(SystemExit, match=r"data_batch_1\.bin is missing"):
    compress_images.main()
  assert list(tmp_path.iterdir()) == [data]


@pytest.mark.usefixtures("small_cifar10")
def test_nothing_is_left_where_compressed_images_cannot_be_written(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "argv", ["compress_images.py", str(tmp_path / "jpeg")])

  def records(*_):
    raise OSError("the disk is full")

  monkeypatch.setattr(compress_images, "records", records)
  with pytest.raises(SystemExit, match="the disk is full"):
    compress_images.main()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quality", ["0", "101", "75.5", "high"])
def test_a_quality_that_jpegs_do_not_have_is_named(tmp_path, monkeypatch, capsys, quality):
  monkeypatch.setattr(sys, "argv", ["compress_images.py", str(tmp_path / "jpeg"), f"--quality={quality}"])
  with pytest.raises(SystemExit) as end:
    compress_images.main()
  assert end.value.code == 2
  assert f"--quality: is {quality!r}; expected a number from 1 to 100." in capsys.readouterr().err


def test_methods_are_compared_at_the_sizes_that_sparse_gammas_come_to(tmp_path, monkeypatch, capsys, tiny_world):
  monkeypatch.setitem(MODELS, "resnet20", lambda: build_tiny_network("resnet20", filters=16))
  calls = []

  def run(module, *flags):
    calls.append((module, flags))
    return importlib.import_module(module).main([module, *flags]) == 0

  monkeypatch.setattr(compare_methods.sweep, "succeeds", run)
  prefix = str(tmp_path / "methods")
  arguments = [prefix, "--penalties=2", "--seeds=1", "--steps=2,12,2", "--dataset=synthetic"]
  monkeypatch.setattr(sys, "argv", ["compare_methods.py", *arguments, "--", "--batch_size=4", "--log_frequency=5"])
  assert compare_methods.main() == 0
  *table, last = capsys.readouterr().out.splitlines()[-7:]
  assert last == f"{prefix}_methods.png is written."
  assert pathlib.Path(f"{prefix}_methods.png").stat().st_size > 10_000
  rows = [line.strip("| ").split(" | ") for line in table]
  assert [row[1] for row in rows] == ["whole", *compare_methods.WAYS]
  whole, budget, *others = (int(row[2].replace(",", "")) for row in rows)
  assert budget < whole == MODELS["resnet20"]().count_params()
  assert 0.9 * budget < min(others) <= max(others) <= budget
  assert len({row[4] for row in rows}) > 1
  trained = [
    dict(flag.lstrip("-").split("=") for flag in flags) for module, flags in calls if module == "cifar10.cli.train"
  ]
  told = ("train_dir", "checkpoint_version", "l1_penalty", "max_steps", "uniform_penalties")
  assert [[each.get(name, "").removeprefix(f"{prefix}_") for name in told] for each in trained] == [
    ["warm_s1", "0", "0.001", "2", ""],
    ["whole_s1", "1", "0.0", "12", ""],
    ["whole_s1", "2", "0.0", "2", ""],
    ["sparse_gammas_p2_s1", "1", "2.0", "12", ""],
    ["sparse_gammas_p2_s1", "2", "0.0", "2", ""],
    ["network_slimming_p2_s1", "1", "2.0", "12", "True"],
    ["network_slimming_p2_s1", "2", "0.0", "2", ""],
    ["L1_norm_p2_s1", "1", "0.0", "12", ""],
    ["L1_norm_p2_s1", "2", "0.0", "2", ""],
    ["random_p2_s1", "1", "0.0", "12", ""],
    ["random_p2_s1", "2", "0.0", "2", ""],
    ["narrower_p2_s1", "1", "0.0", "14", ""],
    ["narrower_p2_s1", "2", "0.0", "2", ""],
  ]
  before = len(calls)
  compare_methods.main()
  assert all("evaluate" not in module for module, _ in calls[before:])
  shown = capsys.readouterr().out
  assert shown.count("is finished") == len(calls) - before
  assert shown.splitlines()[-7:-1] == table


def too_small(chain, *arguments):
  compare_methods.pruned(build_tiny_network("resnet20"), 2, chain, importance="random")


def too_narrow(chain, *arguments):
  compare_methods.new_network(1000, 1, chain)


@pytest.mark.parametrize(
  ("way", "sentence"),
  [
    (too_small, r"\w+ cannot be pruned to parameters=2: .* With a lower penalty the budget is larger."),
    (too_narrow, r"the narrowest resnet20 has [\d,]+ parameters, more than 1,000. With a lower penalty .* is larger."),
  ],
)
def test_methods_are_compared_without_the_one_that_cannot_meet_the_budget(tmp_path, monkeypatch, capsys, way, sentence):
  evaluation = {"parameters": 1000, "multiply_adds": 10, "precision": 0.5}
  monkeypatch.setitem(MODELS, "resnet20", lambda: build_tiny_network("resnet20", filters=16))
  monkeypatch.setattr(compare_methods.sweep, "succeeds", lambda *command: True)
  monkeypatch.setattr(compare_methods, "newest_evaluation", lambda *chain: evaluation)
  monkeypatch.setattr(compare_methods, "whole", lambda *arguments: None)
  monkeypatch.setattr(
    compare_methods, "WAYS", {"first": lambda *arguments: None, "this": way, "last": compare_methods.whole}
  )
  monkeypatch.setattr(sys, "argv", ["compare_methods.py", str(tmp_path / "methods"), "--penalties=4", "--seeds=1"])
  assert compare_methods.main() == 1
  printed = capsys.readouterr()
  assert [line.split(" | ")[1] for line in printed.out.splitlines()[2:-1]] == ["whole", "first", "last"]
  (line,) = printed.err.splitlines()
  assert re.fullmatch(f"compare_methods.py: {re.escape(str(tmp_path))}/methods_this_p4_s1: {sentence}", line)


def test_a_comparison_of_methods_ends_with_a_sentence_where_training_fails(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(compare_methods.sweep, "succeeds", lambda *command: False)
  monkeypatch.setattr(sys, "argv", ["compare_methods.py", str(tmp_path / "methods"), "--penalties=4", "--seeds=1,2"])
  assert compare_methods.main() == 1
  assert capsys.readouterr().err == (
    f"compare_methods.py: {tmp_path}/methods_warm_s1 failed; what went wrong stands above. Run again to go on.\n"
    f"{tmp_path}/methods_warm_s2 failed; what went wrong stands above. Run again to go on.\n"
  )


def test_slimming_prunes_what_its_penalty_leaves_to_the_budget(tmp_path, monkeypatch):
  monkeypatch.setattr(compare_methods.sweep, "succeeds", lambda *command: True)
  network = build_tiny_network("resnet20", filters=16)
  warm, left = Version(tmp_path / "warm", 1), Version(tmp_path / "run", 2)
  warm.replace(network)
  left.replace(network)
  monkeypatch.setattr(sys, "argv", ["compare_methods.py", "run", "--penalties=4", "--seeds=1"])
  budget = network.count_params() // 2
  compare_methods.slimming(str(tmp_path / "run"), 4.0, 1, warm, compare_methods.parsed(), budget)
  assert 0.8 * budget < left.network().count_params() <= budget


def test_a_comparison_of_methods_leaves_what_something_else_has_written(tmp_path):
  (tmp_path / "run_1").mkdir()
  (tmp_path / "run_1" / "notes.txt").write_text("mine")
  with pytest.raises(UserError, match="written by something else"):
    compare_methods.begin(str(tmp_path / "run"), build_tiny_network)
  assert (tmp_path / "run_1" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("flag", ["--uniform_penalties", "--stop_at_plateau", "--seed=3", "--flagfile=more"])
def test_a_comparison_of_methods_refuses_flags_that_tell_methods_apart(monkeypatch, capsys, flag):
  arguments = ["run", "--penalties=4", "--seeds=1", "--", flag]
  monkeypatch.setattr(sys, "argv", ["compare_methods.py", *arguments])
  with pytest.raises(SystemExit) as end:
    compare_methods.main()
  assert end.value.code == 2
  assert f"{flag} is compare_methods.py's own to give; leave it out" in capsys.readouterr().err


def test_methods_are_shown_by_the_mean_of_their_seeds():
  evaluations = [{"parameters": 100 + seed, "multiply_adds": 10, "precision": 0.5 + seed / 10} for seed in range(3)]
  row = compare_methods.printed({(0.005, "random"): evaluations}).splitlines()[-1]
  assert row == "| 0.005 | random | 101 | 10 | 0.6000 | 0.5000 to 0.7000 | 3 |"


def test_squeezing_is_compared_with_torch_pruning(tmp_path, monkeypatch, capsys, synthetic):
  pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
  import compare_torch_squeezing

  few = Examples(*(array[:100] for array in synthetic["test"]))
  monkeypatch.setattr(compare_torch_squeezing.input_pipeline, "load", lambda dataset, split: few)
  keras.utils.set_random_seed(0)
  MODELS["resnet20"]().save(tmp_path / "model.keras")
  monkeypatch.setattr(sys, "argv", ["compare_torch_squeezing.py", str(tmp_path / "model.keras")])
  compare_torch_squeezing.main()
  rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
  assert [row[2] for row in rows] == ["squeeze", "Torch-Pruning"] * 4
  for row in rows:
    before, after = (int(cell.replace(",", "")) for cell in row[3:5])
    assert after < before
  assert all(float(row[5]) < 1e-4 for row in rows[::2])


def test_the_table_of_applications_shows_what_goes(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["applications.py", "--network=MobileNetV2"])
  applications.main()
  _, _, row = capsys.readouterr().out.splitlines()
  before, exact, paper = (float(cell) for cell in row.strip("| ").split(" | ")[1:4])
  assert before > exact >= paper


def test_thresholds_are_compared_and_only_what_is_missing_is_trained(tmp_path, monkeypatch, capsys, synthetic):
  few = Examples(*(array[:100] for array in synthetic["test"]))
  monkeypatch.setattr(compare_thresholds.input_pipeline, "load", lambda dataset, split: few)
  monkeypatch.setattr(compare_thresholds, "STEPS_BETWEEN_LOOKS", 1)
  monkeypatch.setattr(compare_thresholds, "CALIBRATION_BATCHES", 1)
  tiny = {"tiny": lambda images: keras.layers.Flatten()(build_tiny_network()(images))}
  monkeypatch.setattr(compare_thresholds, "NETWORKS", tiny)
  arguments = ["--networks=tiny", "--steps=4", "--batch_size=4", "--l1_penalty=5", "--dataset=synthetic"]
  monkeypatch.setattr(sys, "argv", ["compare_thresholds.py", str(tmp_path / "rows.jsonl"), *arguments])
  compare_thresholds.main()
  rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
  assert [row["thresholds"] for row in rows] == list(compare_thresholds.THRESHOLDS)
  for row in rows:
    assert row["fake_sparsity"] >= 0.5
    assert row["parameters_after"] < row["parameters_before"]
    assert row["sparsifying_steps"] <= 8
  shown = capsys.readouterr().out.splitlines()
  compare_thresholds.main()
  assert capsys.readouterr().out.splitlines() == shown[-6:]
  assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4
  monkeypatch.setattr(sys, "argv", ["compare_thresholds.py", str(tmp_path / "rows.jsonl"), "--networks=other"])
  with pytest.raises(SystemExit, match="--networks has other; expected some of tiny"):
    compare_thresholds.main()


@pytest.mark.slow
def test_the_table_of_pruned_applications_shows_that_the_budget_is_met(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["prune_applications.py", "--network=MobileNetV2", "--multiple_of=8"])
  prune_applications.main()
  _, _, row = capsys.readouterr().out.splitlines()
  cells = row.strip("| ").split(" | ")
  assert float(cells[2]) < float(cells[1])
  assert 0.45 < float(cells[5]) <= 0.5
  monkeypatch.setattr(sys, "argv", ["prune_applications.py", "--network=MobileNetV2", "--share=0.001"])
  prune_applications.main()
  assert "the least is" in capsys.readouterr().out


def test_importances_are_compared_on_the_test_set(tmp_path, monkeypatch, capsys, synthetic):
  monkeypatch.setattr(compare_importances.input_pipeline, "load", lambda dataset, split: synthetic[split])
  monkeypatch.setattr(compare_importances, "RECALIBRATION_BATCHES", 1)
  monkeypatch.setattr(compare_importances, "SHARES", (0.6,))
  build_tiny_network(filters=8).save(tmp_path / "model.keras")
  monkeypatch.setattr(sys, "argv", ["compare_importances.py", str(tmp_path / "model.keras")])
  compare_importances.main()
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(" | ")[1] for line in lines[-5:]] == list(compare_importances.IMPORTANCES)
  assert all(len(line.split(" | ")) == 7 for line in lines[-5:])


def test_the_benchmark_measures_all_that_it_prints(tmp_path, monkeypatch, capsys, synthetic):
  few = Examples(*(array[:100] for array in synthetic["test"]))
  monkeypatch.setattr(benchmark, "load_data", lambda dataset, split: few)
  monkeypatch.setattr(benchmark, "MATRIX_SIZE", 64)
  monkeypatch.setattr(benchmark, "BATCH_SIZE", 5)
  monkeypatch.setattr(
    benchmark, "plain_networks", lambda: {name: build_tiny_network() for name in ("full", "squeezed")}
  )
  monkeypatch.setattr(benchmark, "pruned_networks", lambda: {name: build_tiny_network() for name in ("full", "pruned")})
  arguments = ["--rounds=2", "--steps=20", f"--json={tmp_path / 'rows.json'}"]
  monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
  benchmark.main()
  rows = json.loads((tmp_path / "rows.json").read_text())
  for row in rows:
    assert 0 < row["fastest"] <= row["median"] <= row["slowest"]
  loops = {row["name"]: row for row in rows if "peak_bytes" in row}
  assert list(loops) == ["float32, cifar10-train", "mixed_bfloat16, cifar10-train"]
  for row in loops.values():
    assert row["operations"] == 2 * 3 * 41_599_616 * 5
    assert 0.2 < row["to_first_step"] < 300
    assert row["peak_bytes"] > 100 * 2**20
  inference = [(row["runtime"], row["batch_size"], row["name"]) for row in rows if "runtime" in row]
  assert sorted(inference) == sorted(
    (runtime, batch_size, name)
    for runtime in ("TensorFlow", "LiteRT", "ONNX Runtime")
    for batch_size in (1, 5)
    for name in ("full", "squeezed", "full", "pruned")
  )
  output = capsys.readouterr().out
  assert output.count("| float32, cifar10-train |") == 1
  assert output.count("| ONNX Runtime | squeezed |") == 1
  assert output.count("| ONNX Runtime | pruned |") == 1


def test_the_squeezed_network_of_the_benchmark_has_the_widths_that_it_says():
  for multiple_of, widths in ((1, [13, 9, 6, 29, 23, 21, 45, 35, 26]), (8, [16, 16, 8, 32, 24, 24, 48, 40, 32])):
    network = benchmark.squeezed_resnet20(multiple_of)
    assert [network.get_layer(name).filters for name in benchmark.SQUEEZED_WIDTHS] == widths


@pytest.mark.parametrize("multiple_of", [8, 16])
def test_the_pruned_network_of_the_benchmark_has_as_many_multiply_adds_as_it_says(multiple_of):
  network = benchmark.pruned_resnet20(multiple_of)
  assert 0.6 < multiply_adds(network) / 41_599_616 <= 0.64
  filters = [layer.filters for layer in network.layers if hasattr(layer, "filters")]
  assert all(count % multiple_of == 0 for count in filters[:-1])


@pytest.mark.parametrize("argument", ["--parts=steps,walk", "--steps=5", "--rounds=0"])
def test_the_benchmark_refuses_bad_arguments(argument, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["benchmark.py", argument])
  with pytest.raises(SystemExit) as end:
    benchmark.main()
  assert end.value.code == 2
  assert f"{argument.partition('=')[0]} " in capsys.readouterr().err


@pytest.mark.slow
def test_the_quickstart_runs():
  result = subprocess.run([SCRIPTS / "quickstart.sh"], capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  assert [line[:4] for line in result.stdout.splitlines()[-4:]] == ["| 0 ", "| 1 ", "| 2 ", "| 3 "]


@pytest.mark.slow
def test_a_sweep_of_real_chains_runs_and_changes_nothing_when_run_again(tmp_path):
  program = [
    *(sys.executable, "-m", "cifar10", "sweep"),
    tmp_path / "run",
    "--penalties=4,6",
    "--seeds=1",
    "--models=cnn4",
    "--steps=2,3,2",
    "--dataset=synthetic",
    "--",
    "--batch_size=2",
  ]
  tables = []
  for again in (False, True):
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("is finished") == 6 * again
    assert result.stdout.count("precision @ 1") == 6 * (not again)
    tables.append(result.stdout.splitlines()[-5:])
  assert tables[0] == tables[1]
  assert [line.split(" | ")[1] for line in tables[0][2:4]] == ["4", "6"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet20", "cnn4"])
def test_reproduce_runs_the_chain_and_can_run_again(tmp_path, model):
  environment = {
    **os.environ,
    "DATASET": "synthetic",
    "TRAIN_DIR": str(tmp_path / "a run"),
    "STAGE1_STEPS": "2",
    "STAGE2_STEPS": "3",
    "STAGE3_STEPS": "2",
    "STAGE2_PENALTY": "4",
  }
  for again in (False, True):
    result = subprocess.run(
      [SCRIPTS / "reproduce.sh", model, "--batch_size=2"], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("is finished") == 3 * again
    assert result.stdout.count("precision @ 1") == 4 + 1
    assert [line[:4] for line in result.stdout.splitlines()[-4:]] == ["| 0 ", "| 1 ", "| 2 ", "| 3 "]
  (tmp_path / "other_1").mkdir()
  shutil.copy(tmp_path / "a run_1" / "model.keras", tmp_path / "other_1")
  environment |= {"MODEL": model, "TRAIN_DIR": str(tmp_path / "other")}
  for script in ("stage2_sparsify.sh", "stage3_fine_tune.sh"):
    subprocess.run([SCRIPTS / script, "--batch_size=2", "--seed=1"], check=True, env=environment)
  assert (tmp_path / "other_3" / "model.keras").exists()
