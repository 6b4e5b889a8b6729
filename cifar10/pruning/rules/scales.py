"""Rules of the layers with weights along the channel axis: batch norms, scales and offsets, PReLU."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops

from cifar10.pruning.rules.base import Channels, Rule, Squeezed, attribute_of, register, to_float64
from cifar10.pruning.rules.channelwise import evaluate


class Affine(Rule):
  """A fixed scale and offset, of all channels alike or of each: Rescaling, Normalization."""

  owns_channels = True

  def applies(self, call):
    shape, axes = call.inputs[0].shape, self._axes(call.operation)
    sizes = [1, *(shape[axis] for axis in axes if -len(shape) < axis < len(shape))]
    arrays = self._arrays(call.operation).values()
    return len(axes) <= 1 and all(array.ndim < len(shape) and array.size in sizes for array in arrays)

  def read(self, graph, call):
    axes = self._axes(call.operation)
    return graph.read(call, 0, *axes) if axes else super().read(graph, call)

  def constant(self, graph, call, channels):
    shape = [1] * len(call.inputs[0].shape)
    shape[channels.axis] = -1
    outputs = evaluate(call, lambda tensor: np.nan_to_num(channels.constant).reshape(shape)).reshape(-1)
    return np.where(np.isnan(channels.constant), np.nan, outputs), channels.border

  def scaled(self, call, factors):
    return None

  def squeezed(self, graph, call, keep_in, keep_out):
    squeezed = Squeezed()
    for name, array in self._arrays(call.operation).items():
      if array.size > 1:
        array = np.compress(keep_out, array, axis=np.argmax(array.shape))
        if name.startswith("adapt_"):
          squeezed.weights[name] = array
        else:
          squeezed.config[name.removeprefix("input_")] = array.tolist()
    return squeezed

  def _arrays(self, layer):
    names = ("scale", "offset", "input_mean", "input_variance", "adapt_mean", "adapt_variance")
    found = {name: getattr(layer, name, None) for name in names}
    arrays = {name: to_float64(ops.convert_to_tensor(value)) for name, value in found.items() if value is not None}
    scale = arrays.get("scale")
    if scale is not None and scale.ndim and keras.config.image_data_format() == "channels_first":
      arrays["scale"] = scale.reshape(scale.shape + (1,) * (3 - scale.ndim))  # As Rescaling does.
    return arrays

  def _axes(self, layer):
    """The axes along which the layer's numbers change; a set."""
    if hasattr(layer, "axis"):
      return set(layer.axis)
    shapes = [array.shape for array in self._arrays(layer).values()]
    return {axis - len(shape) for shape in shapes for axis, size in enumerate(shape) if size > 1}


class BatchNorm(Rule):
  """gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta; a gamma of 0 is a shut gate."""

  owns_channels = True
  ignores_mask = True

  def applies(self, call):
    return isinstance(call.operation.axis, int) and not getattr(call.operation, "renorm", False)

  def forward(self, graph, call):
    inputs = graph.read(call, 0, call.operation.axis)
    layer, gamma = call.operation, graph.gamma(call)
    beta = to_float64(layer.beta) if layer.center else np.zeros(len(gamma))
    scale = gamma / np.sqrt(to_float64(layer.moving_variance) + layer.epsilon)
    constant = np.where(gamma == 0, beta, scale * (inputs.constant - to_float64(layer.moving_mean)) + beta)
    return [Channels(inputs.axis, inputs.ids, constant, np.where(gamma == 0, 0, inputs.border), reason=inputs.reason)]

  def backward(self, graph, call):
    return [call.outputs[0].channels.used & (graph.gamma(call) != 0)]

  def squeezed(self, graph, call, keep_in, keep_out):
    layer = call.operation
    names = [name for name in ("beta", "moving_mean", "moving_variance") if getattr(layer, name) is not None]
    weights = {name: ops.convert_to_numpy(getattr(layer, name))[keep_out] for name in names}
    if layer.scale:
      weights["gamma"] = graph.gamma(call)[keep_out]
    return Squeezed(weights=weights)


class ParametricRelu(Rule):
  """relu(x) - alpha * relu(-x), with an alpha for each channel, and for each pixel unless it is shared."""

  owns_channels = True

  def constant(self, graph, call, channels):
    alpha = to_float64(call.operation.alpha)
    alpha = np.moveaxis(alpha, channels.axis - 1, -1).reshape(-1, alpha.shape[channels.axis - 1])
    uniform = (alpha == alpha[0]).all(axis=0)
    constant = np.where(channels.constant >= 0, channels.constant, alpha[0] * channels.constant)
    return np.where(uniform | (channels.constant >= 0), constant, np.nan), channels.border

  def squeezed(self, graph, call, keep_in, keep_out):
    alpha = ops.convert_to_numpy(call.operation.alpha)
    axis = call.outputs[0].channels.axis
    if axis is None or alpha.shape[axis - 1] != len(keep_out) or len(keep_out) == 1:
      return Squeezed()
    return Squeezed(weights={"alpha": np.compress(keep_out, alpha, axis=axis - 1)})


class PerChannel(Rule):
  """x * scale + offset, by weights of one's own layer along the channel axis: LayerScale, a learnable affine.

  Args:
    multiply: names of the attributes that hold the weights by which the layer multiplies.
    add: names of those that it adds after that.
    size: name of the argument of its constructor, and of its config, that is the number of channels, if there is one.
    axis: the channel axis.

  A weight is a scalar or has one number for each channel, in whatever shape. Where a channel is multiplied by 0 it is a
  constant.
  """

  owns_channels = True

  def __init__(self, multiply: Sequence[str] = (), add: Sequence[str] = (), size: str | None = None, axis: int = -1):
    if isinstance(multiply, str) or isinstance(add, str) or not (multiply or add):
      raise ValueError(f"multiply is {multiply!r} and add {add!r}; they are lists of names of weights: ['gamma']")
    self.multiply, self.add, self.size, self.axis = multiply, add, size, axis

  def applies(self, call):
    channels = call.inputs[0].shape[self.axis]
    sizes = [np.size(self._weight(call, name)) for name in (*self.multiply, *self.add)]
    return call.outputs[0].shape == call.inputs[0].shape and channels and all(size in (1, channels) for size in sizes)

  def read(self, graph, call):
    return graph.read(call, 0, self.axis)

  def constant(self, graph, call, channels):
    scale, offset = self._scale(call), sum(self._weight(call, name) for name in self.add)
    constant = np.where(scale == 0, 0, channels.constant * scale) + offset
    return constant, np.where(scale == 0, 0, channels.border)

  def backward(self, graph, call):
    return [call.outputs[0].channels.used & (self._scale(call) != 0)]

  def scaled(self, call, factors):
    return None if self.add else super().scaled(call, factors)

  def squeezed(self, graph, call, keep_in, keep_out):
    squeezed = Squeezed({self.size: int(keep_out.sum())} if self.size else {})
    for name in (*self.multiply, *self.add):
      weight = ops.convert_to_numpy(attribute_of(call.operation, name))
      if weight.size > 1:
        squeezed.weights[name] = np.compress(keep_out, weight, axis=int(np.argmax(weight.shape)))
    return squeezed

  def _scale(self, call):
    scale = np.ones(len(call.reads[0].ids))
    for name in self.multiply:
      scale = scale * self._weight(call, name)
    return scale

  def _weight(self, call, name):
    weight = attribute_of(call.operation, name)
    return 0.0 if weight is None else to_float64(weight).reshape(-1)


register(layers.BatchNormalization, BatchNorm())
register(layers.PReLU, ParametricRelu())
for _class in (layers.Rescaling, layers.Normalization):
  register(_class, Affine())
