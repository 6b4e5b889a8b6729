"""Tests of cifar10.pruning.rules.readers: dead inputs go from layers whose own outputs stay."""

import keras
import pytest
from flows import gate, squeeze_and_check
from keras import layers, ops

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def sequence(randomize, shut):
  """A function: the model of 6 channels "a" along 5 steps, of which 0, 2 and 3 are constants, that `layer` reads."""

  def sequence(layer, betas=(1, -2, 0)):
    given = keras.Input((5, 3), name="given")
    x = layer(gate(given, "a", filters=6))
    model = randomize(keras.Model(given, layers.Dense(2)(keras.tree.flatten(x)[0])))
    shut(model, "a_bn", [0, 2, 3], list(betas))
    return model

  return sequence


FOLDING = [
  lambda: layers.LSTM(3, name="b"),
  lambda: layers.LSTM(3, return_sequences=True, return_state=True, name="b"),
  lambda: layers.GRU(3, name="b"),
  lambda: layers.GRU(3, reset_after=False, name="b"),
  lambda: layers.SimpleRNN(3, name="b"),
  lambda: layers.Bidirectional(layers.LSTM(3), name="b"),
  lambda: layers.Bidirectional(layers.GRU(3, return_sequences=True), merge_mode="sum", name="b"),
  lambda: layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d", name="b"),
  lambda: layers.EinsumDense("...x,xyz->...yz", (2, 4), bias_axes="yz", activation="relu", name="b"),
  lambda: layers.EinsumDense("abc,bcd->ad", (4,), bias_axes="d", name="b"),
  lambda: self_attention(),
  lambda: self_attention(output_shape=7),
]
CARRYING = [
  lambda: layers.LSTM(3, use_bias=False, name="b"),
  lambda: layers.Bidirectional(layers.GRU(3, use_bias=False), name="b"),
  lambda: layers.EinsumDense("abc,cd->abd", (None, 4), name="b"),
  lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="e", name="b"),
  lambda: self_attention(use_bias=False),
]


def self_attention(**arguments):
  layer = layers.MultiHeadAttention(2, 3, name="b", **arguments)
  return lambda x: layer(x, x)


@pytest.mark.parametrize("layer", FOLDING)
def test_constants_go_into_the_biases(sequence, layer):
  assert squeeze_and_check(sequence(layer()))[1] == {"a": 3}


@pytest.mark.parametrize("layer", CARRYING)
def test_without_biases_one_carries(sequence, layer):
  assert squeeze_and_check(sequence(layer()))[1:] == ({"a": 2}, {"a": {"carrier": 1}})


def test_queries_alone_where_keys_are_others(randomize, shut):
  given = keras.Input((5, 3), name="given")
  queries, values = gate(given, "a"), gate(given, "b")
  x = layers.MultiHeadAttention(2, 3)(queries, values)
  model = randomize(keras.Model(given, layers.Dense(2, name="end")(ops.mean(x, axis=1))))
  shut(model, "a_bn", [0, 1], [1, 2])
  shut(model, "b_bn", [0], [1])
  _, removed, kept = squeeze_and_check(model)
  assert removed == {"a": 2}
  assert list(kept) == ["b"]


def test_states_stay(randomize, shut):
  given = keras.Input((5, 3), name="given")
  sequence, state = gate(given, "a"), gate(ops.mean(given, axis=1), "b")
  model = randomize(keras.Model(given, layers.Dense(2, name="end")(layers.GRU(4)(sequence, initial_state=state))))
  shut(model, "a_bn", [0, 1], [1, 2])
  shut(model, "b_bn", [0], [1])
  assert squeeze_and_check(model)[1] == {"a": 2}


def test_an_einsum_along_another_axis_is_not_followed(sequence):
  model = sequence(layers.EinsumDense("abc,bd->adc", (4, 6), name="b"))
  assert squeeze_and_check(model)[1] == {}
