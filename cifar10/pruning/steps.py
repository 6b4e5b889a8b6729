"""In which steps groups of channels may go: the least important first, so that widths stay multiples."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.channel_groups import Groups, groups_of
from cifar10.pruning.counting import Counts
from cifar10.pruning.importance import Importance, relative


@dataclasses.dataclass(eq=False)
class Step:
  """Some channels of one kind that go at once, so that widths stay multiples.

  Attributes:
    kind: the number of the `Groups` that they are of, whose steps go one after the other.
    ids: int64 (channels,): ids in the channel graph.
    importance: their mean importance; 0 where all are dead.
    alive: how many are not dead.
    before, after: the shares of the channels of their kind that there are before and after the step.
    living: the share of the channels of their kind that are not dead.
  """

  kind: int
  ids: np.ndarray
  importance: float
  alive: int
  before: float
  after: float
  living: float


class Widths:
  """How many channels layers make, and may lose.

  Args:
    graph: the model's `ChannelGraph`.
    max_removed: the largest share of a layer's channels that may go; one channel stays at least.
    dead: bool array over ids: channels that go anyway.
  """

  def __init__(self, graph: ChannelGraph, max_removed: float, dead: np.ndarray):
    self._made = [call.outputs[0].channels.ids for call in graph.mixing_calls()]
    most = [min(math.floor(max_removed * len(ids)), len(ids) - 1) for ids in self._made]
    self._left = [limit - int(dead[ids].sum()) for limit, ids in zip(most, self._made)]

  def makers(self, channel: int) -> dict[int, int]:
    """How many positions of a channel each layer makes: dict from the layer's number."""
    counts = {layer: int((made == channel).sum()) for layer, made in enumerate(self._made)}
    return {layer: count for layer, count in counts.items() if count}

  def step_sizes(self, ids: np.ndarray, multiple_of: int) -> tuple[int, int]:
    """How many channels of one kind go first, and in each step after that, so that widths become multiples and stay."""
    makers = self.makers(ids[0])
    size = math.lcm(*(multiple_of // math.gcd(multiple_of, count) for count in makers.values()))
    odd = {len(self._made[layer]) % multiple_of / count for layer, count in makers.items()}
    first = odd.pop() if len(odd) == 1 else 0
    return (int(first) if first == int(first) and first <= len(ids) else 0) or size, size

  def take(self, makers: dict[int, int], channels: int) -> bool:
    """Takes channels off what their makers may lose, if all of them may lose so many; whether they may."""
    may = all(self._left[layer] >= count * channels for layer, count in makers.items())
    for layer, count in makers.items() if may else ():
      self._left[layer] -= count * channels
    return may


def steps_of(
  kind: int, ids: np.ndarray, importance: np.ndarray, dead: np.ndarray, sizes: tuple[int, int]
) -> list[Step]:
  """The steps in which channels of one kind go, the dead first, then by importance.

  Args:
    kind: the number of the `Groups`.
    ids: int64 (channels,).
    importance: float64 (channels,), of 0 or more, and 0 for the dead.
    dead: bool (channels,).
    sizes: how many channels go first, and in each step after that; what is left over in the end stays.
  """
  order = np.lexsort((ids, importance, ~dead))
  first, size = sizes
  ends = [0, *range(first, len(ids) + 1, size)]
  found = []
  for start, end in itertools.pairwise(ends):
    part, shares = order[start:end], [1 - start / len(ids), 1 - end / len(ids), (~dead).mean()]
    mean = max([float(importance[part].mean()), *(step.importance for step in found[-1:])])  # Rounded, it may be less.
    found.append(Step(kind, ids[part], mean, int((~dead[part]).sum()), *shares))
  return found


def allowed(steps: Sequence[Step], widths: Widths) -> list[Step]:
  """The steps that may be taken, the least important first: none that takes too much of a layer, and none after it."""
  found, refused, makers = [], set(), {}
  for step in sorted(steps, key=lambda step: step.importance):
    if step.kind not in makers:
      makers[step.kind] = widths.makers(step.ids[0])
    if step.kind in refused or not widths.take(makers[step.kind], step.alive):
      refused.add(step.kind)
    else:
      found.append(step)
  return found


def possible_steps(
  graph: ChannelGraph, counts: Counts, dead: np.ndarray, measure: Importance, scope: str, multiple_of: int
) -> tuple[list[Step], np.ndarray]:
  """All steps in which channels that are not dead could go.

  Args:
    graph: the model's `ChannelGraph`.
    counts: its `Counts`.
    dead: bool array over ids: channels that go anyway.
    measure: how important channels are.
    scope: "global", or "layer" for numbers that are ranks.
    multiple_of: what widths are to be multiples of.

  Returns:
    The steps, and a bool array over ids: which stay if none is taken.
  """
  widths, found, stay = Widths(graph, 0.0, dead), [], ~dead
  for kind, groups in enumerate(groups_of(graph)):
    gone = dead[groups.ids]
    numbers = None if gone.all() else _numbers(groups.only(~gone), counts, stay, measure, scope)
    if numbers is not None:
      importance = np.zeros(len(groups))
      importance[~gone] = numbers
      steps = steps_of(kind, groups.ids, importance, gone, widths.step_sizes(groups.ids, multiple_of))
      stay[groups.ids] = True
      for step in steps:
        stay[step.ids] = step.alive > 0
      found += [step for step in steps if step.alive]
  return found, stay


def _numbers(groups: Groups, counts: Counts, stay: np.ndarray, measure: Importance, scope: str) -> np.ndarray | None:
  """How important groups are beside those of other layers; None where that is not known."""
  without = stay.copy()
  without[groups.ids[0]] = False
  groups.parameters, products = (counts.left(stay) - counts.left(without)).tolist()
  groups.multiply_adds = None if counts.multiply_adds is None else products
  numbers = measure(groups)
  if numbers is None:
    return None
  numbers = np.asarray(numbers, np.float64)
  if numbers.shape != (len(groups),) or not np.isfinite(numbers).all() or (numbers < 0).any():
    raise ValueError(
      f"importance of the channels of {groups.calls[0].name} is {numbers}; it is {len(groups)} finite numbers from 0 up"
    )
  if scope == "layer":
    return (np.argsort(np.argsort(numbers, kind="stable")) + 1) / len(numbers)
  return relative(numbers)
