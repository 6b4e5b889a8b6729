"""Tests of cifar10.models."""

import keras
import numpy as np
import pytest

from cifar10.batch_norm import fused, unfused
from cifar10.models import MODELS

BLOCKS = [f"g{group}b{block}" for group in range(3) for block in range(3)]


def random_images(count=4):
  return np.random.default_rng(0).normal(size=(count, 32, 32, 3)).astype("float32")


def randomize(model):
  """Gives all variables values at which forgetting one of them shows."""
  rng = np.random.default_rng(1)
  for variable in model.variables:
    noise = rng.uniform(0.5, 1.5, variable.shape)
    variable.assign(variable.numpy() * noise + (0.1 * noise if "kernel" not in variable.path else 0))


def layer_names(kind):
  return {name: [layer.name for layer in build().layers if isinstance(layer, kind)] for name, build in MODELS.items()}


@pytest.mark.parametrize(("name", "parameters"), [("resnet20", 281304), ("cnn4", 1986760)])
def test_parameter_counts(name, parameters):
  assert MODELS[name]().count_params() == parameters


@pytest.mark.parametrize("name", MODELS)
def test_maps_images_to_float32_logits(name):
  model = MODELS[name]()
  assert model.name == name
  assert model.input_shape == (None, 32, 32, 3)
  assert model.output_shape == (None, 10)
  assert model.output.dtype == "float32"
  logits = model(random_images()).numpy()
  assert logits.shape == (4, 10)
  assert (logits < 0).any()  # no softmax, no ReLU


def test_layers_bear_the_names_of_the_reference():
  convolutions = layer_names(keras.layers.Conv2D)
  in_blocks = [f"{block}{conv}" for block in BLOCKS for conv in ("c0", "c1")]
  assert sorted(convolutions["resnet20"]) == sorted(["first_conv", *in_blocks, "g1b0p", "g2b0p", "softmax_linear"])
  assert convolutions["cnn4"] == ["conv1", "conv2", "conv3", "fc1", "softmax_linear"]
  batch_norms = layer_names(keras.layers.BatchNormalization)
  for name in MODELS:
    assert sorted(batch_norms[name]) == sorted(f"{conv}_bn" for conv in convolutions[name])
  assert layer_names(keras.layers.Add)["resnet20"] == [f"{block}sum" for block in BLOCKS]
  relus = layer_names(keras.layers.ReLU)
  assert relus["resnet20"] == ["first_conv_relu", *(f"{block}c0_relu" for block in BLOCKS)]
  assert relus["cnn4"] == ["conv1_relu", "conv2_relu", "conv3_relu", "fc1_relu"]


def test_only_the_gates_have_gammas():
  def gammas(name):
    return {variable.path for variable in MODELS[name]().variables if variable.name == "gamma"}

  assert gammas("resnet20") == {f"{name}_bn/gamma" for name in [*(f"{block}c0" for block in BLOCKS), "softmax_linear"]}
  assert gammas("cnn4") == {f"{name}_bn/gamma" for name in ["conv1", "conv2", "conv3", "fc1", "softmax_linear"]}


@pytest.mark.parametrize("name", MODELS)
def test_batch_norms_are_those_of_the_reference(name):
  for layer in MODELS[name]().layers:
    if isinstance(layer, keras.layers.BatchNormalization):
      assert (layer.momentum, layer.epsilon, layer.center) == (0.999, 0.001, True)


@pytest.mark.parametrize("name", MODELS)
def test_kernels_are_xavier_uniform_and_without_bias(name):
  for layer in MODELS[name]().layers:
    if isinstance(layer, keras.layers.Conv2D):
      assert not layer.use_bias
      *size, inputs, outputs = layer.kernel.shape
      limit = np.sqrt(6 / (np.prod(size) * (inputs + outputs)))
      largest = abs(layer.kernel.numpy()).max()
      assert 0.9 < largest / limit < 1.0001


def test_kernels_shapes_strides_and_paddings():
  resnet20, cnn4 = MODELS["resnet20"](), MODELS["cnn4"]()

  def shape(model, name):
    layer = model.get_layer(name)
    return (*layer.kernel.shape, layer.strides[0], layer.padding)

  assert shape(resnet20, "first_conv") == (3, 3, 3, 16, 1, "same")
  assert shape(resnet20, "g0b0c0") == (3, 3, 16, 16, 1, "same")
  assert shape(resnet20, "g1b0c0") == (3, 3, 16, 32, 2, "same")
  assert shape(resnet20, "g1b0p") == (2, 2, 16, 32, 2, "same")
  assert shape(resnet20, "g2b0c0") == (3, 3, 32, 64, 2, "same")
  assert shape(resnet20, "g2b2c1") == (3, 3, 64, 64, 1, "same")
  assert shape(resnet20, "softmax_linear") == (1, 1, 64, 10, 1, "same")
  assert shape(cnn4, "conv1") == (5, 5, 3, 96, 1, "same")
  assert shape(cnn4, "conv2") == (5, 5, 96, 192, 1, "same")
  assert shape(cnn4, "conv3") == (3, 3, 192, 192, 1, "same")
  assert shape(cnn4, "fc1") == (4, 4, 192, 384, 1, "valid")


def test_a_block_adds_its_input_without_a_relu():
  model = MODELS["resnet20"]()
  randomize(model)
  names = ["g0b1sum", "g0b2c1_bn", "g0b2sum"]
  tensors = keras.Model(model.input, [model.get_layer(name).output for name in names])
  shortcut, branch, total = (tensor.numpy() for tensor in tensors(random_images()))
  np.testing.assert_allclose(total, shortcut + branch, rtol=1e-6, atol=1e-6)
  assert (total < 0).any()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_needs_no_custom_objects(name, tmp_path):
  model = MODELS[name]()
  randomize(model)
  images = random_images()
  path = tmp_path / "model.keras"
  unfused(fused(model)).save(path)
  loaded = keras.saving.load_model(path)
  assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
  np.testing.assert_array_equal(loaded(images), model(images))
  assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)
