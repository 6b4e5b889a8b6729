"""Precision on the test set right after pruning, by importance and by what the channels leave behind.

CIFAR10_DATA_DIR=data python scripts/compare_importances.py cifar10/published/resnet20_1/model.keras --dataset cifar10
"""

import argparse
import pathlib
import sys

from cifar10.config import DATASETS
from cifar10.console import table, table_row
from cifar10.errors import UserError
from cifar10.quiet import quietly

with quietly():
  import keras

  from cifar10 import input_pipeline
  from cifar10.evaluate import precision_and_loss
  from cifar10.pruning import prune, recalibrate
  from cifar10.pruning.importance import taylor

IMPORTANCES = ("gamma", "l1", "l2", "taylor", "random")
SHARES = (0.8, 0.6, 0.4)
EXAMPLES = 256  # For measured means and gradients.
BATCH_SIZE = 125
RECALIBRATION_BATCHES = 20


def main():
  """Prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("model", type=pathlib.Path, help="model.keras of a trained network")
  parser.add_argument("--dataset", choices=DATASETS, default="cifar10")
  arguments = parser.parse_args()
  try:
    training, test = (input_pipeline.load(arguments.dataset, split) for split in ("train", "test"))
  except UserError as error:
    sys.exit(str(error))
  model = keras.saving.load_model(arguments.model)
  print(f"unpruned: {precision_and_loss(model, test, BATCH_SIZE)[0]:.4f}\n")
  inputs, targets = input_pipeline.standardize(training.images[:EXAMPLES]), training.labels[:EXAMPLES]
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  measured = taylor(model, inputs, targets, loss)
  ways = {"zero": {"left_behind": "zero"}, "mean by batch norms": {}, "mean of examples": {"inputs": inputs}}
  print(table(["multiply-adds", "importance", "parameters", *ways, "recalibrated"]))
  for share in SHARES:
    for name in IMPORTANCES:
      importance, cells = measured if name == "taylor" else name, []
      for how in ways.values():
        smaller, report = prune(model, multiply_adds=share, importance=importance, verify=False, **how)
        cells.append(f"{precision_and_loss(smaller, test, BATCH_SIZE)[0]:.4f}")
      recalibrate(smaller, batches(training.images))
      cells.append(f"{precision_and_loss(smaller, test, BATCH_SIZE)[0]:.4f}")
      reached = report.multiply_adds_after / report.multiply_adds_before
      print(table_row([f"{reached:.4f}", name, f"{report.parameters_after:,}", *cells]), flush=True)


def batches(images):
  """The first batches of standardised images."""
  for start in range(0, RECALIBRATION_BATCHES * BATCH_SIZE, BATCH_SIZE):
    yield input_pipeline.standardize(images[start : start + BATCH_SIZE])


if __name__ == "__main__":
  main()
