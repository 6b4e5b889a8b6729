"""How many parameters and multiply-adds are left of a model without some of its channels, without making it."""

import itertools
import math

import numpy as np

from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.costs import multiply_adds
from cifar10.pruning.rules.base import attribute_of


class Counts:
  """The parameters and multiply-adds of a model as functions of the channels that stay.

  Of a layer with i inputs and o outputs both are a + b i + c o + d i o; the rule of the layer says what one or two of
  each leave, which gives the four. Biases that are made to take up constants are not counted.

  Args:
    graph: the model's `ChannelGraph`.
    parameters: how many the model has.

  Attributes:
    parameters, multiply_adds: those of the whole model; multiply-adds are None if an input size is not fixed.
  """

  def __init__(self, graph: ChannelGraph, parameters: int):
    self.parameters = parameters
    self.multiply_adds = multiply_adds(graph)
    blocked = np.zeros(graph.channel_count, bool)
    blocked[list(graph.blocked)] = True
    ids, coefficients = [], []
    for calls in graph.calls_by_operation():
      first, layer = calls[0], calls[0].operation
      if not first.rule.owns_channels or not getattr(layer, "weights", []):
        continue
      ends = [first.reads[0].ids, first.outputs[0].channels.ids]
      if blocked[np.concatenate(ends)].all():
        continue
      left = {widths: _left(graph, first, *widths) for widths in itertools.product(*map(_widths, ends))}
      sizes = {widths: _size(layer, weights) for widths, weights in left.items()}
      products = dict.fromkeys(left, 0)
      if self.multiply_adds is not None:
        own = {name: attribute_of(layer, name) for name in first.rule.kernels}
        products = {
          widths: sum(call.rule.multiply_adds(call, own | weights) for call in calls)
          for widths, weights in left.items()
        }
      ids += ends
      coefficients.append([_coefficients(sizes), _coefficients(products)])
    self._ids = np.concatenate([np.zeros(0, int), *ids])
    self._ends = np.cumsum([0, *map(len, ids)])
    self._coefficients = np.array(coefficients).reshape(-1, 2, 4)  # Of a layer; of parameters, multiply-adds.
    self._rest = np.zeros(2, np.int64)
    self._rest = np.array([parameters, self.multiply_adds or 0]) - self.left(np.ones(graph.channel_count, bool))

  def left(self, stay: np.ndarray) -> np.ndarray:
    """Parameters and multiply-adds where those ids stay that are True, a bool array: int64 (2,)."""
    inputs, outputs = np.diff(np.append(0, np.cumsum(stay[self._ids]))[self._ends]).reshape(-1, 2).T
    terms = np.stack([np.ones_like(inputs), inputs, outputs, inputs * outputs])
    return self._rest + np.einsum("lkt,tl->k", self._coefficients, terms)


def _widths(ids):
  """The smallest numbers of positions of which the counts follow for all others."""
  return range(min(1, len(ids)), min(2, len(ids)) + 1)


def _left(graph, call, inputs, outputs):
  """The weights by name of a layer with its first inputs and outputs alone."""
  # Of a grouped convolution whole groups go: each keeps its inputs.
  whole = call.rule.mixes and call.rule.groups(call.operation) > 1
  keep_in = [whole | (np.arange(len(channels.ids)) < inputs) for channels in call.reads]
  keep_out = np.arange(len(call.outputs[0].channels.ids)) < outputs
  return call.rule.squeezed(graph, call, keep_in, keep_out).weights


def _size(layer, weights):
  own = {name: attribute_of(layer, name).shape for name in weights if attribute_of(layer, name) is not None}
  return sum(map(np.size, weights.values())) - sum(map(math.prod, own.values()))


def _coefficients(table):
  """a, b, c, d of a + b i + c o + d i o, given by its values at one or two i and o each."""
  (few_in, few_out), (many_in, many_out) = min(table), max(table)
  start, corner = table[few_in, few_out], table[many_in, many_out]
  both = (many_in - few_in) * (many_out - few_out)
  d = corner - table[many_in, few_out] - table[few_in, many_out] + start if both else 0
  b = table[many_in, few_out] - start - d * few_out if many_in > few_in else 0
  c = table[few_in, many_out] - start - d * few_in if many_out > few_out else 0
  return start - b * few_in - c * few_out - d * few_in * few_out, b, c, d
