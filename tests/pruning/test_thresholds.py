"""Tests of thresholds under any optimizer, by group and of betas, against the update rules in numpy, on any backend."""

import keras
import numpy as np
import pytest
from keras import ops

from cifar10.pruning import ProximalOptimizer, ProximalSGD
from cifar10.pruning.thresholding import group_soft_threshold

SCHEDULE = ([1, 3], [0.02, 0.01, 0.001])
RATES = [0.02, 0.02, 0.01, 0.01, 0.001]
# Channels 0 of "a_bn" and 1 of "b_bn" are one group, and so are channel 2 of "a_bn" and two of "b_bn".
GROUPS = {"a_bn/gamma": [0, 1, 2, 3], "b_bn/gamma": [4, 0, 2, 2]}
PENALTIES = {"a_bn/gamma": 2.0, "b_bn/gamma": 0.5}
KEYS = ("a_bn/gamma", "a_bn/beta", "kernel", "b_bn/gamma", "b_bn/beta")


def gradients(steps=5, seed=0):
  rng = np.random.default_rng(seed)
  return [{key: rng.normal(size=4).astype("float32") for key in KEYS} for _ in range(steps)]


def start(scale=0.1):
  rng = np.random.default_rng(1)
  return {key: (scale * rng.uniform(-1, 1, 4)).astype("float32") for key in KEYS}


def trained(optimizer, values=None, steps=None):
  """What steps of an optimizer make of variables: dict from key to array."""
  variables = []
  for key, value in (values or start()).items():
    with keras.name_scope(key.rpartition("/")[0] or "layer"):
      variables.append(keras.Variable(value, name=key.rpartition("/")[2]))
  optimizer.build(variables)
  for step in steps or gradients():
    optimizer.apply([ops.convert_to_tensor(step[key]) for key in KEYS], variables)
  return {key: ops.convert_to_numpy(variable) for key, variable in zip(KEYS, variables)}


def soft(x, threshold):
  return np.sign(x) * np.maximum(abs(x) - threshold, 0)


class Singly:
  """The thresholds of gammas in numpy, in float64."""

  def __call__(self, values, strength):
    for key, penalty in PENALTIES.items():
      values[key] = soft(values[key], strength * penalty)


class ByGroup:
  def __call__(self, values, strength):
    pairs = [(key, channel) for key in GROUPS for channel in range(4)]
    for number in range(5):
      members = [(key, channel) for key, channel in pairs if GROUPS[key][channel] == number]
      norm = np.sqrt(sum(values[key][channel] ** 2 for key, channel in members))
      left = max(norm - strength * sum(PENALTIES[key] for key, _ in members), 0)
      for key, channel in members:
        values[key][channel] *= left / norm if norm else 0


class WithBetas:
  def __init__(self, thresholds):
    self.thresholds = thresholds

  def __call__(self, values, strength):
    self.thresholds(values, strength)
    for key, penalty in PENALTIES.items():
      beta = key.replace("gamma", "beta")
      values[beta] = np.where(values[key] == 0, soft(values[beta], strength * penalty), values[beta])


def sgd(values, step, rate, state):
  for key in KEYS:
    values[key] = values[key] - rate * step[key]


def adam(values, step, rate, state):
  state["n"] = state.get("n", 0) + 1
  for key in KEYS:
    first, second = state.get(key, (0, 0))
    state[key] = first, second = 0.9 * first + 0.1 * step[key], 0.999 * second + 0.001 * step[key] ** 2
    size = rate * np.sqrt(1 - 0.999 ** state["n"]) / (1 - 0.9 ** state["n"])
    values[key] = values[key] - size * first / (np.sqrt(second) + 1e-7)


def adamw(values, step, rate, state):
  for key in KEYS:
    values[key] = values[key] * (1 - rate * 0.1)
  adam(values, step, rate, state)


def expected(gradient_step, thresholds, l1_penalty, steps=None):
  values, state = {key: value.astype("float64") for key, value in start().items()}, {}
  for step, rate in zip(steps or gradients(), RATES):
    gradient_step(values, step, rate, state)
    thresholds(values, rate * l1_penalty)
  return values


def assert_same(found, wanted):
  for key in KEYS:
    np.testing.assert_allclose(found[key], wanted[key], rtol=2e-4, atol=1e-6, err_msg=key)
    np.testing.assert_array_equal(found[key] == 0, wanted[key] == 0, err_msg=key)


def rate():
  return keras.optimizers.schedules.PiecewiseConstantDecay(*SCHEDULE)


OPTIMIZERS = {
  "sgd": (sgd, lambda *arguments, **more: ProximalSGD(rate(), *arguments, **more)),
  "wrapped sgd": (sgd, lambda *given, **more: ProximalOptimizer(keras.optimizers.SGD(rate()), *given, **more)),
  "adam": (adam, lambda *given, **more: ProximalOptimizer(keras.optimizers.Adam(rate()), *given, **more)),
  "adamw": (
    adamw,
    lambda *given, **more: ProximalOptimizer(keras.optimizers.AdamW(rate(), weight_decay=0.1), *given, **more),
  ),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@each_optimizer
@pytest.mark.parametrize("betas", [False, True])
@pytest.mark.parametrize("by_group", [False, True])
def test_a_step_is_that_of_the_optimizer_and_a_threshold(name, by_group, betas):
  gradient_step, make = OPTIMIZERS[name]
  found = trained(make(0.7, PENALTIES, groups=GROUPS if by_group else None, threshold_betas=betas))
  thresholds = ByGroup() if by_group else Singly()
  wanted = expected(gradient_step, WithBetas(thresholds) if betas else thresholds, 0.7)
  assert 0 < sum((wanted[key] == 0).sum() for key in PENALTIES) < 8
  assert (wanted["a_bn/beta"] == 0).any() == betas
  assert_same(found, wanted)


@each_optimizer
def test_without_a_penalty_it_is_the_optimizer(name):
  gradient_step, make = OPTIMIZERS[name]
  found = trained(make(0.0, PENALTIES, groups=GROUPS, threshold_betas=True))
  assert_same(found, expected(gradient_step, lambda values, strength: None, 0.0))


def test_groups_of_one_are_thresholded_as_without_groups_to_the_bit():
  alone = {"a_bn/gamma": [3, 0, 7, 1], "b_bn/gamma": [2, 4, 6, 5]}
  for _, make in OPTIMIZERS.values():
    found, other = trained(make(1.0, PENALTIES)), trained(make(1.0, PENALTIES, groups=alone))
    for key in KEYS:
      np.testing.assert_array_equal(found[key], other[key])


def test_group_thresholds_of_0_change_nothing_and_small_norms_vanish():
  x, numbers = np.array([0.3, 1e-30, -0.4, 0.0], "float32"), np.array([0, 1, 0, 1])
  for threshold, wanted in ((np.zeros(4), x), (np.full(4, 0.25), [0.15, 0, -0.2, 0]), (np.full(4, 0.5), np.zeros(4))):
    moved = group_soft_threshold(ops.convert_to_tensor(x), ops.cast(threshold, "float32"), numbers)
    np.testing.assert_allclose(ops.convert_to_numpy(moved), wanted, rtol=1e-6)


def test_gammas_without_groups_are_thresholded_alone_and_groups_without_penalties_not_at_all():
  part = {"a_bn/gamma": [0, 0, 1, 1], "left_out/gamma": [0, 1]}
  found = trained(ProximalSGD(rate(), 1.0, PENALTIES, groups=part))
  assert_same({**found, "a_bn/gamma": (alone := expected(sgd, Singly(), 1.0))["a_bn/gamma"]}, alone)
  np.testing.assert_array_equal(found["a_bn/gamma"][:2] == 0, [(found["a_bn/gamma"][:2] == 0).all()] * 2)


def test_accumulated_gradients_are_one_step_with_one_threshold():
  doubled = [step for step in gradients() for _ in range(2)]
  for make in (
    lambda **more: ProximalOptimizer(keras.optimizers.Adam(0.02, **more), 1.0, PENALTIES, GROUPS, True),
    lambda **more: ProximalSGD(0.02, 1.0, PENALTIES, GROUPS, True, **more),
  ):
    accumulating = make(gradient_accumulation_steps=2)
    found, other = trained(accumulating, steps=doubled), trained(make())
    assert int(accumulating.iterations) == 5
    assert_same(found, other)


def test_averages_follow_the_threshold_and_are_0_where_it_holds_gammas_and_betas():
  given = {"groups": GROUPS, "threshold_betas": True, "use_ema": True, "ema_momentum": 0.5}
  for name in ("sgd", "adam"):
    gradient_step, make = OPTIMIZERS[name]
    optimizer = make(1.0, PENALTIES, **given)
    trained(optimizer)
    averages = {}
    for number in range(1, 6):
      values = expected(gradient_step, WithBetas(ByGroup()), 1.0, gradients()[:number])
      for key in KEYS:
        averages[key] = values[key] if number == 1 else 0.5 * averages[key] + 0.5 * values[key]
        shut = values[key] == 0
        averages[key] = np.where(shut, 0, averages[key])
    found = [variable for variable in optimizer.variables if "average" in variable.path]
    assert_same({key: ops.convert_to_numpy(each) for key, each in zip(KEYS, found, strict=True)}, averages)


def test_config_round_trips():
  for _, make in OPTIMIZERS.values():
    optimizer = make(1.0, PENALTIES, groups=GROUPS, threshold_betas=True)
    copied = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copied.get_config() == optimizer.get_config()
    found, other = trained(optimizer), trained(copied)
    assert all((found[key] == other[key]).all() for key in KEYS)


def test_the_wrapper_passes_on_what_is_set():
  optimizer = ProximalOptimizer(keras.optimizers.Adam(0.5), 1.0, {"a_bn/gamma": 0.25}, name="mine")
  assert float(optimizer.learning_rate) == 0.5
  optimizer.learning_rate, optimizer.l1_penalty = 0.25, 2
  assert float(optimizer.inner_optimizer.learning_rate) == 0.25
  still = [dict.fromkeys(KEYS, np.zeros(4, "float32"))]
  found = trained(optimizer, dict.fromkeys(KEYS, np.ones(4, "float32")), still)
  np.testing.assert_allclose(found["a_bn/gamma"], 1 - 0.25 * 2 * 0.25)
  assert int(optimizer.iterations) == int(optimizer.inner_optimizer.iterations) == 1


def test_scaled_losses_are_scaled_back():
  optimizer = ProximalOptimizer(keras.optimizers.SGD(rate()), 1.0, PENALTIES, loss_scale_factor=4.0)
  assert float(optimizer.scale_loss(ops.ones(()))) == 4
  scaled = [{key: 4 * value for key, value in step.items()} for step in gradients()]
  assert_same(trained(optimizer, steps=scaled), expected(sgd, Singly(), 1.0))


def test_what_is_not_the_wrappers_is_refused_by_name():
  for inner, message in (
    (keras.optimizers.Adam(0.1, use_ema=True), "inner_optimizer has use_ema.*pass it to ProximalOptimizer"),
    (keras.optimizers.Adam(0.1, loss_scale_factor=2.0), "inner_optimizer has loss_scale_factor"),
    (keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)), "put that around ProximalOptimizer"),
  ):
    with pytest.raises(ValueError, match=message):
      ProximalOptimizer(inner, 1.0, PENALTIES)
  with pytest.raises(ValueError, match="clipnorm is no argument of ProximalOptimizer; pass it to the optimizer in it"):
    ProximalOptimizer(keras.optimizers.Adam(0.1), 1.0, PENALTIES, clipnorm=1.0)


def test_without_variables_it_says_that_it_is_not_built():
  optimizer = ProximalOptimizer(keras.optimizers.Adam(0.1), 1.0, PENALTIES)
  with pytest.raises(ValueError, match="not built yet; pass trainable_variables"):
    optimizer.apply([np.ones(4)])


def test_bad_groups_and_absent_betas_are_named():
  for bad, message in (
    ([0, 1], "groups is .*it is a dict"),
    ({"a_bn/gamma": [0.5, 1, 2, 3]}, "one whole number for each channel"),
    ({"a_bn/gamma": [[0, 1]]}, "one whole number for each channel"),
  ):
    with pytest.raises(ValueError, match=message):
      ProximalSGD(0.1, 1.0, PENALTIES, groups=bad)
  with pytest.raises(ValueError, match="groups has 2 numbers for a_bn/gamma, which has 4"):
    trained(ProximalSGD(0.1, 1.0, PENALTIES, groups={"a_bn/gamma": [0, 1]}))
  lone = keras.Variable(np.ones(2), name="gamma")
  with pytest.raises(ValueError, match="no gamma that penalties names has a beta"):
    ProximalSGD(0.1, 1.0, {"gamma": 1.0}, threshold_betas=True).build([lone])


def test_what_is_built_in_cannot_be_set():
  optimizer = ProximalOptimizer(keras.optimizers.Adam(0.1), 1.0, PENALTIES)
  trained(optimizer)
  for name, value in (("groups", GROUPS), ("threshold_betas", True), ("penalties", {})):
    with pytest.raises(ValueError, match=f"{name} cannot be set to .*compile the model with a new ProximalOptimizer"):
      setattr(optimizer, name, value)
  with pytest.raises(ValueError, match="compile the model with a new ProximalOptimizer"):
    optimizer.l1_penalty = rate()
