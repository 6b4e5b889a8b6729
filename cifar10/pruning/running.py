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
  given, structure = as_functional(model).inputs, as_functional(model).input
  if isinstance(inputs, dict):
    keys = list(structure) if isinstance(structure, dict) else [tensor.name for tensor in given]
    if missing := sorted(set(keys) - set(inputs)):
      raise ValueError(f"inputs lack {', '.join(missing)}, which {model.name} takes")
    inputs = {key: inputs[key] for key in keys} if isinstance(structure, dict) else [inputs[key] for key in keys]
  arrays = keras.tree.flatten(inputs)
  if len(arrays) != len(given):
    raise ValueError(f"{len(arrays)} inputs are given; {model.name} takes {len(given)}, one array or tensor for each")
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
