"""The directory of one checkpoint version, and what stands in it.

`<train_dir>_<version>` holds

- `model.keras`: the network that the stage starts from (none in version 0);
- `model.ckpt-<step>.*`: the newest five states of the training, as TensorFlow checkpoints;
- `stage.json`: flags, seed, package versions, progress and the squeeze's report, with a checksum, and as
  `stage.json.old` what it was before;
- what `metrics.py` and `evaluate.py` record.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import shutil

import keras
import tensorflow as tf

from cifar10.batch_norm import fused, unfused
from cifar10.errors import UserError, first_line
from cifar10.input_pipeline import IMAGE_SHAPE, NUM_CLASSES
from cifar10.models import MODELS
from cifar10.pruning import penalties

MODEL_FILE = "model.keras"
STAGE_FILE = "stage.json"
STAGE_BACKUP = "stage.json.old"
KEPT_CHECKPOINTS = 5
_UNFINISHED = ".new"
_PACKAGES = ("keras", "numpy", "tensorflow")


def version_dir(train_dir, version):
  """The directory of checkpoint version `version`, a `pathlib.Path`."""
  return pathlib.Path(f"{train_dir}_{version}")


def existing_version_dir(train_dir, version):
  """The directory of a version that is there.

  Raises:
    UserError: it is not.
  """
  directory = version_dir(train_dir, version)
  if not directory.is_dir():
    raise UserError(
      f"there is no directory {directory}: train --checkpoint_version {max(0, version - 1)} first, "
      "or give --checkpoint_version and --checkpoint_dir of one that does."
    )
  return directory


@contextlib.contextmanager
def locked(directory):
  """Keeps other processes from training in a directory, which is made, and removed again if it stays empty.

  The lock ends with the process, however that ends.

  Yields:
    A function that raises a `UserError` if the directory is no longer the one that was locked.

  Raises:
    UserError: another process has the lock, or `directory` is a file.
  """
  made = [path for path in (directory, *directory.parents) if not path.exists()]
  if directory.exists() and not directory.is_dir():
    raise UserError(f"{directory} is a file; expected a checkpoint version's directory: move it away.")
  directory.mkdir(parents=True, exist_ok=True)
  descriptor = os.open(directory, os.O_RDONLY)

  def check():
    if not directory.is_dir() or not os.path.samestat(os.fstat(descriptor), os.stat(directory)):
      raise UserError(f"{directory} has vanished or was replaced; restore it, and run again.")

  try:
    _lock(descriptor, directory)
    check()
    yield check
  finally:
    os.close(descriptor)
    with contextlib.suppress(OSError):
      for path in made:
        path.rmdir()


class TrainingState:
  """All that a training run changes: weights, moving averages and step.

  Args:
    model: the network to train, a functional Keras model; it is copied.
    **how_to_train: precision and synchronisation of batch norms, as for `fused`.

  Attributes:
    model: the copy that is trained, its batch norms fused.
    averages: moving averages of `model.trainable_variables`, which start at their values.
    step: how many steps are done, int64.
  """

  def __init__(self, model, **how_to_train):
    self.model = fused(model, **how_to_train)
    self.averages = [tf.Variable(v.numpy(), trainable=False) for v in self.model.trainable_variables]
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


def save(directory, state, step, **trackables):
  """Saves a training state, and what else is to go with it, as the checkpoint at `step`; the newest five stay."""
  checkpoint = tf.train.Checkpoint(**state.trackables(), **trackables)
  checkpoint.write(str(directory / f"model.ckpt-{step}"))
  for old in checkpoint_steps(directory)[:-KEPT_CHECKPOINTS]:
    (directory / f"model.ckpt-{old}.index").unlink()
  remove_unfinished_checkpoints(directory)


def checkpoint_steps(directory):
  """The steps at which training checkpoints stand in a directory, ascending."""
  names = (re.fullmatch(r"model\.ckpt-(\d+)\.index", path.name) for path in directory.glob("*.index"))
  return sorted(int(name[1]) for name in names if name)


def remove_unfinished_checkpoints(directory):
  """Removes what is left of training checkpoints that were not saved whole; TensorFlow writes their index last."""
  whole = {f"model.ckpt-{step}." for step in checkpoint_steps(directory)}
  for path in directory.glob("model.ckpt-*"):
    if path.is_dir():
      shutil.rmtree(path)
    elif not path.name.startswith(tuple(whole)) or "temp" in path.name:
      path.unlink()


def restore(directory, state, step, **trackables):
  """Restores a training state from the checkpoint at `step`."""
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
  """Restores the newest training checkpoint that can be read; says which could not. Returns its step, 0 for none.

  Raises:
    UserError: there are checkpoints, but none can be read.
  """
  for step in reversed(checkpoint_steps(directory)):
    try:
      restore(directory, state, step, **trackables)
      return step
    except UserError as error:
      damage = error
      print(f"{directory / f'model.ckpt-{step}'} is damaged; looking for an older one.", flush=True)
  if checkpoint_steps(directory):
    raise damage
  return 0


def load_network(directory):
  """Loads the `model.keras` of a version's directory.

  Raises:
    UserError: it cannot be read, or is no network from images (32, 32, 3) to 10 logits.
  """
  path = directory / MODEL_FILE
  try:
    model = keras.models.load_model(path, compile=False)
    shapes = (model.input_shape, model.output_shape)
  except Exception as error:  # Whatever a damaged or foreign file makes Keras raise.
    raise UserError(
      f"{path} cannot be loaded ({first_line(error)}); remove it, and train the version before it again to write it "
      "anew."
    ) from error
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
  if iteration == -1:
    step = restore_newest(directory, state)
  else:
    restore(directory, state, step)
  return averaged_model(state), step


def replace_version(directory, model):
  """Puts a directory that holds nothing but `model` in the place of `directory`, whole or not at all."""
  workplace = directory.parent / f".{directory.name}.unfinished"
  shutil.rmtree(workplace, ignore_errors=True)
  new, old = workplace / "new", workplace / "old"
  try:
    new.mkdir(parents=True)
    model.save(new / MODEL_FILE)
    _sync(new / MODEL_FILE)
    _sync(new)
    if directory.exists():
      directory.rename(old)
    new.rename(directory)
    _sync(directory.parent)
  finally:
    shutil.rmtree(workplace, ignore_errors=True)


def restore_network(directory, model):
  """Writes the `model.keras` that a version's directory has lost, and leaves the rest as it is."""
  unfinished = directory / f".unfinished.{MODEL_FILE}"
  try:
    model.save(unfinished)
    _sync(unfinished)
    unfinished.rename(directory / MODEL_FILE)
  finally:
    unfinished.unlink(missing_ok=True)


def read_stage(directory):
  """Reads `stage.json`; where that is damaged, what it was before, and says so.

  Returns:
    What `write_stage` was given; None where nothing was trained in the directory.

  Raises:
    UserError: both are damaged, or the directory was written by something else.
  """
  path, backup = directory / STAGE_FILE, directory / STAGE_BACKUP
  if not path.exists() and not backup.exists():
    _refuse_foreign(directory)
    if checkpoint_steps(directory):
      raise UserError(
        f"{path} is gone, but training checkpoints are there; restore it, or remove them to start the stage anew."
      )
    return None
  stage = _read_intact(path)
  if stage is None:
    stage = _read_intact(backup)
    if stage is None:
      raise UserError(
        f"{path} is damaged: it does not match its checksum; restore it, or remove {directory} to start anew."
      )
    print(f"{path} is damaged; {backup} from before it is used.", flush=True)
  return stage


def write_stage(directory, stage):
  """Writes `stage.json`: `stage`, a dict ready for JSON, the package versions, and a checksum."""
  packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
  stage = {**stage, "packages": packages}
  text = json.dumps({**stage, "sha256": _checksum(stage)}, indent=1)
  if _read_intact(directory / STAGE_FILE) is not None:
    with atomic_file(directory / STAGE_BACKUP) as file:
      file.write((directory / STAGE_FILE).read_bytes())
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


def _lock(descriptor, directory):
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise UserError(
      f"{directory} is in use by another process that trains it; wait for it, stop it, or choose another --train_dir."
    ) from error


def _sync(path):
  """Has a file or directory written to the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _read_intact(path):
  """What a `stage.json` holds, without its checksum; None if it is not there or does not match that."""
  try:
    stage = json.loads(path.read_bytes())
    whole = stage.pop("sha256") == _checksum(stage) and _is_stage(stage)
    return stage if whole else None
  except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
    return None


def _is_stage(stage):
  flags, progress = stage["flags"], stage["progress"]
  return (
    flags["model"] in MODELS
    and isinstance(progress["step"], int)
    and isinstance(progress["seconds"], (int, float))
    and isinstance(stage["finished"] or {}, dict)
    and all(name in flags for name in ("dataset", "batch_size", "weight_decay", "seed"))
  )


def _refuse_foreign(directory):
  files = [path for path in directory.glob("*") if path.suffix != _UNFINISHED]
  if files and not (directory / MODEL_FILE).exists():
    raise UserError(
      f"{directory} was written by something else: it has files, but neither {STAGE_FILE} nor {MODEL_FILE}; "
      "choose another --train_dir."
    )


def _checksum(stage):
  return hashlib.sha256(json.dumps(stage, sort_keys=True).encode()).hexdigest()
