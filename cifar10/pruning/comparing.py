"""Compares a squeezed model with the one that it was made from."""

import statistics

import keras
import numpy as np

from cifar10.pruning.costs import multiply_adds
from cifar10.pruning.inputs import Arrays
from cifar10.pruning.reports import Comparison, Differences
from cifar10.pruning.timing import seconds_in_turns


def compare(model: keras.Model, other: keras.Model, inputs: Arrays, repeats: int = 10) -> Comparison:
  """Returns the `Comparison` of two models with outputs of one structure and shapes.

  Args:
    model: a Keras model, run in inference.
    other: another.
    inputs: inputs for one call of either.
    repeats: how often each is timed.

  Raises:
    ValueError: the outputs differ in structure or shapes, `inputs` are empty, or `repeats` is less than 1.

  >>> import keras
  >>> import numpy as np
  >>> model, other = (keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]) for _ in range(2))
  >>> other.set_weights([weights + 0.5 for weights in model.get_weights()])
  >>> comparison = compare(model, other, np.zeros((4, 3)))
  >>> comparison.largest_difference, comparison.agreement, comparison.parameters
  (0.5, 1.0, (8, 8))
  """
  if repeats < 1:
    raise ValueError(f"repeats is {repeats}; it is a whole number of 1 or more")
  if not all(len(tensor) for tensor in keras.tree.flatten(inputs)):
    raise ValueError("inputs are empty; comparing needs one example or more")
  run = [_Inference(each).predict_on_batch for each in (model, other)]
  differences = output_differences(*(function(inputs) for function in run))
  return Comparison(
    examples=len(keras.tree.flatten(inputs)[0]),
    largest_difference=differences.largest,
    relative_difference=differences.relative,
    agreement=differences.agreement,
    parameters=(model.count_params(), other.count_params()),
    multiply_adds=tuple(_multiply_adds_or_none(each) for each in (model, other)),
    seconds=_seconds(run, inputs, repeats),
  )


def output_differences(outputs: Arrays, others: Arrays) -> Differences:
  """Returns the `Differences` of what two networks made of the same inputs, worked out in float64.

  Args:
    outputs: an array or tensor of any shape, or a structure of them.
    others: another of one structure and shapes.

  Raises:
    ValueError: the structures or shapes differ.
  """
  results = [keras.tree.map_structure(_array, each) for each in (outputs, others)]
  described = [keras.tree.map_structure(lambda array: str(array.shape), result) for result in results]
  if described[0] != described[1]:
    raise ValueError(f"the outputs have shapes {described[0]} and {described[1]}; models to compare have the same")
  first, second = map(keras.tree.flatten, results)
  differences = np.concatenate([(y - z).ravel() for y, z in zip(first, second)])
  norm = np.linalg.norm(np.concatenate([y.ravel() for y in first]))
  agreeing = [
    ((y.argmax(axis=-1) == z.argmax(axis=-1)) & np.isfinite(y + z).all(axis=-1)).ravel()
    for y, z in zip(first, second)
    if y.ndim > 1 and y.shape[-1] > 1
  ]
  return Differences(
    largest=float(abs(differences).max()),
    relative=float(np.linalg.norm(differences) / norm) if norm else float(abs(differences).max() > 0),
    agreeing=sum(int(each.sum()) for each in agreeing),
    agreement=float(np.concatenate(agreeing).mean()) if agreeing else None,
  )


def _multiply_adds_or_none(model):
  try:
    return multiply_adds(model)
  except ValueError:
    return None


class _Inference(keras.Model):
  """A model in inference; its `predict_on_batch` is compiled by the backend where that compiles, without XLA's time."""

  def __init__(self, model):
    super().__init__(name="inference")
    self.model = model
    self.compile(jit_compile=keras.backend.backend() == "jax")

  def call(self, inputs):
    return self.model(inputs, training=False)


def _seconds(functions, inputs, repeats):
  runs = {name: lambda function=function: function(inputs) for name, function in zip(("first", "second"), functions)}
  times = seconds_in_turns(runs, repeats, warm_up=0)
  return tuple(statistics.median(found) for found in times.values())


def _array(tensor):
  return keras.ops.convert_to_numpy(tensor).astype(np.float64)
