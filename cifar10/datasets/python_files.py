"""A file of CIFAR-10 for Python: a pickled dict, of which `data` and `labels` count."""

import numpy as np

from cifar10.datasets import binary_files, pickles
from cifar10.datasets.examples import NUM_CLASSES, Examples
from cifar10.errors import UserError, first_line

ADVICE = "replace it by the published file"


def parse(content, path):
  """What a file holds.

  Args:
    content: its bytes.
    path: where it lies, for errors.

  Returns:
    `Examples` of NumPy arrays.

  Raises:
    UserError: it is damaged, or another file.
  """
  try:
    pickled = pickles.read(content)
  except ValueError as error:
    raise UserError(f"{path} cannot be read ({first_line(error)[:200]}); {ADVICE}.") from error
  data, labels = (pickled.get(name, pickled.get(name.encode())) for name in ("data", "labels"))
  count = binary_files.RECORDS_PER_FILE
  if not isinstance(data, np.ndarray) or data.shape != (count, 3072):
    raise UserError(f"{path} has no data of {count} images of 3072 bytes; {ADVICE}.")
  if not isinstance(labels, list) or len(labels) != count or not all(map(_is_label, labels)):
    raise UserError(f"{path} has no {count} labels from 0 to {NUM_CLASSES - 1}; {ADVICE}.")
  images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  return Examples(np.ascontiguousarray(images), np.array(labels, np.int32))


def _is_label(label):
  return type(label) is int and 0 <= label < NUM_CLASSES
