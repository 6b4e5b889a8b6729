"""The calls of a functional Keras model, in one flat list with those of the models nested in it.

What of Keras is not public is used here alone: the records of a model's calls, and what else it notes in a layer.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
  from cifar10.pruning.rules.base import Channels, Rule


RECORDS = ("_inbound_nodes", "_outbound_nodes")
WRAPPED_METHODS = ("build", "quantize")
OF_MODULES = ("_modules", "_parameters", "_buffers")  # Dicts in which PyTorch keeps attributes of a layer.


@dataclasses.dataclass(eq=False)
class Tensor:
  """A tensor of the model, once for each time that it is computed.

  Attributes:
    shape: as Keras gives it, with the batch size first and None for sizes that are not fixed.
    channels: its `Channels`, once the graph is made.
    readers: the calls that it goes into.
    is_output: whether it is an output of the whole model.
    masked: whether it may bear a Keras mask, which some layers that read it heed.
  """

  shape: tuple[int | None, ...]
  masked: bool = False
  channels: "Channels | None" = None
  readers: "list[Call]" = dataclasses.field(default_factory=list)
  is_output: bool = False


@dataclasses.dataclass(eq=False)
class Call:
  """One call of a layer or operation.

  Attributes:
    operation: the layer or operation.
    name: its name, after those of the nested models that hold it: "encoder/conv".
    args, kwargs: what it is called with; a `Tensor` stands for each of Keras' symbolic tensors.
    inputs, outputs: lists of `Tensor`.
    rule: its `Rule`, once the graph is made.
    reads: list with the `Channels` of each input along the axis on which the rule reads it.
  """

  operation: keras.Operation
  name: str
  args: tuple[Any, ...]
  kwargs: dict[str, Any]
  inputs: list[Tensor]
  outputs: list[Tensor]
  rule: "Rule | None" = None
  reads: "list[Channels] | None" = None

  @property
  def channel_axis(self) -> int:
    """The axis that the layer takes for the channels of its input: the last, but for data_format channels_first."""
    rank = len(self.inputs[0].shape)
    return 1 if getattr(self.operation, "data_format", None) == "channels_first" and rank > 2 else rank - 1

  def space(self, tensor: Tensor) -> tuple[int | None, ...]:
    """The sizes of an input or output without those of the batch and the channels."""
    axis = 1 if self.channel_axis < len(self.inputs[0].shape) - 1 else len(tensor.shape) - 1
    return tuple(size for index, size in enumerate(tensor.shape) if index not in (0, axis))


@dataclasses.dataclass(eq=False)
class Node:
  """A call of an operation as a model records it.

  Attributes:
    operation: the operation.
    inputs, outputs: lists of Keras' symbolic tensors.
    arguments: function from a dict, by the id() of symbolic tensors, to (args, kwargs) with its values in their place.
  """

  operation: keras.Operation
  inputs: list[keras.KerasTensor]
  outputs: list[keras.KerasTensor]
  arguments: Callable[[dict[int, Any]], tuple[tuple[Any, ...], dict[str, Any]]]

  @property
  def is_input(self) -> bool:
    """Whether it stands for an input of the model."""
    return not self.inputs


def is_model(operation):
  """Whether an operation is a functional or Sequential model, whose own calls can be looked into."""
  module = getattr(getattr(type(operation), "call", None), "__module__", "")
  return isinstance(operation, keras.Model) and module in ("keras.src.models.functional", "keras.src.models.sequential")


def as_functional(model):
  """The functional model that a model is, or that a Sequential one holds; raises ValueError if there is none."""
  if not is_model(model):
    raise ValueError(f"{model!r} is no functional Keras model; build it with keras.Model(inputs, outputs)")
  functional = model._functional if isinstance(model, keras.Sequential) else model
  if functional is None:
    raise ValueError("the Sequential model is not built yet; call it, or begin it with keras.Input(shape)")
  return functional


def sublayers(layer):
  """The layers that a layer or model holds itself; not those in them."""
  return list(layer._flatten_layers(include_self=False, recursive=False))


def is_composite(operation):
  """Whether an operation is a layer of the caller's own, or a model with a `call` of its own, that holds layers."""
  own = isinstance(operation, keras.Layer) and not type(operation).__module__.startswith("keras.")
  graph = is_functional(operation) or isinstance(operation, keras.Sequential)
  return own and not graph and bool(sublayers(operation))


def layers_in(operation):
  """A layer or model and all layers in it; none for what is no layer."""
  return list(operation._flatten_layers()) if isinstance(operation, keras.Layer) else []


def is_functional(value):
  """Whether a value is a model that is a graph of calls, whatever its own `call` does with them."""
  return isinstance(value, keras.Model) and hasattr(getattr(value, "_functional", value), "_nodes_by_depth")


def state_of(operation):
  """The attributes of a layer or operation, but for the records of its calls and the methods that Keras wraps."""
  return {name: value for name, value in vars(operation).items() if name not in (*RECORDS, *WRAPPED_METHODS)}


def set_state(operation, state):
  """Gives a layer or operation, fresh from its class' `__new__`, attributes as `state_of` gives them."""
  vars(operation).update(state)
  vars(operation).update({name: state[name].copy() for name in OF_MODULES if name in state})
  if isinstance(operation, keras.Operation):
    vars(operation).update({name: [] for name in RECORDS})
  if (tracker := state.get("_tracker")) is not None:
    tracker.stored_ids = {name: set(map(id, store)) for name, (_, store) in tracker.config.items()}


def view_of(operation):
  """A layer or operation that holds all that another holds, with records of calls of its own."""
  view = type(operation).__new__(type(operation))
  set_state(view, state_of(operation))
  return view


def is_of_the_backend(value):
  """Whether a value stands for the backend's functions in a layer, which all layers share."""
  return type(value).__name__ == "DynamicBackend"


def place_among_trained(optimizer, variable):
  """Where a variable, Keras' or the backend's own, stands among those that an optimizer was built for."""
  return optimizer._get_variable_index(variable)


def says_its_output_shape(layer):
  """Whether a Lambda layer was given the shape of its output, which holds the number of channels."""
  return layer._output_shape is not None


class KnowsLastOfStep:
  """A base of optimizers: `last_of_step` is the place of the last variable that has a gradient step, once it begins."""

  def _backend_update_step(self, grads, trainable_variables, learning_rate):
    self.last_of_step = place_among_trained(self, trainable_variables[-1])
    super()._backend_update_step(grads, trainable_variables, learning_rate)


def unbuilt(layer):
  """Lets a layer that holds no variables, and those in it, be built again for inputs of another shape."""
  for each in layers_in(layer):
    each.built = False
    each._tracker.unlock()
  return layer


@contextlib.contextmanager
def refitting(layer):
  """Lets Sequential models in a layer be called on symbolic tensors of other sizes than they were built for.

  As they can be on arrays. Such a model is built again, of views of its layers.
  """
  models = [each for each in layers_in(layer) if isinstance(each, keras.Sequential) and is_functional(each)]

  def output_spec(model, inputs, **kwargs):
    shape = getattr(inputs, "shape", model.input_shape)
    if len(shape) == len(model.input_shape) and not all(
      built in (None, size) for built, size in zip(model.input_shape, shape)
    ):
      model._layers, model._functional = [view_of(each) for each in model.layers], None
      model.build(shape)
    return type(model).compute_output_spec(model, inputs, **kwargs)

  for model in models:
    model.compute_output_spec = functools.partial(output_spec, model)
  try:
    yield
  finally:
    for model in models:
      del model.compute_output_spec


@contextlib.contextmanager
def left_alone(model):
  """Puts back what calls change in a model in inference: losses that its layers note, states, what counts or draws."""
  layers = layers_in(model)
  losses = [(layer, list(layer._losses), set(layer._loss_ids)) for layer in layers]
  trained = {id(variable) for variable in model.trainable_variables}
  held = [*model.non_trainable_variables, *(each for layer in layers for each in _held(vars(layer).values()))]
  values = [(each, keras.ops.convert_to_numpy(each)) for each in held if id(each) not in trained]
  try:
    yield
  finally:
    for layer, found, ids in losses:
      layer._losses, layer._loss_ids = found, ids
    for variable, value in values:
      variable.assign(value)


def _held(values):
  """The variables among values, or in lists and dicts among them."""
  for value in values:
    if isinstance(value, list | tuple):
      yield from _held(value)
    elif isinstance(value, dict):
      yield from _held(value.values())
    elif hasattr(value, "assign") and hasattr(value, "shape"):
      yield value


def operation_of(tensor):
  """The layer or operation whose call makes a symbolic tensor."""
  return tensor._keras_history.operation


def operation_class(function, *args, tensor=None):
  """The class of operation that a function of `keras.ops` or `keras.activations` becomes in a functional model.

  Args:
    function: the function.
    *args: what it is called with after its first argument.
    tensor: its first argument, a symbolic tensor or a list of some; by default one of rank 4.
  """
  made = function(keras.KerasTensor((None, 2, 2, 2)) if tensor is None else tensor, *args)
  return type(operation_of(keras.tree.flatten(made)[0]))


def nodes_in_order(model):
  """The `Node`s of a model, in the order of execution; those inside nested models are not among them."""
  by_depth = (getattr(model, "_functional", None) or model)._nodes_by_depth
  return [
    Node(node.operation, node.input_tensors, node.outputs, node.arguments.fill_in)
    for depth in sorted(by_depth, reverse=True)
    for node in by_depth[depth]
  ]


def nodes_behind(tensors):
  """The `Node`s from which symbolic tensors come, in an order of execution."""
  found = {}

  def visit(tensor):
    history = tensor._keras_history
    node = history.operation._inbound_nodes[history.node_index]
    if id(node) not in found:
      found[id(node)] = None
      for each in node.input_tensors:
        visit(each)
      del found[id(node)]  # Behind those that it comes from.
      found[id(node)] = Node(node.operation, node.input_tensors, node.outputs, node.arguments.fill_in)

  for tensor in tensors:
    visit(tensor)
  return list(found.values())


def inputs_as_built(model):
  """New inputs of the shapes that a model was called with or built for, in their structure; None if it does not say."""
  shapes = list((model._build_shapes_dict or {}).values())
  if len(shapes) != 1:
    return None
  count = itertools.count()

  def of_shape(shape, name=None):
    return keras.Input(batch_shape=(None, *shape[1:]), name=name or f"input_{next(count)}")

  if isinstance(shapes[0], dict):
    return {name: of_shape(shape, name) for name, shape in shapes[0].items()}
  return keras.tree.map_shape_structure(of_shape, shapes[0])


def has_mask(tensor):
  """Whether a symbolic tensor bears a Keras mask."""
  return getattr(tensor, "_keras_mask", None) is not None


def set_trainable(model, trainable):
  """Gives a model a flag of its own, and leaves those of its layers alone."""
  model._trainable = trainable


def operations_of(model):
  """The layers and operations whose calls make the outputs of a model, in the order of execution."""
  return [node.operation for node in nodes_in_order(model)]


def flat_calls(model, size):
  """The calls of a model and of the models nested in it.

  Where a nested model is called with other sizes than it was built for, the calls have those that it is called with.

  Returns:
    List of `Call`; list of pairs of Keras' symbolic tensor and `Tensor`; and for each nested model a list with one
    item for each time that it is called, the list of the `Tensor`s that it is called with.
  """
  as_functional(model)
  calls, bindings, pairs = [], collections.defaultdict(list), []

  def flatten(model, tensors, prefix):
    for node in nodes_in_order(model):
      if node.is_input and id(node.outputs[0]) in tensors:
        continue
      args, kwargs = ((), {}) if node.is_input else node.arguments(tensors)
      inputs = [tensors[id(tensor)] for tensor in node.inputs]
      operation = node.operation
      if is_model(operation) and len(inputs) == len(operation.inputs) and not kwargs.get("training"):
        bindings[id(operation)].append(inputs)
        order = _binding_order(args[0] if args else kwargs["inputs"], operation)
        inner = {id(tensor): value for tensor, value in zip(operation.inputs, order or inputs, strict=True)}
        pairs.extend(zip(operation.inputs, order or inputs))
        flatten(operation, inner, f"{prefix}{operation.name}/")
        outputs = [inner[id(tensor)] for tensor in operation.outputs]
      else:
        shapes = _output_shapes(node, args, kwargs, inputs, size)
        outputs = [Tensor(shape, _is_masked(tensor, operation, inputs)) for shape, tensor in zip(shapes, node.outputs)]
        call = Call(operation, prefix + operation.name, args, kwargs, inputs, outputs)
        calls.append(call)
        for tensor in inputs:
          tensor.readers.append(call)
      for key, value in zip(node.outputs, outputs, strict=True):
        tensors[id(key)] = value
        pairs.append((key, value))

  tensors = {}
  flatten(model, tensors, "")
  for tensor in model.outputs:
    tensors[id(tensor)].is_output = True
  return calls, list(reversed(pairs)), list(bindings.values())


def _is_masked(keras_tensor, operation, inputs):
  passed_on = getattr(operation, "supports_masking", False) and any(tensor.masked for tensor in inputs)
  return passed_on or has_mask(keras_tensor)


def _output_shapes(node, args, kwargs, inputs, size):
  shapes = [tuple(tensor.shape) for tensor in node.outputs]
  if node.is_input and size is not None:
    return [(shape[0], *(size if s is None else s for s in shape[1:])) for shape in shapes]
  if all(tensor.shape == tuple(built.shape) for tensor, built in zip(inputs, node.inputs)):
    return shapes
  dtypes = {id(tensor): built.dtype for tensor, built in zip(inputs, node.inputs)}
  args, kwargs = keras.tree.map_structure(
    lambda value: keras.KerasTensor(value.shape, dtypes[id(value)]) if isinstance(value, Tensor) else value,
    (args, kwargs),
  )
  outputs = node.operation.compute_output_spec(*args, **kwargs)
  return [tuple(tensor.shape) for tensor in keras.tree.flatten(outputs)]


def _binding_order(argument, model):
  """A dict of tensors in the order of a nested model's inputs, which it is matched to by name; else None."""
  if isinstance(argument, dict) and not isinstance(model.input, dict):
    return [argument[tensor.name] for tensor in model.inputs]
  return None
