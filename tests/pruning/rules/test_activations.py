"""Tests of cifar10.pruning.rules.activations: functions that Keras does not know."""

import functools

import keras
import numpy as np
import pytest
from builders import image
from flows import gate, read, squeeze_and_check
from keras import layers, ops

from cifar10.pruning import plan, register, rules
from cifar10.pruning.rules.activations import acts_on_values, is_coupled

pytestmark = pytest.mark.usefixtures("float64")


@keras.saving.register_keras_serializable("tests")
def mish(x):
  """The product x * tanh(softplus(x))."""
  return x * ops.tanh(ops.softplus(x))


@keras.saving.register_keras_serializable("tests")
def centred(x):
  """Less its mean over everything."""
  return x - ops.mean(x)


OF_VALUES = [
  mish,
  functools.partial(ops.leaky_relu, negative_slope=0.3),
  functools.partial(ops.gelu, approximate=True),
  lambda x: ops.where(x > 0, x, 0.1 * x) + 1,
]
OTHERS = [
  centred,
  functools.partial(ops.softmax, axis=1),
  lambda x: x / (1e-6 + ops.max(ops.abs(x))),
  lambda x: x * ops.reshape(ops.arange(x.shape[-1], dtype=x.dtype), (-1,)),
  lambda x: x[..., ::-1],
  lambda x: ops.cumsum(x, axis=-1),
  lambda x: ops.mean(x, axis=-1),
  lambda x: x * np.arange(4),
]


def test_probing():
  assert all(map(acts_on_values, OF_VALUES))
  assert not any(map(acts_on_values, OTHERS))
  assert not is_coupled(layers.LeakyReLU(0.3))
  assert is_coupled(layers.PReLU())


@pytest.mark.parametrize("function", [mish, OF_VALUES[1]])
@pytest.mark.parametrize(
  "tail",
  [
    lambda f: (layers.Activation(f), read),
    lambda f: (layers.Lambda(f), read),
    lambda f: (layers.DepthwiseConv2D(1, activation=f), read),
    lambda f: (layers.Dense(5, activation=f, name="b"), layers.BatchNormalization(name="b_bn"), read),
  ],
)
def test_functions_of_one_s_own_are_followed(gated, function, tail):
  model = gated(*tail(function), betas={0: 1, 1: -2, 2: 0.5})
  assert plan(model).walls == []
  assert squeeze_and_check(model)[1]["a"] == 3


def test_functions_of_one_s_own_on_the_maker(randomize, shut):
  images = image()
  x = gate(layers.Conv2D(4, 3, activation=mish, name="own")(images), "a")
  model = randomize(keras.Model(images, read(x)))
  kernel = model.get_layer("own").kernel
  kernel.assign(kernel.numpy() * [0, 1, 0, 1])
  assert squeeze_and_check(model)[1] == {"own": 2}


@pytest.mark.parametrize("layer", [layers.Activation, layers.Lambda])
def test_others_are_walls(gated, layer):
  model = gated(lambda x: layer(centred, name="own")(x), read)
  assert plan(model).walls == ["own"]


@pytest.mark.usefixtures("own_rules")
def test_what_is_registered_counts(gated):
  def scarce(x):
    assert len(x.shape) == 4
    return ops.relu(x)

  model = gated(lambda x: layers.Lambda(scarce, name="own")(x), read)
  assert plan(model).walls == ["own"]
  register(scarce, rules.Elementwise())
  assert plan(model).walls == []
  register(mish, rules.Wall())
  assert is_coupled(mish)
