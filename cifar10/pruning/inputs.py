"""Inputs to call a model with, where its user gives none: noise in the shapes and ranges that the model says."""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from cifar10.pruning.calls import Call, Tensor, as_functional, flat_calls, layers_in
from cifar10.pruning.opening import opened
from cifar10.pruning.printing import first_line

# Inputs or outputs of a model: an array or tensor, or a list or dict of them.
Arrays: TypeAlias = npt.ArrayLike | Sequence["Arrays"] | Mapping[str, "Arrays"]

NOISE_EXAMPLES = 8
BATCH_SIZE = 32
SIZES = (64, 128, 256, 32, 16, 8, 4, 2)  # Of what is not fixed: the first that the model takes.
# Layers and operations that make no other values than they are given, by the names of their classes.
REARRANGING = {
  "Array",
  "BroadcastTo",
  "Cast",
  "Concatenate",
  "ConvertToTensor",
  "Copy",
  "Cropping1D",
  "Cropping2D",
  "Dropout",
  "ExpandDims",
  "Flatten",
  "Flip",
  "GetItem",
  "Identity",
  "Masking",
  "Moveaxis",
  "Permute",
  "Ravel",
  "Repeat",
  "RepeatVector",
  "Reshape",
  "Roll",
  "Slice",
  "SpatialDropout1D",
  "Split",
  "Squeeze",
  "Stack",
  "StopGradient",
  "Swapaxes",
  "Tile",
  "Transpose",
  "Unstack",
}


def random_inputs(
  model: keras.Model, examples: int = NOISE_EXAMPLES, size: int = SIZES[0], guess: bool = False
) -> Arrays:
  """Noise for a model, in the structure of its inputs.

  Normal, standard behind a `Rescaling` or `Normalization` that reads them; integers up to what the layers that read
  them take: the `input_dim` of an embedding, the `num_tokens` of an encoding, the words that a lookup knows, the length
  of what they index; else 0 and 1, and 0 to 255 for uint8.

  Args:
    model: a functional or Sequential model.
    examples: how many, where the model does not say.
    size: how long other axes are, where the model does not say.
    guess: whether integers are 0 and 1 too where a layer of the caller's own reads them, or where they are computed
      with before an embedding and its like, so that the model does not say which it takes.

  Raises:
    ValueError: an input takes text; or such integers, without `guess`.
  """
  rng, model = np.random.default_rng(0), opened(model).model
  _, tensors, _ = flat_calls(model, None)
  by_keras_tensor = {id(key): tensor for key, tensor in tensors}

  def noise(tensor):
    if tensor.dtype == "string":
      raise ValueError(f"input {tensor.name} of {model.name} takes text: give inputs")
    shape = [examples if tensor.shape[0] is None else tensor.shape[0]]
    shape += [size if length is None else length for length in tensor.shape[1:]]
    read = by_keras_tensor[id(tensor)]
    values = _values(model, tensor, read, guess)
    array = _unscaled(read, rng.normal(size=shape)) if values is None else rng.choice(values, size=shape)
    return keras.ops.cast(array, tensor.dtype)

  return keras.tree.map_structure(noise, as_functional(model).input)


def inputs_that_run(model: keras.Model, examples: int = NOISE_EXAMPLES, guess: bool = False) -> Arrays:
  """Noise for a model that it can be called with, tried with several sizes of what is not fixed.

  Args:
    model: as for `random_inputs`.
    examples: as for `random_inputs`.
    guess: as for `random_inputs`.

  Raises:
    ValueError: as `random_inputs`, or the model takes none of them.
  """
  functional = opened(model).model
  free = any(size is None for tensor in functional.inputs for size in tensor.shape[1:])
  beyond_tables = []
  for size in SIZES if free else SIZES[:1]:
    inputs = random_inputs(functional, examples, size, guess)
    try:
      outputs = keras.tree.flatten(model(inputs, training=False))
      if not all(math.prod(output.shape) for output in outputs):
        failure = ValueError("an output is empty")
      elif free and keras.backend.backend() == "jax" and any(keras.ops.any(keras.ops.isnan(each)) for each in outputs):
        beyond_tables.append(inputs)  # Of what is not in a table JAX makes NaN, where others raise an error.
      else:
        return inputs
    except Exception as error:
      failure = error
  if beyond_tables:
    return beyond_tables[0]  # It may as well be that all inputs make some NaN.
  raise ValueError(f"{model.name} cannot be called with noise ({first_line(failure)}): give inputs")


def batches(*arrays: Arrays, size: int = BATCH_SIZE) -> Iterator[tuple[int, Arrays]]:
  """The number of examples and the examples of one batch after the other, of one structure of arrays or of several."""
  count = len(keras.tree.flatten(arrays)[0])
  for start in range(0, count, size):
    part = slice(start, start + size)
    yield min(size, count - start), *keras.tree.map_structure(operator.itemgetter(part), arrays)


def _unscaled(tensor: Tensor, array: np.ndarray) -> np.ndarray:
  """What a tensor has to be so that the layers that scale it, if there are any, make an array of its shape of it."""
  for call in tensor.readers:
    if _scales(call.operation) or (_rearranges(call) and call.outputs[0].shape == tensor.shape):
      return _scaled_back(call.operation, _unscaled(call.outputs[0], array))
  return array


def _scales(operation):
  return isinstance(operation, layers.Rescaling | layers.Normalization)


def _scaled_back(layer, array):
  if not _scales(layer):
    return array
  if isinstance(layer, layers.Rescaling):
    return (array - layer.offset) / np.where(np.equal(layer.scale, 0), 1, layer.scale)
  mean, deviation = keras.ops.convert_to_numpy(layer.mean), keras.ops.convert_to_numpy(layer.variance) ** 0.5
  return (array - mean) / np.maximum(deviation, 1e-6) if layer.invert else array * deviation + mean


def _rearranges(call):
  return type(call.operation).__name__ in REARRANGING


def _values(model, keras_tensor, tensor, guess):
  """What the values of an input may be; None for any number."""
  found = list(_limits(tensor, set()))
  known = [values for values in found if values is not None]
  if known:
    return min(known, key=len)
  if "float" in keras_tensor.dtype or "complex" in keras_tensor.dtype:
    return None
  if found and not guess:
    raise ValueError(
      f"input {keras_tensor.name} of {model.name} takes integers, and no layer that reads it says which: give inputs"
    )
  if keras_tensor.dtype == "uint8":
    return np.arange(256)
  scaled = keras_tensor.dtype.startswith("int") and any(_scales(call.operation) for call in tensor.readers)
  return None if scaled else np.arange(2)


def _limits(tensor: Tensor, seen: set[int], computed: bool = False) -> Iterator[np.ndarray | None]:
  """For each layer that takes certain values of a tensor alone: these, or None if it does not say which of the input's.

  Args:
    tensor: what it reads.
    seen: the id() of the tensors that were looked into.
    computed: whether the tensor has other values than the input, which it was computed from.
  """
  if id(tensor) in seen:
    return
  seen.add(id(tensor))
  for call in tensor.readers:
    operation = call.operation
    values, custom = _taken(call, tensor), not type(operation).__module__.startswith("keras.")
    if values is not None or (custom and not _rearranges(call) and not computed):
      yield None if computed else values
    elif _rearranges(call) or not (custom or _draws_the_line(operation)):
      for output in call.outputs:
        yield from _limits(output, seen, computed or not _rearranges(call))


def _draws_the_line(operation):
  """Whether what an operation makes tells nothing of which integers it was given: they are weighted, or sorted in."""
  sorts = isinstance(operation, layers.Hashing | layers.Discretization | layers.HashedCrossing)
  return sorts or bool(getattr(operation, "variables", []))


def _taken(call: Call, tensor: Tensor) -> np.ndarray | None:
  operation, name = call.operation, type(call.operation).__name__
  taken = [values for layer in layers_in(operation) if (values := _taken_by(layer)) is not None]
  if taken:
    return min(taken, key=len)
  if name in ("OneHot", "MultiHot"):
    return np.arange(operation.num_classes)
  if name in ("Take", "TakeAlongAxis") and call.args[0] is not tensor:
    axis, table = operation.axis, call.args[0]
    sizes = np.shape(table) if not isinstance(table, Tensor) else table.shape
    length = sizes[axis] if axis is not None else int(np.prod([size for size in sizes if size is not None]))
    return np.arange(length or 1)
  return None


def _taken_by(layer):
  if isinstance(layer, layers.Embedding):
    return np.arange(layer.input_dim)
  if isinstance(layer, layers.CategoryEncoding):
    return np.arange(layer.num_tokens)
  if isinstance(layer, layers.IntegerLookup):
    return np.array([word for word in layer.get_vocabulary() if word >= 0] or [0])
  return None
