"""Precision and loss of a checkpoint version."""

import pathlib
import sys
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from cifar10 import input_pipeline
from cifar10.config import DATASETS, EvalConfig, check
from cifar10.console import say, timestamp
from cifar10.datasets.examples import NUM_CLASSES, Examples
from cifar10.errors import UserError, first_line
from cifar10.pruning import fold_batch_norms, multiply_adds
from cifar10.version.choosing import chosen_by
from cifar10.version.evaluations import stands_for
from cifar10.version.predictions import Predictions

SPLITS = {"test": "test", "train_eval": "train"}
SUREST_MISTAKES = 6


def evaluate(config: EvalConfig):
  """Evaluates a version's network once, or again and again; prints and records each evaluation.

  Raises:
    UserError: data, directory or settings do not fit.
  """
  check(config)
  version = chosen_by(config)
  if config.run_once:
    version.must_exist()
  dataset = config.dataset or version.dataset() or DATASETS[0]
  examples = input_pipeline.load(dataset, SPLITS[config.eval_data], config.data_dir)
  if config.num_examples > len(examples.labels):
    raise UserError(
      f"--num_examples is {config.num_examples}, but {config.eval_data} of {dataset} has "
      f"{len(examples.labels)} images; pass that many at most."
    )
  examples = Examples(*(array[: config.num_examples] for array in examples))
  if config.run_once:
    _evaluate_once(config, version, dataset, examples)
  else:
    _evaluate_forever(config, dataset, examples)


def precision_and_loss(model, examples, batch_size):
  """The share of images whose largest logit is the label's, and the mean cross entropy, as `measure` has them."""
  measured = measure(model, examples, batch_size)
  return measured.precision, measured.loss


class Measured(NamedTuple):
  """How a network does on some examples.

  Attributes:
    precision: share of the images whose largest logit is the label's.
    loss: mean cross entropy.
    classes: of the largest logits, int32 (examples,).
    probabilities: of these classes, float32 (examples,).
  """

  precision: float
  loss: float
  classes: np.ndarray
  probabilities: np.ndarray

  def confusion(self, labels):
    """How many images of each class (the row) were taken for each (the column): int64 (10, 10)."""
    counts = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    np.add.at(counts, (labels, self.classes), 1)
    return counts


def measure(model, examples, batch_size):
  """Evaluates a network on each example exactly once.

  Args:
    model: from standardised images to logits.
    examples: `Examples`, images uint8.
    batch_size: images at a time; the last batch takes what is left.

  Returns:
    `Measured`.
  """
  model = fold_batch_norms(model)  # In inference the same, and faster.

  @tf.function(reduce_retracing=True)
  def infer(images, labels):
    logits = model(input_pipeline.standardize(images), training=False)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    classes = tf.argmax(logits, axis=1, output_type=tf.int32)
    return tf.reduce_sum(tf.cast(loss, tf.float64)), classes, tf.reduce_max(tf.nn.softmax(logits), axis=1)

  batches = tf.data.Dataset.from_tensor_slices(tuple(examples)).batch(batch_size)
  losses, classes, probabilities = zip(*(infer(*batch) for batch in batches))
  classes = np.concatenate(classes)
  precision = (classes == examples.labels).mean()
  loss = sum(map(float, losses)) / len(examples.labels)
  return Measured(float(precision), loss, classes, np.concatenate(probabilities))


def _evaluate_forever(config, dataset, examples):
  while True:
    start = time.monotonic()
    try:
      _evaluate_once(config, chosen_by(config), dataset, examples)
    except (UserError, OSError) as error:  # The training beside it may not have come so far yet, or replaces it.
      print(error, file=sys.stderr)
    time.sleep(max(0.0, config.eval_interval_secs - (time.monotonic() - start)))


def _evaluate_once(config, version, dataset, examples):
  with version.must_exist().watched() as check_same:
    _evaluate_version(config, version, dataset, examples, check_same)


def _evaluate_version(config, version, dataset, examples, check_same):
  model, step, damage = version.load(config.checkpoint_iter)
  say(*damage, _other_dataset(config, version, dataset))
  if config.model not in (None, model.name):
    raise UserError(f"--model is {config.model}, but {version} holds a {model.name}; leave --model out.")
  parameters = model.count_params()
  print(f"total params: {parameters}", flush=True)
  measured = measure(model, examples, config.batch_size)
  print(f"{timestamp()}: precision @ 1 = {measured.precision:.4f}")
  print(f"{timestamp()}: test loss = {measured.loss:.4f}", flush=True)
  record = {
    "checkpoint_version": version.number,
    "checkpoint_iter": step,
    "dataset": dataset,
    "eval_data": config.eval_data,
    "examples": len(examples.labels),
    "precision": measured.precision,
    "loss": measured.loss,
    "parameters": parameters,
    "multiply_adds": multiply_adds(model),
    "confusion": measured.confusion(examples.labels).tolist(),
    "time": timestamp(),
  }
  network = check_same()
  if config.eval_dir or not config.published:
    _write_events(config, version, step, measured)
  if config.published:
    return
  if stands_for(record, version.number, version.dataset()):
    version.write_predictions(_telling(measured, examples, record["time"]))
  version.add_evaluation({**record, "network": network})


def _write_events(config, version, step, measured):
  """Writes an evaluation as events of TensorBoard."""
  eval_dir = pathlib.Path(config.eval_dir, version.path.name) if config.eval_dir else version.path / "eval"
  try:
    with tf.summary.create_file_writer(str(eval_dir)).as_default(step):
      tf.summary.scalar("precision", measured.precision)
      tf.summary.scalar("cross_entropy", measured.loss)  # As the training calls it.
  except tf.errors.OpError as error:
    raise UserError(
      f"--eval_dir {config.eval_dir or eval_dir} cannot be written ({first_line(error)}); make room, or give another "
      "directory."
    ) from error


def _telling(measured, examples, time):
  """Some `Predictions`: of the first image of each class, and the mistakes with the highest probabilities."""
  _, first = np.unique(examples.labels, return_index=True)
  wrong = np.flatnonzero(measured.classes != examples.labels)
  surest = wrong[np.argsort(-measured.probabilities[wrong], kind="stable")][:SUREST_MISTAKES]
  all_of_them = Predictions(
    examples.images, examples.labels, measured.classes, np.nan_to_num(measured.probabilities), time
  )
  return all_of_them[np.concatenate([first, surest])]


def _other_dataset(config, version, dataset):
  """What to say where the network was trained on another data set than it is evaluated on; None if that is not so."""
  own = version.dataset()
  if own in (None, dataset):
    return None
  if config.dataset is None:  # It was not known yet when the data was read.
    raise UserError(f"{version} was trained on {own}, and this began with {dataset}; start it again.")
  return f"{version} was trained on {own}: the figures on {dataset} are recorded, and do not stand for it."
