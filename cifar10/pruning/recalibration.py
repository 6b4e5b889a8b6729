"""Recomputes the moving statistics of batch norms, which lag behind a network that was just squeezed or pruned."""

import contextlib
import itertools
from collections.abc import Iterable

import keras

from cifar10.pruning.calls import layers_in
from cifar10.pruning.inputs import Arrays


def recalibrate(model: keras.Model, batches: Iterable[Arrays]) -> None:
  """Sets all moving means and variances to averages over `batches`, in place.

  The model runs as in training, dropout on, so that each batch norm normalises with the statistics of the batch. The
  result is the plain mean of their means and variances as the layer computes them, over the batches and, for a layer
  that is called several times, over its calls, each counting alike.

  Args:
    model: a Keras model; only its moving statistics change. Frozen batch norms (`trainable` False) stay as they are.
    batches: an iterable of one or more inputs of the model, each a batch without labels.

  Raises:
    ValueError: `batches` is empty. On this or any other exception the statistics are those from before.

  >>> import keras
  >>> import numpy as np
  >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
  >>> recalibrate(model, [np.array([[2.0], [4.0]]), np.array([[6.0], [8.0]])])
  >>> model.layers[0].moving_mean.numpy().tolist(), model.layers[0].moving_variance.numpy().tolist()
  ([5.0], [1.0])
  """
  batch_norms = [layer for layer in layers_in(model) if isinstance(layer, keras.layers.BatchNormalization)]
  statistics = {id(variable) for layer in batch_norms for variable in (layer.moving_mean, layer.moving_variance)}
  before = [(variable, keras.ops.convert_to_numpy(variable)) for variable in model.variables]
  empty = True
  try:
    with contextlib.ExitStack() as stack:
      for layer in batch_norms:
        stack.enter_context(_averaging(layer))
      for batch in batches:
        model(batch, training=True)
        empty = False
    if empty:
      raise ValueError("batches is empty; recalibration needs one batch or more")
  except BaseException:
    statistics.clear()
    raise
  finally:
    for variable, value in before:
      if id(variable) not in statistics:
        variable.assign(value)


@contextlib.contextmanager
def _averaging(layer):
  """Makes a batch norm's moving statistics the plain mean over all its calls."""
  momentum, call, count = layer.momentum, layer.call, itertools.count(1)

  def averaged(*args, **kwargs):
    number = next(count)
    layer.momentum = (number - 1) / number
    return call(*args, **kwargs)

  layer.call = averaged
  try:
    yield
  finally:
    del layer.call
    layer.momentum = momentum
