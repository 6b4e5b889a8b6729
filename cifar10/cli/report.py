"""`cifar10-report`: writes a page about chains of checkpoint versions."""

import os
import sys

from cifar10.cli import command
from cifar10.config import ReportConfig

USAGE = """cifar10-report writes one HTML page and PNG pictures about a chain of checkpoint versions, or several:
precision against parameters and multiply-adds, channels kept, gammas, the course of the training, what is missing.
"""


def main(argv=None):
  """Runs the command; returns its exit code."""
  return command.main(ReportConfig, USAGE, _report, argv)


def _report(config):
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from cifar10.report import report

  report(config)


if __name__ == "__main__":
  sys.exit(main())
