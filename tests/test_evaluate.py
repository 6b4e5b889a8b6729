import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import change, directory, version

from cifar10 import input_pipeline
from cifar10.config import EvalConfig
from cifar10.datasets.examples import Examples
from cifar10.errors import UserError
from cifar10.evaluate import evaluate, precision_and_loss
from cifar10.training_state import TrainingState, averaged_model
from cifar10.version import checkpoints
from cifar10.version.directory import Version

pytestmark = pytest.mark.usefixtures("tiny_world")


@pytest.fixture
def config(tmp_path, trained_once):
  """The settings to evaluate version 1, of which checkpoints 10 and 20 stand in its directory."""
  second = {"checkpoint_version": 1, "squeeze_model": False}
  train_dir = trained_once({"max_steps": 10}, {**second, "max_steps": 10}, {**second, "max_steps": 20})
  shutil.copytree(train_dir.parent, tmp_path, dirs_exist_ok=True)
  return EvalConfig(
    checkpoint_dir=str(tmp_path / "run"),
    checkpoint_version=1,
    dataset="synthetic",
    num_examples=300,
    eval_dir=str(tmp_path / "eval"),
  )


def records(config):
  path = directory(config.checkpoint_dir, config.checkpoint_version) / "evaluations.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def reference_figures(model, examples):
  logits = model(input_pipeline.standardize(examples.images)).numpy().astype(float)
  shifted = logits - logits.max(axis=1, keepdims=True)
  log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
  loss = -log_softmax[np.arange(len(logits)), examples.labels].mean()
  return (logits.argmax(axis=1) == examples.labels).mean(), loss


@pytest.mark.parametrize("batch_size", [1, 7, 32, 100, 1000])
def test_each_example_counts_once_whatever_the_batch_size(tiny_network, synthetic, batch_size):
  examples = Examples(*(array[:100] for array in synthetic["test"]))
  precision, loss = precision_and_loss(tiny_network, examples, batch_size)
  expected_precision, expected_loss = reference_figures(tiny_network, examples)
  assert precision == pytest.approx(expected_precision)
  assert loss == pytest.approx(expected_loss, rel=1e-5)


def test_output_is_the_reference_s_to_the_character(config, capsys):
  evaluate(config)
  *_, params, precision, loss = capsys.readouterr().out.splitlines()
  stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}"
  assert re.fullmatch(r"total params: \d+", params)
  assert re.fullmatch(stamp + r": precision @ 1 = \d\.\d{4}", precision)
  assert re.fullmatch(stamp + r": test loss = \d+\.\d{4}", loss)


def test_an_evaluation_is_recorded(config, tiny_network, synthetic, tmp_path):
  evaluate(config)
  (record,) = records(config)
  assert record.pop("time")
  model, step = version(config.checkpoint_dir, 1).network(), 20
  state = TrainingState(model)
  checkpoints.restore(directory(config.checkpoint_dir, 1), state, step)
  examples = Examples(*(array[:300] for array in synthetic["test"]))
  network = averaged_model(state)
  precision, loss = reference_figures(network, examples)
  probabilities = tf.nn.softmax(network(input_pipeline.standardize(examples.images))).numpy()
  classes = probabilities.argmax(axis=1)
  assert record == {
    "checkpoint_version": 1,
    "checkpoint_iter": 20,
    "dataset": "synthetic",
    "eval_data": "test",
    "examples": 300,
    "precision": pytest.approx(precision),
    "loss": pytest.approx(loss, rel=1e-5),
    "parameters": tiny_network.count_params(),
    "multiply_adds": 8 * 8 * 25 * 3 * 4 + 64 * 4 * 10,
    "confusion": tf.math.confusion_matrix(examples.labels, classes, 10).numpy().tolist(),
    "network": version(config.checkpoint_dir, 1).network_checksum(),
  }
  events = [
    event
    for path in (tmp_path / "eval" / "run_1").iterdir()
    for event in tf.compat.v1.train.summary_iterator(str(path))
  ]
  assert {value.tag for event in events for value in event.summary.value} == {"precision", "cross_entropy"}


def test_predictions_of_a_version_are_recorded_with_their_images(config, synthetic):
  evaluate(change(config, eval_data="train_eval", checkpoint_iter=0))
  evaluate(config)  # Of a training checkpoint, which does not stand for version 1.
  ours = version(config.checkpoint_dir, 1)
  assert ours.predictions() is None
  evaluate(change(config, checkpoint_iter=0))
  predictions = ours.predictions()
  assert predictions.evaluation == records(config)[-1]["time"]
  images, labels = (array[:300] for array in synthetic["test"])
  probabilities = tf.nn.softmax(ours.network()(input_pipeline.standardize(images))).numpy()
  classes, surest = probabilities.argmax(axis=1), probabilities.max(axis=1)
  wrong = [at for at in np.argsort(-surest) if classes[at] != labels[at]][:6]
  chosen = [*range(10), *wrong]  # The classes of the synthetic data take turns.
  np.testing.assert_array_equal(predictions.images, images[chosen])
  np.testing.assert_array_equal(predictions.labels, labels[chosen])
  np.testing.assert_array_equal(predictions.classes, classes[chosen])
  np.testing.assert_allclose(predictions.probabilities, surest[chosen], rtol=1e-4)


def test_a_record_names_the_network_that_was_evaluated(config, tiny_network, monkeypatch):
  """Whatever comes into its place after the last look."""
  version = Version(config.checkpoint_dir, config.checkpoint_version)
  evaluated, writer = version.network_checksum(), tf.summary.create_file_writer

  def replace_and_write(path):
    tiny_network.set_weights([weights + 1 for weights in tiny_network.get_weights()])
    version.write_network(tiny_network)
    return writer(path)

  monkeypatch.setattr(tf.summary, "create_file_writer", replace_and_write)
  evaluate(config)
  assert version.network_checksum() != evaluated
  assert version.evaluations() == ([], 0)
  assert f'"network": "{evaluated}"' in (version.path / "evaluations.jsonl").read_text()


def test_a_chosen_checkpoint_is_evaluated(config):
  for step in (0, 10, 20, -1):
    evaluate(change(config, checkpoint_iter=step))
  losses = [record["loss"] for record in records(config)]
  assert [record["checkpoint_iter"] for record in records(config)] == [0, 10, 20, 20]
  assert len(set(losses)) == 3


def test_the_training_images_are_evaluated_without_distortion(config, synthetic):
  evaluate(change(config, eval_data="train_eval", checkpoint_iter=0))
  network = version(config.checkpoint_dir, 1).network()
  examples = Examples(*(array[:300] for array in synthetic["train"]))
  assert records(config)[0]["loss"] == pytest.approx(reference_figures(network, examples)[1], rel=1e-5)


def test_a_version_needs_its_own_directory_alone(config, tmp_path):
  shutil.copytree(f"{config.checkpoint_dir}_1", tmp_path / "moved_7")
  shutil.rmtree(f"{config.checkpoint_dir}_0")
  shutil.rmtree(f"{config.checkpoint_dir}_1")
  evaluate(change(config, checkpoint_dir=str(tmp_path / "moved"), checkpoint_version=7))


def test_version_0_has_only_training_checkpoints(config):
  evaluate(change(config, checkpoint_version=0))
  with pytest.raises(UserError, match="--checkpoint_iter is 0, but .*run_0 has: 10"):
    evaluate(change(config, checkpoint_version=0, checkpoint_iter=0))


@pytest.mark.parametrize(
  ("settings", "sentence"),
  [
    ({"checkpoint_version": 5}, "there is no directory .*run_5: train --checkpoint_version 4 first"),
    ({"checkpoint_iter": 15}, "--checkpoint_iter is 15, but .*run_1 has: 0, 10, 20"),
    ({"model": "resnet20"}, "--model is resnet20, but .*run_1 holds a cnn4"),
    ({"num_examples": 10001}, "--num_examples is 10001, but test of synthetic has 10000 images"),
  ],
)
def test_what_does_not_fit_is_one_sentence(config, settings, sentence):
  with pytest.raises(UserError, match=sentence):
    evaluate(change(config, **settings))


def test_without_run_once_it_evaluates_every_interval(config, monkeypatch):
  naps = []

  def sleep(seconds):
    naps.append(seconds)
    if len(naps) == 2:
      raise KeyboardInterrupt

  monkeypatch.setattr(time, "sleep", sleep)
  with pytest.raises(KeyboardInterrupt):
    evaluate(change(config, run_once=False, eval_interval_secs=50.0))
  assert len(records(config)) == 2
  assert all(0 < nap < 50 for nap in naps)


def test_without_run_once_it_waits_for_a_version_that_is_not_there_yet(config, monkeypatch, capsys):
  later = change(config, checkpoint_version=2, run_once=False)

  def sleep(_):
    if Path(f"{config.checkpoint_dir}_2").exists():
      raise KeyboardInterrupt
    shutil.copytree(f"{config.checkpoint_dir}_1", f"{config.checkpoint_dir}_2")

  monkeypatch.setattr(time, "sleep", sleep)
  with pytest.raises(KeyboardInterrupt):
    evaluate(later)
  assert "run_2: train --checkpoint_version 1 first" in capsys.readouterr().err
  assert len(records(later)) == 1
