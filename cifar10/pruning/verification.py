"""Compares a squeezed model with the one that it was made from."""

import dataclasses
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from cifar10.pruning.calls import as_functional
from cifar10.pruning.channel_graph import ChannelGraph

KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
NOISE_EXAMPLES = 8
NOISE_SIZE = 64


@dataclasses.dataclass
class Comparison:
  """How two models differ; pairs are (first, second).

  Attributes:
    examples: number of examples.
    largest_difference: largest absolute difference of any output.
    relative_difference: Euclidean norm of the difference of the outputs / norm of the first model's.
    agreement: share of positions, over all outputs of two classes or more, at which the largest class is the same, and
      all are finite; None if there is no such output.
    parameters: numbers of weights.
    multiply_adds: as `multiply_adds` counts them; None where sizes are not fixed or the model is not functional.
    seconds: median time of a call on the inputs, compiled by `tf.function`, in turns.
  """

  examples: int
  largest_difference: float
  relative_difference: float
  agreement: float | None
  parameters: tuple
  multiply_adds: tuple
  seconds: tuple


def compare(model, other, inputs, repeats=10):
  """Returns the `Comparison` of two models with outputs of one structure and shapes.

  Args:
    model: a Keras model, run in inference.
    other: another.
    inputs: inputs for one call of either.
    repeats: how often each is timed.

  Raises:
    ValueError: the outputs differ in structure or shapes, `inputs` are empty, or `repeats` is less than 1.
  """
  if repeats < 1:
    raise ValueError(f"repeats is {repeats}; it is a whole number of 1 or more")
  if not all(len(tensor) for tensor in keras.tree.flatten(inputs)):
    raise ValueError("inputs are empty; comparing needs one example or more")
  run = [tf.function(lambda x, model=each: model(x, training=False)) for each in (model, other)]
  results = [keras.tree.map_structure(_array, function(inputs)) for function in run]
  first, second = map(keras.tree.flatten, results)
  described = [keras.tree.map_structure(lambda array: str(array.shape), result) for result in results]
  if described[0] != described[1]:
    raise ValueError(f"the outputs have shapes {described[0]} and {described[1]}; models to compare have the same")
  differences = np.concatenate([(y - z).ravel() for y, z in zip(first, second)])
  norm = np.linalg.norm(np.concatenate([y.ravel() for y in first]))
  agreeing = [
    ((y.argmax(axis=-1) == z.argmax(axis=-1)) & np.isfinite(y + z).all(axis=-1)).ravel()
    for y, z in zip(first, second)
    if y.ndim > 1 and y.shape[-1] > 1
  ]
  return Comparison(
    examples=len(keras.tree.flatten(inputs)[0]),
    largest_difference=float(abs(differences).max()),
    relative_difference=float(np.linalg.norm(differences) / norm) if norm else float(abs(differences).max() > 0),
    agreement=float(np.concatenate(agreeing).mean()) if agreeing else None,
    parameters=(model.count_params(), other.count_params()),
    multiply_adds=tuple(_multiply_adds_or_none(each) for each in (model, other)),
    seconds=_seconds(run, inputs, repeats),
  )


def multiply_adds(model, weights=None):
  """The multiply-adds of convolutions and dense layers for one example; None if an input size is not fixed.

  Output height * width * size of the kernel, summed over the calls of these layers, those in nested models too; of a
  transposed convolution, input height * width. Layers without a rule do not count. Padding counts like the rest.

  Args:
    model: a functional Keras model, or its `ChannelGraph`.
    weights: dict from the id() of a layer to its weights by attribute name, where they are not the layer's own.

  Raises:
    ValueError: `model` is not functional.
  """
  graph = model if isinstance(model, ChannelGraph) else ChannelGraph(model)
  counts = []
  for call in graph.calls:
    own = {name: getattr(call.operation, name) for name in KERNELS if hasattr(call.operation, name)}
    counts.append(call.rule.multiply_adds(call, {**own, **(weights or {}).get(id(call.operation), {})}))
  return None if None in counts else sum(counts)


def random_inputs(model):
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
    return tf.cast(values, tensor.dtype)

  return keras.tree.map_structure(noise, as_functional(model).input)


def _multiply_adds_or_none(model):
  try:
    return multiply_adds(model)
  except ValueError:
    return None


def _seconds(functions, inputs, repeats):
  times = [[], []]
  for _ in range(repeats):
    for function, found in zip(functions, times):
      start = time.perf_counter()
      for output in keras.tree.flatten(function(inputs)):
        output.numpy()
      found.append(time.perf_counter() - start)
  return tuple(statistics.median(found) for found in times)


def _array(tensor):
  return keras.ops.convert_to_numpy(tensor).astype(np.float64)
