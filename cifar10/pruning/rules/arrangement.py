"""Rules of the layers and operations that put values in other places, or join tensors."""

import math

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
    axes = [_axis_of(each, channels) for each in places or []]
    if places is None or any(tensor.shape[axis] is None for tensor, axis in zip(call.outputs, axes)):
      graph.block(channels.ids, call.name)
      return [opaque(channels.reason or call.name) for _ in call.outputs]
    return [self._arranged(graph, channels, *each) for each in zip(places, axes)]

  def _arranged(self, graph, channels, places, axis):
    """The `Channels` of one output."""
    columns = np.moveaxis(places, axis, -1).reshape(-1, places.shape[axis])
    columns = columns[:1] if (columns == columns[0]).all() else np.unique(columns, axis=0)
    for column in columns[1:]:
      graph.unite(channels.ids[column], channels.ids[columns[0]])
    constants = channels.constant[columns]
    constant = np.where((constants == constants[0]).all(axis=0), constants[0], np.nan)
    border = np.where(np.isnan(constant), 0, channels.border[columns].max(axis=0))
    return Channels(axis, channels.ids[columns[0]], constant, border, reason=channels.reason)

  def backward(self, graph, call):
    channels = call.reads[0]
    used = np.zeros(len(channels.ids), bool)
    for tensor, places in zip(call.outputs, self._places(call, channels)):
      used[np.moveaxis(places, tensor.channels.axis, -1)[..., tensor.channels.used]] = True
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
    """Which position of the input each value of the outputs comes from: arrays like the outputs with a batch of 1.

    None if that depends on sizes that are not fixed, or the batch does not stay what it is.
    """
    batch = self._batch(call)
    shape = [batch, *(6 if size is None else size for size in call.inputs[0].shape[1:])]
    along = [1] * len(shape)
    along[channels.axis] = -1
    positions = np.broadcast_to(np.arange(len(channels.ids), dtype=np.int32).reshape(along), shape)
    args, kwargs = keras.tree.map_structure(
      lambda value: ops.convert_to_tensor(positions) if isinstance(value, Tensor) else value, (call.args, call.kwargs)
    )
    try:
      places = list(map(ops.convert_to_numpy, keras.tree.flatten(call.operation(*args, **kwargs))))
    except Exception:  # Whatever a backend raises for a shape that does not fit.
      return None
    pairs = zip(call.outputs, places, strict=True)
    fits = all(len(each) == batch and _fits(tensor.shape, each, call.inputs[0].shape[0]) for tensor, each in pairs)
    return [each[:1] for each in places] if fits else None

  def _batch(self, call):
    return 1


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
    if call.operation.axis % rank == followed[0] and all(term.axis is not None for term in terms):
      ids, constant, border, pattern = (
        np.concatenate([getattr(term, name) for term in terms]) for name in ("ids", "constant", "border", "pattern")
      )
      return [Channels(followed[0], ids, constant, border, pattern=pattern)]
    return [_shared(graph, call, terms, followed[0])]

  def backward(self, graph, call):
    used, widths = call.outputs[0].channels.used, [len(channels.ids) for channels in call.reads]
    if len(used) == sum(widths):
      return np.split(used, np.cumsum(widths)[:-1])
    return [used] * len(widths)

  def scaled(self, call, factors):
    joined = np.concatenate(factors)
    return joined if len(joined) == len(call.outputs[0].channels.ids) else super().scaled(call, factors)


class Stack(Rule):
  """Tensors side by side along a new axis: they share their channels."""

  def forward(self, graph, call):
    followed = [tensor.channels.axis for tensor in call.inputs if tensor.channels.axis is not None]
    if not followed:
      return [opaque(call.inputs[0].channels.reason)]
    terms = [graph.read(call, index, followed[0]) for index in range(len(call.inputs))]
    new_axis = call.operation.axis % len(call.outputs[0].shape)
    return [_shared(graph, call, terms, followed[0] + (new_axis <= followed[0]))]


class Repeat(Rearrangement):
  """`ops.repeat`, each value as often as the others."""

  def applies(self, call):
    return np.size(call.operation.repeats) == 1


class Reduction(Rule):
  """A mean, maximum or minimum over other axes than that of the channels."""

  def applies(self, call):
    return getattr(call.operation, "initial", None) is None

  def forward(self, graph, call):
    channels, axes = call.inputs[0].channels, self._axes(call)
    if channels.axis is None or channels.axis in axes or 0 in axes:
      graph.block(channels.ids, call.name)
      return [opaque(channels.reason or call.name)]
    gone = 0 if call.operation.keepdims else sum(a < channels.axis for a in axes)
    return [Channels(channels.axis - gone, channels.ids, *self.constant(graph, call, channels), reason=channels.reason)]

  def _axes(self, call):
    rank, axis = len(call.inputs[0].shape), call.operation.axis
    return range(rank) if axis is None else [a % rank for a in np.atleast_1d(axis).tolist()]


class Total(Reduction):
  """A sum over other axes than that of the channels."""

  def constant(self, graph, call, channels):
    sizes = [call.inputs[0].shape[axis] for axis in self._axes(call)]
    if None in sizes:
      return np.where(channels.constant == 0, 0, np.nan), np.where(channels.constant == 0, channels.border, 0)
    return channels.constant * math.prod(sizes), channels.border


def _shared(graph, call, terms, axis):
  """The `Channels` of a tensor that has those of several ones at different places; opaque if one of them is."""
  if any(term.axis is None for term in terms):
    for term in terms:
      graph.block(term.ids, call.name)
    return opaque(call.name)
  for term in terms[1:]:
    graph.unite(terms[0].ids, term.ids)
  constants = np.stack([term.constant for term in terms])
  constant = np.where((constants == constants[0]).all(axis=0), constants[0], np.nan)
  border = np.where(np.isnan(constant), 0, np.maximum.reduce([term.border for term in terms]))
  return Channels(axis, terms[0].ids, constant, border)


def _fits(shape, places, batch):
  """Whether an array is like a tensor of some shape, of which the batch is that, and all examples are alike."""
  fits = len(places.shape) == len(shape) > 1 and shape[0] == batch and (places == places[:1]).all()
  # A size that is not fixed and happens to be 1 says nothing of other sizes.
  return fits and all(found > 1 if size is None else size == found for size, found in zip(shape[1:], places.shape[1:]))


def _axis_of(places, channels):
  """The axis along which the channel changes, of several the one that it was or the last; else the last axis."""
  table = np.stack([channels.ids, np.nan_to_num(channels.constant, nan=np.inf), channels.border], axis=1)
  _, kinds = np.unique(table, axis=0, return_inverse=True)
  kinds = kinds.reshape(-1)[places]
  found = {}
  for axis in range(1, kinds.ndim):
    columns = np.moveaxis(kinds, axis, -1).reshape(-1, kinds.shape[axis])
    if (columns == columns[0]).all():
      found[axis] = len(np.unique(columns[0]))
  return max(found, key=lambda axis: (found[axis], axis == channels.axis, axis)) if found else kinds.ndim - 1


for _name in ("Flatten", "Reshape", "Permute", "RepeatVector"):
  register(getattr(layers, _name), Rearrangement())
for _function, _args in (
  (ops.reshape, ((-1, 2, 4),)),
  (ops.transpose, ((0, 2, 1, 3),)),
  (ops.moveaxis, (1, 2)),
  (ops.swapaxes, (1, 2)),
  (ops.expand_dims, (1,)),
  (ops.flip, (1,)),
  (ops.tile, (2,)),
  (ops.space_to_depth, (2,)),
):
  register(operation_class(_function, *_args), Rearrangement())
register(operation_class(ops.squeeze, 1, tensor=keras.KerasTensor((None, 1, 2))), Rearrangement())
register(operation_class(ops.depth_to_space, 2, tensor=keras.KerasTensor((None, 2, 2, 4))), Rearrangement())
register(operation_class(ops.repeat, 2, 1), Repeat())
register(operation_class(ops.sum, 1), Total())
for _function in (ops.mean, ops.max, ops.min):
  register(operation_class(_function, 1), Reduction())
register(layers.Concatenate, Concatenation())
register(operation_class(ops.stack, tensor=[keras.KerasTensor((None, 2))] * 2), Stack())
register(operation_class(ops.concatenate, tensor=[keras.KerasTensor((None, 2))] * 2), Concatenation())
