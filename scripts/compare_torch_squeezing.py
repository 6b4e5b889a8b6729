"""`squeeze` beside what Torch-Pruning does with the same dead channels of the same residual networks.

pip install torch torch-pruning   # Not among the project's packages: in a virtual environment of their own, with it.
python scripts/compare_torch_squeezing.py cifar10/published/resnet20_1/model.keras [--dataset cifar10]

The trained resnet20, and a residual network with gammas in all batch norms as `compare_thresholds.py` has it, with
random weights. A share of the gammas is 0: each by itself, or with all those whose channels stay or go together.
Torch-Pruning finds what is tied to a channel; it gets those of which all gammas are 0, and removes them.
"""

import argparse
import importlib.metadata
import pathlib
import sys
import time

from cifar10.config import DATASETS
from cifar10.console import table, table_row
from cifar10.errors import UserError
from cifar10.quiet import quietly

with quietly():
  import compare_thresholds
  import keras
  import numpy as np
  import torch
  import torch_pruning
  from applications import shut_at_random
  from torch import nn
  from torch_networks import IMAGE, channels_first, parameters_of, resnet20_in_torch, resnet_v1_in_torch

  from cifar10 import input_pipeline
  from cifar10.pruning import groups, squeeze
  from cifar10.pruning.keys import variables_of

IMAGES = 1000
SHARE = 0.4


def resnet_v1():
  """The network of `compare_thresholds.py`, with random weights, statistics and gammas."""
  keras.backend.clear_session()
  keras.utils.set_random_seed(1)
  images = keras.Input((32, 32, 3))
  model = keras.Model(images, compare_thresholds.resnet(images))
  shut_at_random(model, share=0)
  return model


def shut(model, together, seed=0):
  """Sets a share of the gammas that are gates to 0: by the numbers that `groups` gives, or each by itself."""
  numbers = groups(model)
  rng = np.random.default_rng(seed)
  every = np.unique(np.concatenate(list(numbers.values())))
  chosen = rng.permutation(every)[: round(SHARE * len(every))]
  for key, gamma in variables_of(model, numbers).items():
    dead = np.isin(numbers[key], chosen) if together else rng.random(len(numbers[key])) < SHARE
    gamma.assign(np.where(dead, 0, gamma))


def squeezed_by_torch_pruning(network):
  """Removes the channels from a network whose gammas are 0 in all batch norms that they are tied to, in place."""
  graph = torch_pruning.DependencyGraph().build_dependency(network, IMAGE)
  for group in list(graph.get_all_groups(ignored_layers=[_head(network)], root_module_types=[nn.Conv2d])):
    root, prune = group[0].dep.target.module, group[0].dep.handler
    norms = [dep.target.module for dep, _ in group if isinstance(dep.target.module, nn.BatchNorm2d)]
    dead = torch.stack([norm.weight == 0 for norm in norms]).all(dim=0).nonzero().flatten().tolist()
    if dead:
      graph.get_pruning_group(root, prune, idxs=dead[: root.out_channels - 1]).prune()


def _head(network):
  return [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)][-1]


def change(before, after):
  """The norm of the difference over that of what was before."""
  return np.linalg.norm(after - before) / np.linalg.norm(before)


def main():
  """Prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("model", type=pathlib.Path, help="model.keras of a trained resnet20")
  parser.add_argument("--dataset", choices=DATASETS, default="cifar10")
  arguments = parser.parse_args()
  try:
    test = input_pipeline.load(arguments.dataset, "test")
  except UserError as error:
    sys.exit(str(error))
  images = np.array(input_pipeline.standardize(test.images[:IMAGES]))

  def in_keras(network):
    return keras.ops.convert_to_numpy(network.predict(images, batch_size=250, verbose=0))

  @torch.no_grad()
  def in_torch(network):
    return network(channels_first(images)).numpy().reshape(len(images), -1)

  print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torch-pruning")) + "\n")
  print(table(["network", "gammas at 0", "by", "parameters", "left", "change of the outputs", "seconds"]))
  networks = (
    ("resnet20, trained", lambda: keras.saving.load_model(arguments.model), resnet20_in_torch),
    ("residual network v1", resnet_v1, resnet_v1_in_torch),
  )
  for name, build, in_pytorch in networks:
    for together in (False, True):
      model = build()
      shut(model, together)
      before, network = in_keras(model), in_pytorch(model)
      found = change(before, in_torch(network))
      assert found < 1e-4, f"the networks in Keras and PyTorch differ by {found}"
      start, whole = time.monotonic(), parameters_of(network)
      smaller, report = squeeze(model, verify=False)
      between = time.monotonic()
      squeezed_by_torch_pruning(network)
      end = time.monotonic()
      for by, *counts, after, seconds in (
        ("squeeze", report.parameters_before, report.parameters_after, in_keras(smaller), between - start),
        ("Torch-Pruning", whole, parameters_of(network), in_torch(network), end - between),
      ):
        cells = [*(f"{count:,}" for count in counts), f"{change(before, after):.1e}", f"{seconds:.1f}"]
        print(table_row([name, "by group" if together else "singly", by, *cells]), flush=True)


if __name__ == "__main__":
  main()
