"""What the end of a stage leaves in the next version, and what it does not touch."""

import contextlib
import json
import shutil

import numpy as np
import pytest
from helpers import assert_same_weights, change, saved_weights

from cifar10 import evaluate as evaluation
from cifar10.config import EvalConfig
from cifar10.errors import UserError
from cifar10.evaluate import evaluate
from cifar10.train import train
from cifar10.training import hand_over
from cifar10.training.recorder import Recorder
from cifar10.version.directory import Version
from cifar10.version.evaluations import newest_evaluation, read_evaluations
from cifar10.version.exports import read_exports, write_exports


@pytest.fixture
def eval_config(config, tmp_path):
  return EvalConfig(
    checkpoint_dir=config.train_dir, dataset="synthetic", num_examples=100, eval_dir=str(tmp_path / "eval")
  )


def contents(directory):
  return {path.name: path.read_bytes() for path in directory.iterdir()}


def before_the_squeeze(monkeypatch, function):
  """Has a function called when a stage is trained and its next version not yet locked."""
  squeeze = hand_over.squeeze

  def squeeze_later(*arguments, **keywords):
    monkeypatch.setattr(hand_over, "squeeze", squeeze)
    function()
    return squeeze(*arguments, **keywords)

  monkeypatch.setattr(hand_over, "squeeze", squeeze_later)


def test_a_next_version_that_gets_progress_meanwhile_is_not_replaced(finished, monkeypatch):
  config = finished
  following = Version(config.train_dir, 1)
  before_the_squeeze(monkeypatch, lambda: train(change(config, checkpoint_version=1, squeeze_model=False)))
  network = following.model_path.read_bytes()
  with pytest.raises(UserError, match="run_1 came to training progress meanwhile.* trained and saved: pass --overwri"):
    train(change(config, max_steps=30))
  assert following.model_path.read_bytes() == network
  assert following.load().step == 20
  assert Version(config.train_dir, 0).checkpoint_steps() == [20, 30]
  with pytest.raises(UserError, match="run_1 has training progress.*--overwrite"):
    train(change(config, max_steps=30))
  train(change(config, max_steps=30, overwrite=True))
  assert list(contents(following.path)) == ["model.keras"]


@pytest.mark.parametrize("first", [True, False])
def test_a_next_version_that_another_stage_writes_meanwhile_is_not_replaced(
  config, after, trained_once, monkeypatch, first
):
  other = Version(trained_once({"seed": 4}), 1)
  if not first:
    after({})
  following = Version(config.train_dir, 1)

  def put():
    shutil.rmtree(following.path, ignore_errors=True)
    shutil.copytree(other.path, following.path)

  before_the_squeeze(monkeypatch, put)
  with pytest.raises(UserError, match="run_1 came to another network meanwhile"):
    train(change(config, max_steps=30))
  assert contents(following.path) == contents(other.path)


def test_a_next_version_whose_checkpoints_are_gone_but_not_its_record_is_not_replaced(after):
  config = after({}, {"checkpoint_version": 1})
  following = Version(config.train_dir, 1)
  for path in following.path.glob("model.ckpt-*"):
    path.unlink()
  before = contents(following.path)
  with pytest.raises(UserError, match="run_1 has training progress.*--overwrite"):
    train(change(config, max_steps=30))
  assert contents(following.path) == before


def test_a_stage_that_goes_on_leaves_all_but_the_network_in_the_next_version(finished, eval_config, capsys):
  config = finished
  following = Version(config.train_dir, 1)
  evaluate(eval_config)
  write_exports(following.path, {"network": following.network_checksum(), "exports": [{"format": "onnx"}]})
  (following.path / "export").mkdir()
  (following.path / "my notes.txt").write_text("mine")
  line = json.loads((following.path / "evaluations.jsonl").read_text())
  line.pop("network")  # As records were written before they named a network.
  with open(following.path / "evaluations.jsonl", "a") as file:
    file.write(json.dumps(line) + "\n")
  assert len(read_evaluations(following.path)[0]) == 2
  before = contents_of_files(following.path)
  capsys.readouterr()
  train(change(config, max_steps=30))
  after = contents_of_files(following.path)
  assert (
    f"{following} keeps evaluations.jsonl, export, export.json, my notes.txt, predictions.npz; "
    in capsys.readouterr().out
  )
  assert (after["my notes.txt"], after["export.json"]) == (b"mine", before["export.json"])
  assert len(after["evaluations.jsonl"].splitlines()) == 2
  assert (following.path / "export").is_dir()
  assert read_evaluations(following.path) == ([], 0)
  assert newest_evaluation(following.train_dir, 1) is None
  assert read_exports(following.path) == []
  evaluate(eval_config)
  assert newest_evaluation(following.train_dir, 1)["checkpoint_iter"] == 0
  train(change(config, max_steps=40, overwrite=True))
  assert list(contents(following.path)) == ["model.keras"]


def contents_of_files(directory):
  return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_the_records_of_a_network_count_again_when_it_is_written_again(finished, eval_config):
  config = finished
  following = Version(config.train_dir, 1)
  evaluate(eval_config)
  train(change(config, checkpoint_version=1, squeeze_model=False))
  following.model_path.unlink()
  assert newest_evaluation(following.train_dir, 1) is not None
  train(config)
  assert newest_evaluation(following.train_dir, 1) is not None


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_evaluation_that_outlives_its_network_records_nothing(
  finished, eval_config, monkeypatch, tmp_path, overwrite
):
  config = finished
  measure = evaluation.measure

  def measure_long(*arguments):
    train(change(config, max_steps=30, overwrite=overwrite))
    return measure(*arguments)

  monkeypatch.setattr(evaluation, "measure", measure_long)
  with pytest.raises(UserError, match="was replaced"):
    evaluate(eval_config)
  assert list(contents(Version(config.train_dir, 1).path)) == ["model.keras"]
  assert not (tmp_path / "eval").exists()


@pytest.mark.parametrize("name", ["a[b]", "*", "what?", "a\\b"])
def test_a_train_dir_that_looks_like_a_pattern_is_trained_resumed_and_evaluated(
  config, eval_config, tmp_path, trained_once, name
):
  pattern = change(config, train_dir=str(tmp_path / name))
  train(change(pattern, max_steps=10, squeeze_model=False))
  train(pattern)
  assert_same_weights(saved_weights(pattern), saved_weights(trained_once({})))
  evaluate(change(eval_config, checkpoint_dir=pattern.train_dir, checkpoint_version=0))


def test_a_console_that_goes_away_loses_no_row(config, monkeypatch):
  log = Recorder._log

  def log_to_full(recorder, *figures):
    with open("/dev/full", "w") as full, contextlib.suppress(OSError), monkeypatch.context() as patch:
      if recorder.trainer.step > 10:
        patch.setattr("sys.stdout", full)
      failure = None
      try:
        log(recorder, *figures)
      except OSError as error:
        failure = error
    if failure:
      raise failure

  monkeypatch.setattr(Recorder, "_log", log_to_full)
  with pytest.raises(UserError, match="the console .* cannot be written .*; step 11 is saved"):
    train(config)
  monkeypatch.setattr(Recorder, "_log", log)
  train(config)
  assert [row["step"] for row in Version(config.train_dir, 0).rows()] == [0, 5, 10, 15]


def test_the_gammas_of_other_layers_are_dropped_with_a_line(config, capsys):
  train(change(config, max_steps=10, squeeze_model=False))
  path = Version(config.train_dir, 0).path / "gammas.npz"
  for arrays in ({"other/gamma": np.ones((2, 4), "float32")}, {"conv1_bn/gamma": np.ones((2, 7), "float32")}):
    with open(path, "wb") as file:
      np.savez(file, step=np.array([0, 5]), **arrays)
    capsys.readouterr()
    train(change(config, max_steps=config.max_steps + 10, squeeze_model=False))
    assert f"{path} holds the gammas of other layers; they are dropped.\n" in capsys.readouterr().out
    config = change(config, max_steps=config.max_steps + 10)


def test_who_is_refused_does_not_remove_the_directory_that_another_has_locked(tmp_path, monkeypatch):
  version = Version(tmp_path / "run", 0)
  with version.locked():
    # As if both had found no directory.
    monkeypatch.setattr(type(version.path), "exists", lambda path: path != version.path)
    with pytest.raises(UserError, match="run_0 is in use"), version.locked():
      pass
    monkeypatch.undo()
    assert version.path.is_dir()
