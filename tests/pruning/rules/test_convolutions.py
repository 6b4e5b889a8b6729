"""Tests of cifar10.pruning.rules.convolutions: layers that mix channels, and the depthwise."""

import keras
import numpy as np
import pytest
from builders import image
from flows import connect, constants, ids, is_opaque, of, read, reasons, sizes, squeeze_and_check, used
from keras import layers

from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.rules.kernels import pads

pytestmark = pytest.mark.usefixtures("float64")

FIRST = {"data_format": "channels_first"}


@pytest.fixture
def with_layer(gated):
  """A function: the gated model with a layer "b" of some kind and `read` behind it."""

  def with_layer(kind, *args, rank=None, betas=None, tail=(), **arguments):
    data_format = arguments.get("data_format", "channels_last")
    rank = rank or int(kind.removesuffix("Transpose")[-2])
    layer = getattr(layers, kind)(*args, **arguments, name="b")
    shape = sizes(rank, 9 if rank < 3 else 7, data_format=data_format)
    return gated(layer, *tail, lambda x: read(x, data_format), shape=shape, data_format=data_format, betas=betas)

  return with_layer


def weights(model, name="b", attribute="kernel"):
  return getattr(model.get_layer(name), attribute).numpy()


UNPADDED = [
  *((f"Conv{rank}D", {"kernel_size": 2}) for rank in (1, 2, 3)),
  *((f"Conv{rank}D", {"kernel_size": 2} | FIRST) for rank in (1, 2, 3)),
  ("Conv2D", {"kernel_size": (3, 1), "dilation_rate": 2, "activation": "swish"}),
  ("Conv2D", {"kernel_size": 3, "strides": 2} | FIRST),
  ("Conv2D", {"kernel_size": 3, "strides": 3, "padding": "same", "activation": "gelu"}),
  ("Conv1D", {"kernel_size": 1, "padding": "causal"}),
]
PADDED = [
  *((f"Conv{rank}D", {"kernel_size": 3, "padding": "same"}) for rank in (1, 2, 3)),
  *((f"Conv{rank}D", {"kernel_size": 3, "padding": "same"} | FIRST) for rank in (1, 2)),
  ("Conv1D", {"kernel_size": 2, "padding": "causal", "dilation_rate": 2}),
  ("Conv2D", {"kernel_size": 3, "padding": "same", "dilation_rate": 2, "activation": "tanh"}),
  ("Conv2D", {"kernel_size": 2, "strides": 2, "padding": "same"}),
]


def read_constants(model):
  """Lets output 0 of "b" read the constants alone, output 2 nothing."""
  connect(model, "b", [0], [1, 3])
  connect(model, "b", [2], [])


@pytest.mark.parametrize(("kind", "arguments"), UNPADDED, ids=str)
@pytest.mark.parametrize("use_bias", [True, False])
def test_constants_are_folded_where_nothing_pads(with_layer, kind, arguments, use_bias):
  model = with_layer(kind, 3, **arguments, use_bias=use_bias)
  read_constants(model)
  constant = constants(model, "b")
  np.testing.assert_array_equal(np.isnan(constant), [False, True, False])
  assert (constant[2] == 0) is not use_bias
  assert of(model, "b").known.tolist() == [True, False, True]
  assert len({*ids(model, "a"), *ids(model, "b"), *ids(model, "end")}) == 9
  smaller, *counts = squeeze_and_check(model)
  assert counts == [{"a": 2, "b": 2}, {}]
  np.testing.assert_array_equal(weights(smaller), weights(model)[..., [0, 2], :][..., [1]])
  assert smaller.get_layer("b").use_bias


@pytest.mark.parametrize(("kind", "arguments"), PADDED, ids=str)
def test_padding_needs_a_carrier(with_layer, kind, arguments):
  model = with_layer(kind, 3, **arguments, betas={0: 0, 1: -4, 3: 2})
  read_constants(model)
  assert np.isnan(constants(model, "b")).tolist() == [False, True, False]
  assert of(model, "b").known.tolist() == [False, False, True]
  smaller, *counts = squeeze_and_check(model)
  assert counts == [{"a": 2, "b": 1}, {"a": {"carrier": 1}, "b": {"padding": 1}}]
  kernel = weights(model)[..., :2]
  np.testing.assert_allclose(weights(smaller)[..., 0, :], kernel[..., 1, :] - kernel[..., 3, :] / 2)


@pytest.mark.parametrize("shape", [(), (5,), (5, 5), (3, 3, 3)])
def test_dense(gated, shape):
  model = gated(layers.Dense(3, activation="sigmoid", use_bias=False, name="b"), read, shape=(*shape, 3))
  read_constants(model)
  connect(model, "end", [0, 1], [0, 1])
  constant = constants(model, "b")
  assert constant[2] == 0.5
  assert np.isnan(constant).tolist() == [False, True, False]
  assert used(model, "b") == [True, True, False]
  assert reasons(model, "b") == [None] * 3
  smaller, *counts = squeeze_and_check(model)
  assert counts == [{"a": 2, "b": 2}, {}]
  assert weights(smaller).shape == (2, 1)


def test_a_dense_layer_behind_channels_first_keeps_them(gated):
  model = gated(layers.Dense(3, name="b"), layers.Flatten(), read, shape=(3, 4, 5), **FIRST)
  assert reasons(model, "a") == ["b"] * 4
  assert squeeze_and_check(model)[1:] == ({}, {"a": {"b": 2}})


TRANSPOSED = [
  *((f"Conv{rank}DTranspose", {"kernel_size": 3, "strides": 2}) for rank in (1, 2, 3)),
  *((f"Conv{rank}DTranspose", {"kernel_size": 2, "padding": "same"} | FIRST) for rank in (1, 2)),
  ("Conv2DTranspose", {"kernel_size": 3, "strides": 3, "output_padding": 1}),
  ("Conv2DTranspose", {"kernel_size": 1, "activation": "swish"}),
]


@pytest.mark.parametrize(("kind", "arguments"), TRANSPOSED, ids=str)
@pytest.mark.parametrize("use_bias", [True, False])
def test_transposed_convolutions(with_layer, kind, arguments, use_bias):
  model = with_layer(kind, 3, **arguments, use_bias=use_bias, betas={0: 0, 1: -4, 3: 2})
  kernel = weights(model)
  kernel[..., 2, 1:] = 0  # Output 2 reads a zero alone.
  model.get_layer("b").kernel.assign(kernel)
  constant = of(model, "b").constant
  assert np.isnan(constant).tolist() == [True, True, False]
  assert (constant[2] == 0) is not use_bias
  smaller, *counts = squeeze_and_check(model)
  assert counts == [{"a": 2, "b": 1}, {"a": {"carrier": 1}}]
  np.testing.assert_array_equal(weights(smaller)[..., 1], kernel[..., :2, 2])
  np.testing.assert_allclose(weights(smaller)[..., 0], (kernel[..., 1] - kernel[..., 3] / 2)[..., :2])


SEPARABLE = [
  *((f"SeparableConv{rank}D", {"kernel_size": 3, "depth_multiplier": m}) for rank in (1, 2) for m in (1, 2)),
  *((f"SeparableConv{rank}D", {"kernel_size": 2, "depth_multiplier": 2} | FIRST) for rank in (1, 2)),
  ("SeparableConv2D", {"kernel_size": 3, "strides": 2, "use_bias": False, "activation": "swish"}),
]


@pytest.mark.parametrize(("kind", "arguments"), SEPARABLE, ids=str)
def test_separable_convolutions(with_layer, kind, arguments):
  model = with_layer(kind, 3, **arguments)
  multiplier = arguments.get("depth_multiplier", 1)
  pointwise = weights(model, attribute="pointwise_kernel")
  pointwise[..., [i for i in range(4 * multiplier) if i // multiplier in (0, 2)], 0] = 0
  pointwise[..., 2] = 0
  model.get_layer("b").pointwise_kernel.assign(pointwise)
  assert np.isnan(constants(model, "b")).tolist() == [False, True, False]
  smaller, *counts = squeeze_and_check(model)
  assert counts == [{"a": 2, "b": 2}, {}]
  depthwise = weights(model, attribute="depthwise_kernel")
  np.testing.assert_array_equal(weights(smaller, attribute="depthwise_kernel"), depthwise[..., [0, 2], :])
  rows = [m + multiplier * channel for channel in (0, 2) for m in range(multiplier)]
  np.testing.assert_array_equal(weights(smaller, attribute="pointwise_kernel"), pointwise[..., rows, :][..., [1]])


@pytest.mark.parametrize("rank", [1, 2])
def test_a_padded_separable_convolution_has_no_carrier(with_layer, rank):
  model = with_layer(f"SeparableConv{rank}D", 3, 3, padding="same", betas={0: 0, 1: -4, 3: 2})
  assert squeeze_and_check(model)[1:] == ({"a": 1}, {"a": {"padding": 2}})


def test_a_separable_convolution_does_not_use_a_channel_without_a_depthwise_kernel(with_layer):
  model = with_layer("SeparableConv2D", 3, 3, depth_multiplier=2, betas={})
  depthwise = weights(model, attribute="depthwise_kernel")
  depthwise[:, :, 2] = depthwise[:, :, 1, 0] = 0
  model.get_layer("b").depthwise_kernel.assign(depthwise)
  assert used(model, "a_bn") == [True, True, False, True]
  assert squeeze_and_check(model)[1:] == ({"a": 1}, {})


DEPTHWISE = [
  *((f"DepthwiseConv{rank}D", {"kernel_size": 3, "depth_multiplier": m}) for rank in (1, 2) for m in (1, 2)),
  *((f"DepthwiseConv{rank}D", {"kernel_size": 2, "depth_multiplier": 2} | FIRST) for rank in (1, 2)),
  ("DepthwiseConv2D", {"kernel_size": 3, "strides": 2, "use_bias": False, "activation": "swish"}),
  ("DepthwiseConv2D", {"kernel_size": 3, "strides": 3, "padding": "same"}),
]


@pytest.mark.parametrize(("kind", "arguments"), DEPTHWISE, ids=str)
def test_depthwise_convolutions(with_layer, kind, arguments):
  model = with_layer(kind, **arguments)
  multiplier = arguments.get("depth_multiplier", 1)
  assert ids(model, "b") == np.repeat(ids(model, "a"), multiplier).tolist()
  assert np.isnan(constants(model, "b")).tolist() == np.repeat([True, False], multiplier).tolist() * 2
  smaller, *counts = squeeze_and_check(model)
  assert counts == [{"a": 2}, {}]
  np.testing.assert_array_equal(weights(smaller), weights(model)[..., [0, 2], :])
  assert weights(smaller, "end").shape[-2] == 2 * multiplier


@pytest.mark.parametrize("arguments", [{}, FIRST])
def test_padding_spoils_the_constants_of_a_depthwise_convolution(with_layer, arguments):
  model = with_layer("DepthwiseConv2D", 3, padding="same", **arguments, betas={0: 0, 1: -2, 3: 2})
  kernel = weights(model)
  kernel[:, :, 3] = 0
  model.get_layer("b").kernel.assign(kernel)
  assert np.isnan(constants(model, "b")).tolist() == [False, False, True, False]
  assert of(model, "b").known.tolist() == [True, False, False, True]
  assert used(model, "a_bn") == [True, True, True, False]
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {"a": {"padding": 1}})


GROUPED = [
  *((f"Conv{rank}D", {"kernel_size": 2}) for rank in (1, 2, 3)),
  ("Conv2D", {"kernel_size": 3, "strides": 2, "activation": "swish"}),
  ("Conv2D", {"kernel_size": 2} | FIRST),
]


@pytest.mark.parametrize(("kind", "arguments"), GROUPED, ids=str)
@pytest.mark.parametrize("groups", [2, 4])
def test_of_a_grouped_convolution_whole_groups_go(with_layer, kind, arguments, groups):
  model = with_layer(kind, 8, groups=groups, **arguments, betas={0: 1, 1: -2})
  size = 8 // groups
  gone = 4  # Outputs that read channels 0 and 1.
  assert np.isnan(constants(model, "b")).tolist() == [False] * gone + [True] * gone
  if groups == 4:  # An input that is a group of its own goes with that alone.
    assert ids(model, "b")[::size] == ids(model, "a")
  smaller, *counts = squeeze_and_check(model)
  assert counts == [{"a": 2, "b": gone}, {}]
  assert smaller.get_layer("b").groups == groups // 2
  np.testing.assert_array_equal(weights(smaller), weights(model)[..., gone:])


def test_a_group_of_which_any_channel_is_alive_stays(with_layer):
  model = with_layer("Conv2D", 8, 3, groups=2, betas={0: 1})
  assert squeeze_and_check(model)[1:] == ({}, {"a": {"groups": 1}})


def test_a_group_that_nothing_uses_goes(with_layer):
  model = with_layer("Conv2D", 8, 3, groups=4, tail=[layers.BatchNormalization(name="b_bn")], betas={})
  model.get_layer("b_bn").gamma.assign([0, 0, 0, 1, 1, 1, 1, 1])
  assert used(model, "a_bn") == [False, True, True, True]
  assert squeeze_and_check(model)[1:] == ({"a": 1, "b": 2}, {"b": {"shared": 1}})


def test_a_padded_grouped_convolution_spoils_constants(with_layer):
  model = with_layer("Conv2D", 8, 3, groups=4, padding="same", betas={0: 0, 1: -2})
  assert of(model, "b").known.tolist() == [True, True] + [False] * 6
  assert squeeze_and_check(model)[1:] == ({"a": 1, "b": 2}, {"a": {"padding": 1}, "b": {"padding": 2}})


# Which layers follow the rules.


@keras.saving.register_keras_serializable("tests")
def share(x):
  """An activation that Keras does not know, and that mixes channels."""
  return x / keras.ops.sum(keras.ops.square(x), axis=-1, keepdims=True)


@pytest.mark.parametrize(
  ("kind", "args"),
  [
    ("Conv2D", (4, 3)),
    ("Dense", (4,)),
    ("Conv2DTranspose", (4, 3)),
    ("SeparableConv2D", (4, 3)),
    ("DepthwiseConv2D", (3,)),
  ],
)
@pytest.mark.parametrize("activation", [share, "softmax"])
def test_an_activation_that_may_mix_channels_keeps_them(with_layer, kind, args, activation):
  model = with_layer(kind, *args, activation=activation, rank=2, betas={})
  connect(model, "end", [0, 1], [0])
  assert set(reasons(model, "b")) == {"b"}
  assert np.isnan(of(model, "b").constant).all()
  assert "b" not in squeeze_and_check(model)[1]


@pytest.mark.parametrize("groups", [1, 2])
def test_low_rank_adapters_are_walls(with_layer, groups):
  model = with_layer("Conv2D", 4, 3, groups=groups, dtype="float32")
  model.get_layer("b").enable_lora(2)
  assert is_opaque(model, "b")
  assert squeeze_and_check(model)[1:] == ({}, {"a": {"b": 2}})


@pytest.mark.parametrize(
  ("size", "kernel", "stride", "dilation"),
  [
    (6, 1, 1, 1),
    (6, 2, 2, 1),
    (6, 3, 2, 1),
    (7, 3, 2, 1),
    (6, 1, 2, 1),
    (5, 2, 2, 1),
    (6, 3, 3, 1),
    (9, 3, 1, 2),
    (1, 1, 1, 1),
    (1, 3, 1, 1),
  ],
)
def test_pads_is_whether_the_border_is_seen(size, kernel, stride, dilation):
  images = image(size, size, 1)
  conv = layers.Conv2D(1, kernel, stride, "same", dilation_rate=dilation, kernel_initializer="ones", use_bias=False)
  model = keras.Model(images, conv(images))
  (call,) = ChannelGraph(model).mixing_calls()
  sees_border = not np.all(keras.ops.convert_to_numpy(model(np.ones((1, size, size, 1)))) == kernel**2)
  assert pads(call) is sees_border


def test_a_size_that_is_not_fixed_may_be_padded():
  images = image(None, None, 3)
  (call,) = ChannelGraph(keras.Model(images, layers.Conv2D(1, 2, 2, "same")(images))).mixing_calls()
  assert pads(call)


@pytest.mark.parametrize(
  ("kind", "args", "arguments", "made", "read"),
  [
    ("Conv2D", (6, 3), {}, 9 * 4, 9 * 6),
    ("Conv2D", (6, 3), {"groups": 2}, 9 * 2, 9 * 3),
    ("Conv2DTranspose", (6, 3), {}, 9 * 4, 9 * 6),
    ("SeparableConv2D", (6, 3), {"depth_multiplier": 2}, 8, 18 + 12),
    ("DepthwiseConv2D", (3,), {"depth_multiplier": 2}, 9, 18),
  ],
)
def test_weights_that_go_with_a_channel(with_layer, kind, args, arguments, made, read):
  (layer,) = [call for call in ChannelGraph(with_layer(kind, *args, **arguments)).calls if call.name == "b"]
  assert layer.rule.weights_per_output(layer.operation) == made
  assert layer.rule.weights_per_input(layer.operation) == read
