"""Tests of cifar10.pruning.rules.channelwise: layers and operations that treat each channel by itself."""

import functools
import math

import keras
import numpy as np
import pytest
from builders import image
from flows import (
  NAN,
  connect,
  constants,
  end,
  gate,
  ids,
  is_opaque,
  of,
  read,
  reasons,
  sizes,
  squeeze_and_check,
  used,
)
from keras import layers, ops

pytestmark = pytest.mark.usefixtures("float64")

FORMATS = pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])


def named():
  """Gives the output of an operation a name to find it by."""
  return layers.Identity(name="layer")


def assert_follows(model, constant):
  """Asserts that "layer" gives each channel of "a" a place, in order, and what goes with the constants."""
  assert ids(model, "layer") == ids(model, "a")
  np.testing.assert_allclose(constants(model, "layer"), constant, rtol=1e-7)
  assert reasons(model, "a") == [None] * 4
  connect(model, "end", [0, 1], [0, 1])
  assert used(model, "layer") == used(model, "a_bn") == [True, True, False, False]
  assert squeeze_and_check(model)[1:] == ({"a": 3}, {})


# Space.

SPATIAL = [
  *(
    (f"{kind}{rank}D", {})
    for kind in ("Cropping", "UpSampling", "GlobalMaxPooling", "GlobalAveragePooling")
    for rank in (1, 2, 3)
  ),
  *(
    (f"{kind}Pooling{rank}D", arguments)
    for kind in ("Max", "Average")
    for rank in (1, 2, 3)
    for arguments in ({"pool_size": 2}, {"pool_size": 3, "strides": 2, "padding": "same"})
  ),
  *((f"Adaptive{kind}Pooling{rank}D", {"output_size": 4}) for kind in ("Max", "Average") for rank in (1, 2, 3)),
  *((f"GlobalAveragePooling{rank}D", {"keepdims": True}) for rank in (1, 2, 3)),
  ("UpSampling2D", {"interpolation": "bilinear"}),
  ("Resizing", {"height": 5, "width": 12}),
  ("Resizing", {"height": 12, "width": 5, "crop_to_aspect_ratio": True, "fill_value": 1.0}),
]
FIRST = {"data_format": "channels_first"}


@pytest.mark.parametrize(
  ("kind", "arguments"),
  [*SPATIAL, *((kind, arguments | FIRST) for kind, arguments in SPATIAL if "2D" in kind or kind == "Resizing")],
  ids=str,
)
def test_what_acts_over_space_keeps_channels_and_constants(gated, kind, arguments):
  rank = int(kind[-2]) if kind[-1] == "D" else 2
  data_format = arguments.get("data_format", "channels_last")
  pools = kind.endswith("Pooling3D") and "Global" not in kind
  # On a CPU TensorFlow has no 3D pooling in float64.
  dtype = "float32" if pools and keras.backend.backend() == "tensorflow" else "float64"
  layer = getattr(layers, kind)(**arguments, dtype=dtype, name="layer")
  shape = sizes(rank, 6, data_format=data_format)
  model = gated(layer, lambda x: read(x, data_format), shape=shape, data_format=data_format)
  assert_follows(model, [NAN, -2, NAN, 2])


@pytest.mark.parametrize(
  "layer",
  [
    layers.MaxPooling2D(2, data_format="channels_first", name="layer"),
    layers.GlobalAveragePooling2D(data_format="channels_first", name="layer"),
    layers.UpSampling2D(2, data_format="channels_first", name="layer"),
    layers.BatchNormalization(axis=1, name="layer"),
    layers.BatchNormalization(axis=-2, name="layer"),
    layers.Normalization(axis=1, mean=0.5, variance=2.0, name="layer"),
  ],
  ids=range(6),
)
def test_channels_on_another_axis_than_the_layers_stay(gated, layer):
  model = gated(type(layer).from_config({**layer.get_config(), "dtype": "float64"}), layers.Flatten(), read)
  assert reasons(model, "a") == ["layer"] * 4
  assert used(model, "a_bn") == [True] * 4
  assert not set(ids(model, "layer")) & set(ids(model, "a"))
  assert squeeze_and_check(model)[1:] == ({}, {"a": {"layer": 2}})


def test_an_input_without_fixed_number_of_channels_is_not_followed():
  images = image(4, 4, None)
  model = keras.Model(images, layers.ReLU(name="layer")(layers.MaxPooling2D()(images)))
  assert is_opaque(model, "layer")


@pytest.mark.parametrize(
  "kind",
  [
    "Dropout",
    "SpatialDropout",
    "GaussianDropout",
    "AlphaDropout",
    "GaussianNoise",
    "Identity",
    "ActivityRegularization",
  ],
)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_what_is_the_identity_in_inference(gated, kind, rank):
  kind = f"{kind}{rank}D" if kind.startswith("Spatial") else kind
  arguments = (0.5,) if "Dropout" in kind or "Noise" in kind else ()
  model = gated(getattr(layers, kind)(*arguments, name="layer"), read, shape=sizes(rank, 4))
  assert_follows(model, [NAN, -2, NAN, 2])


def test_dropout_of_whole_examples(gated):
  model = gated(layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="layer"), read, shape=sizes(2, 4))
  assert_follows(model, [NAN, -2, NAN, 2])


PADDINGS = [
  *((f"ZeroPadding{rank}D", rank, {"padding": 1}) for rank in (1, 2, 3)),
  ("ZeroPadding2D", 2, FIRST),
  ("Resizing", 2, {"height": 9, "width": 12, "pad_to_aspect_ratio": True}),
  ("Resizing", 2, {"height": 9, "width": 12, "pad_to_aspect_ratio": True} | FIRST),
]


@pytest.mark.parametrize(("kind", "rank", "arguments"), PADDINGS)
def test_zeros_around_an_image_spoil_constants_other_than_0(gated, kind, rank, arguments):
  data_format = arguments.get("data_format", "channels_last")
  shape = sizes(rank, data_format=data_format)
  layer = getattr(layers, kind)(**arguments, name="layer")
  betas = {0: 0, 1: -2, 3: 2}
  model = gated(layer, lambda x: read(x, data_format), shape=shape, data_format=data_format, betas=betas)
  np.testing.assert_array_equal(constants(model, "layer"), [0, -2, NAN, 2])
  np.testing.assert_array_equal(of(model, "layer").known, [True, False, False, False])
  # Zeros that only pad are taken for those of the convolution behind them, where one channel carries the others.
  expected = ({"a": 1}, {"a": {"padding": 2}}) if kind == "Resizing" else ({"a": 2}, {"a": {"carrier": 1}})
  assert squeeze_and_check(model)[1:] == expected


# Activations.

E = math.e
ACTIVATIONS = [
  ("relu", 0, 2),
  ("relu6", 0, 2),
  ("leaky_relu", -0.4, 2),
  ("elu", E**-2 - 1, 2),
  ("linear", -2, 2),
  ("tanh", -math.tanh(2), math.tanh(2)),
  ("sigmoid", 1 / (1 + E**2), 1 / (1 + E**-2)),
  ("silu", -2 / (1 + E**2), 2 / (1 + E**-2)),
  ("softplus", math.log1p(E**-2), math.log1p(E**2)),
  ("exponential", E**-2, E**2),
  ("softsign", -2 / 3, 2 / 3),
  ("hard_sigmoid", 1 / 6, 5 / 6),
  ("hard_silu", -1 / 3, 5 / 3),
]


@pytest.mark.parametrize(
  ("layer", "negative", "positive"),
  [
    *((functools.partial(layers.Activation, name), *values) for name, *values in ACTIVATIONS),
    (functools.partial(layers.ReLU), 0, 2),
    (functools.partial(layers.ReLU, max_value=1.0, threshold=0.5, negative_slope=0.25), -0.625, 1),
    (functools.partial(layers.LeakyReLU, 0.25), -0.5, 2),
    (functools.partial(layers.ELU, 0.5), 0.5 * (E**-2 - 1), 2),
  ],
)
def test_activation_layers(gated, layer, negative, positive):
  assert_follows(gated(layer(name="layer"), end()), [NAN, negative, NAN, positive])


FUNCTIONS = [
  *(
    getattr(ops, name)
    for name in (
      "negative",
      "abs",
      "square",
      "exp",
      "tanh",
      "sign",
      "relu",
      "relu6",
      "leaky_relu",
      "elu",
      "selu",
      "celu",
      "gelu",
      "silu",
      "sigmoid",
      "hard_sigmoid",
      "hard_silu",
      "hard_tanh",
      "log_sigmoid",
      "softplus",
      "softsign",
      "tanh_shrink",
      "soft_shrink",
      "hard_shrink",
      "squareplus",
    )
  ),
  keras.activations.relu,
  keras.activations.relu6,
  functools.partial(ops.leaky_relu, negative_slope=0.7),
  functools.partial(ops.elu, alpha=0.3),
  functools.partial(ops.clip, x_min=-1.5, x_max=3),
  lambda x: ops.sqrt(ops.abs(x) + 1),
  lambda x: ops.log(ops.square(x) + 1),
  lambda x: ops.log1p(ops.square(x)),
  lambda x: -x,
  lambda x: abs(x),
  lambda x: x + 3.0,
  lambda x: 3 - x,
  lambda x: x * 0.5,
  lambda x: x / 4,
  lambda x: ops.divide(3.0, x * x + 1),
  lambda x: x**2,
  lambda x: ops.power(2.0, x),
  lambda x: ops.true_divide(x, 3),
  lambda x: ops.maximum(x, -1.0),
  lambda x: ops.minimum(0.5, x),
  lambda x: x - x * 3,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=range(len(FUNCTIONS)))
def test_functions_of_one_tensor(gated, function):
  negative, positive = function(np.array([-2.0, 2.0]))
  assert_follows(gated(function, named(), end()), [NAN, negative, NAN, positive])


def test_what_is_not_finite_is_no_constant(gated):
  model = gated(lambda x: ops.sqrt(ops.abs(x) - 1) * 0.0 + ops.log(x * x), named(), end(), betas={1: 0, 3: 2})
  assert np.isnan(of(model, "layer").constant).tolist() == [True, True, True, False]


S = np.array([0.5, 2.0, 3.0, -1.5])


@pytest.mark.parametrize(
  ("function", "negative", "positive"),
  [
    (lambda x: x * S, -4, -3),
    (lambda x: x + S.reshape(1, 1, 1, 4), 0, 0.5),
    (lambda x: ops.subtract(S.reshape(1, 1, 4), x), 4, -3.5),
    (lambda x: ops.maximum(S, x), 2, 2),
    (lambda x: ops.power(ops.abs(x), ops.convert_to_tensor(S)), 4, 2**-1.5),
    (lambda x: x * np.full((9, 9, 4), 3.0), -6, 6),
    (lambda x: x + np.full((9, 1, 1), 3.0), 1, 5),
    (lambda x: ops.multiply(S.astype("float32"), x), -4, -3),
  ],
)
def test_an_array_of_one_entry_for_each_channel(gated, function, negative, positive):
  assert_follows(gated(function, named(), end()), [NAN, negative, NAN, positive])


def test_an_array_with_channels_first(gated):
  model = gated(
    lambda x: x * S.reshape(4, 1, 1),
    named(),
    lambda x: read(x, "channels_first"),
    shape=(3, 4, 5),
    data_format="channels_first",
  )
  assert_follows(model, [NAN, -4, NAN, -3])


@pytest.mark.parametrize(
  "function", [lambda x: x * np.arange(9.0).reshape(9, 1, 1), lambda x: x + np.arange(324.0).reshape(9, 9, 4)]
)
def test_an_array_that_differs_from_pixel_to_pixel_leaves_no_constant(gated, function):
  model = gated(function, named(), end())
  np.testing.assert_array_equal(constants(model, "layer"), [NAN] * 4)
  assert squeeze_and_check(model)[1:] == ({}, {"a": {"shared": 2}})


@keras.saving.register_keras_serializable("tests")
def share_of_all(x):
  """An activation that Keras does not know, and that mixes channels."""
  return x / keras.ops.sum(keras.ops.square(x), axis=-1, keepdims=True)


@pytest.mark.parametrize(
  "function",
  [
    layers.Activation("softmax"),
    layers.Activation("log_softmax"),
    layers.Activation(share_of_all),
    layers.Activation(layers.Softmax()),
    ops.softmax,
    layers.Dropout(0.5, noise_shape=(None, 1, 1, 4)),
    layers.Resizing(9, 12, pad_to_aspect_ratio=True, fill_value=1.0),
    layers.Rescaling(np.arange(4.0).reshape(4, 1)),
    layers.Rescaling(1.0, offset=np.arange(64.0).reshape(4, 4, 4)),
    layers.Normalization(axis=(1, 3), mean=0.5, variance=2.0),
    lambda x: ops.clip(x, -S * S, S * S),
    lambda x: x * keras.Variable(S),
    lambda x: layers.Multiply()([x, S.reshape(1, 1, 1, 4)]),
    lambda x: layers.Add()([x, layers.GlobalAveragePooling2D()(x)]),
    lambda x: layers.Add()([x, layers.Permute((3, 1, 2))(x)]),
    lambda x: x * ops.transpose(x, (0, 3, 1, 2)),
    lambda x: ops.maximum(x, ops.mean(x, axis=-1, keepdims=True)),
    lambda x: x[..., ::2],
  ],
  ids=range(18),
)
def test_what_has_no_rule_keeps_what_it_reads(gated, function):
  """Nothing is lost on the way up either: "b" is used, and so is what it reads."""
  if isinstance(function, keras.Layer):
    function = type(function).from_config({**function.get_config(), "dtype": "float64"})
  model = gated(layers.Conv2D(4, 1, name="b"), function, layers.Flatten(), read, shape=(4, 4, 3))
  assert None not in reasons(model, "b")
  assert used(model, "b") == used(model, "a_bn") == [True] * 4
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {})


# Several tensors.

JOINTS = [
  (lambda a, b: layers.Add(name="layer")([a, b]), 3),
  (lambda a, b: layers.Subtract(name="layer")([a, b]), 1),
  (lambda a, b: layers.Multiply(name="layer")([a, b]), 2),
  (lambda a, b: layers.Average(name="layer")([a, b]), 1.5),
  (lambda a, b: layers.Maximum(name="layer")([a, b]), 2),
  (lambda a, b: layers.Minimum(name="layer")([a, b]), 1),
  (lambda a, b: layers.Add(name="layer")([a, b, a]), 5),
  (lambda a, b: named()(a + b), 3),
  (lambda a, b: named()(b - a), -1),
  (lambda a, b: named()(a * b), 2),
  (lambda a, b: named()(b / (a * a + 1)), 0.2),
  (lambda a, b: named()(ops.power(2, a) + b), 5),
  (lambda a, b: named()(ops.maximum(a, b)), 2),
  (lambda a, b: named()(ops.minimum(a, b)), 1),
]


@pytest.mark.parametrize(("join", "value"), JOINTS, ids=range(len(JOINTS)))
def test_a_channel_of_two_tensors_goes_where_both_are_constant(joined, join, value):
  model = joined(join, end())
  assert ids(model, "a") == ids(model, "b") == ids(model, "layer")
  np.testing.assert_allclose(constants(model, "layer"), [NAN, NAN, NAN, value])
  assert squeeze_and_check(model)[1:] == ({"a": 1, "b": 1}, {"a": {"shared": 1}, "b": {"shared": 1}})
  connect(model, "end", [0, 1], [0, 1, 3])
  assert used(model, "layer") == used(model, "b_bn") == [True, True, False, True]
  assert squeeze_and_check(model)[1:] == ({"a": 2, "b": 2}, {"a": {"shared": 1}})


def test_where_a_factor_is_0_the_other_is_not_used(joined):
  model = joined(lambda a, b: layers.Multiply(name="layer")([a, b]), end(), betas=(0, 0, 3, 0))
  np.testing.assert_array_equal(constants(model, "layer"), [NAN, 0, NAN, 0])
  assert used(model, "a_bn") == [True, True, True, True]
  assert used(model, "b_bn") == [True, False, True, False]
  assert squeeze_and_check(model)[1:] == ({"a": 2, "b": 2}, {"b": {"shared": 1}})


def test_a_factor_of_0_shuts_no_tensor_that_is_not_followed(randomize, shut):
  images = image(5, 5, 4)
  x = layers.Multiply(name="layer")([images, gate(images, "a")])
  model = randomize(keras.Model(images, end()(x)))
  shut(model, "a_bn", [1, 2], [0, 3])
  np.testing.assert_array_equal(constants(model, "layer"), [NAN, 0, NAN, NAN])
  assert squeeze_and_check(model)[1:] == ({}, {"a": {"input": 2}})


def excitation(x, width, activation="sigmoid"):
  s = layers.GlobalAveragePooling2D(keepdims=True)(x)
  return layers.Conv2D(width, 1, activation=activation, name="s")(s)


@pytest.mark.parametrize("join", [lambda x, s: layers.Multiply(name="layer")([s, x]), lambda x, s: named()(x * s)])
def test_squeeze_and_excitation(gated, join):
  model = gated(lambda x: join(x, excitation(x, 4)), end(), betas={1: 0, 2: 3})
  connect(model, "s", [0, 2, 3], [])
  np.testing.assert_array_equal(np.isnan(constants(model, "layer")), [True, False, False, True])
  assert ids(model, "s") == ids(model, "a") == ids(model, "layer")
  smaller, removed, _ = squeeze_and_check(model)
  assert removed == {"a": 2, "s": 2}
  assert smaller.get_layer("s").kernel.shape == (1, 1, 2, 2)


def test_a_tensor_of_width_1_keeps_its_channel(gated):
  model = gated(lambda x: layers.Add(name="layer")([x, excitation(x, 1)]), end())
  assert reasons(model, "s") == ["layer"]
  assert ids(model, "layer") == ids(model, "a")
  np.testing.assert_array_equal(constants(model, "layer"), [NAN] * 4)
  connect(model, "s", [0], [])
  assert not np.isnan(constants(model, "layer")[[1, 3]]).any()
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {"s": {"layer": 1}})


def test_a_factor_of_width_1_that_is_0_shuts_all(gated):
  model = gated(lambda x: layers.Multiply(name="layer")([x, excitation(x, 1, "relu")]), end())
  connect(model, "s", [0], [])
  model.get_layer("s").bias.assign([-1])
  np.testing.assert_array_equal(constants(model, "layer"), [0] * 4)
  assert used(model, "a_bn") == [False] * 4
  assert squeeze_and_check(model)[1:] == ({"a": 3}, {"a": {"width": 1}, "s": {"layer": 1}, "end": {"output": 2}})


def test_a_sum_with_an_input_of_the_same_width_keeps_its_channels(randomize):
  images = image(5, 5, 4)
  model = randomize(keras.Model(images, end()(gate(images, "a") + images)))
  assert reasons(model, "a") == ["input"] * 4


def test_a_sum_with_an_input_of_width_1_does_not(randomize, shut):
  images = image(5, 5, 1)
  model = randomize(keras.Model(images, end()(gate(images, "a") * images)))
  shut(model, "a_bn", [0, 1], [0, 2])
  assert squeeze_and_check(model)[1:] == ({"a": 1}, {"a": {"shared": 1}})


# Layers with numbers for each channel.


@pytest.mark.parametrize(
  ("arguments", "negative", "positive"),
  [
    ({"scale": 0.5}, -1, 1),
    ({"scale": 2, "offset": [3.0]}, -1, 7),
    ({"scale": S}, -4, -3),
    ({"scale": S.tolist(), "offset": np.arange(4.0)}, -3, 0),
    ({"scale": 2, "offset": np.arange(4.0).reshape(1, 1, 4)}, -3, 7),
  ],
)
def test_rescaling(gated, arguments, negative, positive):
  assert_follows(gated(layers.Rescaling(**arguments, name="layer"), end()), [NAN, negative, NAN, positive])


@pytest.mark.parametrize(
  "arguments", [{"scale": S}, {"scale": S, "offset": np.arange(4.0).reshape(4, 1, 1)}, {"scale": 2.0}]
)
def test_rescaling_where_keras_has_channels_first(gated, arguments):
  keras.config.set_image_data_format("channels_first")
  try:
    layer = layers.Rescaling(**arguments, name="layer")
    model = gated(layer, lambda x: read(x, "channels_first"), shape=(3, 4, 5), data_format="channels_first")
    value = -2 * np.broadcast_to(arguments["scale"], 4)[1] + np.size(arguments.get("offset")) // 4
    positive = 2 * np.broadcast_to(arguments["scale"], 4)[3] + 3 * (np.size(arguments.get("offset")) // 4)
    assert_follows(model, [NAN, value, NAN, positive])
  finally:
    keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("arguments", [{}, {"invert": True}, {"axis": None}, {"axis": 3}])
def test_normalization(gated, arguments, adapted):
  if not adapted:
    scalars = arguments.get("axis", -1) is None
    arguments = {**arguments, "mean": 0.25 if scalars else S, "variance": 2.0 if scalars else S**2}
  layer = layers.Normalization(**arguments, name="layer")
  model = gated(layer, end())
  if adapted:
    layer.adapt(np.random.default_rng(0).normal(3, 2, size=(5, 9, 9, 4)))
  values = ops.convert_to_numpy(layer(np.full((1, 9, 9, 4), [0, -2.0, 0, 2])))[0, 0, 0]
  assert_follows(model, [NAN, values[1], NAN, values[3]])


@FORMATS
@pytest.mark.parametrize("shared_axes", [(1, 2, 3), "space", None])
def test_parametric_relu(gated, shared_axes, data_format):
  first = data_format == "channels_first"
  shared_axes = ((2, 3) if first else (1, 2)) if shared_axes == "space" else shared_axes
  shape = sizes(2, 4, data_format=data_format)
  model = gated(
    layers.PReLU(shared_axes=shared_axes, name="layer"),
    lambda x: read(x, data_format),
    shape=shape,
    data_format=data_format,
  )
  alpha = model.get_layer("layer").alpha.numpy()
  negative = NAN if shared_axes is None else -2 * alpha.reshape(-1)[1 % alpha.size]
  if shared_axes is not None:
    assert_follows(model, [NAN, negative, NAN, 2])
    return
  np.testing.assert_array_equal(constants(model, "layer"), [NAN, NAN, NAN, 2])
  smaller, removed, kept = squeeze_and_check(model)
  assert (removed, kept) == ({"a": 1}, {"a": {"shared": 1}})
  np.testing.assert_array_equal(smaller.get_layer("layer").alpha, np.delete(alpha, 3, axis=0 if first else 2))


@FORMATS
@pytest.mark.parametrize("center", [True, False])
def test_a_gate_that_is_shut_is_beta(gated, center, data_format):
  first = data_format == "channels_first"
  model = gated(
    layers.BatchNormalization(axis=1 if first else -1, center=center, name="layer"),
    lambda x: read(x, data_format),
    shape=sizes(2, 4, data_format=data_format),
    data_format=data_format,
    betas={},
  )
  gamma = model.get_layer("layer").gamma.numpy()
  model.get_layer("layer").gamma.assign([-1.5, 0, -0.0, gamma[3]])
  beta = model.get_layer("layer").beta.numpy() if center else np.zeros(4)
  np.testing.assert_array_equal(constants(model, "layer"), [NAN, *beta[1:3], NAN])
  assert used(model, "a_bn") == [True, False, False, True]
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {})


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_batch_normalization_maps_constants(gated, scale, center):
  model = gated(layers.BatchNormalization(scale=scale, center=center, name="layer"), end())
  values = ops.convert_to_numpy(model.get_layer("layer")(np.array([[[[0, -2.0, 0, 2]]]])))[0, 0, 0]
  assert_follows(model, [NAN, values[1], NAN, values[3]])


def test_weights_of_a_batch_norm_are_cut(gated):
  model = gated(layers.BatchNormalization(name="layer"), end())
  before, after = ([v.numpy() for v in m.get_layer("layer").weights] for m in (model, squeeze_and_check(model)[0]))
  for array, cut in zip(before, after, strict=True):
    np.testing.assert_array_equal(cut, array[[0, 2]])


def test_layers_of_another_dtype(randomize, shut):
  images = image()
  x = layers.Conv2D(4, 3, dtype="float32", name="a")(images)
  x = layers.BatchNormalization(dtype="mixed_float16", name="a_bn")(x)
  x = layers.Rescaling(S, dtype="float64", name="layer")(x)
  model = randomize(keras.Model(images, end()(ops.add(x, S.astype("float32")))))
  shut(model, "a_bn", [1, 3], [-2, 2])
  np.testing.assert_array_equal(constants(model, "layer"), [NAN, -4, NAN, -3])
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {})
