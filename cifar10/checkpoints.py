"""The directory of one checkpoint version, and what stands in it.

`<train_dir>_<version>` holds

- `model.keras`: the network that the stage starts from (none in version 0);
- `model.ckpt-<step>.*`: the newest five states of the training, as TensorFlow checkpoints;
- `stage.json`: flags, seed, package versions, progress and the squeeze's report, with a checksum;
- what `metrics.py` and `evaluate.py` record.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import tempfile

import keras
import tensorflow as tf

from cifar10.batch_norm import fused, unfused
from cifar10.errors import UserError, first_line
from cifar10.input_pipeline import IMAGE_SHAPE, NUM_CLASSES
from cifar10.models import MODELS
from cifar10.pruning import penalties

MODEL_FILE = "model.keras"
STAGE_FILE = "stage.json"
KEPT_CHECKPOINTS = 5
_UNFINISHED = ".new"
_PACKAGES = ("keras", "numpy", "tensorflow")


def version_dir(train_dir, version):
  """The directory of checkpoint version `version`, a `pathlib.Path`."""
  return pathlib.Path(f"{train_dir}_{version}")


class TrainingState:
  """All that a training run changes: weights, moving averages and step.

  Args:
    model: the network to train, a functional Keras model; it is copied.

  Attributes:
    model: the copy that is trained, its batch norms fused.
    averages: moving averages of `model.trainable_variables`, which start at their values.
    step: how many steps are done, int64.
  """

  def __init__(self, model):
    self.model = fused(model)
    self.averages = [tf.Variable(v.value, trainable=False) for v in self.model.trainable_variables]
    self.step = tf.Variable(0, dtype=tf.int64)

  def trackables(self):
    """What a TensorFlow checkpoint of the state holds, by name."""
    paths = [variable.path for variable in self.model.trainable_variables]
    return {
      "weights": {variable.path: variable.value for variable in self.model.variables},
      "averages": dict(zip(paths, self.averages)),
      "step": self.step,
    }


def averaged_model(state):
  """The network that a training state stands for, in standard Keras layers.

  Trainable variables are their moving averages, but a gated gamma is 0 where the raw gamma is: an average of
  a gamma that was thresholded to 0 only tends to 0. Moving means and variances are as they are.
  """
  model = unfused(state.model)
  for variable, average in zip(model.trainable_variables, state.averages):
    variable.assign(average)
  gated = penalties(model)
  for variable, raw in zip(model.trainable_variables, state.model.trainable_variables):
    if variable.path in gated:
      variable.assign(tf.where(raw.value == 0, 0.0, variable.value))
  return model


def checkpoint_manager(directory, state, **trackables):
  """A `tf.train.CheckpointManager` for the state and what else is to be saved with it."""
  checkpoint = tf.train.Checkpoint(**state.trackables(), **trackables)
  _renew_checkpoint_list(directory)
  return tf.train.CheckpointManager(
    checkpoint, str(directory), max_to_keep=KEPT_CHECKPOINTS, checkpoint_name="model.ckpt"
  )


def checkpoint_steps(directory):
  """The steps at which training checkpoints stand in a directory, ascending."""
  return sorted(int(path.stem.rpartition("-")[2]) for path in directory.glob("model.ckpt-*.index"))


def restore(directory, state, step, **trackables):
  """Restores a training state from the checkpoint at `step`."""
  path = str(directory / f"model.ckpt-{step}")
  try:
    checkpoint = tf.train.Checkpoint(**state.trackables(), **trackables)
    checkpoint.read(path).assert_existing_objects_matched().expect_partial()
  except (tf.errors.OpError, AssertionError, ValueError) as error:
    raise UserError(
      f"The training checkpoint {path} cannot be read ({first_line(error)}); it is damaged or belongs to "
      "another network: remove it, or the directory to start the stage anew."
    ) from error


def load_network(directory):
  """Loads the `model.keras` of a version's directory.

  Raises:
    UserError: it cannot be read, or is no network from images (32, 32, 3) to 10 logits.
  """
  path = directory / MODEL_FILE
  try:
    model = keras.models.load_model(path, compile=False)
  except Exception as error:  # Whatever a damaged or foreign file makes Keras raise.
    raise UserError(
      f"{path} cannot be loaded ({first_line(error)}); train the version before it again to write it anew."
    ) from error
  shapes = (model.input_shape, model.output_shape)
  if shapes != ((None, *IMAGE_SHAPE), (None, NUM_CLASSES)) or model.name not in MODELS:
    raise UserError(
      f"{path} holds a network {model.name!r} of shapes {shapes}; expected one of {', '.join(MODELS)}, "
      f"from images {IMAGE_SHAPE} to {NUM_CLASSES} logits."
    )
  return model


def load_version(directory, iteration=-1):
  """Loads the network that a version's directory stands for.

  Args:
    directory: of the version; no other is needed.
    iteration: step of the training checkpoint; 0: the network that the version starts from; -1: the newest.

  Returns:
    The `averaged_model` of the training checkpoint, or what `model.keras` holds; and its step.

  Raises:
    UserError: there is no such checkpoint, or it cannot be read.
  """
  stage = read_stage(directory)
  start = load_network(directory) if (directory / MODEL_FILE).exists() else None
  steps = [0] * (start is not None) + checkpoint_steps(directory)
  step = max(steps, default=None) if iteration == -1 else iteration
  if step not in steps:
    there = ", ".join(map(str, steps)) or "none"
    raise UserError(f"--checkpoint_iter is {iteration}, but {directory} has: {there}.")
  if step == 0:
    return start, 0
  state = TrainingState(start or MODELS[stage["flags"]["model"]]())
  restore(directory, state, step)
  return averaged_model(state), step


def replace_version(directory, model):
  """Puts a directory that holds nothing but `model` in the place of `directory`, whole or not at all."""
  with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as workplace:
    new, old = pathlib.Path(workplace, "new"), pathlib.Path(workplace, "old")
    new.mkdir()
    model.save(new / MODEL_FILE)
    if directory.exists():
      directory.rename(old)
    new.rename(directory)


def read_stage(directory):
  """Reads `stage.json`.

  Returns:
    What `write_stage` was given; None where nothing was trained in the directory.

  Raises:
    UserError: the file is damaged, or the directory was written by something else.
  """
  path = directory / STAGE_FILE
  if not path.exists():
    _refuse_foreign(directory)
    return None
  try:
    stage = json.loads(path.read_text())
    intact = stage.pop("sha256") == _checksum(stage)
  except (ValueError, KeyError, AttributeError, TypeError):
    intact = False
  if not intact:
    raise UserError(
      f"{path} is damaged: it does not match its checksum; restore it, or remove {directory} to start anew."
    )
  return stage


def write_stage(directory, stage):
  """Writes `stage.json`: `stage`, a dict ready for JSON, the package versions, and a checksum."""
  packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
  stage = {**stage, "packages": packages}
  text = json.dumps({**stage, "sha256": _checksum(stage)}, indent=1)
  with atomic_file(directory / STAGE_FILE) as file:
    file.write(text.encode())


def has_progress(directory):
  """Whether training has saved a checkpoint in a version's directory."""
  read_stage(directory)
  return bool(checkpoint_steps(directory))


@contextlib.contextmanager
def atomic_file(path):
  """Opens a binary file for writing that appears under its name only when it is whole."""
  unfinished = path.with_name(path.name + _UNFINISHED)
  try:
    with open(unfinished, "wb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    unfinished.replace(path)
  finally:
    unfinished.unlink(missing_ok=True)


def _renew_checkpoint_list(directory):
  """Writes TensorFlow's list of checkpoints anew from those that are there, so that it cannot be damaged."""
  paths = [str(directory / f"model.ckpt-{step}") for step in checkpoint_steps(directory)]
  if paths:
    tf.compat.v1.train.update_checkpoint_state(str(directory), paths[-1], paths)
  else:
    (directory / "checkpoint").unlink(missing_ok=True)


def _refuse_foreign(directory):
  if directory.exists() and not directory.is_dir():
    raise UserError(f"{directory} is a file; expected a checkpoint version's directory: move it away.")
  files = [path for path in directory.glob("*") if path.suffix != _UNFINISHED]
  if files and not (directory / MODEL_FILE).exists():
    raise UserError(
      f"{directory} was written by something else: it has files, but neither {STAGE_FILE} nor {MODEL_FILE}; "
      "choose another --train_dir."
    )


def _checksum(stage):
  return hashlib.sha256(json.dumps(stage, sort_keys=True).encode()).hexdigest()
