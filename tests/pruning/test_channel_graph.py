"""Tests of cifar10.pruning.channel_graph: each rule, and what flows through several.

What the graph says of a tensor is held against the tensor's values on random images: a constant position has
its constant everywhere, and one that is not constant varies.
"""

import keras
import numpy as np
import pytest
from keras import layers

from cifar10.pruning import channel_graph, penalties, squeeze
from cifar10.pruning.channel_graph import ChannelGraph

pytestmark = pytest.mark.usefixtures("float64")


def image(*shape, name="images"):
  return keras.Input(shape or (6, 6, 3), name=name)


def constants(model, name):
  """The constants that the graph gives of the output of a layer, after a check against its values."""
  tensor = model.get_layer(name).output
  constant = ChannelGraph(model).of(tensor).constant
  images = np.random.default_rng(9).normal(size=(8, *model.input_shape[1:])) * 3
  values = keras.Model(model.input, tensor)(images).numpy().reshape(-1, len(constant))
  known = ~np.isnan(constant)
  np.testing.assert_allclose(values[:, known], np.broadcast_to(constant[known], (len(values), known.sum())), rtol=1e-6)
  assert (values[:, ~known].std(axis=0) > 1e-6).all()
  return constant


def assert_opaque(model, name):
  """Asserts that the graph takes nothing for constant in the output of a layer."""
  assert np.isnan(ChannelGraph(model).of(model.get_layer(name).output).constant).all()


def ids(model, name):
  return ChannelGraph(model).of(model.get_layer(name).output).ids.tolist()


def used(model, name):
  return ChannelGraph(model).of(model.get_layer(name).output).used.tolist()


def reasons(model, name):
  """Why the channels of the output of a layer cannot be removed; None for those that can."""
  graph = ChannelGraph(model)
  channels = graph.of(model.get_layer(name).output).ids.tolist()
  return [graph.blocked.get(channel) for channel in channels]


NAN = np.nan


@pytest.fixture
def gated(randomize, shut):
  """A function: the model that `tail` makes of four gated channels, of which 1 and 3 are -2 and 2."""

  def gated(*tail, padding="valid"):
    images = image()
    x = layers.Conv2D(4, 3, padding=padding, use_bias=False, name="a")(images)
    x = layers.BatchNormalization(name="a_bn")(x)
    for layer in tail:
      x = layer(x)
    model = randomize(keras.Model(images, x))
    shut(model, "a_bn", [1, 3], [-2, 2])
    return model

  return gated


def end():
  """A convolution that lets nothing else reach the output."""
  return layers.Conv2D(2, 1, name="end")


# One test a rule.


def test_input_is_not_constant_and_stays():
  images = image()
  model = keras.Model(images, end()(images))
  assert np.isnan(constants(model, "images")).all()
  assert reasons(model, "images") == ["input"] * 3


def test_conv2d_makes_new_channels(gated):
  model = gated(layers.ReLU(name="relu"), layers.Conv2D(5, 3, name="b"), end())
  graph = ChannelGraph(model)
  made = [graph.of(model.get_layer(name).output).ids for name in ("a", "b", "end")]
  assert [len(channels) for channels in made] == [4, 5, 2]
  assert len(set(np.concatenate(made))) == 11
  assert [node.operation.name for node in graph.mixing_nodes()] == ["a", "b", "end"]
  assert reasons(model, "b") == [None] * 5
  assert reasons(model, "end") == ["output"] * 2


def connect(model, name, outputs, inputs):
  """Sets the kernel's weights to `outputs` from all inputs but `inputs` to 0."""
  kernel = model.get_layer(name).kernel
  array = kernel.numpy()
  others = [i for i in range(array.shape[-2]) if i not in inputs]
  for output in outputs:
    array[..., others, output] = 0
  kernel.assign(array)


@pytest.mark.parametrize("use_bias", [True, False])
def test_conv2d_is_constant_where_all_it_reads_is(gated, use_bias):
  model = gated(layers.Conv2D(3, 2, use_bias=use_bias, activation="swish", name="b"), end())
  connect(model, "b", [0], [1, 3])
  connect(model, "b", [2], [])
  constant = constants(model, "b")
  np.testing.assert_array_equal(np.isnan(constant), [False, True, False])
  assert (constant[2] == 0) is not use_bias


def test_padding_makes_constants_other_than_0_vary(gated):
  def tail(padding, size=3, stride=1):
    return (
      layers.ReLU(name="relu"),
      layers.Conv2D(3, size, stride, padding=padding, name="b"),
      end(),
    )

  def first_two(model):
    connect(model, "b", [0], [1])  # relu(-2)
    connect(model, "b", [1], [3])  # relu(2)
    return np.isnan(constants(model, "b")).tolist()

  assert first_two(gated(*tail("valid"))) == [False, False, True]
  assert first_two(gated(*tail("same"))) == [False, True, True]
  assert first_two(gated(*tail("same", size=1))) == [False, False, True]
  assert first_two(gated(*tail("same", size=2, stride=2))) == [False, False, True]
  assert first_two(gated(*tail("same", size=3, stride=2))) == [False, True, True]


@pytest.mark.parametrize(
  ("size", "kernel", "stride", "dilation"),
  [(6, 1, 1, 1), (6, 2, 2, 1), (6, 3, 2, 1), (7, 3, 2, 1), (6, 1, 2, 1), (5, 2, 2, 1), (6, 3, 3, 1),
   (9, 3, 1, 2), (1, 1, 1, 1), (1, 3, 1, 1)],
)  # fmt: skip
def test_pads_is_whether_the_border_is_seen(size, kernel, stride, dilation):
  images = image(size, size, 1)
  conv = layers.Conv2D(1, kernel, stride, "same", dilation_rate=dilation, kernel_initializer="ones", use_bias=False)
  model = keras.Model(images, conv(images))
  (node,) = ChannelGraph(model).mixing_nodes()
  sees_border = not np.all(model(np.ones((1, size, size, 1))).numpy() == kernel**2)
  assert channel_graph.RULES[layers.Conv2D].pads(node) is sees_border


def test_a_size_that_is_not_fixed_may_be_padded():
  images = image(None, None, 3)
  model = keras.Model(images, layers.Conv2D(1, 2, 2, "same")(images))
  (node,) = ChannelGraph(model).mixing_nodes()
  assert channel_graph.RULES[layers.Conv2D].pads(node)


def test_dense_reads_and_makes_channels(gated):
  model = gated(
    layers.GlobalAveragePooling2D(name="pool"),
    layers.Dense(3, activation="tanh", name="b"),
    layers.Dense(2, name="end"),
  )
  connect(model, "b", [1], [1, 3])
  connect(model, "end", [0, 1], [0, 1])
  np.testing.assert_array_equal(np.isnan(constants(model, "b")), [True, False, True])
  assert used(model, "b") == [True, True, False]
  assert len(set(ids(model, "b")) | set(ids(model, "pool"))) == 7
  assert reasons(model, "b") == [None] * 3


@pytest.mark.parametrize("center", [True, False])
def test_batch_normalization_with_gamma_0_is_beta(randomize, center):
  images = image()
  x = layers.Conv2D(3, 3, name="a")(images)
  x = layers.BatchNormalization(center=center, name="a_bn")(x)
  model = randomize(keras.Model(images, end()(x)))
  model.get_layer("a_bn").gamma.assign([1, 0, 0])
  constant = constants(model, "a_bn")
  beta = model.get_layer("a_bn").beta.numpy() if center else np.zeros(3)
  np.testing.assert_array_equal(constant, [NAN, *beta[1:]])
  assert ids(model, "a_bn") == ids(model, "a")
  assert used(model, "a_bn") == [True, True, True]
  assert used(model, "a") == [True, False, False]


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_batch_normalization_maps_constants(randomize, scale, center):
  images = image()
  x = layers.Conv2D(3, 3, name="a")(images)
  x = layers.BatchNormalization(scale=scale, center=center, name="a_bn")(x)
  model = randomize(keras.Model(images, end()(x)))
  connect(model, "a", [1], [])
  np.testing.assert_array_equal(np.isnan(constants(model, "a_bn")), [True, False, True])
  assert used(model, "a") == [True, True, True]


def test_add_unites_its_terms_and_adds_their_constants(gated, randomize, shut):
  images = image()
  terms = []
  for name in ("a", "b", "c"):
    x = layers.Conv2D(4, 3, name=name)(images)
    terms.append(layers.BatchNormalization(name=f"{name}_bn")(x))
  model = randomize(keras.Model(images, end()(layers.Add(name="sum")(terms))))
  for beta, name in enumerate(("a_bn", "b_bn", "c_bn")):
    shut(model, name, range(beta + 2), beta + 1)
  np.testing.assert_array_equal(constants(model, "sum"), [6, 6, NAN, NAN])
  np.testing.assert_array_equal(constants(model, "c_bn"), [3, 3, 3, 3])
  assert ids(model, "a") == ids(model, "b") == ids(model, "c_bn") == ids(model, "sum")
  assert len(set(ids(model, "a"))) == 4
  connect(model, "end", [0, 1], [0, 3])
  assert used(model, "sum") == used(model, "b_bn") == [True, False, False, True]
  assert used(model, "b") == [False, False, False, True]


def test_a_sum_that_broadcasts_is_a_wall(randomize):
  images = image()
  x = layers.Conv2D(4, 3, name="a")(images)
  pooled = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
  model = randomize(keras.Model(images, end()(layers.Add(name="sum")([x, pooled]))))
  assert reasons(model, "a") == reasons(model, "sum") == ["sum"] * 4
  assert not set(ids(model, "sum")) & set(ids(model, "a"))


def test_flatten_repeats_the_channels_for_each_pixel(gated):
  model = gated(
    layers.AveragePooling2D(2, name="pool"),
    layers.Flatten(name="flat"),
    layers.Dense(2, name="end"),
  )
  assert ids(model, "flat") == 4 * ids(model, "pool")
  np.testing.assert_array_equal(constants(model, "flat"), [NAN, -2, NAN, 2] * 4)
  connect(model, "end", [0, 1], [1, 4, 13])
  assert used(model, "pool") == [True, True, False, False]
  assert sum(used(model, "flat")) == 3


@pytest.mark.parametrize(
  ("layer", "function"),
  [
    (layers.Activation("relu"), lambda x: max(x, 0)),
    (layers.Activation("linear"), lambda x: x),
    (layers.Activation("swish"), lambda x: x / (1 + np.exp(-x))),
    (layers.Activation("sigmoid"), lambda x: 1 / (1 + np.exp(-x))),
    (layers.ReLU(), lambda x: max(x, 0)),
    (layers.ReLU(max_value=1), lambda x: min(max(x, 0), 1)),
    (layers.LeakyReLU(0.25), lambda x: max(x, x / 4)),
    (layers.ELU(0.5), lambda x: x if x > 0 else 0.5 * np.expm1(x)),
  ],
  ids=["relu", "linear", "swish", "sigmoid", "ReLU", "ReLU1", "LeakyReLU", "ELU"],
)
def test_activations_map_constants(gated, layer, function):
  copy = type(layer).from_config({**layer.get_config(), "name": "act", "dtype": "float64"})
  model = gated(copy, end())
  np.testing.assert_allclose(constants(model, "act"), [NAN, function(-2), NAN, function(2)], 1e-12)
  assert ids(model, "act") == ids(model, "a")
  connect(model, "end", [0, 1], [0, 1])
  assert used(model, "act") == [True, True, False, False]
  assert used(model, "a") == [True, False, False, False]


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sparsemax"])
def test_activations_that_mix_channels_are_walls(gated, name):
  model = gated(layers.Activation(name, name="act"), end())
  assert reasons(model, "a") == ["act"] * 4
  assert_opaque(model, "act")
  assert used(model, "a_bn") == [True] * 4


@keras.saving.register_keras_serializable("tests")
def share_of_all(x):
  """An activation that Keras does not know, and that mixes channels."""
  return x / keras.ops.sum(keras.ops.square(x), axis=-1, keepdims=True)


@pytest.mark.parametrize("activation", [share_of_all, "softmax", layers.Softmax(name="soft")])
def test_a_mixer_whose_activation_may_mix_channels_keeps_them(randomize, activation):
  images = image()
  x = layers.Conv2D(4, 3, activation=activation, name="a")(images)
  model = randomize(keras.Model(images, end()(x)))
  connect(model, "end", [0, 1], [0])
  connect(model, "a", [2], [])
  assert_opaque(model, "a")
  assert reasons(model, "a") == ["a"] * 4
  assert squeeze(model)[1].layers["a"].removed == 0


def test_an_activation_that_keras_does_not_know_is_a_wall(gated):
  model = gated(layers.Activation(share_of_all, name="act"), end())
  assert reasons(model, "a") == ["act"] * 4
  assert_opaque(model, "act")


@pytest.mark.parametrize(
  "layer",
  [
    layers.MaxPooling2D(2, name="layer"),
    layers.MaxPooling2D(3, 2, padding="same", name="layer"),
    layers.AveragePooling2D(2, name="layer"),
    layers.AveragePooling2D(3, 1, padding="same", name="layer"),
    layers.GlobalAveragePooling2D(name="layer"),
    layers.GlobalMaxPooling2D(keepdims=True, name="layer"),
    layers.Dropout(0.5, name="layer"),
    layers.SpatialDropout2D(0.5, name="layer"),
  ],
  ids=lambda layer: type(layer).__name__,
)
def test_pooling_and_dropout_keep_channels_and_constants(gated, layer):
  copy = type(layer).from_config({**layer.get_config(), "dtype": "float64"})
  model = gated(copy, layers.Dense(2, name="end"))
  assert ids(model, "layer") == ids(model, "a")
  np.testing.assert_array_equal(constants(model, "layer"), [NAN, -2, NAN, 2])
  connect(model, "end", [0, 1], [0, 1])
  assert used(model, "layer") == [True, True, False, False]


# Walls.


@pytest.mark.parametrize(
  "layer",
  [
    lambda: layers.DepthwiseConv2D(3, name="wall"),
    lambda: layers.Conv2DTranspose(4, 3, name="wall"),
    lambda: layers.Conv2D(4, 3, groups=2, name="wall"),
    lambda: layers.LayerNormalization(name="wall"),
    lambda: layers.Reshape((4, 4, 4), name="wall"),
    lambda: layers.Permute((1, 3, 2), name="wall"),
    lambda: layers.BatchNormalization(axis=1, name="wall"),
    lambda: layers.Flatten(data_format="channels_first", name="wall"),
    lambda: layers.MaxPooling2D(2, data_format="channels_first", name="wall"),
    lambda: layers.GlobalAveragePooling2D(data_format="channels_first", name="wall"),
    lambda: layers.SpatialDropout2D(0.5, data_format="channels_first", name="wall"),
  ],
  ids=range(11),
)
def test_a_layer_without_a_rule_is_a_wall(gated, layer):
  model = gated(layer(), layers.Dense(2, name="end"))
  assert reasons(model, "a") == ["wall"] * 4
  assert_opaque(model, "wall")
  assert set(reasons(model, "wall")) == {"wall"}
  assert not set(ids(model, "wall")) & set(ids(model, "a"))
  assert used(model, "a_bn") == [True] * 4


def test_a_subclass_needs_a_rule_of_its_own(gated):
  class OddReLU(layers.ReLU):
    pass

  assert reasons(gated(OddReLU(name="wall"), end()), "a") == ["wall"] * 4


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_convolutions_with_channels_first_are_walls(randomize, data_format):
  images = image()
  x = layers.Conv2D(6, 1, name="a")(images)
  x = layers.Conv2D(6, 3, padding="same", data_format=data_format, name="b")(x)
  model = randomize(keras.Model(images, end()(x)))
  walled = data_format == "channels_first"
  assert reasons(model, "a") == [("b" if walled else None)] * 6
  assert len(ChannelGraph(model).mixing_nodes()) == 3 - walled


def test_a_layer_with_weights_that_is_called_twice_is_a_wall(randomize):
  images = image()
  shared = layers.Conv2D(3, 3, padding="same", name="shared")
  x = layers.Conv2D(3, 1, name="a")(images)
  model = randomize(keras.Model(images, end()(shared(shared(x)))))
  assert reasons(model, "a") == ["shared"] * 3
  assert [node.operation.name for node in ChannelGraph(model).mixing_nodes()] == ["a", "end"]


def test_a_layer_without_weights_may_be_called_twice(gated):
  relu = layers.ReLU(name="relu")
  model = gated(relu, layers.Conv2D(5, 1, name="b"), relu, end())
  graph = ChannelGraph(model)
  assert graph.blocked.keys() == set(ids(model, "end")) | set(ids(model, "images"))
  assert len(graph.mixing_nodes()) == 3


# Several layers.


def test_constants_flow_forward_through_many_layers(gated):
  model = gated(
    layers.ReLU(),
    layers.MaxPooling2D(2),
    layers.Conv2D(2, 1, use_bias=False, name="b"),
    layers.BatchNormalization(name="b_bn"),
    layers.Activation("swish", name="act"),
    layers.Flatten(name="flat"),
    layers.Dense(1, name="end"),
  )
  connect(model, "b", [1], [1, 3])
  b, bn = model.get_layer("b"), model.get_layer("b_bn")
  gamma, beta, mean, variance = (array[1] for array in bn.get_weights())
  value = gamma * (2 * b.kernel.numpy()[0, 0, 3, 1] - mean) / np.sqrt(variance + bn.epsilon) + beta
  np.testing.assert_allclose(constants(model, "flat"), [NAN, value / (1 + np.exp(-value))] * 4)


def test_use_flows_backward_through_many_layers(gated):
  model = gated(
    layers.ReLU(),
    layers.Conv2D(4, 1, name="b"),
    layers.Conv2D(3, 1, name="c"),
    layers.GlobalMaxPooling2D(),
    layers.Dense(2, name="end"),
  )
  connect(model, "end", [0, 1], [0])
  connect(model, "c", [0], [1])
  connect(model, "b", [1], [2, 3])
  assert used(model, "c") == [True, False, False]
  assert used(model, "b") == [False, True, False, False]
  assert used(model, "a_bn") == [False, False, True, True]
  assert used(model, "a") == [False, False, True, False]


def test_what_no_output_reads_is_not_used(randomize):
  images = image()
  x = layers.Conv2D(2, 1, name="a")(images)
  y = layers.Conv2D(2, 1, name="b")(x)
  assert used(keras.Model(images, [x, y]), "a") == [True, True]
  assert reasons(keras.Model(images, [x, y]), "a") == ["output"] * 2


class Subclassed(keras.Model):
  """A model that is no graph of layers."""


@pytest.mark.parametrize("model", [Subclassed(), layers.ReLU(), None])
def test_a_model_that_is_not_functional_is_refused(model):
  with pytest.raises(ValueError, match="no functional Keras model"):
    ChannelGraph(model)


# A rule of the user's own.


class Twice(layers.Layer):
  """A layer that the graph does not know: 2 * x."""

  def call(self, inputs):
    return 2 * inputs


class TwiceRule(channel_graph.Rule):
  """Its rule."""

  def constant(self, layer, constant):
    return 2 * constant


@pytest.fixture
def twice_registered(monkeypatch):
  monkeypatch.setattr(channel_graph, "RULES", dict(channel_graph.RULES))
  channel_graph.register(Twice, TwiceRule())


def test_without_a_rule_it_is_a_wall(gated):
  model = gated(Twice(name="twice"), end())
  assert reasons(model, "a") == ["twice"] * 4
  assert penalties(model) == {}


@pytest.mark.usefixtures("twice_registered")
def test_with_a_rule_channels_are_followed_and_removed(gated):
  model = gated(Twice(name="twice"), end())
  np.testing.assert_array_equal(constants(model, "twice"), [NAN, -4, NAN, 4])
  assert penalties(model) == {"a_bn/gamma": (4 * 4 + 3 * 3 * 3 + 2) / 36}
  smaller, report = squeeze(model)
  assert report.layers["a"].removed == 2
  images = np.random.default_rng(0).normal(size=(2, 6, 6, 3))
  np.testing.assert_allclose(smaller(images), model(images), rtol=1e-9)


class Concatenate(channel_graph.Rule):
  """A rule for several inputs, all that README's reader would write."""

  def forward(self, graph, node):
    terms = [graph.of(tensor) for tensor in node.input_tensors]
    return [
      channel_graph.Channels(np.concatenate([term.ids for term in terms]), np.concatenate([t.constant for t in terms]))
    ]

  def backward(self, graph, node):
    sizes = [len(graph.of(tensor).ids) for tensor in node.input_tensors]
    return np.split(graph.of(node.outputs[0]).used, np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("twin", [None, "swish", "relu"])
def test_a_rule_for_concatenation(monkeypatch, randomize, shut, twin):
  monkeypatch.setattr(channel_graph, "RULES", dict(channel_graph.RULES))
  channel_graph.register(layers.Concatenate, Concatenate())
  images = image()
  terms = []
  for name, filters in (("a", 4), ("b", 3)):
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(images)
    terms.append(layers.BatchNormalization(name=f"{name}_bn")(x))
  if twin:
    terms.insert(0, layers.Activation(twin)(terms[0]))
  x = layers.Concatenate(name="row")(terms)
  model = randomize(keras.Model(images, layers.Conv2D(2, 3, padding="same", name="end")(x)))
  shut(model, "a_bn", [0, 1, 2], [1.25, -1.5, 0.5])
  shut(model, "b_bn", [2], 0)
  assert np.isnan(constants(model, "row")).sum() == 3 + (twin is not None)
  smaller, report = squeeze(model, exact=True)
  assert report.layers["a"].removed == 2
  assert report.layers["a"].kept_though_dead == {"carrier": 1}
  assert report.layers["b"].removed == 1
  images = np.random.default_rng(0).normal(size=(2, 6, 6, 3))
  np.testing.assert_allclose(smaller(images), model(images), rtol=1e-9)
