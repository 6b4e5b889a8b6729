"""Rules of the layers that read channels by kernels, and whose own outputs stay: recurrent ones, attention, einsums."""

import math

import keras
import numpy as np
from keras import layers

from cifar10.pruning.rules.base import Squeezed, attribute_of, opaque, register, to_float64
from cifar10.pruning.rules.kernels import KernelRule


class Reader(KernelRule):
  """A layer that begins with a product of its first input and kernels, of shape (inputs, outputs) unless overridden.

  Inputs that are dead go, and what constants add goes into the biases of that product, if it has any, or else into the
  kernel of a carrier. Its other inputs stay, and its outputs are not followed.
  """

  many_outputs = True
  biases: tuple[str, ...] = ()

  def weights(self, layer: keras.Layer) -> list[np.ndarray]:
    """The kernels as arrays (kernel positions, inputs, outputs)."""
    return [keras.ops.convert_to_numpy(attribute_of(layer, name))[None] for name in self.kernels]

  def shaped(self, layer: keras.Layer, name: str, kernel: np.ndarray) -> np.ndarray:
    """A kernel of (kernel positions, inputs, outputs) as the layer has it."""
    return kernel[0]

  def has_bias(self, layer):
    return bool(self.biases) and all(attribute_of(layer, name) is not None for name in self.biases)

  def folds(self, layer):
    return self.has_bias(layer)

  def pads(self, call):
    return False

  def applies(self, call):
    return call.inputs[0].shape[self.axis(call)] is not None

  def kernel(self, layer):
    return np.concatenate(self.weights(layer), axis=-1)

  def made(self, layer, keep_out):
    return np.ones(self.kernel(layer).shape[-1], bool)

  def sliced(self, layer, kernel, keep_in, keep_out):
    ends = np.cumsum([weight.shape[-1] for weight in self.weights(layer)])[:-1]
    parts = np.split(kernel[:, keep_in], ends, axis=-1)
    return {name: self.shaped(layer, name, part) for name, part in zip(self.kernels, parts)}

  def config(self, layer, keep_in, keep_out):
    return {}

  def shifted(self, layer, weights, shift):
    arrays = [to_float64(attribute_of(layer, name)) for name in self.biases]
    parts = np.split(shift, np.cumsum([weight.shape[-1] for weight in self.weights(layer)])[:-1])
    return {name: self.biased(array, part) for name, array, part in zip(self.biases, arrays, parts)}

  def biased(self, bias: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """A bias with something added to the product of inputs and kernel, (outputs,)."""
    return bias + shift.reshape(bias.shape)

  def forward(self, graph, call):
    channels = graph.read(call, 0, self.axis(call))
    for tensor in call.inputs[1:]:
      if tensor is not call.inputs[0]:
        graph.block(tensor.channels.ids, call.name)
    return [opaque(call.name if channels.axis is not None else channels.reason) for _ in call.outputs]

  def axis(self, call) -> int:
    """The axis of the first input that the kernels are multiplied with."""
    return len(call.inputs[0].shape) - 1

  def backward(self, graph, call):
    used = (self.kernel(call.operation) != 0).any(axis=(0, 2))
    return [used if read is call.reads[0] else np.ones(len(read.ids), bool) for read in call.reads]

  def squeezed(self, graph, call, keep_in, keep_out):
    layer = call.operation
    if keep_in[0].all():
      return Squeezed()
    everything = self.made(layer, keep_out)
    return Squeezed(
      self.config(layer, keep_in[0], everything), self.sliced(layer, self.kernel(layer), keep_in[0], everything)
    )

  def absorbed(self, layer, factors):
    everything = np.ones(len(factors), bool)
    return self.sliced(layer, self.kernel(layer) / factors[:, None], everything, everything)

  def multiply_adds(self, call, weights):
    return 0


class Recurrent(Reader):
  """SimpleRNN, LSTM and GRU: the kernel of the inputs, at each step."""

  kernels = ("cell.kernel",)
  biases = ("cell.bias",)

  def biased(self, bias, shift):
    if bias.ndim == 1:
      return bias + shift
    return np.concatenate([bias[:1] + shift, bias[1:]])  # That of the inputs, and that of the state.


class BothWays(Recurrent):
  """Bidirectional SimpleRNN, LSTM or GRU."""

  kernels = ("forward_layer.cell.kernel", "backward_layer.cell.kernel")
  biases = ("forward_layer.cell.bias", "backward_layer.cell.bias")

  def applies(self, call):
    kinds = (layers.SimpleRNN, layers.LSTM, layers.GRU)
    both = (call.operation.forward_layer, call.operation.backward_layer)
    return all(type(layer) in kinds for layer in both) and super().applies(call)


class Attention(Reader):
  """MultiHeadAttention: the queries' kernel."""

  kernels = ("_query_dense.kernel",)
  biases = ("_query_dense.bias",)

  def applies(self, call):
    gated = getattr(call.operation, "_use_gate", False)
    alike = {id(tensor) for tensor in call.inputs} == {id(call.inputs[0])}
    return not gated and alike == self.alike and super().applies(call)

  alike = False

  def weights(self, layer):
    kernels = [keras.ops.convert_to_numpy(attribute_of(layer, name)) for name in self.kernels]
    return [kernel.reshape(1, len(kernel), -1) for kernel in kernels]

  def shaped(self, layer, name, kernel):
    return kernel.reshape(kernel.shape[1], *attribute_of(layer, name).shape[1:])

  def squeezed(self, graph, call, keep_in, keep_out):
    squeezed = super().squeezed(graph, call, keep_in, keep_out)
    if squeezed.weights and not call.operation.get_config()["output_shape"]:
      squeezed.config["output_shape"] = (call.inputs[0].shape[-1],)  # Else it would be as wide as the queries.
    return squeezed


class SelfAttention(Attention):
  """MultiHeadAttention of a tensor to itself: the kernels of queries, keys and values."""

  kernels = ("_query_dense.kernel", "_key_dense.kernel", "_value_dense.kernel")
  biases = ("_query_dense.bias", "_key_dense.bias", "_value_dense.bias")
  alike = True


class Einsum(Reader):
  """EinsumDense: of the axes that it sums over, the last one counts as that of the inputs, others as places."""

  kernels = ("kernel",)
  biases = ("bias",)

  def applies(self, call):
    layer = call.operation
    plain = not getattr(layer, "quantization_mode", None) and not getattr(layer, "lora_enabled", False)
    return plain and bool(self._summed(layer)) and super().applies(call)

  def axis(self, call):
    inputs, summed = self._letters(call.operation)[0], self._summed(call.operation)
    return len(call.inputs[0].shape) - len(inputs) + inputs.index(summed[-1])

  def has_bias(self, layer):
    # One that is the same along some axis of the kernel's outputs cannot take up what differs there.
    return layer.bias is not None and layer.bias.shape == self._made_shape(layer)

  def weights(self, layer):
    kernel = np.transpose(keras.ops.convert_to_numpy(layer.kernel), self._order(layer))
    made = self._made_shape(layer)
    return [kernel.reshape(-1, kernel.shape[-1 - len(made)], math.prod(made))]

  def shaped(self, layer, name, kernel):
    order, shape = self._order(layer), layer.kernel.shape
    sizes = [shape[axis] for axis in order]
    sizes[-1 - len(self._made_shape(layer))] = kernel.shape[1]
    return np.transpose(kernel.reshape(sizes), np.argsort(order))

  def _letters(self, layer):
    """The letters of the inputs, the kernel and the outputs."""
    given, output = layer.equation.replace(" ", "").replace("...", "").split("->")
    return *given.split(","), output

  def _summed(self, layer):
    """The letters that the equation sums over, in the order of the inputs."""
    inputs, kernel, output = self._letters(layer)
    return [letter for letter in inputs if letter in kernel and letter not in output]

  def _order(self, layer):
    """The kernel's axes: those of places, that of the inputs, those of outputs."""
    _, kernel, output = self._letters(layer)
    summed = self._summed(layer)
    made = [letter for letter in output if letter in kernel]
    return [kernel.index(letter) for letter in (*summed[:-1], summed[-1], *made)]

  def _made_shape(self, layer):
    _, kernel, output = self._letters(layer)
    return tuple(layer.kernel.shape[kernel.index(letter)] for letter in output if letter in kernel)


for _class in (layers.SimpleRNN, layers.LSTM, layers.GRU):
  register(_class, Recurrent())
register(layers.Bidirectional, BothWays())
register(layers.MultiHeadAttention, SelfAttention(), Attention())
register(layers.EinsumDense, Einsum())
