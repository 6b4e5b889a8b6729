"""Rules of the layers and operations that put values in other places, or join tensors."""

import keras
import numpy as np
from keras import layers, ops

from cifar10.pruning.calls import Tensor, operation_class
from cifar10.pruning.rules.base import Channels, Rule, Squeezed, opaque, register


class Rearrangement(Rule):
  """Flatten, Reshape, Permute and their like: every value goes to one or more places.

  The channel axis of the output is the one along which the channel changes. Where there is none, channels that share
  a place on the last axis become one: they stay or go together.
  """

  owns_channels = True

  def forward(self, graph, call):
    channels = call.inputs[0].channels
    places = None if channels.axis is None else self._places(call, channels)
    axis = None if places is None else _axis_of(places, channels)
    if axis is None or call.outputs[0].shape[axis] is None:
      graph.block(channels.ids, call.name)
      return [opaque(channels.reason or call.name)]
    columns = np.moveaxis(places, axis, -1).reshape(-1, places.shape[axis])
    columns = columns[:1] if (columns == columns[0]).all() else np.unique(columns, axis=0)
    for column in columns[1:]:
      graph.unite(channels.ids[column], channels.ids[columns[0]])
    constants = channels.constant[columns]
    constant = np.where((constants == constants[0]).all(axis=0), constants[0], np.nan)
    border = np.where(np.isnan(constant), 0, channels.border[columns].max(axis=0))
    return [Channels(axis, channels.ids[columns[0]], constant, border, reason=channels.reason)]

  def backward(self, graph, call):
    channels, output = call.reads[0], call.outputs[0].channels
    used = np.zeros(len(channels.ids), bool)
    places = np.moveaxis(self._places(call, channels), output.axis, -1)
    used[places[..., output.used]] = True
    return [used]

  def squeezed(self, graph, call, keep_in, keep_out):
    axis = call.outputs[0].channels.axis
    for name, index in (("target_shape", -1), ("newshape", 0)):
      shape = getattr(call.operation, name, None)
      if axis is not None and shape is not None and shape[axis + index] != -1:
        shape = list(shape)
        shape[axis + index] = int(keep_out.sum())
        return Squeezed({name: tuple(shape)})
    return Squeezed()

  def _places(self, call, channels):
    """Which position of the input each value of the output comes from: an array like the output with a batch of 1.

    None if that depends on sizes that are not fixed, or the batch does not stay what it is.
    """
    shape = [1, *(6 if size is None else size for size in call.inputs[0].shape[1:])]
    along = [1] * len(shape)
    along[channels.axis] = -1
    positions = np.broadcast_to(np.arange(len(channels.ids), dtype=np.int32).reshape(along), shape)
    try:
      places = ops.convert_to_numpy(call.operation(ops.convert_to_tensor(positions)))
    except Exception:  # Whatever a backend raises for a shape that does not fit.
      return None
    fits = len(places.shape) == len(call.outputs[0].shape) > 1 and len(places) == 1
    fits = fits and call.outputs[0].shape[0] == call.inputs[0].shape[0]
    sizes = list(zip(call.outputs[0].shape[1:], places.shape[1:]))
    # A size that is not fixed and happens to be 1 says nothing of other sizes.
    fits = fits and all(real > 1 if size is None else size == real for size, real in sizes)
    return places if fits else None


class Concatenation(Rule):
  """Tensors side by side: along the channel axis each keeps its channels, else they share them."""

  def applies(self, call):
    return all(isinstance(value, Tensor) for value in keras.tree.flatten(call.args))

  def forward(self, graph, call):
    rank = len(call.outputs[0].shape)
    followed = [tensor.channels.axis for tensor in call.inputs if tensor.channels.axis is not None]
    if not followed:
      return [opaque(call.inputs[0].channels.reason)]
    terms = [graph.read(call, index, followed[0]) for index in range(len(call.inputs))]
    if any(term.axis is None for term in terms):
      for term in terms:
        graph.block(term.ids, call.name)
      return [opaque(call.name)]
    if call.operation.axis % rank == followed[0]:
      joined = [np.concatenate([getattr(term, name) for term in terms]) for name in ("ids", "constant", "border")]
      return [Channels(followed[0], *joined)]
    for term in terms[1:]:
      graph.unite(terms[0].ids, term.ids)
    constants = np.stack([term.constant for term in terms])
    constant = np.where((constants == constants[0]).all(axis=0), constants[0], np.nan)
    border = np.where(np.isnan(constant), 0, np.maximum.reduce([term.border for term in terms]))
    return [Channels(followed[0], terms[0].ids, constant, border)]

  def backward(self, graph, call):
    used, widths = call.outputs[0].channels.used, [len(channels.ids) for channels in call.reads]
    if len(used) == sum(widths):
      return np.split(used, np.cumsum(widths)[:-1])
    return [used] * len(widths)

  def scaled(self, call, factors):
    joined = np.concatenate(factors)
    return joined if len(joined) == len(call.outputs[0].channels.ids) else super().scaled(call, factors)


class Reduction(Rule):
  """A mean, maximum or minimum over other axes than that of the channels."""

  def applies(self, call):
    return getattr(call.operation, "initial", None) is None

  def forward(self, graph, call):
    channels, rank = call.inputs[0].channels, len(call.inputs[0].shape)
    axis = call.operation.axis
    axes = range(rank) if axis is None else [a % rank for a in np.atleast_1d(axis).tolist()]
    if channels.axis is None or channels.axis in axes or 0 in axes:
      graph.block(channels.ids, call.name)
      return [opaque(channels.reason or call.name)]
    gone = 0 if call.operation.keepdims else sum(a < channels.axis for a in axes)
    return [Channels(channels.axis - gone, channels.ids, channels.constant, channels.border, reason=channels.reason)]


def _axis_of(places, channels):
  """The axis along which the channel changes, the last of several; else the last axis."""
  table = np.stack([channels.ids, np.nan_to_num(channels.constant, nan=np.inf), channels.border], axis=1)
  _, kinds = np.unique(table, axis=0, return_inverse=True)
  kinds = kinds.reshape(-1)[places]
  found = {}
  for axis in range(1, kinds.ndim):
    columns = np.moveaxis(kinds, axis, -1).reshape(-1, kinds.shape[axis])
    if (columns == columns[0]).all():
      found[axis] = len(np.unique(columns[0]))
  return max(found, key=lambda axis: (found[axis], axis)) if found else kinds.ndim - 1


for _name in ("Flatten", "Reshape", "Permute", "RepeatVector"):
  register(getattr(layers, _name), Rearrangement())
for _function, _args in (
  (ops.reshape, ((-1, 2, 4),)),
  (ops.transpose, ((0, 2, 1, 3),)),
  (ops.moveaxis, (1, 2)),
  (ops.swapaxes, (1, 2)),
  (ops.expand_dims, (1,)),
):
  register(operation_class(_function, *_args), Rearrangement())
register(operation_class(ops.squeeze, 1, tensor=keras.KerasTensor((None, 1, 2))), Rearrangement())
for _function in (ops.mean, ops.max, ops.min):
  register(operation_class(_function, 1), Reduction())
register(layers.Concatenate, Concatenation())
register(operation_class(ops.concatenate, tensor=[keras.KerasTensor((None, 2))] * 2), Concatenation())
