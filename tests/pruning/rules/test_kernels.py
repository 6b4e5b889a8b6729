"""Tests of cifar10.pruning.rules.kernels: a rule for a layer of one's own, with a kernel of its own."""

import keras
import numpy as np
import pytest
from flows import assert_same_function, squeeze_and_check
from keras import layers

from cifar10.pruning import multiply_adds, penalties, register, rules, scale_gammas, squeeze
from cifar10.pruning.rules import base

pytestmark = pytest.mark.usefixtures("float64")


@keras.saving.register_keras_serializable("tests")
class Linear(layers.Layer):
  """x @ weight.T, with a weight of shape (outputs, inputs); no bias, nor a way to have one."""

  def __init__(self, out_features, **kwargs):
    super().__init__(**kwargs)
    self.out_features = out_features

  def build(self, shape):
    self.weight = self.add_weight(shape=(self.out_features, shape[-1]), name="weight")

  def call(self, x):
    return keras.ops.matmul(x, keras.ops.transpose(self.weight))

  def get_config(self):
    return {**super().get_config(), "out_features": self.out_features}


class LinearRule(rules.KernelRule):
  """Where its kernel is, and how it lies."""

  kernels = ("weight",)

  def kernel(self, layer):
    return keras.ops.convert_to_numpy(layer.weight).T[None]

  def sliced(self, layer, kernel, keep_in, keep_out):
    return {"weight": kernel[0][keep_in][:, keep_out].T}

  def config(self, layer, keep_in, keep_out):
    return {"out_features": int(keep_out.sum())}


@pytest.fixture
def model(monkeypatch, randomize, shut):
  """Two gated layers, of which the second has the constants 1, 2 and 0.5 to read."""
  monkeypatch.setattr(base, "RULES", {**base.RULES, Linear: (LinearRule(),)})
  given = keras.Input((5,), name="given")
  x = layers.BatchNormalization(name="a_bn")(Linear(6, name="a")(given))
  x = Linear(4, name="b")(layers.ReLU()(x))
  model = randomize(keras.Model(given, Linear(3, name="end")(layers.ReLU()(layers.BatchNormalization(name="b_bn")(x)))))
  shut(model, "a_bn", [0, 2, 5], [1, 2, 0.5])
  shut(model, "b_bn", [3], [-1])
  return model


def test_without_a_place_for_constants_one_of_them_carries_the_others(model):
  smaller, *counts = squeeze_and_check(model)
  assert counts == [{"a": 2, "b": 1}, {"a": {"carrier": 1}}]
  assert smaller.get_layer("b").weight.shape == (3, 4)
  paper, report = squeeze(model, exact=False)
  assert report.layers["a"].removed == 2
  assert_same_function(model, paper)


def test_without_carriers_they_stay(model, monkeypatch):
  monkeypatch.setattr(LinearRule, "carries", False)
  assert squeeze_and_check(model)[1:] == ({"b": 1}, {"a": {"padding": 3}})
  smaller, report = squeeze(model, exact=False)
  assert {name: layer.removed for name, layer in report.layers.items()} == {"a": 0, "b": 1, "end": 0}
  assert_same_function(model, smaller)


def test_its_costs_are_known(model):
  assert multiply_adds(model) == 5 * 6 + 6 * 4 + 4 * 3
  assert penalties(model, num_pixels=1) == {"a_bn/gamma": 1 + 5 + 4, "b_bn/gamma": 1 + 6 + 3}


def test_its_kernel_takes_up_factors(model):
  before = model(np.ones((2, 5)))
  kernel = model.get_layer("b").weight.numpy()
  scale_gammas(model, {"a_bn/gamma": 1.0}, 0.1)
  np.testing.assert_allclose(model.get_layer("b").weight, kernel * 10)
  np.testing.assert_allclose(model(np.ones((2, 5))), before, rtol=1e-9)


def test_a_rule_with_kernels_that_says_nothing_of_factors_is_told_so():
  class Half(rules.Rule):
    kernels = ("weight",)

  with pytest.raises(NotImplementedError, match="Half has kernels.*define absorbed"):
    Half().absorbed(layers.ReLU(), np.ones(2))


def test_a_rule_is_registered_for_a_class(monkeypatch):
  monkeypatch.setattr(base, "RULES", dict(base.RULES))
  rule = LinearRule()
  register(Linear, rule)
  assert base.RULES[Linear] == (rule,)
  with pytest.raises(ValueError, match="register\\(Linear\\) needs a rule"):
    register(Linear)
