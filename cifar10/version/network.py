"""The file of the network that a version starts from, `model.keras`, as far as that takes no Keras."""

import contextlib
import hashlib
import zipfile

from cifar10.errors import UserError
from cifar10.version import files

MODEL_FILE = "model.keras"
_WEIGHTS = "model.weights.h5"


@contextlib.contextmanager
def members(path):
  """Opens the file of a network as the archive that it is, a `zipfile.ZipFile`.

  Raises:
    UserError: it is no regular file, or too large, packed or unpacked.
    Exception: whatever zipfile raises for a damaged file.
  """
  with files.opened(path, files.MOST_BYTES_OF_WEIGHTS) as file, zipfile.ZipFile(file) as archive:
    size = sum(member.file_size for member in archive.infolist())
    if size > files.MOST_BYTES_OF_WEIGHTS:
      raise UserError(f"{path} unpacks to {size:,} bytes; {files.MOST_BYTES_OF_WEIGHTS:,} are the most: remove it.")
    yield archive


def checksum(directory):
  """What tells the network of a version's directory from others: the SHA-256 of its weights, in hexadecimal.

  It stays the same where the same network is written again. None where there is no network, or a damaged one.
  """
  try:
    with members(directory / MODEL_FILE) as file:
      return hashlib.sha256(file.read(_WEIGHTS)).hexdigest()
  except Exception:  # Whatever zipfile and zlib raise for a damaged file.
    return None
