"""The experiment as data: which settings each stage of a chain is trained with.

A recipe is a tuple of the three stages, each a dict of the settings of `config.TrainConfig` that it sets,
the others being left at their defaults (a learning rate of 0.1 among them); stage V trains
checkpoint version V. The scripts for single stages, `reproduce.sh`, the sweep, the quickstart and the harness of kills
take theirs from here: a new recipe is one more entry.

    python -m cifar10.recipes paper 1

prints the flags of one stage, as the shell scripts use them.
"""

import sys

PAPER = (
  {"l1_penalty": 0.001, "max_steps": 30000},  # Warm up.
  {"l1_penalty": 0.005, "max_steps": 50000},  # Sparsify.
  {"l1_penalty": 0.0, "learning_rate": 0.01, "max_steps": 50000},  # Fine-tune.
)


def with_common(common, *each):
  """A recipe whose stages have settings in common."""
  return tuple({**common, **settings} for settings in each)


RECIPES = {
  # The schedule of the paper's own program.
  "paper": PAPER,
  # In as many steps as a fifth of it: Nesterov momentum, and a learning rate that falls to 0 in the last stage, which
  # has most of the steps. With momentum gammas take a higher penalty, and get to 0 in a tenth of the steps; moving
  # statistics have to follow sooner too, and are computed anew in the end for the averages of the weights.
  "nesterov": with_common(
    {"momentum": 0.9, "distortions": "crop_flip", "batch_norm_momentum": 0.99},
    {"l1_penalty": 0.001, "max_steps": 1000},
    {"l1_penalty": 0.015, "max_steps": 1500},
    {"l1_penalty": 0.0, "learning_rate_schedule": "cosine", "max_steps": 23500, "recalibration_batches": 120},
  ),
  # On the built-in data set, in some minutes, of many small steps. Moving statistics take some thousand steps to follow
  # the weights, so they are computed anew after each stage.
  "quickstart": with_common(
    {"batch_size": 16, "seed": 1, "recalibration_batches": 200},
    {"l1_penalty": 0.005, "max_steps": 800},
    {"l1_penalty": 0.01, "max_steps": 700},
    {"l1_penalty": 0.0, "learning_rate": 0.01, "max_steps": 2000},
  ),
  # Seconds long, with saves all the time, to be killed in.
  "kills": with_common(
    {"max_steps": 30, "batch_size": 4, "seed": 1, "log_frequency": 5, "save_interval_secs": 0.2},
    {"l1_penalty": 0.5},
    {"l1_penalty": 3.0},
    {"l1_penalty": 0.0},
  ),
}


def flags(settings):
  """The flags of a dict of settings: a list of texts `--name=value`."""
  return [f"--{name}={value}" for name, value in settings.items()]


def main():
  """Prints the flags of a stage, given by the names of a recipe and the number of the stage."""
  recipe, stage = sys.argv[1:]
  if recipe not in RECIPES:
    sys.exit(f"the recipe is {recipe!r}; expected one of {', '.join(RECIPES)}.")
  stages = dict(enumerate(RECIPES[recipe]))
  if stage not in map(str, stages):
    sys.exit(f"the stage is {stage!r}; expected a number from 0 to {max(stages)}.")
  print(*flags(stages[int(stage)]))


if __name__ == "__main__":
  main()
