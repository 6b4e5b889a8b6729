"""`cifar10-export`: writes a version's network in other formats."""

import os
import sys

from cifar10.cli import command
from cifar10.config import ExportConfig

USAGE = """cifar10-export writes the network of --checkpoint_version V for other runtimes, batch norms folded into the
convolutions: as SavedModel, LiteRT in float32 and in int8, and ONNX. Each file is loaded again and compared with the
Keras model on 1,000 test images; a table says what came out, and export.json in the version's directory keeps it.
"""


def main(argv=None):
  """Runs the command; returns its exit code."""
  return command.main(ExportConfig, USAGE, _export, argv)


def _export(config):
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from cifar10.export import export

  export(config)


if __name__ == "__main__":
  sys.exit(main())
