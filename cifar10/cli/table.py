"""`cifar10-table`: prints the newest evaluation of each version of a chain."""

import argparse
import sys

from cifar10.chain_table import chain_table, failures, read_rows
from cifar10.cli import command
from cifar10.errors import UserError

USAGE = """Prints the newest evaluation on the test images of each version of a chain, and checks what is asked of them.
The exit code is 1 where version 2 is not small enough, or a version not good enough."""


def main(argv=None):
  """Runs the command; returns its exit code."""
  program, *arguments = sys.argv if argv is None else argv
  arguments = _parser(program).parse_args(arguments)
  return command.run(program, _print_table, arguments)


def _parser(program):
  parser = argparse.ArgumentParser(prog=command.name(program), description=USAGE)
  parser.add_argument("train_dir", help="directory of a version, without _<version>")
  parser.add_argument("--min_reduction", type=float, help="least share of version 0's parameters that 2 lacks")
  parser.add_argument("--min_precision", type=float, help="least precision of some versions")
  parser.add_argument(
    "--of", type=_versions, default=[3], help="which versions need that, with commas between them; by default 3"
  )
  parser.add_argument("--version", action="version", version=command.version())
  return parser


def _versions(text):
  return [int(number) for number in text.split(",")]


def _print_table(arguments):
  rows = read_rows(arguments.train_dir)
  print(chain_table(rows))
  sentences = failures(rows, arguments.min_reduction, dict.fromkeys(arguments.of, arguments.min_precision))
  if sentences:
    raise UserError(*sentences)


if __name__ == "__main__":
  sys.exit(main())
