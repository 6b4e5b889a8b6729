"""`cifar10-report`: writes a page about chains of checkpoint versions."""

import sys

from cifar10.cli import command
from cifar10.config import ReportConfig

USAGE = """cifar10-report writes one HTML page and PNG pictures about a chain of checkpoint versions, or several:
parameters, multiply-adds and precision before and after, channels kept, classes, predictions, the course of the
training, gammas, what is missing.
"""


def main(argv=None):
  """Runs the command; returns its exit code."""
  return command.main(ReportConfig, USAGE, _report, argv)


def _report(config):
  from cifar10.report import report

  report(config)


if __name__ == "__main__":
  sys.exit(main())
