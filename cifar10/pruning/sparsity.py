"""Penalties and groups of gammas, and the two figures that the training reports: group lasso and fake sparsity."""

import functools
import logging
import math
import operator
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from cifar10.pruning.calls import flat_calls
from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.keys import MARK, gamma_keys, variables_of
from cifar10.pruning.opening import opened
from cifar10.pruning.remarks import out_of_sight, warn_of
from cifar10.pruning.rules import BatchNorm

logger = logging.getLogger(__name__)


def penalties(model: keras.Model, num_pixels: float | None = None) -> dict[str, float]:
  """The penalty of each gated gamma: how much of the network goes with one channel.

  For the channels that a batch norm scales (section 4.1 of the paper, "memory-normalised" cost lambda):

      (height * width of the batch norm's output
       + kernel size * input channels of the convolution that makes the channel
       + sum of kernel size * output channels over the convolutions and dense layers that it reaches)
      / num_pixels

  all read off the network as it now is. A channel reaches a layer through layers that treat each channel by
  itself. A gamma is not gated, and not listed, if its channels reach an output of the model or a layer that
  the channel graph has no rule for, since such channels cannot be removed, or if it is not trainable. Where no gamma
  is gated, the log has a warning that says why, and what to do.

  Args:
    model: a functional or Sequential Keras model, or a subclassed one that was called before.
    num_pixels: height * width of the model's image input; by default read off its inputs, if all that have a size have
      one size; 1 if none has, as in a dense model. An input without a fixed size needs it given, and counts as a square
      of that many pixels.

  Returns:
    A dict from the key of the gamma variable to its penalty, a float above 0. The key is the variable's path, like
    "g0b0c0_bn/gamma": the name of its layer and "gamma", as the model has them however it was saved and loaded. Where
    layers in nested models share a name, those of the models come first: "left/bn/gamma", "right/bn/gamma".

  Raises:
    ValueError: `model` is not functional, or `num_pixels` is needed and not given, or is not positive.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="a_bn")(x)))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> penalties(model)
  {'a_bn/gamma': 1.015625}
  >>> (6 * 6 + 3 * 3 * 3 + 2) / (8 * 8)
  1.015625
  """
  if num_pixels is None:
    num_pixels = _num_pixels(model)
  elif not num_pixels > 0:
    raise ValueError(f"num_pixels is {num_pixels}; it is the height * width of the images, 1 or more")
  graph = ChannelGraph(model, size=round(math.sqrt(num_pixels)))
  warn_of(out_of_sight(graph))
  gated = _gated_calls(graph)
  if not gated:
    logger.warning("%s has no gate: %s", model.name, _why_no_gate(graph))
  return {key: _penalty(graph, calls, num_pixels) for key, calls in gated.items()}


def groups(model: keras.Model) -> dict[str, np.ndarray]:
  """Which channels stay or go together: sums and concatenations, shared layers or the groups of a convolution tie them.

  A channel of a residual stream, for example, is scaled by the batch norms of all blocks that add to it, and goes only
  when all of them shut it. An optimizer that gets the groups shuts them together. A convolution in groups could lose
  single channels, but only as many from each group: one of them goes whole.

  Args:
    model: a functional Keras model.

  Returns:
    A dict with the keys of `penalties(model)`: an int array (channels,) for each gamma, the number of the group of each
    channel. Channels with the same number, in whatever gammas, stay or go together.

  Raises:
    ValueError: `model` is not functional.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x, y = (layers.BatchNormalization(name=f"{name}_bn")(layers.Conv2D(2, 3)(images)) for name in "ab")
  >>> x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
  >>> {key: numbers.tolist() for key, numbers in groups(keras.Model(images, layers.Dense(2)(x))).items()}
  {'a_bn/gamma': [0, 1], 'b_bn/gamma': [0, 1]}
  """
  gated = _gated_calls(ChannelGraph(model, whole_groups=True))
  ids = [calls[0].outputs[0].channels.ids for calls in gated.values()]
  numbers = np.unique(np.concatenate(ids), return_inverse=True)[1] if ids else []
  ends = np.cumsum(list(map(len, ids)))[:-1]
  return dict(zip(gated, np.split(numbers, ends)))


def group_lasso(model: keras.Model, penalties: Mapping[str, float]) -> Any:
  """Sum of penalty * |gamma| over all gated gammas: a float32 scalar tensor of 0 or more.

  Args:
    model: a Keras model.
    penalties: dict from the keys of its gammas to penalties, as `penalties(model)` gives it.

  Raises:
    ValueError: a key is none of the model's, or there is none.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="a_bn")(x)))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> float(group_lasso(model, {"a_bn/gamma": 0.5}))
  2.0
  """
  gated = _gated(model, penalties)
  return _sum(penalty * ops.sum(ops.abs(ops.cast(gamma, "float32"))) for gamma, penalty in gated)


def fake_sparsity(model: keras.Model, penalties: Mapping[str, float]) -> Any:
  """Sum of penalties over the gammas at exactly 0 / sum over all gated gammas: a scalar tensor in [0, 1].

  "Fake", as the paper has it, since the share of parameters that can be removed is not quite the same.

  Args:
    model: as for `group_lasso`.
    penalties: as for `group_lasso`.

  Raises:
    ValueError: as `group_lasso`.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="a_bn")(x)))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> _ = model.get_layer("a_bn").gamma.assign([1, 0, 1, 1])
  >>> float(fake_sparsity(model, {"a_bn/gamma": 0.5}))
  0.25
  """
  gated = _gated(model, penalties)
  zero = _sum(penalty * ops.sum(ops.cast(ops.equal(gamma, 0), "float32")) for gamma, penalty in gated)
  return ops.divide_no_nan(zero, sum(penalty * gamma.shape[0] for gamma, penalty in gated))


def _gated(model, penalties):
  gammas = variables_of(model, penalties)
  return [(ops.convert_to_tensor(gammas[key]), penalty) for key, penalty in penalties.items()]


def _sum(tensors):
  return functools.reduce(operator.add, tensors)


def _num_pixels(model):
  calls, *_ = flat_calls(opened(model).model, None)
  inputs = [tensor for call in calls if not call.inputs for tensor in call.outputs]
  channels_first = any(getattr(call.operation, "data_format", None) == "channels_first" for call in calls)
  sizes = {tensor.shape[2:] if channels_first else tensor.shape[1:-1] for tensor in inputs}
  images = sizes - {()} or sizes
  if len(images) != 1 or None in min(images):
    raise ValueError(
      f"num_pixels cannot be read off the inputs {[tensor.shape for tensor in inputs]}; "
      "pass penalties(model, num_pixels=height * width)"
    )
  return math.prod(min(images))


def _gated_calls(graph):
  """The calls of each batch norm whose gammas are gates, by the key of the gamma; all gammas are marked with theirs."""
  scaling = _scaling_calls(graph)
  keys = gamma_keys([calls[0].name for calls in scaling])
  gated = {}
  for calls in scaling:
    gamma, key = calls[0].operation.gamma, keys[calls[0].name]
    setattr(gamma, MARK, key)
    if gamma.trainable and not _blocking(graph, calls):
      gated[key] = calls
  return gated


def _scaling_calls(graph):
  by_operation = graph.calls_by_operation()
  return [calls for calls in by_operation if isinstance(calls[0].rule, BatchNorm) and calls[0].operation.scale]


def _blocking(graph, calls):
  """The reasons why channels of a layer cannot be removed."""
  ids = [channel for call in calls for channel in call.outputs[0].channels.ids.tolist()]
  return {graph.blocked[channel] for channel in ids if channel in graph.blocked}


def _why_no_gate(graph):
  """A sentence for who finds no gammas that could shut a channel: why, and what to do."""
  scaling = _scaling_calls(graph)
  if not scaling:
    walls = f", outside of the walls {', '.join(graph.walls)}" if graph.walls else ""
    return f"no batch norm with scale=True is in sight{walls}; put a BatchNormalization behind each convolution"
  if not any(calls[0].operation.gamma.trainable for calls in scaling):
    return "the gammas of all batch norms are frozen; set trainable to True"
  reasons = sorted(set().union(*(_blocking(graph, calls) for calls in scaling)))
  return (
    f"the channels of all batch norms reach {', '.join(reasons)}, where they cannot be removed; put the batch norms "
    "between convolutions, or teach a layer that is a wall with register(its class, rule)"
  )


def _penalty(graph, calls, num_pixels):
  outputs = [call.outputs[0] for call in calls]
  cost = 0
  makers, readers = {}, {}
  for call, output in zip(calls, outputs):
    axis = output.channels.axis
    cost += math.prod(size for index, size in enumerate(output.shape) if index not in (0, axis))
    makers |= _makers(graph, call)
    readers |= _readers(call)
  cost += sum(maker.rule.weights_per_output(maker.operation) for maker in makers.values())
  channel = outputs[0].channels.ids[0]
  for reader in readers.values():
    own, read = ((channels.ids == channel).sum() for channels in (outputs[0].channels, reader.reads[0]))
    cost += float(read / own) * reader.rule.weights_per_input(reader.operation)
  return cost / num_pixels


def _makers(graph, call):
  """The convolutions and dense layers from which the channels of a call come: dict from the layer's id() to a call."""
  return _reached(call, lambda call: [graph.maker(tensor) for tensor in call.inputs])


def _readers(call):
  """The convolutions and dense layers that read what a call makes, through layers that do not mix channels."""
  return _reached(call, lambda call: [reader for tensor in call.outputs for reader in tensor.readers])


def _reached(call, neighbours):
  found, seen, waiting = {}, set(), neighbours(call)
  while waiting:
    call = waiting.pop()
    if id(call) not in seen:
      seen.add(id(call))
      if call.rule.kernels:
        found[id(call.operation)] = call
      if not call.rule.mixes:
        waiting.extend(neighbours(call))
  return found
