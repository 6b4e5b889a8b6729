"""Rules of the layers and operations that work over space, channel by channel: pooling, cropping, resizing, padding."""

import itertools

import numpy as np
from keras import layers, ops

from cifar10.pruning.calls import operation_class
from cifar10.pruning.rules.base import Channels, Rule, Squeezed, border_behind_zeros, opaque, register


class Spatial(Rule):
  """Average pooling, cropping and upsampling: linear over space, and a constant comes out as it went in."""

  def read(self, graph, call):
    return graph.read(call, 0, call.channel_axis)

  def pattern(self, graph, call, channels):
    return np.array([number and graph.pattern(number, id(call)) for number in channels.pattern.tolist()], int)


class Maximum(Spatial):
  """Max pooling: of a pattern of zeros it makes one thing where the constant is above 0, another below."""

  def pattern(self, graph, call, channels):
    pairs = zip(channels.pattern.tolist(), channels.constant.tolist())
    return np.array([number and graph.pattern(number, id(call), constant > 0) for number, constant in pairs], int)


class Resizing(Spatial):
  """Resizing, which may pad with a value that is usually 0; Keras calls it in training unless told otherwise."""

  trains = False

  def applies(self, call):
    return call.operation.fill_value == 0 or not call.operation.pad_to_aspect_ratio

  def constant(self, graph, call, channels):
    return channels.constant, border_behind_zeros(channels, call.operation.pad_to_aspect_ratio)

  def pattern(self, graph, call, channels):
    return None


class ZeroPadding(Spatial):
  """Zeros around an image: a constant other than 0 does not hold at the border.

  All of them are spoiled alike, as those that a convolution pads itself: one can take over what others add.
  """

  def constant(self, graph, call, channels):
    return channels.constant, border_behind_zeros(channels)

  def pattern(self, graph, call, channels):
    return pattern_behind_zeros(graph, call, channels)


class Padding(Rule):
  """`ops.pad`: a number around the values, or what is there repeated; along the channel axis new channels."""

  owns_channels = True

  def applies(self, call):
    known = call.operation.mode in ("constant", "reflect", "symmetric")
    return known and np.ndim(self._value(call)) == 0 and self._widths(call)[0] == (0, 0)

  def forward(self, graph, call):
    channels, widths = call.inputs[0].channels, self._widths(call)
    if channels.axis is None:
      return [channels]
    before, after = widths.pop(channels.axis)
    fixed, value = call.operation.mode == "constant", self._value(call)
    if (before or after) and not fixed:
      graph.block(channels.ids, call.name)
      return [opaque(call.name)]
    around = fixed and any(map(any, widths))
    border = border_behind_zeros(channels, around, value=value)
    pattern = channels.pattern if not any(map(any, widths)) else np.zeros(len(border), int)
    if around and value == 0:
      pattern = pattern_behind_zeros(graph, call, channels)
    return [
      Channels(
        channels.axis,
        np.concatenate([graph.new_ids(before), channels.ids, graph.new_ids(after)]),
        np.pad(channels.constant, (before, after), constant_values=value),
        np.pad(border, (before, after)),
        reason=channels.reason,
        pattern=np.pad(pattern, (before, after)),
      )
    ]

  def backward(self, graph, call):
    before, after = self._widths(call)[call.reads[0].axis]
    used = call.outputs[0].channels.used
    return [used[before : len(used) - after]]

  def squeezed(self, graph, call, keep_in, keep_out):
    axis, widths = call.reads[0].axis, self._widths(call)
    if axis is None or widths[axis] == (0, 0):
      return Squeezed()
    before, after = widths[axis]
    widths[axis] = int(keep_out[:before].sum()), int(keep_out[len(keep_out) - after :].sum())
    return Squeezed({"pad_width": tuple(widths)})

  def scaled(self, call, factors):
    grows = any(self._widths(call)[call.reads[0].axis])
    return None if grows or self._value(call) != 0 else super().scaled(call, factors)

  def _widths(self, call):
    widths = [tuple(pair) for pair in call.operation.pad_width]
    return widths * len(call.inputs[0].shape) if len(widths) == 1 else widths

  def _value(self, call):
    given = call.args[1] if len(call.args) > 1 else call.kwargs.get("constant_values")
    return 0 if given is None else given


def pattern_behind_zeros(graph, call, channels):
  """The patterns of `Channels` after zeros were put around the image."""
  followed = (channels.border == 0) | (channels.pattern > 0)
  nonzero = followed & (channels.constant != 0) & ~np.isnan(channels.constant)
  pairs = zip(nonzero.tolist(), channels.pattern.tolist())
  return np.array([graph.pattern(number, id(call)) if spoiled else 0 for spoiled, number in pairs], int)


DIMENSIONS = ("1D", "2D", "3D")
KINDS = {
  Spatial(): ("AveragePooling", "GlobalAveragePooling", "AdaptiveAveragePooling", "Cropping", "UpSampling"),
  Maximum(): ("MaxPooling", "GlobalMaxPooling", "AdaptiveMaxPooling"),
  ZeroPadding(): ("ZeroPadding",),
}

for _rule, _kinds in KINDS.items():
  for _kind, _dimension in itertools.product(_kinds, DIMENSIONS):
    register(getattr(layers, _kind + _dimension), _rule)
register(layers.Resizing, Resizing())
register(operation_class(ops.image.resize, (2, 2)), Resizing())
register(operation_class(ops.pad, 1), Padding())
