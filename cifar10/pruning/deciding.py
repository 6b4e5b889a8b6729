"""Which dead channels of a graph go, and which stay, and why."""

import collections
import dataclasses
import math
import numbers
from collections.abc import Collection, Hashable

import keras
import numpy as np

from cifar10.pruning.calls import Call
from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.rules.base import Channels

LARGEST_RATIO = 16  # Of a constant to that of its carrier, by which kernels are multiplied.


@dataclasses.dataclass
class Reading:
  """How a convolution or dense layer reads its input, over all its calls.

  Attributes:
    call: its first call.
    shared: whether there are more.
    folds: bool (inputs,): whether what a constant other than 0 adds can go into its bias.
    constant: float64 (inputs,): what each input is in all the calls that use it; NaN if that is no one value.
    border: int8 (inputs,): as in `Channels`, the worst of the calls that use it.
    used: bool (inputs,): whether any call uses the input.
    alike: list (inputs,): inputs with equal ones can take over what each other adds, as far as their constants go.
  """

  call: Call
  shared: bool
  folds: np.ndarray
  constant: np.ndarray
  border: np.ndarray
  used: np.ndarray
  alike: list[Hashable]

  @property
  def ids(self) -> np.ndarray:
    """The channels of the input."""
    return self.call.reads[0].ids

  @property
  def patterned(self) -> np.ndarray:
    """Which inputs are their constants times some pattern of zeros: bool (inputs,)."""
    return np.array([any(patterns) for patterns, _ in self.alike], bool)


@dataclasses.dataclass
class Decisions:
  """What to do with channels, by id.

  Attributes:
    readings: list of `Reading`.
    goes: bool array over ids: those that go.
    reasons: dict from a dead id that stays to the reason.
    unfolded: dict from id to {(index of a reading that does not fold it, its `alike`): constant other than 0}.
    carrier: dict from an id that goes to the one that stands for its constant where it is not folded.
  """

  readings: list[Reading]
  goes: np.ndarray
  reasons: dict[int, str]
  unfolded: dict[int, dict[tuple[int, Hashable], float]]
  carrier: dict[int, int] = dataclasses.field(default_factory=dict)

  def keep(self, channel: int, reason: str) -> None:
    """Lets a channel stay."""
    self.goes[channel] = False
    self.carrier.pop(channel, None)
    self.reasons[channel] = reason

  def kept(self, channels: Channels) -> np.ndarray:
    """Which positions stay: bool array."""
    return ~self.goes[channels.ids]

  def is_exact(self) -> bool:
    """Whether nothing goes whose constant does not hold near borders, so that the function stays as it is."""
    for reading in self.readings:
      gone = self.goes[reading.ids] & reading.used & (reading.constant != 0)
      carried = np.isin(reading.ids, list(self.carrier)) & ~reading.folds
      whole = (reading.border == 0) | (reading.patterned & carried)
      if (gone & ~(whole & (reading.folds | carried))).any():
        return False
    return True


def decide(
  model: keras.Model, exact: bool, multiple_of: int, min_channels: int, threshold: float, keep: Collection[str]
) -> tuple[ChannelGraph, Decisions]:
  """The graph of a model, and which of its channels go; the arguments are those of `squeeze`."""
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
    for channel, reads in decisions.unfolded.items()
    for index, _ in reads
    if not decisions.readings[index].call.rule.folds(decisions.readings[index].call.operation)
  }
  for siblings in _siblings(graph, decisions):
    waiting = siblings if exact or lost.issuperset(siblings) else patterned.intersection(siblings)
    _choose_carriers(decisions, [channel for channel in waiting if channel in decisions.unfolded])
  sides = _sides_of_groups(graph)
  before = None
  while decisions.goes.sum() != before:  # What one of both keeps may be too much or too little for the other.
    before = decisions.goes.sum()
    _fill_widths(graph, decisions, multiple_of, min_channels, sides)
    for one in sides:
      _balance(decisions, one)
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
    spoiled = reading.border > (0 if exact else 1)
    stay(reading, reading.used & spoiled & ~(reading.patterned & rule.carries), "padding")
    if rule.carries:
      for position in np.flatnonzero(nonzero & ~reading.folds):
        unfolded[int(reading.ids[position])][index, reading.alike[position]] = reading.constant[position]
    elif exact or not rule.folds(reading.call.operation):
      stay(reading, nonzero & ~reading.folds, "padding")
  goes = np.zeros(graph.channel_count, bool)
  for channels in graph.tensors():
    goes[channels.ids] = True
  goes[list(reasons)] = False
  return Decisions(readings, goes, reasons, unfolded)


def _reading(graph, calls):
  call, layer = calls[0], calls[0].operation
  count = len(call.reads[0].ids)
  patterns = np.stack([each.reads[0].pattern for each in calls], axis=1)
  group = np.arange(count) // max(1, count // call.rule.groups(layer))
  reading = Reading(
    call,
    shared=len(calls) > 1,
    folds=~patterns.any(axis=1) & (call.rule.folds(layer) and not any(each.rule.pads(each) for each in calls)),
    constant=np.full(count, np.nan),
    border=np.zeros(count, np.int8),
    used=np.zeros(count, bool),
    alike=list(zip(map(tuple, patterns.tolist()), group.tolist())),
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
  return all(abs(constant) <= LARGEST_RATIO * abs(carrier.get(key, 0)) for key, constant in constants.items())


def _fill_widths(graph, decisions, multiple_of, min_channels, sides):
  for call in graph.mixing_calls():
    channels = call.outputs[0].channels
    width = max(int(decisions.kept(channels).sum()), min_channels)
    _fill(decisions, channels, math.ceil(width / multiple_of) * multiple_of, sides)
  for channels in graph.tensors():
    _fill(decisions, channels, 1, sides)


def _fill(decisions, channels, width, sides):
  """Keeps dead channels until `width` positions stay, those first whose groups have the fewest."""
  while decisions.kept(channels).sum() < width and decisions.goes[channels.ids].any():
    going = channels.ids[decisions.goes[channels.ids]]
    crowding = np.zeros(len(going), int)
    for ids in (ids for pair in sides for ids in pair):
      counts = np.repeat((~decisions.goes[ids]).sum(axis=1), ids.shape[1])
      found = np.isin(going, ids)
      if found.any():
        places = [np.argmax(ids.reshape(-1) == channel) for channel in going[found]]
        crowding[found] = np.maximum(crowding[found], counts[places])
    decisions.keep(int(going[np.argmin(crowding)]), "width")


def _sides_of_groups(graph):
  """The ids of inputs and outputs of each grouped convolution: pairs of arrays (groups, channels of each)."""
  calls = [call for call in graph.mixing_calls() if call.rule.groups(call.operation) > 1]
  return [
    [
      channels.ids.reshape(call.rule.groups(call.operation), -1)
      for channels in (call.reads[0], call.outputs[0].channels)
    ]
    for call in calls
  ]


def _balance(decisions, sides):
  """Keeps dead channels of some groups, until each has as many as the widest, or none of its inputs and outputs.

  Args:
    decisions: the `Decisions`.
    sides: the ids of the inputs and of the outputs, arrays (groups, channels of each).
  """
  while True:
    widths = [(~decisions.goes[ids]).sum(axis=1) for ids in sides]
    stay = (widths[0] > 0) | (widths[1] > 0)
    short = [
      (ids[group], target - width[group])
      for ids, width in zip(sides, widths)
      for target in [max(1, width.max())]
      for group in np.flatnonzero(stay & (width < target))
    ]
    if not short:
      return
    for ids, missing in short:
      for channel in ids[decisions.goes[ids]][:missing].tolist():
        decisions.keep(channel, "groups")
