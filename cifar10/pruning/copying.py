"""Copies of layers with all their state, whether or not a config tells of it.

A layer that is made from its config computes what the config says; where that forgets an argument, where an attribute
was set after construction, where state is kept outside the weights, it computes something else. A copy has what the
layer has.
"""

import collections
import copy
import functools
import inspect
import threading
import types
import weakref
from collections.abc import Callable
from typing import TypeVar

import keras

from cifar10.pruning.calls import is_functional, is_of_the_backend, layers_in, set_state, state_of

Value = TypeVar("Value")

PLAIN = (type(None), bool, int, float, str)
# What never changes, or serves two layers as well as one.
SHARED = (
  type,
  types.ModuleType,
  types.BuiltinFunctionType,
  weakref.ref,
  inspect.Signature,
  keras.DTypePolicy,
  keras.KerasTensor,
  type(threading.Lock()),
  type(threading.RLock()),
)
KERAS_OBJECTS = (keras.Operation, keras.Metric, keras.Loss, keras.Optimizer)


class CannotCopyError(Exception):
  """Something that a layer holds has no copy; the text says what."""


class Copier:
  """Makes one copy of each thing: what two layers share, their copies share too.

  Args:
    of_model: function that copies a functional or Sequential model, whose calls are its state.
  """

  def __init__(self, of_model: Callable[[keras.Model], keras.Model]):
    self._of_model = of_model
    self._copies = {}  # By id(): (the value, so that its id stays its own; its copy).
    self._deep_copies = {}

  def copy(self, value: Value) -> Value:
    """A copy of a layer, or of anything that one may hold.

    Raises:
      CannotCopyError: it, or something in it, cannot be copied; then nothing is.
    """
    before = len(self._copies)
    try:
      return self._copy(value)
    except Exception as error:
      for key in list(self._copies)[before:]:
        del self._copies[key]
      if isinstance(error, CannotCopyError):
        raise
      raise CannotCopyError(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error

  def known(self, value: Value) -> Value | None:
    """What stands for a value already, if anything does."""
    return self._copies.get(id(value), (value, None))[1]

  def set(self, value: Value, other: Value) -> None:
    """Declares what stands for a value from now on: itself, or what it has become."""
    self._copies[id(value)] = (value, other)

  def share(self, layer: keras.Operation) -> None:
    """Declares that a layer, and what it holds, stands for itself."""
    for each in [layer, *layers_in(layer), *getattr(layer, "weights", [])]:
      self.set(each, each)

  def _copy(self, value):
    if id(value) not in self._copies:
      made = self._made(value)
      self.set(value, made)
    return self._copies[id(value)][1]

  def _made(self, value):
    kind = type(value)
    if kind in PLAIN or isinstance(value, SHARED) or is_of_the_backend(value):
      return value
    if is_functional(value):
      return self._of_model(value)
    if isinstance(value, KERAS_OBJECTS):
      return self._object(value, state_of(value), set_state)
    if isinstance(value, keras.Variable):
      return self._object(value, vars(value), lambda made, state: vars(made).update(state))
    if isinstance(value, types.FunctionType):
      return self._function(value)
    if isinstance(value, types.MethodType):
      return types.MethodType(value.__func__, self._copy(value.__self__))
    if kind is functools.partial:
      return functools.partial(*map(self._copy, (value.func, *value.args)), **self._items(value.keywords))
    if isinstance(value, list | dict | set | tuple):
      return self._container(value)
    if hasattr(value, "__deepcopy__"):
      return copy.deepcopy(value, self._deep_copies)
    if kind.__module__.startswith("tensorflow."):
      if "polymorphic_function" in kind.__module__:
        raise CannotCopyError("a tf.function keeps to what it was traced with")
      if kind.__name__ == "TrackableReference":  # What a checkpoint of the layer saves.
        return kind(value.name, self._copy(value.ref))
      return value  # Tables, types, specifications.
    plain = all(getattr(kind, name, None) is getattr(object, name) for name in ("__reduce__", "__reduce_ex__"))
    if plain and hasattr(value, "__dict__") and kind.__getstate__ is object.__getstate__:
      return self._object(value, vars(value), lambda made, state: vars(made).update(state))
    return copy.deepcopy(value, self._deep_copies)

  def _object(self, value, state, set_state):
    made = type(value).__new__(type(value))
    self.set(value, made)
    set_state(made, self._items(state))
    return made

  def _items(self, state):
    return {name: self._copy(each) for name, each in state.items()}

  def _container(self, value):
    kind = type(value)
    if isinstance(value, tuple):
      return kind(*map(self._copy, value)) if hasattr(value, "_fields") else kind(map(self._copy, value))
    if not kind.__module__.startswith(("builtins", "collections", "keras.")) or kind is collections.defaultdict:
      return copy.deepcopy(value, self._deep_copies)
    made = kind()
    self.set(value, made)
    if isinstance(value, list):
      list.extend(made, map(self._copy, value))
    elif isinstance(value, set):
      set.update(made, map(self._copy, value))
    else:
      base = collections.OrderedDict if isinstance(value, collections.OrderedDict) else dict
      for key, each in value.items():
        base.__setitem__(made, key, self._copy(each))
    if hasattr(value, "__dict__"):
      vars(made).update(self._items(vars(value)))
    return made

  def _function(self, value):
    for each in keras.tree.flatten(list(inspect.getclosurevars(value).nonlocals.values())):
      if isinstance(each, KERAS_OBJECTS) or hasattr(each, "assign"):
        raise CannotCopyError(f"function {value.__name__} refers to {type(each).__name__} {getattr(each, 'name', '')}")
    return value


@functools.cache
def standard_attributes():
  """The names of the attributes that models have, compiled and trained ones too, without their user's doing."""
  given = keras.Input((1,))
  models = [keras.Model(given, given), keras.Sequential([given])]
  for model in models:
    model.compile()
  return set().union(*map(vars, models), ("history", "stop_evaluating", "stop_predicting"))


@functools.cache
def trainer_attributes():
  """Those of them that only models have: what compiling and training sets."""
  return standard_attributes() - vars(keras.layers.Layer()).keys()
