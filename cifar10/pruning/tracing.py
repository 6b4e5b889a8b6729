"""What the `call` of a layer calls, as a functional model: the call is run on symbolic tensors, in inference.

Not every call can be: what branches on values, or hands symbolic tensors to the backend's own functions, fails on them.
Nor is every graph that comes of it the call: numbers that were worked out from weights are only numbers in it. Such
layers are refused.
"""

import collections
import functools
import itertools
import re

import keras
import numpy as np

from cifar10.pruning.calls import has_mask, layers_in, nodes_behind, refitting, set_trainable
from cifar10.pruning.keys import distinct
from cifar10.pruning.printing import first_line


class CannotTraceError(Exception):
  """What a layer computes is no graph of calls; the text says why."""


def traced(layer: keras.Layer, args: tuple, kwargs: dict, of_structure: bool = False) -> tuple[keras.Model, bool]:
  """A functional model, named as a layer, of the layers and operations that the layer's `call` calls.

  The layers are those of the layer itself; of several with one name all but the first get another one.

  Args:
    layer: a built layer; its inner layers note that they were called.
    args: what it is called with, symbolic tensors.
    kwargs: the same by name, with what else it takes.
    of_structure: whether the model takes its inputs in the structure of `args[0]`; else it takes a tensor, or a list
      with all that `args` and `kwargs` hold.

  Returns:
    The model, whose layers hold the layer's variables; and whether `call` calls something else in training.

  Raises:
    CannotTraceError: `call` does not run on symbolic tensors, or the model would not be all that the layer is.
  """
  _refuse_what_a_call_does_not_tell(layer, args, kwargs)
  if not of_structure:
    numbers = itertools.count()
    args, kwargs = keras.tree.map_structure(lambda value: _named(value, f"input_{next(numbers)}"), (args, kwargs))
  inputs, outputs, nodes = _record(layer, args, kwargs)
  takes_training = "training" in layer.call_signature_parameters
  in_training = takes_training and _is_other(nodes, _recorded_again(layer, args, kwargs, training=True), layer)
  perturbed = [(each, each.value * 1.5 + 1.0) for each in layer.variables if "float" in each.dtype]
  again = _recorded_again(layer, args, kwargs, values=perturbed)
  if _is_other(nodes, again, layer) or not _have_equal_numbers(nodes, again):
    raise CannotTraceError("it computes with weights outside of layers")
  _refuse_what_cannot_be_saved(nodes)
  _name_apart(nodes, layer)
  flat = [value for value in keras.tree.flatten(inputs) if isinstance(value, keras.KerasTensor)]
  structure = inputs[0][0] if of_structure else flat if len(flat) > 1 else flat[0]
  try:
    model = keras.Model(structure, outputs, name=layer.name)
  except Exception as error:
    raise CannotTraceError(first_line(error)) from error
  set_trainable(model, layer.trainable)
  return model, in_training


def _refuse_what_a_call_does_not_tell(layer, args, kwargs):
  tensors = [each for each in keras.tree.flatten((args, kwargs)) if isinstance(each, keras.KerasTensor)]
  refusals = {
    "its class has a __call__ of its own": type(layer).__call__ is not keras.Layer.__call__,
    "it makes masks": type(layer).compute_mask is not keras.Layer.compute_mask,
    "it is called with a mask": any(map(has_mask, tensors)) or kwargs.get("mask") is not None,
    "it is called with training=True": bool(kwargs.get("training")),
    "it is called with sparse tensors": any(tensor.sparse for tensor in tensors),
    "it has a regularizer of what it makes": layer.activity_regularizer is not None,
    "it is quantized": layer.quantization_mode is not None,
  }
  for reason, holds in refusals.items():
    if holds:
      raise CannotTraceError(reason)


def _refuse_what_cannot_be_saved(nodes):
  for operation in {id(node.operation): node.operation for node in nodes}.values():
    if isinstance(operation, keras.Layer) and not isinstance(operation, keras.Model | keras.layers.Identity):
      try:
        operation.get_config()
      except Exception as error:
        raise CannotTraceError(f"layer {operation.name} in it has no config to be saved by") from error


def _named(value, name):
  """A symbolic tensor of another name; what is none stays."""
  return keras.KerasTensor(value.shape, value.dtype, name=name) if isinstance(value, keras.KerasTensor) else value


def _record(layer, args, kwargs, training=None, values=()):
  """Runs a call: its inputs as (args, kwargs), its outputs, and the `Node`s between.

  Args:
    layer: the layer.
    args: what it is called with.
    kwargs: the same by name.
    training: what it gets as `training`, if it takes that.
    values: pairs of a variable and what it has in place of its value.
  """
  own = {id(variable) for variable in layer.variables}

  def symbolic(value):
    if not isinstance(value, keras.KerasTensor):
      return value
    return keras.Input(batch_shape=value.shape, dtype=value.dtype, name=value.name)

  def converted(value):  # As `Layer.__call__` does it.
    return layer.dtype_policy.convert_input(value, layer.autocast, layer.input_dtype)

  inputs = keras.tree.map_structure(symbolic, (args, {k: v for k, v in kwargs.items() if k != "training"}))
  try:
    with refitting(layer), keras.StatelessScope(values) as scope:
      call_args, call_kwargs = keras.tree.map_structure(converted, inputs)
      if "training" in layer.call_signature_parameters:
        call_kwargs["training"] = training
      outputs = _call_of(layer)(*call_args, **call_kwargs)
      nodes = nodes_behind(keras.tree.flatten(outputs))
  except CannotTraceError:
    raise
  except Exception as error:
    raise CannotTraceError(first_line(error)) from error
  for node in nodes:
    _leave_batch_open(node.operation)
  if scope.state_mapping and not values:
    raise CannotTraceError("its call sets variables")
  used = [variable for node in nodes for variable in getattr(node.operation, "variables", [])]
  if not own.issuperset(map(id, used)):
    raise CannotTraceError("layers that it calls are not built yet, or are not its own")
  if any(isinstance(value, keras.Variable) for node in nodes for value in _values(node)):
    raise CannotTraceError("it computes with weights outside of layers")
  return inputs, outputs, nodes


def _leave_batch_open(operation):
  """Puts -1 where `ops.reshape` got None for a size, as symbolic tensors have it for that of the batch."""
  shape = getattr(operation, "newshape", None)
  if isinstance(shape, list | tuple) and None in shape:
    if list(shape).count(None) > 1 or -1 in shape:
      raise CannotTraceError("it reshapes by sizes that are not fixed")
    operation.newshape = tuple(-1 if size is None else size for size in shape)


def _call_of(layer):
  """The `call` of a layer; that of a TimeDistributed as calls of the layer in it, which it does not call itself."""
  return functools.partial(_step_by_step, layer.layer) if type(layer) is keras.layers.TimeDistributed else layer.call


def _step_by_step(layer, inputs, training=None, mask=None):
  """What TimeDistributed computes: the layer at each step, along axis 1."""
  if inputs.shape[1] is None:
    raise CannotTraceError("its number of steps is not fixed")
  training = {"training": training} if "training" in layer.call_signature_parameters else {}
  return keras.ops.stack([layer(inputs[:, step], **training) for step in range(inputs.shape[1])], axis=1)


def _recorded_again(*args, **kwargs):
  try:
    return _record(*args, **kwargs)[2]
  except CannotTraceError:
    return []


def _is_other(nodes, others, layer):
  """Whether a call makes other calls than when it was recorded first."""
  held = set(map(id, layers_in(layer)))
  called = [
    [id(node.operation) if id(node.operation) in held else type(node.operation) for node in each]
    for each in (nodes, others)
  ]
  return called[0] != called[1]


def _have_equal_numbers(nodes, others):
  ours, theirs = _constants(nodes), _constants(others)
  return len(ours) == len(theirs) and all(np.array_equal(*pair, equal_nan=True) for pair in zip(ours, theirs))


def _constants(nodes):
  """The numbers and arrays with which operations are called, or that they hold."""
  values = [value for node in nodes for value in _values(node)]
  return [keras.ops.convert_to_numpy(value) for value in values if _is_number(value)]


def _is_number(value):
  return isinstance(value, int | float | complex | np.ndarray | np.generic) or keras.ops.is_tensor(value)


def _values(node):
  args, kwargs = node.arguments(collections.defaultdict(lambda: None))
  held = [] if isinstance(node.operation, keras.Layer) else list(vars(node.operation).values())
  return [value for value in keras.tree.flatten((args, kwargs, held)) if not isinstance(value, keras.KerasTensor)]


def _name_apart(nodes, layer):
  """Names what the layer does not hold after its kind, and nothing like another."""
  held = set(map(id, layers_in(layer)))
  nodes = list({id(node.operation): node for node in nodes}.values())
  nodes.sort(key=lambda node: id(node.operation) not in held)  # What it holds keeps its name.
  names = [
    node.operation.name if node.is_input or id(node.operation) in held else re.sub(r"_\d+$", "", node.operation.name)
    for node in nodes
  ]
  for node, name in zip(nodes, distinct(names)):
    node.operation.name = name
