"""Trains and evaluates a three-stage chain for each model, penalty of stage 2 and seed, and prints a table of all.

A chain stands in TRAIN_DIR_<model>_p<penalty>_s<seed>_0 to _3. Run again, the sweep goes on where it stopped: finished
stages and recorded evaluations stay as they are. Where a stage or evaluation fails its chain ends, the others go on.
SIGINT, SIGTERM and SIGHUP stop it; the stage that was training saves first.
"""

import itertools
import shlex
import signal
import subprocess
import sys

from cifar10 import recipes
from cifar10.console import table
from cifar10.errors import UserError
from cifar10.version.evaluations import newest_evaluation

# What tells the stages apart, so that no further flag, which is for all of them, replaces it.
STAGE_FLAGS = {"model", "seed", "l1_penalty", "max_steps", "learning_rate"}


def sweep(arguments):
  """Runs what is not done yet.

  Args:
    arguments: what `cli/sweep.py` parses.

  Raises:
    UserError: a chain failed.
  """
  interrupt_on_signals()
  grid = list(itertools.product(arguments.models, arguments.penalties, arguments.seeds))
  chains = {f"{arguments.train_dir}_{m}_p{p:g}_s{s}": (m, p, s) for m, p, s in grid}
  failed = [chain for chain, settings in chains.items() if not run_chain(chain, *settings, arguments)]
  print_table(chains)
  whole = [chain for chain in chains if chain not in failed]
  if whole:
    print(f"cifar10-report --train_dir {shlex.quote(','.join(whole))}")
  if failed:
    raise UserError(f"failed: {', '.join(failed)}; what went wrong stands above. Run again to go on.")


def interrupt_on_signals():
  """Makes SIGTERM and SIGHUP a `KeyboardInterrupt`, as SIGINT is, so that a stage which is running can save."""
  for signum in (signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(signum) != signal.SIG_IGN:
      signal.signal(signum, signal.default_int_handler)


def run_chain(chain, model, penalty, seed, arguments):
  """Trains the stages of a chain, with an evaluation after each; False where one fails."""
  return all(
    trained(chain, version, settings, arguments) and evaluated(chain, version + 1, arguments)
    for version, settings in enumerate(stages(model, penalty, seed, arguments))
  )


def trained(chain, version, settings, arguments):
  """Trains a version of a chain, if that is not done; False where it fails."""
  where = [f"--train_dir={chain}", f"--checkpoint_version={version}"]
  first = recipes.flags({name: value for name, value in settings.items() if name not in STAGE_FLAGS})
  last = recipes.flags({name: value for name, value in settings.items() if name in STAGE_FLAGS})
  return succeeds("cifar10.cli.train", *data_flags(arguments), *where, *first, *arguments.flags, *last)


def evaluated(chain, version, arguments):
  """Evaluates the network that a version starts from, if that is not done; False where it fails."""
  where = [f"--checkpoint_dir={chain}", f"--checkpoint_version={version}"]
  return newest_evaluation(chain, version) is not None or succeeds(
    "cifar10.cli.evaluate", *data_flags(arguments), *where, "--checkpoint_iter=0"
  )


def data_flags(arguments):
  """The flags of the data set, of training and evaluation."""
  return [f"--dataset={arguments.dataset}", *([f"--data_dir={arguments.data_dir}"] if arguments.data_dir else [])]


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
      process.terminate()  # In the background of a script it would ignore SIGINT.
      process.wait()
      raise
  if code:
    print(f"The command above ended with exit code {code}; its chain ends here.", file=sys.stderr, flush=True)
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
