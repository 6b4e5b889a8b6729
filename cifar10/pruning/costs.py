"""Counts what a model computes."""

from collections.abc import Mapping

import keras
import numpy as np

from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.rules.base import attribute_of


def multiply_adds(
  model: keras.Model | ChannelGraph, weights: Mapping[int, Mapping[str, np.ndarray]] | None = None
) -> int | None:
  """The multiply-adds of convolutions and dense layers for one example; None if an input size is not fixed.

  Output height * width * size of the kernel, summed over the calls of these layers, those in nested models too; of a
  transposed convolution, input height * width. Layers without a rule do not count. Padding counts like the rest.

  Args:
    model: a functional Keras model, or its `ChannelGraph`.
    weights: dict from the id() of a layer to its weights by attribute name, where they are not the layer's own.

  Raises:
    ValueError: `model` is not functional.

  >>> import keras
  >>> from keras import layers
  >>> multiply_adds(keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)])) == 6 * 6 * 3 * 3 * 3 * 4
  True
  """
  graph = model if isinstance(model, ChannelGraph) else ChannelGraph(model)
  counts = []
  for call in graph.calls:
    own = {name: attribute_of(call.operation, name) for name in call.rule.kernels}
    counts.append(call.rule.multiply_adds(call, {**own, **(weights or {}).get(id(call.operation), {})}))
  return None if None in counts else sum(counts)
