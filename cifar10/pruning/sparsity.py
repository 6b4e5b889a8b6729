"""Penalties of gammas, and the two figures that the training reports: group lasso and fake sparsity."""

import logging
import math
from collections.abc import Mapping

import keras
import tensorflow as tf

from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.keys import MARK, gamma_keys, variables_of
from cifar10.pruning.remarks import out_of_sight
from cifar10.pruning.rules import BatchNorm
from cifar10.pruning.rules.base import Input


def penalties(model: keras.Model, num_pixels: float | None = None) -> dict[str, float]:
  """The penalty of each gated gamma: how much of the network goes with one channel.

  For the channels that a batch norm scales (section 4.1 of the paper, "memory-normalised" cost lambda):

      (height * width of the batch norm's output
       + kernel size * input channels of the convolution that makes the channel
       + sum of kernel size * output channels over the convolutions and dense layers that it reaches)
      / num_pixels

  all read off the network as it now is. A channel reaches a layer through layers that treat each channel by
  itself. A gamma is not gated, and not listed, if its channels reach an output of the model or a layer that
  the channel graph has no rule for, since such channels cannot be removed, or if it is not trainable.

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
    num_pixels = _num_pixels(ChannelGraph(model))
  elif not num_pixels > 0:
    raise ValueError(f"num_pixels is {num_pixels}; it is the height * width of the images, 1 or more")
  graph = ChannelGraph(model, size=round(math.sqrt(num_pixels)))
  for sentence in out_of_sight(graph):
    logging.warning(sentence)
  scaling = [
    calls for calls in graph.calls_by_operation() if isinstance(calls[0].rule, BatchNorm) and calls[0].operation.scale
  ]
  keys = gamma_keys([calls[0].name for calls in scaling])
  found = {}
  for calls in scaling:
    gamma, key = calls[0].operation.gamma, keys[calls[0].name]
    setattr(gamma, MARK, key)
    penalty = _penalty(graph, calls, num_pixels) if gamma.trainable else None
    if penalty is not None:
      found[key] = penalty
  return found


def group_lasso(model: keras.Model, penalties: Mapping[str, float]) -> tf.Tensor:
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
  return tf.add_n([penalty * tf.reduce_sum(tf.abs(tf.cast(gamma, tf.float32))) for gamma, penalty in gated])


def fake_sparsity(model: keras.Model, penalties: Mapping[str, float]) -> tf.Tensor:
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
  zero = tf.add_n([penalty * tf.reduce_sum(tf.cast(tf.equal(gamma, 0), tf.float32)) for gamma, penalty in gated])
  return tf.math.divide_no_nan(zero, sum(penalty * gamma.shape[0] for gamma, penalty in gated))


def _gated(model, penalties):
  gammas = variables_of(model, penalties)
  return [(tf.convert_to_tensor(gammas[key]), penalty) for key, penalty in penalties.items()]


def _num_pixels(graph):
  inputs = [tensor for call in graph.calls if isinstance(call.rule, Input) for tensor in call.outputs]
  channels_first = any(getattr(call.operation, "data_format", None) == "channels_first" for call in graph.calls)
  sizes = {tensor.shape[2:] if channels_first else tensor.shape[1:-1] for tensor in inputs}
  images = sizes - {()} or sizes
  if len(images) != 1 or None in min(images):
    raise ValueError(
      f"num_pixels cannot be read off the inputs {[tensor.shape for tensor in inputs]}; "
      "pass penalties(model, num_pixels=height * width)"
    )
  return math.prod(min(images))


def _penalty(graph, calls, num_pixels):
  outputs = [call.outputs[0] for call in calls]
  if any(channel in graph.blocked for output in outputs for channel in output.channels.ids.tolist()):
    return None
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
