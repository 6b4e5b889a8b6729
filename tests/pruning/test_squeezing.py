"""Tests of cifar10.pruning.squeezing: the smaller model computes what the model computes, in float64."""

import dataclasses
import json
import logging
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import Subclassed, conv_bn, image
from flows import assert_same_function, outputs
from keras import layers
from marks import takes_text

from cifar10.models import MODELS
from cifar10.pruning import multiply_adds, plan, squeeze

pytestmark = pytest.mark.usefixtures("float64")

BOTH = pytest.mark.parametrize("exact", [True, False])


def difference(model, other):
  """The largest difference of the outputs at each pixel: (height, width)."""
  return abs(outputs(model)[0] - outputs(other)[0]).max(axis=(0, 3))


def removed(report):
  return {name: layer.removed for name, layer in report.layers.items() if layer.removed}


def kept(report):
  return {name: layer.kept_though_dead for name, layer in report.layers.items() if layer.kept_though_dead}


def set_kernel(model, name, index, value=0):
  kernel = model.get_layer(name).kernel
  array = kernel.numpy()
  array[index] = value
  kernel.assign(array)


def rows(*channels):
  """The kernel's weights for input channels."""
  return (..., list(channels), slice(None))


def columns(*channels):
  """The kernel's weights for output channels."""
  return (..., list(channels))


def chain(filters=6, padding="same", activation="relu", size=3, stride=1):
  """Convolution `a`, gated, and convolution `b`, the output."""
  images = image()
  x = conv_bn(images, "a", filters, activation=activation)
  b = layers.Conv2D(4, size, stride, padding, use_bias=False, name="b")
  return keras.Model(images, b(x), name="chain")


# Which channels go.


@BOTH
def test_channels_that_are_0_go(randomize, shut, exact):
  model = randomize(chain())
  shut(model, "a_bn", [0, 3, 4], [-1, -0.5, 0])
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 3}
  assert kept(report) == {}
  a, b = model.get_layer("a").kernel.numpy(), model.get_layer("b").kernel.numpy()
  np.testing.assert_array_equal(smaller.get_layer("a").kernel, a[..., [1, 2, 5]])
  np.testing.assert_array_equal(smaller.get_layer("b").kernel, b[..., [1, 2, 5], :])
  for ours, theirs in zip(smaller.get_layer("a_bn").get_weights(), model.get_layer("a_bn").get_weights()):
    np.testing.assert_array_equal(ours, theirs[[1, 2, 5]])


@BOTH
def test_without_dead_channels_nothing_changes(randomize, exact):
  model = randomize(chain())
  smaller, report = squeeze(model, exact)
  assert removed(report) == kept(report) == {}
  for ours, theirs in zip(smaller.get_weights(), model.get_weights(), strict=True):
    np.testing.assert_array_equal(ours, theirs)


@BOTH
def test_a_small_gamma_is_not_dead(randomize, exact):
  model = randomize(chain())
  gamma = model.get_layer("a_bn").gamma
  gamma.assign([1e-30, *gamma.numpy()[1:]])
  assert removed(squeeze(model, exact)[1]) == {}


@BOTH
def test_constants_are_folded_where_nothing_pads(randomize, shut, exact):
  model = randomize(chain(padding="valid"))
  shut(model, "a_bn", [0, 3, 4], [2, 1, -1])
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 3}
  assert kept(report) == {}
  kernel = model.get_layer("b").kernel.numpy().sum(axis=(0, 1))
  np.testing.assert_allclose(smaller.get_layer("b").bias, 2 * kernel[0] + kernel[3])


@BOTH
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (2, 2), (1, 2)])
def test_same_padding_that_is_never_seen_needs_no_carrier(randomize, shut, exact, size, stride):
  model = randomize(chain(size=size, stride=stride))
  shut(model, "a_bn", [0, 3], [2, 1])
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 2}


@pytest.mark.parametrize("activation", ["relu", "swish"])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (5, 1), (3, 2), (3, 3), (4, 2)])
def test_exact_keeps_a_carrier_for_a_padded_convolution(randomize, shut, size, stride, activation):
  model = randomize(chain(activation=activation, size=size, stride=stride))
  shut(model, "a_bn", [0, 3, 4], [1, 2, 0.5])
  smaller, report = squeeze(model, exact=True)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 2}
  assert kept(report) == {"a": {"carrier": 1}}
  assert not smaller.get_layer("b").use_bias
  a = model.get_layer("a").kernel.numpy()
  np.testing.assert_array_equal(smaller.get_layer("a").kernel, a[..., [1, 2, 3, 5]])


def test_the_carrier_has_the_largest_constant_and_the_sum_of_kernels(randomize, shut):
  model = randomize(chain(activation="linear"))
  shut(model, "a_bn", [0, 2, 5], [1, -4, 2])
  smaller, _ = squeeze(model, exact=True)
  b = model.get_layer("b").kernel.numpy()
  expected = b[..., 2, :] - b[..., 0, :] / 4 - b[..., 5, :] / 2
  np.testing.assert_allclose(smaller.get_layer("b").kernel.numpy()[..., 1, :], expected)
  np.testing.assert_array_equal(smaller.get_layer("a_bn").beta.numpy()[1], -4)


def test_a_single_constant_needs_itself_as_carrier(randomize, shut):
  model = randomize(chain())
  shut(model, "a_bn", [2, 3], [1, -1])
  smaller, report = squeeze(model, exact=True)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 1}
  assert kept(report) == {"a": {"carrier": 1}}


@pytest.mark.parametrize("activation", ["relu", "swish"])
def test_the_papers_folding_is_exact_but_for_the_border(randomize, shut, activation):
  model = randomize(chain(activation=activation))
  shut(model, "a_bn", [0, 3, 4], [1, 2, 0.5])
  smaller, report = squeeze(model, exact=False)
  assert removed(report) == {"a": 3}
  assert kept(report) == {}
  distance = difference(model, smaller)
  assert distance[1:-1, 1:-1].max() < 1e-9
  distance[1:-1, 1:-1] = np.inf
  assert distance.min() > 1e-2


# What follows the constants.


def b_bias(x):
  return layers.Conv2D(4, 3, padding="valid", name="b")(x)


def b_plain(x):
  return layers.Conv2D(4, 3, padding="valid", use_bias=False, name="b")(x)


def b_activation(x):
  return layers.Conv2D(4, 3, activation="tanh", use_bias=False, name="b")(x)


def b_batch_norm(x):
  return layers.BatchNormalization(name="b_bn")(b_plain(x))


def b_batch_norm_behind_activation(x):
  return layers.BatchNormalization(name="b_bn")(b_activation(x))


def b_bias_batch_norm(x):
  return layers.BatchNormalization(name="b_bn")(b_bias(x))


def b_two_batch_norms(x):
  x = b_plain(x)
  both = [layers.BatchNormalization(name=name)(x) for name in ("b_bn", "other_bn")]
  return layers.Add()(both)


def b_batch_norm_after_pool(x):
  return layers.BatchNormalization(name="b_bn")(layers.MaxPooling2D(2)(b_plain(x)))


def b_batch_norm_without_gamma(x):
  return layers.BatchNormalization(scale=False, center=False, name="b_bn")(b_plain(x))


def b_dense(x):
  return layers.Dense(4, use_bias=False, name="b")(x)


def b_dense_flat(x):
  return layers.Dense(4, name="b")(layers.Flatten()(x))


def b_dense_flat_plain(x):
  return layers.Dense(4, use_bias=False, name="b")(layers.Flatten()(layers.MaxPooling2D(4)(x)))


def b_dense_pooled(x):
  x = layers.Dense(4, use_bias=False, name="b")(layers.GlobalAveragePooling2D()(x))
  return layers.BatchNormalization(name="b_bn")(x)


@BOTH
@pytest.mark.parametrize(
  ("tail", "takes_it"),
  [
    (b_bias, "bias"),
    (b_plain, "new bias"),
    (b_activation, "new bias"),
    (b_batch_norm, "moving mean"),
    (b_batch_norm_behind_activation, "new bias"),
    (b_bias_batch_norm, "bias"),
    (b_two_batch_norms, "new bias"),
    (b_batch_norm_after_pool, "new bias"),
    (b_batch_norm_without_gamma, "moving mean"),
    (b_dense, "new bias"),
    (b_dense_flat, "bias"),
    (b_dense_flat_plain, "new bias"),
    (b_dense_pooled, "moving mean"),
  ],
)
def test_where_constants_are_folded(randomize, shut, exact, tail, takes_it):
  images = image()
  model = randomize(keras.Model(images, tail(conv_bn(images, "a", 6))))
  shut(model, "a_bn", [1, 2, 5], [2, 1, 3])
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 3}
  before, after = model.get_layer("b"), smaller.get_layer("b")
  assert after.use_bias == (takes_it in ("bias", "new bias"))
  assert before.use_bias == (takes_it == "bias")
  names = {layer.name for layer in model.layers}
  if "b_bn" in names:
    means = [m.get_layer("b_bn").moving_mean.numpy() for m in (model, smaller)]
    assert (means[0] != means[1]).all() == (takes_it == "moving mean")


@BOTH
def test_a_batch_norm_is_left_alone_where_its_convolution_is_an_output(randomize, shut, exact):
  images = image()
  x = b_plain(conv_bn(images, "a", 6))
  model = randomize(keras.Model(images, [x, layers.BatchNormalization(name="b_bn")(x)]))
  shut(model, "a_bn", [1, 2], [2, 1])
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 2}


@BOTH
def test_constants_pass_pooling_and_dropout(randomize, shut, exact):
  images = image()
  x = layers.MaxPooling2D(3, 2, padding="same")(conv_bn(images, "a", 6))
  x = layers.AveragePooling2D(3, 1, padding="same")(layers.Dropout(0.5)(x))
  model = randomize(keras.Model(images, b_bias(x)))
  shut(model, "a_bn", [1, 2], [2, 1])
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 2}


# Sums.


def residual(end_padding="same"):
  """Two gated branches, `a` and `b`, their sum, and a convolution that reads it."""
  images = image()
  terms = [conv_bn(images, name, 6, activation="linear") for name in ("a", "b")]
  end = layers.Conv2D(4, 3, padding=end_padding, name="end")
  return keras.Model(images, end(layers.Add(name="sum")(terms)))


@BOTH
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_channel_of_a_sum_goes_where_all_terms_are_dead(randomize, shut, exact, padding):
  model = randomize(residual(padding))
  shut(model, "a_bn", [0, 1, 2], [0, 1, -2])
  shut(model, "b_bn", [1, 2, 3], [2, 1, 0])
  smaller, report = squeeze(model, exact)
  carrier = exact and padding == "same"
  assert removed(report) == {"a": 2 - carrier, "b": 2 - carrier}
  reasons = {"carrier": 1, "shared": 1} if carrier else {"shared": 1}
  assert kept(report) == {"a": reasons, "b": reasons}
  if exact or padding == "valid":
    assert_same_function(model, smaller)
  else:
    assert difference(model, smaller)[1:-1, 1:-1].max() < 1e-9


@BOTH
def test_constants_that_cancel_in_a_sum_need_no_carrier(randomize, shut, exact):
  model = randomize(residual())
  shut(model, "a_bn", [1, 2], [0.5, -2])
  shut(model, "b_bn", [1, 2], [-0.5, 2])
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 2, "b": 2}


@BOTH
def test_a_channel_of_a_sum_that_nothing_reads_goes(randomize, exact):
  model = randomize(residual())
  set_kernel(model, "end", rows(1, 4))
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 2, "b": 2}


@BOTH
def test_a_residual_block_with_a_shortcut_convolution(randomize, shut, exact):
  images = image()
  x = stem = conv_bn(images, "stem", 5)
  shortcut = layers.Conv2D(6, 2, 2, "same", use_bias=False, name="shortcut")(x)
  x = conv_bn(x, "inside", 6, stride=2)
  x = conv_bn(x, "branch", 6, activation="linear")
  x = layers.Add(name="sum")([shortcut, x])
  x = layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(x))
  model = randomize(keras.Model(images, x))
  shut(model, "stem_bn", [0], [-1])
  shut(model, "inside_bn", [1, 2], [-1, -2])
  shut(model, "branch_bn", [3, 4], [1, 2])
  set_kernel(model, "shortcut", columns(4, 5))
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"stem": 1, "inside": 2, "shortcut": 1, "branch": 1}
  assert kept(report) == {"shortcut": {"shared": 1}, "branch": {"shared": 1}}
  assert stem.shape[-1] == 5


@BOTH
def test_read_by_two_convolutions(randomize, shut, exact):
  images = image()
  x = conv_bn(images, "a", 6)
  ends = [
    layers.Conv2D(4, 3, padding="same", name="padded")(x),
    layers.Conv2D(4, 3, padding="valid", name="unpadded")(x),
  ]
  model = randomize(keras.Model(images, ends))
  shut(model, "a_bn", [0, 1, 2, 3], [1, 2, 3, -1])
  set_kernel(model, "padded", rows(2))
  smaller, report = squeeze(model, exact)
  if exact:
    assert_same_function(model, smaller)
    assert removed(report) == {"a": 3}
    assert kept(report) == {"a": {"carrier": 1}}
  else:
    np.testing.assert_allclose(outputs(smaller)[1], outputs(model)[1], rtol=1e-9, atol=1e-9)
    assert removed(report) == {"a": 4}


def test_carriers_where_two_padded_convolutions_read_different_channels(randomize, shut):
  images = image()
  x = conv_bn(images, "a", 6)
  ends = [layers.Conv2D(4, 3, padding="same", name=name)(x) for name in ("left", "right")]
  model = randomize(keras.Model(images, ends))
  shut(model, "a_bn", [0, 1, 2, 3], [1, 4, 3, 2])
  set_kernel(model, "left", rows(2))
  set_kernel(model, "right", rows(1))
  smaller, report = squeeze(model, exact=True)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 3}
  assert kept(report) == {"a": {"carrier": 1}}
  np.testing.assert_array_equal(smaller.get_layer("a_bn").beta[0], 2)  # the one that both read


def test_padded_convolutions_that_read_no_channel_in_common_have_a_carrier_each(randomize, shut):
  images = image()
  x = conv_bn(images, "a", 7)
  ends = [layers.Conv2D(4, 3, padding="same", name=name)(x) for name in ("left", "right")]
  model = randomize(keras.Model(images, ends))
  shut(model, "a_bn", [0, 1, 2, 3, 4], [1, 2, 3, 4, 5])
  set_kernel(model, "left", rows(0, 1, 2))
  set_kernel(model, "right", rows(3, 4))
  smaller, report = squeeze(model, exact=True)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 3}
  assert kept(report) == {"a": {"carrier": 2}}
  np.testing.assert_array_equal(smaller.get_layer("a_bn").beta.numpy()[:2], [3, 5])
  assert removed(squeeze(smaller, exact=True)[1]) == {}


@BOTH
def test_dead_for_one_reader_and_alive_for_another(randomize, exact):
  images = image()
  x = conv_bn(images, "a", 6)
  ends = [layers.Conv2D(4, 3, name=name)(x) for name in ("left", "right")]
  model = randomize(keras.Model(images, ends))
  set_kernel(model, "left", rows(1, 2))
  set_kernel(model, "right", rows(2, 3))
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 1}


@BOTH
def test_read_by_a_convolution_and_a_sum(randomize, shut, exact):
  images = image()
  x = conv_bn(images, "a", 6)
  y = conv_bn(x, "b", 6, padding="same")
  z = layers.Add(name="sum")([x, y])
  model = randomize(keras.Model(images, layers.Conv2D(2, 1, name="end")(z)))
  shut(model, "a_bn", [0, 1, 2], [-1, -2, 1])
  shut(model, "b_bn", [1, 2, 3], [1, 2, 1])
  smaller, report = squeeze(model, exact)
  assert removed(report) == ({"a": 1, "b": 1} if exact else {"a": 2, "b": 2})
  if exact:
    assert_same_function(model, smaller)
    assert kept(report)["a"] == {"carrier": 1, "shared": 1}
  else:
    assert difference(model, smaller)[1:-1, 1:-1].max() < 1e-9


# Dead for other reasons than a gamma.


@BOTH
def test_a_channel_that_nothing_reads_goes(randomize, exact):
  images = image()
  x = conv_bn(conv_bn(images, "a", 6), "b", 5)
  model = randomize(keras.Model(images, layers.Conv2D(2, 3, padding="same", name="end")(x)))
  set_kernel(model, "end", rows(1, 2))
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"b": 2}


@BOTH
def test_a_convolution_with_a_kernel_of_0_is_constant(randomize, exact):
  images = image()
  x = layers.Conv2D(6, 3, name="a")(images)
  x = layers.BatchNormalization(name="a_bn")(x)
  model = randomize(keras.Model(images, layers.Conv2D(2, 3, name="end")(x)))
  set_kernel(model, "a", columns(2, 3))
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 2}


@BOTH
def test_what_fed_only_dead_channels_dies_too(randomize, shut, exact):
  images = image()
  x = conv_bn(images, "a", 6)
  x = conv_bn(x, "b", 5)
  x = conv_bn(x, "c", 4)
  model = randomize(keras.Model(images, layers.Conv2D(2, 1, name="end")(x)))
  for output in (0, 2, 3, 4):
    set_kernel(model, "b", (..., [0, 1], output))  # a's 0 and 1 go into b's 1 alone
  for output in (0, 2, 3):
    set_kernel(model, "c", (..., 1, output))  # b's 1 goes into c's 1 alone
  shut(model, "c_bn", [1], [3])
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 2, "b": 1, "c": 1}


@BOTH
def test_what_reads_only_constants_is_constant_too(randomize, shut, exact):
  images = image()
  x = conv_bn(images, "a", 6)
  x = conv_bn(x, "b", 5, padding="valid", activation="swish")
  x = conv_bn(x, "c", 4, size=1, activation="swish")
  model = randomize(keras.Model(images, layers.Conv2D(2, 1, name="end")(x)))
  shut(model, "a_bn", [1, 2], [1, 2])
  set_kernel(model, "b", (..., [0, 3, 4, 5], 2))
  set_kernel(model, "c", (..., [0, 1, 3, 4], 3))
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"a": 2, "b": 1, "c": 1}


# A layer with all channels dead.


@BOTH
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("beta", [-1, 2])
@pytest.mark.parametrize("activation", ["relu", "swish"])
def test_of_a_dead_layer_one_channel_stays(randomize, shut, caplog, exact, padding, beta, activation):
  images = image()
  x = conv_bn(images, "a", 6, activation=activation)
  x = conv_bn(x, "b", 4, padding=padding)
  model = randomize(keras.Model(images, layers.Conv2D(2, 3, name="end")(x)))
  shut(model, "a_bn", range(6), beta * np.arange(1, 7) / 4)
  with caplog.at_level(logging.WARNING):
    smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert report.layers["a"].removed == 5
  assert sum(report.layers["a"].kept_though_dead.values()) == 1
  warnings = [record.getMessage() for record in caplog.records]
  assert any("layer a " in warning for warning in warnings)
  lost = padding == "valid" or (activation == "relu" and beta < 0)
  assert any("layer b " in warning for warning in warnings) == lost
  assert report.layers["b"].removed == (3 if lost else 0)
  assert np.all(smaller.get_layer("a_bn").gamma.numpy() == 0)
  again, second = squeeze(smaller, exact)
  assert removed(second) == {}
  assert_same_function(model, again)


@BOTH
def test_a_dead_branch_of_a_sum_keeps_the_width_of_the_sum(randomize, shut, exact):
  model = randomize(residual())
  shut(model, "a_bn", range(6), 1)
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {}
  assert kept(report) == {"a": {"shared": 6}}


def test_no_warning_while_a_channel_is_alive(randomize, shut, caplog):
  model = randomize(chain())
  shut(model, "a_bn", range(5), range(-2, 3))
  with caplog.at_level(logging.WARNING):
    squeeze(model)
  assert not caplog.records


# Squeezing twice.


def test_what_read_only_folded_constants_goes_with_them(randomize, shut):
  images = image()
  x = conv_bn(images, "a", 6)
  x = conv_bn(x, "b", 5)
  model = randomize(keras.Model(images, layers.Conv2D(2, 1, name="end")(x)))
  shut(model, "a_bn", [1, 2], [1, 2])
  set_kernel(model, "b", (..., [0, 3, 4, 5], 2))
  smaller, report = squeeze(model, exact=False)
  assert removed(report) == {"a": 2, "b": 1}
  assert smaller.get_layer("b").kernel.shape == (3, 3, 4, 4)
  assert removed(squeeze(smaller, exact=False)[1]) == {}
  assert difference(model, smaller)[1:-1, 1:-1].max() < 1e-9


# The model that is squeezed, and the one that comes out.


@BOTH
def test_the_model_is_left_alone(randomize, shut, exact):
  model = randomize(residual())
  shut(model, "a_bn", [1, 2], [1, 2])
  shut(model, "b_bn", [1, 2], [1, 2])
  config, weights, before = model.get_config(), model.get_weights(), outputs(model)
  smaller, _ = squeeze(model, exact)
  assert smaller.count_params() < model.count_params()
  for variable in smaller.variables:
    variable.assign(np.zeros(variable.shape))
  assert model.get_config() == config
  for value, old in zip(model.get_weights() + outputs(model), weights + before, strict=True):
    np.testing.assert_array_equal(value, old)


def test_names_and_settings_stay(randomize, shut):
  images = image()
  x = conv_bn(images, "a", 6, kernel_regularizer=keras.regularizers.L2(0.25), kernel_constraint="max_norm")
  x = layers.MaxPooling2D(3, 2, padding="same", name="pool")(x)
  x = layers.Conv2D(5, 3, 2, "same", dilation_rate=1, activation="elu", name="b")(x)
  model = randomize(keras.Model(images, x, name="settings"))
  model.get_layer("a_bn").trainable = False
  shut(model, "a_bn", [1, 2, 3], [1, 2, -1])
  smaller, _ = squeeze(model)
  assert smaller.name == "settings"
  assert smaller.input.name == model.input.name == "images"
  assert [v.path for v in smaller.variables] == [v.path for v in model.variables]
  assert [v.path for v in smaller.trainable_variables] == ["a/kernel", "b/kernel", "b/bias"]
  for before, after in zip(model.layers, smaller.layers, strict=True):
    expected = before.get_config()
    if before.name == "a":
      assert expected["filters"] == 6
      expected["filters"] = 4
    assert type(after) is type(before)
    assert after.get_config() == expected
  kernel = smaller.get_layer("a").kernel.numpy()
  np.testing.assert_allclose(smaller.losses, [0.25 * (kernel**2).sum()])


def test_the_squeezed_model_trains(randomize, shut):
  model = randomize(chain())
  shut(model, "a_bn", [1, 2], [1, -1])
  smaller, _ = squeeze(model)
  smaller.compile("sgd", "mse")
  before = smaller.get_weights()
  smaller.fit(np.ones((4, 8, 8, 3)), np.ones((4, 8, 8, 4)), verbose=0)
  assert any((a != b).any() for a, b in zip(smaller.get_weights(), before))


@BOTH
def test_the_squeezed_model_is_saved_and_loaded(randomize, shut, tmp_path, exact):
  images = image()
  x = conv_bn(images, "a", 6)
  x = layers.Add()([conv_bn(x, "b", 6), x])
  x = layers.Dense(4, use_bias=False, name="end")(layers.Flatten()(layers.MaxPooling2D(4)(x)))
  model = randomize(keras.Model(images, x))
  for name in ("a_bn", "b_bn"):
    shut(model, name, [1, 2, 4], [1, 2, -1])
  smaller, report = squeeze(model, exact)
  assert removed(report)
  smaller.save(tmp_path / "model.keras")
  loaded = keras.saving.load_model(tmp_path / "model.keras")
  assert loaded.count_params() == smaller.count_params() == report.parameters_after
  assert_same_function(smaller, loaded)
  assert removed(squeeze(loaded, exact)[1]) == {}


def test_layers_and_inputs_without_names(randomize):
  images = keras.Input((8, 8, 3))
  x = layers.BatchNormalization()(layers.Conv2D(6, 3)(images))
  model = randomize(keras.Model(images, layers.Conv2D(2, 3)(layers.ReLU()(x))))
  model.layers[2].gamma.assign([0, 0, 1, 1, 1, 1])
  smaller, report = squeeze(model)
  assert_same_function(model, smaller)
  assert removed(report) == {model.layers[1].name: 2}


def test_several_inputs_and_outputs(randomize, shut):
  inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 2))]
  x, y = conv_bn(inputs[0], "a", 5), conv_bn(inputs[1], "b", 5)
  ends = {
    "sum": layers.Conv2D(2, 3, name="c")(layers.Add()([x, y])),
    "b": layers.Conv2D(2, 3, name="d")(y),
  }
  model = randomize(keras.Model(inputs, ends))
  shut(model, "a_bn", [1, 2], [1, 2])
  shut(model, "b_bn", [1, 2], [1, 2])
  smaller, report = squeeze(model)
  assert removed(report) == {"a": 2, "b": 2}
  rng = np.random.default_rng(0)
  images = [rng.normal(size=(2, *x.shape[1:])) for x in inputs]
  before, after = model(images), smaller(images)
  assert before.keys() == after.keys()
  for name in before:
    np.testing.assert_allclose(after[name], before[name], rtol=1e-9, atol=1e-9)


@BOTH
def test_an_input_without_fixed_size(randomize, shut, exact):
  images = image(None, None, 3)
  x = conv_bn(images, "a", 6)
  x = layers.GlobalAveragePooling2D()(conv_bn(x, "b", 5, size=2, stride=2))
  model = randomize(keras.Model(images, layers.Dense(2, name="end")(x)))
  shut(model, "a_bn", [1, 2], [1, 2])
  shut(model, "b_bn", [1, 2], [1, 2])
  smaller, report = squeeze(model, exact)
  # An odd size is padded, so that a carrier is needed.
  assert removed(report) == ({"a": 1, "b": 2} if exact else {"a": 2, "b": 2})
  assert report.multiply_adds_before is None
  assert report.multiply_adds_after is None
  images = np.random.default_rng(0).normal(size=(3, 7 if exact else 6, 6, 3))
  np.testing.assert_allclose(smaller(images), model(images), rtol=1e-9, atol=1e-9)


def test_a_model_that_is_not_functional_is_refused():
  with pytest.raises(ValueError, match="no functional Keras model"):
    squeeze(Subclassed())


FACTOR = 2.0


def doubled(x):
  """Uses a global."""
  return FACTOR * x


@pytest.mark.parametrize("function", [lambda x: keras.ops.flip(x, 1), lambda x: FACTOR * x, doubled])
@pytest.mark.parametrize("output_shape", [(8, 8, 6), None])
def test_a_lambda_layer_keeps_its_function(randomize, shut, function, output_shape):
  images = image()
  x = layers.Lambda(function, output_shape=output_shape, name="flip")(conv_bn(images, "a", 6))
  model = randomize(keras.Model(images, layers.Conv2D(2, 1)(conv_bn(x, "b", 4))))
  shut(model, "b_bn", [0, 1])
  smaller, report = squeeze(model)
  assert_same_function(model, smaller)
  of_values = np.array_equal(function(np.eye(2)), FACTOR * np.eye(2))
  # An output shape holds the number of channels.
  assert report.walls == ([] if of_values and output_shape is None else ["flip"])
  assert report.layers["b"].removed > 0


def test_functions_that_keras_does_not_know_by_name_stay(randomize, shut):
  images = image()
  x = layers.Conv2D(6, 3, kernel_initializer=lambda shape, dtype: keras.ops.ones(shape, dtype), name="a")(images)
  x = layers.Activation(doubled, name="act")(layers.BatchNormalization(name="a_bn")(x))
  model = randomize(keras.Model(images, layers.Conv2D(2, 1)(conv_bn(x, "b", 4))))
  shut(model, "b_bn", [0, 1])
  smaller, _ = squeeze(model)
  assert_same_function(model, smaller)
  assert smaller.get_layer("act").activation is doubled


@takes_text
def test_what_lookups_have_learnt_is_copied(shut):
  words = keras.Input((4,), dtype="string")
  lookup = layers.StringLookup(name="lookup")
  lookup.adapt(["a", "b", "c"])
  x = layers.Conv1D(6, 2, use_bias=False, name="a")(layers.Embedding(6, 5)(lookup(words)))
  x = layers.GlobalMaxPooling1D()(layers.BatchNormalization(name="a_bn")(x))
  model = keras.Model(words, layers.Dense(2)(x), name="words")
  shut(model, "a_bn", [0, 3])
  text = tf.constant([["a", "b", "c", "a"], ["c", "d", "a", "b"]])
  smaller, report = squeeze(model)
  assert removed(report) == {"a": 2}
  np.testing.assert_allclose(smaller(text), model(text), rtol=1e-9)
  with pytest.raises(ValueError, match="input .* of words takes text: give inputs"):
    squeeze(model, threshold=0.1)
  assert squeeze(model, threshold=0.1, inputs=text)[1].comparison.examples == 2


def test_masks(randomize, shut):
  tokens = keras.Input((7,), dtype="int32")
  x = layers.Embedding(9, 5, mask_zero=True)(tokens)
  x = layers.BatchNormalization(name="a_bn")(layers.Dense(6, name="a")(x))
  x = layers.Dropout(0.5)(layers.Dense(5, name="b")(layers.ReLU()(x)))
  model = randomize(keras.Model(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D(name="pool")(x))))
  shut(model, "a_bn", [0, 3], -1)
  smaller, report = squeeze(model)
  assert removed(report) == {"a": 2}
  assert "pool" in report.walls
  given = np.random.default_rng(0).integers(0, 9, (4, 7))
  np.testing.assert_allclose(smaller(given), model(given), rtol=1e-9)


@pytest.mark.parametrize("merge", [layers.Multiply, layers.Maximum, layers.Add])
def test_merging_layers_that_heed_masks_are_walls(randomize, merge):
  tokens = [keras.Input((7,), dtype="int32") for _ in range(2)]
  branches = []
  for name, x in zip("ab", tokens):
    x = layers.Embedding(9, 5, mask_zero=True)(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(layers.Dense(4, name=name)(x))
    branches.append(x)
  x = layers.Dense(2)(layers.Flatten()(merge(name="merged")(branches)))
  model = randomize(keras.Model(tokens, x))
  for name in "ab":
    model.get_layer(f"{name}_bn").gamma.assign([0, 0, 1, 1])
    model.get_layer(f"{name}_bn").beta.assign([0, 1, 1, 1])
  smaller, report = squeeze(model)
  assert "merged" in report.walls
  given = [np.random.default_rng(seed).integers(0, 9, (4, 7)) for seed in (0, 1)]
  np.testing.assert_allclose(smaller(given), model(given), rtol=1e-9)


def test_a_nested_model_that_is_called_in_training_too(randomize, shut):
  images, inner_input = image(), keras.Input((8, 8, 4))
  inner = keras.Model(inner_input, conv_bn(inner_input, "b", 4), name="encoder")
  x = layers.Conv2D(4, 1, name="a")(images)
  model = randomize(keras.Model(images, layers.Conv2D(2, 1)(layers.Add()([inner(x), inner(x, training=True)]))))
  shut(inner, "b_bn", [0, 1], -1)
  smaller, report = squeeze(model)
  assert removed(report) == {}
  assert_same_function(model, smaller)


def test_layers_that_share_weights_with_a_wall_share_them_still(randomize, shut):
  images, row = image(), keras.Input((2, 8, 8, 3))
  conv = layers.Conv2D(4, 1, name="conv")
  x = layers.Conv2D(2, 1)(conv_bn(conv(images), "a", 6))
  model = randomize(keras.Model([images, row], [x, layers.TimeDistributed(conv, name="each")(row)]))
  shut(model, "a_bn", [0, 1], -1)
  smaller, report = squeeze(model)
  assert removed(report) == {"a": 2}
  assert report.walls == ["conv", "each"]
  assert smaller.get_layer("conv") is smaller.get_layer("each").layer is not conv
  assert_same_function(model, smaller)


def test_frozen_layers_within_a_wall_stay_frozen():
  tokens = keras.Input((4, 6))
  attention = layers.MultiHeadAttention(2, 3, name="attention")
  model = keras.Model(tokens, layers.Dense(2)(attention(tokens, tokens)))
  attention._query_dense.trainable = False
  smaller, _ = squeeze(model)
  assert len(smaller.trainable_weights) == len(model.trainable_weights) < len(model.weights)


def test_losses_and_operations_of_the_model_stay(randomize):
  images = image()
  x = keras.ops.relu(layers.Activation("relu", activity_regularizer="l2", name="act")(layers.Conv2D(4, 1)(images)))
  model = randomize(keras.Model(images, layers.Conv2D(2, 1)(x)))
  model(np.ones((1, 8, 8, 3)))
  losses = [float(loss) for loss in model.losses]
  assert losses[0] > 0
  plan(model)
  squeeze(model)
  assert [float(loss) for loss in model.losses] == losses


def test_carriers_make_no_huge_kernels(randomize):
  images = image()
  x = layers.BatchNormalization(name="a_bn")(layers.Conv2D(4, 1, name="a")(images))
  y = layers.Conv2D(2, 3, padding="same", name="b", use_bias=False)(x)
  z = layers.Conv2D(2, 3, padding="same", name="c", use_bias=False)(layers.Activation("swish")(x))
  model = randomize(keras.Model(images, layers.Add()([y, z])))
  model.get_layer("a_bn").gamma.assign([0, 0, 1, 1])
  model.get_layer("a_bn").beta.assign([-60, -1, 0, 0])
  smaller, _ = squeeze(model)
  assert_same_function(model, smaller)
  for name in ("b", "c"):
    assert abs(smaller.get_layer(name).kernel.numpy()).max() < 20 * abs(model.get_layer(name).kernel.numpy()).max()


class Applied(layers.Layer):
  """A layer whose argument Keras cannot put into its config."""

  def __init__(self, function, **kwargs):
    super().__init__(**kwargs)
    self.function = function

  def call(self, inputs):
    return self.function(inputs)


def test_a_layer_without_a_config_stays():
  images = image()
  model = keras.Model(images, layers.Conv2D(2, 1)(Applied(abs, name="own")(images)))
  smaller, report = squeeze(model)
  assert_same_function(model, smaller)
  assert report.walls == plan(model).walls == ["own"]


def test_a_sequential_model_stays_one(randomize, shut):
  model = keras.Sequential(
    [image(), layers.Conv2D(4, 3, name="a"), layers.BatchNormalization(name="a_bn"), layers.Conv2D(2, 1)], name="row"
  )
  randomize(model)
  shut(model, "a_bn", [0, 3], 0)
  smaller, report = squeeze(model, threshold=1e-6)
  assert type(smaller) is keras.Sequential
  assert removed(report) == {"a": 2}
  assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]
  assert report.comparison.relative_difference < 1e-9
  assert_same_function(model, smaller)


def test_adapted_statistics_stay_whole(shut):
  images = image()
  x = layers.Normalization(name="norm")(conv_bn(images, "a", 4))
  model = keras.Model(images, layers.Conv2D(2, 1)(x))
  model.get_layer("norm").adapt(np.random.default_rng(0).normal(size=(7, 8, 8, 4)) + 2)
  shut(model, "a_bn", [1, 2], [-1, -1])
  smaller, report = squeeze(model)
  assert removed(report) == {"a": 2}
  ours, theirs = (each.get_layer("norm") for each in (smaller, model))
  np.testing.assert_array_equal(ours.adapt_mean, theirs.adapt_mean.numpy()[[0, 3]])
  np.testing.assert_array_equal(ours.count, theirs.count)
  assert_same_function(model, smaller)


def test_flags_and_settings_of_layers_survive(randomize, shut):
  images = image()
  settings = {"kernel_regularizer": keras.regularizers.L2(1e-4), "kernel_initializer": keras.initializers.HeNormal(7)}
  x = conv_bn(images, "a", 6, **settings, kernel_constraint=keras.constraints.MaxNorm(3))
  inner_input = keras.Input((8, 8, 6))
  inner = keras.Model(inner_input, conv_bn(inner_input, "inner", 5), name="inner_model")
  model = randomize(keras.Model(images, layers.Conv2D(2, 1, name="end")(inner(x))))
  shut(model, "a_bn", [0, 1], -1)
  model.get_layer("a_bn").trainable = False
  inner.trainable = False
  smaller, _ = squeeze(model)
  before, after = (each.get_layer("a").get_config() for each in (model, smaller))
  assert after == {**before, "filters": 4}
  assert [v.path for v in smaller.trainable_variables] == [v.path for v in model.trainable_variables]
  assert not smaller.get_layer("inner_model").trainable
  assert not smaller.get_layer("a_bn").trainable


# The report.


def test_numbers_of_the_report(randomize, shut):
  images = image()
  x = conv_bn(images, "a", 6, stride=2)
  x = layers.MaxPooling2D(2)(conv_bn(x, "b", 5))
  model = randomize(keras.Model(images, layers.Dense(3, name="end")(layers.Flatten()(x))))
  shut(model, "a_bn", [0, 1, 2], [1, 2, -1])
  shut(model, "b_bn", [3], [1])
  smaller, report = squeeze(model, exact=True)
  assert report.parameters_before == (27 * 6 + 4 * 6) + (9 * 6 * 5 + 4 * 5) + (4 * 5 * 3 + 3)
  assert report.parameters_after == (27 * 4 + 4 * 4) + (9 * 4 * 4 + 4 * 4) + (4 * 4 * 3 + 3)
  assert report.parameters_before == model.count_params()
  assert report.parameters_after == smaller.count_params()
  assert report.multiply_adds_before == 16 * 27 * 6 + 16 * 9 * 6 * 5 + 4 * 5 * 3
  assert report.multiply_adds_after == 16 * 27 * 4 + 16 * 9 * 4 * 4 + 4 * 4 * 3
  assert report.multiply_adds_before == multiply_adds(model)
  assert report.multiply_adds_after == multiply_adds(smaller)
  assert json.loads(json.dumps(dataclasses.asdict(report)))["layers"] == {
    "a": {"channels": 6, "removed": 2, "kept_though_dead": {"carrier": 1}},
    "b": {"channels": 5, "removed": 1, "kept_though_dead": {}},
    "end": {"channels": 3, "removed": 0, "kept_though_dead": {}},
  }


def test_multiply_adds_of_the_networks():
  first, stage, heads = 32 * 32 * 27 * 16, 32 * 32 * 9 * 16 * 16, 64 * 10
  shortcuts = 16 * 16 * 4 * 16 * 32 + 8 * 8 * 4 * 32 * 64
  resnet20 = first + 6 * stage + 2 * (stage // 2 + 5 * stage) + shortcuts + heads
  assert multiply_adds(MODELS["resnet20"]()) == resnet20 == 41599616


def test_channels_of_an_output_stay(randomize, shut):
  images = image()
  x = layers.Flatten()(conv_bn(images, "a", 6))
  model = randomize(keras.Model(images, x))
  shut(model, "a_bn", [1, 2], [1, 2])
  smaller, report = squeeze(model)
  assert_same_function(model, smaller)
  assert removed(report) == {}
  assert kept(report) == {"a": {"output": 2}}


@BOTH
def test_channels_that_reach_a_wall_stay(randomize, shut, exact):
  images = image()
  x = conv_bn(images, "a", 6)
  x = layers.LayerNormalization(name="norm")(x)
  x = conv_bn(x, "b", 6)
  model = randomize(keras.Model(images, layers.Conv2D(2, 3, name="end")(x)))
  shut(model, "a_bn", [1, 2], [1, 2])
  shut(model, "b_bn", [1, 2], [1, 2])
  smaller, report = squeeze(model, exact)
  assert_same_function(model, smaller)
  assert removed(report) == {"b": 2}
  assert kept(report) == {"a": {"norm": 2}}
  assert report.walls == ["norm"]


# What the caller asks for.


@BOTH
def test_keep_protects_the_channels_of_a_layer(randomize, shut, exact):
  model = randomize(chain())
  shut(model, "a_bn", [0, 3, 4], 0)
  for name in ("a", "a_bn", "a_act"):
    smaller, report = squeeze(model, exact, keep=[name])
    assert_same_function(model, smaller)
    assert removed(report) == {}
    assert kept(report) == {"a": {"keep": 3}}
  assert removed(squeeze(model, exact, keep=["b"])[1]) == {"a": 3}


@pytest.mark.parametrize("names", [["a", "c"], "a"])
def test_keep_names_layers_of_the_model(names):
  with pytest.raises(ValueError, match=r"keep names 'c', but chain has no such layer|keep is 'a'; it is a list"):
    squeeze(chain(), keep=names)


def test_keep_of_a_nested_model_or_a_shared_layer(randomize, shut):
  images, inner_input = image(), keras.Input((8, 8, 4))
  shared = layers.BatchNormalization(name="shared_bn")
  inner = keras.Model(inner_input, shared(conv_bn(inner_input, "b", 4)), name="encoder")
  x = shared(inner(layers.Conv2D(4, 1, name="a")(images)))
  model = randomize(keras.Model(images, layers.Conv2D(2, 1)(x)))
  shut(inner, "b_bn", [0, 1], -1)
  shared.gamma.assign([1e-3, 1, 1, 1])
  assert kept(squeeze(model, keep=["encoder"])[1])["encoder/b"] == {"keep": 2}
  for name in ("encoder/shared_bn", "shared_bn"):
    smaller, _ = squeeze(model, threshold=0.1, keep=[name])
    np.testing.assert_array_equal(smaller.get_layer("shared_bn").gamma, [1e-3, 1, 1, 1])


@BOTH
@pytest.mark.parametrize(("floor", "left"), [(1, 2), (2, 2), (4, 4), (6, 6), (9, 6)])
def test_min_channels_is_a_floor(randomize, shut, exact, floor, left):
  model = randomize(chain())
  shut(model, "a_bn", range(4), -1)
  smaller, report = squeeze(model, exact, min_channels=floor)
  assert_same_function(model, smaller)
  assert smaller.get_layer("a").filters == left
  assert smaller.get_layer("b").filters == 4
  assert kept(report) == ({"a": {"width": left - 2}} if left > 2 else {})
  assert report == plan(model, exact, min_channels=floor)


@pytest.mark.parametrize("beta", [-1, 0.5])
def test_a_threshold_shuts_small_gammas_and_the_change_is_measured(randomize, caplog, beta):
  model = randomize(chain())
  bn = model.get_layer("a_bn")
  bn.gamma.assign([1e-3, 0.5, -1e-3, 1, 0, -1.1e-3])
  bn.beta.assign(np.full(6, beta))
  images = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
  smaller, report = squeeze(model, threshold=1e-3, inputs=images)
  carriers = int(beta > 0)
  assert removed(report) == {"a": 3 - carriers}
  assert report.gates["a_bn"].removed == 3 - carriers
  shut_by_hand = keras.models.clone_model(model)
  shut_by_hand.set_weights(model.get_weights())
  shut_by_hand.get_layer("a_bn").gamma.assign([0, 0.5, 0, 1, 0, -1.1e-3])
  np.testing.assert_allclose(smaller(images), shut_by_hand(images), rtol=1e-9, atol=1e-9)
  change = np.linalg.norm(smaller(images) - model(images)) / np.linalg.norm(model(images))
  np.testing.assert_allclose(report.comparison.relative_difference, change, rtol=1e-6, atol=1e-12)
  assert bool(change > 1e-6) is (beta > 0)  # relu(-1) hides the gammas
  figure = report.comparison.relative_difference
  assert caplog.messages == [f"gammas up to 0.001 were set to 0: outputs changed by {figure:.2g} of their norm"]


def test_a_batch_norm_that_is_kept_ignores_the_threshold(randomize):
  model = randomize(chain())
  model.get_layer("a_bn").gamma.assign([1e-3, 0.5, -1e-3, 1, 0, 1])
  smaller, report = squeeze(model, threshold=0.1, keep=["a_bn"])
  assert_same_function(model, smaller)
  assert report.comparison.largest_difference == 0


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("threshold", -1),
    ("threshold", math.nan),
    ("threshold", math.inf),
    ("threshold", None),
    ("min_channels", 0),
    ("min_channels", 1.5),
    ("multiple_of", -8),
    ("multiple_of", None),
  ],
)
@pytest.mark.parametrize("function", [squeeze, plan])
def test_values_out_of_range_are_named(function, name, value):
  with pytest.raises(ValueError, match=f"{name} is {value}"):
    function(chain(), **{name: value})


@BOTH
def test_the_plan_is_the_report_of_the_squeeze(randomize, shut, exact):
  model = randomize(chain())
  shut(model, "a_bn", [0, 1, 2], [0, 1, 2])
  before = keras.tree.map_structure(np.array, model.get_weights())
  report = plan(model, exact, multiple_of=2)
  assert report == squeeze(model, exact, multiple_of=2)[1]
  assert report.layers["a"].channels - report.layers["a"].removed == 4
  for ours, theirs in zip(model.get_weights(), before, strict=True):
    np.testing.assert_array_equal(ours, theirs)


# Widths.


@BOTH
@pytest.mark.parametrize(("dead", "left"), [(1, 16), (7, 16), (8, 8), (9, 8), (15, 8), (16, 8)])
def test_widths_are_filled_with_dead_channels(randomize, shut, exact, dead, left):
  model = randomize(chain(filters=16))
  shut(model, "a_bn", range(dead), -1)
  smaller, report = squeeze(model, exact, multiple_of=8)
  assert_same_function(model, smaller)
  assert smaller.get_layer("a").filters == left
  assert removed(report) == ({"a": 16 - left} if left < 16 else {})
  filled = left - (16 - dead)
  assert report.layers["a"].kept_though_dead == ({"width": filled} if filled else {})
  assert smaller.get_layer("b").filters == 4
  assert removed(squeeze(smaller, exact, multiple_of=8)[1]) == {}


def test_widths_with_carriers_and_sums(randomize, shut):
  images = image()
  terms = [conv_bn(images, name, 12, activation="swish") for name in ("a", "b")]
  x = conv_bn(layers.Add()(terms), "c", 9, activation="swish")
  model = randomize(keras.Model(images, layers.Conv2D(2, 3, padding="same", name="end")(x)))
  for name in ("a_bn", "b_bn"):
    shut(model, name, range(7), np.arange(7) / 2)
  shut(model, "c_bn", range(4), 1)
  smaller, report = squeeze(model, exact=True, multiple_of=4)
  assert_same_function(model, smaller)
  widths = {name: smaller.get_layer(name).filters for name in ("a", "b", "c")}
  assert widths == {"a": 8, "b": 8, "c": 8}
  assert kept(report)["a"] == kept(report)["b"] == {"carrier": 1, "width": 2}
  assert kept(report)["c"] == {"carrier": 1, "width": 2}


def test_a_width_that_cannot_be_filled_stays_as_it_was(randomize, shut):
  model = randomize(chain(filters=6))
  shut(model, "a_bn", [1], -1)
  smaller, report = squeeze(model, multiple_of=4)
  assert smaller.get_layer("a").filters == 6
  assert kept(report) == {"a": {"width": 1}}


# Many networks.


def draw_network(rng, largest_kernel=3):
  """A random functional model of convolutions, sums and pooling."""
  images = image(int(rng.integers(6, 9)), int(rng.integers(6, 9)), 3)
  x = images
  for index in range(rng.integers(2, 5)):
    x = draw_block(rng, x, f"block{index}", largest_kernel)
  ends = [
    layers.GlobalAveragePooling2D(),
    layers.Flatten(),
    layers.AveragePooling2D(3, 1, padding="same"),
  ]
  x = rng.choice(ends)(x)
  end = layers.Dense(3, use_bias=bool(rng.integers(2)), name="end")
  return keras.Model(images, end(x))


def draw_block(rng, x, name, largest_kernel):
  filters = int(rng.integers(2, 7))
  kind = rng.choice(["plain", "residual", "shortcut", "forked", "pool"])
  padding = rng.choice(["same", "valid"]) if min(x.shape[1:3]) > 2 else "same"
  stride = int(rng.integers(1, 3)) if min(x.shape[1:3]) > 4 else 1

  def conv(x, suffix, filters, stride=1, padding="same"):
    size = int(rng.integers(1, largest_kernel + 1))
    return draw_conv(rng, x, name + suffix, filters, size, stride, padding)

  if kind == "pool":
    return layers.MaxPooling2D(2, 1, padding=padding, name=name)(x)
  if kind == "plain":
    return conv(x, "a", filters, padding=padding)
  if kind == "residual":
    y = conv(conv(x, "a", filters), "b", x.shape[-1])
    return layers.Add(name=name)([x, y])
  y = conv(x, "a", filters, stride)
  if kind == "shortcut":
    return layers.Add(name=name)([y, conv(x, "b", filters, stride)])
  return layers.Add(name=name)([y, conv(y, "b", filters), conv(y, "c", filters)])


def draw_conv(rng, x, name, filters, size, stride, padding):
  x = layers.Conv2D(
    filters,
    size,
    stride,
    padding,
    use_bias=bool(rng.integers(2)),
    activation=rng.choice([None, None, "tanh"]),
    name=name,
  )(x)
  if rng.random() < 0.8:
    x = layers.BatchNormalization(center=rng.random() < 0.8, name=f"{name}_bn")(x)
  return layers.Activation(rng.choice(["relu", "swish", "linear"]), name=f"{name}_act")(x)


def shut_at_random(model, rng):
  """Sets many gammas, many kernel entries and some betas to 0."""
  for variable in model.variables:
    value = variable.numpy()
    if variable.name == "gamma":
      value *= rng.random(value.shape) < 0.5
    elif variable.name == "beta":
      value *= rng.random(value.shape) < 0.7
    elif variable.name == "kernel":
      value *= rng.random(value.shape[-2:]) < 0.6
    variable.assign(value)


SEEDS = range(25)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks_exactly(randomize, seed):
  rng = np.random.default_rng(seed)
  model = randomize(draw_network(rng), seed)
  shut_at_random(model, rng)
  multiple_of = int(rng.integers(1, 4))
  smaller, report = squeeze(model, exact=True, multiple_of=multiple_of)
  assert_same_function(model, smaller)
  assert removed(squeeze(smaller, exact=True, multiple_of=multiple_of)[1]) == {}
  for name, layer in report.layers.items():
    left = smaller.get_layer(name).kernel.shape[-1]
    assert left == layer.channels - layer.removed > 0
    assert left % multiple_of == 0 or left == layer.channels


@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks_as_the_paper_does(randomize, seed):
  rng = np.random.default_rng(seed)
  model = randomize(draw_network(rng), seed)
  shut_at_random(model, rng)
  smaller, report = squeeze(model, exact=False)
  assert removed(squeeze(smaller, exact=False)[1]) == {}
  assert report.parameters_after <= squeeze(model, exact=True)[1].parameters_after


@pytest.mark.parametrize("seed", range(10))
def test_random_networks_that_pad_nothing_in_both_ways(randomize, seed):
  rng = np.random.default_rng(seed)
  model = randomize(draw_network(rng, largest_kernel=1), seed)
  shut_at_random(model, rng)
  exact, report = squeeze(model, exact=True)
  paper, other = squeeze(model, exact=False)
  assert report == other
  assert_same_function(model, exact)
  assert_same_function(model, paper)


@pytest.mark.parametrize("seed", range(10))
def test_random_networks_whose_constants_are_0_in_both_ways(randomize, shut, seed):
  rng = np.random.default_rng(seed)
  model = randomize(draw_network(rng), seed)
  shut_at_random(model, rng)
  for variable in model.variables:
    if variable.name in ("beta", "bias", "moving_mean"):
      variable.assign(np.zeros(variable.shape))
  exact, report = squeeze(model, exact=True)
  paper, other = squeeze(model, exact=False)
  assert report == other
  assert_same_function(model, exact)
  assert_same_function(model, paper)


@pytest.mark.parametrize(("name", "seed"), [("resnet20", 0), ("resnet20", 1), ("cnn4", 0)])
def test_the_networks_with_random_gammas(randomize, shut, name, seed):
  keras.config.set_floatx("float32")
  keras.config.set_dtype_policy("float32")
  model = randomize(MODELS[name](), seed)
  rng = np.random.default_rng(seed)
  dead = 0
  for layer in model.layers:
    if getattr(layer, "gamma", None) is not None and layer.name != "softmax_linear_bn":
      channels = np.flatnonzero(rng.random(layer.gamma.shape) < 0.4)
      shut(model, layer.name, channels)
      dead += len(channels)
  images = rng.normal(size=(4, 32, 32, 3)).astype("float32")
  logits = keras.ops.convert_to_numpy(model(images))
  smaller, report = squeeze(model, exact=True)
  assert abs(keras.ops.convert_to_numpy(smaller(images)) - logits).max() < 1e-5 * abs(logits).max()
  carriers = sum(sum(layer.kept_though_dead.values()) for layer in report.layers.values())
  assert sum(layer.removed for layer in report.layers.values()) == dead - carriers
  assert 0 < carriers < 10
  _, report = squeeze(model, exact=False)
  assert sum(layer.removed for layer in report.layers.values()) == dead


def test_a_head_of_zeros_is_named(randomize, caplog):
  images = image()
  x = conv_bn(conv_bn(images, "a", 16), "b", 16)
  x = layers.GlobalAveragePooling2D()(x)
  model = randomize(keras.Model(images, layers.Dense(2, name="head")(x)))
  assert plan(model).notes == []
  head = model.get_layer("head")
  head.kernel.assign(np.zeros(head.kernel.shape))
  smaller, report = squeeze(model)
  (note,) = report.notes
  assert note.startswith("the kernel of layer head is all 0, as if it was never trained")
  assert f"leaves {smaller.count_params():,} of {model.count_params():,} parameters" in note
  assert note in caplog.text
