"""Tests of cifar10.pruning.recalibration, against means and variances in numpy."""

import keras
import numpy as np
import pytest
from keras import layers

from cifar10.pruning import recalibrate


def model_of(*tail):
  images = keras.Input((5, 5, 2))
  x = layers.Conv2D(3, 3, name="a")(images)
  x = layers.BatchNormalization(name="a_bn", momentum=0.9)(x)
  for layer in tail:
    x = layer(x)
  return keras.Model(images, x)


def batches(count=4, size=6):
  rng = np.random.default_rng(0)
  return [rng.normal(loc=index, size=(size, 5, 5, 2)).astype("float32") for index in range(count)]


def test_statistics_are_means_over_the_batches(randomize):
  model = randomize(model_of(layers.ReLU()))
  before = {variable.path: variable.numpy() for variable in model.variables}
  convolution = keras.Model(model.input, model.get_layer("a").output)
  recalibrate(model, iter(batches()))
  values = [keras.ops.convert_to_numpy(convolution(batch)) for batch in batches()]
  bn = model.get_layer("a_bn")
  np.testing.assert_allclose(bn.moving_mean, np.mean([v.mean(axis=(0, 1, 2)) for v in values], axis=0), rtol=1e-5)
  np.testing.assert_allclose(bn.moving_variance, np.mean([v.var(axis=(0, 1, 2)) for v in values], axis=0), rtol=1e-4)
  assert bn.momentum == 0.9
  for variable in model.variables:
    if "moving" not in variable.path:
      np.testing.assert_array_equal(variable, before[variable.path])


def test_batch_norms_in_nested_models_too(randomize):
  inner = model_of()
  images = keras.Input((5, 5, 2))
  model = randomize(keras.Model(images, layers.Flatten()(inner(images))))
  alone = keras.models.clone_model(inner)
  alone.set_weights(inner.get_weights())
  recalibrate(model, batches())
  recalibrate(alone, batches())
  for ours, theirs in zip(inner.get_weights(), alone.get_weights()):
    np.testing.assert_array_equal(ours, theirs)


def test_each_call_of_a_shared_batch_norm_counts_alike():
  left, right = keras.Input((3,)), keras.Input((3,))
  shared = layers.BatchNormalization()
  model = keras.Model([left, right], [shared(left), shared(right)])
  inputs = [np.zeros((4, 3), "float32"), np.full((4, 3), 10, "float32")]
  for count in (1, 4):
    recalibrate(model, [inputs] * count)
    np.testing.assert_allclose(shared.moving_mean, [5, 5, 5], rtol=1e-6)


def test_seeds_of_dropout_stay():
  model = model_of(layers.Dropout(0.5, seed=3))
  before = [variable.numpy() for variable in model.variables if "seed" in variable.path]
  recalibrate(model, batches())
  after = [variable.numpy() for variable in model.variables if "seed" in variable.path]
  assert len(before) == 1
  np.testing.assert_array_equal(before, after)


def test_frozen_batch_norms_stay(randomize):
  model = randomize(model_of(layers.BatchNormalization(name="frozen")))
  model.get_layer("frozen").trainable = False
  before = model.get_layer("frozen").get_weights()
  recalibrate(model, batches())
  for ours, theirs in zip(model.get_layer("frozen").get_weights(), before):
    np.testing.assert_array_equal(ours, theirs)


def failing():
  yield batches()[0]
  raise OSError("the disk is gone")


@pytest.mark.parametrize(("given", "error"), [([], ValueError), (failing(), OSError)])
def test_on_an_error_everything_is_as_before(randomize, given, error):
  model = randomize(model_of())
  before = model.get_weights()
  with pytest.raises(error):
    recalibrate(model, given)
  for ours, theirs in zip(model.get_weights(), before):
    np.testing.assert_array_equal(ours, theirs)
  assert model.get_layer("a_bn").momentum == 0.9
