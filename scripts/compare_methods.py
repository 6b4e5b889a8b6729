"""Ways to a smaller resnet20, trained alike, at the same numbers of parameters: a table and a picture.

python scripts/compare_methods.py checkpoints/methods --recipe nesterov --penalties 0.01,0.015 --seeds 1,2

For each seed stage 1 of the recipe warms a network up. From there, whole: stages 2 and 3 without a penalty, for
comparison. And for each penalty:

- sparse gammas: stage 2 with that penalty, and stage 3. What is left of the parameters is the budget of the others,
  which come to no more than that;
- network slimming: the same with one penalty for all gammas, then pruned to the budget by gamma (as `prune` does it:
  each over the mean of its layer), and stage 3. Where stage 2 alone leaves less, that is what is compared;
- L1 norm: the warmed-up network pruned at once by the norms of kernels, and stages 2 and 3 without a penalty;
- random: the same, of channels that are drawn;
- narrower: a network of the budget with new weights, narrower by the same share everywhere; it is trained for as many
  steps, stages 1 and 2 in one without a penalty, and stage 3.

Batch norms in the middle of blocks alone have gammas, so the first two take channels there. The others narrow the sums
between blocks too.

What --steps does not give is the recipe's. What follows -- are further flags of cifar10-train, for every stage. Run
again after an interruption or a failure, it goes on: finished stages and recorded evaluations stay as they are, so
leave the recipe, --steps and those flags as they were.
"""

import argparse
import bisect
import collections
import contextlib
import importlib.util
import sys

from cifar10 import sweep
from cifar10.cli import command
from cifar10.cli.sweep import OWN_FLAGS, parse_grid
from cifar10.console import table
from cifar10.errors import UserError, how_to_install
from cifar10.quiet import quietly
from cifar10.sweep import stages
from cifar10.version.directory import Version
from cifar10.version.evaluations import newest_evaluation

with quietly():
  import keras
  import tensorflow as tf

  from cifar10.models import MODELS
  from cifar10.pruning import plan_prune, prune

NETWORK = "resnet20"
SHARES = 128  # Widths of narrower networks go in steps of one over this, from an eighth.
NOT_GIVEN = [*OWN_FLAGS, "uniform_penalties", "stop_at_plateau"]  # As these tell methods apart.


def train(chain, version, settings, arguments):
  """Trains a version of a chain, if that is not done; raises a `UserError` where it fails."""
  if not sweep.trained(chain, version, settings, arguments):
    raise UserError(f"{chain} failed; what went wrong stands above. Run again to go on.")


def warmed_up(seed, arguments):
  """The version to which stage 1 comes."""
  chain = f"{arguments.train_dir}_warm_s{seed}"
  warm_up, *_ = stages(NETWORK, 0.0, seed, arguments)
  train(chain, 0, warm_up, arguments)
  return Version(chain, 1)


def without_penalty(chain, network, seed, arguments):
  """Stage 2, without a penalty, from what `network()` gives."""
  _, train_on, _ = stages(NETWORK, 0.0, seed, arguments)
  begin(chain, network)
  train(chain, 1, train_on, arguments)


def whole(chain, penalty, seed, warm, arguments, budget):
  """Nothing is pruned."""
  without_penalty(chain, warm.network, seed, arguments)


def sparse_gammas(chain, penalty, seed, warm, arguments, budget):
  """The paper's way; there is no budget."""
  _, sparsify, _ = stages(NETWORK, penalty, seed, arguments)
  begin(chain, warm.network)
  train(chain, 1, sparsify, arguments)


def slimming(chain, penalty, seed, warm, arguments, budget):
  """A plain L1 penalty, and then the smallest gammas go."""
  _, sparsify, _ = stages(NETWORK, penalty, seed, arguments)
  begin(chain, warm.network)
  train(chain, 1, {**sparsify, "uniform_penalties": True}, arguments)
  version = Version(chain, 2)
  if version.network().count_params() > budget:
    version.write_network(pruned(version.network(), budget, chain, importance="gamma"))


def pruned_at_once(importance):
  """A way that prunes the warmed-up network before stage 2."""

  def way(chain, penalty, seed, warm, arguments, budget):
    wanted = {"importance": importance, "seed": seed}
    without_penalty(chain, lambda: pruned(warm.network(), budget, chain, **wanted), seed, arguments)

  return way


def narrower(chain, penalty, seed, warm, arguments, budget):
  """New weights."""
  warm_up, train_on, _ = stages(NETWORK, 0.0, seed, arguments)
  begin(chain, lambda: new_network(budget, seed, chain))
  train(chain, 1, {**train_on, "max_steps": warm_up["max_steps"] + train_on["max_steps"]}, arguments)


def new_network(budget, seed, chain):
  """The widest network of the budget of which all layers are narrower by the same share."""
  keras.utils.set_random_seed(seed)
  full = MODELS[NETWORK]()

  def wanted(share):
    return {"channels": share / SHARES, "importance": "random"}

  def parameters(share):
    return plan_prune(full, **wanted(share)).parameters_after

  shares = range(SHARES // 8, SHARES)
  fitting = bisect.bisect_right(shares, budget, key=parameters)
  if not fitting:
    raise out_of_reach(chain, f"the narrowest {NETWORK} has {parameters(shares[0]):,} parameters, more than {budget:,}")
  smaller, _ = prune(full, **wanted(shares[fitting - 1]))
  return keras.models.clone_model(smaller)  # Which draws new weights, for these widths.


def pruned(model, budget, chain, **wanted):
  """The model at the budget of parameters."""
  try:
    return prune(model, parameters=budget, **wanted)[0]
  except ValueError as error:
    raise out_of_reach(chain, error) from error


def out_of_reach(chain, sentence):
  """The error of a budget that cannot be met."""
  return UserError(f"{chain}: {sentence}. With a lower penalty the budget is larger.")


WAYS = {
  "sparse gammas": sparse_gammas,
  "network slimming": slimming,
  "L1 norm": pruned_at_once("l1"),
  "random": pruned_at_once("random"),
  "narrower": narrower,
}


def begin(chain, network):
  """Lets version 1 of a chain start from what `network()` gives, if it does not exist."""
  version = Version(chain, 1)
  if not version.has_network():
    version.read_stage()  # Which refuses a directory that something else has written.
    version.replace(network())


def compared(arguments):
  """Trains what is not trained: dict from (penalty, way) to the evaluations of its seeds, and sentences on failures."""
  found, failures = collections.defaultdict(list), []
  for seed in arguments.seeds:
    with noted(failures):
      warm = warmed_up(seed, arguments)
      evaluation = fine_tuned(f"{arguments.train_dir}_whole_s{seed}", whole, 0.0, seed, warm, arguments, None)
      found[0.0, "whole"].append(evaluation)
      for penalty in arguments.penalties:
        compare_ways(penalty, seed, warm, arguments, found, failures)
  return found, failures


def compare_ways(penalty, seed, warm, arguments, found, failures):
  """Goes all ways from a warmed-up version, to the budget that the first one leaves."""
  budget = None
  for name, way in WAYS.items():
    chain = f"{arguments.train_dir}_{name.replace(' ', '_')}_p{penalty:g}_s{seed}"
    with noted(failures):
      evaluation = fine_tuned(chain, way, penalty, seed, warm, arguments, budget)
      found[penalty, name].append(evaluation)
      budget = budget or evaluation["parameters"]
    if not budget:
      break


@contextlib.contextmanager
def noted(failures):
  """Lets what fails within end there, and notes why."""
  try:
    yield
  except UserError as error:
    failures.append(str(error))


def fine_tuned(chain, way, penalty, seed, warm, arguments, budget):
  """Goes a way, and trains stage 3 after it: the evaluation of version 3."""
  way(chain, penalty, seed, warm, arguments, budget)
  *_, fine_tune = stages(NETWORK, penalty, seed, arguments)
  train(chain, 2, fine_tune, arguments)
  if not sweep.evaluated(chain, 3, arguments):
    raise UserError(f"{chain} cannot be evaluated; what went wrong stands above. Run again to go on.")
  return newest_evaluation(chain, 3)


def mean(evaluations, name):
  """The mean of a figure over evaluations."""
  return sum(each[name] for each in evaluations) / len(evaluations)


def printed(found):
  """The table."""
  rows = []
  for (penalty, name), evaluations in found.items():
    precisions = [each["precision"] for each in evaluations]
    rows.append(
      [
        f"{penalty:g}",
        name,
        f"{mean(evaluations, 'parameters'):,.0f}",
        f"{mean(evaluations, 'multiply_adds'):,.0f}",
        f"{mean(evaluations, 'precision'):.4f}",
        f"{min(precisions):.4f} to {max(precisions):.4f}",
        len(precisions),
      ]
    )
  return table(["penalty", "way", "parameters", "multiply-adds", "precision @ 1", "from, to", "seeds"], rows)


def draw(found, path):
  """Writes the picture: precision over parameters and over multiply-adds, a point a seed, lines through the means."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(10, 4.4), layout="constrained")
  figure.legend(loc="outside lower center", ncols=6, handles=draw_panels(found, *figure.subplots(1, 2, sharey=True)))
  figure.savefig(path, dpi=120)


def draw_panels(found, left, right):
  """Draws both panels; returns the points of the ways, for the legend."""
  left.set_ylabel("precision @ 1")
  for axes, name, unit, label in (
    (left, "parameters", 1e3, "parameters, thousands"),
    (right, "multiply_adds", 1e6, "multiply-adds, millions"),
  ):
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
    handles = [
      draw_way(axes, marker, way, [each for (_, of), each in found.items() if of == way], name, unit)
      for marker, way in zip("*osD^v", ["whole", *WAYS])
    ]
  return handles


def draw_way(axes, marker, way, rows, name, unit):
  """Draws the evaluations of a way, a list for each penalty; returns the points."""
  means = [(mean(row, name) / unit, mean(row, "precision")) for row in rows]
  each = [(evaluation[name] / unit, evaluation["precision"]) for row in rows for evaluation in row]
  (line,) = axes.plot([x for x, _ in means], [y for _, y in means], alpha=0.5)
  (points,) = axes.plot([x for x, _ in each], [y for _, y in each], marker, color=line.get_color(), label=way)
  return points


def parsed():
  """The arguments of the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.set_defaults(warm_up_penalty=None, fine_tune_learning_rate=None)
  return parse_grid(parser, sys.argv[1:], NOT_GIVEN)


def compare(arguments):
  """Trains, prints the table and writes the picture."""
  if not importlib.util.find_spec("matplotlib"):
    raise UserError(f"the picture needs matplotlib, which is not installed: {how_to_install('report')}.")
  sweep.interrupt_on_signals()
  found, failures = compared(arguments)
  if found:
    print(printed(found))
    draw(found, f"{arguments.train_dir}_methods.png")
    print(f"{arguments.train_dir}_methods.png is written.")
  if failures:
    raise UserError(*failures)


def main():
  """Runs the script; returns its exit code."""
  return command.run("compare_methods.py", compare, parsed())


if __name__ == "__main__":
  tf.config.set_visible_devices([], "GPU")  # Which the processes that train need whole.
  sys.exit(main())
