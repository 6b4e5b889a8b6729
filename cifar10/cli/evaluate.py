"""`cifar10-eval`: evaluates a checkpoint version."""

import os
import sys

from cifar10.cli import command
from cifar10.config import EvalConfig

USAGE = """cifar10-eval evaluates the network of --checkpoint_version V on CIFAR-10: the moving averages of its newest
training checkpoint, or, before it is trained, the squeezed network that version V-1 left there.
"""


def main(argv=None):
  """Runs the command; returns its exit code."""
  return command.main(EvalConfig, USAGE, _evaluate, argv)


def _evaluate(config):
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from cifar10.evaluate import evaluate

  evaluate(config)


if __name__ == "__main__":
  sys.exit(main())
