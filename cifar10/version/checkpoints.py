"""The training checkpoints of a version, `model.ckpt-<step>.*`, by TensorFlow."""

import re
import shutil

import tensorflow as tf

from cifar10.errors import UserError, first_line

KEPT_CHECKPOINTS = 5


def save(directory, state, step, **trackables):
  """Saves a training state, and what else is to go with it, as the checkpoint at `step`; the newest five stay."""
  checkpoint = tf.train.Checkpoint(**state.trackables(), **trackables)
  checkpoint.write(str(directory / f"model.ckpt-{step}"))
  for old in checkpoint_steps(directory)[:-KEPT_CHECKPOINTS]:
    (directory / f"model.ckpt-{old}.index").unlink()
  remove_unfinished(directory)


def checkpoint_steps(directory):
  """The steps at which training checkpoints stand in a directory, ascending."""
  names = (re.fullmatch(r"model\.ckpt-(\d+)\.index", path.name) for path in directory.glob("*.index"))
  return sorted(int(name[1]) for name in names if name)


def remove_unfinished(directory):
  """Removes what is left of training checkpoints that were not saved whole; TensorFlow writes their index last."""
  whole = {f"model.ckpt-{step}." for step in checkpoint_steps(directory)}
  for path in directory.glob("model.ckpt-*"):
    if path.is_dir():
      shutil.rmtree(path)
    elif not path.name.startswith(tuple(whole)) or "temp" in path.name:
      path.unlink()


def restore(directory, state, step, **trackables):
  """Restores a training state from the checkpoint at `step`.

  Raises:
    UserError: it cannot be read, or belongs to another network.
  """
  path = str(directory / f"model.ckpt-{step}")
  try:
    checkpoint = tf.train.Checkpoint(**state.trackables(), **trackables)
    checkpoint.read(path).assert_existing_objects_matched().expect_partial()
  except Exception as error:  # Whatever a damaged or foreign file makes TensorFlow raise.
    raise UserError(
      f"The training checkpoint {path} cannot be read ({first_line(error)}); it is damaged or belongs to "
      "another network: remove it, or the directory to start the stage anew."
    ) from error


def restore_newest(directory, state, **trackables):
  """Restores the newest training checkpoint that can be read.

  Returns:
    Its step, 0 where there is none; and a sentence for each newer one that is damaged.

  Raises:
    UserError: there are checkpoints, but none can be read.
  """
  damage = []
  for step in reversed(checkpoint_steps(directory)):
    try:
      restore(directory, state, step, **trackables)
      return step, damage
    except UserError as error:
      unreadable = error
      damage.append(f"{directory / f'model.ckpt-{step}'} is damaged; looking for an older one.")
  if damage:
    raise unreadable
  return 0, damage
