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
from collections.abc import Collection

import keras
import numpy as np

from cifar10.pruning.calls import Call
from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.checking import first_difference, self_check
from cifar10.pruning.costs import multiply_adds
from cifar10.pruning.inputs import Arrays, inputs_that_run
from cifar10.pruning.rebuilding import rebuilt, refuse_shared_variables
from cifar10.pruning.remarks import never_trained, out_of_sight, warn_of
from cifar10.pruning.reports import LayerReport, SqueezeReport
from cifar10.pruning.rules import BatchNorm
from cifar10.pruning.rules.base import Squeezed, to_float64

logger = logging.getLogger(__name__)

LARGEST_RATIO = 16  # Of a constant to that of its carrier, by which kernels are multiplied.


def squeeze(
  model: keras.Model,
  exact: bool = True,
  multiple_of: int = 1,
  min_channels: int = 1,
  threshold: float = 0.0,
  keep: Collection[str] = (),
  inputs: Arrays | None = None,
  verify: bool = True,
) -> tuple[keras.Model, SqueezeReport]:
  """Returns a smaller model without the dead channels, and a report.

  Gates are batch-norm gammas at 0. Dead are the channels that they shut, those whose kernels are all 0, and those
  that nothing uses.

  Args:
    model: a functional or Sequential Keras model, or a subclassed one that was called before; it is left alone.
    exact: at the border of a zero-padded convolution a constant other than 0 is no constant any more. With
      `exact` the function of the model in inference is kept all the same: one dead channel, the carrier,
      stays for all those of its layer whose constants are not 0. Without it such channels go too, as in
      the paper, and the outputs are a little off near image borders.
    multiple_of: dead channels stay so that the width of each layer is a multiple of this, where it can be.
    min_channels: dead channels stay so that each layer has this many, where it had them.
    threshold: a gamma of no more than this in absolute value counts as 0, and becomes 0. Above 0 that changes the
      function: by how much is measured, in the report and the log.
    keep: names of layers whose output channels all stay. A batch norm named here is no gate, whatever the threshold.
    inputs: inputs for one call of `model`, to check the result on, and where `threshold` is above 0 to measure the
      change on; by default noise in the shapes and ranges that the model says.
    verify: whether both models are called once, so that the report can say by how much they differ, and a fault of a
      layer's rule or config is found. What the model says of its inputs may not be enough to call it; then the report
      says that.

  Returns:
    (smaller, report): a functional model, or a Sequential one where `model` is, of the same layers with the same
    names, not compiled, and a `SqueezeReport`. A layer or model that could be opened is a functional model of the
    layers that it calls. A layer whose channels are all dead keeps one of them; the log has a warning.

  Raises:
    ValueError: `model` is not functional, an argument is out of its range, `keep` names no layer, or a layer of the
      caller's own cannot be made from its config. With `exact`, the models differ by more than rounding explains; the
      first layer that does is named. With `threshold` above 0, the change cannot be measured without `inputs`.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="a_bn")(x)))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> _ = model.get_layer("a_bn").gamma.assign([1, 0, 1, 0])
  >>> smaller, report = squeeze(model)
  >>> smaller.get_layer("a").filters
  2
  >>> report.layers["a"]
  LayerReport(channels=4, removed=2, kept_though_dead={})
  >>> report.parameters_before, report.parameters_after
  (134, 68)
  """
  graph, decisions = _decide(model, exact, multiple_of, min_channels, threshold, keep)
  pieces = pieces_of(graph, decisions)
  report = report_of(graph, decisions, pieces)
  warn_of(report.notes)
  made = rebuilt(graph.model, graph, decisions.kept, pieces)
  smaller = made.model
  report.remade, report.shared = made.remade, made.shared
  report.notes += made.notes
  for name, layer in report.layers.items():
    if layer.is_lost():
      logger.warning("all channels of layer %s are dead; it keeps %d", name, layer.channels - layer.removed)
  if verify:
    report.check = _checked(model, smaller, exact, inputs, report, graph, decisions, pieces)
  if threshold > 0:
    from cifar10.pruning.comparing import compare

    report.comparison = compare(model, smaller, inputs_that_run(model) if inputs is None else inputs)
    change = report.comparison.relative_difference
    logger.warning("gammas up to %g were set to 0: outputs changed by %.2g of their norm", threshold, change)
  return smaller, report


def plan(
  model: keras.Model,
  exact: bool = True,
  multiple_of: int = 1,
  min_channels: int = 1,
  threshold: float = 0.0,
  keep: Collection[str] = (),
) -> SqueezeReport:
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

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="a_bn")(x)))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> _ = model.get_layer("a_bn").gamma.assign([1, 0.01, 1, 0])
  >>> plan(model).layers["a"].removed, plan(model, threshold=0.1).layers["a"].removed
  (1, 2)
  """
  graph, decisions = _decide(model, exact, multiple_of, min_channels, threshold, keep)
  pieces = pieces_of(graph, decisions)
  refuse_shared_variables(graph, pieces)
  report = report_of(graph, decisions, pieces)
  warn_of(report.notes)
  return report


def _checked(model, smaller, exact, inputs, report, graph, decisions, pieces):
  """The `SelfCheck` of a squeezed model; raises ValueError if it is exact, and is not the same."""
  thresholded = {}  # Gammas that the threshold shuts, of which the function is to be that of the smaller model.
  for first, *_ in graph.calls_by_operation():
    if isinstance(first.rule, BatchNorm) and first.operation.scale:
      gamma = graph.gamma(first)
      if not np.array_equal(gamma, to_float64(first.operation.gamma)):
        thresholded[id(first.operation)] = Squeezed(weights={"gamma": gamma})
  if thresholded:
    model = rebuilt(graph.model, graph, lambda channels: np.ones(len(channels.ids), bool), thresholded).model
  functional = model if thresholded else graph.model
  check, failing = self_check(model, functional, smaller, inputs)
  if failing is None or not (exact or _is_exact(decisions)):
    return check
  name = first_difference(functional, smaller, failing, graph, decisions.kept, pieces)
  by = (
    "not finite where the model's are" if check.difference is None else f"off by {check.difference:.2g} of their norm"
  )
  where = "no layer is by itself" if name is None else f"layer {name} is the first that is"
  if name in report.remade:
    where += ", which was made anew from its config: that does not hold all that it is"
  raise ValueError(
    f"{model.name} squeezed does not compute the same: outputs are {by}, and {where}; mend its config or its rule, "
    "name it in keep, or pass verify=False to have the result all the same"
  )


@dataclasses.dataclass
class _Reading:
  """How a convolution or dense layer reads its input, over all its calls.

  Attributes:
    call: its first call.
    shared: whether there are more.
    folds: whether what constants other than 0 add can go into its bias.
    constant: float64 (inputs,): what each input is in all the calls that use it; NaN if that is no one value.
    border: int8 (inputs,): as in `Channels`, the worst of the calls that use it.
    used: bool (inputs,): whether any call uses the input.
  """

  call: Call
  shared: bool
  folds: bool
  constant: np.ndarray
  border: np.ndarray
  used: np.ndarray

  @property
  def ids(self):
    return self.call.reads[0].ids


@dataclasses.dataclass
class Decisions:
  """What to do with channels, by id.

  Attributes:
    readings: list of `_Reading`.
    goes: bool array over ids: those that go.
    reasons: dict from a dead id that stays to the reason.
    unfolded: dict from id to {index of a reading that does not fold: constant other than 0 that it uses}.
    carrier: dict from an id that goes to the one that stands for its constant where it is not folded.
  """

  readings: list[_Reading]
  goes: np.ndarray
  reasons: dict[int, str]
  unfolded: dict[int, dict[int, float]]
  carrier: dict[int, int] = dataclasses.field(default_factory=dict)

  def keep(self, channel, reason):
    self.goes[channel] = False
    self.carrier.pop(channel, None)
    self.reasons[channel] = reason

  def kept(self, channels):
    """Which positions stay: bool array."""
    return ~self.goes[channels.ids]


def _decide(model, exact, multiple_of, min_channels, threshold, keep):
  for name, value in {"multiple_of": multiple_of, "min_channels": min_channels}.items():
    refuse_all_but_counts(name, value)
  if not isinstance(threshold, numbers.Real) or not 0 <= threshold < math.inf:
    raise ValueError(f"threshold is {threshold}; it is a finite number of 0 or more")
  graph = ChannelGraph(model, threshold, keep)
  return graph, decided(graph, exact, multiple_of, min_channels)


def refuse_all_but_counts(name: str, value: int) -> None:
  """Raises ValueError for an argument that is no whole number of 1 or more."""
  if not isinstance(value, numbers.Integral) or value < 1:
    raise ValueError(f"{name} is {value}; it is a whole number of 1 or more")


def decided(graph: ChannelGraph, exact: bool, multiple_of: int = 1, min_channels: int = 1) -> Decisions:
  """What goes of a graph's channels; the arguments are those of `squeeze`."""
  decisions = _removable(graph, exact)
  lost = _lost_channels(graph, decisions)
  patterned = {
    channel
    for index, reading in enumerate(decisions.readings)
    for channel, reads in decisions.unfolded.items()
    if not reading.call.rule.folds(reading.call.operation) and index in reads
  }
  for siblings in _siblings(graph, decisions):
    waiting = siblings if exact or lost.issuperset(siblings) else patterned.intersection(siblings)
    _choose_carriers(decisions, [channel for channel in waiting if channel in decisions.unfolded])
  _fill_widths(graph, decisions, multiple_of, min_channels)
  return decisions


def _removable(graph, exact):
  """Decides by how channels are read which can go, before carriers and widths."""
  mixing = [calls for calls in graph.calls_by_operation() if calls[0].rule.mixes]
  readings = [_reading(graph, calls) for calls in mixing if not calls[0].rule.tied]
  reasons, unfolded = dict(graph.blocked), collections.defaultdict(dict)

  def stay(reading, which, reason):
    for channel in reading.ids[which].tolist():
      reasons.setdefault(channel, reason)

  for reading in readings:
    stay(reading, reading.used & np.isnan(reading.constant), "shared")
  for index, reading in enumerate(readings):
    rule = reading.call.rule
    nonzero = reading.used & (reading.constant != 0) & ~np.isnan(reading.constant)
    stay(reading, reading.used & (reading.border > (0 if exact else 1)), "padding")
    if not reading.folds and rule.carries:
      for position in np.flatnonzero(nonzero):
        unfolded[int(reading.ids[position])][index] = reading.constant[position]
    elif not reading.folds and (exact or not rule.folds(reading.call.operation)):
      stay(reading, nonzero, "padding")
  goes = np.zeros(graph.channel_count, bool)
  for channels in graph.tensors():
    goes[channels.ids] = True
  goes[list(reasons)] = False
  return Decisions(readings, goes, reasons, unfolded)


def _reading(graph, calls):
  call = calls[0]
  count = len(call.reads[0].ids)
  reading = _Reading(
    call,
    shared=len(calls) > 1,
    folds=call.rule.folds(call.operation) and not any(each.rule.pads(each) for each in calls),
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
  shut = graph.is_shut[reading.ids]
  if shut.any():
    # Nothing that is shut holds another one back: of several means it has their mean, and 0 where nothing takes it up.
    means = np.mean([call.reads[0].constant[shut] for call in calls], axis=0)
    reading.constant[shut] = means if call.rule.folds(call.operation) else 0
  return reading


def _is_exact(decisions):
  """Whether nothing goes whose constant does not hold near borders, so that the function stays as it is."""
  for reading in decisions.readings:
    gone = decisions.goes[reading.ids] & reading.used & (reading.constant != 0)
    carried = np.isin(reading.ids, list(decisions.carrier))
    if (gone & (reading.border > 0)).any() or (not reading.folds and (gone & ~carried).any()):
      return False
  return True


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
    for channel in channels.ids[decisions.goes[channels.ids]].tolist():
      tensors[channel].append(index)
  groups = collections.defaultdict(list)
  for channel, indices in tensors.items():
    groups[tuple(indices)].append(channel)
  return groups.values()


def _choose_carriers(decisions, siblings):
  """Keeps some to stand for the others, first those that most layers read, with the largest constant."""
  unfolded = decisions.unfolded
  waiting = sorted(siblings, key=lambda c: (-len(unfolded[c]), -max(map(abs, unfolded[c].values()))))
  while waiting:
    carrier, *waiting = waiting
    decisions.keep(carrier, "carrier")
    decisions.carrier |= {c: carrier for c in waiting if _can_carry(unfolded[carrier], unfolded[c])}
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
    if decisions.goes[channel]:
      decisions.keep(channel, "width")


def pieces_of(graph, decisions):
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
  """Puts what the constants that go contribute to a convolution or dense layer where it stays."""
  call, rule, layer = reading.call, reading.call.rule, reading.call.operation
  keep_in, keep_out = decisions.kept(call.reads[0]), decisions.kept(call.outputs[0].channels)
  gone = np.flatnonzero(~keep_in & reading.used & (reading.constant != 0))
  carried = [p for p in gone.tolist() if not reading.folds and reading.ids[p] in decisions.carrier]
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
  call, rule, layer = reading.call, reading.call.rule, reading.call.operation
  piece, output = pieces[id(layer)], call.outputs[0]
  reader = output.readers[0] if len(output.readers) == 1 and not output.is_output else None
  into_batch_norm = (
    reader is not None
    and isinstance(reader.rule, BatchNorm)
    and reader.reads[0] is output.channels
    and rule.activation(layer) is keras.activations.linear
    and not reading.shared
    and sum(other.operation is reader.operation for other in graph.calls) == 1
  )
  if rule.has_bias(layer):
    piece.weights[rule.bias] = piece.weights[rule.bias] + shift
  elif into_batch_norm:
    weights = pieces[id(reader.operation)].weights
    weights["moving_mean"] = weights["moving_mean"] - shift
    piece.shifted = True
  else:
    piece.config["use_bias"] = True
    piece.weights[rule.bias] = shift


def report_of(graph, decisions, pieces):
  layers = {calls[0].operation: calls for calls in graph.calls_by_operation()}
  grown = sum(
    np.size(array) - math.prod(getattr(getattr(layer, name), "shape", (0,)))
    for layer in layers
    for name, array in pieces[id(layer)].weights.items()
  )
  before = graph.model.count_params()
  notes = [*graph.opened.notes, *out_of_sight(graph), *never_trained(graph, before, before + grown)]
  return SqueezeReport(
    parameters_before=before,
    parameters_after=before + grown,
    multiply_adds_before=multiply_adds(graph),
    multiply_adds_after=multiply_adds(graph, {key: piece.weights for key, piece in pieces.items()}),
    layers={calls[0].name: _layer_report(decisions, calls) for calls in layers.values() if calls[0].rule.mixes},
    gates={
      calls[0].name: _layer_report(decisions, calls)
      for calls in layers.values()
      if isinstance(calls[0].rule, BatchNorm)
    },
    walls=graph.walls,
    opened=graph.opened.layers,
    notes=notes,
  )


def _layer_report(decisions, calls):
  outputs = [call.outputs[0].channels for call in calls]
  kept = decisions.kept(outputs[0])
  dead = np.logical_and.reduce([~channels.used | ~np.isnan(channels.constant) for channels in outputs])
  reasons = collections.Counter(
    decisions.reasons.get(channel, "shared") for channel in outputs[0].ids[kept & dead].tolist()
  )
  return LayerReport(channels=len(kept), removed=int((~kept).sum()), kept_though_dead=dict(reasons))
