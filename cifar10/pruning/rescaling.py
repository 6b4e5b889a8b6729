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
from cifar10.pruning.rules.base import attribute_of, to_float64


def scale_gammas(model: keras.Model, penalties: Collection[str], alpha: float) -> dict[str, str]:
  """Multiplies gated gammas and their betas by `alpha`, and divides the kernels that read them by it, in place.

  The function of the model in inference stays, up to rounding. That takes layers f with f(a x) = a f(x) between the
  gammas and the kernels: ReLU, leaky ReLU, PReLU, pooling, zero padding, dropout, sums of terms that all are scaled.
  The gammas behind which there is another (swish, a sum with a term that is not scaled, another batch norm) are left
  out. Undo it with `unscale_gammas`, after the training or on the squeezed model.

  Args:
    model: a functional or Sequential Keras model, or a subclassed one that was called before.
    penalties: keys of the gammas to scale; the dict will do that `penalties(model)` gives.
    alpha: what to multiply gammas by, a finite number above 0; the paper uses 0.001 to 1.

  Returns:
    A dict from the key of each gamma that was left out, and is as it was, to the layer behind it, and why.

  Raises:
    ValueError: none of the gammas can be scaled. `alpha` is out of range, `penalties` names no gamma of the model, or
      `model` is not functional. The model is as it was.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.ReLU()(layers.BatchNormalization(name="a_bn")(x))
  >>> x = layers.BatchNormalization(name="b_bn")(layers.Conv2D(4, 3, use_bias=False, name="b")(x))
  >>> x = layers.GlobalAveragePooling2D()(layers.Activation("swish", name="act")(x))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> before = model(keras.ops.ones((1, 8, 8, 3)))
  >>> scale_gammas(model, ["a_bn/gamma", "b_bn/gamma"], 0.5)
  {'b_bn/gamma': 'what layer act computes would not just be multiplied, or is an output'}
  >>> model.get_layer("a_bn").gamma.numpy().tolist()
  [0.5, 0.5, 0.5, 0.5]
  >>> bool(keras.ops.all(keras.ops.isclose(model(keras.ops.ones((1, 8, 8, 3))), before)))
  True
  """
  _check(alpha)
  graph = ChannelGraph(model)
  named = _named_gammas(graph, model, penalties)
  readers, left_out = _readers_and_left_out(graph, named, alpha)
  if len(left_out) == len(named):
    raise ValueError(
      f"gammas cannot be scaled: {next(iter(left_out.values()))}; leave the gammas that reach it out of penalties"
    )
  _multiply(graph, [norm for norm, key in named.items() if key not in left_out], readers, alpha)
  return left_out


def unscale_gammas(
  model: keras.Model, penalties: Collection[str], alpha: float, left_out: Collection[str] | None = None
) -> None:
  """Undoes `scale_gammas` with the same arguments, up to rounding.

  Args:
    model: as for `scale_gammas`, or the squeezed one.
    penalties: as for `scale_gammas`.
    alpha: as for `scale_gammas`.
    left_out: what `scale_gammas` returned, so that those gammas are left out here. By default that is worked out anew,
      which may leave out fewer of a squeezed model, where what held them back is gone.

  Raises:
    ValueError: as `scale_gammas`, or a gamma that is not among `left_out` cannot be scaled back. The model is as it
      was.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="a_bn")(x)))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> left_out = scale_gammas(model, ["a_bn/gamma"], 0.5)
  >>> left_out
  {}
  >>> unscale_gammas(model, ["a_bn/gamma"], 0.5, left_out)
  >>> model.get_layer("a_bn").gamma.numpy().tolist()
  [1.0, 1.0, 1.0, 1.0]
  """
  _check(alpha)
  if left_out is None:
    scale_gammas(model, penalties, 1 / alpha)
    return
  graph = ChannelGraph(model)
  named = _named_gammas(graph, model, [key for key in penalties if key not in left_out])
  readers, also = _readers_and_left_out(graph, named, 1 / alpha)
  if also:
    key, reason = next(iter(also.items()))
    raise ValueError(f"gammas cannot be scaled back: {reason}; leave {key} out of penalties")
  _multiply(graph, named, readers, 1 / alpha)


def _check(alpha):
  if not 0 < alpha < float("inf"):
    raise ValueError(f"alpha is {alpha}; it is a finite number above 0")


def _named_gammas(graph, model, penalties):
  """The keys of gammas, by the id() of their batch norms."""
  keys = {id(variable): key for key, variable in variables_of(model, penalties).items()}
  norms = [call.operation for call in graph.calls if isinstance(call.rule, BatchNorm) and call.operation.scale]
  others = sorted(keys[each] for each in set(keys) - {id(norm.gamma) for norm in norms})
  if others:
    raise ValueError(f"penalties names {others}, which are no gammas of {model.name}")
  return {id(norm): keys[id(norm.gamma)] for norm in norms if id(norm.gamma) in keys}


def _readers_and_left_out(graph, named, alpha):
  """What is read multiplied by what if as many of the gammas are scaled as can be.

  Returns:
    Dict from the id() of layers with kernels to (a call, float64 array); and dict from the keys of the gammas that
    cannot be scaled to the reason.
  """
  scaled, left_out = set(named), {}
  while True:
    readers, obstacles = _factors_of_readers(graph, scaled, alpha)
    for layer, name in obstacles.items():
      left_out[named[layer]] = f"what layer {name} computes would not just be multiplied, or is an output"
    scaled -= obstacles.keys()
    if not obstacles:
      return readers, left_out


def _multiply(graph, scaled, readers, alpha):
  norms = {id(call.operation): call.operation for call in graph.calls}
  for layer in (norms[each] for each in scaled):
    for variable in (layer.gamma, layer.beta) if layer.center else (layer.gamma,):
      variable.assign(to_float64(variable) * alpha)
  for call, factors in readers.values():
    weights = call.rule.absorbed(call.operation, factors) if _any_scaled([factors]) else {}
    for name, array in weights.items():
      attribute_of(call.operation, name).assign(array)


def _factors_of_readers(graph, scaled, alpha):
  """By what the inputs of layers with kernels are multiplied if these batch norms give `alpha` times as much.

  Returns:
    Dict from the id() of layers with kernels to (a call, float64 array); and dict from the id() of those batch norms
    whose factor something does not let pass to its name. What is behind that is not looked at.
  """
  factors, sources, readers, obstacles = {}, {}, {}, {}
  for call in graph.calls:
    inputs = [factors[id(tensor)] for tensor in call.inputs]
    from_where = set().union(*(sources[id(tensor)] for tensor in call.inputs))
    ones = [np.ones(len(tensor.channels.ids)) for tensor in call.outputs]
    passed, stopped = ones, False
    if call.rule.kernels:
      if inputs[0] is not None:
        _, before, others = readers.setdefault(id(call.operation), (call, inputs[0], from_where))
        pairs = zip(call.inputs, inputs)
        apart = [factor for tensor, factor in pairs if tensor is not call.inputs[0] and factor is not None]
        turned = _turned(call) and _any_scaled(inputs)
        if turned or _any_scaled(apart) or not np.array_equal(before, inputs[0]):
          stopped, from_where = True, from_where | others
      passed_from = set()
    elif any(factor is None for factor in inputs):
      passed, passed_from = [None for _ in ones], from_where
    elif id(call.operation) in scaled:
      stopped = _any_scaled(inputs)
      passed, passed_from = [ones[0] * alpha], {id(call.operation)}
    elif _any_scaled(inputs):
      lost = _turned(call) or call.outputs[0].channels.axis is None or isinstance(call.rule, BatchNorm)
      factor = None if lost else call.rule.scaled(call, inputs)
      stopped, passed_from = factor is None, from_where
      passed = [factor, *ones[1:]] if factor is not None else [None for _ in ones]
    else:
      passed_from = set()
    if not stopped and passed[0] is not None and _any_scaled(passed) and call.outputs[0].is_output:
      stopped, from_where = True, passed_from
    if stopped:
      obstacles |= {source: call.name for source in from_where if source not in obstacles}
    for tensor, factor in zip(call.outputs, passed):
      factors[id(tensor)], sources[id(tensor)] = factor, passed_from
  return {key: (call, factor) for key, (call, factor, _) in readers.items()}, obstacles


def _turned(call):
  """Whether the call reads a tensor along another axis than that of the channels."""
  return any(tensor.channels is not read for tensor, read in zip(call.inputs, call.reads))


def _any_scaled(factors):
  return any((factor != 1).any() for factor in factors)
