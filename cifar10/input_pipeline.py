"""The images as arrays, and training batches as a pure function of (seed, step).

`load` reads a whole split into memory. `batch` cuts batch number `step` out of an endless row of
shuffled copies of it and distorts every image with random draws of its own. Nothing has a state, so
a run that stopped goes on exactly where it was, and every worker can make the same batch.
"""

import math

import tensorflow as tf

from cifar10.config import DATASETS
from cifar10.datasets import cifar10, synthetic
from cifar10.datasets.examples import IMAGE_SHAPE
from cifar10.errors import UserError

_PADDING = 4
_BRIGHTNESS_RANGE = (-63.0, 63.0)
_CONTRAST_RANGE = (0.2, 1.8)

# One stream of random numbers for each use of the seed.
_ORDER, _OFFSETS, _FLIPS, _BRIGHTNESS, _CONTRAST = range(5)


def load(dataset, split, data_dir=None):
  """Reads a split into memory.

  "cifar10" is looked for in `data_dir` as the published files, binary or for Python, there or in
  `cifar-10-batches-bin/` or `cifar-10-batches-py/`; then as a directory that TensorFlow Datasets has
  prepared, `cifar10/<version>/`; then as a published archive; else TensorFlow Datasets downloads it
  into `data_dir`. The examples and their order, that of the published files, are the same from every
  source. "synthetic" is made on the spot: see `datasets/synthetic.py`.

  Args:
    dataset: one of `DATASETS`.
    split: "train" or "test".
    data_dir: directory of the data, or a published archive; by default the environment variable
      CIFAR10_DATA_DIR, else TensorFlow Datasets' own default, with Keras' cache as a second one to
      look into. Not used for "synthetic".

  Returns:
    `Examples` of NumPy arrays.

  Raises:
    UserError: unknown dataset or split; data that is damaged, or absent and out of reach.
  """
  if dataset not in DATASETS:
    raise UserError(f"dataset is {dataset!r}; choose one of {', '.join(DATASETS)}.")
  if split not in synthetic.SPLITS:
    raise UserError(f"split is {split!r}; choose train or test.")
  return synthetic.load(split) if dataset == "synthetic" else cifar10.load(split, data_dir)


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


def distort(images, seed, step, first=0, batch_size=None, distortions=None):
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
    distortions: "paper", the default, or "crop_flip", which leaves brightness and contrast as they are.

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
  if distortions != "crop_flip":
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


def batch(examples, seed, step, batch_size, part=0, parts=1, distortions=None):
  """Makes batch number `step` of training, or a part of it: picks the examples and distorts the images.

  Args:
    examples: `Examples`; of tensors where this runs in a `tf.function`, as that would copy arrays
      into its graph.
    seed: int in [0, 2**63) or int64 scalar tensor.
    step: number of the batch, int or int64 scalar tensor.
    batch_size: int, at least 1; of the whole batch.
    part: which part of it, int or int32 scalar tensor from 0.
    parts: how many equal parts it has; divides `batch_size`.
    distortions: as for `distort`.

  Returns:
    images float32 (batch_size / parts, 32, 32, 3), labels int32 (batch_size / parts,).
  """
  share = batch_size // parts
  first = part * share
  indices = example_indices(seed, step, batch_size, examples.labels.shape[0])
  indices = tf.slice(indices, [first], [share])
  images = _gather_images(examples.images, indices)
  return distort(images, seed, step, first, batch_size, distortions), tf.gather(examples.labels, indices)


def _gather_images(images, indices):
  """`tf.gather` of images uint8, eight bytes at a time, since TensorFlow has no GPU kernel with single ones."""
  words = tf.bitcast(tf.reshape(images, [-1, math.prod(IMAGE_SHAPE) // 8, 8]), tf.int64)
  return tf.reshape(tf.bitcast(tf.gather(words, indices), tf.uint8), [-1, *IMAGE_SHAPE])
