"""Tests of cifar10.pruning.channel_graph: what flows through several layers; those of the rules are in rules/.

What the graph says of a tensor is held against the tensor's values on random images.
"""

import functools

import keras
import numpy as np
import pytest
from builders import Subclassed, image
from flows import (
  NAN,
  connect,
  constants,
  end,
  gate,
  gated_model,
  ids,
  is_opaque,
  of,
  read,
  reasons,
  squeeze_and_check,
  used,
)
from keras import layers

from cifar10.pruning import penalties, register, rules
from cifar10.pruning.channel_graph import ChannelGraph

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def gated(randomize, shut):
  """`gated_model` with weights drawn at random."""
  return functools.partial(gated_model, randomize, shut)


def names(calls):
  return [call.name for call in calls]


# Inputs, outputs and what cannot be removed.


def test_an_input_is_not_followed():
  images = image()
  model = keras.Model(images, end()(images))
  assert is_opaque(model, "images")
  assert of(model, "images").reason == "input"


def test_convolutions_make_channels(gated):
  model = gated(layers.ReLU(name="relu"), layers.Conv2D(5, 3, name="b"), end())
  graph = ChannelGraph(model)
  made = [graph.of(model.get_layer(name).output).ids for name in ("a", "b", "end")]
  assert [len(channels) for channels in made] == [4, 5, 2]
  assert len(set(np.concatenate(made))) == 11
  assert max(np.concatenate(made)) < graph.channel_count
  assert names(graph.mixing_calls()) == ["a", "b", "end"]
  assert names(graph.calls) == ["images", "a", "a_bn", "relu", "b", "end"]
  assert reasons(model, "b") == [None] * 5
  assert reasons(model, "end") == ["output"] * 2


def test_what_an_output_is_made_of_stays_though_others_read_it(gated):
  model = gated(layers.ReLU(name="relu"))
  both = keras.Model(model.input, [model.output, end()(model.output)])
  connect(both, "end", [0, 1], [0])
  assert reasons(both, "a") == ["output"] * 4
  assert used(both, "relu") == [True] * 4
  assert squeeze_and_check(both)[1:] == ({}, {"a": {"output": 2}})


def test_several_inputs_and_outputs(randomize, shut):
  inputs = {name: image(5, 5, 3, name=name) for name in ("left", "right")}
  a, b = (gate(x, name) for x, name in zip(inputs.values(), "ab"))
  outputs = [layers.Conv2D(2, 1, name=name)(x) for name, x in {"one": a, "two": b, "three": a * b}.items()]
  model = randomize(keras.Model(inputs, outputs))
  shut(model, "a_bn", [0, 1], [1, 2])
  shut(model, "b_bn", [1, 2], [0, 4])
  assert ids(model, "a") == ids(model, "b")
  assert squeeze_and_check(model)[1:] == ({"a": 1, "b": 1}, {"a": {"shared": 1}, "b": {"shared": 1}})


def test_what_no_output_reads_is_not_used(gated):
  model = gated(layers.Conv2D(4, 1, name="b"), end())
  connect(model, "end", [0, 1], [0])
  connect(model, "b", [0], [2, 3])
  assert used(model, "b") == [True, False, False, False]
  assert used(model, "a_bn") == [False, False, True, True]
  assert used(model, "a") == [False, False, True, False]
  assert used(model, "end") == [True, True]
  assert squeeze_and_check(model)[1:] == ({"a": 3, "b": 3}, {})


def test_constants_flow_forward_through_many_layers(gated):
  model = gated(
    layers.ReLU(),
    layers.MaxPooling2D(2),
    layers.Conv2D(2, 1, use_bias=False, name="b"),
    layers.BatchNormalization(name="b_bn"),
    layers.Activation("swish"),
    layers.Flatten(name="flat"),
    read,
  )
  connect(model, "b", [1], [1, 3])
  b, bn = model.get_layer("b"), model.get_layer("b_bn")
  gamma, beta, mean, variance = (array[1] for array in bn.get_weights())
  value = gamma * (2 * b.kernel.numpy()[0, 0, 3, 1] - mean) / np.sqrt(variance + bn.epsilon) + beta
  np.testing.assert_allclose(constants(model, "flat"), [NAN, value / (1 + np.exp(-value))] * 16)
  assert squeeze_and_check(model)[1:] == ({"a": 2, "b": 1}, {})


# Walls.

WALLS = [
  layers.LayerNormalization,
  layers.Softmax,
  lambda **name: layers.TimeDistributed(layers.LayerNormalization(), **name),
  lambda **name: type("OddReLU", (layers.ReLU,), {})(**name),
  lambda **name: functools.partial(layers.BatchNormalization(**name), training=True),
]


@pytest.mark.parametrize("wall", WALLS)
def test_a_layer_without_a_rule_is_a_wall(gated, wall):
  model = gated(layers.Conv2D(4, 1, name="b"), wall(name="wall"), layers.ReLU(name="relu"), layers.Flatten(), read)
  connect(model, "b", [1], [])
  assert reasons(model, "b") == ["wall"] * 4
  assert used(model, "b") == used(model, "a_bn") == [True] * 4
  assert ChannelGraph(model).walls == ["wall"]
  assert is_opaque(model, "wall")
  assert is_opaque(model, "relu")
  assert of(model, "relu").reason == "wall"
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {"b": {"wall": 1}})


def test_a_layer_that_is_a_wall_in_one_call_is_one_in_all(gated):
  norm = layers.BatchNormalization(name="norm")
  model = gated(norm, layers.Conv2D(4, 1, name="b"), lambda x: norm(x, training=True), end())
  assert reasons(model, "a") == reasons(model, "b") == ["norm"] * 4
  assert ChannelGraph(model).walls == ["norm"]


def test_a_layer_inside_a_wall_is_one_outside_too(gated):
  dense = layers.Dense(4, name="dense")
  model = gated(dense, layers.TimeDistributed(dense, name="wall"), end())
  assert reasons(model, "a") == ["dense"] * 4
  assert ChannelGraph(model).walls == ["dense", "wall"]


def test_a_layer_with_several_outputs_is_a_wall(gated):
  class Twice(layers.Layer):
    def call(self, x):
      return x, 2 * x

  model = gated(Twice(name="wall"), lambda x: read(x[0] + x[1]))
  assert reasons(model, "a") == ["wall"] * 4


# Layers that are called several times.


def test_a_convolution_in_series_ties_what_it_reads_and_makes(randomize, shut):
  images, shared = image(), layers.Conv2D(4, 1, name="shared")
  model = randomize(keras.Model(images, end()(shared(shared(gate(images, "a"))))))
  assert ids(model, "a") == ids(model, "shared")
  assert len(set(ids(model, "a"))) == 4
  assert names(ChannelGraph(model).mixing_calls()) == ["a", "shared", "shared", "end"]
  shut(model, "a_bn", [0], [0])
  assert squeeze_and_check(model)[1:] == ({}, {"a": {"shared": 1}})
  connect(model, "shared", [0], [])
  model.get_layer("shared").bias.assign([0, 1, 1, 1])
  assert squeeze_and_check(model)[1:] == ({"a": 1, "shared": 1}, {})


def test_a_convolution_in_parallel_ties_what_it_reads(randomize, shut):
  images, shared = image(), layers.Conv2D(4, 3, name="shared")
  model = randomize(keras.Model(images, end()(shared(gate(images, "a")) + shared(gate(images, "b")))))
  shut(model, "a_bn", [0, 1, 2], [0, 1, 5])
  shut(model, "b_bn", [1, 2, 3], [1, 4, 0])
  assert ids(model, "a") == ids(model, "b") != ids(model, "shared")
  kept = {"a": {"shared": 2}, "b": {"shared": 2}}
  assert squeeze_and_check(model)[1:] == ({"a": 1, "b": 1}, kept)


def test_a_batch_norm_of_two_tensors_ties_them(randomize):
  images, norm = image(), layers.BatchNormalization(name="norm")
  a, b = (layers.Conv2D(4, 1, name=name)(images) for name in "ab")
  model = randomize(keras.Model(images, end()(layers.Concatenate()([norm(a), norm(b)]))))
  model.get_layer("norm").gamma.assign([1, 0, 1, 0])
  assert ids(model, "a") == ids(model, "b")
  assert squeeze_and_check(model)[1:] == ({"a": 2, "b": 2}, {})


def test_a_layer_without_weights_ties_nothing(gated):
  relu = layers.ReLU()
  model = gated(relu, layers.Conv2D(5, 1, name="b"), relu, end())
  assert reasons(model, "a") + reasons(model, "b") == [None] * 9
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {})


def test_a_layer_that_reads_an_input_too_keeps_its_channels(randomize):
  images, shared = image(5, 5, 4), layers.Conv2D(4, 1, name="shared")
  model = randomize(keras.Model(images, end()(shared(shared(images)))))
  assert reasons(model, "shared") == ["input"] * 4


# Nested models.


def encoder(name="encoder"):
  x = image(5, 5, 4, name="inner")
  y = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 1, name="conv")(x))
  return keras.Model(x, layers.ReLU(name="relu")(y), name=name)


def test_a_nested_model_is_flattened(randomize):
  images, nested = image(5, 5, 3), encoder()
  outer = keras.Sequential([image(5, 5, 4, name="x"), nested, layers.Dropout(0.5, name="drop")], name="outer")
  model = randomize(keras.Model(images, end()(outer(gate(images, "a")))))
  nested.get_layer("norm").gamma.assign([0, 1, 1, 1])
  nested.get_layer("norm").beta.assign([1, 1, 1, 1])
  graph = ChannelGraph(model)
  inner = [f"outer/encoder/{name}" for name in ("conv", "norm", "relu")]
  assert names(graph.calls) == ["images", "a", "a_bn", *inner, "outer/drop", "end"]
  assert graph.of(nested.get_layer("relu").output).constant.tolist()[0] == 1
  smaller, *counts = squeeze_and_check(model)
  assert counts == [{"outer/encoder/conv": 1}, {}]
  assert smaller.get_layer("outer").get_layer("encoder").get_layer("conv").filters == 3


def test_a_nested_model_that_is_called_twice_ties_its_calls(randomize, shut):
  images, nested = image(5, 5, 3), encoder()
  terms = [nested(gate(images, name)) for name in "ab"]
  model = randomize(keras.Model(images, end()(layers.Subtract()(terms))))
  shut(model, "a_bn", [0, 1], [1, 2])
  shut(model, "b_bn", [1, 2], [2, 0])
  assert ids(model, "a") == ids(model, "b")
  assert squeeze_and_check(model)[1:] == ({"a": 1, "b": 1}, {"a": {"shared": 1}, "b": {"shared": 1}})


@pytest.mark.parametrize("as_dict", [True, False])
def test_inputs_of_a_nested_model_go_by_name(randomize, shut, as_dict):
  images = image(5, 5, 3)
  z, y = image(5, 5, 4, name="z"), image(5, 5, 4, name="y")
  nested = keras.Model([z, y], layers.Conv2D(3, 1, name="conv")(z - 2 * y), name="nested")
  a, b = gate(images, "a"), gate(images, "b")
  model = randomize(keras.Model(images, end()(nested({"y": b, "z": a} if as_dict else [a, b]))))
  shut(model, "a_bn", [0, 1], [1, 2])
  shut(model, "b_bn", [1, 2], [4, 0])
  graph = ChannelGraph(model)
  assert graph.of(z).constant.tolist()[:2] == [1, 2]
  assert graph.of(y) is graph.of(b)
  assert squeeze_and_check(model)[1:] == ({"a": 1, "b": 1}, {"a": {"shared": 1}, "b": {"shared": 1}})


def test_a_nested_model_in_training_is_a_wall(gated):
  nested = encoder()
  model = gated(
    lambda x: nested(x, training=True), lambda x: layers.Conv2D(4, 1, name="b")(x), nested, end(), shape=(5, 5, 3)
  )
  assert ChannelGraph(model).walls == ["encoder", "encoder/conv", "encoder/norm", "encoder/relu"]
  assert reasons(model, "a") == ["encoder"] * 4
  assert reasons(model, "b") == ["encoder/conv"] * 4


# Arguments.


@pytest.mark.parametrize(("threshold", "dead"), [(0.0, [2]), (0.1, [1, 2]), (0.3, [1, 2, 3])])
def test_gammas_within_the_threshold_count_as_0(gated, threshold, dead):
  model = gated(end(), betas={})
  model.get_layer("a_bn").gamma.assign([1, 0.1, 0, -0.3])
  graph = ChannelGraph(model, threshold=threshold)
  (norm,) = [call for call in graph.calls if call.name == "a_bn"]
  assert np.flatnonzero(graph.gamma(norm) == 0).tolist() == dead
  channels = graph.of(model.get_layer("a_bn").output)
  assert np.flatnonzero(~np.isnan(channels.constant)).tolist() == dead
  assert np.flatnonzero(~graph.of(model.get_layer("a").output).used).tolist() == dead


def test_keep(gated):
  model = gated(layers.Conv2D(3, 1, name="b"), end())
  model.get_layer("a_bn").gamma.assign([1, 0.1, 0, 1])
  graph = ChannelGraph(model, threshold=0.2, keep=["a_bn"])
  channels = graph.of(model.get_layer("a_bn").output)
  assert [graph.blocked.get(channel) for channel in channels.ids] == ["keep"] * 4
  assert np.isnan(channels.constant).tolist() == [True, True, False, True]
  assert squeeze_and_check(model, keep=["a"])[1:] == ({}, {"a": {"keep": 1}})
  with pytest.raises(ValueError, match="keep names 'encoder', but .* has no such layer"):
    ChannelGraph(model, keep=["a", "encoder", "c"])


class Functional(keras.Model):
  """A functional model that does more than its graph."""

  def call(self, inputs):
    return 2 * super().call(inputs)


@pytest.mark.parametrize(
  "model", [Subclassed(), layers.ReLU(), None, Functional(x := keras.Input((3,)), layers.Dense(2)(x))], ids=range(4)
)
def test_a_model_that_is_not_functional_is_refused(model):
  with pytest.raises(ValueError, match="is no functional Keras model; build it with"):
    ChannelGraph(model)


def test_a_sequential_model_must_be_built():
  model = keras.Sequential([layers.Dense(3, name="a"), layers.Dense(2, name="end")])
  with pytest.raises(ValueError, match="not built yet; call it, or begin it with"):
    ChannelGraph(model)
  model(np.zeros((1, 4)))
  assert names(ChannelGraph(model).mixing_calls()) == ["a", "end"]


@pytest.mark.parametrize("kind", [Subclassed, Functional])
def test_a_nested_model_that_is_not_functional_is_a_wall(gated, kind):
  x = image(9, 9, 4)
  nested = kind(x, layers.ReLU()(x), name="nested") if kind is Functional else kind(name="nested")
  assert reasons(gated(nested, end()), "a") == ["nested"] * 4


# Rules of the user's own.


class Twice(layers.Layer):
  """A layer that the graph does not know: 2 * x."""

  def call(self, inputs):
    return 2 * inputs


class TwiceRule(rules.Rule):
  """Its rule."""

  def constant(self, graph, call, channels):
    return 2 * channels.constant, channels.border


def test_without_a_rule_it_is_a_wall(gated):
  model = gated(Twice(name="layer"), end())
  assert reasons(model, "a") == ["layer"] * 4
  assert penalties(model) == {}


@pytest.mark.usefixtures("own_rules")
@pytest.mark.parametrize("rule", [TwiceRule(), rules.Elementwise()])
def test_with_a_rule_channels_are_followed_and_removed(gated, rule):
  register(Twice, rule)
  model = gated(Twice(name="layer"), end())
  np.testing.assert_array_equal(constants(model, "layer"), [NAN, -4, NAN, 4])
  assert penalties(model) == {"a_bn/gamma": (9 * 9 + 3 + 2) / 81}
  assert squeeze_and_check(model)[1:] == ({"a": 2}, {})


@pytest.mark.usefixtures("own_rules")
def test_of_several_rules_the_first_that_applies_is_taken(gated):
  class Never(TwiceRule):
    """A rule that never applies."""

    def applies(self, call):
      return False

  register(Twice, Never(), rules.Passing(), TwiceRule())
  model = gated(Twice(name="layer"), end())
  assert of(model, "layer").constant.tolist()[1] == -2
