"""`prune` beside Torch-Pruning's L1 pruner: the same trained resnet20, at a share of its multiply-adds.

pip install torch torch-pruning   # Not among the project's packages: in a virtual environment of their own, with it.
CIFAR10_DATA_DIR=data python scripts/compare_torch_pruning.py cifar10/published/resnet20_1/model.keras --dataset cifar10

Torch-Pruning prunes step by step until the network is within the budget.
"""

import argparse
import functools
import importlib.metadata
import pathlib
import sys
import time

from cifar10.config import DATASETS
from cifar10.console import table, table_row
from cifar10.errors import UserError
from cifar10.quiet import quietly

with quietly():
  import keras
  import numpy as np
  import torch
  import torch_pruning
  from torch import nn
  from torch_networks import IMAGE, channels_first, parameters_of, resnet20_in_torch

  from cifar10 import input_pipeline
  from cifar10.pruning import multiply_adds, prune, recalibrate

STEPS = 400  # Of Torch-Pruning, to all channels.
BATCH_SIZE = 500
RECALIBRATION_BATCHES = 5


def pruned_by_torch_pruning(network, share, everywhere):
  """The network pruned to a share of its multiply-adds, and the share that it has got."""
  whole, _ = torch_pruning.utils.count_ops_and_params(network, IMAGE)
  head = [each for each in network[-2] if isinstance(each, nn.Conv2d)]
  pruner = torch_pruning.pruner.BasePruner(
    network,
    IMAGE,
    importance=torch_pruning.importance.MagnitudeImportance(p=1),
    global_pruning=everywhere,
    pruning_ratio=1.0,
    max_pruning_ratio=0.9,
    iterative_steps=STEPS,
    ignored_layers=head,
  )
  for _ in range(STEPS):
    pruner.step()
    left, _ = torch_pruning.utils.count_ops_and_params(network, IMAGE)
    if left <= share * whole:
      break
  return left / whole


def precision(predict, images, labels):
  """Share of the images that a function of a batch gives the largest logit at their labels."""
  right = 0
  for start in range(0, len(images), BATCH_SIZE):
    part = slice(start, start + BATCH_SIZE)
    right += (predict(images[part]).reshape(-1, 10).argmax(axis=1) == labels[part]).sum()
  return right / len(images)


def recalibrated(network, batches):
  """Recomputes moving statistics, in place, as `recalibrate` does."""
  norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
  for norm in norms:
    norm.reset_running_stats()
    norm.momentum = None  # The plain mean over the batches.
  network.train()
  with torch.no_grad():
    for batch in batches:
      network(channels_first(batch))
  network.eval()


def main():
  """Prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("model", type=pathlib.Path, help="model.keras of a trained resnet20")
  parser.add_argument("--dataset", choices=DATASETS, default="cifar10")
  parser.add_argument("--share", type=float, default=0.5, help="of the multiply-adds")
  arguments = parser.parse_args()
  try:
    training, test = (input_pipeline.load(arguments.dataset, split) for split in ("train", "test"))
  except UserError as error:
    sys.exit(str(error))
  images, labels = np.array(input_pipeline.standardize(test.images)), np.array(test.labels)
  first = np.array(input_pipeline.standardize(training.images[: RECALIBRATION_BATCHES * BATCH_SIZE]))
  batches = np.split(first, RECALIBRATION_BATCHES)
  model = keras.saving.load_model(arguments.model)

  def in_keras(network):
    return lambda batch: keras.ops.convert_to_numpy(network(batch, training=False))

  def in_torch(network):
    @torch.no_grad()
    def predict(batch):
      return network(channels_first(batch)).numpy()

    return predict

  print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torch-pruning")) + "\n")
  print(table(["network", "of the multiply-adds", "parameters", "precision @ 1", "recalibrated", "seconds"]))

  def row(name, share, parameters, predict, anew, seconds):
    found = f"{precision(predict, images, labels):.4f}"
    anew()
    again = f"{precision(predict, images, labels):.4f}"
    print(table_row([name, f"{share:.4f}", f"{parameters:,}", found, again, seconds]), flush=True)

  original = resnet20_in_torch(model)
  row("unpruned, Keras", 1, model.count_params(), in_keras(model), lambda: None, "")
  row("unpruned, PyTorch", 1, parameters_of(original), in_torch(original), lambda: None, "")
  for scope in ("global", "layer"):
    network = resnet20_in_torch(model)
    start = time.monotonic()
    share = pruned_by_torch_pruning(network, arguments.share, scope == "global")
    seconds = f"{time.monotonic() - start:.1f}"
    row(
      f"Torch-Pruning, L1, {scope}",
      share,
      parameters_of(network),
      in_torch(network),
      functools.partial(recalibrated, network, batches),
      seconds,
    )
    for left_behind in ("zero", "mean"):
      start = time.monotonic()
      smaller, _ = prune(
        model,
        multiply_adds=arguments.share,
        importance="l1",
        scope=scope,
        left_behind=left_behind,
        verify=False,
      )
      seconds = f"{time.monotonic() - start:.1f}"
      share = multiply_adds(smaller) / multiply_adds(model)
      row(
        f"prune, L1, {scope}, {left_behind}",
        share,
        smaller.count_params(),
        in_keras(smaller),
        functools.partial(recalibrate, smaller, batches),
        seconds,
      )


if __name__ == "__main__":
  main()
