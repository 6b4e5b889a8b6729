"""The file of the network that a version starts from, `model.keras`, as far as that takes no Keras."""

import contextlib
import hashlib
import json
import math
import zipfile

from cifar10.errors import UserError
from cifar10.version import files

MODEL_FILE = "model.keras"
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MOST_BYTES_OF_CONFIG = 1 << 24
_WITHOUT_WEIGHTS = ("InputLayer", "ReLU", "Add", "Flatten", "AveragePooling2D", "MaxPooling2D")


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


def costs(directory):
  """Parameters and multiply-adds for one image of the network of a version's directory, read off its `config.json`.

  Of networks of other layers than those of `models.MODELS`, and of damaged files, both are None.
  """
  try:
    with members(directory / MODEL_FILE) as file:
      if file.getinfo(_CONFIG).file_size > _MOST_BYTES_OF_CONFIG:
        return None, None
      network = json.loads(file.read(_CONFIG))
    of_layers = [_costs_of(layer) for layer in network["config"]["layers"]]
    return tuple(map(sum, zip(*of_layers)))
  except Exception:  # Whatever a damaged or foreign file makes of it.
    return None, None


def _costs_of(layer):
  """Parameters and multiply-adds of a layer, as `config.json` describes it.

  Raises:
    ValueError: it is none of those that are known here, or is called several times.
  """
  name, config = layer["class_name"], layer["config"]
  if name in _WITHOUT_WEIGHTS:
    return 0, 0
  if len(layer["inbound_nodes"]) != 1:
    raise ValueError("shared")
  shape = layer["build_config"]["input_shape"]
  if name == "BatchNormalization":
    return shape[-1] * (2 + config["center"] + config["scale"]), 0
  if name != "Conv2D" or config["data_format"] != "channels_last":
    raise ValueError(name)
  kernel = math.prod(config["kernel_size"]) * shape[-1] // config["groups"] * config["filters"]
  sides = zip(shape[1:3], config["kernel_size"], config["strides"], config["dilation_rate"], strict=True)
  places = math.prod(_output_side(config["padding"], *side) for side in sides)
  return kernel + config["use_bias"] * config["filters"], places * kernel


def _output_side(padding, side, kernel, stride, dilation):
  if padding not in ("same", "valid"):
    raise ValueError(padding)
  return -(-(side - (padding == "valid") * dilation * (kernel - 1)) // stride)
