"""What a data set is to the rest of the program: images and labels in memory, and the names of the classes."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
  import tensorflow as tf

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
CLASSES = {"cifar10": CLASS_NAMES, "synthetic": SYNTHETIC_CLASS_NAMES}  # By data set.


class Examples(NamedTuple):
  """A split: `images` uint8 (n, 32, 32, 3) and `labels` int32 (n,), NumPy arrays or tensors."""

  images: "np.ndarray | tf.Tensor"
  labels: "np.ndarray | tf.Tensor"
