"""The path of a model through the library, from penalties to the saved squeezed one, on whatever backend runs."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from cifar10 import pruning


@pytest.fixture
def model(shut, randomize):
  """Two of five channels of "a" and one of "b" are dead."""
  images = keras.Input((8, 8, 3))
  x = layers.ReLU()(layers.BatchNormalization(name="a_bn")(layers.Conv2D(5, 3, padding="same", name="a")(images)))
  x = layers.ReLU()(layers.BatchNormalization(name="b_bn")(layers.Conv2D(6, 3, padding="same", name="b")(x)))
  model = randomize(keras.Model(images, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x))))
  shut(model, "a_bn", [1, 2], [-0.5, -0.25])
  shut(model, "b_bn", [0], [0.5])
  return model


def images(count=16):
  return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype("float32")


def test_figures_of_gammas(model):
  gates = {"a_bn/gamma": 2.0, "b_bn/gamma": 0.5}
  assert pruning.penalties(model).keys() == gates.keys()
  gammas = [ops.convert_to_numpy(model.get_layer(name).gamma) for name in ("a_bn", "b_bn")]
  lasso = sum(penalty * abs(gamma).sum() for penalty, gamma in zip(gates.values(), gammas))
  assert float(pruning.group_lasso(model, gates)) == pytest.approx(lasso, rel=1e-6)
  assert float(pruning.fake_sparsity(model, gates)) == pytest.approx((2 * 2 + 0.5) / (5 * 2 + 6 * 0.5))
  assert pruning.multiply_adds(model) == 64 * (9 * 3 * 5 + 9 * 5 * 6) + 6 * 3


def test_squeezing_comparing_and_saving(model, tmp_path):
  smaller, report = pruning.squeeze(model)
  assert (report.layers["a"].removed, report.layers["b"].removed) == (2, 1)
  assert report.check.difference < 1e-5
  comparison = pruning.compare(model, smaller, images(), repeats=1)
  assert comparison.relative_difference < 1e-5
  assert comparison.agreement == 1
  smaller.save(tmp_path / "smaller.keras")
  loaded = keras.saving.load_model(tmp_path / "smaller.keras")
  np.testing.assert_array_equal(*(ops.convert_to_numpy(each(images())) for each in (smaller, loaded)))


def test_a_threshold_is_compared(model):
  report = pruning.squeeze(model, threshold=0.7)[1]
  assert report.comparison.relative_difference > 0
  assert report.parameters_after < pruning.plan(model).parameters_after


def test_scaling_folding_and_recalibrating(model):
  before = ops.convert_to_numpy(model(images()))
  pruning.scale_gammas(model, ["b_bn/gamma"], 0.5)
  folded = pruning.fold_batch_norms(model)
  for each in (model, folded):
    np.testing.assert_allclose(ops.convert_to_numpy(each(images())), before, rtol=1e-3, atol=1e-4)
  pruning.unscale_gammas(model, ["b_bn/gamma"], 0.5)
  pruning.recalibrate(model, [images()])
  x = ops.convert_to_numpy(model.get_layer("a")(images()))
  np.testing.assert_allclose(model.get_layer("a_bn").moving_mean, x.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-4)


def test_training_with_a_logger(model):
  gates = pruning.penalties(model)
  model.compile(pruning.ProximalSGD(0.01, 5.0, gates), "mse")
  logger = pruning.SparsityLogger(gates)
  history = model.fit(images(), np.zeros((16, 3)), epochs=2, verbose=0, callbacks=[logger]).history
  assert history["group_lasso"][1] < history["group_lasso"][0]
  assert history["fake_sparsity"][-1] == pytest.approx(float(pruning.fake_sparsity(model, gates)))


def test_pruning_to_a_budget(model):
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  given = {"inputs": images(), "targets": np.arange(16) % 3}
  for how in ({"importance": "l2"}, {"importance": "gamma", **given}, {"importance": "taylor", "loss": loss, **given}):
    smaller, report = pruning.prune(model, multiply_adds=0.4, **how)
    assert report.multiply_adds_after == pruning.multiply_adds(smaller) <= 0.4 * report.multiply_adds_before
    assert report.comparison.relative_difference > 0
    assert np.isfinite(ops.convert_to_numpy(smaller(images()))).all()
