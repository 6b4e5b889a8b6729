"""Compares the two ways to squeeze on the test set: a version's newest training checkpoint, unsqueezed and squeezed.

python scripts/compare_squeezes.py checkpoints/cifar10_train_1 [--dataset synthetic]
"""

import argparse
import pathlib
import sys

from cifar10.config import DATASETS
from cifar10.console import table, table_row
from cifar10.errors import UserError
from cifar10.quiet import quietly

with quietly():
  from cifar10 import input_pipeline
  from cifar10.evaluate import precision_and_loss
  from cifar10.pruning import squeeze
  from cifar10.version.directory import Version


def main():
  """Prints a table of parameters, precision and loss."""
  parser = argparse.ArgumentParser()
  parser.add_argument("version_dir", type=pathlib.Path, help="directory of a version that was trained")
  parser.add_argument("--dataset", choices=DATASETS, help="by default the one that it was trained on")
  arguments = parser.parse_args()
  try:
    version = Version.at(arguments.version_dir)
    examples = input_pipeline.load(version.own_dataset(arguments.dataset), "test")
    network = version.load().network
  except UserError as error:
    sys.exit(str(error))
  print(table(["network", "parameters", "precision @ 1", "test loss"]))
  for name, model in (
    ("unsqueezed", network),
    ("`exact=True`", squeeze(network, exact=True)[0]),
    ("`exact=False`", squeeze(network, exact=False)[0]),
  ):
    precision, loss = precision_and_loss(model, examples, batch_size=125)
    print(table_row([name, f"{model.count_params():,}", f"{precision:.4f}", f"{loss:.4f}"]), flush=True)


if __name__ == "__main__":
  main()
