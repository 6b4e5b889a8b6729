"""Which steps of pruning a budget takes, and in which order they go."""

import types

import numpy as np
import pytest

from cifar10.pruning.budget import Budget, within
from cifar10.pruning.steps import Widths, allowed, steps_of


def steps_of_one(count):
  """A step for each of some channels of one kind."""
  ids = np.arange(count)
  return steps_of(0, ids, np.ones(count), np.zeros(count, bool), (1, 1))


@pytest.mark.parametrize("slope", [1, 0.5, 0.31])
def test_a_budget_is_met_though_less_goes_than_was_counted(slope):
  counts = types.SimpleNamespace(parameters=1000, left=lambda stay: [int(stay.sum())] * 2)

  def outcome(chosen):
    return types.SimpleNamespace(report=types.SimpleNamespace(parameters_after=1000 - int(slope * len(chosen))))

  budget = Budget("parameters", 0.7)
  found = within(budget, steps_of_one(1000), np.ones(1000, bool), counts, outcome)
  assert found.report.parameters_after == 700
  assert within(Budget("parameters", 0.6), steps_of_one(300), np.ones(1000, bool), counts, outcome) is None


@pytest.mark.parametrize("importance", np.random.default_rng(0).random(8))
def test_steps_of_equal_importance_stay_in_order(importance):
  class Free(Widths):
    def __init__(self):
      self._made, self._left = [], []

  dead = np.zeros(30, bool)
  steps = steps_of(0, np.arange(30), np.full(30, importance), dead, (6, 8))
  assert [step.ids[0] for step in allowed(steps, Free())] == [0, 6, 14, 22]
