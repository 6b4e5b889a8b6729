"""CIFAR-10 as arrays, and training batches as a pure function of (seed, step).

`load` reads a whole split into memory. `batch` cuts batch number `step` out of an endless row of
shuffled copies of it and distorts every image with random draws of its own. Nothing has a state, so
a run that stopped goes on exactly where it was, and every worker can make the same batch.
"""

import http.client
import math
import os
import pathlib
import queue
import ssl
import threading
import urllib.request
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from cifar10.errors import UserError, first_line

IMAGE_SHAPE = (32, 32, 3)
NUM_CLASSES = 10
CLASS_NAMES = (
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
)
SYNTHETIC_CLASS_NAMES = tuple(
  f"{width} {kind}"
  for kind in ("horizontal stripes", "vertical stripes", "diagonal stripes", "checkerboard", "rings")
  for width in ("narrow", "wide")
)
DATASETS = ("cifar10", "synthetic")

_BINARY_DIR = "cifar-10-batches-bin"
_BINARY_FILES = {
  "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
  "test": ("test_batch.bin",),
}
_RECORDS_PER_FILE = 10000
_RECORD_BYTES = 1 + 32 * 32 * 3
_FILE_BYTES = _RECORDS_PER_FILE * _RECORD_BYTES
_PROBE_SECONDS = 8

_SYNTHETIC = {"train": (20000, 1), "test": (10000, 2)}  # number of images, seed
_INTEGER_ROOTS = np.array([math.isqrt(n) for n in range(2 * 24**2)], np.int16)

_PADDING = 4
_BRIGHTNESS_RANGE = (-63.0, 63.0)
_CONTRAST_RANGE = (0.2, 1.8)

# One stream of random numbers for each use of the seed.
_ORDER, _OFFSETS, _FLIPS, _BRIGHTNESS, _CONTRAST = range(5)


class Examples(NamedTuple):
  """A split: `images` uint8 (n, 32, 32, 3) and `labels` int32 (n,), NumPy arrays or tensors."""

  images: np.ndarray | tf.Tensor
  labels: np.ndarray | tf.Tensor


def load(dataset, split, data_dir=None):
  """Reads a split into memory.

  "cifar10" is looked for in `data_dir` as the published binary files, in `cifar-10-batches-bin/`,
  then as a directory that TensorFlow Datasets has prepared, `cifar10/<version>/`; else TensorFlow
  Datasets downloads it into `data_dir`. The examples and their order, that of the published files,
  are the same from every source. "synthetic" is made on the spot: see `synthetic`.

  Args:
    dataset: one of `DATASETS`.
    split: "train" or "test".
    data_dir: directory of the data; by default the environment variable CIFAR10_DATA_DIR, else
      TensorFlow Datasets' own default. Not used for "synthetic".

  Returns:
    `Examples` of NumPy arrays.

  Raises:
    UserError: unknown dataset or split; data that is damaged, or absent and out of reach.
  """
  if dataset not in DATASETS:
    raise UserError(f"dataset is {dataset!r}; choose one of {', '.join(DATASETS)}.")
  if split not in _BINARY_FILES:
    raise UserError(f"split is {split!r}; choose train or test.")
  if dataset == "synthetic":
    return synthetic(*_SYNTHETIC[split])
  return _load_cifar10(split, _resolve_data_dir(data_dir))


def _resolve_data_dir(data_dir):
  data_dir = data_dir or os.environ.get("CIFAR10_DATA_DIR")
  if not data_dir:
    import tensorflow_datasets as tfds

    data_dir = tfds.core.constants.DATA_DIR
  try:
    data_dir = pathlib.Path(data_dir).expanduser()
  except RuntimeError as error:
    raise UserError(f"data_dir {data_dir} names the home of a user who is not known; give the whole path.") from error
  if data_dir.exists() and not data_dir.is_dir():
    raise UserError(f"data_dir {data_dir} is not a directory; give the directory of the data.")
  return data_dir


def _load_cifar10(split, data_dir):
  binary_dir = data_dir / _BINARY_DIR
  if binary_dir.is_dir():
    return _read_binary([binary_dir / name for name in _BINARY_FILES[split]])
  prepared_dir = _prepared_dir(data_dir) or _download(data_dir)
  return _read_prepared(prepared_dir, split)


def _read_binary(paths):
  """Reads files of 10000 records: a label byte, then the red, green and blue planes, row by row."""
  records = np.concatenate([_read_records(path) for path in paths])
  planes = records[:, 1:].reshape(-1, 3, 32, 32)
  images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
  return Examples(images, records[:, 0].astype(np.int32))


def _read_records(path):
  if not path.is_file():
    raise UserError(f"{path} is missing; put all six published .bin files in {path.parent}.")
  size = path.stat().st_size
  if size != _FILE_BYTES:
    raise UserError(f"{path} has {size} bytes instead of {_FILE_BYTES}; replace it by the published file.")
  records = np.fromfile(path, np.uint8).reshape(_RECORDS_PER_FILE, _RECORD_BYTES)
  wrong = np.flatnonzero(records[:, 0] >= NUM_CLASSES)
  if wrong.size:
    raise UserError(
      f"{path} has label {records[wrong[0], 0]} in record {wrong[0]} (counted from 0) where labels"
      " are 0 to 9; replace it by the published file."
    )
  return records


def _prepared_dir(data_dir):
  """The newest version that TensorFlow Datasets has prepared, or None.

  It prepares a version in a directory `incomplete.*` and renames that at the end, so a directory
  named by a version is whole.
  """
  return max(data_dir.glob("cifar10/[0-9].[0-9].[0-9]"), default=None)


def _read_prepared(prepared_dir, split):
  import tensorflow_datasets as tfds

  try:
    # Unlike `tfds.builder`, this reads the directory alone and never asks a server.
    builder = tfds.builder_from_directory(prepared_dir)
    columns = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    order = np.argsort(columns["id"])
    return Examples(columns["image"][order], columns["label"][order].astype(np.int32))
  except Exception as error:  # Damage shows as any of a dozen types.
    raise UserError(
      f"{prepared_dir} cannot be read as CIFAR-10 prepared by TensorFlow Datasets"
      f" ({first_line(error)}); delete it to have it downloaded again."
    ) from error


def _download(data_dir):
  """Has TensorFlow Datasets download, verify and prepare CIFAR-10; returns the prepared directory.

  It compares the archive with its registered SHA-256 before it uses it, and gives files their final
  names only when they are whole, so a download that fails leaves nothing that is taken for data.
  """
  import tensorflow_datasets as tfds

  advice = (
    f"put the six published .bin files in {data_dir / _BINARY_DIR}, or name a directory that has"
    " the data with --data_dir or CIFAR10_DATA_DIR."
  )
  builder = tfds.builder("cifar10", data_dir=data_dir)
  (url,) = builder.url_infos
  problem = _probe(url)
  if problem:
    raise UserError(f"{data_dir} has no CIFAR-10 and {url} is out of reach ({problem}); {advice}")
  try:
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=config)
  except Exception as error:  # The network, the disk, the archive: any of many types.
    raise UserError(
      f"downloading CIFAR-10 from {url} to {data_dir} failed ({first_line(error)}); try again, or {advice}"
    ) from error
  return pathlib.Path(builder.data_dir)


def _probe(url):
  """Says why `url` cannot be had, or None if it can; TensorFlow Datasets itself tries for minutes.

  The thread bounds name resolution too, which heeds no timeout.
  """
  problems = queue.Queue()
  threading.Thread(target=lambda: problems.put(_request_head(url)), daemon=True).start()
  try:
    return problems.get(timeout=_PROBE_SECONDS)
  except queue.Empty:
    return f"no answer in {_PROBE_SECONDS} seconds"


def _request_head(url):
  try:
    request = urllib.request.Request(url, method="HEAD")
    urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()
  except (OSError, http.client.HTTPException) as error:
    if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
      return None  # Somebody answered, and the download brings its own certificates.
    return first_line(error)
  return None


def synthetic(num_images, seed):
  """Ten classes of two-coloured textures that only their structure tells apart.

  Label 2 * k + c: k is horizontal stripes, vertical stripes, diagonal stripes, checkerboard or
  rings; bands are 2 pixels wide for c = 0 and 4 for c = 1. Position, direction of the diagonal and
  both colours are random and independent of the class. The same on every machine: there are only
  integers, and NumPy promises (NEP 19) that the stream of RandomState never changes.

  Args:
    num_images: int, how many; the classes take turns.
    seed: int, 0 to 2**32 - 1.

  Returns:
    `Examples` of NumPy arrays.
  """
  rng = np.random.RandomState(seed)
  labels = np.arange(num_images, dtype=np.int32) % NUM_CLASSES
  colours = rng.randint(0, 240, (num_images, 2, 1, 1, 3), np.uint8)
  position = rng.randint(8, 24, (2, num_images, 1, 1), np.int16)
  direction = rng.randint(0, 2, (num_images, 1, 1), np.int16) * 2 - 1
  noise = np.frombuffer(rng.bytes(num_images * math.prod(IMAGE_SHAPE)), np.uint8) >> 4

  odd = np.empty((num_images, 32, 32, 1), bool)
  for label in range(NUM_CLASSES):
    of_class = slice(label, None, NUM_CLASSES)
    odd[of_class, ..., 0] = _texture(label, position[:, of_class], direction[of_class])
  images = np.where(odd, colours[:, 0], colours[:, 1])
  images += noise.reshape(images.shape)
  return Examples(images, labels)


def _texture(label, position, direction):
  """Which pixels of each image lie in odd bands; bool (n, 32, 32), or dimensions of 1 there."""
  kind, coarse = divmod(label, 2)
  y = np.arange(32, dtype=np.int16)[:, None] - position[0]
  x = np.arange(32, dtype=np.int16) - position[1]
  shift = 1 + coarse
  match kind:
    case 0:
      bands = y >> shift
    case 1:
      bands = x >> shift
    case 2:
      bands = (y + direction * x) >> shift
    case 3:
      bands = (y >> shift) + (x >> shift)
    case 4:
      bands = _INTEGER_ROOTS[y * y + x * x] >> shift
  return bands & 1 == 1


def standardize(images):
  """Scales each image to mean 0 and variance 1, as the reference does in training and evaluation.

      (x - mean) / max(standard deviation, 1 / sqrt(3072))

  Args:
    images: (batch, 32, 32, 3), any real dtype.

  Returns:
    float32 (batch, 32, 32, 3).
  """
  return tf.image.per_image_standardization(images)


def example_indices(seed, step, batch_size, num_examples):
  """Says which examples make up a batch.

  Let every epoch be the whole training set in an order of its own, drawn from (seed, epoch), and
  the epochs stand in one endless row: the batch is positions step * batch_size to
  (step + 1) * batch_size - 1 of it. (The reference only approximates a shuffle.)

  Args:
    seed: int in [0, 2**63) or int64 scalar tensor.
    step: number of the batch, int or int64 scalar tensor; (step + 1) * batch_size < 2**63.
    batch_size: int, at least 1; may exceed `num_examples`.
    num_examples: int, at least 1.

  Returns:
    int64 (batch_size,), values in [0, num_examples).
  """
  # index_shuffle, the cheaper op, does not fit: it uses 8 bits of each word of the seed, gives no
  # permutation for 65537 examples, and rejects a seed for each index (TensorFlow 2.21).
  start = tf.convert_to_tensor(step, tf.int64) * batch_size
  first, last = start // num_examples, (start + batch_size - 1) // num_examples
  epochs = tf.map_fn(
    lambda epoch: tf.random.experimental.stateless_shuffle(
      tf.range(num_examples, dtype=tf.int64), _derived_seed(seed, _ORDER, epoch), alg="philox"
    ),
    tf.range(first, last + 1),
  )
  return tf.slice(tf.reshape(epochs, [-1]), [start - first * num_examples], [batch_size])


def _derived_seed(seed, use, number):
  """The seed, int64 (2,), of draw `number` (a step or an epoch) for one use of `seed`."""
  stream = tf.stack([tf.convert_to_tensor(seed, tf.int64), use])
  number = tf.convert_to_tensor(number, tf.int64)
  return tf.random.experimental.stateless_fold_in(stream, number, alg="philox")


def distort(images, seed, step, first=0, batch_size=None):
  """Distorts and standardises a training batch, or a part of it, with draws of its own for each image.

  As the reference: `crop`, `flip`, `adjust_brightness`, `adjust_contrast`, `standardize`. The draws
  are a pure function of (seed, step), the size of the batch and the place in it. Standardisation
  takes the brightness out again, but for rounding.

  Args:
    images: uint8 (n, 32, 32, 3).
    seed: int in [0, 2**63) or int64 scalar tensor.
    step: number of the batch, int or int64 scalar tensor.
    first: place in the batch of the first of `images`, int or int32 scalar tensor.
    batch_size: size of the whole batch; by default n.

  Returns:
    float32 (n, 32, 32, 3).
  """
  count = tf.shape(images)[0]

  def uniform(use, shape, low, high, dtype=tf.float32):
    stream = _derived_seed(seed, use, step)
    shape = [count if batch_size is None else batch_size, *shape]
    draws = tf.random.stateless_uniform(shape, stream, low, high, dtype, alg="philox")
    # As int64, since TensorFlow slices int32 on the host.
    return (tf.cast(draws, tf.int64) if dtype.is_integer else draws)[first : first + count]

  images = tf.cast(images, tf.float32)  # Before tf.gather, for which TensorFlow has no GPU kernel with bytes.
  images = crop(images, uniform(_OFFSETS, [2], 0, 2 * _PADDING + 1, tf.int32))
  images = flip(images, uniform(_FLIPS, [], 0, 1) < 0.5)
  images = adjust_brightness(images, uniform(_BRIGHTNESS, [], *_BRIGHTNESS_RANGE))
  images = adjust_contrast(images, uniform(_CONTRAST, [], *_CONTRAST_RANGE))
  return standardize(images)


def crop(images, offsets):
  """Pads each image to 40x40 with zeros, 4 on each side, and cuts 32x32 out of it.

  Args:
    images: (batch, 32, 32, 3), any real dtype.
    offsets: int32 or int64 (batch, 2), row and column of the cut's upper left corner, 0 to 8.

  Returns:
    (batch, 32, 32, 3), of the same dtype.
  """
  images = tf.pad(images, [[0, 0], [_PADDING, _PADDING], [_PADDING, _PADDING], [0, 0]])
  kept = offsets[:, :, None] + tf.range(32, dtype=offsets.dtype)
  images = tf.gather(images, kept[:, 0], axis=1, batch_dims=1)
  return tf.gather(images, kept[:, 1], axis=2, batch_dims=1)


def flip(images, flipped):
  """Mirrors left and right the images, (batch, 32, 32, 3), that `flipped`, bool (batch,), marks."""
  columns = tf.range(32)
  return tf.gather(images, tf.where(flipped[:, None], 31 - columns, columns), axis=2, batch_dims=1)


def adjust_brightness(images, deltas):
  """Adds to each image, float32 (batch, 32, 32, 3), its one of `deltas`, float32 (batch,)."""
  return images + deltas[:, None, None, None]


def adjust_contrast(images, factors):
  """Computes (x - mean) * factor + mean, with the mean that of each channel of each image.

  Args:
    images: float32 (batch, 32, 32, 3).
    factors: float32 (batch,), one for all channels of an image.

  Returns:
    float32 (batch, 32, 32, 3).
  """
  means = tf.reduce_mean(images, [1, 2], keepdims=True)
  return (images - means) * factors[:, None, None, None] + means


def batch(examples, seed, step, batch_size, part=0, parts=1):
  """Makes batch number `step` of training, or a part of it: picks the examples and distorts the images.

  Args:
    examples: `Examples`; of tensors where this runs in a `tf.function`, as that would copy arrays
      into its graph.
    seed: int in [0, 2**63) or int64 scalar tensor.
    step: number of the batch, int or int64 scalar tensor.
    batch_size: int, at least 1; of the whole batch.
    part: which part of it, int or int32 scalar tensor from 0.
    parts: how many equal parts it has; divides `batch_size`.

  Returns:
    images float32 (batch_size / parts, 32, 32, 3), labels int32 (batch_size / parts,).
  """
  share = batch_size // parts
  first = part * share
  indices = example_indices(seed, step, batch_size, examples.labels.shape[0])
  indices = tf.slice(indices, [first], [share])
  images = _gather_images(examples.images, indices)
  return distort(images, seed, step, first, batch_size), tf.gather(examples.labels, indices)


def _gather_images(images, indices):
  """`tf.gather` of images uint8, eight bytes at a time, since TensorFlow has no GPU kernel with single ones."""
  words = tf.bitcast(tf.reshape(images, [-1, math.prod(IMAGE_SHAPE) // 8, 8]), tf.int64)
  return tf.reshape(tf.bitcast(tf.gather(words, indices), tf.uint8), [-1, *IMAGE_SHAPE])
