"""A checkpoint version: `directory.py` is what others ask; the other files are what stands in the directory."""

import pathlib


def directory_of(train_dir, number):
  """Where version `number` of a chain stands: `<train_dir>_<number>`, a `pathlib.Path`."""
  return pathlib.Path(f"{train_dir}_{number}")
