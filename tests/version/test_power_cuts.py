"""What a version's directory holds after the power was cut, or a kill came at any write."""

import os
import pathlib
import subprocess
import sys

import kill_and_resume
import numpy as np
import pytest
from helpers import assert_same_weights, change, saved_weights

from cifar10.errors import UserError
from cifar10.models import MODELS
from cifar10.train import train
from cifar10.training_state import TrainingState
from cifar10.version import checkpoints, files, metrics
from cifar10.version.directory import Version

DATA, INDEX = "data-00000-of-00001", "index"


@pytest.fixture
def disk(tmp_path):
  """A disk, and the function that cuts its power."""
  (tmp_path / "of the disk").mkdir()
  disk = kill_and_resume.disk(tmp_path / "of the disk")
  try:
    place_and_cut = disk.__enter__()
  except OSError as error:
    pytest.skip(f"the power of a disk cannot be cut: {error}")
  yield place_and_cut
  disk.__exit__(None, None, None)


def test_after_a_power_cut_the_newest_checkpoint_is_whole(disk, state, tiny_network):
  place, cut_power = disk
  version = Version(place / "run", 0)
  with version.locked():
    for step in range(1, 8):
      state.step.assign(step)
      checkpoints.save(version.path, state, step)
  cut_power()
  restored = TrainingState(tiny_network)
  assert checkpoints.restore_newest(version.path, restored) == (7, [])
  assert_same_weights(restored.model.get_weights(), state.model.get_weights())
  assert set(checkpoints.checkpoint_steps(version.path)) >= {3, 4, 5, 6, 7}


def test_after_a_power_cut_the_records_up_to_the_checkpoint_are_there(disk):
  place, cut_power = disk
  records = metrics.Metrics(place, 20, 5)
  records.start(0)
  files.append_line(place / "lines", "one")
  for step in (0, 5, 10):
    records.add(dict.fromkeys(metrics.COLUMNS, step), {"bn/gamma": np.full(4, step, np.float32)})
  records.save()
  cut_power()
  assert [row["step"] for row in metrics.read_metrics(place)] == [0, 5, 10]
  assert list(metrics.read_gammas(place)) == [0, 5, 10]
  assert (place / "lines").read_text() == "one\n"


def test_a_stage_whose_power_was_cut_goes_on_to_the_same_weights(config, disk, trained_once):
  place, cut_power = disk
  on_disk = change(config, train_dir=str(place / "run"))
  train(change(on_disk, max_steps=10, squeeze_model=False))
  cut_power()
  assert Version(on_disk.train_dir, 0).checkpoint_steps() == [10]
  train(on_disk)
  cut_power()
  assert_same_weights(saved_weights(on_disk), saved_weights(trained_once({})))


@pytest.mark.slow
def test_chains_whose_power_is_cut_are_the_same(monkeypatch, capsys, disk):
  monkeypatch.setattr(sys, "argv", ["kill_and_resume.py", "--kills", "3", "--power_cuts", "--seed", "3"])
  kill_and_resume.main()
  assert "every version is the same bit for bit" in capsys.readouterr().out


def test_where_no_disk_can_be_mounted_the_harness_says_so(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr(kill_and_resume, "DISK_OPTIONS", "no such option")
  monkeypatch.setattr(sys, "argv", ["kill_and_resume.py", "--power_cuts"])
  kill_and_resume.main()
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith("The power cannot be cut: m")
  assert line.endswith("run this as root on a Linux that lets one mount disks.")


def test_a_checkpoint_is_synced_before_it_gets_its_name_and_the_directory_before_older_ones_go(
  tmp_path, state, monkeypatch
):
  events = []

  def seen(name, function):
    def call(path, *arguments, **keywords):
      target = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else path
      events.append((name, pathlib.Path(target).name))
      return function(path, *arguments, **keywords)

    return call

  if not pathlib.Path("/proc/self/fd").exists():
    pytest.skip("which file is synced cannot be seen without /proc")
  for step in range(1, 6):
    checkpoints.save(tmp_path, state, step)
  monkeypatch.setattr(os, "fsync", seen("sync", os.fsync))
  monkeypatch.setattr(pathlib.Path, "replace", seen("rename", pathlib.Path.replace))
  monkeypatch.setattr(pathlib.Path, "unlink", seen("remove", pathlib.Path.unlink))
  checkpoints.save(tmp_path, state, 6)
  assert events == [
    *((what, f"model.ckpt-6.{part}") for part in (DATA, INDEX) for what in ("sync", "rename")),
    ("sync", tmp_path.name),
    *(("remove", f"model.ckpt-1.{part}") for part in (INDEX, DATA)),
  ]


def part(path, suffix):
  return path.with_name(f"{path.name}.{suffix}")


def damaged_index(path):
  part(path, INDEX).write_bytes(b"")


def short_index(path):
  os.truncate(part(path, INDEX), 40)


def short_data(path):
  os.truncate(part(path, DATA), 100)


def empty_data(path):
  part(path, DATA).write_bytes(b"")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("damage", [damaged_index, short_index, short_data, empty_data])
def test_where_no_checkpoint_can_be_read_the_stage_starts_again_and_comes_to_the_same(after, capsys, damage, number):
  following = {"checkpoint_version": 1, "model": None}
  config = change(after({}, following), **following) if number else after({})
  expected = saved_weights(config, number + 1)
  version = Version(config.train_dir, number)
  for step in version.checkpoint_steps():
    damage(version.path / f"model.ckpt-{step}")
  stage, _ = version.read_stage()
  stage.progress.step = 15
  version.write_stage(stage)
  capsys.readouterr()
  with pytest.raises(UserError, match="no training checkpoint of .* can be read"):
    version.load()
  train(change(config, squeeze_model=False))
  start = str(version.model_path) if number else "new weights"
  output = capsys.readouterr().out
  assert f"{version} has no training checkpoint that can be read: the stage starts again from {start}.\n" in output
  train(change(config, overwrite=True))
  assert_same_weights(saved_weights(config, number + 1), expected)
  assert [row["step"] for row in version.rows()] == [0, 5, 10, 15]


def test_unreadable_checkpoints_stay_until_a_new_one_is_saved_and_then_go(tmp_path, state):
  for step in range(10, 60, 10):
    checkpoints.save(tmp_path, state, step)
    damaged_index(tmp_path / f"model.ckpt-{step}")
  before = [variable.numpy() for variable in state.model.variables]
  step, damage = checkpoints.restore_newest(tmp_path, state)
  assert (step, len(damage)) == (0, 5)
  assert_same_weights([variable.numpy() for variable in state.model.variables], before)
  assert len(list(tmp_path.iterdir())) == 10
  checkpoints.save(tmp_path, state, 5)
  assert checkpoints.checkpoint_steps(tmp_path) == [5]
  assert len(list(tmp_path.iterdir())) == 2


def test_checkpoints_of_another_network_do_not_make_a_stage_start_again(tmp_path, state):
  checkpoints.save(tmp_path, TrainingState(MODELS["cnn4"]()), 10)
  with pytest.raises(UserError, match="model.ckpt-10 cannot be read .* belongs to another network"):
    checkpoints.restore_newest(tmp_path, state)


KILLED_AT_THE_FIRST_INDEX = """
import os, signal, sys
import tensorflow as tf
from helpers import build_tiny_network
from cifar10.models import MODELS
MODELS["cnn4"] = build_tiny_network
write = tf.train.Checkpoint.write
def write_and_die(self, path):
  write(self, path)
  os.truncate(path + ".index", int(sys.argv.pop()))
  os.kill(os.getpid(), signal.SIGKILL)
tf.train.Checkpoint.write = write_and_die
from cifar10.cli.train import main
main(["cifar10-train", *sys.argv[1:-1]])
"""


@pytest.mark.parametrize("left", [0, 40])
def test_a_kill_while_the_index_of_the_first_checkpoint_is_written_does_not_block(config, trained_once, left):
  given = ("train_dir", "dataset", "model", "seed", "max_steps", "batch_size", "log_frequency", "learning_rate")
  flags = [f"--{name}={getattr(config, name)}" for name in given]
  killed = subprocess.run(
    [sys.executable, "-c", KILLED_AT_THE_FIRST_INDEX, *flags, "--l1_penalty=0", str(left)],
    env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent.parent)},
    capture_output=True,
    check=False,
  )
  assert killed.returncode == -9, killed.stderr
  version = Version(config.train_dir, 0)
  assert version.checkpoint_steps() == []
  train(config)
  assert not list(version.path.glob(".unfinished.*"))
  assert_same_weights(saved_weights(config), saved_weights(trained_once({})))


def test_rows_that_became_zeros_are_dropped(tmp_path):
  records = metrics.Metrics(tmp_path, 20, 5)
  records.start(0)
  records.add(dict.fromkeys(metrics.COLUMNS, 0), {})
  with open(tmp_path / "metrics.csv", "ab") as file:
    file.write(b"5,1.0,2" + bytes(500))
  assert [row["step"] for row in metrics.read_metrics(tmp_path)] == [0]
