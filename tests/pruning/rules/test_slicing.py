"""Tests of cifar10.pruning.rules.slicing: slices and splits move with the channels that go."""

import keras
import pytest
from builders import image
from flows import gate, is_opaque, read, reasons, squeeze_and_check
from keras import layers, ops
from marks import only_on

from cifar10.pruning import plan, scale_gammas

pytestmark = pytest.mark.usefixtures("float64")

BETAS = {0: 1, 2: -2, 3: 2, 5: 1}


@pytest.fixture
def cut(randomize, shut):
  """A function: the model of 6 channels "a", of which 0, 2, 3 and 5 are constants, that `function` cuts."""

  def cut(function, shape=(5, 5, 3), data_format="channels_last", batch=None):
    images = keras.Input(batch_shape=(batch, *shape), name="images")
    x = function(gate(images, "a", filters=6, data_format=data_format))
    tensors = [layers.Identity(name=f"part{index}")(each) for index, each in enumerate(keras.tree.flatten(x))]
    model = randomize(keras.Model(images, [layers.Dense(2, name=f"end{i}")(each) for i, each in enumerate(tensors)]))
    shut(model, "a_bn", list(BETAS), list(BETAS.values()))
    return model

  return cut


backwards = only_on("tensorflow", "jax", reason="PyTorch has no slices with negative steps")

CUTS = [
  (lambda x: x[..., 1:5], 4),
  (lambda x: x[:, :, :, 1:], 4),
  (lambda x: x[..., -3:-1], 5),
  (lambda x: x[:, ::2, 1:-1], 4),
  (lambda x: x[:, 0], 4),
  (lambda x: x[:, None, ..., :4], 5),
  pytest.param(lambda x: x[..., ::-1], 4, marks=backwards),
  (lambda x: x[..., 4:5], 5),
  (lambda x: ops.split(x, 2, axis=-1), 4),
  (lambda x: ops.split(x, [1, 4], axis=3), 3),
  (lambda x: ops.split(x, 5, axis=1), 4),
  (lambda x: ops.split(x, 3, axis=-1)[1], 3),
  (lambda x: ops.split(x, 1, axis=-1), 4),
  (lambda x: layers.Concatenate()([x[..., 3:], x[..., :3]]), 4),
]


@pytest.mark.parametrize(("function", "removed"), CUTS)
def test_the_bounds_move(cut, function, removed):
  assert squeeze_and_check(cut(function))[1] == {"a": removed}


@pytest.mark.parametrize("function", [lambda x: x[:, 1:4], lambda x: ops.split(x, 2, axis=1)[0]])
def test_channels_first(cut, function):
  def channels_last(x):
    return ops.transpose(function(x), (0, 2, 3, 1))

  assert squeeze_and_check(cut(channels_last, (3, 5, 5), "channels_first"))[1]["a"] >= 4


def test_a_slice_of_a_batch_of_fixed_size(cut):
  model = cut(lambda x: ops.slice(x, (0, 1, 0, 1), (8, 3, 5, 4)), batch=8)
  assert squeeze_and_check(model)[1] == {"a": 4}


@pytest.mark.parametrize("function", [lambda x: x[..., 3], lambda x: ops.squeeze(x[..., 1:2], -1)])
def test_a_single_channel(cut, function):
  assert squeeze_and_check(cut(function))[1]["a"] >= 4


@pytest.mark.parametrize("function", [lambda x: x[..., ::2], pytest.param(lambda x: x[..., 4:1:-1], marks=backwards)])
def test_steps_along_the_channels_are_not_followed(cut, function):
  model = cut(function)
  assert is_opaque(model, "part0")
  assert all(reason.startswith("get_item") for reason in reasons(model, "a"))
  squeeze_and_check(model)


def test_what_no_slice_reads_goes(randomize):
  images = image()
  x = gate(images, "a", filters=6)
  model = randomize(keras.Model(images, read(layers.Add()([x[..., :2], x[..., 2:4]]))))
  _, removed, _ = squeeze_and_check(model)
  assert removed == {"a": 2}


def test_halves_that_are_summed_go_together(randomize, shut):
  images = image()
  left, right = ops.split(gate(images, "a", filters=6), 2, axis=-1)
  model = randomize(keras.Model(images, read(left + right)))
  shut(model, "a_bn", [0, 1, 4, 5], [1, 2, 3, 4])
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {"a": {"shared": 2}})


def test_gammas_behind_a_split_are_not_scaled(cut):
  model = cut(lambda x: ops.split(x, 2, axis=-1))
  with pytest.raises(ValueError, match="split"):
    scale_gammas(model, ["a_bn/gamma"], 0.5)


def test_a_ghost_module(randomize, shut):
  images = image()
  primary = layers.ReLU()(gate(images, "a", filters=4))
  cheap = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(primary)
  x = layers.Concatenate()([primary, layers.BatchNormalization(name="cheap_bn")(cheap)])[..., :7]
  model = randomize(keras.Model(images, read(x)))
  shut(model, "a_bn", [0, 3], [0, 0])
  shut(model, "cheap_bn", [0, 3], [1, 2])
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {})


ARRANGED = [
  (lambda x: ops.tile(x, (1, 1, 2, 2)), 4),
  (lambda x: ops.repeat(x, 2, axis=-1), 4),
  (lambda x: ops.repeat(x, 2, axis=1), 4),
  (lambda x: ops.flip(x, axis=-1), 4),
  (lambda x: ops.space_to_depth(x, 2), 4),
  (lambda x: ops.depth_to_space(x[..., :4], 2), 2),
  (lambda x: ops.sum(x, axis=(1, 2)), 4),
  (lambda x: ops.sum(x, axis=1, keepdims=True), 4),
  (lambda x: ops.max(x, axis=2), 4),
  (lambda x: ops.image.resize(x, (7, 3)), 4),
  (lambda x: ops.cast(ops.cast(x, "float32"), "float64"), 4),
]


@pytest.mark.parametrize(("function", "removed"), ARRANGED)
def test_other_places(cut, function, removed):
  model = cut(function, shape=(4, 4, 3))
  assert squeeze_and_check(model)[1].get("a", 0) == removed


def test_a_sum_over_a_size_that_is_not_fixed(randomize, shut):
  images = keras.Input((None, 4, 3))
  model = randomize(keras.Model(images, layers.Dense(2)(ops.sum(gate(images, "a"), axis=1))))
  shut(model, "a_bn", [0, 1], [0, 3])
  assert plan(model).layers["a"].removed == 1
