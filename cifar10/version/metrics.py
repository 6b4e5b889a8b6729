"""What a stage records as it trains: `metrics.csv` and `gammas.npz`."""

import contextlib
import csv
import io
import math

import numpy as np

from cifar10.errors import UserError
from cifar10.version.arrays import read_arrays
from cifar10.version.files import MOST_BYTES, atomic_file, read, sync

METRICS_FILE = "metrics.csv"
GAMMAS_FILE = "gammas.npz"
COLUMNS = (
  "step",
  "seconds",
  "loss",
  "cross_entropy",
  "group_lasso",
  "fake_sparsity",
  "learning_rate",
  "l1_penalty",
  "examples_per_second",
)
COLUMNS_BEFORE_L1_PENALTY = tuple(name for name in COLUMNS if name != "l1_penalty")
GAMMA_STEPS = 200
LARGEST_STEP = 2**31 - 1
ADVICE = "remove it to go on without what it recorded"


class Metrics:
  """The rows and gammas of one stage, which `start` takes over from a run before.

  Args:
    directory: of the checkpoint version.
    max_steps: length of the stage: gammas are recorded at up to `GAMMA_STEPS` steps of it.
    log_frequency: steps between rows.

  Attributes:
    rows: what `read_metrics` would read now.
  """

  def __init__(self, directory, max_steps, log_frequency):
    self._directory = directory
    self._gamma_interval = log_frequency * math.ceil(max_steps / log_frequency / GAMMA_STEPS)
    self._gammas = {}
    self.rows = []

  def start(self, step, gammas=None):
    """Takes over what was recorded before `step`, from where training goes on; what came later is dropped.

    Args:
      step: the next to be trained.
      gammas: dict from path to array (channels,), of which kind those are that will be added; by default any.

    Returns:
      A sentence where the recorded gammas are of other layers, and dropped; else None.
    """
    self.rows = [row for row in read_metrics(self._directory) if row["step"] < step]
    recorded = {at: them for at, them in read_gammas(self._directory).items() if at < step and self.has_gammas_at(at)}
    foreign = gammas is not None and any(_widths(them) != _widths(gammas) for them in recorded.values())
    self._gammas = {} if foreign else recorded
    with atomic_file(self._directory / METRICS_FILE) as file:
      file.write((",".join(COLUMNS) + "\n").encode())
      for row in self.rows:
        file.write((_line(row) + "\n").encode())
    path = self._directory / GAMMAS_FILE
    return f"{path} holds the gammas of other layers; they are dropped." if foreign else None

  def has_gammas_at(self, step):
    """Whether the gammas at a step are recorded."""
    return step % self._gamma_interval == 0

  def add(self, row, gammas):
    """Records a row, a dict with the keys `COLUMNS`, and the gammas, a dict from path to array (channels,)."""
    line = _line(row)
    with open(self._directory / METRICS_FILE, "a") as file:
      file.write(line + "\n")
    self.rows.append(_row(dict(zip(COLUMNS, line.split(",")))))
    if self.has_gammas_at(row["step"]):
      self._gammas[row["step"]] = gammas

  def save(self):
    """Writes the gammas, and has all of it written to the disk."""
    sync(self._directory / METRICS_FILE)
    if self._gammas:
      steps = sorted(self._gammas)
      arrays = {path: np.stack([self._gammas[at][path] for at in steps]) for path in self._gammas[steps[0]]}
      with atomic_file(self._directory / GAMMAS_FILE) as file:
        np.savez(file, step=np.array(steps), **arrays)


def read_metrics(directory):
  """The rows of `metrics.csv` as dicts, `step` an int and the rest floats; [] without one.

  `l1_penalty` is NaN where the rows were written before there was that column.

  Raises:
    UserError: the file is damaged.
  """
  path = directory / METRICS_FILE
  if not path.exists():
    return []
  content = read(path, MOST_BYTES, ADVICE)
  with _damage_is_said(path):
    # Where the power was cut, a file may end in zeros instead of what was written last.
    reader = csv.DictReader(io.StringIO(content.replace(b"\0", b"").decode(), newline=""))
    if tuple(reader.fieldnames or COLUMNS) not in (COLUMNS, COLUMNS_BEFORE_L1_PENALTY):
      raise ValueError(reader.fieldnames)
    return [_row({"l1_penalty": "nan", **row}) for row in reader if row.get(COLUMNS[-1])]


def read_gammas(directory):
  """Step to path to gammas, (channels,) float32, from `gammas.npz`; {} without one.

  Raises:
    UserError: the file is damaged.
  """
  path = directory / GAMMAS_FILE
  if not path.exists():
    return {}
  with _damage_is_said(path):
    arrays = read_arrays(path, MOST_BYTES, ADVICE)
    steps = arrays.pop("step")
    of_steps = steps.dtype.kind in "iu" and steps.ndim == 1 and all(0 <= step <= LARGEST_STEP for step in steps)
    if not of_steps or not all(_are_gammas(array, len(steps)) for array in arrays.values()):
      raise UserError(f"{path} holds something else than gammas; {ADVICE}.")
    return {int(at): {path: array[i] for path, array in arrays.items()} for i, at in enumerate(steps)}


@contextlib.contextmanager
def _damage_is_said(path):
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # Whatever numpy and csv raise for a damaged file.
    raise UserError(f"{path} is damaged; {ADVICE}.") from error


def _are_gammas(array, steps):
  return array.ndim == 2 and array.dtype.kind == "f" and len(array) == steps and array.shape[1] > 0


def _widths(gammas):
  return {path: values.shape for path, values in gammas.items()}


def _row(texts):
  if not 0 <= int(texts["step"]) <= LARGEST_STEP:
    raise ValueError(texts["step"])
  return {name: int(texts[name]) if name == "step" else float(texts[name]) for name in COLUMNS}


def _line(row):
  return ",".join(f"{row[name]:.9g}" if name != "step" else str(row[name]) for name in COLUMNS)
