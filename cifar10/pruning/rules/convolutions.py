"""Rules of convolutions and dense layers: those that mix channels, and the depthwise, which does not."""

import math

import keras
import numpy as np
from keras import layers

from cifar10.pruning.rules.activations import is_coupled, known_values
from cifar10.pruning.rules.base import Channels, Rule, Squeezed, border_behind_zeros, register, to_float64
from cifar10.pruning.rules.kernels import KernelRule, kernel_products, pads


class Mixer(KernelRule):
  """Convolutions and dense layers, with a kernel of shape (..., inputs, outputs)."""

  grouped = False

  def applies(self, call):
    layer = call.operation
    plain = not getattr(layer, "quantization_mode", None) and not getattr(layer, "lora_enabled", False)
    return plain and (getattr(layer, "groups", 1) > 1) == self.grouped and super().applies(call)

  def weights_per_output(self, layer):
    return math.prod(layer.kernel.shape[:-1])

  def weights_per_input(self, layer):
    return math.prod(layer.kernel.shape) // layer.kernel.shape[-2]


class Grouped(Mixer):
  """A convolution in groups, with a kernel of shape (..., inputs of a group, outputs): all groups stay of one width.

  A group goes with all its inputs and outputs, and as many of each go from every other one as from that of the fewest.
  """

  grouped = True

  def groups(self, layer):
    return layer.groups

  def kernel_by_input(self, layer):
    by_group = self._by_group(layer, self.kernel(layer))
    return by_group.transpose(0, 3, 2, 1).reshape(len(by_group), by_group.shape[3], -1)

  def connected(self, layer):
    connected = (self.kernel(layer) != 0).any(axis=0)
    width, outputs = connected.shape
    blocks = np.zeros((layer.groups, width, layer.groups, outputs // layer.groups), bool)
    every = np.arange(layer.groups)
    blocks[every, :, every] = self._by_group(layer, connected).swapaxes(0, 1)
    return blocks.reshape(-1, outputs)

  def shift(self, layer, positions, constant):
    values = np.zeros(len(constant))
    values[positions] = constant[positions]
    sums = self._by_group(layer, self.kernel(layer).sum(axis=0, dtype=np.float64))
    return np.einsum("gi,igo->go", values.reshape(layer.groups, -1), sums).reshape(-1)

  def carry(self, layer, kernel, carrier, position, ratio):
    width, by_group = kernel.shape[1], self._by_group(layer, kernel)
    by_group[:, carrier % width, carrier // width] += ratio * by_group[:, position % width, position // width]

  def tie(self, graph, layer, ids, made):
    if graph.whole_groups or len(ids) == layer.groups:  # An input that is a group of its own goes with that alone.
      first = ids[:: len(ids) // layer.groups]
      for others in (ids, made):
        graph.unite(np.repeat(first, len(others) // layer.groups), others)

  def config(self, layer, keep_in, keep_out):
    groups = int(keep_out.reshape(layer.groups, -1).any(axis=1).sum())
    return {**super().config(layer, keep_in, keep_out), "groups": groups}

  def sliced(self, layer, kernel, keep_in, keep_out):
    by_group = np.moveaxis(self._by_group(layer, kernel), 2, 0)
    kept = zip(by_group, keep_in.reshape(layer.groups, -1), keep_out.reshape(layer.groups, -1))
    parts = [part[:, inputs][..., outputs] for part, inputs, outputs in kept if outputs.any()]
    kernel = np.concatenate(parts, axis=-1)
    return {"kernel": kernel.reshape(*layer.kernel.shape[:-2], *kernel.shape[1:])}

  def absorbed(self, layer, factors):
    kernel, by_group = to_float64(layer.kernel), factors.reshape(layer.groups, -1)
    return {"kernel": kernel / by_group.T.repeat(kernel.shape[-1] // layer.groups, axis=1)}

  def weights_per_input(self, layer):
    return super().weights_per_input(layer) // layer.groups

  def _by_group(self, layer, array):
    """A view of an array of shape (..., outputs) as (..., groups, outputs of each)."""
    return array.reshape(*array.shape[:-1], layer.groups, -1)


class Transposed(Mixer):
  """A transposed convolution, with a kernel of shape (..., outputs, inputs).

  Where its strokes overlap differs from pixel to pixel, so a constant input adds a pattern, not a constant.
  """

  def folds(self, layer):
    return False

  def kernel(self, layer):
    return super().kernel(layer).swapaxes(1, 2)

  def pads(self, call):
    return True

  def sliced(self, layer, kernel, keep_in, keep_out):
    kernel = kernel[:, keep_in][:, :, keep_out].swapaxes(1, 2)
    return {"kernel": kernel.reshape(*layer.kernel.shape[:-2], *kernel.shape[1:])}

  def multiply_adds(self, call, weights):
    return kernel_products(call.space(call.inputs[0]), [weights["kernel"]])

  def weights_per_output(self, layer):
    return super().weights_per_input(layer)

  def weights_per_input(self, layer):
    return super().weights_per_output(layer)


class Separable(Mixer):
  """A depthwise convolution, then a pointwise one."""

  kernels = ("depthwise_kernel", "pointwise_kernel")
  carries = False

  def kernel(self, layer):
    depthwise = keras.ops.convert_to_numpy(layer.depthwise_kernel)
    depthwise = depthwise.reshape(-1, *depthwise.shape[-2:])
    pointwise = keras.ops.convert_to_numpy(layer.pointwise_kernel)
    pointwise = pointwise.reshape(*depthwise.shape[1:], -1)
    return np.einsum("pim,imo->pio", depthwise, pointwise)

  def connected(self, layer):
    # Not where the product of both kernels is 0: that may be rounding.
    depthwise = (keras.ops.convert_to_numpy(layer.depthwise_kernel) != 0).any(axis=tuple(range(len(layer.kernel_size))))
    pointwise = keras.ops.convert_to_numpy(layer.pointwise_kernel) != 0
    return (depthwise[..., None] & pointwise.reshape(*depthwise.shape, -1)).any(axis=1)

  def shift(self, layer, positions, constant):
    depthwise = to_float64(layer.depthwise_kernel)[..., positions, :]
    depthwise = depthwise.sum(axis=tuple(range(len(layer.kernel_size))))
    pointwise = to_float64(layer.pointwise_kernel).reshape(-1, depthwise.shape[1], layer.filters)[positions]
    return np.einsum("i,im,imo->o", constant[positions], depthwise, pointwise)

  def sliced(self, layer, kernel, keep_in, keep_out):
    pointwise = keras.ops.convert_to_numpy(layer.pointwise_kernel)
    return {
      "depthwise_kernel": keras.ops.convert_to_numpy(layer.depthwise_kernel)[..., keep_in, :],
      "pointwise_kernel": pointwise[..., np.repeat(keep_in, layer.depth_multiplier), :][..., keep_out],
    }

  def absorbed(self, layer, factors):
    return {"depthwise_kernel": to_float64(layer.depthwise_kernel) / factors[:, None]}

  def weights_per_output(self, layer):
    return math.prod(layer.pointwise_kernel.shape[:-1])

  def weights_per_input(self, layer):
    multiplier = layer.depth_multiplier
    return math.prod(layer.kernel_size) * multiplier + multiplier * layer.filters


class Depthwise(Rule):
  """A convolution of each channel by itself, with a kernel of shape (..., channels, outputs of each)."""

  owns_channels = True
  kernels = ("kernel",)

  def applies(self, call):
    return call.inputs[0].shape[call.channel_axis] is not None

  def forward(self, graph, call):
    layer, inputs = call.operation, graph.read(call, 0, call.channel_axis)
    multiplier = layer.depth_multiplier
    before = np.repeat(inputs.constant, multiplier)
    sums = to_float64(layer.kernel).sum(axis=tuple(range(len(layer.kernel_size)))).reshape(-1)
    connected = self._connected(layer)
    constant = np.where(connected, before * sums, 0)
    if layer.use_bias:
      constant = constant + to_float64(layer.bias)
    border = np.repeat(border_behind_zeros(inputs, pads(call)), multiplier) * connected
    ids = np.repeat(inputs.ids, multiplier)
    if is_coupled(layer.activation):
      graph.block(ids, call.name)
      constant[:] = np.nan
    return [Channels(inputs.axis, ids, known_values(layer.activation, constant), border, reason=inputs.reason)]

  def backward(self, graph, call):
    used = call.outputs[0].channels.used & self._connected(call.operation)
    return [used.reshape(-1, call.operation.depth_multiplier).any(axis=1)]

  def squeezed(self, graph, call, keep_in, keep_out):
    weights = {"kernel": keras.ops.convert_to_numpy(call.operation.kernel)[..., keep_in[0], :]}
    if call.operation.use_bias:
      weights["bias"] = keras.ops.convert_to_numpy(call.operation.bias)[keep_out]
    return Squeezed(weights=weights)

  def multiply_adds(self, call, weights):
    return kernel_products(call.space(call.outputs[0]), [weights["kernel"]])

  def absorbed(self, layer, factors):
    return {"kernel": to_float64(layer.kernel) / factors[:, None]}

  def weights_per_output(self, layer):
    return math.prod(layer.kernel_size)

  def weights_per_input(self, layer):
    return math.prod(layer.kernel_size) * layer.depth_multiplier

  def _connected(self, layer):
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    return (kernel != 0).any(axis=tuple(range(len(layer.kernel_size)))).reshape(-1)


for _class in (layers.Conv1D, layers.Conv2D, layers.Conv3D):
  register(_class, Mixer(), Grouped())
register(layers.Dense, Mixer())
for _class in (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose):
  register(_class, Transposed())
for _class in (layers.SeparableConv1D, layers.SeparableConv2D):
  register(_class, Separable())
for _class in (layers.DepthwiseConv1D, layers.DepthwiseConv2D):
  register(_class, Depthwise())
