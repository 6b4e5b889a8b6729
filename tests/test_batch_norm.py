"""Tests of cifar10.batch_norm, against Keras' own layer and numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_same_weights

from cifar10.batch_norm import FusedBatchNormalization, fused, unfused

MOMENTUM = 0.9
EPSILON = 0.01


def batches(count=1):
  shape = (count, 5, 4, 3, 6)
  return (np.random.default_rng(0).normal(size=shape) * 2 + 1).astype("float32")


def built(layer_class, **kwargs):
  """A layer with weights that no two channels share, the same for both classes."""
  layer = layer_class(momentum=MOMENTUM, epsilon=EPSILON, **kwargs)
  layer.build((None, 4, 3, 6))
  rng = np.random.default_rng(1)
  values = {name: rng.uniform(0.5, 1.5, 6) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
  for variable in layer.variables:
    variable.assign(values[variable.name])
  return layer


SWITCHES = [(scale, center) for scale in (True, False) for center in (True, False)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("scale", "center"), SWITCHES)
def test_computes_what_keras_computes(scale, center, training):
  switches = {"scale": scale, "center": center}
  ours = built(FusedBatchNormalization, **switches)
  theirs = built(keras.layers.BatchNormalization, **switches)
  (images,) = batches()
  outputs = ours(images, training=training)
  np.testing.assert_allclose(outputs, theirs(images, training=training), rtol=1e-5, atol=1e-5)
  assert len(ours.variables) == 2 + scale + center


def test_training_outputs_are_normalised_by_the_biased_variance_of_the_batch():
  layer = built(FusedBatchNormalization)
  (images,) = batches()
  mean, variance = images.mean((0, 1, 2)), images.var((0, 1, 2))
  normal = (images - mean) / np.sqrt(variance + EPSILON)
  expected = normal * layer.gamma.numpy() + layer.beta.numpy()
  np.testing.assert_allclose(layer(images, training=True), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_moving_statistics_take_the_mean_and_the_unbiased_variance(compiled):
  layer = built(FusedBatchNormalization)
  mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
  call = tf.function(layer) if compiled else layer
  for images in batches(3):
    call(images, training=True)
    mean = MOMENTUM * mean + (1 - MOMENTUM) * images.mean((0, 1, 2))
    variance = MOMENTUM * variance + (1 - MOMENTUM) * images.var((0, 1, 2), ddof=1)
  np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
  np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


def test_inference_leaves_the_moving_statistics_alone():
  layer = built(FusedBatchNormalization)
  before = [variable.numpy() for variable in layer.variables]
  (images,) = batches()
  layer(images)
  layer(images, training=False)
  assert_same_weights(layer.variables, before)


def test_a_frozen_layer_uses_and_keeps_its_moving_statistics():
  layer = built(FusedBatchNormalization)
  (images,) = batches()
  inference = layer(images, training=False).numpy()
  layer.trainable = False
  mean = layer.moving_mean.numpy()
  np.testing.assert_array_equal(layer(images, training=True), inference)
  np.testing.assert_array_equal(layer.moving_mean, mean)
  assert not layer.trainable_variables


def test_gradients_are_those_of_keras():
  (images,) = batches()
  weights = np.random.default_rng(2).normal(size=images.shape).astype("float32")
  gradients = []
  for layer_class in (FusedBatchNormalization, keras.layers.BatchNormalization):
    layer, x = built(layer_class), tf.constant(images)
    with tf.GradientTape() as tape:
      tape.watch(x)
      loss = tf.reduce_sum(layer(x, training=True) * weights)
    gradients.append(tape.gradient(loss, [x, layer.gamma.value, layer.beta.value]))
  for ours, theirs in zip(*gradients):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def small_model():
  images = keras.Input((4, 3, 2), name="images")
  x = keras.layers.Conv2D(6, 3, padding="same", kernel_regularizer="l2", name="a")(images)
  x = keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, scale=False, name="a_bn")(x)
  x = keras.layers.ReLU(name="a_relu")(x)
  model = keras.Model(images, x, name="small")
  rng = np.random.default_rng(3)
  for variable in model.variables:
    variable.assign(rng.uniform(0.5, 1.5, variable.shape))
  return model


def test_fused_copies_the_model_and_unfused_brings_it_back():
  model = small_model()
  model.get_layer("a").trainable = False
  fast = fused(model)
  back = unfused(fast)
  assert type(fast.get_layer("a_bn")) is FusedBatchNormalization
  assert type(back.get_layer("a_bn")) is keras.layers.BatchNormalization
  assert type(model.get_layer("a_bn")) is keras.layers.BatchNormalization
  images = np.random.default_rng(4).normal(size=(5, 4, 3, 2)).astype("float32")
  for copy in (fast, back):
    assert copy.name == "small"
    assert [v.path for v in copy.variables] == [v.path for v in model.variables]
    assert [v.path for v in copy.trainable_variables] == ["a_bn/beta"]
    np.testing.assert_allclose(copy(images), model(images), rtol=1e-5, atol=1e-5)
  assert back.get_config() == model.get_config()


def test_a_fused_copy_does_not_share_variables():
  model = small_model()
  before = model.get_weights()
  images = np.random.default_rng(4).normal(size=(5, 4, 3, 2)).astype("float32")
  fused(model)(images, training=True)
  assert_same_weights(model.get_weights(), before)


def test_a_synchronized_layer_alone_computes_what_a_fused_one_does():
  ours, theirs = built(FusedBatchNormalization, synchronized=True), built(FusedBatchNormalization)
  weights = np.random.default_rng(2).normal(size=batches()[0].shape).astype("float32")
  gradients = []
  for layer in (ours, theirs):
    x = tf.constant(batches()[0])
    with tf.GradientTape() as tape:
      tape.watch(x)
      outputs = layer(x, training=True)
      loss = tf.reduce_sum(outputs * weights)
    gradients.append([outputs, *tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])])
  for one, other in zip(*gradients):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
  for one, other in zip(ours.variables, theirs.variables):
    np.testing.assert_allclose(one, other, rtol=1e-5)
  np.testing.assert_array_equal(ours(x, training=False), ours(x))
  np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("synchronized", [False, True])
def test_half_precision_keeps_variables_and_statistics_in_float32(precision, synchronized):
  model = small_model()
  fast = fused(model, precision, synchronized)
  images = np.random.default_rng(4).normal(size=(5, 4, 3, 2)).astype("float32")
  outputs, expected = fast(images, training=True), fused(model)(images, training=True)
  assert outputs.dtype == precision.removeprefix("mixed_")
  assert {variable.dtype for variable in fast.variables} == {"float32"}
  np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, rtol=0.05, atol=0.05)
  back = unfused(fast)
  assert back.get_config() == model.get_config()
  assert back(images).dtype == "float32"
