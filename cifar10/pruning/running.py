"""Runs a model call by call, to see what each of them makes."""

import collections
from collections.abc import Iterator

import keras

from cifar10.pruning.calls import Call, Tensor, as_functional, flat_calls
from cifar10.pruning.inputs import Arrays


def run_calls(model: keras.Model, inputs: Arrays) -> Iterator[tuple[Call, list]]:
  """Each call of a model, those in nested models too, and the list of tensors that it makes of some inputs.

  Args:
    model: a functional or Sequential model, run in inference.
    inputs: inputs for one call of it.
  """
  calls, tensors, _ = flat_calls(model, None)
  by_keras_tensor = {id(key): tensor for key, tensor in tensors}
  given = as_functional(model).inputs
  named = isinstance(inputs, dict) and {tensor.name for tensor in given} <= set(inputs)
  arrays = [inputs[tensor.name] for tensor in given] if named else keras.tree.flatten(inputs)
  values = {
    id(by_keras_tensor[id(key)]): keras.ops.convert_to_tensor(array, key.dtype) for key, array in zip(given, arrays)
  }
  waiting = collections.Counter(id(tensor) for call in calls for tensor in {id(t): t for t in call.inputs}.values())
  for call in calls:
    if call.inputs:
      args, kwargs = keras.tree.map_structure(
        lambda value: values[id(value)] if isinstance(value, Tensor) else value, (call.args, call.kwargs)
      )
      outputs = keras.tree.flatten(call.operation(*args, **kwargs))
      values.update(zip(map(id, call.outputs), outputs, strict=True))
    yield call, [values[id(tensor)] for tensor in call.outputs]
    for key in set(map(id, call.inputs)):
      waiting[key] -= 1
      if not waiting[key]:
        del values[key]
