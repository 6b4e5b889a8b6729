"""`cifar10-sweep`: trains chains for several penalties and seeds."""

import argparse
import math
import re
import sys

from cifar10 import recipes
from cifar10.cli import command
from cifar10.config import DATASETS, NETWORKS
from cifar10.sweep import sweep

USAGE = """Trains and evaluates a three-stage chain for each model, penalty of stage 2 and seed, in
TRAIN_DIR_<model>_p<penalty>_s<seed>_0 to _3, and prints a table of all. Run again, it goes on where it stopped."""
OWN_FLAGS = [
  "model",
  "dataset",
  "data_dir",
  "train_dir",
  "checkpoint_version",
  "seed",
  "l1_penalty",
  "max_steps",
  "target_sparsity",
  "squeeze_model",
  "flagfile",
  "help",
  "helpfull",
  "h",
  "version",
]


def main(argv=None):
  """Runs the command; returns its exit code: 1 if a chain failed, 130 if a signal came."""
  program, *given = sys.argv if argv is None else argv
  return command.run(program, sweep, _parse(program, given))


def _parse(program, given):
  parser = argparse.ArgumentParser(prog=command.name(program), description=USAGE)
  networks = f"{', '.join(NETWORKS)} or several, with commas"
  parser.add_argument("--models", type=listed(str), default=[NETWORKS[0]], help=networks)
  parser.add_argument("--warm_up_penalty", type=number, help="of stage 1")
  parser.add_argument("--fine_tune_learning_rate", type=number, help="of stage 3")
  parser.add_argument("--version", action="version", version=command.version())
  arguments = parse_grid(parser, given)
  for model in arguments.models:
    if model not in NETWORKS:
      parser.error(f"--models has {model!r}; expected {' or '.join(NETWORKS)}")
  return arguments


def parse_grid(parser, given, own_flags=OWN_FLAGS):
  """Parses the command line of a program that trains chains for several penalties and seeds.

  Args:
    parser: an `argparse.ArgumentParser` with what the program has besides.
    given: the command line without the program's name.
    own_flags: names of flags of `cifar10-train` that the program gives itself, and refuses.

  Returns:
    The arguments; `flags` of them has those for `cifar10-train`, which stand behind --.
  """
  parser.add_argument("train_dir", help="where the directories of all chains begin")
  parser.add_argument("--penalties", type=listed(number), required=True, help="of stage 2, separated by commas")
  parser.add_argument("--seeds", type=listed(whole_number), required=True, help="separated by commas")
  parser.add_argument("--recipe", default="paper", choices=recipes.RECIPES, help="of what is not given")
  parser.add_argument("--steps", type=listed(whole_number), help="of the three stages")
  parser.add_argument("--dataset", default=DATASETS[0], choices=DATASETS)
  parser.add_argument("--data_dir", help="directory of CIFAR-10; by default CIFAR10_DATA_DIR from the environment")
  parser.epilog = (
    "What follows -- are further flags of cifar10-train, for every stage; where the recipe has a learning rate for a "
    "stage, that stays."
  )
  end = given.index("--") if "--" in given else len(given)
  arguments = parser.parse_args(given[:end])
  arguments.flags = given[end + 1 :]
  arguments.penalties = list(dict.fromkeys(arguments.penalties))
  arguments.seeds = list(dict.fromkeys(arguments.seeds))
  if arguments.steps and len(arguments.steps) != 3:
    parser.error(f"--steps has {len(arguments.steps)} numbers; expected three, one a stage, like 30000,50000,50000")
  for flag in arguments.flags:
    name = re.fullmatch(r"--?(?:no)?(\w+)(?:=.*)?", flag)
    if name and name[1] in own_flags:
      parser.error(f"{flag} is {parser.prog}'s own to give; leave it out")
  return arguments


def listed(kind):
  """A parser of values separated by commas."""

  def values(text):
    return [kind(item) for item in text.split(",")]

  values.__name__ = "list"
  return values


def number(text):
  """A finite number of 0 or more."""
  value = float(text)
  if not 0 <= value < math.inf:
    raise argparse.ArgumentTypeError(f"{text} is no finite number of 0 or more")
  return value


def whole_number(text):
  """A whole number of 0 or more."""
  if not text.isdecimal():
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
  return int(text)


if __name__ == "__main__":
  sys.exit(main())
