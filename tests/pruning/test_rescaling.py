"""Tests of cifar10.pruning.rescaling: gammas get smaller, the function stays."""

import functools

import builders
import keras
import numpy as np
import pytest
from builders import image
from flows import assert_same_function, outputs
from keras import layers, ops

from cifar10.models import MODELS
from cifar10.pruning import ProximalSGD, penalties, scale_gammas, squeeze, unscale_gammas

pytestmark = pytest.mark.usefixtures("float64")

ALPHA = 0.01
conv_bn = functools.partial(builders.conv_bn, use_bias=True, activation=None)


def chain(*tail):
  """A gated convolution, layers, and a convolution."""
  images = image()
  x = conv_bn(images, "a", 6)
  for layer in tail:
    x = layer(x)
  x = layers.Conv2D(2, 3, padding="same", name="end")(x) if len(x.shape) == 4 else layers.Dense(2, name="end")(x)
  return keras.Model(images, x)


def assert_scales(model, **arguments):
  """Asserts that gammas are scaled, and the function stays, there and back."""
  by_path = penalties(model, num_pixels=64)
  assert by_path
  gammas = {v.path: v.numpy() for v in model.variables if v.path in by_path}
  weights, before = model.get_weights(), outputs(model)
  scale_gammas(model, by_path, ALPHA)
  for variable in model.variables:
    if variable.path in by_path:
      np.testing.assert_allclose(variable, ALPHA * gammas[variable.path], rtol=1e-12)
  for y, z in zip(before, outputs(model), strict=True):
    np.testing.assert_allclose(z, y, rtol=1e-9, atol=1e-9)
  unscale_gammas(model, by_path, ALPHA)
  for ours, theirs in zip(model.get_weights(), weights, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize(
  "tail",
  [
    lambda: [layers.ReLU()],
    lambda: [layers.LeakyReLU(0.2)],
    lambda: [layers.PReLU(shared_axes=[1, 2], alpha_initializer="ones")],
    lambda: [layers.Activation("relu"), layers.MaxPooling2D(2), layers.Dropout(0.5), layers.ZeroPadding2D()],
    lambda: [ops.relu, ops.abs, lambda x: -x],
    lambda: [layers.AveragePooling2D(2), layers.Flatten()],
    lambda: [layers.GlobalMaxPooling2D()],
    lambda: [layers.ReLU(), layers.DepthwiseConv2D(3, depth_multiplier=2), layers.Activation("swish")],
    lambda: [layers.ReLU(), layers.SeparableConv2D(4, 3), layers.Activation("swish")],
    lambda: [layers.ReLU(), layers.Conv2D(4, 3, groups=2), layers.Activation("swish")],
    lambda: [layers.ReLU(), layers.Conv2DTranspose(4, 3), layers.Activation("swish")],
    lambda: [lambda x: layers.Add()([x, layers.ReLU()(x)])],
    lambda: [lambda x: layers.Concatenate()([layers.Activation("relu")(x), layers.Conv2D(3, 1)(x)])],
    lambda: [lambda x: x * layers.Conv2D(6, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))],
    lambda: [lambda x: layers.Permute((2, 1, 3))(x), layers.Reshape((4, 16, 6))],
  ],
  ids=range(15),
)
def test_the_function_stays_where_a_factor_passes(randomize, tail):
  assert_scales(randomize(chain(*tail())))


def test_a_batch_norm_without_beta(randomize):
  images = image()
  x = layers.ReLU()(conv_bn(images, "a", 6, norm={"center": False}))
  assert_scales(randomize(keras.Model(images, layers.Conv2D(2, 1)(x))))


def test_a_residual_network_with_a_nested_and_a_shared_block(randomize):
  images = image()
  inner_input = keras.Input((8, 8, 6))
  inner = keras.Model(inner_input, conv_bn(layers.ReLU()(conv_bn(inner_input, "b", 5)), "c", 6), name="block")
  x = layers.ReLU()(conv_bn(images, "a", 6))
  x = layers.ReLU()(x + inner(x))
  x = layers.ReLU()(layers.Add()([inner(x), x]))
  assert_scales(randomize(keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))))


@pytest.mark.parametrize("name", MODELS)
def test_the_networks_of_the_paper(randomize, name):
  keras.config.set_dtype_policy("float64")
  assert_scales(randomize(MODELS[name]()))


@pytest.mark.parametrize(
  ("tail", "named"),
  [
    (lambda: [layers.Activation("swish", name="act")], "act"),
    (lambda: [layers.ReLU(max_value=6, name="act")], "act"),
    (lambda: [layers.ELU(name="act")], "act"),
    (lambda: [layers.Rescaling(2.0, offset=1.0, name="act")], "act"),
    (lambda: [layers.ReLU(), layers.BatchNormalization(scale=False, name="norm")], "norm"),
    (lambda: [layers.GaussianNoise(0.1, name="noise")], "noise"),
    (lambda: [lambda x: x + 3.0], "add"),
    (lambda: [lambda x: ops.mean(x, axis=-1), layers.Flatten()], "mean"),
    (lambda: [lambda x: layers.Add(name="sum")([x, layers.Conv2D(6, 1)(x)])], "sum"),
  ],
  ids=range(9),
)
def test_elsewhere_it_refuses_and_changes_nothing(randomize, tail, named):
  model = randomize(chain(*tail()))
  by_path = {"a_bn/gamma": 1.0}
  weights = model.get_weights()
  with pytest.raises(ValueError, match=f"gammas cannot be scaled: what layer {named}.*leave the gammas"):
    scale_gammas(model, by_path, ALPHA)
  for ours, theirs in zip(model.get_weights(), weights, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_the_gammas_that_are_left_out_stay(randomize):
  images = image()
  x = layers.ReLU()(conv_bn(images, "a", 6))
  x = layers.Activation("swish")(conv_bn(x, "b", 5))
  model = randomize(keras.Model(images, layers.Conv2D(2, 1)(x)))
  by_path = penalties(model)
  before, gamma = outputs(model), model.get_layer("b_bn").gamma.numpy()
  left_out = scale_gammas(model, by_path, ALPHA)
  assert list(left_out) == ["b_bn/gamma"]
  assert left_out["b_bn/gamma"].startswith("what layer activation")
  np.testing.assert_allclose(outputs(model)[0], before[0], rtol=1e-9, atol=1e-9)
  np.testing.assert_array_equal(model.get_layer("b_bn").gamma, gamma)


def test_what_can_be_scaled_is_and_exactly_that_is_undone(randomize):
  """Gammas that meet in a sum are scaled together or not at all, and a shared layer reads one factor."""
  images = image()
  a, b, c = (layers.ReLU()(conv_bn(images, name, 4)) for name in "abc")
  both = layers.Conv2D(4, 1, name="both")
  bent = layers.Activation("swish", name="bent")(b)
  d = conv_bn(both(layers.Add(name="sum")([a, b])), "d", 4)
  e = conv_bn(both(c), "e", 4)
  x = layers.Concatenate()([layers.ReLU()(d), layers.ReLU()(e), bent])
  model = randomize(keras.Model(images, layers.Conv2D(2, 3, name="end")(x)))
  gates = penalties(model)
  before, weights = outputs(model), model.get_weights()
  left_out = scale_gammas(model, gates, ALPHA)
  assert {key: reason.split()[2] for key, reason in left_out.items()} == {
    "b_bn/gamma": "bent",
    "a_bn/gamma": "sum",
    "c_bn/gamma": "both",
  }
  np.testing.assert_allclose(outputs(model)[0], before[0], rtol=1e-9, atol=1e-9)
  scaled = {name: abs(model.get_layer(f"{name}_bn").gamma.numpy()).max() for name in "abcde"}
  assert [name for name, largest in scaled.items() if largest < 0.1] == ["d", "e"]
  with pytest.raises(ValueError, match="cannot be scaled back: what layer bent.*leave b_bn/gamma out"):
    unscale_gammas(model, gates, ALPHA, {})
  unscale_gammas(model, gates, ALPHA, left_out)
  for ours, theirs in zip(model.get_weights(), weights, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
  scale_gammas(model, gates, ALPHA)
  unscale_gammas(model, gates, ALPHA)
  for ours, theirs in zip(model.get_weights(), weights, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_what_was_left_out_is_left_out_of_the_squeezed_model(randomize):
  images = image()
  a = conv_bn(images, "a", 4)
  b = layers.Activation("tanh")(conv_bn(images, "b", 4))
  x = layers.Activation("tanh", name="bent")(layers.Conv2D(2, 1)(layers.Add(name="sum")([a, b])))
  y = layers.Conv2D(2, 1)(layers.ReLU()(conv_bn(images, "c", 4)))
  model = randomize(keras.Model(images, layers.Add()([x, y])))
  gates = dict.fromkeys(("a_bn/gamma", "c_bn/gamma"), 1.0)
  left_out = scale_gammas(model, gates, ALPHA)
  assert list(left_out) == ["a_bn/gamma"]
  gamma = model.get_layer("a_bn").gamma.numpy()
  smaller, _ = squeeze(model)
  unscale_gammas(smaller, gates, ALPHA, left_out)
  np.testing.assert_array_equal(smaller.get_layer("a_bn").gamma, gamma)
  assert_same_function(model, smaller)


def test_around_training_and_squeezing(randomize):
  model = randomize(chain(layers.ReLU(), layers.MaxPooling2D(2)))
  by_path = penalties(model)
  scale_gammas(model, by_path, 0.1)
  model.compile(ProximalSGD(0.001, 1.0, by_path), "mse")
  rng = np.random.default_rng(0)
  model.fit(rng.normal(size=(32, 8, 8, 3)), rng.normal(size=(32, 4, 4, 2)), batch_size=4, epochs=6, verbose=0)
  smaller, report = squeeze(model)
  assert 0 < report.layers["a"].removed < 6
  unscale_gammas(smaller, by_path, 0.1)
  assert_same_function(model, smaller)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("function", [scale_gammas, unscale_gammas])
def test_bad_values_are_named(function, value):
  with pytest.raises(ValueError, match=f"alpha is {value}"):
    function(chain(), {"a_bn/gamma": 1.0}, value)


def test_a_path_that_is_no_gamma_is_named():
  with pytest.raises(ValueError, match="lost/gamma"):
    scale_gammas(chain(), {"a_bn/gamma": 1.0, "lost/gamma": 1.0}, ALPHA)


def test_without_gammas_there_is_nothing_to_scale():
  with pytest.raises(ValueError, match="no gamma"):
    scale_gammas(chain(), {}, ALPHA)
