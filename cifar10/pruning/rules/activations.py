"""Which activation functions treat each value by itself."""

import weakref
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from cifar10.pruning.rules.base import rules_of, to_float64

COUPLED_ACTIVATIONS = ("softmax", "log_softmax", "sparsemax", "glu")
PROBED_SHAPES = ((2, 5), (2, 3, 4), (2, 3, 4, 5))

_probed = weakref.WeakKeyDictionary()  # What is known of functions that Keras does not know.


def activation_name(function: Callable) -> str:
  """The name of an activation function; "" if it is none of Keras' or TensorFlow's own."""
  name, module = (getattr(function, attribute, "") for attribute in ("__name__", "__module__"))
  return name if hasattr(keras.activations, name) and module.startswith(("keras.", "tensorflow.")) else ""


def is_coupled(function: Callable) -> bool:
  """Whether an activation function mixes channels, or might.

  Of one that Keras does not know, what is registered of it says that, or else its values.
  """
  if name := activation_name(function):
    return name in COUPLED_ACTIVATIONS
  if isinstance(function, keras.Layer):
    if function.variables or not function.built:
      return True  # Called, it might change.
    function = function.call
  rules = rules_of(function)
  return not (rules[0].elementwise if rules else acts_on_values(function))


def acts_on_values(function: Callable) -> bool:
  """Whether a function maps each value by itself, wherever it stands: as far as a few tensors show."""
  try:
    if function not in _probed:
      _probed[function] = _is_seen_to(function)
    return _probed[function]
  except TypeError:  # It has no hash, or no weak references.
    return _is_seen_to(function)


def _is_seen_to(function):
  rng = np.random.default_rng(0)
  try:
    return all(_keeps_values_apart(function, shape, rng) for shape in PROBED_SHAPES)
  except Exception:  # Whatever a function raises for a shape or type that it is not for.
    return False


def _keeps_values_apart(function, shape, rng):
  """Whether values give the same among others, and in other places."""
  x = rng.normal(size=shape) * rng.choice([0.1, 1, 10], shape)
  stays, order = rng.random(shape) < 0.5, rng.permutation(x.size)
  other = np.where(stays, x, rng.normal(size=shape) * 20)
  y, among_others, elsewhere = (
    to_float64(function(ops.convert_to_tensor(each))) for each in (x, other, x.reshape(-1)[order].reshape(shape))
  )
  return (
    y.shape == among_others.shape == shape
    and np.allclose(y[stays], among_others[stays], rtol=1e-9, atol=1e-12, equal_nan=True)
    and np.allclose(y.reshape(-1)[order], elsewhere.reshape(-1), rtol=1e-9, atol=1e-12, equal_nan=True)
  )


def known_values(function: Callable, constant: np.ndarray) -> np.ndarray:
  """A function of those values that are not NaN; NaN where it is not finite."""
  known = ~np.isnan(constant)
  result = np.full(len(constant), np.nan)
  if known.any():
    result[known] = to_float64(function(ops.convert_to_tensor(constant[known])))
  result[~np.isfinite(result)] = np.nan
  return result
