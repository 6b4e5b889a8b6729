"""`cifar10-report`: writes a page about chains of checkpoint versions."""

import os
import sys

from absl import flags

from cifar10.cli import command
from cifar10.config import ReportConfig

USAGE = """cifar10-report writes one HTML page and PNG pictures about a chain of checkpoint versions, or several:
precision against parameters and multiply-adds, channels kept, gammas, the course of the training, what is missing.
"""


def flag_values():
  """The flags of the command."""
  values, defaults = flags.FlagValues(), ReportConfig()
  command.define_paths(
    values,
    "train_dir",
    defaults.train_dir,
    "Directory of a version, without _<version>; several, with commas between them, are compared.",
  )
  command.define_path(
    values,
    "output_dir",
    defaults.output_dir,
    "Directory to write to. By default <train_dir>_report, or, of several, the first's with _comparison.",
  )
  return values


def main(argv=None):
  """Runs the command; returns its exit code."""
  argv = sys.argv if argv is None else argv
  config = ReportConfig(**command.parse(flag_values(), USAGE, argv))
  return command.run(argv[0], _report, config)


def _report(config):
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from cifar10.report import report

  report(config)


if __name__ == "__main__":
  sys.exit(main())
