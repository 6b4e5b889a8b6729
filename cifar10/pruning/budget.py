"""A budget, and which steps of pruning it takes."""

import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from cifar10.pruning.counting import Counts
from cifar10.pruning.reports import SqueezeReport
from cifar10.pruning.steps import Step

Outcome = TypeVar("Outcome")

ROUNDING = 1e-9  # Of shares.
COUNTED = ("parameters", "multiply_adds")
ATTEMPTS = 8  # To meet a budget where constants that are folded make biases, or leave other channels dead.


@dataclasses.dataclass
class Budget:
  """What is to be left of a model.

  Attributes:
    name: "parameters", "multiply_adds" or "channels".
    given: a share of them, or, but for channels, a count from 2 up.
  """

  name: str
  given: float

  def __post_init__(self):
    share = isinstance(self.given, numbers.Real) and 0 < self.given <= 1
    count = self.name in COUNTED and isinstance(self.given, numbers.Integral) and self.given > 1
    if not share and not count:
      also = ", or a whole number from 2 up" if self.name in COUNTED else ""
      raise ValueError(f"{self.name} is {self.given}; as a budget it is a share above 0 and up to 1{also}")

  @classmethod
  def of(cls, **given: float | None) -> "Budget | None":
    """The only one that is given, None if there is none; raises ValueError if there are several."""
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
      raise ValueError(f"{' and '.join(given)} are given; a budget is one of parameters, multiply_adds and channels")
    return cls(*given.popitem()) if given else None

  def most(self, counts: Counts) -> int:
    """How many may be left."""
    return math.floor(self.given * getattr(counts, self.name)) if self.given <= 1 else int(self.given)

  def left(self, report: SqueezeReport) -> int:
    """How many a report says are left."""
    return getattr(report, f"{self.name}_after")


def within(
  budget: Budget, steps: Sequence[Step], stay: np.ndarray, counts: Counts, outcome: Callable[[Sequence[Step]], Outcome]
) -> Outcome | None:
  """What comes of as few steps as a budget takes; None if all of them are not enough.

  Args:
    budget: a `Budget` of parameters or multiply-adds.
    steps: those that may be taken, in the order in which they go.
    stay: bool array over ids: what stays before the first of them.
    counts: the model's `Counts`.
    outcome: function from the steps that are taken to what comes of them, with a `report`.
  """
  index, most = COUNTED.index(budget.name), budget.most(counts)
  best, target, tried = None, most, set()
  while target not in tried and len(tried) < ATTEMPTS:
    tried.add(target)
    chosen = fewest(steps, stay, lambda left, target=target: counts.left(left)[index] <= target)
    found = outcome(steps if chosen is None else chosen)
    left = budget.left(found.report)
    if left <= most and (best is None or left > budget.left(best.report)):
      best = found
    if chosen is None:
      break
    target = most - (left - counts.left(without(chosen, stay))[index]) if left <= most else target - (left - most)
  return best or _shortest(steps, lambda found: budget.left(found.report) <= most, outcome)


def _shortest(steps, fits, outcome):
  """What comes of as few of the first steps as fit in fact; None if even all of them do not fit."""
  low, high, best = 0, len(steps), outcome(steps)
  if not fits(best):
    return None
  while low < high:
    middle = (low + high) // 2
    found = outcome(steps[:middle])
    low, high, best = (low, middle, found) if fits(found) else (middle + 1, high, best)
  return best


def fewest(steps: Sequence[Step], stay: np.ndarray, fits: Callable[[np.ndarray], bool]) -> list[Step] | None:
  """As few of the first steps as fit, without those that need not go; None if even all of them do not fit.

  Args:
    steps: as for `within`.
    stay: as for `within`.
    fits: function from what stays to whether that is little enough.
  """
  if not fits(without(steps, stay)):
    return None
  low, high = 0, len(steps)
  while low < high:
    middle = (low + high) // 2
    low, high = (low, middle) if fits(without(steps[:middle], stay)) else (middle + 1, high)
  left, needed, chosen = without(steps[:low], stay), set(), []
  for step in reversed(steps[:low]):
    left[step.ids] = True
    if step.kind in needed or not fits(left):
      left[step.ids] = False
      needed.add(step.kind)
      chosen.append(step)
  return chosen


def evenly(steps: Sequence[Step], share: float | None, multiple_of: int) -> list[Step]:
  """The steps that leave a share of the channels of each kind: the nearest multiple, or no more if there is none.

  Args:
    steps: as for `within`.
    share: of the channels of each kind; None for as many as are not dead.
    multiple_of: what the steps keep widths multiples of.
  """

  def goes(step):
    target = step.living if share is None else share
    if multiple_of == 1:
      return step.before > target + ROUNDING
    down, up = target - step.after, step.before - target
    return up > down + ROUNDING if share is None else up >= down - ROUNDING

  return [step for step in steps if goes(step)]


def without(steps: Sequence[Step], stay: np.ndarray) -> np.ndarray:
  """What stays after some steps: bool array over ids."""
  left = stay.copy()
  for step in steps:
    left[step.ids] = False
  return left
