"""Which activation functions treat each channel by itself."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from cifar10.pruning.rules.base import to_float64

COUPLED_ACTIVATIONS = ("softmax", "log_softmax", "sparsemax", "glu")


def activation_name(function: Callable) -> str:
  """The name of an activation function; "" if it is none of Keras' or TensorFlow's own."""
  name, module = (getattr(function, attribute, "") for attribute in ("__name__", "__module__"))
  return name if hasattr(keras.activations, name) and module.startswith(("keras.", "tensorflow.")) else ""


def is_coupled(function: Callable) -> bool:
  """Whether an activation function mixes channels, or might, being none that Keras knows."""
  name = activation_name(function)
  return name in COUPLED_ACTIVATIONS or not name


def known_values(function: Callable, constant: np.ndarray) -> np.ndarray:
  """A function of those values that are not NaN; NaN where it is not finite."""
  known = ~np.isnan(constant)
  result = np.full(len(constant), np.nan)
  if known.any():
    result[known] = to_float64(function(ops.convert_to_tensor(constant[known])))
  result[~np.isfinite(result)] = np.nan
  return result
