"""Folds batch norms into the convolutions and dense layers before them, for inference.

In inference a batch norm multiplies each channel by a number and adds another; a kernel and a bias can do both.
"""

import keras
import numpy as np
from keras import layers

from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.rebuilding import rebuilt
from cifar10.pruning.rules import BatchNorm
from cifar10.pruning.rules.base import Squeezed, Wall, to_float64

DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
FOLDABLE = (layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Dense, *DEPTHWISE)


def fold_batch_norms(model: keras.Model) -> keras.Model:
  """Returns a copy of a model without the batch norms that the layer before them can take over.

  That is a convolution, a depthwise one or a dense layer, channels last, without an activation, whose output nothing
  but the batch norm reads. In inference the copy computes the same, up to rounding; it is not for training.

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
    if isinstance(calls[0].rule, BatchNorm) and (source := _source(graph, calls)) is not None:
      pieces[id(source.operation)] = _folded(graph, source, calls[0])
      pieces[id(calls[0].operation)] = Squeezed(bypassed=True)
  return rebuilt(graph.model, graph, lambda channels: np.ones(len(channels.ids), bool), pieces).model


def _source(graph, calls):
  """A call of the layer that can take over a batch norm with these calls; None if there is none."""
  before = [graph.maker(call.inputs[0]) for call in calls]
  source, axis = before[0], before[0].outputs[0].channels.axis
  everywhere = [call for call in graph.calls if call.operation is source.operation]
  foldable = (
    type(source.operation) in FOLDABLE
    and not isinstance(source.rule, Wall)
    and source.operation.activation is keras.activations.linear
    and set(map(id, before)) == set(map(id, everywhere))
    and all(call.outputs[0].readers == [reader] for call, reader in zip(before, calls))
    and not any(call.outputs[0].is_output for call in before)
    # With channels first, Keras 3.15 on TensorFlow may add a bias along the wrong axis.
    and axis == len(source.outputs[0].shape) - 1
    and calls[0].operation.axis in (axis, -1)
  )
  return source if foldable else None


def _folded(graph, source, call):
  """The `Squeezed` of a convolution or dense layer that computes what its call and the batch norm's do."""
  layer, norm = source.operation, call.operation
  scale = graph.gamma(call) / np.sqrt(to_float64(norm.moving_variance) + norm.epsilon)
  bias = to_float64(layer.bias) if layer.use_bias else 0.0
  beta = to_float64(norm.beta) if norm.center else 0.0
  kernel = to_float64(layer.kernel)
  depthwise = isinstance(layer, DEPTHWISE)
  kernel = kernel * (scale.reshape(kernel.shape[-2:]) if depthwise else scale)
  bias = (bias - to_float64(norm.moving_mean)) * scale + beta
  return Squeezed({"use_bias": True}, {"kernel": kernel, "bias": bias})
