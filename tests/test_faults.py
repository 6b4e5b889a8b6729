"""What happens to a run when something breaks.

| fault | tried | what the program does |
|---|---|---|
| SIGKILL at any moment | twice; 30 times by `scripts/kill_and_resume.py` | goes on; versions are bit for bit the same |
| newest checkpoint truncated, or a bit flipped in it | 6 files | the one before is used, and a line says so |
| all checkpoints damaged | 9 times | the stage starts again, and a line says so; they stay until it is saved |
| power cut | 3 times; again by `kill_and_resume.py --power_cuts` | the newest checkpoint is whole |
| SIGKILL while TensorFlow writes the first index | twice | goes on; versions are bit for bit the same |
| checkpoints of another network | once | one sentence; nothing is written |
| both records of a stage gone | once | one sentence |
| `model.keras` of a trained version damaged and removed | once | the stage before writes it again; training goes on |
| `stage.json` truncated, flipped, emptied, removed | 4 times | `stage.json.old` is used, and a line says so |
| `stage.json` and its backup damaged | once, and mutated by hypothesis | one sentence |
| `model.keras` truncated, or a bit flipped anywhere | 22 places | one sentence |
| `stage.json` with other values and a true checksum | 12 fields, 12 values | used, or one sentence |
| `metrics.csv`, `gammas.npz` damaged | mutated by hypothesis | one sentence |
| records and networks that are devices, pipes or huge sparse files | 18 (`test_records.py`) | one sentence |
| records, gammas and reports of other values | 38 (`test_records.py`) | one sentence, or used |
| images that are devices, pipes, or have too many bytes or pixels | 13 (`test_image_size.py`) | one sentence |
| TF_CONFIG of other values, with ports or names that cannot be | 39 (`test_tf_config.py`) | one sentence |
| workers that do not come | once (`test_tf_config.py`) | each minute a line names them |
| networks of the right shapes with a strange inside | 14 (`test_strange_networks.py`) | one sentence, or used |
| `--help` for a reader who stops, or a full device; no stderr | 11 (`test_outputs.py`) | no traceback |
| values and paths with line breaks and escapes | 21 (`test_outputs.py`) | a message of one line |
| `--data_dir` in the home of an unknown user | once | one sentence |
| data file truncated, or with a wrong label | mutated by hypothesis | one sentence; never other images |
| disk full while saving or squeezing | once each, on a small tmpfs | one sentence; goes on when there is room |
| directory that cannot be written, disk that becomes read-only | once each | one sentence |
| console closed or full | twice | saved; one sentence; no row of `metrics.csv` is lost |
| terminal closed (SIGHUP) | once (`test_signals.py`) | saved and ended |
| signals that were ignored when it started | 3 signals (`test_signals.py`) | stay ignored |
| next version trained or replaced while its stage ends | 4 times (`test_hand_over.py`) | one sentence; it stays |
| stage made longer, with files in the next version | once | they stay; records of another network count no more |
| evaluation that outlives its network | twice | one sentence; no record is written |
| `--train_dir` with `[`, `*`, `?` or a backslash | once each | trained, resumed and evaluated |
| `gammas.npz` of other layers or widths | once each | dropped, and a line says so |
| directory vanishes, or is replaced, during training | once each | one sentence; nothing is saved elsewhere |
| stage trained in many runs | 8 | the newest five checkpoints stay |
| `--eval_dir` is a file | once | one sentence; no record is written |
| a file where a directory should be | 3 places | one sentence |
| clock that jumps back | once | the same weights |
| a second trainer in the directory or the next, or at once | once each | refused while the first lives |
| an evaluator beside a trainer | some hundred times during 200 saves | always finds a whole checkpoint |
| `model.keras` with a Lambda layer or an unknown class | once each | refused, nothing runs |
| a pickle in place of a checkpoint or a network | once each | passed over or refused, nothing runs |
| SIGTERM with `--log_frequency 100000` | once | saved and ended |
| 2,000 steps | once (slow) | memory and open files stay flat |
| flags that disagree with the stage | every flag (`test_train.py`) | refused, or changed with a notice |
| flags out of their range, text, NaN | 10 values of each number (`test_cli.py`) | one sentence with the range |
| download with names that reach outside | 3 names (`test_input_pipeline.py`) | one sentence; nothing is written there |
"""

import contextlib
import itertools
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile

import kill_and_resume
import numpy as np
import pytest
from helpers import TRAIN_TINY, assert_same_weights, change, cut, saved_weights, version, write_record
from hypothesis import given
from hypothesis import strategies as st

from cifar10 import input_pipeline
from cifar10.cli import command
from cifar10.config import EvalConfig
from cifar10.datasets import binary_files
from cifar10.errors import UserError
from cifar10.evaluate import evaluate
from cifar10.train import train
from cifar10.training import hand_over
from cifar10.training.recorder import Recorder
from cifar10.training.trainer import Trainer
from cifar10.version import checkpoints, metrics
from cifar10.version.directory import Version
from cifar10.version.stage import Progress, read_stage


def assert_one_sentence(config, pattern):
  """Asserts that training ends with one sentence, as the command shows it, and exit code 1."""
  with pytest.raises(UserError, match=pattern) as caught:
    train(config)
  message = str(caught.value)
  assert message.endswith(".")
  assert "\n" not in message


@pytest.fixture
def interrupted(after, trained_once):
  """A stage of 30 steps, with checkpoints at 10 and 20, and the weights that it comes to."""
  config = after(*({"max_steps": steps, "squeeze_model": False} for steps in (10, 20)))
  return change(config, max_steps=30), saved_weights(trained_once({"max_steps": 30}))


def flip(path, place):
  """Flips a bit at a place, a share of the file's length."""
  content = bytearray(path.read_bytes())
  content[int(place * len(content))] ^= 0x10
  path.write_bytes(content)


# Killed.


@pytest.mark.parametrize("network", [pytest.param("resnet20", marks=pytest.mark.slow), "tiny"])
def test_killed_and_restarted_every_version_is_the_same(monkeypatch, capsys, network):
  if network == "tiny":
    command = kill_and_resume.command
    monkeypatch.setattr(kill_and_resume, "command", lambda *stage: [*TRAIN_TINY, *command(*stage)[3:]])
  monkeypatch.setattr(sys, "argv", ["kill_and_resume.py", "--kills", "2", "--seed", "3"])
  kill_and_resume.main()
  assert "every version is the same bit for bit" in capsys.readouterr().out


# Damaged files.


@pytest.mark.parametrize(
  ("suffix", "damage"),
  [
    ("data-00000-of-00001", cut),
    ("index", cut),
    ("index", lambda path: path.write_bytes(b"")),
    *(("data-00000-of-00001", lambda path, place=place: flip(path, place)) for place in (0.1, 0.5, 0.99)),
  ],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(interrupted, capsys, suffix, damage):
  config, expected = interrupted
  damage(version(config).path / f"model.ckpt-20.{suffix}")
  capsys.readouterr()
  _, step, damage = version(config).load()
  assert step == 10
  assert damage == [f"{version(config).path / 'model.ckpt-20'} is damaged; looking for an older one."]
  train(config)
  output = capsys.readouterr().out
  assert output.count("model.ckpt-20 is damaged; looking for an older one.") == 1
  assert "resumed at step 10." in output
  assert_same_weights(saved_weights(config), expected)


def test_with_all_checkpoints_damaged_they_stay_until_the_stage_that_starts_again_is_saved(interrupted, monkeypatch):
  config, expected = interrupted
  for path in version(config).path.glob("*.index"):
    path.write_bytes(b"junk")
  before = {path: path.read_bytes() for path in version(config).path.glob("model.ckpt-*")}
  with monkeypatch.context() as patch:
    patch.setattr(Trainer, "train", lambda trainer, count: {}[count])  # A run that ends before it saves.
    with pytest.raises(KeyError):
      train(config)
  assert {path: path.read_bytes() for path in version(config).path.glob("model.ckpt-*")} == before
  train(config)
  assert_same_weights(saved_weights(config), expected)


@pytest.mark.parametrize(
  "damage", [cut, lambda path: flip(path, 0.3), lambda path: path.write_bytes(b""), pathlib.Path.unlink]
)
def test_a_damaged_record_of_the_stage_is_replaced_by_the_one_before(interrupted, capsys, damage):
  config, expected = interrupted
  damage(version(config).path / "stage.json")
  train(config)
  assert "stage.json is damaged;" in capsys.readouterr().out
  assert_same_weights(saved_weights(config), expected)


def test_without_a_good_record_of_the_stage_nothing_starts_anew(interrupted):
  config, _ = interrupted
  for name in ("stage.json", "stage.json.old"):
    cut(version(config).path / name)
  assert_one_sentence(config, "stage.json is damaged: it does not match its checksum")
  assert version(config).checkpoint_steps() == [10, 20]


def test_a_network_with_any_bit_flipped_is_refused(tmp_path, tiny_network):
  path = tmp_path / "run_1" / "model.keras"
  path.parent.mkdir()
  tiny_network.save(path)
  whole = path.read_bytes()
  expected = tiny_network.get_weights()
  refused = 0
  for place in np.linspace(0, 1, 22, endpoint=False):
    path.write_bytes(whole)
    flip(path, place)
    try:
      assert_same_weights(Version(tmp_path / "run", 1).network().get_weights(), expected)
    except UserError:
      refused += 1
  assert refused > 18  # Some bits, like those of dates, mean nothing.
  path.write_bytes(whole[:-30])
  with pytest.raises(UserError, match="model.keras cannot be loaded"):
    Version(tmp_path / "run", 1).network()


@given(st.data())
def test_a_mutated_record_of_the_stage_is_refused_or_the_same(tmp_path_factory, data):
  directory = tmp_path_factory.mktemp("stage")
  flags = {"model": "cnn4", "dataset": "synthetic", "batch_size": 8, "weight_decay": 0.0, "seed": 3}
  stage = {"flags": flags, "progress": {"step": 5, "seconds": 0.5}, "finished": None}
  write_record(directory / "stage.json", stage)
  content = mutated(data, (directory / "stage.json").read_bytes())
  if data.draw(st.booleans()):
    digit = data.draw(st.sampled_from([place for place, byte in enumerate(content) if chr(byte).isdigit()] or [None]))
    content = content if digit is None else content[:digit] + b"7" + content[digit + 1 :]
  (directory / "stage.json").write_bytes(content)
  with contextlib.suppress(UserError):
    read, _ = read_stage(directory)
    assert {name: getattr(read.flags, name) for name in flags} == flags
    assert (read.progress, read.finished) == (Progress(5, 0.5), None)


FIELDS = (
  *("progress", "progress.step", "progress.seconds", "flags", "flags.model", "flags.seed", "flags.batch_size"),
  *("flags.weight_decay", "flags.max_steps", "finished", "finished.step", "penalties"),
)
JUNK = (None, "", "x", -1, 1.5, 1e308, float("nan"), [], [1], {}, {"step": "x"}, True)


def test_a_record_of_the_stage_with_other_values_is_used_or_refused(finished):
  good = (version(finished).path / "stage.json").read_text()
  for field, junk in itertools.product(FIELDS, JUNK):
    *outer, name = field.split(".")
    stage = json.loads(good)
    (stage[outer[0]] if outer else stage)[name] = junk
    del stage["sha256"]
    for path in ("stage.json", "stage.json.old"):
      write_record(version(finished).path / path, stage)
    with contextlib.suppress(UserError):
      train(finished)


@given(st.data())
def test_mutated_records_are_refused_or_rows(tmp_path_factory, data):
  directory = tmp_path_factory.mktemp("records")
  records = metrics.Metrics(directory, 20, 5)
  records.start(0)
  for step in (0, 5, 10):
    records.add(dict.fromkeys(metrics.COLUMNS, step), {"bn/gamma": np.ones(4, np.float32)})
  records.save()
  for name in ("metrics.csv", "gammas.npz"):
    (directory / name).write_bytes(mutated(data, (directory / name).read_bytes()))
  with contextlib.suppress(UserError):
    assert all(row.keys() == set(metrics.COLUMNS) for row in metrics.read_metrics(directory))
  with contextlib.suppress(UserError):
    assert all(isinstance(gammas, dict) for gammas in metrics.read_gammas(directory).values())


@given(st.data())
def test_mutated_data_is_refused_or_other_pixels(tmp_path_factory, monkeypatch_module, data):
  directory = tmp_path_factory.mktemp("data")
  (directory / "cifar-10-batches-bin").mkdir()
  records = np.zeros((20, 3073), np.uint8)
  records[data.draw(st.integers(0, 19)), 0] = data.draw(st.integers(0, 20))
  content = mutated(data, records.tobytes())
  (directory / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(content)
  with contextlib.suppress(UserError):
    examples = input_pipeline.load("cifar10", "test", str(directory))
    assert examples.images.shape == (20, 32, 32, 3)
    assert examples.labels.max() < 10
    assert len(content) == 20 * 3073


@pytest.fixture(scope="module")
def monkeypatch_module():
  """Data files of 20 images."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(binary_files, "RECORDS_PER_FILE", 20)
    yield patch


def mutated(data, content):
  """Content with bytes replaced, removed and put in."""
  content = bytearray(content)
  for _ in range(data.draw(st.integers(0, 4))):
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(start + 40, len(content))))
    content[start:stop] = data.draw(st.binary(max_size=stop - start if data.draw(st.booleans()) else 40))
  return bytes(content)


# Disks and directories.


@pytest.fixture
def small_disk(tmp_path):
  """A function: a disk of so many bytes."""
  mounted = []

  def mount(size):
    directory = tmp_path / f"disk{len(mounted)}"
    directory.mkdir()
    arguments = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(arguments, capture_output=True, check=False).returncode:
      pytest.skip("may not mount a tmpfs")
    mounted.append(directory)
    return directory

  yield mount
  for directory in mounted:
    subprocess.run(["umount", "-l", str(directory)], check=True)


def moved(config, disk):
  """The settings of a stage on another disk, where a copy of its directory is."""
  shutil.copytree(version(config).path, disk / "run_0")
  return change(config, train_dir=str(disk / "run"))


def fill(disk, left):
  """Leaves so many bytes of a disk; returns the file that takes the rest."""
  usage = shutil.disk_usage(disk)
  (disk / "filler").write_bytes(bytes(max(0, usage.free - left)))
  return disk / "filler"


def test_a_full_disk_while_saving_leaves_the_checkpoint_before(interrupted, small_disk):
  config, expected = interrupted
  disk = small_disk("4m")
  config = moved(config, disk)
  filler = fill(disk, 8192)
  assert_one_sentence(config, "cannot be (saved|written)")
  assert version(config).checkpoint_steps() == [10, 20]
  assert not list(version(config).path.glob("*temp*")) + list(version(config).path.glob(".unfinished.*"))
  filler.unlink()
  train(config)
  assert_same_weights(saved_weights(config), expected)


def test_a_full_disk_while_squeezing_leaves_no_half_version(interrupted, small_disk):
  config, expected = interrupted
  train(change(config, squeeze_model=False))
  disk = small_disk("4m")
  config = moved(config, disk)
  filler = fill(disk, 16384)
  assert_one_sentence(config, "cannot be (saved|written)")
  assert not version(config, 1).path.exists()
  assert not list(disk.glob(".unfinished.*"))
  filler.unlink()
  train(config)
  assert_same_weights(saved_weights(config), expected)


def test_a_directory_that_cannot_be_written_is_one_sentence(config, capsys):
  config = change(config, train_dir="/proc/run")  # Not even root writes there.
  assert command.run("cifar10-train", train, config) == 1
  error = capsys.readouterr().err
  assert "/proc/run_0" in error
  assert len(error.splitlines()) == 1


def test_a_disk_that_becomes_read_only_is_one_sentence(interrupted, small_disk, capsys):
  config, expected = interrupted
  disk = small_disk("4m")
  config = moved(config, disk)
  subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
  assert command.run("cifar10-train", train, config) == 1
  error = capsys.readouterr().err
  assert str(disk) in error
  assert len(error.splitlines()) == 1
  subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
  train(config)
  assert_same_weights(saved_weights(config), expected)


def test_a_console_that_is_gone_saves_and_ends(config, monkeypatch):
  with open("/dev/full", "w") as full, monkeypatch.context() as patch:
    log = Recorder._log

    def log_to_full(run, *figures):
      if run.trainer.step > 10:
        patch.setattr(sys, "stdout", full)
      log(run, *figures)

    patch.setattr(Recorder, "_log", log_to_full)
    assert_one_sentence(change(config, save_interval_secs=1e6), "step 11 is saved: run again")
    with contextlib.suppress(OSError):
      full.close()
  assert version(config).checkpoint_steps() == [11]


def test_a_directory_that_vanishes_is_one_sentence(config, capsys, monkeypatch):
  def vanish(run, *_):
    if run.trainer.step >= 10:
      shutil.rmtree(version(config).path, ignore_errors=True)

  monkeypatch.setattr(Recorder, "_log", vanish)
  assert command.run("cifar10-train", train, config) == 1
  error = capsys.readouterr().err
  assert "run_0" in error
  assert len(error.splitlines()) == 1
  assert not version(config, 1).path.exists()


@pytest.mark.parametrize("place", ["run_0", "run_1", ""])
def test_a_file_in_place_of_a_directory_is_one_sentence(config, tmp_path, capsys, place):
  path = tmp_path / place if place else tmp_path / "file"
  path.write_text("mine")
  config = config if place else change(config, train_dir=str(path / "run"))
  assert command.run("cifar10-train", train, config) == 1
  error = capsys.readouterr().err
  assert str(path) in error
  assert "is a file; expected" in error or not place
  assert len(error.splitlines()) == 1
  assert path.read_text() == "mine"


def test_an_eval_dir_that_is_a_file_is_one_sentence(finished, tmp_path, capsys):
  (tmp_path / "file").write_text("mine")
  settings = EvalConfig(
    checkpoint_dir=finished.train_dir, dataset="synthetic", num_examples=100, eval_dir=str(tmp_path / "file")
  )
  assert command.run("cifar10-eval", evaluate, settings) == 1
  assert f"--eval_dir {tmp_path / 'file'} cannot be written" in capsys.readouterr().err
  assert not (version(finished, 1).path / "evaluations.jsonl").exists()


def test_a_record_of_an_evaluation_that_was_cut_stays_a_line_of_its_own(finished):
  path = version(finished, 1).path / "evaluations.jsonl"
  path.write_text('{"eval_data": "te')
  evaluate(EvalConfig(checkpoint_dir=finished.train_dir, dataset="synthetic", num_examples=100))
  cut_line, line = path.read_text().splitlines()
  assert (cut_line, json.loads(line)["examples"]) == ('{"eval_data": "te', 100)


def test_a_clock_that_jumps_back_changes_nothing(config, interrupted, monkeypatch):
  _, expected = interrupted
  now = [2e9]

  def earlier():
    now[0] -= 1000
    return now[0]

  monkeypatch.setattr(time, "time", earlier)
  again = change(config, train_dir=config.train_dir + "_again", save_interval_secs=1e-9)
  for steps in (15, 30):
    train(change(again, max_steps=steps))
  assert_same_weights(saved_weights(again), expected)
  assert len(version(again).checkpoint_steps()) == checkpoints.KEPT_CHECKPOINTS


# Two at once.


def test_a_second_trainer_is_refused_while_the_first_lives(config):
  holder = (
    "import time; from cifar10.version.directory import Version\n"
    f"with Version({config.train_dir!r}, 0).locked(): print('locked', flush=True); time.sleep(300)"
  )
  with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
    try:
      assert process.stdout.readline() == b"locked\n"
      assert_one_sentence(config, "run_0 is in use by another process")
    finally:
      process.kill()
  train(config)


def test_a_stage_does_not_replace_a_version_that_another_process_trains(finished):
  with version(finished, 1).locked():
    assert_one_sentence(change(finished, max_steps=30, overwrite=True), "run_1 is in use by another process")
  assert version(finished).checkpoint_steps() == [20]


def test_a_trainer_whose_directory_was_replaced_by_another_s_saves_nothing_there(config, monkeypatch):
  other = change(config, train_dir=config.train_dir + "_other", seed=4, max_steps=10, squeeze_model=False)
  train(other)

  def replace(run, *_):
    if run.trainer.step == 11:
      shutil.rmtree(version(config).path)
      shutil.copytree(version(other).path, version(config).path)

  monkeypatch.setattr(Recorder, "_log", replace)
  assert_one_sentence(config, "run_0 has vanished or was replaced")
  assert version(config).checkpoint_steps() == [10]
  assert version(config).read_stage()[0].flags.seed == 4


def test_over_many_restarts_the_newest_five_checkpoints_stay(config):
  for steps in range(2, 18, 2):
    train(change(config, max_steps=steps, squeeze_model=False))
  assert version(config).checkpoint_steps() == [8, 10, 12, 14, 16]


@pytest.fixture
def following(after):
  """The settings of the stage after a finished one, 10 steps of which are trained."""
  settings = {"checkpoint_version": 1, "model": None}
  return change(after({}, {**settings, "max_steps": 10, "squeeze_model": False}), **settings)


def test_a_network_that_a_trained_version_has_lost_is_written_again(config, following, capsys):
  before = saved_weights(config)
  path = version(config, 1).path / "model.keras"
  cut(path)
  assert_one_sentence(following, "model.keras cannot be loaded.*remove it, and train the version before it again")
  path.unlink()
  assert_one_sentence(following, "model.keras does not exist: train --checkpoint_version 0")
  train(config)
  assert_same_weights(saved_weights(config), before)
  train(following)
  assert "resumed at step 10." in capsys.readouterr().out


def test_without_any_record_of_the_stage_nothing_starts_anew(following):
  for name in ("stage.json", "stage.json.old"):
    (version(following, 1).path / name).unlink(missing_ok=True)
  assert_one_sentence(following, "stage.json is gone, but training checkpoints are there")


def test_a_version_that_comes_to_be_trained_meanwhile_is_not_replaced(finished, monkeypatch):
  before = (version(finished, 1).path / "model.keras").read_bytes()
  squeeze = hand_over.squeeze
  with contextlib.ExitStack() as stack:

    def squeeze_late(*arguments, **keywords):
      stack.enter_context(version(finished, 1).locked())
      return squeeze(*arguments, **keywords)

    monkeypatch.setattr(hand_over, "squeeze", squeeze_late)
    assert_one_sentence(change(finished, max_steps=30), "run_1 is in use by another process")
  assert (version(finished, 1).path / "model.keras").read_bytes() == before
  assert version(finished).checkpoint_steps() == [20, 30]


def test_a_lock_leaves_nothing_behind(tmp_path):
  with Version(tmp_path / "a" / "b", 0).locked():
    assert (tmp_path / "a" / "b_0").is_dir()
  assert not list(tmp_path.iterdir())


def test_an_evaluator_beside_a_trainer_always_finds_a_whole_checkpoint(config):
  train(change(config, max_steps=1, squeeze_model=False))
  done, steps, errors = threading.Event(), [], []

  def evaluate():
    while not done.is_set():
      try:
        network, step, _ = version(config).load()
        assert all(np.isfinite(array).all() for array in network.get_weights())
        steps.append(step)
      except BaseException as error:
        errors.append(error)

  evaluator = threading.Thread(target=evaluate)
  evaluator.start()
  train(change(config, max_steps=200, squeeze_model=False, save_interval_secs=1e-9, log_frequency=1))
  done.set()
  evaluator.join()
  assert not errors
  assert steps == sorted(steps)
  assert len(set(steps)) > 10


# Hostile files.


class Runs:
  """Unpickled, it writes a file."""

  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return pathlib.Path.write_text, (self.marker, "ran")


def test_a_pickle_in_place_of_a_checkpoint_or_a_network_does_not_run(interrupted, tmp_path):
  config, expected = interrupted
  marker = tmp_path / "ran"
  content = pickle.dumps(Runs(marker))
  for path in version(config).path.glob("model.ckpt-*"):
    path.write_bytes(content)
  train(config)
  assert_same_weights(saved_weights(config), expected)
  (version(config).path / "model.keras").write_bytes(content)
  assert_one_sentence(config, "model.keras cannot be loaded")
  assert not marker.exists()


def test_a_network_without_gammas_is_one_sentence(finished, tiny_network):
  for layer in tiny_network.layers:
    layer.trainable = False
  tiny_network.save(version(finished, 1).path / "model.keras")
  assert_one_sentence(change(finished, checkpoint_version=1), "has no batch norm whose gammas could shut a channel")


def test_a_network_of_unknown_classes_is_refused(tmp_path, tiny_network):
  path = tmp_path / "run_1" / "model.keras"
  path.parent.mkdir()
  tiny_network.save(path)
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  members["config.json"] = (
    members["config.json"].replace(b'"ReLU"', b'"Popen"').replace(b'"keras.layers"', b'"subprocess"')
  )
  with zipfile.ZipFile(path, "w") as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  with pytest.raises(UserError, match="model.keras cannot be loaded"):
    Version(tmp_path / "run", 1).network()


# Signals, memory.


@pytest.mark.usefixtures("default_signals")
def test_a_signal_between_far_apart_log_lines_saves_and_ends(tmp_path):
  flags = ["--dataset=synthetic", "--seed=1", "--batch_size=16", "--log_frequency=100000"]
  command = [*TRAIN_TINY, f"--train_dir={tmp_path / 'run'}", *flags]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  with process:
    try:
      for line in process.stdout:
        if ": step 0," in line:
          break
      time.sleep(2)
      process.send_signal(signal.SIGTERM)
      _, error = process.communicate(timeout=120)
    finally:
      process.kill()
  assert process.returncode == 128 + signal.SIGTERM
  assert "is saved in" in error.splitlines()[-1]
  (step,) = version(tmp_path / "run").checkpoint_steps()
  assert step > 1


@pytest.mark.slow
def test_memory_and_open_files_stay_flat_over_2000_steps(config, monkeypatch):
  seen, log = [], Recorder._log

  def look(run, *figures):
    log(run, *figures)
    status = pathlib.Path("/proc/self/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0])
    seen.append((run.trainer.step, resident, len(os.listdir("/proc/self/fd"))))
    print(f"step {run.trainer.step}: {resident / 1024:.0f} MiB resident, {seen[-1][2]} files open")

  monkeypatch.setattr(Recorder, "_log", look)
  train(change(config, max_steps=2400, log_frequency=100, save_interval_secs=1.0, squeeze_model=False))
  settled = [entry for entry in seen if entry[0] >= 400]
  assert len(settled) >= 20
  assert settled[-1][1] < settled[0][1] * 1.02
  assert settled[-1][2] <= settled[0][2]
