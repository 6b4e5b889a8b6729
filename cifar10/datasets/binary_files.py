"""A file of CIFAR-10 in binary: records of a label byte, then the red, green and blue planes, row by row."""

import numpy as np

from cifar10.datasets.examples import NUM_CLASSES, Examples
from cifar10.errors import UserError

RECORDS_PER_FILE = 10000
RECORD_BYTES = 1 + 32 * 32 * 3


def parse(content, path):
  """What a file holds; arguments, result and errors are those of `python_files.parse`."""
  file_bytes = RECORDS_PER_FILE * RECORD_BYTES
  if len(content) != file_bytes:
    raise UserError(f"{path} has {len(content)} bytes instead of {file_bytes}; replace it by the published file.")
  records = np.frombuffer(content, np.uint8).reshape(RECORDS_PER_FILE, RECORD_BYTES)
  wrong = np.flatnonzero(records[:, 0] >= NUM_CLASSES)
  if wrong.size:
    raise UserError(
      f"{path} has label {records[wrong[0], 0]} in record {wrong[0]} (counted from 0) where labels"
      " are 0 to 9; replace it by the published file."
    )
  planes = records[:, 1:].reshape(-1, 3, 32, 32)
  return Examples(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].astype(np.int32))
