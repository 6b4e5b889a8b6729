"""What the tests of rules share."""

import functools

import keras
import pytest
from builders import image
from flows import gate, gated_model


@pytest.fixture
def gated(randomize, shut):
  """`gated_model` with weights drawn at random."""
  return functools.partial(gated_model, randomize, shut)


@pytest.fixture
def joined(randomize, shut):
  """A function: the model of the two gated branches `a`, (?, -2, ?, 2), and `b`, (?, ?, 3, 1), that `join` joins."""

  def joined(join, *tail, shape=(5, 5, 3), betas=(-2, 2, 3, 1)):
    images = image(*shape)
    x = join(*(gate(images, name) for name in ("a", "b")))
    for layer in tail:
      x = layer(x)
    model = randomize(keras.Model(images, x))
    shut(model, "a_bn", [1, 3], betas[:2])
    shut(model, "b_bn", [2, 3], betas[2:])
    return model

  return joined
