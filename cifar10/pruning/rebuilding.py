"""Makes a Keras model anew, with some of its layers changed.

A layer that stays as it is is copied with all its state, or shared with the model where it cannot be. A layer that
loses channels is made from its config, as Keras does it.
"""

import dataclasses
import functools
import inspect
import logging
import re
from collections.abc import Callable, Mapping

import keras
import numpy as np

from cifar10.pruning.calls import is_functional, is_model, layers_in, nodes_in_order, operations_of, unbuilt
from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.copying import CannotCopyError, Copier, standard_attributes
from cifar10.pruning.printing import first_line
from cifar10.pruning.rules.base import Channels, Squeezed, attribute_of

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Rebuilt:
  """A model made anew, not compiled.

  Attributes:
    model: it.
    remade: names of the layers that were made from their configs.
    shared: dict from the name of each layer that both models hold, since it cannot be copied, to the reason.
    notes: sentences on what else of the model it does not have.
  """

  model: keras.Model
  remade: list[str]
  shared: dict[str, str]
  notes: list[str]


def rebuilt(
  model: keras.Model, graph: ChannelGraph, kept: Callable[[Channels], np.ndarray], pieces: Mapping[int, Squeezed]
) -> Rebuilt:
  """A copy of a model with its layers as the pieces say, of the same structure.

  Args:
    model: the model.
    graph: its `ChannelGraph`.
    kept: function from `Channels` to which of their positions stay, a bool array.
    pieces: dict from the id() of layers and operations to what becomes of them; the others stay.

  Raises:
    ValueError: a layer has to be made anew from its config, and cannot; or it shares a variable with another.
  """
  refuse_shared_variables(graph, pieces)
  rebuilding = _Rebuilding(graph, kept, pieces)
  smaller = rebuilding.copied_model(model)
  rebuilding.copy_weights()
  rebuilding.copy_flags(model)
  return Rebuilt(smaller, rebuilding.remade, rebuilding.shared, rebuilding.notes)


def refuse_shared_variables(graph: ChannelGraph, pieces: Mapping[int, Squeezed]) -> None:
  """Raises ValueError if a variable would change in one layer, and another one holds it too."""
  owners = {}
  for first, *_ in graph.calls_by_operation():
    for variable in getattr(first.operation, "variables", []):
      owners.setdefault(id(variable), []).append(first)
  for first, *_ in graph.calls_by_operation():
    for name, array in pieces.get(id(first.operation), Squeezed()).weights.items():
      variable = attribute_of(first.operation, name)
      others = [other.name for other in owners.get(id(variable), []) if other is not first]
      if others and not np.array_equal(keras.ops.convert_to_numpy(variable), array):
        raise ValueError(
          f"layers {first.name} and {others[0]} hold one variable, {variable.path}, which squeeze would change in "
          f"{first.name} alone; give each a variable of its own, or name the layers before both in keep"
        )


class _Rebuilding:
  """What each layer, operation and nested model has become."""

  def __init__(self, graph, kept, pieces):
    self.graph = graph
    self.kept = kept
    self.pieces = pieces
    self.calls = {id(calls[0].operation): calls for calls in graph.calls_by_operation()}
    self.copier = Copier(self.copied_model)
    self.made = {}  # By the id() of the original: (the original, its copy).
    self.remade, self.shared, self.notes = [], {}, []

  def copied_model(self, model):
    """A copy of a functional or Sequential model."""
    nodes, tensors = nodes_in_order(model), {}
    for node in nodes:
      if node.is_input:
        tensors[id(node.outputs[0])] = self._input(node)
    if isinstance(model, keras.Sequential):
      stay = [self._copied(layer) for layer in model.layers if not self._piece(layer).bypassed]
      return self._of_class(model, layers=[tensors[id(model.inputs[0])], *stay])
    for node in nodes:
      if self._piece(node.operation).bypassed:
        tensors[id(node.outputs[0])] = tensors[id(node.inputs[0])]
      elif not node.is_input:
        args, kwargs = keras.tree.map_structure(self._own, node.arguments(tensors))
        changed = self._piece(node.operation).args
        args = [changed.get(index, value) for index, value in enumerate(args)]
        outputs = self._called(node.operation, args, kwargs)
        tensors.update(zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True))
    inputs, outputs = (
      keras.tree.map_structure(lambda tensor: tensors[id(tensor)], structure)
      for structure in (model.input, model.output)
    )
    return self._of_class(model, inputs=inputs, outputs=outputs)

  def copy_weights(self):
    """Gives the copies the weights that the pieces say, and those that were made anew the others of the layer."""
    for layer, copy in self.made.values():
      if isinstance(layer, keras.Layer) and copy is not layer and not is_functional(layer):
        weights = self._piece(layer).weights
        if self._name(layer) in self.remade:
          given = {id(attribute_of(copy, name)) for name in weights}
          for one, other in self._variables(layer, copy):
            if id(one) not in given:
              one.assign(other)
        for name, array in weights.items():
          attribute_of(copy, name).assign(array)
        if self._name(layer) in self.remade:
          state = {}  # Loaded, a layer like Normalization works out what else depends on its weights.
          copy.save_own_variables(state)
          copy.load_own_variables(state)

  def copy_flags(self, model):
    """The trainable flags, those of models first since they set those of their layers, those of variables last."""
    layers = self._layers(model)
    variables = [pair for layer, copy in self.made.values() for pair in self._variables(layer, copy)]
    flags = [(copy, layer.trainable) for layer, copy in layers]
    flags += [(copy, variable.trainable) for copy, variable in variables]
    for copy, trainable in flags:
      if copy.trainable != trainable:
        copy.trainable = trainable

  def _piece(self, operation):
    return self.pieces.get(id(operation), Squeezed())

  def _name(self, operation):
    return self.calls[id(operation)][0].name if id(operation) in self.calls else operation.name

  def _layers(self, model):
    """Pairs of a layer and its copy: the model, the layers in it and so on."""
    pairs = [self.made[id(model)]]
    for layer in model.layers:
      if id(layer) in self.made and is_functional(layer):
        pairs += self._layers(layer)
      elif id(layer) in self.made:
        pairs += zip(layers_in(layer), layers_in(self.made[id(layer)][1]), strict=True)
    return pairs

  def _variables(self, layer, copy):
    """Pairs of a variable of the copy and that of the layer."""
    if not isinstance(layer, keras.Layer) or is_functional(layer):
      return []
    weights = self._piece(layer).weights
    new = {id(attribute_of(copy, name)) for name in weights if attribute_of(layer, name) is None}
    ours, theirs = [variable for variable in copy.variables if id(variable) not in new], layer.variables
    if [_given_name(variable) for variable in ours] != [_given_name(variable) for variable in theirs]:
      raise ValueError(
        f"layer {self._name(layer)} made anew from its config has the variables {[v.name for v in ours]}, not "
        f"{[v.name for v in theirs]}; give {type(layer).__name__} a get_config that says which it has"
      )
    return list(zip(ours, theirs))

  def _input(self, node):
    """The input of a model, with as many channels as stay: none goes of the whole model's, but of a nested one's."""
    config, channels = node.operation.get_config(), self.graph.of(node.outputs[0])
    shape = list(config["batch_shape"])
    if channels is not None and channels.axis is not None:
      shape[channels.axis] = int(self.kept(channels).sum())
    return keras.layers.InputLayer.from_config({**config, "batch_shape": tuple(shape)}).output

  def _copied(self, operation):
    """What takes the place of a layer, operation or nested model."""
    if id(operation) not in self.made:
      if is_model(operation):
        copy = self.copied_model(operation)
      elif self._is_to_be_remade(operation):
        copy = self._remade(operation)
      else:
        copy = self._carried_over(operation)
      self.made[id(operation)] = operation, copy
    return self.made[id(operation)][1]

  def _called(self, operation, args, kwargs):
    """What takes the place of an operation, called on symbolic tensors."""
    copy = self._copied(operation)
    try:
      return copy(*args, **kwargs)
    except Exception as error:
      raise ValueError(
        f"layer {self._name(operation)}, a {type(operation).__name__}, cannot be called on what it gets without the "
        f"channels that go ({_cause(error)}): mend its rule or its build, or name the layers before it in keep"
      ) from error

  def _own(self, value):
    """A copy of a variable that an operation is called with."""
    return self.copier.copy(value) if isinstance(value, keras.Variable) else value

  def _is_resized(self, operation):
    """Whether anything goes of what the operation reads or makes."""
    calls = self.calls.get(id(operation), [])
    channels = [each for call in calls for each in (*call.reads, *(tensor.channels for tensor in call.outputs))]
    return not all(self.kept(each).all() for each in channels)

  def _is_to_be_remade(self, operation):
    piece = self._piece(operation)
    for name, array in piece.weights.items():
      variable = attribute_of(operation, name)
      if variable is None or tuple(variable.shape) != np.shape(array):
        return True
    if not self._is_resized(operation):
      return False
    builds = isinstance(operation, keras.Layer) and type(operation).build is not keras.Layer.build
    return bool(piece.config) or (builds and bool(operation.variables))

  def _carried_over(self, operation):
    """A copy with all its state; the layer itself if there is none."""
    try:
      copy = self.copier.copy(operation)
    except CannotCopyError as error:
      if self._piece(operation).weights or self._is_resized(operation):
        return self._remade(operation)
      self.copier.share(operation)
      self.shared[self._name(operation)] = str(error)
      return operation
    weightless = isinstance(copy, keras.Layer) and not copy.variables
    return unbuilt(copy) if weightless and self._is_resized(operation) else copy

  def _remade(self, operation):
    name, kind = self._name(operation), type(operation).__name__
    try:
      copy = _from_config(operation, self._piece(operation).config)
    except Exception as error:
      raise ValueError(
        f"layer {name} cannot be made anew from its config, as it must be without the channels that go "
        f"({_cause(error)}); give {kind} a get_config that holds all arguments of its constructor, or name the "
        f"layers around {name} in keep"
      ) from error
    copy.name = operation.name
    self.remade.append(name)
    self.copier.set(operation, copy)
    return copy

  def _of_class(self, model, **arguments):
    """A model of the class of another and with its attributes, as far as the constructor takes these arguments."""
    standard = keras.Sequential if "layers" in arguments else keras.Model
    try:
      made = self._constructed(model, standard, arguments)
    except Exception as error:
      kind, names = type(model).__name__, " and ".join(arguments)
      if not is_model(model):
        raise CannotCopyError(f"the constructor of {kind} takes more than {names}") from error
      made = standard(**arguments, name=model.name)
      self._note(
        f"model {model.name} is a {kind}, whose constructor takes more than {names} ({_cause(error)}): the "
        f"smaller one is a {type(made).__name__}, without the methods of {kind}"
      )
    self.made[id(model)] = model, made
    self.copier.set(model, made)
    for name in [name for name in vars(model) if name not in standard_attributes()]:
      try:
        value = self.copier.copy(vars(model)[name])
      except CannotCopyError as error:
        value = vars(model)[name]
        self._note(f"attribute {name} of model {model.name} is shared with the smaller one: {error}")
      setattr(made, name, value)
    return made

  def _constructed(self, model, standard, arguments):
    """A model of the class of another, whose constructor has to take the arguments and leave them as they are.

    What the constructor makes besides is left out: attributes of the model take that place.
    """
    kind, arguments = type(model), {**arguments, "name": model.name}
    plain = standard(**arguments)
    if kind is type(plain):
      return plain
    further = self._further_arguments(model, arguments)
    if operations_of(kind(**arguments, **further)) != operations_of(plain):
      raise ValueError("it adds to them")
    made = kind.__new__(kind, **arguments, **further)
    type(plain).__init__(made, **arguments)
    return made

  def _further_arguments(self, model, given):
    """What else the constructor of a model asks for, as far as the model has attributes of these names."""
    asked = [
      parameter.name
      for parameter in list(inspect.signature(type(model).__init__).parameters.values())[1:]
      if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
      and parameter.default is parameter.empty
    ]
    return {name: self.copier.copy(vars(model)[name]) for name in asked if name not in given and name in vars(model)}

  def _note(self, sentence):
    logger.warning(sentence)
    self.notes.append(sentence)


def _given_name(variable):
  """The name of a variable without the number that Keras puts behind those that have none of their own."""
  return re.sub(r"^(variable|seed_generator_state)_\d+$", r"\1", variable.name)


def _from_config(operation, changes):
  """A layer or operation from its config with some changes, as Keras would load it."""
  named = {type(operation).__name__: type(operation)}
  for value in vars(operation).values():
    if callable(value) and not isinstance(value, keras.Operation):
      function = value if hasattr(value, "__name__") else type(value)
      named[function.__name__] = function
  standard = type(operation).__module__.startswith("keras.") or (
    type(operation).from_config.__func__ is keras.Operation.from_config.__func__
  )
  with keras.saving.CustomObjectScope(named):
    if not standard:
      config = keras.saving.serialize_keras_object(operation)["config"]
      return type(operation).from_config({**config, **changes})
    config = _without_shapes(_config_of(operation))
    # Functions that Keras does not know by name: activations, initializers, regularizers of the caller's own.
    for name, value in config.items():
      own = getattr(operation, name, None)
      if not isinstance(value, str) and callable(own) and not isinstance(own, keras.Operation):
        config[name] = value if inspect.ismethod(own) else own
    return type(operation).from_config({**config, **changes})


def _config_of(operation):
  """The config of a layer, with partial functions, which Keras cannot serialize, as they are."""
  partial = {name: value for name, value in vars(operation).items() if isinstance(value, functools.partial)}
  vars(operation).update(dict.fromkeys(partial, keras.activations.linear))
  try:
    config = operation.get_config()
  finally:
    vars(operation).update(partial)
  return {**config, **{name: value for name, value in partial.items() if name in config}}


def _without_shapes(config):
  """A config without the shapes for which layers in it were built."""
  if isinstance(config, dict):
    return {name: _without_shapes(value) for name, value in config.items() if name != "build_config"}
  return config


def _cause(error):
  """The first line of the exception behind those that Keras makes of it."""
  while error.__context__ is not None:
    error = error.__context__
  return first_line(error)
