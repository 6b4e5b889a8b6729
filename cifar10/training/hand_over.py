"""The end of a stage: its network is squeezed, and left to the next version."""

import dataclasses

import tensorflow as tf

from cifar10 import input_pipeline
from cifar10.console import say
from cifar10.datasets.examples import Examples
from cifar10.errors import UserError, first_line
from cifar10.pruning import prune, recalibrate, squeeze
from cifar10.pruning.comparing import output_differences
from cifar10.training.settling import is_trained
from cifar10.training.step import batch_seed
from cifar10.training_state import averaged_model
from cifar10.version.directory import MODEL_FILE
from cifar10.version.evaluations import leave_to
from cifar10.version.stage import Finished, SelfCheck

SELF_CHECK_IMAGES = 1000


def check_next_version(config, stage, version):
  """Checks that squeezing replaces no next version that has training progress.

  Returns:
    The checksum of the network that stands in the next version, which squeezing may replace; None without one.

  Raises:
    UserError: the next version has training progress, or cannot be locked.
  """
  if not config.squeeze_model:
    return None
  following = version.next()
  lost = is_trained(config, stage, version) and stage.finished and not following.has_network()
  with following.locked():
    if has_progress(following) and not config.overwrite and not lost:
      raise UserError(
        f"{following} has training progress, which squeezing this stage would replace; "
        "pass --overwrite to clear that directory, or --nosqueeze_model to leave it."
      )
    return following.network_checksum()


def has_progress(version):
  """Whether a version was trained to some step; raises a `UserError` where something else wrote there."""
  stage, damage = version.read_stage()
  say(damage)
  return bool(version.checkpoint_steps()) or (stage is not None and stage.progress.step > 0)


def squeeze_into(version, trainer, examples, replaceable):
  """Squeezes the network that a trainer has come to, and writes it as the start of a version.

  Args:
    version: the `Version` to write.
    trainer: `Trainer`.
    examples: the training set, `Examples`, to check the squeezed network and recompute its moving statistics on.
    replaceable: checksum of the network that may be replaced there, as `check_next_version` returned it.

  Returns:
    How the stage ended, `Finished`.

  Raises:
    UserError: the version cannot be written, or came to another network or to progress meanwhile, and there is no
      --overwrite; what was trained is saved.
  """
  config = trainer.config
  network = averaged_model(trainer.state)
  smaller, report = _squeezed(config, network, examples)
  self_check = _self_check(network, smaller, examples)
  print(
    f"squeezed {report.parameters_before} parameters to {report.parameters_after}; on {self_check.images} training "
    f"images logits differ by {self_check.largest_difference:.2g} at most and {self_check.agreeing} predictions agree."
  )
  if _is_pruned(config):
    print(
      f"widths are the nearest multiples of {config.round_channels_to}: channels that were not dead went too, so the "
      "network computes something else; fine-tune it."
    )
  if config.recalibration_batches:
    recalibrate(smaller, _next_batches(trainer, examples))
    print(f"moving statistics are recomputed on {config.recalibration_batches} training batches.")
  try:
    with version.locked():
      _write(version, smaller, config.overwrite, replaceable)
  except OSError as error:
    raise UserError(
      f"{version} cannot be written ({first_line(error)}); the stage is trained and saved: make room, and run "
      "again to squeeze it."
    ) from error
  print(f"{version.model_path} is written.")
  return Finished(
    trainer.step,
    config.exact_squeeze and not _is_pruned(config),
    config.round_channels_to,
    config.recalibration_batches,
    self_check,
    dataclasses.asdict(report),
    config.round_channels,
  )


def _write(version, network, overwrite, replaceable):
  """Writes the network into a version that is locked; without `overwrite` all else that stands there stays."""
  if overwrite or not any(version.path.iterdir()):
    version.replace(network)
    return
  there, progress = version.network_checksum(), has_progress(version)
  if there not in (None, replaceable) or (progress and (version.has_network() or replaceable)):
    raise UserError(
      f"{version} came to {'training progress' if progress else 'another network'} meanwhile, which squeezing would "
      "replace; the stage is trained and saved: pass --overwrite to clear that directory, or --nosqueeze_model to "
      "leave it."
    )
  if there:
    leave_to(version.path, there)
  version.write_network(network)
  others = sorted(path.name for path in version.path.iterdir() if path.name != MODEL_FILE)
  if others:
    print(
      f"{version} keeps {', '.join(others)}; evaluations and exports of another network count no more: "
      "--overwrite clears the directory."
    )


def _is_pruned(config):
  """Whether channels that are not dead may go."""
  return config.round_channels == "nearest" and config.round_channels_to > 1


def _squeezed(config, network, examples):
  """The squeezed network and the report, with widths as the settings have them."""
  multiple_of = config.round_channels_to
  if not _is_pruned(config):
    return squeeze(network, exact=config.exact_squeeze, multiple_of=multiple_of)
  images = input_pipeline.standardize(examples.images[:SELF_CHECK_IMAGES])
  return prune(network, multiple_of=multiple_of, importance="gamma", inputs=images, verify=False)


def _self_check(network, smaller, examples):
  """Compares the squeezed network with the full one on undistorted training images."""
  images = input_pipeline.standardize(examples.images[:SELF_CHECK_IMAGES])
  differences = output_differences(network(images), smaller(images))
  return SelfCheck(len(images), differences.largest, differences.agreeing)


def _next_batches(trainer, examples):
  """The images of the batches that the stage would train on next."""
  config, examples = trainer.config, Examples(*map(tf.constant, examples))
  for step in range(trainer.step, trainer.step + config.recalibration_batches):
    images, _ = input_pipeline.batch(
      examples, batch_seed(config), step, config.batch_size, distortions=config.distortions
    )
    yield images
