"""Folds batch norms into the convolutions and dense layers before or behind them, for inference.

In inference a batch norm multiplies each channel by a number and adds another; a kernel and a bias can do both.
"""

import keras
import numpy as np
from keras import layers

from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.rebuilding import rebuilt
from cifar10.pruning.rules import BatchNorm
from cifar10.pruning.rules.base import Squeezed, Wall, to_float64
from cifar10.pruning.rules.kernels import pads

DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
DENSE = (layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Dense)


def fold_batch_norms(model: keras.Model) -> keras.Model:
  """Returns a copy of a model without the batch norms that the layer before them, or those behind, can take over.

  Before it that is a convolution of any kind or a dense layer, without an activation, whose output nothing but the
  batch norm reads; behind it all that read it, if these are convolutions without padding (no transposed or separable
  ones) or dense layers. All with channels last. In inference the copy computes the same, up to rounding; it is not for
  training.

  Args:
    model: a functional or Sequential Keras model, or a subclassed one that was called before; it is left alone.

  Returns:
    A model of the same inputs, outputs and layers, but for the batch norms that went, not compiled.

  Raises:
    ValueError: `model` is not functional, or a layer of the caller's own cannot be made from its config.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="a_bn")(x)))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> [layer.name for layer in fold_batch_norms(model).layers if layer.weights]
  ['a', 'logits']
  """
  graph = ChannelGraph(model)
  by_operation = graph.calls_by_operation()
  pieces = {id(calls[0].operation): Squeezed() for calls in by_operation}
  for calls in by_operation:
    if isinstance(calls[0].rule, BatchNorm):
      scale, offset = _affine(graph, calls[0])
      source = _source(graph, calls)
      sinks = [] if source is not None else _sinks(graph, calls)
      if source is not None:
        _multiply_outputs(source.operation, pieces[id(source.operation)], scale, offset)
      for sink in sinks:
        _multiply_inputs(sink, pieces[id(sink)], scale, offset)
      if source is not None or sinks:
        pieces[id(calls[0].operation)] = Squeezed(bypassed=True)
  return rebuilt(graph.model, graph, lambda channels: np.ones(len(channels.ids), bool), pieces).model


def _affine(graph, call):
  """By what a batch norm multiplies each channel, and what it adds to it then."""
  norm = call.operation
  scale = graph.gamma(call) / np.sqrt(to_float64(norm.moving_variance) + norm.epsilon)
  return scale, (to_float64(norm.beta) if norm.center else 0.0) - scale * to_float64(norm.moving_mean)


def _source(graph, calls):
  """A call of the layer that can take over a batch norm with these calls; None if there is none."""
  before = [graph.maker(call.inputs[0]) for call in calls]
  source = before[0]
  everywhere = [call for call in graph.calls if call.operation is source.operation]
  foldable = (
    type(source.operation) in DENSE + DEPTHWISE + SEPARABLE + TRANSPOSED
    and not isinstance(source.rule, Wall)
    and source.operation.activation is keras.activations.linear
    and set(map(id, before)) == set(map(id, everywhere))
    and all(call.outputs[0].readers == [reader] for call, reader in zip(before, calls))
    and not any(call.outputs[0].is_output for call in before)
    and _is_last(source.outputs[0], calls[0])
  )
  return source if foldable else None


def _sinks(graph, calls):
  """The layers that read what a batch norm with these calls makes, if all can take it over; else none."""
  outputs = [call.outputs[0] for call in calls]
  readers = [reader for output in outputs for reader in output.readers]
  sinks = {id(reader.operation): reader.operation for reader in readers}
  everywhere = [call for call in graph.calls if id(call.operation) in sinks]
  foldable = (
    all(type(layer) in DENSE + DEPTHWISE for layer in sinks.values())
    and not any(isinstance(reader.rule, Wall) or pads(reader) for reader in readers)
    and len(everywhere) == len(readers)
    and not any(output.is_output for output in outputs)
    and all(_is_last(output, calls[0]) for output in outputs)
    and not any(getattr(layer, "data_format", None) == "channels_first" for layer in sinks.values())
  )
  return list(sinks.values()) if foldable else []


def _is_last(tensor, call):
  """Whether the channels of a tensor, and those of a batch norm's call, are along its last axis.

  With channels first, Keras 3.15 on TensorFlow may add a bias along the wrong axis.
  """
  last = len(tensor.shape) - 1
  return tensor.channels.axis == last and call.operation.axis in (last, -1)


def _multiply_outputs(layer, piece, scale, offset):
  """Makes a layer give scale * output + offset, on top of what is done to it already."""
  name = "pointwise_kernel" if isinstance(layer, SEPARABLE) else "kernel"
  kernel, bias = _weights(layer, piece, name)
  if isinstance(layer, DEPTHWISE):
    kernel = kernel * scale.reshape(kernel.shape[-2:])
  else:
    kernel = kernel * (scale[:, None] if isinstance(layer, TRANSPOSED) else scale)
  _set(piece, name, kernel, bias * scale + offset)


def _multiply_inputs(layer, piece, scale, offset):
  """Makes a layer read scale * input + offset, on top of what is done to it already."""
  kernel, bias = _weights(layer, piece, "kernel")
  if isinstance(layer, DEPTHWISE):
    scale, offset = scale[:, None], offset[:, None]
  else:  # A group of a convolution has its own inputs.
    groups = getattr(layer, "groups", 1)
    scale, offset = (each.reshape(groups, -1).T.repeat(kernel.shape[-1] // groups, axis=1) for each in (scale, offset))
  added = (kernel * offset).reshape(-1, *kernel.shape[-2:]).sum(axis=0)
  added = added.reshape(-1) if isinstance(layer, DEPTHWISE) else added.sum(axis=0)
  _set(piece, "kernel", kernel * scale, bias + added)


def _weights(layer, piece, name):
  """The kernel of a layer and its bias, or 0, as float64, as they are by now."""
  kernel = piece.weights.get(name, getattr(layer, name))
  return to_float64(kernel), to_float64(piece.weights.get("bias", layer.bias if layer.use_bias else 0.0))


def _set(piece, name, kernel, bias):
  piece.config["use_bias"] = True
  piece.weights |= {name: kernel, "bias": bias}
