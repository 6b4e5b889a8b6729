"""Trains and evaluates a three-stage chain for each model, penalty of stage 2 and seed, and prints a table of all.

python scripts/sweep.py TRAIN_DIR --penalties 0.003,0.005 --seeds 1,2 [--models resnet20,cnn4]
  [--recipe paper] [--steps 30000,50000,50000] [--warm_up_penalty 0.001] [--fine_tune_learning_rate 0.01]
  [--dataset cifar10] [--data_dir DIR] [-- further flags of cifar10-train, for every stage]

A chain stands in TRAIN_DIR_<model>_p<penalty>_s<seed>_0 to _3. Run again, the sweep goes on where it stopped: finished
stages and recorded evaluations stay as they are. Where a stage or evaluation fails its chain ends, the others go on,
and the exit code is 1. SIGINT, SIGTERM and SIGHUP stop it; the stage that was training saves first.
"""

import argparse
import itertools
import math
import re
import shlex
import signal
import subprocess
import sys

from cifar10 import recipes
from cifar10.config import DATASETS, NETWORKS
from cifar10.console import table
from cifar10.version.evaluations import newest_evaluation

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
  "help",
]

# What tells the stages apart, so that no further flag, which is for all of them, replaces it.
STAGE_FLAGS = {"model", "seed", "l1_penalty", "max_steps", "learning_rate"}


def main():
  """Runs what is not done yet; exits with 1 if a chain failed, 130 if a signal came."""
  arguments = parse()
  for signum in (signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(signum) != signal.SIG_IGN:
      signal.signal(signum, signal.default_int_handler)
  grid = list(itertools.product(arguments.models, arguments.penalties, arguments.seeds))
  chains = {f"{arguments.train_dir}_{m}_p{p:g}_s{s}": (m, p, s) for m, p, s in grid}
  failed = []
  try:
    for chain, (model, penalty, seed) in chains.items():
      if not run_chain(chain, model, penalty, seed, arguments):
        failed.append(chain)
  except KeyboardInterrupt:
    sys.exit(130)
  print_table(chains)
  whole = [chain for chain in chains if chain not in failed]
  if whole:
    print(f"cifar10-report --train_dir {shlex.quote(','.join(whole))}")
  if failed:
    sys.exit(f"failed: {', '.join(failed)}; what went wrong stands above. Run again to go on.")


def parse():
  """The command line, checked."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("train_dir", help="where the directories of all chains begin")
  parser.add_argument("--penalties", type=listed(number), required=True, help="of stage 2, separated by commas")
  parser.add_argument("--seeds", type=listed(whole_number), required=True, help="separated by commas")
  networks = f"{', '.join(NETWORKS)} or several, with commas"
  parser.add_argument("--models", type=listed(str), default=[NETWORKS[0]], help=networks)
  parser.add_argument("--recipe", default="paper", choices=recipes.RECIPES, help="of what is not given")
  parser.add_argument("--steps", type=listed(whole_number), help="of the three stages")
  parser.add_argument("--warm_up_penalty", type=number, help="of stage 1")
  parser.add_argument("--fine_tune_learning_rate", type=number, help="of stage 3")
  parser.add_argument("--dataset", default=DATASETS[0], choices=DATASETS)
  parser.add_argument("--data_dir", help="directory of CIFAR-10; by default CIFAR10_DATA_DIR from the environment")
  parser.epilog = "What follows -- are further flags of cifar10-train, for every stage."
  end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
  arguments = parser.parse_args(sys.argv[1:end])
  arguments.flags = sys.argv[end + 1 :]
  if arguments.steps and len(arguments.steps) != 3:
    parser.error(f"--steps has {len(arguments.steps)} numbers; expected three, one a stage, like 30000,50000,50000")
  for model in arguments.models:
    if model not in NETWORKS:
      parser.error(f"--models has {model!r}; expected {' or '.join(NETWORKS)}")
  for flag in arguments.flags:
    name = re.fullmatch(r"--?(?:no)?(\w+)(?:=.*)?", flag)
    if name and name[1] in OWN_FLAGS:
      parser.error(f"{flag} is the sweep's own to give; leave it out")
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


def run_chain(chain, model, penalty, seed, arguments):
  """Trains the stages of a chain, with an evaluation after each; False where one fails."""
  data = [f"--dataset={arguments.dataset}", *([f"--data_dir={arguments.data_dir}"] if arguments.data_dir else [])]
  for version, settings in enumerate(stages(model, penalty, seed, arguments)):
    where = [f"--train_dir={chain}", f"--checkpoint_version={version}"]
    first = recipes.flags({name: value for name, value in settings.items() if name not in STAGE_FLAGS})
    last = recipes.flags({name: value for name, value in settings.items() if name in STAGE_FLAGS})
    if not succeeds("cifar10.cli.train", *data, *where, *first, *arguments.flags, *last):
      return False
    where = [f"--checkpoint_dir={chain}", f"--checkpoint_version={version + 1}", f"--eval_dir={chain}_eval"]
    evaluated = newest_evaluation(chain, version + 1) is not None
    if not evaluated and not succeeds("cifar10.cli.evaluate", *data, *where, "--checkpoint_iter=0"):
      return False
  return True


def stages(model, penalty, seed, arguments):
  """The settings of each stage of a chain: those of the recipe, but what the command line gives."""
  given = ({"model": model, "l1_penalty": arguments.warm_up_penalty}, {"l1_penalty": penalty})
  given += ({"learning_rate": arguments.fine_tune_learning_rate},)
  for version, settings in enumerate(recipes.RECIPES[arguments.recipe]):
    steps = arguments.steps[version] if arguments.steps else None
    own = {**given[version], "max_steps": steps, "seed": seed}
    yield {**settings, **{name: value for name, value in own.items() if value is not None}}


def succeeds(module, *flags):
  """Runs a command, in a session of its own so that the terminal's signals reach it once, through this program."""
  command = [sys.executable, "-m", module, *flags]
  print(f"$ {shlex.join(command)}", flush=True)
  with subprocess.Popen(command, start_new_session=True) as process:
    try:
      code = process.wait()
    except KeyboardInterrupt:
      process.send_signal(signal.SIGINT)
      process.wait()
      raise
  if code:
    print(f"sweep.py: the command above ended with exit code {code}; its chain ends here.", file=sys.stderr, flush=True)
  return code == 0


def print_table(chains):
  """Prints a row for each chain: what stages 2 and 3 made of the warmed-up network; - for what is not there."""
  header = ["model", "penalty", "seed", "parameters", "fewer", "multiply-adds", "warmed up", "pruned", "fine-tuned"]
  print(table(header, [cells(chain, *settings) for chain, settings in chains.items()]))


def cells(chain, model, penalty, seed):
  """The row of a chain."""
  versions = [newest_evaluation(chain, version) for version in (1, 2, 3)]
  size = ["-"] * 3
  if versions[0] and versions[1]:
    before, after = (version["parameters"] for version in versions[:2])
    size = [f"{after:,}", f"{1 - after / before:.1%}", f"{versions[1]['multiply_adds']:,}"]
  precisions = [f"{version['precision']:.4f}" if version else "-" for version in versions]
  return [model, f"{penalty:g}", seed, *size, *precisions]


if __name__ == "__main__":
  main()
