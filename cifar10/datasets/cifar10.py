"""CIFAR-10, wherever it is: as published, or what TensorFlow Datasets has prepared or now downloads."""

import os
import pathlib

from cifar10.datasets import prepared, published
from cifar10.errors import UserError


def load(split, data_dir=None):
  """Reads a split; the arguments and errors are those of `input_pipeline.load`."""
  place = _place(data_dir)
  if place.is_file():
    return published.read_archive(place, split)
  places = [place] if _named(data_dir) else [place, _keras_cache()]
  for there in places:
    read = _whole(there, split)
    if read:
      return read()
  _refuse_incomplete(place, split)
  return prepared.read(prepared.download(place), split)


def _named(data_dir):
  return data_dir or os.environ.get("CIFAR10_DATA_DIR")


def _place(data_dir):
  data_dir = _named(data_dir)
  if not data_dir:
    import tensorflow_datasets as tfds

    data_dir = tfds.core.constants.DATA_DIR
  try:
    data_dir = pathlib.Path(data_dir).expanduser()
  except RuntimeError as error:
    raise UserError(f"data_dir {data_dir} names the home of a user who is not known; give the whole path.") from error
  if data_dir.exists() and not data_dir.is_dir() and not data_dir.is_file():
    raise UserError(f"data_dir {data_dir} is not a directory; give the directory of the data.")
  return data_dir


def _keras_cache():
  """Where `keras.datasets.cifar10` leaves what it downloads."""
  return pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets"


def _whole(place, split):
  """A function that reads the split from the first of its forms that is whole in a directory; None without one."""
  for form, directory in _directories(place):
    if not published.missing(form, directory, split):
      return lambda: published.read_directory(form, directory, split)
  version = prepared.prepared_dir(place)
  if version:
    return lambda: prepared.read(version, split)
  for form in published.FORMS:
    archive = place / form.archive
    if archive.is_file():
      return lambda: published.read_archive(archive, split)
  return None


def _refuse_incomplete(place, split):
  for form, directory in _directories(place):
    missing = published.missing(form, directory, split)
    there = [name for names in form.files.values() for name in names if (directory / name).is_file()]
    if there or (directory != place and directory.is_dir()):
      first, *others = missing
      others = f", and so are {', '.join(others)}" if others else ""
      raise UserError(
        f"{directory / first} is missing{others}; of the published files there {'are' if there else 'is'} "
        f"{', '.join(there) or 'none'}: put all six there, or the archive {form.archive} in {place}."
      )


def _directories(place):
  return [(form, place / name) for form in published.FORMS for name in form.directories]
