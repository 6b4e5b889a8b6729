"""The rule of layers whose outputs are weighted sums of all their inputs."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from cifar10.pruning.calls import Call
from cifar10.pruning.rules.activations import is_coupled, known_values
from cifar10.pruning.rules.base import Channels, Rule, Squeezed, attribute_of, border_behind_zeros, to_float64

if TYPE_CHECKING:
  from cifar10.pruning.channel_graph import ChannelGraph


class KernelRule(Rule):
  """activation(kernel * x + bias): each output is a weighted sum of the inputs, over one pixel or several.

  A layer of one's own needs a subclass of this that says what differs: where the kernel is (`kernels`), how it lies
  (`kernel`, `sliced`) and what the constructor calls the number of outputs (`config`). As it stands it holds for a
  kernel of shape (..., inputs, outputs), with the attributes of Keras' convolutions and dense layers: `bias`,
  `use_bias`, `activation`, `padding`, `kernel_size`, `strides`, `dilation_rate`, `data_format`, where there are any.

  Attributes:
    bias: name of the layer's attribute that holds its bias, (outputs,); it may be missing or None.
    tied: whether an input goes only together with the outputs that it is mixed into.
    carries: whether one input's kernel can take over what other inputs contribute.
  """

  mixes = True
  owns_channels = True
  kernels = ("kernel",)
  bias: str = "bias"
  tied: bool = False
  carries: bool = True

  def applies(self, call):
    return call.inputs[0].shape[call.channel_axis] is not None

  def kernel(self, layer: keras.Layer) -> np.ndarray:
    """The kernel as an array (kernel positions, inputs, outputs)."""
    kernel = keras.ops.convert_to_numpy(attribute_of(layer, self.kernels[0]))
    return kernel.reshape(-1, *kernel.shape[-2:])

  def kernel_by_input(self, layer: keras.Layer) -> np.ndarray:
    """The kernel as an array (kernel positions, outputs that an input is mixed into, inputs)."""
    return self.kernel(layer).swapaxes(1, 2)

  def sliced(
    self, layer: keras.Layer, kernel: np.ndarray, keep_in: np.ndarray, keep_out: np.ndarray
  ) -> dict[str, np.ndarray]:
    """The weights by attribute name that some inputs and outputs of a kernel, as `kernel` gives it, make."""
    kernel, shape = kernel[:, keep_in][:, :, keep_out], attribute_of(layer, self.kernels[0]).shape
    return {self.kernels[0]: kernel.reshape(*shape[:-2], *kernel.shape[1:])}

  def config(self, layer: keras.Layer, keep_in: np.ndarray, keep_out: np.ndarray) -> dict[str, Any]:
    """What changes in the layer's config where these inputs and outputs stay, bool arrays."""
    return {"units" if hasattr(layer, "units") else "filters": int(keep_out.sum())}

  def activation(self, layer: keras.Layer) -> Callable:
    """The activation function; of one that Keras does not know all channels stay."""
    return getattr(layer, "activation", None) or keras.activations.linear

  def has_bias(self, layer: keras.Layer) -> bool:
    """Whether the layer has a bias."""
    return attribute_of(layer, self.bias) is not None

  def folds(self, layer: keras.Layer) -> bool:
    """Whether what a constant input adds, borders aside, can go into a bias.

    By default if there is one, or can be by `use_bias=True`. Elsewhere an input with a constant other than 0 goes only
    where another one `carries` it.
    """
    return self.has_bias(layer) or hasattr(layer, "use_bias")

  def pads(self, call: Call) -> bool:
    """Whether the layer reads zeros around its input."""
    return pads(call)

  def connected(self, layer: keras.Layer) -> np.ndarray:
    """Which inputs have a weight other than 0 to which outputs: bool (inputs, outputs)."""
    return (self.kernel(layer) != 0).any(axis=0)

  def shift(self, layer: keras.Layer, positions: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """What inputs that are constant at `positions` add to each output, away from borders: float64 (outputs,)."""
    sums = self.kernel(layer)[:, positions].sum(axis=0, dtype=np.float64)
    return constant[positions] @ sums

  def shifted(self, layer: keras.Layer, weights: Mapping[str, np.ndarray], shift: np.ndarray) -> dict[str, np.ndarray]:
    """The biases by attribute name, given those of the outputs that stay and what is added to these."""
    return {self.bias: weights[self.bias] + shift}

  def made(self, layer: keras.Layer, keep_out: np.ndarray) -> np.ndarray:
    """Which outputs of the kernel stay, bool array, where these positions of the layer's output do."""
    return keep_out

  def groups(self, layer: keras.Layer) -> int:
    """In how many groups, all of one width, the inputs and the outputs lie that are mixed with each other alone."""
    return 1

  def carry(self, layer: keras.Layer, kernel: np.ndarray, carrier: int, position: int, ratio: float) -> None:
    """Adds the kernel of the input at `position`, times `ratio`, to that of another one of its group, in place."""
    kernel[:, carrier] += ratio * kernel[:, position]

  def tie(self, graph: "ChannelGraph", layer: keras.Layer, ids: np.ndarray, made: np.ndarray) -> None:
    """Declares what of the layer's inputs and outputs stays or goes together."""

  def forward(self, graph, call):
    layer, inputs = call.operation, graph.read(call, 0, call.channel_axis)
    connected = self.connected(layer)
    border = border_behind_zeros(inputs, self.pads(call), connected.any(axis=1))
    varies = np.isnan(inputs.constant) | (False if self.folds(layer) else inputs.constant != 0)
    constant = self.shift(layer, np.flatnonzero(~varies & (inputs.constant != 0)), inputs.constant)
    if self.has_bias(layer):
      constant = constant + to_float64(attribute_of(layer, self.bias))
    constant[(connected & varies[:, None]).any(axis=0)] = np.nan
    border = np.where(np.isnan(constant), 0, (connected * border[:, None]).max(axis=0))
    ids = graph.new_ids(connected.shape[1])
    self.tie(graph, layer, inputs.ids, ids)
    if is_coupled(self.activation(layer)):
      graph.block(ids, call.name)
      constant[:] = np.nan
    else:
      constant = known_values(self.activation(layer), constant)
    axis = call.channel_axis - len(call.inputs[0].shape) + len(call.outputs[0].shape)
    return [Channels(axis, ids, constant, border)]

  def backward(self, graph, call):
    used = call.outputs[0].channels.used
    return [(self.connected(call.operation) & used).any(axis=1)]

  def squeezed(self, graph, call, keep_in, keep_out):
    layer = call.operation
    weights = self.sliced(layer, self.kernel(layer), keep_in[0], keep_out)
    if self.has_bias(layer):
      weights[self.bias] = keras.ops.convert_to_numpy(attribute_of(layer, self.bias))[keep_out]
    return Squeezed(self.config(layer, keep_in[0], keep_out), weights)

  def absorbed(self, layer, factors):
    everything = np.ones(len(factors), bool), np.ones(self.kernel(layer).shape[-1], bool)
    return self.sliced(layer, self.kernel(layer) / factors[:, None], *everything)

  def weights_per_output(self, layer):
    positions, inputs, _ = self.kernel(layer).shape
    return positions * inputs

  def weights_per_input(self, layer):
    positions, _, outputs = self.kernel(layer).shape
    return positions * outputs

  def multiply_adds(self, call: Call, weights: Mapping[str, npt.ArrayLike]) -> int | None:
    return kernel_products(call.space(call.outputs[0]), [weights[name] for name in self.kernels])


def kernel_products(sizes: tuple[int | None, ...], kernels: list[npt.ArrayLike]) -> int | None:
  """Multiply-adds of kernels that are applied at as many places as `sizes` make; None if one is not fixed."""
  return None if None in sizes else math.prod(sizes) * sum(math.prod(kernel.shape) for kernel in kernels)


def pads(call: Call) -> bool:
  """Whether a kernel reaches over the border of the input, where it reads zeros."""
  layer = call.operation
  padding = getattr(layer, "padding", "valid")
  if padding == "valid":
    return False
  if not hasattr(layer, "kernel_size"):
    return True
  dilations = getattr(layer, "dilation_rate", (1,) * len(layer.kernel_size))
  reaches = [(kernel - 1) * dilation for kernel, dilation in zip(layer.kernel_size, dilations)]
  if padding == "causal":
    return any(reaches)
  return any(
    size is None or (math.ceil(size / stride) - 1) * stride + reach + 1 > size
    for size, stride, reach in zip(call.space(call.inputs[0]), layer.strides, reaches)
  )
