"""Tests of cifar10.pruning.sparsity: penalties worked out by hand, figures worked out in numpy."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import Subclassed, conv_bn, image
from keras import layers
from marks import of_tensorflow

from cifar10.pruning import fake_sparsity, group_lasso, penalties


def test_a_convolution_between_two():
  images = image()
  x = conv_bn(images, "a", 4)
  x = conv_bn(x, "b", 5, size=5)
  model = keras.Model(images, layers.Conv2D(6, 3, name="c")(x))
  assert penalties(model) == {
    "a_bn/gamma": (8 * 8 + 3 * 3 * 3 + 5 * 5 * 5) / 64,
    "b_bn/gamma": (8 * 8 + 5 * 5 * 4 + 3 * 3 * 6) / 64,
  }


def test_sizes_are_those_of_the_output_of_the_batch_norm():
  images = image(9, 12, 3)
  x = conv_bn(images, "a", 4, stride=2)
  x = conv_bn(x, "b", 4, padding="valid")
  model = keras.Model(images, layers.Conv2D(6, 1, name="c")(x))
  assert penalties(model) == {
    "a_bn/gamma": (5 * 6 + 3 * 3 * 3 + 3 * 3 * 4) / 108,
    "b_bn/gamma": (3 * 4 + 3 * 3 * 4 + 6) / 108,
  }


def test_a_channel_is_followed_through_layers_that_do_not_mix():
  images = image()
  x = conv_bn(images, "a", 4)
  x = layers.MaxPooling2D(2)(x)
  x = layers.Dropout(0.5)(layers.Activation("tanh")(x))
  x = layers.BatchNormalization(scale=False)(layers.AveragePooling2D(2)(x))
  model = keras.Model(images, layers.Conv2D(7, 2, name="b")(x))
  assert penalties(model) == {"a_bn/gamma": (8 * 8 + 3 * 3 * 3 + 2 * 2 * 7) / 64}


def test_flatten_makes_a_row_of_the_dense_layer_for_each_pixel():
  images = image()
  x = layers.Flatten()(layers.MaxPooling2D(2)(conv_bn(images, "a", 4)))
  model = keras.Model(images, layers.Dense(10, name="logits")(x))
  assert penalties(model) == {"a_bn/gamma": (8 * 8 + 3 * 3 * 3 + 4 * 4 * 10) / 64}


def test_global_pooling_makes_one_row_of_the_dense_layer():
  images = image()
  x = layers.GlobalAveragePooling2D()(conv_bn(images, "a", 4))
  model = keras.Model(images, layers.Dense(10, name="logits")(x))
  assert penalties(model) == {"a_bn/gamma": (8 * 8 + 3 * 3 * 3 + 10) / 64}


def test_every_layer_that_a_channel_reaches_counts_once():
  images = image()
  x = conv_bn(images, "a", 4)
  left = layers.Conv2D(6, 3, padding="same", name="left")(x)
  right = layers.Conv2D(6, 5, padding="same", name="right")(layers.Add()([x, layers.ELU()(x)]))
  model = keras.Model(images, layers.Add()([left, right]))
  assert penalties(model) == {"a_bn/gamma": (8 * 8 + 3 * 3 * 3 + 3 * 3 * 6 + 5 * 5 * 6) / 64}


def test_a_channel_reaches_what_reads_the_sum_that_it_is_in():
  images = image()
  a, b = conv_bn(images, "a", 4), conv_bn(images, "b", 4, size=5)
  model = keras.Model(images, layers.Conv2D(6, 3, name="c")(layers.Add()([a, b])))
  assert penalties(model) == {
    "a_bn/gamma": (8 * 8 + 3 * 3 * 3 + 3 * 3 * 6) / 64,
    "b_bn/gamma": (8 * 8 + 5 * 5 * 3 + 3 * 3 * 6) / 64,
  }


def test_a_gamma_behind_a_sum_has_all_the_convolutions_that_make_its_channel():
  images = image()
  terms = [layers.Conv2D(4, size, padding="same")(images) for size in (1, 3)]
  x = layers.BatchNormalization(name="bn")(layers.Add()(terms))
  model = keras.Model(images, layers.Conv2D(6, 3, name="c")(x))
  assert penalties(model) == {"bn/gamma": (8 * 8 + 3 + 3 * 3 * 3 + 3 * 3 * 6) / 64}


def test_a_depthwise_convolution_on_the_way_counts_its_weights_of_the_channel():
  images = image()
  x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="each")(conv_bn(images, "a", 4))
  model = keras.Model(images, layers.Conv2D(6, 5, name="b")(x))
  assert penalties(model) == {"a_bn/gamma": (8 * 8 + 3 * 3 * 3 + 2 * 3 * 3 + 2 * 5 * 5 * 6) / 64}


def test_a_gamma_behind_a_depthwise_convolution_counts_that_and_what_made_its_channel():
  images = image()
  x = layers.DepthwiseConv2D(3, padding="same")(layers.Conv2D(4, 1, name="a")(images))
  x = layers.BatchNormalization(name="each_bn")(x)
  model = keras.Model(images, layers.Conv2D(6, 1, name="b")(x))
  assert penalties(model) == {"each_bn/gamma": (8 * 8 + 3 * 3 + 3 + 6) / 64}


def test_a_grouped_convolution_counts_the_kernels_of_one_channel():
  images = image()
  x = layers.Conv2D(8, 3, groups=2, padding="same", name="b")(conv_bn(images, "a", 4))
  x = layers.BatchNormalization(name="b_bn")(x)
  model = keras.Model(images, layers.Conv2D(6, 1, name="c")(x))
  assert penalties(model) == {
    "a_bn/gamma": (8 * 8 + 3 * 3 * 3 + 3 * 3 * 4) / 64,
    "b_bn/gamma": (8 * 8 + 3 * 3 * 2 + 6) / 64,
  }


def test_a_shared_layer_and_a_nested_model_count_once():
  images = image()
  inner_input = keras.Input((8, 8, 4))
  inner = keras.Model(inner_input, conv_bn(inner_input, "inner", 4), name="inner_model")
  x = inner(inner(conv_bn(images, "a", 4)))
  model = keras.Model(images, layers.Conv2D(6, 1, name="c")(x))
  assert penalties(model) == {
    "a_bn/gamma": (8 * 8 + 3 * 3 * 3 + 3 * 3 * 4) / 64,
    "inner_bn/gamma": (2 * 8 * 8 + 3 * 3 * 4 + 3 * 3 * 4 + 6) / 64,
  }


def test_a_gamma_that_reaches_an_output_is_not_gated():
  images = image()
  x = conv_bn(images, "a", 4)
  y = conv_bn(x, "b", 4)
  z = layers.Flatten()(layers.MaxPooling2D(2)(y))
  assert list(penalties(keras.Model(images, z))) == ["a_bn/gamma"]
  assert penalties(keras.Model(images, [x, z])) == {}
  assert penalties(keras.Model(images, layers.Add()([x, y]))) == {}


def test_a_gamma_that_reaches_an_unknown_layer_or_scales_an_input_is_not_gated():
  images = image()
  x = layers.BatchNormalization(name="images_bn")(images)
  x = conv_bn(conv_bn(x, "a", 4), "b", 4)
  x = layers.LayerNormalization()(x)
  model = keras.Model(images, layers.Conv2D(2, 1)(x))
  assert list(penalties(model)) == ["a_bn/gamma"]


def test_a_batch_norm_without_gamma_is_no_gate():
  images = image()
  x = conv_bn(conv_bn(images, "a", 4, norm={"scale": False}), "b", 4)
  assert list(penalties(keras.Model(images, layers.Conv2D(2, 1)(x)))) == ["b_bn/gamma"]


def small_model(images=None):
  images = images if images is not None else image()
  x = layers.MaxPooling2D(2)(conv_bn(images, "a", 4))
  x = layers.GlobalAveragePooling2D()(conv_bn(x, "b", 5, stride=2))
  return keras.Model(images, layers.Dense(10, name="logits")(x))


def test_num_pixels_is_what_penalties_are_divided_by():
  model = small_model()
  by_default, given = penalties(model), penalties(model, num_pixels=32)
  assert by_default == {"a_bn/gamma": 136 / 64, "b_bn/gamma": 50 / 64}
  assert given == {"a_bn/gamma": 136 / 32, "b_bn/gamma": 50 / 32}
  assert penalties(model, num_pixels=64) == by_default


def test_an_input_without_fixed_size_needs_num_pixels():
  model = small_model(image(None, None, 3))
  with pytest.raises(ValueError, match=r"num_pixels cannot be read off.*None, None, None, 3"):
    penalties(model)
  assert penalties(model, num_pixels=64) == penalties(small_model())
  assert penalties(model, num_pixels=256) == penalties(small_model(image(16, 16, 3)))


def test_a_nested_model_has_the_sizes_that_it_is_called_with():
  inner = small_model(image(None, None, 3))
  images = image()
  assert penalties(keras.Model(images, inner(images))) == penalties(small_model())
  open_images = image(None, None, 3)
  assert penalties(keras.Model(open_images, inner(open_images)), num_pixels=64) == penalties(small_model())


def test_channels_first():
  images = image(3, 8, 8)
  x = layers.Conv2D(4, 3, padding="same", data_format="channels_first")(images)
  x = layers.ReLU()(layers.BatchNormalization(axis=1, name="a_bn")(x))
  model = keras.Model(images, layers.Conv2D(6, 5, data_format="channels_first")(x))
  assert penalties(model) == {"a_bn/gamma": (8 * 8 + 3 * 3 * 3 + 5 * 5 * 6) / 64}


def test_a_frozen_gamma_is_not_gated():
  model = small_model()
  model.get_layer("a_bn").trainable = False
  assert list(penalties(model)) == ["b_bn/gamma"]


def test_gammas_of_one_path_go_by_the_names_of_their_models():
  images = image()
  branches = []
  for name in ("left", "right"):
    inner_input = image()
    branches.append(keras.Model(inner_input, conv_bn(inner_input, "a", 4), name=name)(images))
  penalty = (8 * 8 + 3 * 3 * 3 + 2) / 64
  model = keras.Model(images, [layers.Conv2D(2, 1)(branches[0]), branches[1]])
  assert penalties(model) == {"left/a_bn/gamma": penalty}
  model = keras.Model(images, [layers.Conv2D(2, 1)(branch) for branch in branches])
  assert penalties(model) == {"left/a_bn/gamma": penalty, "right/a_bn/gamma": penalty}
  model.get_layer("left").get_layer("a_bn").gamma.assign([2, 2, 2, 2])
  assert float(group_lasso(model, {"left/a_bn/gamma": 1.0, "right/a_bn/gamma": 10.0})) == 8 + 40


def test_several_inputs_of_one_size():
  first, second, third = image(), keras.Input((8, 8, 3)), keras.Input((4,))
  x = conv_bn(layers.Add()([first, second]), "a", 4)
  x = layers.Conv2D(2, 1)(x) + layers.Reshape((1, 1, 2))(layers.Dense(2)(third))
  model = keras.Model([first, second, third], x)
  assert penalties(model) == penalties(model, num_pixels=64) == {"a_bn/gamma": (64 + 27 + 2) / 64}


def test_several_inputs_of_several_sizes_need_num_pixels():
  first, second = image(), keras.Input((4, 4, 3))
  x = conv_bn(layers.Add()([layers.MaxPooling2D()(first), second]), "a", 4)
  model = keras.Model([first, second], layers.Conv2D(2, 1)(x))
  with pytest.raises(ValueError, match="num_pixels cannot be read off"):
    penalties(model)
  assert penalties(model, num_pixels=64) == {"a_bn/gamma": (16 + 27 + 2) / 64}


def test_of_a_dense_model_num_pixels_is_1():
  numbers = keras.Input((5,))
  x = layers.BatchNormalization(name="a_bn")(layers.Dense(4, use_bias=False)(numbers))
  model = keras.Model(numbers, layers.Dense(2)(layers.ReLU()(x)))
  assert penalties(model) == penalties(model, num_pixels=1) == {"a_bn/gamma": 1 + 5 + 2}


@pytest.mark.parametrize("value", [0, -4, float("nan")])
def test_num_pixels_must_be_positive(value):
  with pytest.raises(ValueError, match=f"num_pixels is {value}"):
    penalties(small_model(), num_pixels=value)


def test_a_model_that_is_not_functional_has_no_penalties():
  for num_pixels in (None, 64):
    with pytest.raises(ValueError, match="no functional Keras model"):
      penalties(Subclassed(), num_pixels)


def test_the_model_is_left_alone():
  model = small_model(image(None, None, 3))
  config, weights = model.get_config(), model.get_weights()
  penalties(model, num_pixels=64)
  assert model.get_config() == config
  for value, before in zip(model.get_weights(), weights):
    np.testing.assert_array_equal(value, before)


# The two figures.


def gammas_of(model, randomize):
  """Random gammas for `small_model`, some of them 0, in numpy."""
  randomize(model)
  a, b = model.get_layer("a_bn").gamma, model.get_layer("b_bn").gamma
  a.assign(a.numpy() * [0, 1, 1, 0])
  b.assign(b.numpy() * [1, 0, 1, 1, 1])
  return a.numpy(), b.numpy()


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=of_tensorflow)])
def test_figures_against_numpy(randomize, compiled):
  model = small_model()
  a, b = gammas_of(model, randomize)
  by_path = penalties(model)
  p, q = by_path["a_bn/gamma"], by_path["b_bn/gamma"]

  def figures():
    return group_lasso(model, by_path), fake_sparsity(model, by_path)

  lasso, sparsity = tf.function(figures)() if compiled else figures()
  assert {keras.backend.standardize_dtype(figure.dtype) for figure in (lasso, sparsity)} == {"float32"}
  assert lasso.shape == sparsity.shape == ()
  np.testing.assert_allclose(lasso, p * abs(a).sum() + q * abs(b).sum(), rtol=1e-6)
  np.testing.assert_allclose(sparsity, (2 * p + q) / (4 * p + 5 * q), rtol=1e-6)


@of_tensorflow
def test_figures_in_a_function_follow_the_gammas(randomize):
  model = small_model()
  gammas_of(model, randomize)
  by_path = penalties(model)
  figures = tf.function(lambda: (group_lasso(model, by_path), fake_sparsity(model, by_path)))
  figures()
  for name in ("a_bn", "b_bn"):
    gamma = model.get_layer(name).gamma
    gamma.assign(np.zeros(gamma.shape))
  lasso, sparsity = figures()
  assert (float(lasso), float(sparsity)) == (0, pytest.approx(1))


def test_figures_of_gammas_of_several_types_and_of_penalties_0():
  images = image()
  x = layers.BatchNormalization(dtype="float64", name="a_bn")(layers.Conv2D(4, 3)(images))
  model = keras.Model(images, layers.Conv2D(2, 1)(conv_bn(x, "b", 4)))
  lasso = group_lasso(model, {"a_bn/gamma": 1.0, "b_bn/gamma": 2.0})
  assert (keras.backend.standardize_dtype(lasso.dtype), float(lasso)) == ("float32", 12)
  assert float(fake_sparsity(model, {"a_bn/gamma": 0.0})) == 0


def test_only_exactly_0_is_sparse():
  model = small_model()
  model.get_layer("a_bn").gamma.assign(np.full(4, 1e-30))
  assert float(fake_sparsity(model, penalties(model))) == 0


def test_the_callers_penalties_are_what_counts(randomize):
  model = small_model()
  a, b = gammas_of(model, randomize)
  by_path = penalties(model)
  by_path["a_bn/gamma"] = 10.0
  np.testing.assert_allclose(group_lasso(model, by_path), 10 * abs(a).sum() + 50 / 64 * abs(b).sum(), rtol=1e-6)
  np.testing.assert_allclose(fake_sparsity(model, by_path), (20 + 50 / 64) / (40 + 5 * 50 / 64), rtol=1e-6)
  del by_path["b_bn/gamma"]
  np.testing.assert_allclose(group_lasso(model, by_path), 10 * abs(a).sum(), rtol=1e-6)
  assert float(fake_sparsity(model, by_path)) == 0.5


@pytest.mark.parametrize("figure", [group_lasso, fake_sparsity])
def test_figures_name_a_path_that_is_not_the_models(figure):
  with pytest.raises(ValueError, match="lost/gamma"):
    figure(small_model(), {"a_bn/gamma": 1.0, "lost/gamma": 1.0})
  with pytest.raises(ValueError, match="no gamma"):
    figure(small_model(), {})


def warned(model, caplog):
  with caplog.at_level(logging.WARNING):
    found = penalties(model)
  assert found == {}
  (record,) = caplog.records
  assert record.name == "cifar10.pruning.sparsity"
  return record.getMessage()


def test_a_model_without_gates_is_warned_of_with_what_to_do(caplog):
  images = image()
  plain = keras.Model(images, layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(images))), name="m")
  assert warned(plain, caplog) == (
    "m has no gate: no batch norm with scale=True is in sight; put a BatchNormalization behind each convolution"
  )


def test_frozen_gammas_and_those_that_reach_outputs_or_walls_are_told_apart(caplog):
  class Wall(layers.Layer):
    def call(self, x):
      return x

  images = image()
  x = conv_bn(images, "a", 4)
  frozen = keras.Model(images, layers.Conv2D(3, 3)(x))
  frozen.get_layer("a_bn").trainable = False
  assert "are frozen; set trainable to True" in warned(frozen, caplog)
  caplog.clear()
  walled = keras.Model(images, [conv_bn(images, "b", 2), Wall(name="own")(conv_bn(images, "c", 2))])
  assert "reach output, own, where they cannot be removed; put" in warned(walled, caplog)
  caplog.clear()
  hidden = keras.Model(images, layers.Conv2D(2, 3)(Wall(name="own")(layers.Conv2D(2, 3)(images))))
  assert "is in sight, outside of the walls own; put" in warned(hidden, caplog)


def test_a_model_with_gates_is_not_warned_of(caplog):
  images = image()
  assert penalties(keras.Model(images, layers.Conv2D(3, 3)(conv_bn(images, "a", 4))))
  assert not caplog.records
