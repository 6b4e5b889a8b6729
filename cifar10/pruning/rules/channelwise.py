"""Rules of the layers and operations that treat each channel by itself."""

import keras
import numpy as np
from keras import layers, ops

from cifar10.pruning.calls import Tensor, operation_class, says_its_output_shape
from cifar10.pruning.rules.activations import activation_name, acts_on_values, is_coupled
from cifar10.pruning.rules.base import Channels, Rule, Squeezed, opaque, register, to_float64

# Those with f(a x) = a f(x) for all a above 0, unless they have a ceiling or a threshold.
HOMOGENEOUS_ACTIVATIONS = ("linear", "relu", "leaky_relu")
HOMOGENEOUS_FUNCTIONS = (ops.relu, ops.leaky_relu, ops.negative, ops.abs, keras.activations.relu)
HOMOGENEOUS = (layers.ReLU, layers.LeakyReLU, *map(operation_class, HOMOGENEOUS_FUNCTIONS))


class Passing(Rule):
  """Dropout and the like: in inference, the identity."""

  def applies(self, call):
    noise_shape = getattr(call.operation, "noise_shape", None) or ()
    return all(size in (None, 1) for size in noise_shape)  # Else it holds the number of channels, or may.

  def pattern(self, graph, call, channels):
    return channels.pattern

  def scaled(self, call, factors):
    return None if isinstance(call.operation, layers.GaussianNoise) else super().scaled(call, factors)


class Elementwise(Rule):
  """A function of one or several tensors, and of fixed numbers or arrays, value by value.

  Activations, sums, products, maxima. Tensors are broadcast as numpy does; a channel stays in all or in none.
  """

  elementwise = True

  def applies(self, call):
    layer = call.operation
    if getattr(layer, "activation", None) is not None and is_coupled(layer.activation):
      return False
    ranks = {len(tensor.shape) for tensor in call.inputs}
    fixed = [value for value in keras.tree.flatten((call.args, call.kwargs)) if not isinstance(value, Tensor)]
    variables = [value for value in fixed if isinstance(value, keras.Variable)]
    others = [call.kwargs, *(value for value in call.args if _tensors(value))]  # Than those that `squeezed` cuts.
    arrays = [value for value in keras.tree.flatten(others) if np.ndim(value)]
    return not variables and not arrays and (len(ranks) == 1 or not isinstance(layer, keras.Layer))

  def forward(self, graph, call):
    followed = [tensor.channels for tensor in call.inputs if tensor.channels.axis is not None]
    rank, axis = len(call.outputs[0].shape), self.axis(call)
    if axis is None:
      for channels in followed:
        graph.block(channels.ids, call.name)
      reasons = [tensor.channels.reason for tensor in call.inputs if tensor.channels.axis is None]
      return [opaque(reasons[0] if reasons else call.name)]
    constant, varies = self._evaluated(call, rank, axis)
    wide = [channels for channels in followed if len(channels.ids) == len(constant)]
    for channels in followed:
      if len(channels.ids) == len(constant):
        graph.unite(wide[0].ids, channels.ids)
      else:
        graph.block(channels.ids, call.name)
    for tensor in call.inputs:
      if tensor.channels.axis is None and _size(tensor, axis - rank) == len(constant):
        graph.block(wide[0].ids, tensor.channels.reason)
    constant[varies] = np.nan
    border = np.maximum.reduce([np.broadcast_to(channels.border, len(constant)) for channels in followed])
    return [self.joined(followed, Channels(axis, wide[0].ids, constant, np.where(varies, 0, border)))]

  def axis(self, call):
    """The channel axis of the output; None if the inputs do not agree on one."""
    rank = len(call.outputs[0].shape)
    followed = [tensor for tensor in call.inputs if tensor.channels.axis is not None]
    axes = {tensor.channels.axis - len(tensor.shape) for tensor in followed}
    if len(axes) != 1 or call.outputs[0].shape[rank + min(axes)] is None:
      return None
    widths = [len(tensor.channels.ids) for tensor in followed]
    return rank + min(axes) if call.outputs[0].shape[rank + min(axes)] in widths else None

  def joined(self, followed, channels):
    """The output's `Channels`, given what follows from the operation's values alone."""
    return channels

  def _evaluated(self, call, rank, axis):
    """The operation's values where all inputs are constant, and where they are not: arrays over the channels."""

    def values(tensor, of_channels, otherwise):
      shape = [1] * len(tensor.shape)
      if tensor.channels.axis is None:
        return np.full(shape, otherwise)
      shape[tensor.channels.axis] = -1
      return of_channels(tensor.channels).reshape(shape)

    outputs = evaluate(call, lambda tensor: values(tensor, lambda channels: np.nan_to_num(channels.constant), 0.0))
    unknown = [values(tensor, lambda channels: np.isnan(channels.constant), True) for tensor in call.inputs]
    varies = np.zeros(call.outputs[0].shape[axis], bool)
    for array in unknown:
      array = array.reshape([1] * (rank - array.ndim) + list(array.shape))
      varies = varies | np.moveaxis(array, axis, -1).reshape(-1)
    outputs = np.moveaxis(outputs, axis, -1).reshape(-1, outputs.shape[axis])
    outputs = np.broadcast_to(outputs, (len(outputs), len(varies)))
    # An array that it is computed with may differ from pixel to pixel; and what is not finite is no constant.
    varies = varies | (outputs != outputs[0]).any(axis=0) | ~np.isfinite(outputs).all(axis=0)
    return outputs[0].copy(), varies

  def backward(self, graph, call):
    used = call.outputs[0].channels.used
    return [
      used if len(channels.ids) == len(used) else np.full(len(channels.ids), used.any()) for channels in call.reads
    ]

  def squeezed(self, graph, call, keep_in, keep_out):
    rank, axis = len(call.outputs[0].shape), call.outputs[0].channels.axis
    squeezed = Squeezed()
    for index, value in enumerate(call.args):
      own = None if axis is None else axis - rank
      if not _tensors(value) and own is not None and -own <= np.ndim(value):
        array = ops.convert_to_numpy(ops.convert_to_tensor(value))
        if array.shape[own] == len(keep_out) > 1:
          squeezed.args[index] = np.compress(keep_out, array, axis=own)
    return squeezed

  def scaled(self, call, factors):
    return None


class Activation(Elementwise):
  """An activation layer, or a function of one tensor that may be one."""

  def forward(self, graph, call):
    (channels,), pattern = super().forward(graph, call), call.inputs[0].channels.pattern
    if pattern.any() and not evaluate(call, lambda tensor: np.zeros([1] * len(tensor.shape))).any():
      channels.pattern = np.where(np.isnan(channels.constant), 0, pattern)  # Zeros stay zeros.
    return [channels]

  def scaled(self, call, factors):
    operation = call.operation
    bent = getattr(operation, "max_value", None) is not None or getattr(operation, "threshold", 0) != 0
    homogeneous = isinstance(operation, HOMOGENEOUS) or (
      isinstance(operation, layers.Activation) and activation_name(operation.activation) in HOMOGENEOUS_ACTIVATIONS
    )
    return factors[0] if homogeneous and not bent else None


class Clip(Elementwise):
  """`ops.clip`, between two numbers."""

  def applies(self, call):
    return super().applies(call) and np.ndim(call.operation.x_min) == np.ndim(call.operation.x_max) == 0


class Sum(Elementwise):
  """Sums, differences, means, maxima and minima of tensors."""

  def scaled(self, call, factors):
    alike = all(np.array_equal(factor, factors[0]) for factor in factors)
    return factors[0] if alike and all(_tensors(value) for value in call.args) else None


class Product(Elementwise):
  """A product: where a factor is 0 the others do not matter."""

  def joined(self, followed, channels):
    zero = np.zeros(len(channels.ids), bool)
    for factor in followed:
      zero = zero | (factor.known & (factor.constant == 0))
    constant, border = np.where(zero, 0, channels.constant), np.where(zero, 0, channels.border)
    return Channels(channels.axis, channels.ids, constant, border)

  def backward(self, graph, call):
    result = super().backward(graph, call)
    nowhere = np.zeros(1, bool)
    zeros = [nowhere if factor.axis is None else factor.known & (factor.constant == 0) for factor in call.reads]
    for index, zero in enumerate(zeros):
      for other, other_zero in enumerate(zeros):
        # Of several factors that are 0, the first makes the product so, and is used.
        shuts = other_zero if other < index else (other_zero & ~zero) if other > index else nowhere
        if len(shuts) in (1, len(result[index])):
          result[index] = result[index] & ~shuts
    return result

  def scaled(self, call, factors):
    product = np.ones(len(call.outputs[0].channels.ids))
    for factor in factors:
      product = product * (factor if len(factor) else 1)  # Nothing is known of an opaque one, and it stays.
    return product


class Function(Elementwise):
  """A Lambda layer of a function that maps each value by itself."""

  def applies(self, call):
    return super().applies(call) and not says_its_output_shape(call.operation) and acts_on_values(call.operation.call)


def evaluate(call, value):
  """Runs a call on arrays: `value(tensor)` for each of its tensors. Returns a float64 array."""
  args, kwargs = keras.tree.map_structure(
    lambda argument: ops.convert_to_tensor(value(argument)) if isinstance(argument, Tensor) else argument,
    (call.args, call.kwargs),
  )
  return to_float64(call.operation.call(*args, **kwargs))  # Called itself, a layer would note what it is called with.


def _tensors(value):
  """Whether an argument of a call is a tensor of the model, or a list of some."""
  return any(isinstance(part, Tensor) for part in keras.tree.flatten(value))


def _size(tensor, axis):
  return tensor.shape[axis] if -axis <= len(tensor.shape) else 1


IDENTITIES = (
  layers.Dropout,
  layers.SpatialDropout1D,
  layers.SpatialDropout2D,
  layers.SpatialDropout3D,
  layers.GaussianDropout,
  layers.AlphaDropout,
  layers.GaussianNoise,
  layers.ActivityRegularization,
  layers.Identity,
)
UNARY_OPERATIONS = """
  negative abs square sqrt rsqrt reciprocal exp expm1 log log1p sign sin cos tanh arctan erf floor ceil round
  stop_gradient relu relu6 leaky_relu elu selu celu gelu silu sigmoid hard_sigmoid hard_silu hard_tanh log_sigmoid
  softplus softsign tanh_shrink soft_shrink hard_shrink squareplus sparse_plus sparse_sigmoid
"""

register(layers.Lambda, Function())
for _class in (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU):
  register(_class, Activation())
for _class in (layers.Add, layers.Subtract, layers.Average, layers.Maximum, layers.Minimum):
  register(_class, Sum())
register(layers.Multiply, Product())
for _class in IDENTITIES:
  register(_class, Passing())

for _function in (ops.add, ops.subtract, ops.maximum, ops.minimum):
  register(operation_class(_function, keras.KerasTensor((None, 2, 2, 2))), Sum())
register(operation_class(ops.multiply, 2.0), Product())
for _function in (ops.divide, ops.true_divide, ops.power):
  register(operation_class(_function, 2.0), Elementwise())
for _name in UNARY_OPERATIONS.split():
  register(operation_class(getattr(ops, _name)), Activation())
for _function in (keras.activations.relu, keras.activations.relu6):
  register(operation_class(_function), Activation())
register(operation_class(ops.cast, "float16"), Activation())
register(operation_class(ops.clip, 0.0, 1.0), Clip())
