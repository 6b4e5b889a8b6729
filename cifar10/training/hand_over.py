"""The end of a stage: its network is squeezed, and left to the next version."""

import dataclasses

import tensorflow as tf

from cifar10 import input_pipeline
from cifar10.datasets.examples import Examples
from cifar10.errors import UserError, first_line
from cifar10.pruning import recalibrate, squeeze
from cifar10.pruning.comparing import output_differences
from cifar10.training.settling import is_trained
from cifar10.training.step import batch_seed
from cifar10.training_state import averaged_model
from cifar10.version.stage import Finished, SelfCheck

SELF_CHECK_IMAGES = 1000


def check_next_version(config, stage, version):
  """Raises a `UserError` where squeezing would replace a next version that has training progress."""
  if not config.squeeze_model:
    return
  following = version.next()
  lost = is_trained(config, stage, version) and stage.finished and not following.has_network()
  with following.locked():
    if has_progress(following) and not config.overwrite and not lost:
      raise UserError(
        f"{following} has training progress, which squeezing this stage would replace; "
        "pass --overwrite to clear that directory, or --nosqueeze_model to leave it."
      )


def has_progress(version):
  """Whether training has saved a checkpoint of a version; raises a `UserError` where something else wrote there."""
  version.read_stage()
  return bool(version.checkpoint_steps())


def squeeze_into(version, trainer, examples):
  """Squeezes the network that a trainer has come to, and writes it as the start of a version.

  Args:
    version: the `Version` to write.
    trainer: `Trainer`.
    examples: the training set, `Examples`, to check the squeezed network and recompute its moving statistics on.

  Returns:
    How the stage ended, `Finished`.

  Raises:
    UserError: the version cannot be written; what was trained is saved.
  """
  config = trainer.config
  network = averaged_model(trainer.state)
  smaller, report = squeeze(network, exact=config.exact_squeeze, multiple_of=config.round_channels_to)
  self_check = _self_check(network, smaller, examples)
  print(
    f"squeezed {report.parameters_before} parameters to {report.parameters_after}; on {self_check.images} training "
    f"images logits differ by {self_check.largest_difference:.2g} at most and {self_check.agreeing} predictions agree."
  )
  if config.recalibration_batches:
    recalibrate(smaller, _next_batches(trainer, examples))
    print(f"moving statistics are recomputed on {config.recalibration_batches} training batches.")
  try:
    with version.locked():
      if has_progress(version) and not config.overwrite:
        version.write_network(smaller)
      else:
        version.replace(smaller)
  except OSError as error:
    raise UserError(
      f"{version} cannot be written ({first_line(error)}); the stage is trained and saved: make room, and run "
      "again to squeeze it."
    ) from error
  print(f"{version.model_path} is written.")
  return Finished(
    trainer.step,
    config.exact_squeeze,
    config.round_channels_to,
    config.recalibration_batches,
    self_check,
    dataclasses.asdict(report),
  )


def _self_check(network, smaller, examples):
  """Compares the squeezed network with the full one on undistorted training images."""
  images = input_pipeline.standardize(examples.images[:SELF_CHECK_IMAGES])
  differences = output_differences(network(images), smaller(images))
  return SelfCheck(len(images), differences.largest, differences.agreeing)


def _next_batches(trainer, examples):
  """The images of the batches that the stage would train on next."""
  config, examples = trainer.config, Examples(*map(tf.constant, examples))
  for step in range(trainer.step, trainer.step + config.recalibration_batches):
    images, _ = input_pipeline.batch(examples, batch_seed(config), step, config.batch_size)
    yield images
