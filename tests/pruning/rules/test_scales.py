"""Tests of cifar10.pruning.rules.scales.PerChannel: weights of one's own along the channel axis."""

import keras
import numpy as np
import pytest
from builders import image
from flows import constants, gate, read, squeeze_and_check
from keras import layers

from cifar10.pruning import register, rules

pytestmark = pytest.mark.usefixtures("float64", "own_rules")


@keras.saving.register_keras_serializable("tests")
class LayerScale(layers.Layer):
  """x * scale, of a size that its constructor gets."""

  def __init__(self, dim, **kwargs):
    super().__init__(**kwargs)
    self.dim = dim

  def build(self, shape):
    self.scale = self.add_weight(shape=(1, 1, self.dim), name="scale")

  def call(self, x):
    return x * self.scale

  def get_config(self):
    return {**super().get_config(), "dim": self.dim}


@keras.saving.register_keras_serializable("tests")
class LearnableAffine(layers.Layer):
  """x * scale + shift, numbers for all channels, or each."""

  def __init__(self, each=False, **kwargs):
    super().__init__(**kwargs)
    self.each = each

  def build(self, shape):
    shape = (shape[-1],) if self.each else ()
    self.scale = self.add_weight(shape=shape, name="scale")
    self.shift = self.add_weight(shape=shape, name="shift")

  def call(self, x):
    return x * self.scale + self.shift

  def get_config(self):
    return {**super().get_config(), "each": self.each}


@pytest.mark.parametrize("each", [True, False])
def test_a_learnable_affine(gated, each):
  register(LearnableAffine, rules.PerChannel(multiply=["scale"], add=["shift"]))
  model = gated(LearnableAffine(each, name="layer"), read)
  known = constants(model, "layer")
  scale, shift = (getattr(model.get_layer("layer"), name).numpy() for name in ("scale", "shift"))
  expected = (np.array([np.nan, -2, np.nan, 2]) * scale + shift)[[1, 3]]
  np.testing.assert_allclose(known[[1, 3]], expected)
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {})


def test_a_scale_with_a_size_in_its_config(gated):
  register(LayerScale, rules.PerChannel(["scale"], size="dim"))
  model = gated(LayerScale(4, name="layer"), read)
  smaller, removed, _ = squeeze_and_check(model)
  assert removed == {"a": 2}
  assert smaller.get_layer("layer").dim == 2


def test_where_it_multiplies_by_0_channels_are_dead(randomize):
  register(LayerScale, rules.PerChannel(["scale"], size="dim"))
  images = image()
  x = layers.Add()([LayerScale(4, name="layer")(gate(images, "a")), gate(images, "b")])
  y = LayerScale(4, name="other")(gate(images, "c"))
  model = randomize(keras.Model(images, [read(x), layers.Dense(3)(y)]))
  model.get_layer("layer").scale.assign([[[0, 1, 0, 1]]])
  model.get_layer("other").scale.assign([[[0, 1, 0, 1]]])
  assert squeeze_and_check(model)[1] == {"c": 2}


@pytest.mark.parametrize("arguments", [{}, {"multiply": "gamma"}])
def test_names_are_asked_for(arguments):
  with pytest.raises(ValueError, match="lists of names"):
    rules.PerChannel(**arguments)
