"""Inputs to call a model with, where its user gives none."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import keras
import numpy as np
import numpy.typing as npt

from cifar10.pruning.calls import as_functional

# Inputs or outputs of a model: an array or tensor, or a list or dict of them.
Arrays: TypeAlias = npt.ArrayLike | Sequence["Arrays"] | Mapping[str, "Arrays"]

NOISE_EXAMPLES = 8
NOISE_SIZE = 64


def random_inputs(model: keras.Model) -> Arrays:
  """Noise for a model: standard normal, or 0 and 1 for integers; 8 examples, and 64 of what is not fixed besides.

  Raises:
    ValueError: an input takes text.
  """
  rng = np.random.default_rng(0)

  def noise(tensor):
    if tensor.dtype == "string":
      raise ValueError(f"input {tensor.name} of {model.name} takes text: give inputs to measure the change on")
    examples, *sizes = tensor.shape
    values = rng.normal(size=(examples or NOISE_EXAMPLES, *(NOISE_SIZE if size is None else size for size in sizes)))
    values = values if "float" in tensor.dtype else values > 0
    return keras.ops.cast(values, tensor.dtype)

  return keras.tree.map_structure(noise, as_functional(model).input)
