"""The built-in data set: ten classes of textures, made on the spot."""

import math

import numpy as np

from cifar10.datasets.examples import IMAGE_SHAPE, NUM_CLASSES, Examples

SPLITS = {"train": (20000, 1), "test": (10000, 2)}  # number of images, seed
_INTEGER_ROOTS = np.array([math.isqrt(n) for n in range(2 * 24**2)], np.int16)


def load(split):
  """Makes a split, "train" or "test"."""
  return synthetic(*SPLITS[split])


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
