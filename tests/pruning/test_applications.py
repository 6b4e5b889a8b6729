"""The networks of keras.applications, with 40% of their gammas at 0, squeeze to the same function."""

import numpy as np
import prune_applications
import pytest
from applications import NETWORKS, shut_at_random
from keras import layers, ops

from cifar10.pruning import multiply_adds, plan, plan_prune, prune, squeeze

SMALL = {"MobileNetV2": {"alpha": 0.35}, "MobileNetV3Small": {}, "EfficientNetV2B0": {}, "DenseNet121": {}}
WITHOUT_GAMMAS = ("InceptionV3", "InceptionResNetV2", "ConvNeXtTiny")


def outputs(model):
  """Predictions for two images of noise."""
  images = np.random.default_rng(1).normal(size=(2, *model.input_shape[1:]))
  return ops.convert_to_numpy(model(ops.cast(images, model.input.dtype), training=False)).astype("float64")


def assert_squeezes(model, tolerance):
  before = outputs(model)
  smaller, report = squeeze(model, exact=True)
  assert np.linalg.norm(outputs(smaller) - before) <= tolerance * np.linalg.norm(before)
  assert report.parameters_after == smaller.count_params() < model.count_params()
  assert report.multiply_adds_after < report.multiply_adds_before
  assert_accounts_for_every_dead_channel(model, smaller, report)
  assert plan(smaller, exact=True).parameters_after == report.parameters_after
  assert plan(model, exact=False).parameters_after <= report.parameters_after


def assert_accounts_for_every_dead_channel(model, smaller, report):
  """Every gamma at 0 went, or is counted with the reason why it stays."""
  for layer in model.layers:
    if isinstance(layer, layers.BatchNormalization) and layer.scale:
      gate = report.gates[layer.name]
      left = smaller.get_layer(layer.name).gamma.numpy()
      assert gate.channels == layer.gamma.shape[0]
      assert gate.channels - gate.removed == len(left)
      assert (left == 0).sum() <= sum(gate.kept_though_dead.values())
      assert (layer.gamma.numpy() == 0).sum() <= gate.removed + sum(gate.kept_though_dead.values())


@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name):
  model = NETWORKS[name](weights=None, input_shape=(96, 96, 3), classes=10, **SMALL[name])
  shut_at_random(model)
  assert_squeezes(model, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in WITHOUT_GAMMAS])
def test_all_networks_in_float32(name):
  model = NETWORKS[name](weights=None)
  shut_at_random(model)
  assert_squeezes(model, 1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in WITHOUT_GAMMAS])
def test_all_networks_in_float64(name):
  model = NETWORKS[name](weights=None)
  shut_at_random(model)
  assert_squeezes(model, 1e-9)


def assert_squeezes_without_gammas(name, tolerance):
  model = NETWORKS[name](weights=None, input_shape=(96, 96, 3))
  shut_at_random(model)
  assert plan(model).parameters_after == model.count_params()
  rng = np.random.default_rng(0)
  for layer in model.layers:
    if isinstance(layer, (layers.Conv2D, layers.Dense)) and layer is not model.layers[-1]:
      layer.kernel.assign(layer.kernel.numpy() * (rng.random(layer.kernel.shape[-1]) < 0.6))
  assert_squeezes(model, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_GAMMAS)
def test_networks_without_gammas_lose_channels_whose_kernels_are_0_in_float32(name):
  assert_squeezes_without_gammas(name, 1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", WITHOUT_GAMMAS)
def test_networks_without_gammas_lose_channels_whose_kernels_are_0_in_float64(name):
  assert_squeezes_without_gammas(name, 1e-9)


def test_a_small_network_is_pruned_to_half():
  model = prune_applications.network("MobileNetV2", input_shape=(96, 96, 3), classes=10, alpha=0.35)
  smaller, report = prune(model, multiply_adds=0.5, multiple_of=8, verify=False)
  assert report.multiply_adds_after == multiply_adds(smaller) <= 0.5 * multiply_adds(model)
  assert report.parameters_after == smaller.count_params()
  assert np.isfinite(outputs(smaller)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", prune_applications.NETWORKS)
def test_all_networks_are_pruned_to_half_or_say_the_least(name):
  model = prune_applications.network(name)
  report = plan_prune(model, multiply_adds=0.5)
  assert 0.49 < report.multiply_adds_after / report.multiply_adds_before <= 0.5
  with pytest.raises(ValueError, match="the least is"):
    plan_prune(model, multiply_adds=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet50", "InceptionV3", "ConvNeXtTiny", "EfficientNetB0", "Xception"])
def test_pruned_networks_are_what_the_plan_says(name):
  model = prune_applications.network(name)
  smaller, report = prune(model, multiply_adds=0.5, verify=False)
  assert report.multiply_adds_after == multiply_adds(smaller)
  assert report.parameters_after == smaller.count_params()
  assert np.isfinite(outputs(smaller)).all()
