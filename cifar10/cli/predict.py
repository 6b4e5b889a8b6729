"""`cifar10-predict`: classifies image files."""

import os
import sys

from absl import flags

from cifar10.cli import command
from cifar10.config import PredictConfig

USAGE = """cifar10-predict IMAGE ... prints for each image file the most probable classes, as the network of
--checkpoint_version V sees it. PNG, JPEG, BMP and GIF (its first frame) of any size will do: the largest square in the
middle is scaled to 32x32.
"""


def flag_values():
  """The flags of the command."""
  values, defaults = flags.FlagValues(), PredictConfig()
  command.define_version(values, defaults, "use")
  flags.DEFINE_enum(
    "dataset",
    defaults.dataset,
    ["cifar10", "synthetic"],
    "Data set that the version was trained on; it names the classes.",
    flag_values=values,
  )
  command.define_number(values, "top", defaults.top, "Classes to print.", integer=True, low=1, high=10)
  return values


def main(argv=None):
  """Runs the command; returns its exit code."""
  argv = sys.argv if argv is None else argv
  config = PredictConfig(**command.parse(flag_values(), USAGE, argv, positional="images"))
  return command.run(argv[0], _predict, config)


def _predict(config):
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from cifar10.predict import predict

  predict(config)


if __name__ == "__main__":
  sys.exit(main())
