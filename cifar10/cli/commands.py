"""`python -m cifar10 COMMAND ...` runs a command where none is on the path, like `cifar10-train` for train."""

import importlib
import sys

from cifar10.cli import command

# What `python -m cifar10` calls each command, its module here, and what it does.
COMMANDS = {
  "train": ("train", "train one stage and squeeze its network into the next version"),
  "eval": ("evaluate", "evaluate a version"),
  "predict": ("predict", "classify image files"),
  "export": ("export", "write a version's network for other runtimes"),
  "report": ("report", "write a page about chains of versions"),
  "table": ("table", "print the evaluations of a chain"),
  "sweep": ("sweep", "train chains for several penalties and seeds"),
  "squeeze": ("squeeze", "make a Keras file smaller; keras-squeeze by itself"),
}
USAGE = "usage: python -m cifar10 COMMAND ...; COMMAND --help lists the flags of one.\n"


def main(argv=None):
  """Runs the command that the first argument names, with the others; returns its exit code."""
  _, *arguments = sys.argv if argv is None else argv
  if not arguments or arguments[0] in command.HELP:
    print(USAGE)
    for name, (_, purpose) in COMMANDS.items():
      print(f"  {name:8}  {purpose}")
    return 0 if arguments else command.BAD_FLAGS
  if arguments[0] in command.VERSION:
    print(command.version())
    return 0
  name, *arguments = arguments
  if name not in COMMANDS:
    print(f"cifar10: there is no command {name!r}; expected one of {', '.join(COMMANDS)}.", file=sys.stderr)
    return command.BAD_FLAGS
  module = importlib.import_module(f"cifar10.cli.{COMMANDS[name][0]}")
  return module.main([f"cifar10 {name}", *arguments])
