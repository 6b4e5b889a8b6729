"""`keras-squeeze`: makes a Keras file smaller."""

import sys

from cifar10.cli import command
from cifar10.config import SqueezeConfig
from cifar10.quiet import quietly

USAGE = """keras-squeeze MODEL.keras SMALLER.keras removes the dead channels of a Keras model, or, with a budget, those
that matter least, and writes the smaller model, which needs nothing of this program. It prints what goes from each
layer, and what stays though it is dead, and why. keras-squeeze MODEL.keras --plan prints that alone. No code of the
file runs.
"""


def main(argv=None):
  """Runs the command; returns its exit code."""
  return command.main(SqueezeConfig, USAGE, _squeeze, argv)


def _squeeze(config):
  with quietly():
    from cifar10.squeeze_file import squeeze_file
  squeeze_file(config)


if __name__ == "__main__":
  sys.exit(main())
