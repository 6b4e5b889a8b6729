"""What a stage records as it trains: `metrics.csv`, `gammas.npz` and TensorBoard events."""

import contextlib
import csv
import datetime
import math

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram.summary import histogram_pb

from cifar10.checkpoints import atomic_file
from cifar10.errors import UserError

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
SHOWN_IMAGES = 16


class Metrics:
  """The records of one stage, in its directory.

  Args:
    directory: of the checkpoint version.
    step: the step that training goes on from; later rows of an interrupted run are dropped.
    max_steps: length of the stage: gammas are recorded at up to `GAMMA_STEPS` steps of it.
    log_frequency: steps between rows.

  Attributes:
    rows: what `read_metrics` would read now.
  """

  def __init__(self, directory, step, max_steps, log_frequency):
    self._csv = directory / "metrics.csv"
    self._npz = directory / "gammas.npz"
    self._gamma_interval = log_frequency * math.ceil(max_steps / log_frequency / GAMMA_STEPS)
    self.rows = [row for row in read_metrics(directory) if row["step"] < step]
    with atomic_file(self._csv) as file:
      file.write((",".join(COLUMNS) + "\n").encode())
      for row in self.rows:
        file.write((_line(row) + "\n").encode())
    self._gammas = {
      at: gammas for at, gammas in read_gammas(directory).items() if at < step and at % self._gamma_interval == 0
    }
    self._events = tf.summary.create_file_writer(str(directory))

  def add(self, row, gammas):
    """Records a row, a dict with the keys `COLUMNS`, and the gammas, a dict from path to variable."""
    line = _line(row)
    with open(self._csv, "a") as file:
      file.write(line + "\n")
    self.rows.append(_row(dict(zip(COLUMNS, line.split(",")))))
    with self._events.as_default(row["step"]):
      for name in COLUMNS[2:]:
        tf.summary.scalar(name, row[name])
      if row["step"] % self._gamma_interval == 0:
        self._gammas[row["step"]] = {path: keras.ops.convert_to_numpy(gamma) for path, gamma in gammas.items()}
        # By numpy, since tf.summary.histogram takes milliseconds for each; serialised messages join to one.
        histograms = [histogram_pb(path, values) for path, values in self._gammas[row["step"]].items()]
        tf.summary.experimental.write_raw_pb(b"".join(message.SerializeToString() for message in histograms))

  def add_images(self, step, images):
    """Shows some images of a batch, (batch, height, width, channels), in TensorBoard, each from black to white."""
    images = np.asarray(images[:SHOWN_IMAGES])
    low, high = (function(images, axis=(1, 2, 3), keepdims=True) for function in (np.min, np.max))
    with self._events.as_default(step):
      tf.summary.image("images", (images - low) / np.maximum(high - low, 1e-6), max_outputs=SHOWN_IMAGES)

  def save(self):
    """Writes the gammas and flushes the events."""
    self._events.flush()
    if self._gammas:
      steps = sorted(self._gammas)
      arrays = {path: np.stack([self._gammas[at][path] for at in steps]) for path in self._gammas[steps[0]]}
      with atomic_file(self._npz) as file:
        np.savez(file, step=np.array(steps), **arrays)


def read_metrics(directory):
  """The rows of `metrics.csv` as dicts, `step` an int and the rest floats; [] without one.

  `l1_penalty` is NaN where the rows were written before there was that column.
  """
  path = directory / "metrics.csv"
  if not path.exists():
    return []
  with open(path, newline="") as file, _damage_is_said(path):
    reader = csv.DictReader(file)
    if tuple(reader.fieldnames or COLUMNS) not in (COLUMNS, COLUMNS_BEFORE_L1_PENALTY):
      raise ValueError(reader.fieldnames)
    return [_row({"l1_penalty": "nan", **row}) for row in reader if row.get(COLUMNS[-1])]


def read_gammas(directory):
  """Step to path to gammas, (channels,) float32, from `gammas.npz`; {} without one."""
  path = directory / "gammas.npz"
  if not path.exists():
    return {}
  with _damage_is_said(path), np.load(path, allow_pickle=False) as arrays:
    paths = [name for name in arrays.files if name != "step"]
    return {int(at): {p: arrays[p][i] for p in paths} for i, at in enumerate(arrays["step"])}


def timestamp():
  """Now, as console lines and records have it."""
  return f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S.%f}"


@contextlib.contextmanager
def _damage_is_said(path):
  try:
    yield
  except Exception as error:  # Whatever numpy and csv raise for a damaged file.
    raise UserError(f"{path} is damaged; remove it to go on without what it recorded.") from error


def _row(texts):
  return {name: int(texts[name]) if name == "step" else float(texts[name]) for name in COLUMNS}


def _line(row):
  return ",".join(f"{row[name]:.9g}" if name != "step" else str(row[name]) for name in COLUMNS)
