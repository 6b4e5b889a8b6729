"""Tests of cifar10.pruning.rules.arrangement: layers that put values in other places, or join tensors."""

import keras
import numpy as np
import pytest
from builders import image
from flows import NAN, connect, constants, end, gate, ids, is_opaque, of, read, reasons, squeeze_and_check, used
from keras import layers, ops

from cifar10.pruning import squeeze

pytestmark = pytest.mark.usefixtures("float64")


def named():
  """Gives the output of an operation a name to find it by."""
  return layers.Identity(name="layer")


def flat(x):
  return read(layers.Flatten()(x))


FOUR = [0, 1, 2, 3]
ARRANGED = [  # Shape of the images, function, channel axis of its output, which of the channels stand along it.
  ((2, 3, 3), layers.Flatten(), 1, FOUR * 6),
  ((2, 3, 3), layers.Flatten(data_format="channels_first"), 1, [c for c in FOUR for _ in range(2)] * 3),
  ((2, 3, 3), layers.Reshape((6, 4)), 2, FOUR),
  ((2, 3, 3), layers.Reshape((-1, 4)), 2, FOUR),
  ((2, 3, 3), layers.Reshape((6, -1)), 2, FOUR),
  ((2, 3, 3), layers.Reshape((24,)), 1, FOUR * 6),
  ((2, 3, 3), layers.Reshape((1, 24)), 2, FOUR * 6),
  ((2, 3, 3), layers.Reshape((2, 12)), 2, FOUR * 3),
  ((2, 3, 3), layers.Reshape((12, 2)), 2, [0, 1]),
  ((2, 3, 3), layers.Reshape((4, 6)), 2, [0, 1] * 3),
  ((2, 3, 3), layers.Reshape((2, 3, 2, 2)), 4, [0, 1]),
  ((2, 3, 3), layers.Reshape((2, 3, 2, -1)), 4, [0, 1]),
  ((2, 3, 3), layers.Permute((3, 1, 2)), 1, FOUR),
  ((2, 3, 3), layers.Permute((1, 3, 2)), 2, FOUR),
  ((3,), layers.RepeatVector(3), 2, FOUR),
  ((3,), layers.Reshape((1, 1, 4)), 3, FOUR),
  ((3,), layers.Reshape((1, 1, -1)), 3, FOUR),
  ((3,), layers.Reshape((4, 1)), 1, FOUR),
  ((3,), layers.Reshape((2, 2)), 2, [0, 1]),
  ((2, 3, 3), lambda x: ops.reshape(x, (-1, 6, 4)), 2, FOUR),
  ((2, 3, 3), lambda x: ops.reshape(x, (-1, 24)), 1, FOUR * 6),
  ((2, 3, 3), lambda x: ops.reshape(x, (-1, 12, 2)), 2, [0, 1]),
  ((2, 3, 3), lambda x: ops.reshape(x, (-1, 3, 8, 1)), 2, FOUR * 2),
  ((2, 3, 3), lambda x: ops.transpose(x, (0, 2, 3, 1)), 2, FOUR),
  ((2, 3, 3), lambda x: ops.moveaxis(x, -1, 1), 1, FOUR),
  ((2, 3, 3), lambda x: ops.moveaxis(x, (1, 3), (3, 1)), 1, FOUR),
  ((2, 3, 3), lambda x: ops.swapaxes(x, 3, 2), 2, FOUR),
  ((2, 3, 3), lambda x: ops.expand_dims(x, 1), 4, FOUR),
  ((2, 3, 3), lambda x: ops.expand_dims(x, -1), 3, FOUR),
  ((1, 3, 3), lambda x: ops.squeeze(x, 1), 2, FOUR),
]


@pytest.mark.parametrize(("shape", "function", "axis", "stand"), ARRANGED)
def test_every_value_keeps_its_channel(gated, shape, function, axis, stand):
  model = gated(function, named(), flat, shape=shape)
  a = ids(model, "a")
  assert of(model, "layer").axis == axis
  assert ids(model, "layer") == [a[channel] for channel in stand]
  both = len(set(a)) == 2  # Channels 1 and 3, -2 and 2, have become one.
  values = [NAN, NAN] if both else [NAN, -2, NAN, 2]
  np.testing.assert_array_equal(constants(model, "layer"), [values[channel] for channel in stand])
  assert squeeze_and_check(model)[1:] == (({}, {"a": {"shared": 2}}) if both else ({"a": 2}, {}))
  kernel = model.get_layer("end").kernel
  assert used(model, "a_bn") == [True] * 4
  kernel.assign(kernel * 0)
  assert used(model, "a_bn") == [False] * 4


@pytest.mark.parametrize("last", [(12, 2), (2, 3, 2, 2), (-1, 2)])
def test_channels_that_become_one_go_together(gated, last):
  model = gated(layers.Reshape(last, name="layer"), flat, shape=(2, 3, 3), betas={1: 2, 3: 2})
  assert constants(model, "layer")[1] == 2
  smaller, *counts = squeeze_and_check(model)
  assert counts == [{"a": 2}, {}]
  assert smaller.get_layer("layer").target_shape[-1] == 1


def test_channels_that_are_all_mixed_up_stay(gated):
  model = gated(layers.Reshape((8, 3)), named(), flat, shape=(2, 3, 3))
  assert squeeze_and_check(model)[1:] == ({}, {"a": {"shared": 2}})


@pytest.mark.parametrize(
  "function", [lambda x: ops.reshape(x, (-1, 4)), layers.Reshape((28,)), layers.Permute((2, 1)), layers.Flatten()]
)
def test_what_depends_on_sizes_that_are_not_fixed(gated, function):
  model = gated(function, named(), shape=(None, 3))
  followed = isinstance(function, layers.Permute)
  assert is_opaque(model, "layer") is not followed
  assert (None in reasons(model, "a")) is False


def test_the_pattern_of_one_size_is_not_taken_for_that_of_another(gated):
  """Of 2 pixels, but not of 4, each of 8 rows would be a channel."""
  model = gated(layers.Reshape((8, -1), name="layer"), layers.Permute((2, 1)), read, shape=(None, 3))
  assert is_opaque(model, "layer")
  images = np.random.default_rng(0).normal(size=(2, 4, 3))
  np.testing.assert_allclose(squeeze(model)[0](images), model(images), rtol=1e-9)


def test_a_reshape_that_is_called_twice(randomize, shut):
  images, reshape = image(2, 3, 3), layers.Reshape((6, 4))
  x = layers.Add()([layers.Conv1D(2, 1, name=name)(reshape(gate(images, name[-1]))) for name in ("to_a", "to_b")])
  model = randomize(keras.Model(images, x))
  shut(model, "a_bn", [0, 1], [1, 2])
  shut(model, "b_bn", [1, 2], [3, 4])
  assert ids(model, "a") == ids(model, "b")
  assert squeeze_and_check(model)[1:] == ({"a": 1, "b": 1}, {"a": {"shared": 1}, "b": {"shared": 1}})


# Joints.


@pytest.mark.parametrize("axis", [-1, 3])
@pytest.mark.parametrize("kind", [layers.Concatenate, ops.concatenate])
def test_side_by_side_each_tensor_keeps_its_channels(joined, kind, axis):
  def join(a, b):
    return named()(ops.concatenate([b, a], axis) if kind is ops.concatenate else kind(axis)([b, a]))

  model = joined(join, end())
  assert ids(model, "layer") == ids(model, "b") + ids(model, "a")
  np.testing.assert_array_equal(constants(model, "layer"), [NAN, NAN, 3, 1, NAN, -2, NAN, 2])
  connect(model, "end", [0, 1], [1, 2, 3, 4])
  assert used(model, "b_bn") == [False, True, True, True]
  assert used(model, "a_bn") == [True, False, False, False]
  assert squeeze_and_check(model)[1:] == ({"a": 3, "b": 3}, {})


@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize("kind", [layers.Concatenate, ops.concatenate])
def test_along_another_axis_tensors_share_their_channels(joined, kind, axis):
  def join(a, b):
    return named()(ops.concatenate([a, b], axis) if kind is ops.concatenate else kind(axis)([a, b]))

  model = joined(join, end(), betas=(-2, 2, 3, 2))
  assert ids(model, "a") == ids(model, "b") == ids(model, "layer")
  np.testing.assert_array_equal(constants(model, "layer"), [NAN, NAN, NAN, 2])
  assert squeeze_and_check(model)[1:] == ({"a": 1, "b": 1}, {"a": {"shared": 1}, "b": {"shared": 1}})
  connect(model, "end", [0, 1], [0])
  assert used(model, "b_bn") == [True, False, False, False]


@pytest.mark.parametrize(("axis", "channel_axis"), [(1, 4), (-1, 3), (3, 4)])
def test_along_a_new_axis_tensors_share_their_channels(joined, axis, channel_axis):
  def join(a, b):
    return named()(ops.stack([a, b], axis))

  def take_apart(x):
    first, second = ((x[:, i], x[:, :, :, i], x[..., i])[(1, 3, -1).index(axis)] for i in range(2))
    return layers.Concatenate()([first, 2 * second])

  model = joined(join, take_apart, end(), betas=(-2, 2, 3, 2))
  assert of(model, "layer").axis == channel_axis
  assert ids(model, "a") == ids(model, "b") == ids(model, "layer")
  np.testing.assert_array_equal(constants(model, "layer"), [NAN, NAN, NAN, 2])
  assert squeeze_and_check(model)[1:] == ({"a": 1, "b": 1}, {"a": {"shared": 1}, "b": {"shared": 1}})
  kernel = model.get_layer("end").kernel
  kernel.assign(np.where(np.arange(8)[:, None] % 4 == 0, kernel, 0))
  assert used(model, "b_bn") == [True, False, False, False]


@pytest.mark.parametrize("axis", [1, -1])
def test_a_stack_with_what_is_not_followed_stays(axis, randomize, shut):
  images = image(5, 5, 4)
  x = ops.stack([gate(images, "a"), images], axis)
  model = randomize(keras.Model(images, end()(layers.Reshape((5, 5, -1))(x))))
  shut(model, "a_bn", [1, 3], [-2, 2])
  assert squeeze_and_check(model)[1:] == ({}, {"a": {"input": 2}})


def test_a_tensor_beside_itself(gated):
  model = gated(lambda x: layers.Concatenate(name="layer")([x, layers.ReLU()(x), x]), end())
  assert ids(model, "layer") == ids(model, "a") * 3
  np.testing.assert_array_equal(constants(model, "layer"), [NAN, -2, NAN, 2, NAN, 0, NAN, 2, NAN, -2, NAN, 2])
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {})
  assert squeeze_and_check(model)[0].get_layer("end").kernel.shape[-2] == 6


def test_a_tensor_beside_an_input(randomize, shut):
  images = image(5, 5, 3)
  model = randomize(keras.Model(images, end()(layers.Concatenate(name="layer")([images, gate(images, "a")]))))
  shut(model, "a_bn", [1, 3], [-2, 2])
  assert reasons(model, "layer") == ["input"] * 3 + [None] * 4
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {})


def test_concatenation_of_rows_and_channels_keeps_both(joined):
  model = joined(
    lambda a, b: layers.Concatenate(name="layer")([a, layers.Permute((3, 1, 2))(b)]), end(), shape=(4, 4, 3)
  )
  assert reasons(model, "b") == ["layer"] * 4
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {"b": {"layer": 2}})


@pytest.mark.parametrize("axis", [-1, 1])
def test_a_tensor_beside_one_without_fixed_number_of_channels_stays(axis):
  inputs = [image(4, 4, 3), image(4, 4, None, name="other")]
  x = layers.Concatenate(axis, name="layer")([layers.Conv2D(4, 1, name="b")(gate(inputs[0], "a")), inputs[1]])
  model = keras.Model(inputs, layers.GlobalMaxPooling2D()(x))
  assert is_opaque(model, "layer")
  assert reasons(model, "b") == ["layer"] * 4
  assert used(model, "a_bn") == used(model, "b") == [True] * 4


# Reductions.


@pytest.mark.parametrize("function", [ops.mean, ops.max, ops.min])
@pytest.mark.parametrize(
  ("arguments", "axis"),
  [({"axis": (1, 2)}, 1), ({"axis": (-2, 1), "keepdims": True}, 3), ({"axis": 1}, 2), ({"axis": -2}, 2)],
)
def test_reductions_keep_channels(gated, function, arguments, axis):
  model = gated(lambda x: function(x, **arguments), named(), flat, shape=(3, 2, 3))
  assert of(model, "layer").axis == axis
  assert ids(model, "layer") == ids(model, "a")
  np.testing.assert_array_equal(constants(model, "layer"), [NAN, -2, NAN, 2])
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {})


@pytest.mark.parametrize(
  "function",
  [
    lambda x: ops.mean(x, axis=-1),
    lambda x: ops.max(x, axis=(1, 3)),
    lambda x: ops.max(x, axis=1, initial=1.5),
    lambda x: ops.min(x, axis=1, initial=1.5),
    lambda x: x + ops.mean(x),
    lambda x: x - ops.min(x, axis=(0, 1, 2)),
  ],
)
def test_reductions_that_are_not_followed(gated, function):
  model = gated(layers.Conv2D(4, 1, name="b"), function, named(), flat, shape=(3, 2, 3))
  connect(model, "b", [1], [])
  assert None not in reasons(model, "b")
  assert used(model, "a_bn") == used(model, "b") == [True] * 4
  assert squeeze_and_check(model)[1]["a"] == 2
  assert "b" not in squeeze_and_check(model)[1]
