"""The training checkpoints of a version, `model.ckpt-<step>.*`, saved and restored by TensorFlow."""

import tensorflow as tf

from cifar10.errors import UserError, first_line
from cifar10.version import files
from cifar10.version.checkpoint_files import checkpoint_steps, remove_unfinished

KEPT_CHECKPOINTS = 5
# What TensorFlow raises where a checkpoint is whole but of another network, or for want of memory or rights.
_NOT_DAMAGE = (
  ValueError,
  AssertionError,
  MemoryError,
  tf.errors.ResourceExhaustedError,
  tf.errors.PermissionDeniedError,
)


def save(directory, state, step, **trackables):
  """Saves a training state, and what else is to go with it, as the checkpoint at `step`; the newest five stay.

  Older ones go once this one is on the disk, and so do those of later steps, which could not be read.
  """
  path = directory / f"model.ckpt-{step}"
  with files.workplace(path) as workplace:
    tf.train.Checkpoint(**state.trackables(), **trackables).write(str(workplace / path.name))
    # TensorFlow finds a checkpoint by its index, which therefore comes last.
    for part in sorted(workplace.iterdir(), key=lambda part: part.suffix == ".index"):
      files.sync(part)
      part.replace(directory / part.name)
    files.sync(directory)
  steps = checkpoint_steps(directory)
  kept = [each for each in steps if each <= step][-KEPT_CHECKPOINTS:]
  for each in set(steps) - set(kept):
    (directory / f"model.ckpt-{each}.index").unlink()
  remove_unfinished(directory)


def restore(directory, state, step, **trackables):
  """Restores a training state from the checkpoint at `step`.

  Raises:
    UserError: it cannot be read, or belongs to another network.
  """
  path = directory / f"model.ckpt-{step}"
  try:
    checkpoint = tf.train.Checkpoint(**state.trackables(), **trackables)
    for part in directory.glob(f"{path.name}.*"):
      files.opened(part, files.MOST_BYTES_OF_WEIGHTS).close()
    with files.plain_name(directory) as plain:
      checkpoint.read(str(plain / path.name)).assert_existing_objects_matched().expect_partial()
  except Exception as error:  # Whatever a damaged or foreign file makes TensorFlow raise.
    raise UserError(
      f"The training checkpoint {path} cannot be read ({first_line(error)}); it is damaged or belongs to "
      "another network: remove it, or the directory to start the stage anew."
    ) from error


def restore_newest(directory, state, **trackables):
  """Restores the newest training checkpoint that can be read.

  Returns:
    Its step, 0 where there is none that can be read and the state stays as it is; and a sentence for each newer one
    that is damaged.

  Raises:
    UserError: there are checkpoints, none can be read, and one of them is not damaged, but of another network.
  """
  variables = tf.nest.flatten({**state.trackables(), **trackables})
  before, foreign, damage = [variable.numpy() for variable in variables], None, []
  for step in reversed(checkpoint_steps(directory)):
    try:
      restore(directory, state, step, **trackables)
      return step, damage
    except UserError as error:
      foreign = error if isinstance(error.__cause__, _NOT_DAMAGE) else foreign
      damage.append(f"{directory / f'model.ckpt-{step}'} is damaged; looking for an older one.")
  if foreign:
    raise foreign
  for variable, value in zip(variables, before):
    variable.assign(value)
  return 0, damage
