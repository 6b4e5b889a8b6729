"""Rules of what cuts tensors: slices and splits. Along the channel axis the bounds move with the channels that go."""

import keras
import numpy as np
from keras import ops

from cifar10.pruning.calls import operation_class
from cifar10.pruning.rules.arrangement import Rearrangement
from cifar10.pruning.rules.base import Squeezed, register


class Split(Rearrangement):
  """`ops.split`, into parts of one size or at some positions."""

  many_outputs = True

  def squeezed(self, graph, call, keep_in, keep_out):
    channels = call.reads[0]
    if call.outputs[0].channels.axis is None or call.operation.axis % len(call.inputs[0].shape) != channels.axis:
      return Squeezed()
    bounds = call.operation.indices_or_sections
    if isinstance(bounds, int):
      bounds = range(0, len(channels.ids), len(channels.ids) // bounds)[1:]
    if not bounds:
      return Squeezed()
    return Squeezed({"indices_or_sections": tuple(kept_before(keep_in[0], bound) for bound in bounds)})

  def scaled(self, call, factors):
    return None


class GetItem(Rearrangement):
  """`x[key]`: of whole numbers, slices, None and an ellipsis."""

  def applies(self, call):
    if len(call.args) != 2 or not isinstance(call.args[1], int | list | tuple):
      return False
    return all(
      each is None or each is Ellipsis or isinstance(each, int) or (isinstance(each, slice) and _is_of_numbers(each))
      for each in self._key(call)
    )

  def _places(self, call, channels):
    part = self._key(call)[index] if (index := self._index(call, channels.axis)) is not None else slice(None)
    cuttable = isinstance(part, int) or part.step in (None, 1) or part == slice(None, None, -1)
    return super()._places(call, channels) if cuttable else None

  def squeezed(self, graph, call, keep_in, keep_out):
    followed = call.outputs[0].channels.axis is not None
    index = self._index(call, call.reads[0].axis) if followed else None
    if index is None:
      return Squeezed()
    key, keep = list(self._key(call)), keep_in[0]
    if isinstance(key[index], int):
      key[index] = kept_before(keep, key[index] % len(keep))
    elif key[index].step != -1:
      start, stop, _ = key[index].indices(len(keep))
      key[index] = slice(kept_before(keep, start), kept_before(keep, stop))
    return Squeezed(args={1: tuple(key)})

  def _key(self, call):
    key = call.args[1]
    return tuple(key) if isinstance(key, list | tuple) else (key,)

  def _index(self, call, axis):
    """Which part of the key cuts an axis; None if none does."""
    key, at = self._key(call), 0
    given = sum(each is not None and each is not Ellipsis for each in key)
    for index, each in enumerate(key):
      if each is Ellipsis:
        at += len(call.inputs[0].shape) - given
      elif each is not None:
        if at == axis:
          return index
        at += 1
    return None


class Slice(Rearrangement):
  """`ops.slice`, of some size from some place on; it takes a batch of fixed size."""

  def applies(self, call):
    starts = call.args[1] if len(call.args) == 2 else None
    return isinstance(starts, list | tuple) and all(isinstance(each, int) for each in starts)

  def _batch(self, call):
    return call.inputs[0].shape[0] or 1

  def squeezed(self, graph, call, keep_in, keep_out):
    axis = call.reads[0].axis
    if call.outputs[0].channels.axis is None:
      return Squeezed()
    starts, shape, keep = list(call.args[1]), list(call.operation.shape), keep_in[0]
    stop = starts[axis] + shape[axis] if shape[axis] >= 0 else len(keep)
    starts[axis] = kept_before(keep, starts[axis])
    shape[axis] = kept_before(keep, stop) - starts[axis]
    return Squeezed({"shape": tuple(shape)}, args={1: tuple(starts)})


def kept_before(keep: np.ndarray, position: int) -> int:
  """How many of the positions before one stay; a negative one counts from the end."""
  return int(keep[:position].sum())


def _is_of_numbers(cut):
  return all(bound is None or isinstance(bound, int) for bound in (cut.start, cut.stop, cut.step))


register(operation_class(lambda x: x[:, 0]), GetItem())
register(operation_class(ops.slice, (0, 0), (2, 1), tensor=keras.KerasTensor((2, 2))), Slice())
register(operation_class(ops.split, 2, 1), Split())
