"""What `prune` takes, what it refuses, and that it leaves that alone."""

import keras
import numpy as np
import pytest
from builders import Subclassed, chain, conv_bn, image
from flows import random_images
from keras import layers

from cifar10.pruning import plan_prune, prune


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({}, "no budget"),
    ({"parameters": 0.5, "channels": 0.5}, "parameters and channels"),
    ({"parameters": 0}, "parameters is 0"),
    ({"multiply_adds": 1.5}, "multiply_adds is 1.5"),
    ({"channels": 8}, "channels is 8"),
    ({"parameters": 0.5, "importance": "l3"}, "importance is 'l3'"),
    ({"parameters": 0.5, "importance": "taylor"}, "needs inputs and targets and loss"),
    ({"parameters": 0.5, "importance": lambda groups: -np.ones(len(groups))}, "channels of c0"),
    ({"parameters": 0.5, "importance": lambda groups: 1.0}, "channels of c0"),
    ({"parameters": 0.5, "scope": "model"}, "scope is 'model'"),
    ({"parameters": 0.5, "max_removed": 1}, "max_removed is 1"),
    ({"parameters": 0.5, "multiple_of": 0}, "multiple_of is 0"),
    ({"parameters": 0.5, "left_behind": "beta"}, "left_behind is 'beta'"),
    ({"parameters": 0.5, "keep": ["c9"]}, "c9"),
    ({"parameters": 0.5, "importance": "random", "seed": -1}, "seed is -1"),
    ({"parameters": 0.5, "importance": "random", "seed": 0.5}, "seed is 0.5"),
    ({"channels": 0.05}, "channels is 0.05; with max_removed=0.9 a share of 0.1"),
    ({"parameters": 0.5, "inputs": np.zeros((0, 8, 8, 3))}, "hold 0 examples"),
    ({"parameters": 0.5, "inputs": 1.0}, "hold 0 examples"),
    ({"parameters": 0.5, "inputs": np.zeros((4, 8, 8, 3)), "targets": np.zeros(3)}, "hold 3 and 4 examples"),
    ({"parameters": 0.5, "inputs": [np.zeros((4, 8, 8, 3))] * 2}, "2 inputs are given; .* takes 1"),
  ],
)
def test_arguments_out_of_range(arguments, message):
  for function in (prune, plan_prune):
    with pytest.raises(ValueError, match=message):
      function(chain(), **arguments)


def test_models_that_are_no_graph_or_have_open_sizes(randomize):
  with pytest.raises(ValueError, match="functional"):
    prune(Subclassed(), parameters=0.5)
  images = image(None, None, 3)
  x = layers.GlobalAveragePooling2D()(conv_bn(conv_bn(images, "a", 8), "b", 8))
  model = randomize(keras.Model(images, layers.Dense(2)(x)))
  with pytest.raises(ValueError, match="open sizes"):
    prune(model, multiply_adds=0.5)
  seen, (_, report) = [], prune(model, parameters=0.5)
  assert report.parameters_after <= 0.5 * report.parameters_before
  assert report.comparison.examples == 2
  plan_prune(model, parameters=0.5, importance=lambda groups: seen.append(groups.multiply_adds) or np.ones(len(groups)))
  assert seen == [None] * 2


def test_examples_go_by_the_names_of_the_inputs(randomize):
  """Which are the keys of a model of a dict of inputs, and elsewhere those of the inputs, in any order."""
  a, b = image(4, 4, 3, name="a"), image(6, 6, 3, name="b")
  pooled = [layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, name=f"conv_{x.name}")(x)) for x in (a, b)]
  end = layers.Dense(2)(layers.Add()(pooled))
  given = {"b": np.ones((2, 6, 6, 3)), "a": np.ones((2, 4, 4, 3)), "c": np.ones(2)}
  for model in (keras.Model([b, a], end), keras.Model({"a": a, "b": b}, end)):
    _, report = prune(randomize(model), channels=0.5, inputs=given, verify=False)
    assert [layer.removed for layer in report.layers.values()] == [4, 4, 0]
    with pytest.raises(ValueError, match="lack b, which"):
      plan_prune(model, channels=0.5, inputs={"a": given["a"], "c": given["b"]})


@pytest.mark.parametrize("importance", ["l2", "taylor"])
def test_the_model_is_left_alone(importance):
  """Its weights, what it draws random numbers by, and its optimizer."""
  images = image()
  x = layers.Dropout(0.5)(conv_bn(conv_bn(images, "a", 8), "b", 8), training=True)
  model = keras.Model(images, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
  model.compile("adam", "mse")
  model.optimizer.build(model.trainable_variables)
  held = [*model.variables, *model.optimizer.variables]
  before = [keras.ops.convert_to_numpy(variable) for variable in held]
  given = {"inputs": random_images(model), "targets": np.zeros((8, 2))}
  smaller, report = prune(model, channels=0.5, importance=importance, **given)
  assert report.layers["a"].removed == 4
  assert [*model.variables, *model.optimizer.variables] == held
  for variable, value in zip(held, before, strict=True):
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
  assert not {id(variable) for variable in smaller.variables} & {id(variable) for variable in held}
