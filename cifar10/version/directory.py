"""One checkpoint version: its directory `<train_dir>_<number>`, and what stands in it.

- `model.keras`: the network that the stage starts from (none in version 0);
- `model.ckpt-<step>.*`: the newest five states of the training (`checkpoints.py`);
- `stage.json`: settings, progress and the squeeze's report, with a checksum (`stage.py`), and as `stage.json.old` what
  it was before;
- `metrics.csv`, `gammas.npz` (`metrics.py`), `evaluations.jsonl` (`evaluations.py`), `predictions.npz`
  (`predictions.py`) and TensorBoard's events (`events.py`).

Keras and TensorFlow are imported only where a network is loaded.
"""

import contextlib
import fcntl
import os
import re

from cifar10.config import DATASETS
from cifar10.errors import UserError
from cifar10.version import directory_of, evaluations, exports, files, metrics, predictions
from cifar10.version.checkpoint_files import checkpoint_steps
from cifar10.version.network import MODEL_FILE, checksum
from cifar10.version.stage import STAGE_FILE, dataset_of, read_stage, write_stage


class Version:
  """A checkpoint version.

  Args:
    train_dir: path of the chain's directories without `_<number>`.
    number: of the version.

  Attributes:
    path: of its directory, a `pathlib.Path`.
    model_path: of the network that it starts from.
  """

  def __init__(self, train_dir, number):
    self.train_dir = train_dir
    self.number = number
    self.path = directory_of(train_dir, number)
    self.model_path = self.path / MODEL_FILE

  @classmethod
  def at(cls, path):
    """The version whose directory is at `path`.

    Raises:
      UserError: it does not end like a version's, with `_<number>`.
    """
    train_dir, _, number = str(path).rstrip("/").rpartition("_")
    if not re.fullmatch("0|[1-9][0-9]*", number):
      raise UserError(f"{path} is no version's directory; expected one that ends with _ and a number.")
    return cls(train_dir, int(number))

  def __str__(self):
    return str(self.path)

  def next(self):
    """The version that this one's stage is squeezed into."""
    return Version(self.train_dir, self.number + 1)

  def must_exist(self):
    """Returns the version.

    Raises:
      UserError: its directory is not there.
    """
    if not self.path.is_dir():
      raise UserError(
        f"there is no directory {self}: train --checkpoint_version {max(0, self.number - 1)} first, "
        "or give --checkpoint_version and --checkpoint_dir of one that does."
      )
    return self

  def has_network(self):
    """Whether the network that it starts from is there."""
    return self.model_path.exists()

  def network(self):
    """Loads the network that it starts from.

    Raises:
      UserError: it cannot be read, or is no network from images (32, 32, 3) to 10 logits.
    """
    from cifar10.version import loading

    return loading.network(self)

  def load(self, iteration=-1):
    """Loads the network that it stands for.

    Args:
      iteration: step of the training checkpoint; 0: the network that the version starts from; -1: the newest.

    Returns:
      `loading.Loaded`: the `averaged_model` of the training checkpoint, or what `model.keras` holds.

    Raises:
      UserError: there is no such checkpoint, or it cannot be read.
    """
    from cifar10.version import loading

    return loading.load(self, iteration)

  def checkpoint_steps(self):
    """The steps of its training checkpoints, ascending."""
    return checkpoint_steps(self.path)

  def rows(self):
    """What `metrics.read_metrics` reads."""
    return metrics.read_metrics(self.path)

  def gammas(self):
    """What `metrics.read_gammas` reads."""
    return metrics.read_gammas(self.path)

  def evaluations(self):
    """What `evaluations.read_evaluations` reads."""
    return evaluations.read_evaluations(self.path)

  def add_evaluation(self, record):
    """Appends the record of an evaluation, a dict ready for JSON."""
    evaluations.add_evaluation(self.path, record)

  def predictions(self):
    """What `predictions.read_predictions` reads."""
    return predictions.read_predictions(self.path)

  def write_predictions(self, chosen):
    """Writes a few predictions, `predictions.Predictions`."""
    predictions.write_predictions(self.path, chosen)

  def exports(self):
    """What `exports.read_exports` reads."""
    return exports.read_exports(self.path)

  def write_exports(self, record):
    """Writes the record of an export, a dict ready for JSON."""
    exports.write_exports(self.path, record)

  def read_stage(self):
    """Reads its stage.

    Returns:
      The `Stage`, None where nothing was trained; and a sentence about damage, None without.

    Raises:
      UserError: it is damaged, or the directory was written by something else.
    """
    stage, damage = read_stage(self.path)
    if not stage:
      self._refuse_foreign()
    return stage, damage

  def dataset(self):
    """The data set that it, or the version before it, was trained on; None if that is unknown."""
    return dataset_of(self.train_dir, self.number)

  def own_dataset(self, given):
    """The data set to use it with: the one that it was trained on, if that is known, else `given` or the first.

    Raises:
      UserError: another one is given.
    """
    own = self.dataset()
    if None not in (own, given) and own != given:
      raise UserError(f"--dataset is {given}, but {self} was trained on {own}; leave --dataset out.")
    return own or given or DATASETS[0]

  def write_stage(self, stage):
    """Writes its stage."""
    write_stage(self.path, stage)

  def network_checksum(self):
    """The checksum of the network that it starts from; None without one."""
    return checksum(self.path)

  @contextlib.contextmanager
  def watched(self):
    """Yields a function that tells the checksum of the network, by which records name it.

    It raises a `UserError` if the directory, or its network, is another one by then.
    """
    descriptor, before = os.open(self.path, os.O_RDONLY), self.network_checksum()

    def check():
      self._check_same(descriptor)
      if self.network_checksum() != before:
        raise UserError(f"{self.model_path} was replaced meanwhile, so that nothing is recorded; run again.")
      return before

    try:
      yield check
    finally:
      os.close(descriptor)

  @contextlib.contextmanager
  def locked(self):
    """Keeps other processes from training in the directory, which is made, and removed again if it stays empty.

    The lock ends with the process, however that ends.

    Yields:
      A function that raises a `UserError` if the directory is no longer the one that was locked.

    Raises:
      UserError: another process has the lock, or there is a file in the directory's place.
    """
    made = [path for path in (self.path, *self.path.parents) if not path.exists()]
    if self.path.exists() and not self.path.is_dir():
      raise UserError(f"{self} is a file; expected a checkpoint version's directory: move it away.")
    self.path.mkdir(parents=True, exist_ok=True)
    for path in made:
      files.sync(path.parent)
    descriptor = os.open(self.path, os.O_RDONLY)

    try:
      self._lock(descriptor)
      self._check_same(descriptor)
      try:
        yield lambda: self._check_same(descriptor)
      finally:
        with contextlib.suppress(OSError, UserError):
          self._check_same(descriptor)
          for path in made:
            path.rmdir()
    finally:
      os.close(descriptor)

  def replace(self, model):
    """Puts a directory that holds nothing but the network `model` in the place of this one, whole or not at all."""
    with files.workplace(self.path) as workplace:
      new, old = workplace / "new", workplace / "old"
      new.mkdir()
      model.save(new / MODEL_FILE)
      files.sync(new / MODEL_FILE)
      files.sync(new)
      if self.path.exists():
        self.path.rename(old)
      new.rename(self.path)
      files.sync(self.path.parent)

  def write_network(self, model):
    """Writes the network that the directory has lost, or another one, and leaves the rest as it is."""
    with files.written_whole(self.model_path) as path:
      model.save(path)

  def _refuse_foreign(self):
    unfinished = (files.UNFINISHED, "stage.json.new")  # The latter by a version of this program before the first.
    there = [path for path in self.path.glob("*") if not path.name.startswith(unfinished)]
    if there and not self.has_network():
      raise UserError(
        f"{self} was written by something else: it has files, but neither {STAGE_FILE} nor {MODEL_FILE}; "
        "choose another --train_dir."
      )
    if self.checkpoint_steps():
      raise UserError(
        f"{self.path / STAGE_FILE} is gone, but training checkpoints are there; restore it, or remove them to start "
        "the stage anew."
      )

  def _check_same(self, descriptor):
    if not self.path.is_dir() or not os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
      raise UserError(f"{self} has vanished or was replaced; restore it, and run again.")

  def _lock(self, descriptor):
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise UserError(
        f"{self} is in use by another process that trains it; wait for it, stop it, or choose another --train_dir."
      ) from error
