"""CIFAR-10 as the published binary files, in `cifar-10-batches-bin/`."""

import numpy as np

from cifar10.datasets.examples import NUM_CLASSES, Examples
from cifar10.errors import UserError

BINARY_DIR = "cifar-10-batches-bin"
FILES = {
  "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
  "test": ("test_batch.bin",),
}
RECORDS_PER_FILE = 10000
RECORD_BYTES = 1 + 32 * 32 * 3


def read(directory, split):
  """Reads a split from files of 10000 records: a label byte, then the red, green and blue planes, row by row.

  Args:
    directory: that holds the files, a `pathlib.Path`.
    split: "train" or "test".

  Returns:
    `Examples` of NumPy arrays.

  Raises:
    UserError: a file is missing or damaged.
  """
  records = np.concatenate([_read_records(directory / name) for name in FILES[split]])
  planes = records[:, 1:].reshape(-1, 3, 32, 32)
  images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
  return Examples(images, records[:, 0].astype(np.int32))


def _read_records(path):
  if not path.is_file():
    raise UserError(f"{path} is missing; put all six published .bin files in {path.parent}.")
  size, file_bytes = path.stat().st_size, RECORDS_PER_FILE * RECORD_BYTES
  if size != file_bytes:
    raise UserError(f"{path} has {size} bytes instead of {file_bytes}; replace it by the published file.")
  records = np.fromfile(path, np.uint8).reshape(RECORDS_PER_FILE, RECORD_BYTES)
  wrong = np.flatnonzero(records[:, 0] >= NUM_CLASSES)
  if wrong.size:
    raise UserError(
      f"{path} has label {records[wrong[0], 0]} in record {wrong[0]} (counted from 0) where labels"
      " are 0 to 9; replace it by the published file."
    )
  return records
