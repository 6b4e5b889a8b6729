"""Tests of cifar10.pruning.folding: batch norms go, the function stays."""

import keras
import numpy as np
import pytest
from flows import assert_same_function
from keras import layers, ops

from cifar10.models import MODELS
from cifar10.pruning import fold_batch_norms, squeeze
from cifar10.pruning.calls import layers_in

norm = layers.BatchNormalization


def build(*parts, shape=(8, 8, 3)):
  images = x = keras.Input(shape, name="images")
  for part in parts:
    x = part(x)
  return keras.Model(images, x)


def norms(model):
  return [layer.name for layer in layers_in(model) if isinstance(layer, norm)]


def assert_folds(model):
  weights = model.get_weights()
  folded = fold_batch_norms(model)
  assert not norms(folded)
  assert_same_function(model, folded)
  for before, after in zip(weights, model.get_weights(), strict=True):
    np.testing.assert_array_equal(before, after)
  return folded


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "parts",
  [
    lambda: [layers.Conv2D(4, 3), norm()],
    lambda: [layers.Conv2D(4, 3, use_bias=False, padding="same", strides=2), norm(axis=3), layers.ReLU()],
    lambda: [layers.Conv2D(4, 3, use_bias=False), norm(scale=False)],
    lambda: [layers.Conv2D(4, 3, use_bias=False), norm(center=False)],
    lambda: [layers.Conv2D(4, 3), norm(scale=False, center=False, epsilon=0.1)],
    lambda: [layers.Conv2D(6, 3, groups=3), norm()],
    lambda: [layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False), norm()],
    lambda: [layers.Reshape((64, 3)), layers.DepthwiseConv1D(3, depth_multiplier=2), norm()],
    lambda: [layers.Reshape((64, 3)), layers.Conv1D(5, 3), norm()],
    lambda: [layers.Reshape((4, 4, 4, 3)), layers.Conv3D(2, 2), norm()],
    lambda: [layers.Flatten(), layers.Dense(5, use_bias=False), norm()],
    lambda: [layers.Dense(5), norm(), layers.ReLU(), layers.Dense(2)],
    lambda: [keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), norm()], name="nested"), layers.ReLU()],
    lambda: [keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)], name="nested"), norm()],
    lambda: [layers.Conv2D(4, 3), keras.Sequential([keras.Input((6, 6, 4)), norm()], name="nested")],
    lambda: [lambda x: layers.Add()([layers.Conv2D(4, 3)(x), norm()(layers.Conv2D(4, 3)(x))])],
    lambda: [layers.SeparableConv2D(4, 3, padding="same", use_bias=False), norm()],
    lambda: [layers.Reshape((64, 3)), layers.SeparableConv1D(4, 3, depth_multiplier=2), norm()],
    lambda: [layers.Conv2DTranspose(4, 3), norm()],
    lambda: [layers.Conv2DTranspose(4, 3, 2, "same", use_bias=False), norm(), layers.ReLU()],
    lambda: [layers.Reshape((4, 4, 4, 3)), layers.Conv3DTranspose(2, 2), norm(scale=False)],
    lambda: [layers.ReLU(), norm(), layers.Conv2D(4, 3, use_bias=False, activation="relu")],
    lambda: [layers.ReLU(), norm(), layers.Conv2D(6, 1, 2, "same", groups=3)],
    lambda: [layers.ReLU(), norm(), layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)],
    lambda: [layers.ReLU(), norm(center=False), layers.Dense(4), norm()],
    lambda: [norm(), layers.Conv2D(4, 3), norm(), layers.ReLU()],
    lambda: [layers.ReLU(), norm(), lambda x: layers.Add()([layers.Conv2D(4, 1)(x), layers.Dense(4)(x)])],
  ],
  ids=range(27),
)
def test_the_function_stays(parts, randomize):
  assert_folds(randomize(build(*parts())))


@pytest.mark.usefixtures("float64")
def test_a_sequential_model_stays_one(randomize):
  model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), norm(), layers.ReLU(), layers.Dense(2)])
  assert isinstance(assert_folds(randomize(model)), keras.Sequential)


@pytest.mark.usefixtures("float64")
def test_a_shared_pair_of_layers_folds(randomize):
  convolution, shared = layers.Conv2D(3, 3, padding="same"), norm()
  assert_folds(randomize(build(convolution, shared, layers.ReLU(), convolution, shared)))


def shared_convolution():
  convolution = layers.Conv2D(3, 3, padding="same")
  return build(convolution, norm(), convolution, layers.ReLU())


def shared_norm():
  shared = norm()
  return build(layers.Conv2D(3, 1), shared, layers.Conv2D(3, 1), shared)


def read_twice():
  images = keras.Input((8, 8, 3))
  x = layers.Conv2D(4, 3)(images)
  return keras.Model(images, layers.Add()([x, norm()(x)]))


def also_an_output():
  images = keras.Input((8, 8, 3))
  x = layers.Conv2D(4, 3)(images)
  return keras.Model(images, [x, norm()(x)])


def read_and_padded():
  images = keras.Input((8, 8, 3))
  x = norm()(layers.ReLU()(images))
  return keras.Model(images, [layers.Conv2D(4, 3)(x), layers.Conv2D(4, 3, padding="same")(x)])


def read_elsewhere_too():
  images = keras.Input((8, 8, 3))
  conv = layers.Conv2D(3, 1)
  return keras.Model(images, conv(norm()(layers.ReLU()(conv(images)))))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "make",
  [
    read_and_padded,
    read_elsewhere_too,
    lambda: build(layers.ReLU(), norm(), layers.ReLU(), layers.Conv2D(4, 1)),
    lambda: build(layers.ReLU(), norm(), layers.ZeroPadding2D(), layers.Conv2D(4, 3)),
    lambda: build(layers.ReLU(), norm(), layers.Conv2DTranspose(4, 3)),
    lambda: build(layers.ReLU(), norm(), layers.SeparableConv2D(4, 3)),
    lambda: build(layers.ReLU(), norm(axis=1), layers.Conv2D(4, 3)),
    lambda: build(layers.SeparableConv2D(4, 3, activation="relu"), norm()),
    shared_convolution,
    shared_norm,
    read_twice,
    also_an_output,
    lambda: build(norm()),
    lambda: build(layers.Conv2D(4, 3, activation="relu"), norm()),
    lambda: build(layers.Conv2D(4, 3), layers.ReLU(), norm()),
    lambda: build(layers.Conv2D(6, 3), norm(axis=1)),
    lambda: build(layers.Conv2D(6, 3), norm(axis=-2)),
    lambda: build(layers.Conv2D(3, 3), lambda x: ops.transpose(x, (0, 3, 1, 2)), norm(axis=1)),
  ],
  ids=range(18),
)
def test_elsewhere_the_batch_norm_stays(make, randomize):
  model = randomize(make())
  folded = fold_batch_norms(model)
  assert norms(folded) == norms(model)
  assert_same_function(model, folded)


@pytest.mark.parametrize("name", MODELS)
def test_the_networks_keep_only_convolutions(name, randomize, shut):
  network = randomize(MODELS[name]())
  shut(network, {"resnet20": "g0b0c0_bn", "cnn4": "conv1_bn"}[name], [0, 3], 0.0)
  smaller, _ = squeeze(network)
  images = np.random.default_rng(0).normal(size=(16, 32, 32, 3)).astype(np.float32)
  for model in (network, smaller):
    folded = fold_batch_norms(model)
    assert not norms(folded)
    before, after = (keras.ops.convert_to_numpy(each(images, training=False)) for each in (model, folded))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-6 * abs(before).max())
    assert folded.count_params() < model.count_params()
