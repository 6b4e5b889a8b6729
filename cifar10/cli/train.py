"""`cifar10-train`: trains one stage."""

import sys

from cifar10.cli import command
from cifar10.config import TrainConfig
from cifar10.quiet import quietly

USAGE = """cifar10-train trains one stage: from the network of --checkpoint_version V, which it resumes or starts, to
--max_steps; then it removes the channels whose gamma is 0 and writes the smaller network as version V+1.
"""


def main(argv=None):
  """Runs the command; returns its exit code."""
  return command.main(TrainConfig, USAGE, _train, argv)


def _train(config):
  # Between workers TensorFlow logs as errors what workers.py says in a sentence.
  level = "3" if config.distribution_strategy == "multi_worker" else "2"
  with quietly("0" if config.log_device_placement else level):
    from cifar10.train import train
  train(config)


if __name__ == "__main__":
  sys.exit(main())
