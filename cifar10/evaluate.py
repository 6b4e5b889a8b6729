"""Precision and loss of a checkpoint version."""

import os
import sys
import time

import tensorflow as tf

from cifar10 import input_pipeline
from cifar10.config import DATASETS, EvalConfig, check
from cifar10.console import say, timestamp
from cifar10.datasets.examples import Examples
from cifar10.errors import UserError, first_line
from cifar10.pruning import fold_batch_norms, multiply_adds
from cifar10.version.directory import Version

SPLITS = {"test": "test", "train_eval": "train"}


def evaluate(config: EvalConfig):
  """Evaluates a version's network once, or again and again; prints and records each evaluation.

  Raises:
    UserError: data, directory or settings do not fit.
  """
  check(config)
  version = Version(config.checkpoint_dir, config.checkpoint_version)
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
    _evaluate_forever(config, version, dataset, examples)


def precision_and_loss(model, examples, batch_size):
  """Evaluates a network on each example exactly once.

  Args:
    model: from standardised images to logits.
    examples: `Examples`, images uint8.
    batch_size: images at a time; the last batch takes what is left.

  Returns:
    The share of images whose largest logit is the label's, and the mean cross entropy, floats.
  """
  model = fold_batch_norms(model)  # In inference the same, and faster.

  @tf.function(reduce_retracing=True)
  def sums(images, labels):
    logits = model(input_pipeline.standardize(images), training=False)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    correct = tf.equal(tf.argmax(logits, axis=1, output_type=labels.dtype), labels)
    return tf.reduce_sum(tf.cast(correct, tf.int64)), tf.reduce_sum(tf.cast(loss, tf.float64))

  correct, loss = 0, 0.0
  for batch in tf.data.Dataset.from_tensor_slices(tuple(examples)).batch(batch_size):
    batch_correct, batch_loss = sums(*batch)
    correct, loss = correct + int(batch_correct), loss + float(batch_loss)
  return correct / len(examples.labels), loss / len(examples.labels)


def _evaluate_forever(config, version, dataset, examples):
  while True:
    start = time.monotonic()
    try:
      _evaluate_once(config, version, dataset, examples)
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
  precision, loss = precision_and_loss(model, examples, config.batch_size)
  print(f"{timestamp()}: precision @ 1 = {precision:.4f}")
  print(f"{timestamp()}: test loss = {loss:.4f}", flush=True)
  record = {
    "checkpoint_version": config.checkpoint_version,
    "checkpoint_iter": step,
    "dataset": dataset,
    "eval_data": config.eval_data,
    "examples": len(examples.labels),
    "precision": precision,
    "loss": loss,
    "parameters": parameters,
    "multiply_adds": multiply_adds(model),
    "time": timestamp(),
  }
  network = check_same()
  try:
    with tf.summary.create_file_writer(os.path.join(config.eval_dir, version.path.name)).as_default(step):
      tf.summary.scalar("Precision @ 1", precision)
      tf.summary.scalar("Test loss", loss)
  except tf.errors.OpError as error:
    raise UserError(
      f"--eval_dir {config.eval_dir} cannot be written ({first_line(error)}); make room, or give another directory."
    ) from error
  version.add_evaluation({**record, "network": network})


def _other_dataset(config, version, dataset):
  """What to say where the network was trained on another data set than it is evaluated on; None if that is not so."""
  own = version.dataset()
  if own in (None, dataset):
    return None
  if config.dataset is None:  # It was not known yet when the data was read.
    raise UserError(f"{version} was trained on {own}, and this began with {dataset}; start it again.")
  return f"{version} was trained on {own}: the figures on {dataset} are recorded, and do not stand for it."
