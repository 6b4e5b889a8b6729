"""Pruning to a budget: what goes, how much of it, and what is left behind."""

import keras
import numpy as np
import pytest
from builders import chain, conv_bn, image
from flows import outputs, random_images
from keras import layers

from cifar10.pruning import multiply_adds, plan_prune, prune, recalibrate

BUDGETS = ("parameters", "multiply_adds")


def widths(report):
  return [layer.channels - layer.removed for layer in report.layers.values()]


def left(report, budget):
  return getattr(report, f"{budget}_after")


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("importance", ["gamma", "l1", "l2", "random"])
def test_a_budget_is_met_to_within_one_group(randomize, budget, importance):
  model = randomize(chain())
  smaller, report = prune(model, **{budget: 0.5}, importance=importance, verify=False)
  whole = getattr(report, f"{budget}_before")
  assert left(report, budget) <= 0.5 * whole
  assert report.parameters_after == smaller.count_params()
  assert report.multiply_adds_after == multiply_adds(smaller)
  largest = []

  def note(groups):
    largest.append(getattr(groups, budget))
    return np.ones(len(groups))

  plan_prune(model, **{budget: 1.0}, importance=note)
  assert left(report, budget) > 0.5 * whole - max(largest)


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_count_is_the_share_that_it_is(randomize, budget):
  model = randomize(chain())
  whole = getattr(plan_prune(model, channels=1.0), f"{budget}_before")
  assert plan_prune(model, **{budget: int(0.6 * whole)}) == plan_prune(model, **{budget: 0.6})


def test_channels_of_each_layer(randomize):
  model = randomize(chain())
  assert widths(plan_prune(model, channels=0.5)) == [8, 12, 16, 5]
  assert widths(plan_prune(model, channels=0.4)) == [6, 9, 12, 5]
  assert widths(plan_prune(model, channels=1.0)) == [16, 24, 32, 5]


def test_equal_shares_of_layers(randomize):
  model = randomize(chain())
  model.get_layer("c0").kernel.assign(model.get_layer("c0").kernel * np.r_[np.full(12, 0.01), np.ones(4)])
  shares = [
    count / before for count, before in zip(widths(plan_prune(model, parameters=0.5, scope="layer")), (16, 24, 32))
  ]
  assert max(shares) - min(shares) < 0.1
  assert widths(plan_prune(model, parameters=0.5))[0] == 4


def test_the_least_important_channels_go(randomize):
  model = randomize(chain())
  layer, rng = model.get_layer("c1"), np.random.default_rng(1)
  order = rng.permutation(24)
  direction = rng.normal(size=layer.kernel.shape)
  layer.kernel.assign(direction / np.sqrt((direction**2).sum(axis=(0, 1, 2))) * (1 + order))
  model.get_layer("c1_bn").gamma.assign(24.0 - order)
  strongest = np.sort(np.flatnonzero(order >= 12))
  for importance, expected in (("l2", strongest), ("gamma", np.flatnonzero(order < 12))):
    smaller, _ = prune(model, channels=0.5, importance=importance, verify=False)
    np.testing.assert_allclose(smaller.get_layer("c1_bn").gamma, model.get_layer("c1_bn").gamma.numpy()[expected])


def test_a_sum_is_one_group(randomize):
  images = image()
  x = conv_bn(images, "a", 8)
  y = layers.Add()([conv_bn(x, "b", 8, activation=None), x])
  model = randomize(keras.Model(images, layers.Dense(2, name="end")(layers.GlobalAveragePooling2D()(y))))
  seen = []

  def importance(groups):
    seen.append(groups)
    return np.arange(8.0)

  smaller, report = prune(model, channels=0.25, importance=importance, verify=False)
  (groups,) = seen
  assert {name: kernel.shape for name, kernel in groups.kernels.items()} == {"a": (8, 27), "b": (8, 72)}
  np.testing.assert_array_equal(groups.kernels["a"][3], model.get_layer("a").kernel.numpy()[..., 3].reshape(-1))
  assert {name: gammas.shape for name, gammas in groups.gammas.items()} == {"a_bn": (8, 1), "b_bn": (8, 1)}
  assert {name: kernel.shape for name, kernel in groups.reading_kernels.items()} == {"b": (8, 72), "end": (8, 2)}
  np.testing.assert_array_equal(groups.reading_kernels["end"][5], model.get_layer("end").kernel.numpy()[5])
  # Of a a channel of the kernel and 4 of its batch norm; of b too, and what reads both.
  assert groups.parameters == (27 + 4) + (9 * 15 + 4) + 2
  assert groups.multiply_adds == 64 * (27 + 9 * 15) + 2
  assert [layer.removed for layer in report.layers.values()] == [6, 6, 0]
  np.testing.assert_array_equal(smaller.get_layer("a").kernel, model.get_layer("a").kernel.numpy()[..., 6:])


def test_a_group_through_depthwise_and_flattening(randomize):
  images = image(4, 4, 3)
  x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="d")(layers.Conv2D(6, 1, name="a")(images))
  model = randomize(keras.Model(images, layers.Dense(2, name="end")(layers.Flatten()(x))))
  seen = []

  def importance(groups):
    seen.append(groups)
    return np.ones(len(groups))

  _, report = prune(model, channels=0.5, importance=importance, verify=False)
  assert {name: kernel.shape for name, kernel in seen[0].kernels.items()} == {"a": (6, 3), "d": (6, 18)}
  np.testing.assert_array_equal(
    seen[0].kernels["d"][1].reshape(9, 2), model.get_layer("d").kernel.numpy()[:, :, 1].reshape(9, 2)
  )
  assert seen[0].reading_kernels["end"].shape == (6, 8 * 2)
  assert seen[0].parameters == (3 + 1) + (18 + 2) + 8 * 2
  assert report.layers["a"].removed == 3


def test_groups_of_which_nothing_is_said_stay(randomize):
  model = randomize(chain())
  report = plan_prune(
    model, channels=0.5, importance=lambda groups: np.ones(len(groups)) if "c1" in groups.kernels else None
  )
  assert widths(report) == [16, 12, 32, 5]


def test_taylor_takes_what_the_loss_does_not_depend_on(randomize):
  model = randomize(chain((8, 8)))
  model.get_layer("logits").kernel.assign(model.get_layer("logits").kernel * ([[1e-3]] * 4 + [[1.0]] * 4))
  given = {"inputs": random_images(model), "targets": np.arange(8) % 5}
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  smaller, _ = prune(model, channels=0.5, importance="taylor", loss=loss, verify=False, **given)
  np.testing.assert_array_equal(smaller.get_layer("c1_bn").gamma, model.get_layer("c1_bn").gamma[4:])
  model.compile(loss=loss)
  again, _ = prune(model, channels=0.5, importance="taylor", verify=False, **given)
  np.testing.assert_array_equal(smaller.get_weights()[0], again.get_weights()[0])


def test_taylor_takes_the_name_of_the_loss_that_the_model_was_compiled_with(randomize):
  model = randomize(chain((8, 8)))
  given = {"inputs": random_images(model), "targets": np.zeros((8, 5)), "importance": "taylor", "channels": 0.5}
  model.compile(loss="mse")
  named, _ = prune(model, **given, verify=False)
  same, _ = prune(model, **given, loss=keras.losses.MeanSquaredError(), verify=False)
  for one, other in zip(named.get_weights(), same.get_weights(), strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", [layers.Conv2D, layers.Conv2DTranspose, layers.SeparableConv2D])
def test_taylor_without_batch_norms_is_the_change_of_the_loss(randomize, kind):
  """For a loss that is linear in a channel, the first order is all."""
  images = image(4, 4, 3)
  x = kind(4, 2, name="a")(images)
  model = randomize(
    keras.Model(images, layers.Dense(1, use_bias=False, name="end")(layers.GlobalAveragePooling2D()(x)))
  )
  inputs, seen = random_images(model), []
  prune(model, channels=0.5, importance=lambda groups: seen.append(groups) or np.ones(4), verify=False)
  from cifar10.pruning.importance import taylor

  changes = taylor(model, inputs, np.zeros((8, 1)), lambda targets, outputs: outputs)(seen[0])
  (before,) = outputs(model)
  for channel in range(4):
    kernel = model.get_layer("end").kernel.numpy()
    model.get_layer("end").kernel.assign(np.where(np.arange(4)[:, None] == channel, 0, kernel))
    np.testing.assert_allclose(changes[channel], abs((outputs(model)[0] - before).mean()), rtol=1e-6)
    model.get_layer("end").kernel.assign(kernel)


@pytest.mark.usefixtures("float64")
def test_means_of_examples_are_left_behind(randomize):
  """Where all is linear and nothing padded, the mean of the outputs stays."""
  images = image()
  x = layers.Conv2D(8, 1, name="a")(images)
  x = layers.Conv2D(8, 1, name="b", use_bias=False)(layers.DepthwiseConv2D(1)(x))
  model = randomize(keras.Model(images, layers.Dense(3, name="end")(layers.GlobalAveragePooling2D()(x))))
  inputs = random_images(model)
  means = {}
  for left_behind in ("mean", "zero"):
    smaller, report = prune(model, channels=0.5, inputs=inputs, left_behind=left_behind)
    means[left_behind] = outputs(smaller)[0].mean(axis=0)
    assert report.comparison.examples == 8
    assert report.comparison.relative_difference > 0.01
  np.testing.assert_allclose(means["mean"], outputs(model)[0].mean(axis=0), rtol=1e-6)
  assert abs(means["zero"] - means["mean"]).max() > 0.01


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("norm", [{}, {"scale": False}, {"center": False}, {"scale": False, "center": False}])
def test_means_that_batch_norms_know_are_left_behind(randomize, norm):
  images = image()
  x = conv_bn(images, "a", 8, padding="valid", activation=None, norm=norm)
  x = layers.Conv2D(4, 1, name="b")(x)
  model = randomize(keras.Model(images, layers.GlobalAveragePooling2D()(x)))
  inputs = random_images(model)
  recalibrate(model, [inputs])
  smaller, _ = prune(model, channels=0.5, verify=False)
  np.testing.assert_allclose(outputs(smaller)[0].mean(axis=0), outputs(model)[0].mean(axis=0), atol=1e-6)


@pytest.mark.usefixtures("float64")
def test_the_mean_behind_an_activation_is_that_of_a_normal_distribution(randomize):
  images = image(1, 1, 3)
  x = conv_bn(images, "a", 4, size=1)
  model = randomize(keras.Model(images, layers.Conv2D(2, 1, name="b")(x)))
  gamma, beta = (np.array(model.get_layer("a_bn").get_weights()[i]) for i in (0, 1))
  smaller, _ = prune(model, channels=0.5, importance=lambda groups: np.array([0, 1, 2, 3]), verify=False)
  draws = beta[:2] + abs(gamma[:2]) * np.random.default_rng(0).normal(size=(100_000, 2))
  change = smaller.get_layer("b").bias - model.get_layer("b").bias
  expected = np.maximum(draws, 0).mean(axis=0) @ model.get_layer("b").kernel.numpy()[0, 0, :2]
  np.testing.assert_allclose(change, expected, atol=0.03)


@pytest.mark.parametrize(("dead", "width"), [(3, 32), (4, 32), (5, 24), (13, 16), (28, 8), (30, 8)])
def test_without_a_budget_widths_are_rounded_to_the_nearer_multiple(randomize, shut, dead, width):
  model = randomize(chain((32, 32)))
  model.get_layer("c0_bn").gamma.assign(np.arange(32) * (np.arange(32) >= dead))
  shut(model, "c0_bn", range(dead), beta=0.0)
  smaller, report = prune(model, multiple_of=8, importance="gamma", verify=False)
  assert widths(report) == [width, 32, 5]
  living = np.arange(dead, 32)[-width:]
  np.testing.assert_array_equal(smaller.get_layer("c0_bn").gamma.numpy()[-len(living) :], living)


@pytest.mark.parametrize(("share", "width"), [(0.7, 24), (0.6, 16), (0.51, 16), (0.2, 8)])
def test_widths_are_rounded_to_the_nearer_multiple(randomize, share, width):
  model = randomize(chain((32, 32)))
  assert widths(plan_prune(model, channels=share, multiple_of=8)) == [width, width, 5]


def test_widths_are_multiples_under_a_budget(randomize):
  model = randomize(chain((30, 24, 12)))
  smaller, report = prune(model, multiply_adds=0.4, multiple_of=8, verify=False)
  assert all(width % 8 == 0 for width in widths(report)[:-1])
  assert report.multiply_adds_after <= 0.4 * report.multiply_adds_before
  assert smaller.get_layer("c0").filters == widths(report)[0]


def test_a_layer_that_loses_nothing_keeps_its_width(randomize):
  model = randomize(chain((30, 24)))
  assert widths(plan_prune(model, multiply_adds=0.9, multiple_of=8, keep=["c0"]))[0] == 30


def test_no_layer_loses_more_than_its_share(randomize):
  model = randomize(chain())
  weak = model.get_layer("c1")
  weak.kernel.assign(weak.kernel * 1e-3)
  report = plan_prune(
    model, parameters=0.6, importance=lambda groups: groups.kernels.popitem()[1].std(axis=1), max_removed=0.5
  )
  assert all(layer.removed <= 0.5 * layer.channels for layer in report.layers.values())


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_out_of_reach_says_the_least(randomize, budget):
  model = randomize(chain())
  with pytest.raises(ValueError, match="the least is") as caught:
    prune(model, **{budget: 0.05}, max_removed=0.5)
  least = int(str(caught.value).partition("the least is ")[2].partition(" of")[0].replace(",", ""))
  report = plan_prune(model, **{budget: least}, max_removed=0.5)
  assert left(report, budget) == least
  with pytest.raises(ValueError, match="the least is"):
    plan_prune(model, **{budget: least - 1}, max_removed=0.5)


def test_dead_channels_go_first(randomize, shut):
  model = randomize(chain())
  shut(model, "c1_bn", range(6), beta=0.0)
  report = plan_prune(model, parameters=1.0)
  assert widths(report) == [16, 18, 32, 5]
  assert prune(model, parameters=1.0, verify=False)[1] == report


def test_all_kinds_of_convolutions_and_topologies(randomize):
  a, b = image(name="a"), image(name="b")
  shared = layers.Conv2D(8, 3, padding="same", name="shared")
  x, y = shared(a), shared(b)
  inner = keras.Input((8, 8, 8))
  nested = keras.Model(inner, conv_bn(inner, "inner", 12), name="nested")
  x = layers.Conv2DTranspose(8, 2, 2, name="up")(nested(x))
  y = layers.SeparableConv2D(8, 3, padding="same", name="separable")(nested(y))
  y = layers.Conv2D(8, 3, groups=2, padding="same", name="grouped")(layers.UpSampling2D()(y))
  z = layers.Concatenate()([layers.ReLU()(x), y])
  z = z * layers.Conv2D(16, 1, activation="sigmoid", name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(z))
  heads = [layers.Dense(2, name=f"head{i}")(layers.GlobalMaxPooling2D()(t)) for i, t in enumerate((z, y))]
  model = randomize(keras.Model([a, b], heads))
  smaller, report = prune(model, multiply_adds=0.4)
  assert report.multiply_adds_after == multiply_adds(smaller) <= 0.4 * multiply_adds(model)
  assert report == plan_prune(model, multiply_adds=0.4)
  assert all(np.isfinite(y).all() for y in outputs(smaller))
  assert report.comparison.relative_difference > 0


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_float16"])
@pytest.mark.parametrize("importance", ["gamma", "l2", "taylor"])
def test_numbers_of_few_bits(randomize, policy, importance):
  before = keras.config.dtype_policy()
  keras.config.set_dtype_policy(policy)
  try:
    model = randomize(chain((8, 8)))
    given = {"inputs": random_images(model), "targets": np.zeros((8, 5)), "loss": keras.losses.MeanSquaredError()}
    smaller, report = prune(model, channels=0.5, importance=importance, **given)
  finally:
    keras.config.set_dtype_policy(before)
  assert widths(report) == [4, 4, 5]
  assert [variable.dtype for variable in smaller.weights] == [variable.dtype for variable in model.weights]
  assert np.isfinite(report.comparison.largest_difference)


def test_the_whole_budget_leaves_the_function(randomize):
  model = randomize(chain())
  _, report = prune(model, parameters=1.0)
  assert report.comparison.relative_difference < 1e-5
  assert widths(report) == [16, 24, 32, 5]


def test_random_depends_on_the_seed(randomize):
  model = randomize(chain())
  plans = [plan_prune(model, parameters=0.5, importance="random", seed=seed) for seed in (0, 0, 2)]
  assert plans[0] == plans[1] != plans[2]


def test_gamma_without_batch_norms_has_nothing_to_go_by(randomize):
  images = image()
  x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, name="a")(images))
  model = randomize(keras.Model(images, layers.Dense(2)(x)))
  with pytest.raises(ValueError, match="the least is 242 of 242"):
    prune(model, parameters=0.5, importance="gamma")
  assert prune(model, parameters=0.51, importance="l1", verify=False)[1].layers["a"].removed == 4
