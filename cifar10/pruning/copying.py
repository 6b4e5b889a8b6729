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
  inspect.Signature,
  keras.DTypePolicy,
  keras.KerasTensor,
  type(threading.Lock()),
  type(threading.RLock()),
)
FUNCTIONS = (types.FunctionType, type(functools.cache(len)))
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
    self._memo = {}  # The same as `copy.deepcopy` has it, with what that has copied.

  def copy(self, value: Value) -> Value:
    """A copy of a layer, or of anything that one may hold.

    Raises:
      CannotCopyError: it, or something in it, cannot be copied; then nothing is.
    """
    before = [(known, len(known)) for known in (self._copies, self._memo)]
    try:
      return self._copy(value)
    except Exception as error:
      for known, count in before:
        for key in list(known)[count:]:
          del known[key]
      if isinstance(error, CannotCopyError):
        raise
      raise CannotCopyError(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error

  def known(self, value: Value) -> Value | None:
    """What stands for a value already, if anything does."""
    return self._copies.get(id(value), (value, None))[1]

  def set(self, value: Value, other: Value) -> None:
    """Declares what stands for a value from now on: itself, or what it has become."""
    self._copies[id(value)] = (value, other)
    self._memo[id(value)] = other

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
    if isinstance(value, FUNCTIONS):
      return self._function(value)
    if isinstance(value, weakref.ref):
      held = isinstance(value(), (*KERAS_OBJECTS, keras.Variable))
      return weakref.ref(self._copy(value())) if held else value
    if isinstance(value, types.MethodType):
      return types.MethodType(value.__func__, self._copy(value.__self__))
    if kind is functools.partial:
      return functools.partial(*map(self._copy, (value.func, *value.args)), **self._items(value.keywords))
    if isinstance(value, list | dict | set | tuple | collections.deque):
      return self._container(value)
    if hasattr(value, "__deepcopy__"):
      return self._deep_copy(value)
    if kind.__module__.startswith("tensorflow."):
      if "polymorphic_function" in kind.__module__:
        raise CannotCopyError("a tf.function keeps to what it was traced with")
      if kind.__name__ == "TrackableReference":  # What a checkpoint of the layer saves.
        return kind(value.name, self._copy(value.ref))
      return value  # Tables, types, specifications.
    plain = all(getattr(kind, name, None) is getattr(object, name) for name in ("__reduce__", "__reduce_ex__"))
    plain = plain and hasattr(value, "__dict__") and kind.__getstate__ is object.__getstate__
    if plain or kind is types.SimpleNamespace:
      return self._object(value, vars(value), lambda made, state: vars(made).update(state))
    return self._deep_copy(value)

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
      if hasattr(value, "__wrapped__"):  # TensorFlow's, around those that hold variables.
        return kind(self._copy(value.__wrapped__))
      return kind(*map(self._copy, value)) if hasattr(value, "_fields") else kind(map(self._copy, value))
    if not kind.__module__.startswith(("builtins", "collections", "keras.")) or kind is collections.defaultdict:
      return self._deep_copy(value)
    made = kind(maxlen=value.maxlen) if isinstance(value, collections.deque) else kind()
    self.set(value, made)
    if isinstance(value, collections.deque):
      made.extend(map(self._copy, value))
    elif isinstance(value, list):
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

  def _deep_copy(self, value):
    before = len(self._memo)
    made = copy.deepcopy(value, self._memo)
    for each in list(self._memo.values())[before:]:
      if isinstance(each, (*KERAS_OBJECTS, keras.Variable)):
        raise CannotCopyError(f"a {type(value).__name__} holds {type(each).__name__} {each.name}")
    return made

  def _function(self, value):
    for each in _referred_to(value, set()):
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


def _referred_to(value, seen):
  """The layers and variables, and other objects of Keras, that a function holds: it, or what it refers to in turn."""
  if id(value) in seen or isinstance(value, SHARED):
    return
  seen.add(id(value))
  if isinstance(value, KERAS_OBJECTS) or hasattr(value, "assign"):
    yield value
  elif isinstance(value, types.FunctionType):
    held = [*inspect.getclosurevars(value).nonlocals.values(), *(value.__defaults__ or ()), value.__kwdefaults__]
    yield from _referred_to(held, seen)
  elif isinstance(value, FUNCTIONS):
    yield from _referred_to(value.__wrapped__, seen)
  elif isinstance(value, types.MethodType):
    yield from _referred_to([value.__self__, value.__func__], seen)
  elif isinstance(value, functools.partial):
    yield from _referred_to([value.func, value.args, value.keywords], seen)
  elif isinstance(value, list | tuple | set | collections.deque):
    for each in value:
      yield from _referred_to(each, seen)
  elif isinstance(value, dict):
    yield from _referred_to(list(value.values()), seen)
  elif hasattr(value, "__dict__"):
    yield from _referred_to(list(vars(value).values()), seen)
