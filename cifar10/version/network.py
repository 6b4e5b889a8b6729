"""The file of the network that a version starts from, `model.keras`, as far as that takes no Keras."""

import hashlib
import zipfile

MODEL_FILE = "model.keras"
_WEIGHTS = "model.weights.h5"


def checksum(directory):
  """What tells the network of a version's directory from others: the SHA-256 of its weights, in hexadecimal.

  It stays the same where the same network is written again. None where there is no network, or a damaged one.
  """
  try:
    with zipfile.ZipFile(directory / MODEL_FILE) as file:
      return hashlib.sha256(file.read(_WEIGHTS)).hexdigest()
  except Exception:  # Whatever zipfile and zlib raise for a damaged file.
    return None
