"""Rules of convolutions and dense layers: those that mix channels, and the depthwise, which does not."""

import math

import keras
import numpy as np

from cifar10.pruning.rules.base import Channels, Rule, Squeezed, padded, register, to_float64
from cifar10.pruning.rules.channelwise import is_coupled, known_values


class Mixer(Rule):
  """activation(kernel * x + bias), with a kernel of shape (..., inputs, outputs).

  Attributes:
    tied: whether an input goes only together with the outputs that it is mixed into.
    carries: whether one input's kernel can take over what other inputs contribute.
    folds: whether a constant input adds the same to all outputs, borders of padded layers aside.
  """

  mixes = True
  owns_channels = True
  tied = False
  carries = True
  folds = True

  def applies(self, call):
    layer = call.operation
    plain = not getattr(layer, "quantization_mode", None) and not getattr(layer, "lora_enabled", False)
    in_groups = getattr(layer, "groups", 1) > 1
    return plain and in_groups == self.tied and call.inputs[0].shape[call.channel_axis] is not None

  def forward(self, graph, call):
    layer, inputs = call.operation, graph.read(call, 0, call.channel_axis)
    connected = self.connected(layer)
    border = padded(inputs, self.pads(call), connected.any(axis=1))
    varies = np.isnan(inputs.constant) | (False if self.folds else inputs.constant != 0)
    constant = self.shift(layer, np.flatnonzero(~varies & (inputs.constant != 0)), inputs.constant)
    if layer.use_bias:
      constant = constant + to_float64(layer.bias)
    constant[(connected & varies[:, None]).any(axis=0)] = np.nan
    border = np.where(np.isnan(constant), 0, (connected * border[:, None]).max(axis=0))
    ids = graph.new_ids(connected.shape[1])
    self.tie(graph, layer, inputs.ids, ids)
    if is_coupled(layer):
      graph.block(ids, call.name)
      constant[:] = np.nan
    else:
      constant = known_values(layer.activation, constant)
    axis = call.channel_axis - len(call.inputs[0].shape) + len(call.outputs[0].shape)
    return [Channels(axis, ids, constant, border)]

  def tie(self, graph, layer, ids, made):
    """Declares what of the layer's inputs and outputs stays or goes together."""

  def backward(self, graph, call):
    used = call.outputs[0].channels.used
    return [(self.connected(call.operation) & used).any(axis=1)]

  def kernel(self, layer):
    """The kernel as an array (kernel positions, inputs, outputs)."""
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    return kernel.reshape(-1, *kernel.shape[-2:])

  def connected(self, layer):
    """Which inputs have a weight other than 0 to which outputs: bool (inputs, outputs)."""
    return (self.kernel(layer) != 0).any(axis=0)

  def shift(self, layer, positions, constant):
    """What inputs that are constant at `positions` add to each output, away from borders: float64 (outputs,)."""
    sums = self.kernel(layer)[:, positions].sum(axis=0, dtype=np.float64)
    return constant[positions] @ sums

  def pads(self, call):
    """Whether constants other than 0 do not hold where the kernel reads them."""
    return pads(call)

  def squeezed(self, graph, call, keep_in, keep_out):
    layer = call.operation
    weights = self.sliced(layer, self.kernel(layer), keep_in[0], keep_out)
    if layer.use_bias:
      weights["bias"] = keras.ops.convert_to_numpy(layer.bias)[keep_out]
    size = "units" if hasattr(layer, "units") else "filters"
    return Squeezed({size: int(keep_out.sum())}, weights)

  def sliced(self, layer, kernel, keep_in, keep_out):
    """The weights by attribute name that some inputs and outputs of a kernel, as `kernel` gives it, make."""
    kernel = kernel[:, keep_in][:, :, keep_out]
    return {"kernel": kernel.reshape(*layer.kernel.shape[:-2], *kernel.shape[1:])}

  def multiply_adds(self, call, weights):
    sizes = spatial(call, call.outputs[0])
    return None if None in sizes else math.prod(sizes) * math.prod(weights["kernel"].shape)

  def absorbed(self, layer, factors):
    """The weights by attribute name with which inputs multiplied by `factors` give what the inputs gave."""
    everything = np.ones(len(factors), bool), np.ones(self.kernel(layer).shape[-1], bool)
    return self.sliced(layer, self.kernel(layer) / factors[:, None], *everything)

  def weights_per_output(self, layer):
    """How many weights of the kernel go with one output."""
    return math.prod(layer.kernel.shape[:-1])

  def weights_per_input(self, layer):
    """How many weights of the kernel go with one input."""
    return math.prod(layer.kernel.shape) // layer.kernel.shape[-2]


class Grouped(Mixer):
  """A convolution in groups: a group's inputs and outputs go together, whole groups at a time."""

  tied = True

  def kernel(self, layer):
    kernel, groups = super().kernel(layer), layer.groups
    positions, inputs, outputs = kernel.shape
    blocks = np.zeros((positions, groups, inputs, groups, outputs // groups), kernel.dtype)
    for group, part in enumerate(np.split(kernel, groups, axis=-1)):
      blocks[:, group, :, group] = part
    return blocks.reshape(positions, groups * inputs, outputs)

  def tie(self, graph, layer, ids, made):
    for inputs, outputs in zip(np.split(ids, layer.groups), np.split(made, layer.groups)):
      members = np.concatenate([inputs, outputs])
      graph.unite(members, np.full(len(members), members[0]))

  def squeezed(self, graph, call, keep_in, keep_out):
    layer = call.operation
    squeezed = super().squeezed(graph, call, keep_in, keep_out)
    squeezed.config["groups"] = int(keep_out.reshape(layer.groups, -1)[:, 0].sum())
    return squeezed

  def sliced(self, layer, kernel, keep_in, keep_out):
    return {"kernel": keras.ops.convert_to_numpy(layer.kernel)[..., keep_out]}

  def absorbed(self, layer, factors):
    kernel, by_group = to_float64(layer.kernel), factors.reshape(layer.groups, -1)
    return {"kernel": kernel / by_group.T.repeat(kernel.shape[-1] // layer.groups, axis=1)}

  def weights_per_input(self, layer):
    return super().weights_per_input(layer) // layer.groups


class Transposed(Mixer):
  """A transposed convolution, with a kernel of shape (..., outputs, inputs).

  Where its strokes overlap differs from pixel to pixel, so a constant input adds a pattern, not a constant.
  """

  folds = False

  def kernel(self, layer):
    return super().kernel(layer).swapaxes(1, 2)

  def pads(self, call):
    return True

  def sliced(self, layer, kernel, keep_in, keep_out):
    kernel = kernel[:, keep_in][:, :, keep_out].swapaxes(1, 2)
    return {"kernel": kernel.reshape(*layer.kernel.shape[:-2], *kernel.shape[1:])}

  def multiply_adds(self, call, weights):
    sizes = spatial(call, call.inputs[0])
    return None if None in sizes else math.prod(sizes) * math.prod(weights["kernel"].shape)

  def weights_per_output(self, layer):
    return super().weights_per_input(layer)

  def weights_per_input(self, layer):
    return super().weights_per_output(layer)


class Separable(Mixer):
  """A depthwise convolution, then a pointwise one."""

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

  def multiply_adds(self, call, weights):
    sizes = spatial(call, call.outputs[0])
    kernels = sum(math.prod(weights[name].shape) for name in ("depthwise_kernel", "pointwise_kernel"))
    return None if None in sizes else math.prod(sizes) * kernels

  def weights_per_output(self, layer):
    return math.prod(layer.pointwise_kernel.shape[:-1])

  def weights_per_input(self, layer):
    multiplier = layer.depth_multiplier
    return math.prod(layer.kernel_size) * multiplier + multiplier * layer.filters


class Depthwise(Rule):
  """A convolution of each channel by itself, with a kernel of shape (..., channels, outputs of each)."""

  owns_channels = True

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
    border = np.repeat(padded(inputs, pads(call)), multiplier) * connected
    ids = np.repeat(inputs.ids, multiplier)
    if is_coupled(layer):
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
    sizes = spatial(call, call.outputs[0])
    return None if None in sizes else math.prod(sizes) * math.prod(weights["kernel"].shape)

  def absorbed(self, layer, factors):
    """The weights by attribute name with which inputs multiplied by `factors` give what the inputs gave."""
    return {"kernel": to_float64(layer.kernel) / factors[:, None]}

  def weights_per_output(self, layer):
    """How many weights of the kernel go with one output."""
    return math.prod(layer.kernel_size)

  def weights_per_input(self, layer):
    """How many weights of the kernel go with one input."""
    return math.prod(layer.kernel_size) * layer.depth_multiplier

  def _connected(self, layer):
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    return (kernel != 0).any(axis=tuple(range(len(layer.kernel_size)))).reshape(-1)


def pads(call):
  """Whether a kernel reaches over the border of the input, where it reads zeros."""
  layer = call.operation
  padding = getattr(layer, "padding", "valid")
  if padding == "valid":
    return False
  reaches = [(kernel - 1) * dilation for kernel, dilation in zip(layer.kernel_size, layer.dilation_rate)]
  if padding == "causal":
    return any(reaches)
  return any(
    size is None or (math.ceil(size / stride) - 1) * stride + reach + 1 > size
    for size, stride, reach in zip(spatial(call, call.inputs[0]), layer.strides, reaches)
  )


def spatial(call, tensor):
  """The sizes of a tensor without those of the batch and the channels."""
  axis = 1 if call.channel_axis < len(call.inputs[0].shape) - 1 else len(tensor.shape) - 1
  return tuple(size for index, size in enumerate(tensor.shape) if index not in (0, axis))


for _name in ("Conv1D", "Conv2D", "Conv3D"):
  register(getattr(keras.layers, _name), Mixer(), Grouped())
register(keras.layers.Dense, Mixer())
for _name in ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"):
  register(getattr(keras.layers, _name), Transposed())
for _name in ("SeparableConv1D", "SeparableConv2D"):
  register(getattr(keras.layers, _name), Separable())
for _name in ("DepthwiseConv1D", "DepthwiseConv2D"):
  register(getattr(keras.layers, _name), Depthwise())
