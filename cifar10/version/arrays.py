"""NumPy's archives of arrays, `.npz`, read with limits and without pickle."""

import zipfile

import numpy as np

from cifar10.version.files import opened


def read_arrays(path, at_most, advice):
  """The arrays of an archive, a dict from name to array.

  Raises:
    UserError: it is no regular file, or larger than `at_most` bytes; the sentence ends with the advice.
    Exception: whatever numpy raises for a damaged file, and one that unpacks to more than `at_most` bytes.
  """
  with opened(path, at_most, advice) as file:
    if sum(member.file_size for member in zipfile.ZipFile(file).infolist()) > at_most:
      raise ValueError(f"it unpacks to more than {at_most} bytes")
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
      return {name: stored[name] for name in stored.files}
