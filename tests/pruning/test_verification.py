"""Tests of cifar10.pruning.verification, against numpy and counts by hand."""

import keras
import numpy as np
import pytest
from keras import layers

from cifar10.pruning import compare, multiply_adds
from cifar10.pruning.verification import random_inputs


def classifier(noise=0.0):
  images = keras.Input((4, 4, 2))
  x = layers.Conv2D(3, 3, name="a", kernel_initializer=keras.initializers.HeNormal(1))(images)
  model = keras.Model(images, layers.Dense(5, kernel_initializer=keras.initializers.HeNormal(2))(layers.Flatten()(x)))
  rng = np.random.default_rng(0)
  for variable in model.variables:
    variable.assign(variable.numpy() + noise * rng.normal(size=variable.shape))
  return model


def images(count=200):
  return np.random.default_rng(1).normal(size=(count, 4, 4, 2)).astype("float32")


def test_figures_against_numpy():
  model, other = classifier(), classifier(noise=0.2)
  first, second = model(images()).numpy().astype("float64"), other(images()).numpy().astype("float64")
  comparison = compare(model, other, images(), repeats=3)
  assert comparison.examples == 200
  np.testing.assert_allclose(comparison.largest_difference, abs(first - second).max(), rtol=1e-5)
  difference = np.linalg.norm(first - second) / np.linalg.norm(first)
  np.testing.assert_allclose(comparison.relative_difference, difference, rtol=1e-5)
  assert comparison.agreement == (first.argmax(axis=1) == second.argmax(axis=1)).mean()
  assert 0.2 < comparison.agreement < 1
  assert comparison.parameters == (122, 122)
  assert comparison.multiply_adds == (4 * 3 * 3 * 2 * 3 + 12 * 5,) * 2
  assert all(0 < seconds < 10 for seconds in comparison.seconds)


def test_a_model_agrees_with_itself():
  comparison = compare(classifier(), classifier(), images(), repeats=1)
  assert (comparison.largest_difference, comparison.relative_difference, comparison.agreement) == (0, 0, 1)


def test_several_outputs_and_those_without_classes():
  inputs = {"one": keras.Input((3,), name="one"), "two": keras.Input((2,), name="two")}
  x = layers.Concatenate()(list(inputs.values()))
  model = keras.Model(inputs, {"y": layers.Dense(1, kernel_initializer="ones")(x), "x": x})
  other = keras.Model(inputs, {"y": layers.Dense(1, kernel_initializer="ones")(2 * x), "x": x})
  given = {"one": np.ones((4, 3), "float32"), "two": np.zeros((4, 2), "float32")}
  comparison = compare(model, other, given)
  assert (comparison.examples, comparison.largest_difference, comparison.agreement) == (4, 3, 1)
  np.testing.assert_allclose(comparison.relative_difference, 3 / np.sqrt(3**2 + 3), rtol=1e-6)
  regressor = keras.Model(inputs["one"], layers.Dense(1)(inputs["one"]))
  assert compare(regressor, regressor, given["one"]).agreement is None


def test_a_first_model_of_zeros():
  zero, one = (
    keras.Sequential([keras.Input((2,)), layers.Dense(1, kernel_initializer=kind)]) for kind in ("zeros", "ones")
  )
  assert compare(zero, one, np.ones((1, 2))).relative_difference == 1
  assert compare(zero, zero, np.ones((1, 2))).relative_difference == 0


class Subclassed(keras.Model):
  """A model that is no graph of layers."""

  def call(self, inputs):
    return inputs[:, 0, 0]


def test_a_subclassed_model_has_no_multiply_adds():
  assert compare(Subclassed(), Subclassed(), images(2)).multiply_adds == (None, None)
  with pytest.raises(ValueError, match="no functional Keras model"):
    multiply_adds(Subclassed())


def test_models_with_other_outputs_and_bad_repeats_are_refused():
  with pytest.raises(ValueError, match=r"\(2, 5\).*\(2, 2\).*models to compare have the same"):
    compare(classifier(), Subclassed(), images(2))
  with pytest.raises(ValueError, match="repeats is 0"):
    compare(classifier(), classifier(), images(2), repeats=0)
  with pytest.raises(ValueError, match="inputs are empty"):
    compare(classifier(), classifier(), images(0))
  one = keras.Input((3,))
  named = [keras.Model(one, {name: layers.Dense(2)(one)}) for name in "ab"]
  with pytest.raises(ValueError, match="{'a': '\\(4, 2\\)'}"):
    compare(*named, np.ones((4, 3)))


def test_what_is_not_finite_does_not_agree():
  broken = classifier()
  broken.get_layer("a").bias.assign([np.nan, 0, 0])
  assert compare(broken, broken, images(4)).agreement == 0


@pytest.mark.parametrize(
  ("shape", "layer", "expected"),
  [
    ((6, 8, 3), lambda: layers.Conv2D(4, (3, 5), 2, "same"), 3 * 4 * 3 * 5 * 3 * 4),
    ((6, 8, 3), lambda: layers.Conv2D(4, 3), 4 * 6 * 3 * 3 * 3 * 4),
    ((6, 8, 4), lambda: layers.Conv2D(8, 3, groups=2, padding="same"), 6 * 8 * 3 * 3 * 2 * 8),
    ((6, 8, 3), lambda: layers.Conv2DTranspose(4, 3, 2), 6 * 8 * 3 * 3 * 3 * 4),
    ((6, 8, 3), lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), 4 * 6 * 3 * 3 * 3 * 2),
    ((6, 8, 3), lambda: layers.SeparableConv2D(4, 3, depth_multiplier=2), 4 * 6 * (3 * 3 * 3 * 2 + 3 * 2 * 4)),
    ((3, 6, 8), lambda: layers.Conv2D(4, 3, data_format="channels_first"), 4 * 6 * 3 * 3 * 3 * 4),
    ((9, 3), lambda: layers.Conv1D(4, 3, padding="causal"), 9 * 3 * 3 * 4),
    ((4, 4, 4, 2), lambda: layers.Conv3D(3, 2), 3**3 * 2**3 * 2 * 3),
    ((9, 3), lambda: layers.Dense(4), 9 * 3 * 4),
    ((3,), lambda: layers.Dense(4), 3 * 4),
    ((None, 8, 3), lambda: layers.Conv2D(4, 3), None),
    ((6, 8, 3), lambda: layers.LayerNormalization(), 0),
  ],
)
def test_multiply_adds_of_each_kind(shape, layer, expected):
  images = keras.Input(shape)
  assert multiply_adds(keras.Model(images, layer()(images))) == expected


def test_multiply_adds_of_shared_layers_count_once_a_call():
  images = keras.Input((6, 6, 3))
  conv = layers.Conv2D(3, 1)
  inner = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(3, 1)])
  assert multiply_adds(keras.Model(images, inner(inner(conv(conv(images)))))) == 4 * 6 * 6 * 3 * 3


def test_noise_for_inputs_of_any_structure_and_type():
  inputs = {"image": keras.Input((None, 5, 3), name="image"), "index": keras.Input((4,), dtype="int32", name="index")}
  model = keras.Model(inputs, layers.Flatten()(inputs["index"]))
  noise = random_inputs(model)
  assert noise["image"].shape == (8, 64, 5, 3)
  assert noise["index"].dtype == "int32"
  assert set(noise["index"].numpy().ravel()) == {0, 1}
