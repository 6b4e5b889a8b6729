"""Looks inside layers that hold layers, and models with a `call` of their own: what they call takes their place.

So the rest of pruning knows nothing but functional models. What is opened becomes a functional model, with the name of
the layer, of the layers in it. It has the variables of the model itself, which stays as it is.
"""

import contextlib
import dataclasses

import keras

from cifar10.pruning.calls import (
  as_functional,
  inputs_as_built,
  is_composite,
  is_functional,
  is_model,
  layers_in,
  nodes_in_order,
  operations_of,
  set_state,
  state_of,
  sublayers,
  view_of,
)
from cifar10.pruning.copying import CannotCopyError, Copier, standard_attributes, trainer_attributes
from cifar10.pruning.keys import names_inside
from cifar10.pruning.printing import first_line
from cifar10.pruning.rules.base import rules_of
from cifar10.pruning.tracing import CannotTraceError, traced


@dataclasses.dataclass
class Opened:
  """A model into which one can look.

  Attributes:
    model: a functional or Sequential model with the variables of the model: the model itself where nothing was opened.
    layers: dict from the name of each layer that was opened to that of its class.
    shut: dict from the name of each that could not be opened to the reason.
    notes: sentences on what the result lacks.
  """

  model: keras.Model
  layers: dict[str, str]
  shut: dict[str, str]
  notes: list[str]


def opened(model: keras.Model) -> Opened:
  """Opens the layers of a model that hold layers with rules, and those in them, where their calls can be traced.

  Args:
    model: a functional or Sequential model, or one with a `call` of its own that was called before; it is left alone.

  Raises:
    ValueError: the model is neither, is not built, or what its `call` does cannot be traced.
  """
  shut = {}
  while True:
    opening = _Opening(model, shut)
    try:
      made = opening.whole(model)
      opening.refuse_shared_weights(made)
    except _StaysShutError as error:  # What was made of it already cannot stay either.
      shut[error.name] = error.reason
      continue
    except Exception as error:
      if not is_model(model) or not opening.layers:
        raise
      reason = f"it cannot be made a functional model ({first_line(error)})"
      return Opened(model, {}, {**opening.shut, **dict.fromkeys(opening.layers, reason)}, [])
    if not opening.layers:
      return Opened(model, {}, opening.shut, [])
    unused = model.count_params() - made.count_params()
    notes = [f"{unused:,} parameters of {model.name} are in no call that its outputs come of, and are left out"]
    return Opened(made, opening.layers, opening.shut, [*opening.notes, *(notes if unused else [])])


class _StaysShutError(Exception):
  """A layer that was opened has to stay as it is."""

  def __init__(self, name, reason):
    super().__init__(name, reason)
    self.name, self.reason = name, reason


class _Opening:
  """What each layer has become; a copy with the variables of the layer, where it was not opened."""

  def __init__(self, model, shut):
    self.shut = dict(shut)
    self.layers, self.notes = {}, []
    self.copier = Copier(self._view)
    self.mine = {}  # By their id(): layers and models that were made here.
    self.done = {}  # By the id() of a functional model: (it, what it has become).
    self.calls = {}  # By the id() of a layer that was opened: (it, the model that it became, what it is called with).
    self.names = {}  # By the id() of the model that a layer became: the name of the layer.
    for variable in getattr(model, "variables", []):
      self.copier.set(variable, variable)

  def whole(self, model):
    """The model opened; itself where there is nothing to open."""
    if is_functional(model) or not isinstance(model, keras.Model) or not is_composite(model):
      as_functional(model)
      return self._functional(model, "", {})
    inputs = inputs_as_built(model) if model.built else None
    if inputs is None:
      raise ValueError(
        f"{model!r} is no functional Keras model; build it with keras.Model(inputs, outputs), or call it on an "
        "example, one tensor or a structure of them, so that it is known what it takes"
      )
    try:
      made = self._traced(model, (inputs,), {}, model.name, "")
    except (CannotTraceError, CannotCopyError) as error:
      raise ValueError(
        f"{model!r} is no functional Keras model, and what its call does cannot be traced ({error}); build it with "
        "keras.Model(inputs, outputs), or take the models in it"
      ) from error
    kind = type(model).__name__
    self.notes.append(
      f"model {model.name} is a {kind}: the smaller one is a functional model of what its call calls, without the "
      f"methods of {kind}"
    )
    return made

  def refuse_shared_weights(self, model):
    """Raises _StaysShutError if a layer with weights is called in a layer that was opened, and elsewhere too.

    Saved and loaded, the layer would be two.
    """
    homes = {}

    def visit(model, name):
      for operation in {id(each): each for each in operations_of(model)}.values():
        if getattr(operation, "weights", None):
          first = homes.setdefault(id(operation), name)
          opened = [each for each in (name, first) if first != name and each in self.layers]
          if opened:
            raise _StaysShutError(opened[0], f"{operation.name} in it is called elsewhere too")
          if is_model(operation) and first == name:
            visit(operation, self.names.get(id(operation), f"{name}/{operation.name}"))

    visit(model, "")

  def _functional(self, model, prefix, names):
    """A functional or Sequential model with the layers in it opened, and with new names, by the id() of the layers."""
    if id(model) not in self.done:
      if self._may_open(model) or self._is_rough(model) or names:
        made = self._remade(model, prefix, names)
      else:
        made = model if not prefix or id(model) in self.mine else self._view(model)
      self.done.update({id(each): (each, made) for each in (model, made)})
      self.copier.set(model, made)
    return self.done[id(model)][1]

  def _may_open(self, model):
    operations = operations_of(model)
    return any(self._may_open(each) if is_model(each) else _is_of_interest(each) for each in operations)

  def _is_rough(self, model):
    """Whether a model that was traced calls models, which are to be renamed, or layers that do nothing, which go."""
    operations = [] if isinstance(model, keras.Sequential) else operations_of(model)
    return any((is_model(each) and id(each) in self.mine) or self._is_identity(each) for each in operations)

  def _is_identity(self, operation):
    """Whether it is an identity in a model that was traced; not all of these have a config to be saved by."""
    return type(operation) is keras.layers.Identity and id(operation) in self.mine

  def _remade(self, model, prefix, names):
    nodes = nodes_in_order(model)
    tensors = {
      id(tensor): _input(node).output if node.is_input else tensor for node in nodes for tensor in node.outputs
    }
    if isinstance(model, keras.Sequential):
      arguments = {id(node.operation): node.arguments(tensors) for node in nodes}
      parts = [self._part(layer, *arguments[id(layer)], prefix, names) for layer in model.layers]
      return self._of_class(model, keras.Sequential([tensors[id(model.inputs[0])], *parts], name=model.name))
    for node in nodes:
      if self._is_identity(node.operation):
        tensors[id(node.outputs[0])] = tensors[id(node.inputs[0])]
      elif not node.is_input:
        args, kwargs = node.arguments(tensors)
        part = self._part(node.operation, args, kwargs, prefix, names)
        if id(part) in self.names:
          given = [each for each in keras.tree.flatten((args, kwargs)) if isinstance(each, keras.KerasTensor)]
          args, kwargs = [given if len(given) > 1 else given[0]], {k: v for k, v in kwargs.items() if k == "training"}
        tensors.update(zip(map(id, node.outputs), keras.tree.flatten(part(*args, **kwargs)), strict=True))
    inputs, outputs = (
      keras.tree.map_structure(lambda tensor: tensors[id(tensor)], structure)
      for structure in (model.input, model.output)
    )
    return self._of_class(model, keras.Model(inputs, outputs, name=model.name))

  def _part(self, operation, args, kwargs, prefix, names):
    """What takes the place of a layer or operation that is called with these arguments."""
    own_name = names.get(id(operation), operation.name)
    part = self._unnamed_part(operation, args, kwargs, prefix + own_name, bool(names))
    if part.name != own_name:
      part.name = own_name
    return part

  def _unnamed_part(self, operation, args, kwargs, name, is_held):
    if id(operation) not in self.calls:  # Else it may be called in another way than before.
      operation = self.copier.known(operation) or operation
    if is_model(operation):
      is_held = is_held or id(operation) in self.mine  # By a layer that holds layers, which makes it.
      inside = dict(zip(map(id, operation.layers), names_inside(operation.layers))) if is_held else {}
      return self._functional(operation, f"{name}/", inside)
    if name not in self.shut and _is_of_interest(operation):
      try:
        return self._opened_layer(operation, args, kwargs, name)
      except (CannotTraceError, CannotCopyError) as error:
        self.shut[name] = str(error)
    try:
      return self._copied(operation)
    except CannotCopyError:
      return self._view(operation)

  def _opened_layer(self, layer, args, kwargs, name):
    """The model that a layer becomes; one for all its calls, which differ in nothing but their tensors."""
    described = repr(keras.tree.map_structure(_described, (args, kwargs)))
    _, model, before = self.calls.get(id(layer), (layer, None, described))
    if described != before:
      raise _StaysShutError(name, "it is called with other shapes or arguments elsewhere")
    if model is None:
      model = self._traced(layer, args, kwargs, name, f"{name}/")
      self.calls[id(layer)] = layer, model, described
    return model

  def _traced(self, layer, args, kwargs, name, prefix):
    model, other_in_training = traced(self._copied(layer), args, kwargs, of_structure=not prefix)
    self.mine[id(model)] = model
    self.layers[name] = type(layer).__name__
    if other_in_training:
      self.notes.append(f"layer {name}, a {type(layer).__name__}, calls something else in training, which is left out")
    model = self._functional(model, prefix, {})
    self.names[id(model)] = name
    self.copier.set(layer, model)
    return model

  def _copied(self, operation):
    """A copy of a layer or operation that has its variables; what it holds is named by `names_inside`."""
    if id(operation) in self.mine:
      return operation
    for each in layers_in(operation):
      for name in trainer_attributes() & vars(each).keys() if isinstance(each, keras.Model) else ():
        self.copier.set(vars(each)[name], vars(each)[name])
    copy = self.copier.copy(operation)
    for each in _copied_layers(copy):
      self.mine[id(each)] = each
      if is_composite(each):
        inner = sublayers(each)
        for layer, name in zip(inner, names_inside(inner)):
          layer.name = name
    return copy

  def _view(self, operation):
    view = view_of(operation)
    self.mine[id(view)] = view
    self.copier.set(operation, view)
    return view

  def _of_class(self, model, plain):
    """A model of the class of another and with its attributes, and the calls of a plain one."""
    made = view_of(model)
    set_state(made, {name: value for name, value in state_of(plain).items() if name != "_trainable"})
    self.mine[id(made)] = made
    for name in [name for name in vars(model) if name not in standard_attributes()]:
      with contextlib.suppress(CannotCopyError):
        vars(made)[name] = self.copier.copy(vars(model)[name])
    return made


def _copied_layers(copy):
  """A copy and the layers in it, but for those in functional models, of which there are only views."""
  yield copy
  for layer in sublayers(copy) if isinstance(copy, keras.Layer) and not is_functional(copy) else ():
    yield from _copied_layers(layer)


def _is_of_interest(operation):
  """Whether a layer has no rule, and holds some whose channels would be followed."""
  if type(operation) is keras.layers.TimeDistributed:
    return any(rules_of(type(layer)) for layer in layers_in(operation))
  if not is_composite(operation) or rules_of(type(operation)):
    return False
  return any(rule.owns_channels for layer in layers_in(operation) for rule in rules_of(type(layer)))


def _input(node):
  return keras.layers.InputLayer.from_config(node.operation.get_config())


def _described(value):
  return (value.shape, value.dtype) if isinstance(value, keras.KerasTensor) else value
