"""The calls of a functional Keras model, in one flat list with those of the models nested in it.

What of Keras is not public is used here alone: the records of a model's calls.
"""

import collections
import dataclasses

import keras


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

  shape: tuple
  masked: bool = False
  channels: object = None
  readers: list = dataclasses.field(default_factory=list)
  is_output: bool = False


@dataclasses.dataclass(eq=False)
class Call:
  """One call of a layer or operation.

  Attributes:
    operation: the layer or operation.
    name: its name, after those of the nested models that hold it: "encoder/conv".
    node: Keras' record of the call.
    args, kwargs: what it is called with; a `Tensor` stands for each of Keras' symbolic tensors.
    inputs, outputs: lists of `Tensor`.
    rule: its `Rule`, once the graph is made.
    reads: list with the `Channels` of each input along the axis on which the rule reads it.
  """

  operation: keras.Operation
  name: str
  node: object
  args: tuple
  kwargs: dict
  inputs: list
  outputs: list
  rule: object = None
  reads: list = None

  @property
  def channel_axis(self):
    """The axis that the layer takes for the channels of its input: the last, but for data_format channels_first."""
    rank = len(self.inputs[0].shape)
    return 1 if getattr(self.operation, "data_format", None) == "channels_first" and rank > 2 else rank - 1


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


def layers_in(operation):
  """A layer or model and all layers in it; none for what is no layer."""
  return list(operation._flatten_layers()) if isinstance(operation, keras.Layer) else []


def nodes_in_order(model):
  """Keras' records of the calls of a model's operations, in the order of execution."""
  by_depth = as_functional(model)._nodes_by_depth
  return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def flat_calls(model, size):
  """The calls of a model and of the models nested in it.

  Where a nested model is called with other sizes than it was built for, the calls have those that it is called with.

  Returns:
    List of `Call`; list of pairs of Keras' symbolic tensor and `Tensor`; and for each nested model a list with one
    item for each time that it is called, the list of the `Tensor`s that it is called with.
  """
  calls, bindings, pairs = [], collections.defaultdict(list), []

  def flatten(model, tensors, prefix):
    for node in nodes_in_order(model):
      if node.is_input and id(node.outputs[0]) in tensors:
        continue
      args, kwargs = ((), {}) if node.is_input else node.arguments.fill_in(tensors)
      inputs = [tensors[id(tensor)] for tensor in node.input_tensors]
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
        call = Call(operation, prefix + operation.name, node, args, kwargs, inputs, outputs)
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
  return passed_on or getattr(keras_tensor, "_keras_mask", None) is not None


def _output_shapes(node, args, kwargs, inputs, size):
  shapes = [tuple(tensor.shape) for tensor in node.outputs]
  if node.is_input and size is not None:
    return [(shape[0], *(size if s is None else s for s in shape[1:])) for shape in shapes]
  if all(tensor.shape == tuple(built.shape) for tensor, built in zip(inputs, node.input_tensors)):
    return shapes
  dtypes = {id(tensor): built.dtype for tensor, built in zip(inputs, node.input_tensors)}
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
