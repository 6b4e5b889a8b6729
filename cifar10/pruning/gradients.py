"""Gradients of a loss in the weights of a model, on any backend of Keras."""

import importlib
from collections.abc import Callable

import keras
import numpy as np

from cifar10.pruning.calls import left_alone
from cifar10.pruning.inputs import Arrays
from cifar10.pruning.rules.base import to_float64


def gradients(model: keras.Model, inputs: Arrays, targets: Arrays, loss: Callable) -> dict[int, np.ndarray]:
  """The gradients of the mean loss in inference: dict from the id() of each trainable variable to a float64 array.

  Args:
    model: a Keras model.
    inputs: inputs for one call of it.
    targets: what its outputs should be.
    loss: function of (targets, outputs) to losses, one an example or one altogether, as Keras' losses are.
  """
  variables = model.trainable_variables

  def mean_loss(outputs):
    return keras.ops.mean(loss(targets, outputs))

  name = keras.backend.backend()
  with left_alone(model):
    found = GRADIENTS[name](importlib.import_module(name), model, variables, inputs, mean_loss)
  return {
    id(variable): np.zeros(variable.shape) if gradient is None else to_float64(gradient)
    for variable, gradient in zip(variables, found, strict=True)
  }


def _with_tensorflow(tensorflow, model, variables, inputs, mean_loss):
  with tensorflow.GradientTape() as tape:
    value = mean_loss(model(inputs, training=False))
  found = tape.gradient(value, [variable.value for variable in variables])
  return [None if gradient is None else tensorflow.convert_to_tensor(gradient) for gradient in found]


def _with_jax(jax, model, variables, inputs, mean_loss):
  def value(values):
    with keras.StatelessScope(zip(variables, values)):
      return mean_loss(model(inputs, training=False))

  return jax.grad(value)([variable.value for variable in variables])


def _with_torch(torch, model, variables, inputs, mean_loss):
  with torch.enable_grad():  # Whether or not it is called under no_grad().
    value = mean_loss(model(inputs, training=False))
  return torch.autograd.grad(value, [variable.value for variable in variables], allow_unused=True)


GRADIENTS = {"tensorflow": _with_tensorflow, "jax": _with_jax, "torch": _with_torch}
