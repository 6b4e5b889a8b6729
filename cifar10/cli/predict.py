"""`cifar10-predict`: classifies image files."""

import sys

from cifar10.cli import command
from cifar10.config import PredictConfig
from cifar10.quiet import quietly

USAGE = """cifar10-predict IMAGE ... prints for each image file the most probable classes, as the network of
--checkpoint_version V sees it. PNG, JPEG, BMP and GIF (its first frame) of any size will do: the largest square in the
middle is scaled to 32x32.
"""


def main(argv=None):
  """Runs the command; returns its exit code."""
  return command.main(PredictConfig, USAGE, _predict, argv)


def _predict(config):
  with quietly():
    from cifar10.predict import predict
  predict(config)


if __name__ == "__main__":
  sys.exit(main())
