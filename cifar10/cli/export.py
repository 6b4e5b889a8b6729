"""`cifar10-export`: writes a version's network in other formats."""

import sys

from cifar10.cli import command
from cifar10.config import ExportConfig
from cifar10.quiet import quietly

USAGE = """cifar10-export writes the network of --checkpoint_version V for other runtimes, batch norms folded into the
convolutions: as SavedModel, LiteRT in float32 and in int8, and ONNX. Each file is loaded again and compared with the
Keras model on 1,000 test images; a table says what came out, and export.json in the version's directory keeps it.
"""


def main(argv=None):
  """Runs the command; returns its exit code."""
  return command.main(ExportConfig, USAGE, _export, argv)


def _export(config):
  with quietly():  # To the end, since the runtimes that it loads have lines of their own.
    from cifar10.export import export

    export(config)


if __name__ == "__main__":
  sys.exit(main())
