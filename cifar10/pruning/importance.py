"""How much groups of channels matter: those that matter least go first."""

import zlib
from collections.abc import Callable, Iterable
from typing import TypeAlias

import keras
import numpy as np

from cifar10.pruning.channel_groups import Groups, kernel_of
from cifar10.pruning.gradients import gradients
from cifar10.pruning.inputs import Arrays, batches
from cifar10.pruning.rules import BatchNorm
from cifar10.pruning.rules.base import to_float64

# A number of 0 or more for each of the groups; None where nothing can be said of them, so that they stay.
Importance: TypeAlias = Callable[[Groups], np.ndarray | None]

TAYLOR_BATCH = 8  # The fewer examples, the less do changes of the loss that differ in sign hide each other.


def gamma(groups: Groups) -> np.ndarray | None:
  """|gamma| of the batch norms, each over its mean; None without any."""
  return _mean_over_layers(abs(gammas).mean(axis=1) for gammas in groups.gammas.values())


def l1(groups: Groups) -> np.ndarray | None:
  """Sum of |weights| of the kernels that make the channels, each over its mean."""
  return _mean_over_layers(abs(kernel).sum(axis=1, dtype=np.float64) for kernel in groups.kernels.values())


def l2(groups: Groups) -> np.ndarray | None:
  """Euclidean norm of the kernels that make the channels, each over its mean."""
  return _mean_over_layers(np.linalg.norm(kernel.astype(np.float64), axis=1) for kernel in groups.kernels.values())


def random(seed: int) -> Importance:
  """Numbers between 0 and 1 that depend on the seed and the name of a layer that makes the channels."""
  return lambda groups: np.random.default_rng([seed, zlib.crc32(groups.calls[0].name.encode())]).random(len(groups))


def taylor(model: keras.Model, inputs: Arrays, targets: Arrays, loss: Callable) -> Importance:
  """By how much the loss changes without the channels, to first order: mean over batches of |sum of weight * gradient|.

  Where batch norms with gammas scale the channels, the weights are those gammas: without them beta is left, the mean.
  Elsewhere they are the kernels and biases that make the channels.

  Args:
    model: the model.
    inputs: inputs for it, as `gradients` takes them for one batch.
    targets: what its outputs should be.
    loss: as for `gradients`.
  """
  found = [gradients(model, *batch, loss) for _, *batch in batches(inputs, targets, size=TAYLOR_BATCH)]

  def importance(groups):
    weights = [(call, name) for call in groups.gates or groups.calls for name in _weights(call)]
    for call, name in weights:
      if id(getattr(call.operation, name)) not in found[0]:
        raise ValueError(
          f"importance 'taylor' needs the gradients of {call.name}, which is not trainable; set its trainable to True, "
          "name it in keep, or take another importance"
        )
    changes = [[_change(groups, call, name, by_variable) for call, name in weights] for by_variable in found]
    return abs(np.sum(changes, axis=1)).mean(axis=0) if weights else None

  return importance


def relative(numbers: np.ndarray) -> np.ndarray:
  """Numbers of 0 or more over their mean, so that those of one layer compare with another's."""
  mean = numbers.mean()
  return numbers / mean if mean > 0 else numbers


def _mean_over_layers(found: Iterable[np.ndarray]) -> np.ndarray | None:
  found = [relative(each) for each in found]
  return np.mean(found, axis=0) if found else None


def _weights(call):
  """The names of the weights without which a layer does not make its channels."""
  if isinstance(call.rule, BatchNorm):
    return ["gamma"] if call.operation.scale else []
  bias = getattr(call.rule, "bias", "bias")
  return [*call.rule.kernels[-1:], *([bias] if getattr(call.operation, bias, None) is not None else [])]


def _change(groups, call, name, by_variable):
  """The first-order change of the loss without what weights of a layer make of each group."""
  variable = getattr(call.operation, name)
  change = to_float64(variable) * by_variable[id(variable)]
  if call.rule.kernels == (name,):
    change = kernel_of(call.rule, _Instead(call.operation, name, change))
  return groups.rows(call, change).sum(axis=1)


class _Instead:
  """A layer with other numbers in place of one weight."""

  def __init__(self, layer, name, array):
    self._layer = layer
    setattr(self, name, array)

  def __getattr__(self, name):
    return getattr(self._layer, name)
