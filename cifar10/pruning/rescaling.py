"""The rescaling of gammas against the kernels behind them, for models that were trained without a penalty.

Soft thresholding moves a gamma by a fixed amount a step, so gammas that start near 1 take long to get to 0. Made
smaller by a factor, with the kernels that read them made larger by as much, they get there sooner, and the network
computes the same (section 4.2 of the paper, "gamma-W rescaling").
"""

from collections.abc import Collection

import keras
import numpy as np

from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.keys import variables_of
from cifar10.pruning.rules import BatchNorm
from cifar10.pruning.rules.base import to_float64


def scale_gammas(model: keras.Model, penalties: Collection[str], alpha: float) -> None:
  """Multiplies gated gammas and their betas by `alpha`, and divides the kernels that read them by it, in place.

  The function of the model in inference stays, up to rounding. That takes layers f with f(a x) = a f(x) between the
  gammas and the kernels: ReLU, leaky ReLU, PReLU, pooling, zero padding, dropout, sums of terms that all are scaled.
  Undo it with `unscale_gammas`, after the training or on the squeezed model.

  Args:
    model: a functional or Sequential Keras model, or a subclassed one that was called before.
    penalties: keys of the gammas to scale; the dict will do that `penalties(model)` gives.
    alpha: what to multiply gammas by, a finite number above 0; the paper uses 0.001 to 1.

  Raises:
    ValueError: a layer behind the gammas lets no factor pass (swish, a sum with a term that is not scaled, another
      batch norm); it is named, and the model is as it was. `alpha` is out of range, `penalties` names no gamma of the
      model, or `model` is not functional.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="a_bn")(x)))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> before = model(keras.ops.ones((1, 8, 8, 3)))
  >>> scale_gammas(model, ["a_bn/gamma"], 0.5)
  >>> model.get_layer("a_bn").gamma.numpy().tolist()
  [0.5, 0.5, 0.5, 0.5]
  >>> bool(keras.ops.all(keras.ops.isclose(model(keras.ops.ones((1, 8, 8, 3))), before)))
  True
  """
  if not 0 < alpha < float("inf"):
    raise ValueError(f"alpha is {alpha}; it is a finite number above 0")
  graph = ChannelGraph(model)
  named = {id(variable): key for key, variable in variables_of(model, penalties).items()}
  scaled = {
    id(call.operation): call.operation
    for call in graph.calls
    if isinstance(call.rule, BatchNorm) and call.operation.scale and id(call.operation.gamma) in named
  }
  other = set(named) - {id(layer.gamma) for layer in scaled.values()}
  if other:
    raise ValueError(f"penalties names {sorted(named[each] for each in other)}, which are no gammas of {model.name}")
  readers = _factors_of_readers(graph, scaled, alpha)
  for layer in scaled.values():
    for variable in (layer.gamma, layer.beta) if layer.center else (layer.gamma,):
      variable.assign(to_float64(variable) * alpha)
  for call, factors in readers.values():
    weights = call.rule.absorbed(call.operation, factors) if _any_scaled([factors]) else {}
    for name, array in weights.items():
      getattr(call.operation, name).assign(array)


def unscale_gammas(model: keras.Model, penalties: Collection[str], alpha: float) -> None:
  """Undoes `scale_gammas` with the same arguments, up to rounding; raises as that does.

  Args:
    model: as for `scale_gammas`, or the squeezed one.
    penalties: as for `scale_gammas`.
    alpha: as for `scale_gammas`.

  Raises:
    ValueError: as `scale_gammas`.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="a_bn")(x)))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> scale_gammas(model, ["a_bn/gamma"], 0.5)
  >>> unscale_gammas(model, ["a_bn/gamma"], 0.5)
  >>> model.get_layer("a_bn").gamma.numpy().tolist()
  [1.0, 1.0, 1.0, 1.0]
  """
  if not 0 < alpha < float("inf"):
    raise ValueError(f"alpha is {alpha}; it is a finite number above 0")
  scale_gammas(model, penalties, 1 / alpha)


def _factors_of_readers(graph, scaled, alpha):
  """By what the inputs of layers with kernels are multiplied: dict from the layer's id() to (a call, float64 array)."""
  factors, readers = {}, {}
  for call in graph.calls:
    inputs = [factors[id(tensor)] for tensor in call.inputs]
    passed = [np.ones(len(tensor.channels.ids)) for tensor in call.outputs]
    if call.rule.kernels:
      _, before = readers.setdefault(id(call.operation), (call, inputs[0]))
      if (_turned(call) and _any_scaled(inputs)) or not np.array_equal(before, inputs[0]):
        _refuse(call)
    elif id(call.operation) in scaled:
      passed[0] = passed[0] * alpha
      if _any_scaled(inputs):
        _refuse(call)
    elif _any_scaled(inputs):
      lost = _turned(call) or call.outputs[0].channels.axis is None or isinstance(call.rule, BatchNorm)
      passed[0] = None if lost else call.rule.scaled(call, inputs)
      if passed[0] is None:
        _refuse(call)
    if _any_scaled(passed) and call.outputs[0].is_output:
      _refuse(call)
    factors.update((id(tensor), factor) for tensor, factor in zip(call.outputs, passed))
  return readers


def _turned(call):
  """Whether the call reads a tensor along another axis than that of the channels."""
  return any(tensor.channels is not read for tensor, read in zip(call.inputs, call.reads))


def _any_scaled(factors):
  return any((factor != 1).any() for factor in factors)


def _refuse(call):
  raise ValueError(
    f"gammas cannot be scaled: what layer {call.name} computes would not just be multiplied, or is an output; "
    "leave the gammas that reach it out of penalties"
  )
