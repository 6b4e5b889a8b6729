"""Tests of cifar10.pruning.comparing, against numpy."""

import keras
import numpy as np
import pytest
from builders import Subclassed
from keras import layers

from cifar10.pruning import compare, multiply_adds
from cifar10.pruning.comparing import output_differences


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
  first, second = (keras.ops.convert_to_numpy(each(images())).astype("float64") for each in (model, other))
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


def test_a_subclassed_model_has_no_multiply_adds():
  assert compare(Subclassed(), Subclassed(), images(2)).multiply_adds == (None, None)
  with pytest.raises(ValueError, match="no functional Keras model"):
    multiply_adds(Subclassed())


def test_models_with_other_outputs_and_bad_repeats_are_refused():
  with pytest.raises(ValueError, match=r"\(2, 5\).*\(2, 4, 4, 2\).*models to compare have the same"):
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


def test_differences_of_outputs_against_numpy():
  rng = np.random.default_rng(0)
  outputs = {"classes": rng.normal(size=(50, 3)).astype("float32"), "row": [rng.normal(size=7)]}
  others = {
    "classes": outputs["classes"] + rng.normal(size=(50, 3)).astype("float32"),
    "row": [outputs["row"][0] + 0.25],
  }
  differences = output_differences(outputs, others)
  classes = [each["classes"].astype("float64") for each in (outputs, others)]
  changes = np.concatenate([(classes[0] - classes[1]).ravel(), np.full(7, 0.25)])
  norm = np.linalg.norm(np.concatenate([classes[0].ravel(), outputs["row"][0]]))
  agreeing = (classes[0].argmax(axis=1) == classes[1].argmax(axis=1)).sum()
  assert differences.largest == abs(changes).max()
  np.testing.assert_allclose(differences.relative, np.linalg.norm(changes) / norm, rtol=1e-12)
  assert (differences.agreeing, differences.agreement) == (agreeing, agreeing / 50)
  assert 0 < agreeing < 50


def test_differences_of_outputs_without_classes():
  differences = output_differences([np.zeros((4, 1)), np.zeros(3)], [np.zeros((4, 1)), np.ones(3)])
  assert (differences.largest, differences.relative, differences.agreeing, differences.agreement) == (1, 1, 0, None)


def test_outputs_of_other_shapes_do_not_compare():
  with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\); models to compare have the same"):
    output_differences(np.zeros((2, 3)), np.zeros((3, 2)))
