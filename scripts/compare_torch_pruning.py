"""`prune` beside Torch-Pruning's L1 pruner: the same trained resnet20, at a share of its multiply-adds.

pip install torch torch-pruning   # Not among the project's packages: in a virtual environment of their own, with it.
CIFAR10_DATA_DIR=data python scripts/compare_torch_pruning.py cifar10/published/resnet20_1/model.keras --dataset cifar10

Torch-Pruning prunes step by step until the network is within the budget.
"""

import argparse
import functools
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

  from cifar10 import input_pipeline
  from cifar10.pruning import multiply_adds, prune, recalibrate

STEPS = 400  # Of Torch-Pruning, to all channels.
BATCH_SIZE = 500
RECALIBRATION_BATCHES = 5
IMAGE = torch.zeros(1, 3, 32, 32)


class ConvNorm(nn.Sequential):
  """A convolution and its batch norm, padded as TensorFlow pads."""

  def __init__(self, model, name, relu=True):
    layer, norm = model.get_layer(name), model.get_layer(f"{name}_bn")
    size, _, inputs, outputs = layer.kernel.shape
    stride = layer.strides[0]
    padding = max(size - stride, 0)
    parts = [nn.Conv2d(inputs, outputs, size, stride, bias=False), nn.BatchNorm2d(outputs, eps=norm.epsilon)]
    if padding:
      parts.insert(0, nn.ZeroPad2d((padding // 2, padding - padding // 2) * 2))
    super().__init__(*parts, *([nn.ReLU()] if relu else []))
    with torch.no_grad():
      parts[-2].weight.copy_(tensor(layer.kernel).permute(3, 2, 0, 1))
      if norm.scale:
        parts[-1].weight.copy_(tensor(norm.gamma))
      for own, theirs in (("bias", "beta"), ("running_mean", "moving_mean"), ("running_var", "moving_variance")):
        getattr(parts[-1], own).copy_(tensor(getattr(norm, theirs)))


class Block(nn.Module):
  """A residual block."""

  def __init__(self, model, name):
    super().__init__()
    projected = any(layer.name == f"{name}p" for layer in model.layers)
    self.shortcut = ConvNorm(model, f"{name}p", relu=False) if projected else nn.Identity()
    self.convolutions = nn.Sequential(ConvNorm(model, f"{name}c0"), ConvNorm(model, f"{name}c1", relu=False))

  def forward(self, x):
    """The sum of both ways."""
    return self.shortcut(x) + self.convolutions(x)


def resnet20_in_torch(model):
  """The network in PyTorch, with the weights of the Keras model."""
  blocks = [Block(model, f"g{group}b{block}") for group in range(3) for block in range(3)]
  head = [nn.AvgPool2d(8), ConvNorm(model, "softmax_linear", relu=False), nn.Flatten()]
  return nn.Sequential(ConvNorm(model, "first_conv"), *blocks, *head).eval()


def tensor(variable):
  """A Keras variable as a tensor of PyTorch."""
  return torch.from_numpy(keras.ops.convert_to_numpy(variable).copy())


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


def channels_first(batch):
  """A batch of images as PyTorch takes it."""
  return torch.from_numpy(np.moveaxis(batch, -1, 1).copy())


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

  print(f"torch {torch.__version__}, torch-pruning {torch_pruning.__version__}\n")
  print(table(["network", "of the multiply-adds", "parameters", "precision @ 1", "recalibrated", "seconds"]))

  def row(name, share, parameters, predict, anew, seconds):
    found = f"{precision(predict, images, labels):.4f}"
    anew()
    again = f"{precision(predict, images, labels):.4f}"
    print(table_row([name, f"{share:.4f}", f"{parameters:,}", found, again, seconds]), flush=True)

  def parameters_of(network):
    """Moving statistics among them, as Keras counts them; PyTorch has a gamma for each batch norm."""
    return sum(each.numel() for each in [*network.parameters(), *network.buffers()] if each.dim())

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
