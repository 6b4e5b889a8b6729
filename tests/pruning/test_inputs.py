"""Tests of cifar10.pruning.inputs: noise in the shapes and ranges that a model says."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from cifar10.pruning import squeeze
from cifar10.pruning.inputs import inputs_that_run, random_inputs


def test_noise_for_inputs_of_any_structure_and_type():
  inputs = {"image": keras.Input((None, 5, 3), name="image"), "index": keras.Input((4,), dtype="int32", name="index")}
  model = keras.Model(inputs, layers.Flatten()(inputs["index"]))
  noise = random_inputs(model)
  assert noise["image"].shape == (8, 64, 5, 3)
  assert keras.backend.standardize_dtype(noise["index"].dtype) == "int32"
  assert set(ops.convert_to_numpy(noise["index"]).ravel()) == {0, 1}


def lookup():
  layer = layers.IntegerLookup()
  layer.adapt([7, 5, 7])
  return layer


class Tokens(layers.Layer):
  """An embedding of tokens and one of positions, in a layer of one's own."""

  def __init__(self, words, length, **kwargs):
    super().__init__(**kwargs)
    self.tokens = layers.Embedding(words, 4)
    self.positions = layers.Embedding(length, 4)

  def build(self, shape):
    self.tokens.build(shape)
    self.positions.build(shape)

  def call(self, x):
    return self.tokens(x) + self.positions(ops.arange(ops.shape(x)[1]))


class Table(layers.Layer):
  """A table of one's own."""

  def build(self, shape):
    self.table = self.add_weight(shape=(9, 4), name="table")

  def call(self, x):
    return ops.take(self.table, x, axis=0)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize(
  ("reader", "values"),
  [
    (lambda x: layers.Embedding(5, 3)(x), range(5)),
    (lambda x: layers.Embedding(5, 3)(ops.reshape(x, (-1, 2, 20))), range(5)),
    (lambda x: layers.Embedding(5, 3)(layers.Concatenate()([x[:, 1:], x])), range(5)),
    (lambda x: layers.Add()([layers.Embedding(9, 3)(x), layers.Embedding(5, 3)(x)]), range(5)),
    (lambda x: keras.Sequential([keras.Input((40,)), layers.Embedding(5, 3)])(x), range(5)),
    (lambda x: layers.CategoryEncoding(5)(x), range(5)),
    (lambda x: ops.one_hot(ops.cast(x, "int32"), 5), range(5)),
    (lambda x: ops.take(keras.Variable(np.ones((5, 3))), ops.cast(x, "int32"), axis=0), range(5)),
    (lambda x: lookup()(x), [5, 7]),
    (lambda x: Tokens(5, 50)(x), range(5)),
    (lambda x: layers.TimeDistributed(layers.Embedding(5, 3))(ops.reshape(x, (-1, 2, 20))), range(5)),
  ],
  ids=range(11),
)
def test_integers_are_those_that_the_readers_take(reader, values, dtype):
  given = keras.Input((40,), dtype=dtype)
  model = keras.Model(given, reader(given))
  noise = random_inputs(model)
  assert keras.backend.standardize_dtype(noise.dtype) == dtype
  assert set(ops.convert_to_numpy(noise).ravel()) == set(values)
  model(noise)


def test_integers_for_other_layers():
  given = keras.Input((40,), dtype="uint8")
  assert ops.max(random_inputs(keras.Model(given, layers.Rescaling(1 / 255)(given)))) > 200
  given = keras.Input((40,), dtype="int32", name="given")
  model = keras.Model(given, Table()(given), name="net")
  with pytest.raises(
    ValueError, match="input given of net takes integers, and no layer that reads it says which: give"
  ):
    random_inputs(model)
  assert set(ops.convert_to_numpy(random_inputs(model, guess=True)).ravel()) == {0, 1}


@pytest.mark.parametrize(
  "computed", [lambda x: x + 1, lambda x: ops.clip(x * 50, 0, 59), lambda x: ops.where(x > 50, x - 51, x)], ids=range(3)
)
def test_integers_that_are_computed_with_before_an_embedding_are_asked_for(computed):
  given = keras.Input((40,), dtype="int32", name="given")
  model = keras.Model(given, layers.Embedding(60, 3)(computed(given)))
  with pytest.raises(ValueError, match="input given of .* takes integers.*give inputs"):
    random_inputs(model)
  assert set(ops.convert_to_numpy(random_inputs(model, guess=True)).ravel()) == {0, 1}


@pytest.mark.parametrize(
  "kind", [lambda x: layers.Hashing(9)(x), lambda x: layers.Dense(9)(ops.cast(x, "float32"))], ids=["hash", "weighted"]
)
def test_integers_that_are_weighted_or_hashed_are_not_asked_for(kind):
  given = keras.Input((40,), dtype="int32")
  model = keras.Model(given, layers.Embedding(9, 3)(ops.cast(kind(given), "int32")))
  assert set(ops.convert_to_numpy(random_inputs(model)).ravel()) == {0, 1}


def test_integers_that_are_scaled_are_as_large_as_that_says():
  images = keras.Input((16, 16, 3), dtype="int32")
  noise = ops.convert_to_numpy(random_inputs(keras.Model(images, layers.Rescaling(1 / 255)(images))))
  assert 200 < np.std(noise) < 300


def normalization(**kwargs):
  return layers.Normalization(mean=[100.0, 2000.0, -3.0], variance=[1e4, 1e2, 1.0], **kwargs)


@pytest.mark.parametrize(
  "scaled",
  [
    lambda x: layers.Rescaling(1 / 127.5, offset=-1)(x),
    lambda x: layers.Rescaling([0.1, 0.01, 0.002], offset=[5, 6, 7])(x),
    lambda x: layers.Rescaling(1 / 255)(layers.Dropout(0.5)(x)),
    lambda x: normalization()(x),
    lambda x: normalization()(layers.Rescaling(0.01)(x)),
    lambda x: normalization(invert=True)(normalization()(x)),
  ],
  ids=range(6),
)
def test_behind_layers_that_scale_inputs_is_standard_noise(scaled):
  images = keras.Input((16, 16, 3))
  noise = keras.Model(images, scaled(images))(random_inputs(keras.Model(images, scaled(images))))
  noise = ops.convert_to_numpy(noise)
  assert abs(np.mean(noise)) < 0.1
  assert 0.9 < np.std(noise) < 1.1


@pytest.mark.parametrize("fits", [20, 64, 5])
def test_sizes_are_those_that_the_model_takes(fits):
  given = keras.Input((None,), dtype="int32")
  model = keras.Model(given, Tokens(100, fits)(given))
  inputs = inputs_that_run(model, 3)
  assert inputs.shape == (3, {20: 16, 64: 64, 5: 4}[fits])
  assert ops.max(inputs) < fits


def test_sizes_that_are_too_small_are_not_taken_either():
  images = keras.Input((None, None, 3))
  x = images
  for _ in range(3):
    x = layers.Conv2D(2, 5, strides=3)(x)
  assert inputs_that_run(keras.Model(images, x), 1).shape == (1, 64, 64, 3)
  assert inputs_that_run(keras.Model(images, layers.Conv2D(2, 5)(x)), 1).shape == (1, 256, 256, 3)


class Picky(layers.Layer):
  """It takes nothing."""

  def call(self, x):
    ops.convert_to_numpy(x)
    raise TypeError("nothing is right")

  def compute_output_spec(self, x):
    return keras.KerasTensor(x.shape, x.dtype)


def test_where_nothing_fits_inputs_are_asked_for():
  images = keras.Input((8, 8, 3))
  x = layers.BatchNormalization(name="a_bn")(layers.Conv2D(4, 1)(Picky()(images)))
  model = keras.Model(images, layers.Conv2D(2, 1)(x), name="net")
  model.get_layer("a_bn").gamma.assign([0.1, 1, 1, 1])
  with pytest.raises(ValueError, match=r"net cannot be called with noise \(TypeError: .*\): give inputs"):
    squeeze(model, threshold=0.2)
  assert "give inputs" in squeeze(model)[1].check.note


def test_a_threshold_asks_for_inputs_where_it_cannot_know_them():
  given = keras.Input((6,), dtype="int32", name="given")
  x = layers.BatchNormalization(name="a_bn")(layers.Dense(4, name="a")(Table()(given)))
  model = keras.Model(given, layers.Dense(2)(x), name="net")
  model.get_layer("a_bn").gamma.assign([0.1, 1, 1, 1])
  with pytest.raises(ValueError, match="input given of net takes integers.*give inputs"):
    squeeze(model, threshold=0.2)
  comparison = squeeze(model, threshold=0.2, inputs=np.arange(6)[None])[1].comparison
  assert comparison.examples == 1
