"""Groups of channels that stay or go together, as importance sees them.

Through sums, depthwise layers, shared layers and flattening, channels of several layers may go only together: they are
one group, and have one id in the channel graph. Groups that stand in the same tensors make one `Groups`.
"""

import dataclasses
import functools

import keras
import numpy as np

from cifar10.pruning.calls import Call
from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.rules import BatchNorm
from cifar10.pruning.rules.base import Rule, to_float64


@dataclasses.dataclass(eq=False)
class Groups:
  """Some groups of channels that the same layers make and read. What it tells has a row for each group.

  Attributes:
    ids: int64 (groups,): their ids in the channel graph.
    calls: one call of each layer that makes the channels, or treats each by itself with weights of its own.
    readers: one call of each layer that mixes them with others.
    parameters: how many weights go with the first group that goes, moving statistics included.
    multiply_adds: how many multiply-adds go with it; None if an input size is not fixed.
  """

  ids: np.ndarray
  calls: list[Call]
  readers: list[Call]
  parameters: int = 0
  multiply_adds: int | None = 0

  def __len__(self):
    return len(self.ids)

  def only(self, which: np.ndarray) -> "Groups":
    """Some of the groups: those for which `which`, a bool array, is True."""
    return Groups(self.ids[which], self.calls, self.readers)

  @functools.cached_property
  def kernels(self) -> dict[str, np.ndarray]:
    """The kernels that make the channels, depthwise ones too: dict from layers' names to arrays (groups, weights)."""
    makers = [call for call in self.calls if call.rule.kernels]
    return {call.name: self.rows(call, kernel_of(call.rule, call.operation)) for call in makers}

  @functools.cached_property
  def reading_kernels(self) -> dict[str, np.ndarray]:
    """The kernels that read the channels: dict from a layer's name to an array (groups, weights)."""
    return {
      call.name: _gathered(call.rule.kernel_by_input(call.operation), call.reads[0].ids, self.ids)
      for call in self.readers
    }

  @functools.cached_property
  def gammas(self) -> dict[str, np.ndarray]:
    """The scales of the batch norms that have some: dict from a layer's name to an array (groups, channels)."""
    return {call.name: self.rows(call, to_float64(call.operation.gamma)) for call in self.gates}

  @property
  def gates(self) -> list[Call]:
    """The calls of batch norms with gammas."""
    return [call for call in self.calls if isinstance(call.rule, BatchNorm) and call.operation.scale]

  def rows(self, call: Call, array: np.ndarray) -> np.ndarray:
    """What of an array belongs to the channels that a call makes, which are along its last axis: (groups, numbers)."""
    return _gathered(array, call.outputs[0].channels.ids, self.ids)


def groups_of(graph: ChannelGraph) -> list[Groups]:
  """All groups of a model that may go, in the order of their ids; of none of them the graph says that it is blocked."""
  rng = np.random.default_rng(0)
  kinds = np.zeros(graph.channel_count, np.uint64)
  for channels in graph.tensors():
    np.add.at(kinds, channels.ids, rng.integers(1, 2**64, dtype=np.uint64))
  made = np.zeros(graph.channel_count, bool)
  for call in graph.mixing_calls():
    made[call.outputs[0].channels.ids] = True
  made[list(graph.blocked)] = False
  by_kind = {}
  for channel in np.flatnonzero(made).tolist():
    by_kind.setdefault(int(kinds[channel]), []).append(channel)
  owners = [calls[0] for calls in graph.calls_by_operation() if getattr(calls[0].operation, "weights", [])]
  found = []
  for ids in by_kind.values():
    calls = [call for call in owners if np.isin(ids[0], call.outputs[0].channels.ids)]
    readers = [call for call in owners if call.rule.mixes and np.isin(ids[0], call.reads[0].ids)]
    found.append(Groups(np.array(ids), calls, readers))
  return found


def positions_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Where each of some ids stands among `ids`, as often as the first of them does: int64 (wanted, times)."""
  order = np.argsort(ids, kind="stable")
  first = np.searchsorted(ids[order], wanted)
  return order[first[:, None] + np.arange((ids == wanted[0]).sum())]


def _gathered(array, ids, wanted):
  positions = positions_of(ids, wanted)
  return np.moveaxis(array[..., positions], -2, 0).reshape(len(wanted), -1)


def kernel_of(rule: Rule, layer: keras.Layer) -> np.ndarray:
  """The kernel of a layer, a depthwise one too, with the channels that it makes along the last axis."""
  if rule.mixes:
    return rule.kernel(layer)
  kernel = keras.ops.convert_to_numpy(getattr(layer, rule.kernels[0]))
  return kernel.reshape(*kernel.shape[:-2], -1)
