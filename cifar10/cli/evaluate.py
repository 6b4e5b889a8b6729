"""`cifar10-eval`: evaluates a checkpoint version."""

import sys

from cifar10.cli import command
from cifar10.config import EvalConfig
from cifar10.quiet import quietly

USAGE = """cifar10-eval evaluates the network of a version on CIFAR-10: the moving averages of its newest
training checkpoint, or, before it is trained, the squeezed network that version V-1 left there.
"""


def main(argv=None):
  """Runs the command; returns its exit code."""
  return command.main(EvalConfig, USAGE, _evaluate, argv)


def _evaluate(config):
  with quietly():
    from cifar10.evaluate import evaluate
  evaluate(config)


if __name__ == "__main__":
  sys.exit(main())
