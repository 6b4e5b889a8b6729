"""Pruning random models keeps to the budget, to what the plan says, to `keep` and to multiples."""

import re
from unittest import mock

import numpy as np
import pytest
from flows import outputs, random_images
from hypothesis import given
from hypothesis import strategies as st
from test_random_models import models

from cifar10.pruning import multiply_adds, plan_prune, prune, prune_to_budget
from cifar10.pruning.budget import within

pytestmark = [
  pytest.mark.usefixtures("float64"),
  pytest.mark.filterwarnings("ignore:Do not use the `random` module:Warning"),
]


def within_to_one_step(budget, steps, stay, counts, outcome):
  """`within`, after a check that no step that was taken can be left out, of each kind the last one."""
  taken = {}

  def noted(chosen):
    found = outcome(chosen)
    taken[id(found)] = found, chosen
    return found

  best = within(budget, steps, stay, counts, noted)
  if best is not None:
    _, chosen = taken[id(best)]
    for kind in {step.kind for step in chosen}:
      last = min((step for step in chosen if step.kind == kind), key=lambda step: step.after)
      fewer = outcome([step for step in chosen if step is not last])
      assert budget.left(fewer.report) > budget.most(counts)
  return best


def plan_or_least(model, budget, arguments):
  """The report of `plan_prune`; None if the budget is out of reach, after a check of what is said to be the least."""
  try:
    with mock.patch.object(prune_to_budget, "within", within_to_one_step):
      return plan_prune(model, **arguments)
  except ValueError as error:
    message = str(error)
  with pytest.raises(ValueError, match=re.escape(message)):
    prune(model, verify=False, **arguments)
  least, whole = (int(count.replace(",", "")) for count in re.search("the least is (.*) of (.*), a", message).groups())
  assert least > arguments[budget] * whole
  assert getattr(plan_prune(model, **{**arguments, budget: least}), f"{budget}_after") == least
  return None


def test_random_models():
  pruned, reached = [], []

  @given(models(), st.data())
  def check(model, data):
    budget = data.draw(st.sampled_from(["parameters", "multiply_adds", "channels"]))
    arguments = {
      budget: data.draw(st.sampled_from([0.9, 0.7, 0.5])),
      "importance": data.draw(st.sampled_from(["gamma", "l1", "l2", "random"])),
      "scope": data.draw(st.sampled_from(["global", "layer"])),
      "multiple_of": data.draw(st.sampled_from([1, 1, 2, 3])),
      "max_removed": data.draw(st.sampled_from([0.9, 0.9, 0.5])),
      "keep": data.draw(st.lists(st.sampled_from([layer.name for layer in model.layers]), max_size=1)),
      "left_behind": data.draw(st.sampled_from(["mean", "zero"])),
    }
    if data.draw(st.booleans()) and model.inputs[0].shape[-1] == 3:
      arguments["inputs"] = random_images(model)
    weights = model.get_weights()
    report = plan_or_least(model, budget, arguments)
    reached.append(report is not None)
    if report is None:
      return
    smaller, done = prune(model, verify=False, **arguments)
    assert done == report
    for before, after in zip(weights, model.get_weights(), strict=True):
      np.testing.assert_array_equal(before, after)
    assert report.parameters_after == smaller.count_params()
    assert report.multiply_adds_after == multiply_adds(smaller)
    if budget != "channels":
      before, after = getattr(report, f"{budget}_before"), getattr(report, f"{budget}_after")
      assert after <= arguments[budget] * before
    again, same = prune(model, verify=False, **arguments)
    assert same == report
    for one, other in zip(smaller.get_weights(), again.get_weights(), strict=True):
      np.testing.assert_array_equal(one, other)
    for layer in report.layers.values():
      assert layer.removed == 0 or (layer.channels - layer.removed) % arguments["multiple_of"] == 0
    for name in arguments["keep"]:
      assert smaller.get_layer(name).output.shape == model.get_layer(name).output.shape
    for before, after in zip(outputs(model), outputs(smaller), strict=True):
      assert before.shape == after.shape
      assert np.isfinite(after).all() or not np.isfinite(before).all()
    pruned.append(sum(layer.removed for layer in report.layers.values()))

  check()
  assert np.mean(reached) > 0.3
  assert np.mean(np.array(pruned) > 0) > 0.3
