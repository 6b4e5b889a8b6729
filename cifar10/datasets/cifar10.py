"""CIFAR-10, wherever it is: the published binary files, else what TensorFlow Datasets has prepared or now downloads."""

import os
import pathlib

from cifar10.datasets import binary_files, prepared
from cifar10.errors import UserError


def load(split, data_dir=None):
  """Reads a split; the arguments and errors are those of `input_pipeline.load`."""
  directory = _resolve(data_dir)
  if (directory / binary_files.BINARY_DIR).is_dir():
    return binary_files.read(directory / binary_files.BINARY_DIR, split)
  return prepared.read(prepared.prepared_dir(directory) or prepared.download(directory), split)


def _resolve(data_dir):
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
