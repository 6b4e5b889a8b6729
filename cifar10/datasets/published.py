"""CIFAR-10 as its authors publish it: two archives, one of binary files and one of Python's pickles.

An archive is read as it is. Nothing of it is written anywhere, so that its directory may be one that cannot be written,
and no name in it becomes a path. It takes some seconds more than the files that it unpacks to.
"""

import hashlib
import tarfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cifar10.datasets import binary_files, python_files
from cifar10.datasets.examples import Examples
from cifar10.errors import UserError

SOURCE = "https://www.cs.toronto.edu/~kriz/"
MOST_BYTES = 1 << 26  # Of a file; the published ones have 31 million.
MOST_ARCHIVE_BYTES = 1 << 28  # The published ones have 171 million.


class Form(NamedTuple):
  """One of the two.

  Attributes:
    archive: its file name.
    sha256: of the archive.
    directories: where its files lie: that which it unpacks to first; "." for a directory that holds them itself.
    files: dict from split to file names.
    parse: function from the bytes and the path of a file to `Examples`.
  """

  archive: str
  sha256: str
  directories: tuple[str, ...]
  files: dict[str, tuple[str, ...]]
  parse: Callable


FORMS = (
  Form(
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",  # As TensorFlow Datasets has it.
    ("cifar-10-batches-bin", "."),
    {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    binary_files.parse,
  ),
  Form(
    "cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",  # As Keras has it.
    # The last is where Keras 3 unpacks it, in ~/.keras/datasets.
    ("cifar-10-batches-py", ".", "cifar-10-batches-py-target/cifar-10-batches-py"),
    {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    python_files.parse,
  ),
)


def missing(form, directory, split):
  """The files of a split that a directory, a `pathlib.Path`, lacks: a list of names."""
  return [name for name in form.files[split] if not (directory / name).is_file()]


def read_directory(form, directory, split):
  """Reads a split from the files of a form in a directory, a `pathlib.Path`.

  Returns:
    `Examples` of NumPy arrays.

  Raises:
    UserError: a file is damaged, or another one.
  """
  paths = [directory / name for name in form.files[split]]
  return _joined(form.parse(_content(path), path) for path in paths)


def read_archive(path, split):
  """Reads a split from an archive, whatever its name, if it has the checksum of a published one.

  Raises:
    UserError: it has another one.
  """
  with path.open("rb") as file:
    form = _form(file, path)
    file.seek(0)
    names = [f"{form.directories[0]}/{name}" for name in form.files[split]]
    with tarfile.open(fileobj=file, mode="r|gz") as archive:  # Members come once, in their order.
      contents = {member.name: archive.extractfile(member).read() for member in archive if member.name in names}
  return _joined(form.parse(contents[name], f"{name} in {path}") for name in names)


def _form(file, path):
  size = path.stat().st_size
  digest = hashlib.file_digest(file, "sha256").hexdigest() if size <= MOST_ARCHIVE_BYTES else None
  for form in FORMS:
    if form.sha256 == digest:
      return form
  expected = " or ".join(f"{form.sha256} ({form.archive})" for form in FORMS)
  raise UserError(
    f"{path} is not a directory and no published archive of CIFAR-10: it has {size} bytes, SHA-256 {digest}; expected "
    f"{expected}, from {SOURCE}."
  )


def _content(path):
  size = path.stat().st_size
  if size > MOST_BYTES:
    raise UserError(f"{path} has {size} bytes, and {MOST_BYTES} are the most; replace it by the published file.")
  return path.read_bytes()


def _joined(parts):
  return Examples(*map(np.concatenate, zip(*parts)))
