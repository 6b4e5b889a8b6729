"""Removes dead channels from a Keras model: fold constants, drop channels, rebuild.

A channel is dead where nothing uses it, or where it is a constant and the layers that read it can do without: the
constant times its weights is added to their bias, or taken off the moving mean of the batch norm behind them
(section 4.3 of the paper).
"""

import collections
import dataclasses
import logging
import math
import numbers

import keras
import numpy as np

from cifar10.pruning.calls import Call, is_model, layers_in
from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.rebuilding import rebuilt
from cifar10.pruning.rules import BatchNorm
from cifar10.pruning.verification import Comparison, compare, multiply_adds, random_inputs

LARGEST_RATIO = 16  # Of a constant to that of its carrier, by which kernels are multiplied.


@dataclasses.dataclass
class LayerReport:
  """The output channels of one layer.

  Attributes:
    channels: how many there were.
    removed: how many went.
    kept_though_dead: dict from reason to how many dead channels stay for it: "carrier" (stands for others
      whose constants cannot pass a padded border), "padding" (has such a constant itself, where nothing can
      stand for it), "width" (a layer keeps `multiple_of` or `min_channels` channels, or one), "keep", "shared"
      (other tensors or readers need it), "output", "input", or the name of a layer through which it cannot be
      followed: a wall, or one that reads another axis or mixes channels without a kernel.
  """

  channels: int
  removed: int
  kept_though_dead: dict

  def is_lost(self):
    """Whether all channels are dead, and some stay only because a layer cannot be without."""
    own = sum(self.kept_though_dead.get(reason, 0) for reason in ("carrier", "width"))
    return own == self.channels - self.removed


@dataclasses.dataclass
class SqueezeReport:
  """What `squeeze` did, or would do; `dataclasses.asdict` makes it ready for JSON.

  Attributes:
    parameters_before, parameters_after: numbers of weights, those of moving statistics included.
    multiply_adds_before, multiply_adds_after: as `multiply_adds` counts them.
    layers: dict from the name of each convolution and dense layer to its `LayerReport`, but for depthwise
      convolutions, whose channels are those of the layer before; a layer inside a nested model goes by "model/layer".
    gates: the same for batch norms.
    walls: names of the layers that the channel graph has no rule for; what reaches them stays.
    comparison: the `Comparison` of the model and the squeezed one, if a threshold above 0 changed the function.
  """

  parameters_before: int
  parameters_after: int
  multiply_adds_before: int | None
  multiply_adds_after: int | None
  layers: dict
  gates: dict
  walls: list
  comparison: Comparison | None = None


def squeeze(model, exact=True, multiple_of=1, min_channels=1, threshold=0.0, keep=(), inputs=None):
  """Returns a smaller model without the dead channels, and a report.

  Gates are batch-norm gammas at 0. Dead are the channels that they shut, those whose kernels are all 0, and those
  that nothing uses.

  Args:
    model: a functional or Sequential Keras model; it is left alone.
    exact: at the border of a zero-padded convolution a constant other than 0 is no constant any more. With
      `exact` the function of the model in inference is kept all the same: one dead channel, the carrier,
      stays for all those of its layer whose constants are not 0. Without it such channels go too, as in
      the paper, and the outputs are a little off near image borders.
    multiple_of: dead channels stay so that the width of each layer is a multiple of this, where it can be.
    min_channels: dead channels stay so that each layer has this many, where it had them.
    threshold: a gamma of no more than this in absolute value counts as 0, and becomes 0. Above 0 that changes the
      function: by how much is measured, in the report and the log.
    keep: names of layers whose output channels all stay. A batch norm named here is no gate, whatever the threshold.
    inputs: what to measure the change on where `threshold` is above 0, inputs for one call of `model`; by default 8
      examples of noise.

  Returns:
    (smaller, report): a functional model, or a Sequential one where `model` is, of the same layers with the same
    names, not compiled, and a `SqueezeReport`. A layer whose channels are all dead keeps one of them; the log has a
    warning.

  Raises:
    ValueError: `model` is not functional, an argument is out of its range, `keep` names no layer, or a layer of the
      caller's own cannot be made from its config.
  """
  graph, decisions = _decide(model, exact, multiple_of, min_channels, threshold, keep)
  pieces = _pieces(graph, decisions)
  report = _report(graph, model, decisions, pieces)
  smaller = rebuilt(model, graph, decisions.kept, pieces)
  for name, layer in report.layers.items():
    if layer.is_lost():
      logging.warning("all channels of layer %s are dead; it keeps %d", name, layer.channels - layer.removed)
  if threshold > 0:
    report.comparison = compare(model, smaller, random_inputs(model) if inputs is None else inputs)
    logging.warning(
      "gammas up to %g were set to 0: outputs changed by %.2g of their norm",
      threshold, report.comparison.relative_difference,
    )  # fmt: skip
  return smaller, report


def plan(model, exact=True, multiple_of=1, min_channels=1, threshold=0.0, keep=()):
  """Returns the `SqueezeReport` that `squeeze` would give, without building the smaller model, nor a comparison.

  Args:
    model: as for `squeeze`.
    exact: as for `squeeze`.
    multiple_of: as for `squeeze`.
    min_channels: as for `squeeze`.
    threshold: as for `squeeze`.
    keep: as for `squeeze`.

  Raises:
    ValueError: as `squeeze`.
  """
  graph, decisions = _decide(model, exact, multiple_of, min_channels, threshold, keep)
  return _report(graph, model, decisions, _pieces(graph, decisions))


@dataclasses.dataclass
class _Reading:
  """How a convolution or dense layer reads its input, over all its calls.

  Attributes:
    call: its first call.
    shared: whether there are more.
    pads: whether constants other than 0 do not hold where it reads them.
    constant: float64 (inputs,): what each input is in all the calls that use it; NaN if that is no one value.
    border: int8 (inputs,): as in `Channels`, the worst of the calls that use it.
    used: bool (inputs,): whether any call uses the input.
  """

  call: Call
  shared: bool
  pads: bool
  constant: np.ndarray
  border: np.ndarray
  used: np.ndarray

  @property
  def ids(self):
    return self.call.reads[0].ids


@dataclasses.dataclass
class _Decisions:
  """What to do with channels, by id.

  Attributes:
    readings: list of `_Reading`.
    removed: bool array over ids: those that go.
    reasons: dict from a dead id that stays to the reason.
    padded: dict from id to {index of a reading that pads: constant other than 0 that it uses}.
    carrier: dict from a removed id to the id that stands for its constant where it is read with padding.
  """

  readings: list
  removed: np.ndarray
  reasons: dict
  padded: dict
  carrier: dict = dataclasses.field(default_factory=dict)

  def keep(self, channel, reason):
    self.removed[channel] = False
    self.carrier.pop(channel, None)
    self.reasons[channel] = reason

  def kept(self, channels):
    """Which positions stay: bool array."""
    return ~self.removed[channels.ids]


def _decide(model, exact, multiple_of, min_channels, threshold, keep):
  for name, value in {"multiple_of": multiple_of, "min_channels": min_channels}.items():
    if not isinstance(value, numbers.Integral) or value < 1:
      raise ValueError(f"{name} is {value}; it is a whole number of 1 or more")
  if not isinstance(threshold, numbers.Real) or not 0 <= threshold < math.inf:
    raise ValueError(f"threshold is {threshold}; it is a finite number of 0 or more")
  graph = ChannelGraph(model, threshold, keep)
  _refuse_sharing_with_walls(graph)
  decisions = _removable(graph, exact)
  lost = _lost_channels(graph, decisions)
  patterned = {
    channel
    for index, reading in enumerate(decisions.readings)
    for channel, reads in decisions.padded.items()
    if not reading.call.rule.folds and index in reads
  }
  for siblings in _siblings(graph, decisions):
    waiting = siblings if exact or lost.issuperset(siblings) else patterned.intersection(siblings)
    _choose_carriers(decisions, [channel for channel in waiting if channel in decisions.padded])
  _fill_widths(graph, decisions, multiple_of, min_channels)
  return graph, decisions


def _refuse_sharing_with_walls(graph):
  """A wall is copied with the layers in it, so none of these may stand elsewhere too."""
  owners = {}
  for calls in graph.calls_by_operation():
    operation = calls[0].operation
    for layer in [] if is_model(operation) else layers_in(operation):
      other = owners.setdefault(id(layer), calls[0].name)
      if other != calls[0].name:
        raise ValueError(f"layers {other} and {calls[0].name} share {layer.name}, which squeeze cannot keep so")


def _removable(graph, exact):
  """Decides by how channels are read which can go, before carriers and widths."""
  readings = [
    _reading(graph, calls)
    for calls in graph.calls_by_operation()
    if calls[0].rule.mixes and not calls[0].rule.tied
  ]  # fmt: skip
  reasons, padded = dict(graph.blocked), collections.defaultdict(dict)

  def stay(reading, which, reason):
    for channel in reading.ids[which].tolist():
      reasons.setdefault(channel, reason)

  for reading in readings:
    stay(reading, reading.used & np.isnan(reading.constant), "shared")
  for index, reading in enumerate(readings):
    rule = reading.call.rule
    nonzero = reading.used & (reading.constant != 0) & ~np.isnan(reading.constant)
    stay(reading, reading.used & (reading.border > (0 if exact else 1)), "padding")
    if reading.pads and rule.carries:
      for position in np.flatnonzero(nonzero):
        padded[int(reading.ids[position])][index] = reading.constant[position]
    elif reading.pads and exact:
      stay(reading, nonzero, "padding")
  removed = np.zeros(graph.channel_count, bool)
  for channels in graph.tensors():
    removed[channels.ids] = True
  removed[list(reasons)] = False
  return _Decisions(readings, removed, reasons, padded)


def _reading(graph, calls):
  call = calls[0]
  count = len(call.reads[0].ids)
  reading = _Reading(
    call,
    shared=len(calls) > 1,
    pads=any(each.rule.pads(each) for each in calls),
    constant=np.full(count, np.nan),
    border=np.zeros(count, np.int8),
    used=np.zeros(count, bool),
  )
  for call in calls:
    inputs, used = call.reads[0], call.rule.backward(graph, call)[0]
    differs = reading.used & used & (reading.constant != inputs.constant)
    reading.constant[used & ~reading.used] = inputs.constant[used & ~reading.used]
    reading.constant[differs] = np.nan
    reading.border = np.maximum(reading.border, used * inputs.border)
    reading.used |= used
  return reading


def _lost_channels(graph, decisions):
  """The channels of those tensors of which nothing would stay."""
  lost = set()
  for channels in graph.tensors():
    if not decisions.kept(channels).any():
      lost.update(channels.ids.tolist())
  return lost


def _siblings(graph, decisions):
  """Groups the channels that go by the tensors in which they stand."""
  tensors = collections.defaultdict(list)
  for index, channels in enumerate(graph.tensors()):
    for channel in channels.ids[decisions.removed[channels.ids]].tolist():
      tensors[channel].append(index)
  groups = collections.defaultdict(list)
  for channel, indices in tensors.items():
    groups[tuple(indices)].append(channel)
  return groups.values()


def _choose_carriers(decisions, siblings):
  """Keeps some to stand for the others, first those that most layers read, with the largest constant."""
  padded = decisions.padded
  waiting = sorted(siblings, key=lambda c: (-len(padded[c]), -max(map(abs, padded[c].values()))))
  while waiting:
    carrier, *waiting = waiting
    decisions.keep(carrier, "carrier")
    decisions.carrier |= {c: carrier for c in waiting if _can_carry(padded[carrier], padded[c])}
    waiting = [channel for channel in waiting if channel not in decisions.carrier]


def _can_carry(carrier, constants):
  """Whether a carrier stands for constants at all that read them, without kernels that grow out of proportion."""
  return all(abs(constant) <= LARGEST_RATIO * abs(carrier.get(index, 0)) for index, constant in constants.items())


def _fill_widths(graph, decisions, multiple_of, min_channels):
  for call in graph.mixing_calls():
    channels = call.outputs[0].channels
    width = max(int(decisions.kept(channels).sum()), min_channels)
    _fill(decisions, channels, math.ceil(width / multiple_of) * multiple_of)
  for channels in graph.tensors():
    _fill(decisions, channels, 1)


def _fill(decisions, channels, width):
  """Keeps dead channels until `width` positions stay."""
  for channel in channels.ids.tolist():
    if decisions.kept(channels).sum() >= width:
      return
    if decisions.removed[channel]:
      decisions.keep(channel, "width")


def _pieces(graph, decisions):
  """What becomes of each layer and operation: dict from its id() to `Squeezed`."""
  pieces = {}
  for call, *_ in graph.calls_by_operation():
    keep_in = [decisions.kept(channels) for channels in call.reads]
    keep_out = decisions.kept(call.outputs[0].channels)
    pieces[id(call.operation)] = call.rule.squeezed(graph, call, keep_in, keep_out)
  for reading in decisions.readings:
    _fold(graph, decisions, pieces, reading)
  return pieces


def _fold(graph, decisions, pieces, reading):
  """Puts what removed constants contribute to a convolution or dense layer where it stays."""
  call, rule, layer = reading.call, reading.call.rule, reading.call.operation
  keep_in, keep_out = decisions.kept(call.reads[0]), decisions.kept(call.outputs[0].channels)
  gone = np.flatnonzero(~keep_in & reading.used & (reading.constant != 0))
  carried = [p for p in gone.tolist() if reading.pads and reading.ids[p] in decisions.carrier]
  if carried:
    kernel = rule.kernel(layer).astype(np.float64)
    for position in carried:
      carrier = decisions.carrier[reading.ids[position]]
      stand_in = np.argmax((reading.ids == carrier) * abs(np.nan_to_num(reading.constant)))
      kernel[:, stand_in] += reading.constant[position] / reading.constant[stand_in] * kernel[:, position]
    pieces[id(layer)].weights |= rule.sliced(layer, kernel, keep_in, keep_out)
  shift = rule.shift(layer, np.setdiff1d(gone, carried), reading.constant)[keep_out]
  if shift.any():
    _shift_outputs(graph, pieces, reading, shift)


def _shift_outputs(graph, pieces, reading, shift):
  call, layer = reading.call, reading.call.operation
  piece, output = pieces[id(layer)], call.outputs[0]
  reader = output.readers[0] if len(output.readers) == 1 and not output.is_output else None
  into_batch_norm = (
    reader is not None
    and isinstance(reader.rule, BatchNorm)
    and reader.reads[0] is output.channels
    and layer.activation is keras.activations.linear
    and not reading.shared
    and sum(other.operation is reader.operation for other in graph.calls) == 1
  )
  if layer.use_bias:
    piece.weights["bias"] = piece.weights["bias"] + shift
  elif into_batch_norm:
    weights = pieces[id(reader.operation)].weights
    weights["moving_mean"] = weights["moving_mean"] - shift
  else:
    piece.config["use_bias"] = True
    piece.weights["bias"] = shift


def _report(graph, model, decisions, pieces):
  layers = {calls[0].operation: calls for calls in graph.calls_by_operation()}
  grown = sum(
    np.size(array) - math.prod(getattr(getattr(layer, name), "shape", (0,)))
    for layer in layers
    for name, array in pieces[id(layer)].weights.items()
  )
  return SqueezeReport(
    parameters_before=model.count_params(),
    parameters_after=model.count_params() + grown,
    multiply_adds_before=multiply_adds(graph),
    multiply_adds_after=multiply_adds(graph, {key: piece.weights for key, piece in pieces.items()}),
    layers={calls[0].name: _layer_report(decisions, calls) for calls in layers.values() if calls[0].rule.mixes},
    gates={
      calls[0].name: _layer_report(decisions, calls)
      for calls in layers.values()
      if isinstance(calls[0].rule, BatchNorm)
    },
    walls=graph.walls,
  )


def _layer_report(decisions, calls):
  outputs = [call.outputs[0].channels for call in calls]
  kept = decisions.kept(outputs[0])
  dead = np.logical_and.reduce([~channels.used | ~np.isnan(channels.constant) for channels in outputs])
  reasons = collections.Counter(
    decisions.reasons.get(channel, "shared") for channel in outputs[0].ids[kept & dead].tolist()
  )
  return LayerReport(channels=len(kept), removed=int((~kept).sum()), kept_though_dead=dict(reasons))
