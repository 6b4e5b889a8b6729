"""Models of many shapes, trained with ProximalSGD until gammas are 0, then squeezed: the function stays."""

import re
import zipfile

import keras
import numpy as np
import pytest
from builders import conv_bn
from flows import assert_same_function, squeeze_and_check
from keras import layers, ops
from marks import only_on

from cifar10.pruning import ProximalSGD, fake_sparsity, penalties
from cifar10.pruning.calls import as_functional

pytestmark = pytest.mark.usefixtures("float64")


def u_net():
  images = keras.Input((8, 8, 3), name="images")
  high = conv_bn(images, "high", 6)
  middle = conv_bn(layers.MaxPooling2D()(high), "middle", 8)
  low = conv_bn(layers.MaxPooling2D()(middle), "low", 10, activation="swish")
  x = layers.Conv2DTranspose(6, 2, 2, name="up_middle")(low)
  x = conv_bn(layers.Concatenate()([x, middle]), "join_middle", 8)
  x = layers.UpSampling2D()(x)
  x = conv_bn(ops.concatenate([high, x], axis=-1), "join_high", 6, activation="tanh")
  return keras.Model(images, layers.Conv2D(2, 1, name="mask")(x), name="u_net")


def encoder():
  images = keras.Input((8, 8, 3), name="patch")
  x = conv_bn(images, "first", 6, stride=2)
  x = conv_bn(x, "second", 8)
  return keras.Model(images, layers.Dense(5, name="code")(layers.GlobalAveragePooling2D()(x)), name="encoder")


def siamese():
  left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
  encode = encoder()
  distance = ops.abs(encode(left) - encode(right))
  return keras.Model({"left": left, "right": right}, layers.Dense(1, name="same")(distance), name="siamese")


def two_inputs_two_outputs():
  image, depth = keras.Input((8, 8, 3), name="image"), keras.Input((8, 8, 1), name="depth")
  x = layers.Add()([conv_bn(image, "image_a", 6), conv_bn(depth, "depth_a", 6)])
  x = x + conv_bn(x, "b", 6, activation="swish")
  excitation = layers.GlobalAveragePooling2D(keepdims=True)(x)
  excitation = layers.Conv2D(6, 1, activation="sigmoid", name="excite")(excitation)
  x = layers.Multiply()([x, excitation])
  mask = layers.Conv2D(1, 3, padding="same", name="mask")(conv_bn(x, "c", 4))
  label = layers.Dense(3, name="label")(layers.Flatten()(layers.MaxPooling2D(4)(x)))
  return keras.Model([image, depth], [mask, label], name="two_heads")


def nested():
  images = keras.Input((8, 8, 3), name="images")
  x = encoder_of_features()(conv_bn(images, "stem", 5))
  x = layers.Dropout(0.5)(layers.Flatten()(x))
  return keras.Model(images, layers.Dense(4, name="logits")(x), name="nested")


def encoder_of_features():
  features = keras.Input((8, 8, 5), name="features")
  inner = keras.Sequential(
    [
      keras.Input((8, 8, 6)),
      layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
      layers.Conv2D(7, 1, use_bias=False, name="pointwise"),
      layers.BatchNormalization(name="bn"),
      layers.ReLU(),
    ],
    name="inner",
  )
  return keras.Model(features, inner(conv_bn(features, "outer", 6, activation="swish")), name="features_encoder")


def sequential():
  return keras.Sequential(
    [
      keras.Input((8, 8, 3)),
      layers.Rescaling(0.5),
      layers.Conv2D(6, 3, name="a"),
      layers.BatchNormalization(name="a_bn"),
      layers.PReLU(shared_axes=[1, 2]),
      layers.ZeroPadding2D(),
      layers.SeparableConv2D(7, 3, name="b"),
      layers.BatchNormalization(name="b_bn"),
      layers.ReLU(),
      layers.AveragePooling2D(2),
      layers.Flatten(),
      layers.Dense(5, name="c"),
      layers.BatchNormalization(name="c_bn"),
      layers.ELU(),
      layers.Dense(3, name="logits"),
    ],
    name="sequential",
  )


def train(model):
  """Some steps by `model.fit` on noise, with a penalty that shuts some of the gammas and leaves others."""
  rng = np.random.default_rng(0)
  for variable in model.trainable_variables:
    if variable.name == "gamma":
      variable.assign(np.where(rng.permutation(variable.shape[0]) % 3 == 0, 0.01, 1.0))
  by_path = penalties(model, num_pixels=64)
  model.compile(ProximalSGD(0.02, 0.3, by_path, momentum=0.5, nesterov=True), "mse")

  def noise(tensor):
    return rng.normal(size=(16, *tensor.shape[1:]))

  inputs, outputs = (keras.tree.map_structure(noise, structure) for structure in structures(model))
  model.fit(inputs, outputs, batch_size=4, epochs=3, verbose=0)
  assert 0.1 < float(fake_sparsity(model, by_path)) < 0.9


one_filter = only_on("tensorflow", "jax", reason="PyTorch cannot train 3x3 kernels of one filter in float64 on a CPU")


@pytest.mark.parametrize(
  "build", [u_net, siamese, pytest.param(two_inputs_two_outputs, marks=one_filter), nested, sequential]
)
def test_trained_and_squeezed_it_computes_the_same(build, tmp_path):
  keras.utils.set_random_seed(0)
  model = build()
  train(model)
  smaller, removed, _ = squeeze_and_check(model)
  assert sum(removed.values()) > 1
  assert smaller.count_params() < model.count_params()
  assert type(smaller) is type(model)
  assert smaller.name == model.name
  assert names(smaller) == names(model)
  for ours, theirs in zip(structures(smaller), structures(model)):
    keras.tree.assert_same_structure(ours, theirs)
    shapes = [[x.shape for x in keras.tree.flatten(structure)] for structure in (ours, theirs)]
    assert shapes[0] == shapes[1]
  smaller.save(tmp_path / "smaller.keras")
  loaded = keras.saving.load_model(tmp_path / "smaller.keras", custom_objects={}, safe_mode=True)
  assert_same_function(model, loaded)
  with zipfile.ZipFile(tmp_path / "smaller.keras") as archive:
    assert not re.search(rb"cifar10|pruning", archive.read("config.json"))
  train(smaller)


def structures(model):
  """The inputs and the outputs of a model, in their structures."""
  functional = as_functional(model)
  return functional.input, functional.output


def names(model):
  """The names of the layers, those in nested models too."""
  return [(layer.name, names(layer) if isinstance(layer, keras.Model) else None) for layer in model.layers]
