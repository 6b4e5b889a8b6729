"""Tests of cifar10.pruning.checking: squeeze calls both models, and names the layer from which on they differ."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import conv_bn, image
from flows import outputs
from keras import layers
from marks import takes_text

from cifar10.pruning import register, rules, squeeze


@keras.saving.register_keras_serializable("tests")
class Brightened(layers.Conv2D):
  """A convolution whose config forgets an argument."""

  def __init__(self, *args, gain=1.0, **kwargs):
    super().__init__(*args, **kwargs)
    self.gain = gain

  def call(self, x):
    return super().call(x) * self.gain


class Centred(layers.Layer):
  """It mixes channels."""

  def call(self, x):
    return x - keras.ops.mean(x, axis=-1, keepdims=True)


def gated(*tail, data=None, padding="valid", beta=-1):
  """A model of a convolution that loses 2 channels, and layers."""
  images = image()
  x = conv_bn(images, "a", 6, padding=padding)
  for layer in tail:
    x = layer(x)
  model = keras.Model(images, layers.Conv2D(2, 3, padding=padding, name="end")(x), name="net")
  shut_two(model, beta)
  return model


def shut_two(model, beta=-1):
  bn = model.get_layer("a_bn")
  bn.gamma.assign([0, 0, 1, 1, 1, 1])
  bn.beta.assign([beta] * 2 + [0.5] * 4)


@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_bfloat16", "mixed_float16"])
def test_the_report_says_by_how_much_the_models_differ(policy):
  before = keras.config.dtype_policy()
  keras.config.set_dtype_policy(policy)
  try:
    model = gated(layers.Conv2D(5, 3), layers.BatchNormalization(), layers.Activation("swish"), beta=0.5)
  finally:
    keras.config.set_dtype_policy(before)
  check = squeeze(model)[1].check
  assert (check.examples, check.note) == (2, "")
  float64 = 1e-5 if keras.backend.backend() == "jax" else 1e-13  # By default JAX makes float32 of it.
  assert 0 <= check.difference < {"float32": 1e-5, "float64": float64}.get(policy, 0.03)
  assert squeeze(model, verify=False)[1].check is None


def test_inputs_are_those_given():
  images = np.zeros((5, 8, 8, 3))
  assert squeeze(gated(), inputs=images)[1].check.examples == 5
  for wrong in (np.zeros((5, 7)), "text", [], (images, images)):
    with pytest.raises(ValueError, match="net cannot be called with inputs .*: give what one call of it takes"):
      squeeze(gated(), inputs=wrong)


def test_where_no_output_is_finite_nothing_is_checked():
  check = squeeze(gated(), inputs=np.full((5, 8, 8, 3), np.nan))[1].check
  assert (check.examples, check.difference, check.note) == (5, None, "no output of the model is finite")


@pytest.mark.usefixtures("own_rules")
@pytest.mark.parametrize("exact", [True, False])
def test_a_layer_that_a_config_does_not_tell_all_of_is_named(exact):
  register(Brightened, rules.Mixer())
  model = gated(Brightened(4, 1, name="own", gain=0.75), layers.ReLU())
  with pytest.raises(
    ValueError, match=r"net squeezed does not.*off by 0\.\d+.*layer own is the first.*from its config"
  ):
    squeeze(model, exact)
  smaller, report = squeeze(model, exact, verify=False)
  assert report.layers["a"].removed == 2
  assert abs(outputs(smaller)[0] - outputs(model)[0]).max() > 1e-3


@pytest.mark.usefixtures("own_rules")
def test_a_layer_with_a_wrong_rule_is_named_in_nested_models_too():
  register(Centred, rules.Elementwise())
  inner = keras.Sequential([image(8, 8, 6), layers.ReLU(name="relu"), Centred(name="own")], name="inner")
  model = gated(inner, layers.Conv2D(4, 1, name="c"), padding="same")
  with pytest.raises(ValueError, match="layer inner/own is the first that is; mend its config or its rule"):
    squeeze(model)


def test_folding_at_borders_is_no_fault_but_is_reported():
  model = gated(padding="same", beta=2)
  smaller, report = squeeze(model, exact=False)
  assert 0.001 < report.check.difference < 1
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
  assert keras.ops.max(abs(smaller(images) - model(images))) > 0.01
  assert squeeze(model, exact=True)[1].check.difference < 1e-5


def test_a_threshold_is_checked_against_the_thresholded_model():
  model = gated(beta=0.5)
  model.get_layer("a_bn").gamma.assign([0.3, 0.2, 1, 1, 1, 1])
  report = squeeze(model, threshold=0.3)[1]
  assert report.comparison.relative_difference > 0.01
  assert report.check.difference < 1e-5
  np.testing.assert_allclose(model.get_layer("a_bn").gamma[:2], [0.3, 0.2])


@pytest.mark.usefixtures("own_rules")
def test_with_a_threshold_a_fault_is_found_all_the_same():
  register(Brightened, rules.Mixer())
  model = gated(Brightened(4, 1, name="own", gain=0.75))
  model.get_layer("a_bn").gamma.assign([0.3, 0.2, 1, 1, 1, 1])
  with pytest.raises(ValueError, match="layer own is the first"):
    squeeze(model, threshold=0.3)


class Noisy(layers.Layer):
  """It draws at random, in inference too."""

  def build(self, shape):
    self.seed = keras.random.SeedGenerator(1)

  def call(self, x):
    return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)


def test_a_model_that_draws_at_random_is_no_fault_and_draws_on():
  images = image()
  x = layers.Dropout(0.5, seed=3)(conv_bn(images, "a", 6), training=True)
  model = keras.Model(images, Noisy()(layers.Conv2D(2, 3)(x)))
  shut_two(model)
  seeds = [variable.numpy() for variable in model.non_trainable_variables if "seed" in variable.path]
  report = squeeze(model)[1]
  after = [variable.numpy() for variable in model.non_trainable_variables if "seed" in variable.path]
  assert report.check.note in ("", "two calls of the model differ as well")
  assert len(seeds) == 2
  np.testing.assert_array_equal(seeds, after)


class Drawing(layers.Layer):
  """It draws by a state that no one knows."""

  def call(self, x):
    return x * random.random()


def test_a_model_that_draws_by_a_hidden_state():
  report = squeeze(gated(Drawing(), layers.Conv2D(3, 1)))[1]
  assert report.check.note == "two calls of the model differ as well"


def test_what_is_not_finite_in_both_is_the_same(monkeypatch):
  images = image()
  x = keras.ops.log(layers.Conv2D(2, 3)(conv_bn(images, "a", 6)))
  model = keras.Model(images, [x, layers.Conv2D(1, 1)(x)])
  shut_two(model)
  assert squeeze(model)[1].check.difference < 1e-4


def of_words():
  words = keras.Input((4,), dtype="string")
  lookup = layers.StringLookup(vocabulary=["a", "b"])
  x = layers.BatchNormalization(name="a_bn")(layers.Dense(6, name="a")(layers.Embedding(4, 5)(lookup(words))))
  model = keras.Model(words, layers.Dense(2)(layers.ReLU()(x)), name="words")
  shut_two(model)
  return model


def test_a_model_that_noise_does_not_fit_is_not_checked():
  report = squeeze(of_words())[1]
  assert report.check.difference is None
  assert "takes text: give inputs" in report.check.note
  assert report.layers["a"].removed == 2


@takes_text
def test_a_model_that_takes_text_is_checked_with_inputs():
  model = of_words()
  smaller, _ = squeeze(model)
  text = tf.constant([["a", "b", "c", "a"]])
  np.testing.assert_allclose(smaller(text), model(text), rtol=1e-5)
  assert squeeze(model, inputs=text)[1].check.examples == 1


def test_integers_and_several_outputs_are_compared():
  images = {"one": image(name="one"), "two": image(8, 8, 3, name="two")}
  x = conv_bn(images["one"], "a", 6) + layers.Conv2D(6, 1)(images["two"])
  x = layers.Conv2D(3, 1, name="end")(x)
  model = keras.Model(images, {"class": keras.ops.argmax(x, axis=-1), "x": x})
  shut_two(model)
  assert squeeze(model)[1].check.difference < 1e-5
