"""Tests of cifar10.pruning.opening and tracing: layers that hold layers, and subclassed models, are looked into."""

import importlib
import logging
import re

import blocks
import keras
import numpy as np
import pytest
from blocks import Residual, called, functional
from builders import conv_bn, image
from flows import assert_same_function, squeeze_and_check
from keras import layers, ops

from cifar10.pruning import (
  ProximalSGD,
  SparsityLogger,
  compare,
  fake_sparsity,
  fold_batch_norms,
  group_lasso,
  multiply_adds,
  opening,
  penalties,
  plan,
  prune,
  recalibrate,
  register,
  rules,
  scale_gammas,
  squeeze,
  unscale_gammas,
)
from cifar10.pruning.calls import layers_in

pytestmark = pytest.mark.usefixtures("float64")

IMAGES = np.random.default_rng(3).normal(size=(8, 8, 8, 3))


def with_dead(model, randomize):
  """Random weights; every third gamma and its beta are 0."""
  randomize(model)
  for layer in layers_in(model):
    if isinstance(layer, layers.BatchNormalization):
      for variable in (layer.gamma, layer.beta):
        variable.assign(np.where(np.arange(variable.shape[0]) % 3 == 1, 0, variable))
  return model


def build(kind):
  return functional() if kind is functional else called(kind)


def state(model):
  """What pruning may not change: names, nodes, flags, weights, and which variables there are."""
  found = [
    (each.name, each.built, each.trainable, len(each._inbound_nodes), len(each._outbound_nodes), sorted(vars(each)))
    for each in layers_in(model)
  ]
  lines = []
  model.summary(print_fn=lines.append, expand_nested=True)
  values = [(id(variable), variable.path, variable.numpy().tolist()) for variable in model.variables]
  config = model.get_config() if isinstance(model, keras.Sequential) or hasattr(model, "input") else None
  return found, lines, values, repr(config)


@pytest.mark.parametrize(
  ("kind", "opened", "least"),
  [
    (blocks.Classifier, ["classifier", "first", "second", "second/excitation", "third"], 8),
    (blocks.UNet, ["u_net"], 6),
    (blocks.Distiller, ["distiller"], 2),
    (blocks.TwoInputs, ["two_inputs", "left"], 1),
    (functional, ["twice", "row/inner", "row/inner/excitation"], 4),
  ],
)
def test_what_is_inside_is_pruned(kind, opened, least, randomize, tmp_path):
  keras.utils.clear_session()
  model = with_dead(build(kind), randomize)
  before = state(model)
  gates = penalties(model, num_pixels=64)
  smaller, removed, _ = squeeze_and_check(model)
  report = plan(model)
  assert state(model) == before
  assert list(report.opened) == opened
  assert report.walls == []
  assert sum(removed.values()) >= least
  assert smaller.name == model.name
  smaller.save(tmp_path / "smaller.keras")
  loaded = keras.saving.load_model(tmp_path / "smaller.keras", custom_objects={})  # Without the classes.
  assert_same_function(model, loaded)
  assert penalties(loaded, num_pixels=64).keys() == gates.keys()
  assert_same_function(model, fold_batch_norms(model))
  for each in (model, smaller):
    assert group_lasso(each, gates) > 0
  assert 0 < fake_sparsity(model, gates) < 1
  assert multiply_adds(model) > multiply_adds(smaller)
  assert state(model) == before


def test_names_and_the_report(randomize):
  model = with_dead(called(blocks.Classifier), randomize)
  report = plan(model)
  assert {"stem", "first/conv1", "second/project", "second/excitation/pool"} & report.layers.keys() == {
    "stem",
    "first/conv1",
    "second/project",
  }
  assert {"first/bn1", "third/bn2", "second/norm"} <= report.gates.keys()
  assert "model classifier is a Classifier: the smaller one is a functional model" in report.notes[0]
  assert "functional models now of what they call: classifier, a Classifier, first, a Residual" in str(report)
  kept = plan(model, keep=["first"])
  assert report.layers["first/conv1"].removed == 2
  assert kept.layers["first/conv1"].kept_though_dead == {"keep": 2}
  assert kept.layers["third/conv1"] == report.layers["third/conv1"]


@pytest.mark.parametrize("importance", ["gamma", "taylor"])
def test_it_is_pruned_to_a_budget(importance, randomize):
  model = randomize(called(blocks.Small))
  examples = {"inputs": IMAGES, "targets": np.zeros((8, 3)), "loss": keras.losses.mean_squared_error}
  smaller, report = prune(model, channels=0.6, importance=importance, **examples)
  assert list(report.opened) == [model.name, "residual", "inverted", "inverted/excitation"]
  assert report.layers["inverted/expand/conv2d"].removed > 0
  assert report.parameters_after == smaller.count_params() < model.count_params()


def test_in_training_it_does_what_the_model_does(randomize):
  model = randomize(called(blocks.Small))
  model.get_layer("inverted").drop.rate = 0.0
  smaller, _ = squeeze(model)
  for layer in layers_in(smaller):
    assert "Dropout" not in type(layer).__name__ or layer.rate == 0
  np.testing.assert_allclose(smaller(IMAGES, training=True), model(IMAGES, training=True), rtol=1e-9)
  for each in (model, smaller):
    recalibrate(each, [IMAGES[:4], IMAGES[4:]])
  assert_same_function(model, smaller)
  assert ops.max(abs(smaller(IMAGES) - smaller(IMAGES, training=True))) > 1e-3


def test_a_subclassed_model_is_trained_and_squeezed(randomize, tmp_path):
  model = with_dead(called(blocks.Small), randomize)
  gates = penalties(model)
  model.compile(ProximalSGD(1e-3, 0.1, gates, momentum=0.5), "mse")
  model.fit(IMAGES, np.zeros((8, 3)), epochs=2, verbose=0, callbacks=[SparsityLogger(gates)])
  smaller, removed, _ = squeeze_and_check(model)
  assert removed
  assert compare(model, smaller, IMAGES).largest_difference < 1e-9
  gammas = {variable.path: variable.numpy() for variable in model.variables if variable.name == "gamma"}
  scale_gammas(model, ["bn1/gamma"], 0.5)
  changed = [v.path for v in model.variables if v.name == "gamma" and (v.numpy() != gammas[v.path]).any()]
  assert [path.partition("/")[2] for path in changed] == ["residual/bn1/gamma"]
  unscale_gammas(smaller, ["bn1/gamma"], 0.5)
  model.save_weights(tmp_path / "model.weights.h5")
  other = called(blocks.Small)
  other.load_weights(tmp_path / "model.weights.h5")
  assert group_lasso(other, gates) == group_lasso(model, gates)


@pytest.mark.parametrize("kind", [blocks.Classifier, blocks.UNet])
def test_keys_of_layers_without_names_hold_for_another_model_of_the_class(kind, randomize):
  model, other = (randomize(called(kind)) for _ in range(2))
  gates = penalties(model)
  assert penalties(other) == gates == penalties(squeeze(other)[0])
  assert group_lasso(model, gates) == group_lasso(other, gates)


def test_equal_names_are_kept_apart(randomize):
  class Alike(layers.Layer):
    """Two convolutions of one name."""

    def __init__(self, **arguments):
      super().__init__(**arguments)
      self.parts = [layers.Conv2D(4, 1, name="same"), layers.BatchNormalization(name="bn")]
      self.parts += [layers.Conv2D(3, 1, name="same"), layers.BatchNormalization(name="bn")]

    def call(self, x):
      for part in self.parts:
        x = part(x)
      return x

  images = image()
  model = with_dead(keras.Model(images, layers.Conv2D(2, 1)(Alike(name="alike")(images))), randomize)
  gates = penalties(model)
  assert list(gates) == ["bn/gamma", "bn_1/gamma"]
  smaller, removed, _ = squeeze_and_check(model)
  assert removed == {"alike/same": 1, "alike/same_1": 1}
  for key, place in (("bn/gamma", 1), ("bn_1/gamma", 3)):
    gamma = model.layers[1].parts[place].gamma
    assert float(group_lasso(model, {key: 1.0})) == pytest.approx(abs(gamma.numpy()).sum())
  for each in (model, smaller):
    assert group_lasso(each, gates) == group_lasso(model, gates)


def test_weights_that_no_call_uses_are_left_out(randomize):
  model = with_dead(called(blocks.Distiller), randomize)
  smaller, report = squeeze(model)
  assert report.notes[1].startswith(f"579 parameters of {model.name} are in no call that its outputs come of")
  assert report.parameters_before == model.student.count_params()
  assert smaller.get_layer("student").get_layer("conv").filters == 4


# What stays shut.


class Block(layers.Layer):
  """A convolution and its batch norm; subclasses do something more with them."""

  def __init__(self, **arguments):
    super().__init__(**arguments)
    self.conv = layers.Conv2D(3, 3, padding="same", name="conv")
    self.bn = layers.BatchNormalization(name="bn")

  def call(self, x):
    return self.more(self.bn(self.conv(x)))

  def more(self, x):
    """Nothing more."""
    return x


class Scaled(Block):
  """Has a weight of its own."""

  def build(self, shape):
    self.scale = self.add_weight(shape=(3,), initializer="ones", name="scale")

  def more(self, x):
    return x * self.scale


class ScaledTensor(Scaled):
  """Works with it beforehand."""

  def more(self, x):
    return x * ops.exp(self.scale)


class Placed(Block):
  """Adds a learnt number for each row, and calls a layer on numbers to have it."""

  def __init__(self, **arguments):
    super().__init__(**arguments)
    self.rows = layers.Dense(3)
    self.rows.build((8, 1))

  def more(self, x):
    return x + ops.reshape(self.rows(ops.ones((8, 1))), (8, 1, 3))


class OfTheBackend(Block):
  """Hands tensors to TensorFlow, JAX or PyTorch."""

  def more(self, x):
    backend = importlib.import_module(keras.backend.backend())
    functions = {
      "tensorflow": lambda: backend.raw_ops.Relu(features=x),
      "jax": lambda: backend.nn.relu(x),
      "torch": lambda: backend.relu(x),
    }
    return functions[backend.__name__]()


class Branching(Block):
  """Looks at values."""

  def compute_output_shape(self, shape):
    return shape

  def more(self, x):
    return x if ops.sum(x) > 0 else -x


class Losing(Block):
  """Notes a loss."""

  def more(self, x):
    self.add_loss(ops.mean(x))
    return x


class Counting(Block):
  """Counts its calls."""

  def build(self, shape):
    self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

  def more(self, x):
    self.count.assign_add(1.0)
    return x


class Masking(Block):
  """Makes masks."""

  def compute_mask(self, inputs, previous_mask):
    return None


class Opaque(Block):
  """A layer in it cannot be saved by itself."""

  def __init__(self, **arguments):
    super().__init__(**arguments)
    self.end = NoConfig(object())

  def more(self, x):
    return self.end(x)


class NoConfig(layers.Layer):
  """Has an argument that no config holds."""

  def __init__(self, thing, **arguments):
    super().__init__(**arguments)

  def call(self, x):
    return x


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
  ("kind", "reason"),
  [
    (Scaled, "it computes with weights outside of layers"),
    (ScaledTensor, "it computes with weights outside of layers"),
    (Placed, "it computes with weights outside of layers"),
    (OfTheBackend, "Error"),
    (Branching, "Error"),
    (Losing, "Error"),
    (Counting, "its call sets variables"),
    (Masking, "it makes masks"),
    (Opaque, "layer no_config.* in it has no config"),
    (lambda **a: Block(**a, activity_regularizer="l2"), "regularizer"),
  ],
)
def test_what_cannot_be_traced_is_a_wall(kind, reason, randomize, caplog):
  images = image()
  block = kind(name="block")
  x = conv_bn(block(conv_bn(images, "a", 3)), "b", 3)
  model = randomize(keras.Model(images, layers.Conv2D(2, 1)(x)))
  before = state(model)
  with caplog.at_level(logging.WARNING):
    smaller, report = squeeze(model)
  assert state(model) == before
  assert report.opened == {}
  assert report.walls == ["block"]
  assert type(smaller.get_layer("block")) is type(block)
  sentence = f"1 batch norms in layer block, a {type(block).__name__}, are out of sight, since "
  assert sentence in caplog.text
  assert len(report.notes) == 1
  np.testing.assert_array_equal(smaller(IMAGES), model(IMAGES))
  assert re.search(reason, report.notes[0].removeprefix(sentence))


@pytest.mark.usefixtures("own_rules")
def test_a_class_that_has_a_rule_is_not_opened():
  images = image()
  model = keras.Model(images, layers.Conv2D(2, 1)(Block(name="block")(images)))
  assert plan(model).opened == {"block": "Block"}
  register(Block, rules.Wall())
  report = plan(model)
  assert (report.opened, report.walls) == ({}, ["block"])
  assert report.notes == ["1 batch norms in layer block, a Block, are out of sight: their channels stay"]


def test_whatever_goes_wrong_a_functional_model_stays_as_it_is(monkeypatch):
  def fail(*_):
    raise RuntimeError("no room")

  monkeypatch.setattr(opening._Opening, "_of_class", fail)
  model = functional()
  report = plan(model)
  assert report.opened == {}
  assert report.walls == ["twice", "row/inner"]
  assert "since it cannot be made a functional model (RuntimeError: no room)" in report.notes[0]


def test_a_layer_that_is_called_in_training_stays_shut():
  images = image()
  model = keras.Model(images, Residual(3, name="block")(images, training=True))
  assert "since it is called with training=True" in plan(model).notes[0]


def test_what_a_layer_does_in_training_alone_is_said():
  class Augmenting(Block):
    """Adds noise in training."""

    def call(self, x, training=None):
      return super().call(x + 1.0 if training else x)

  images = image()
  model = keras.Model(images, Augmenting(name="block")(images))
  assert plan(model).notes == ["layer block, a Augmenting, calls something else in training, which is left out"]


def test_a_layer_that_is_called_with_several_shapes_stays_shut():
  images, block = image(), Block(name="block")
  x = block(layers.MaxPooling2D()(block(images)))
  report = plan(keras.Model(images, layers.Conv2D(2, 1)(x)))
  assert report.opened == {}
  assert "since it is called with other shapes or arguments elsewhere" in report.notes[0]


def test_weights_that_two_blocks_share_stay_shared(randomize, tmp_path):
  class Borrowing(layers.Layer):
    """Takes its convolution from elsewhere."""

    def __init__(self, conv, **arguments):
      super().__init__(**arguments)
      self.conv = conv
      self.bn = layers.BatchNormalization()

    def call(self, x):
      return self.bn(self.conv(x))

  images, conv = image(), layers.Conv2D(3, 3, padding="same", name="conv")
  x = Borrowing(conv, name="right")(Borrowing(conv, name="left")(images))
  model = with_dead(keras.Model(images, layers.Conv2D(2, 1)(x)), randomize)
  smaller, report = squeeze(model)
  assert report.opened == {"left": "Borrowing"}
  assert "layer right, a Borrowing, are out of sight, since conv in it is called elsewhere too" in report.notes[0]
  assert_same_function(model, smaller)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_policies_of_dtypes(policy, randomize, shut):
  images = keras.Input((8, 8, 3), dtype="float32")
  keras.config.set_dtype_policy(policy)
  x = Residual(3, name="half")(images)
  keras.config.set_dtype_policy("float32")
  x = Residual(3, name="whole")(x)
  model = randomize(keras.Model(images, x))
  model.get_layer("half").bn1.gamma.assign([0, 1, 1])
  smaller, report = squeeze(model)
  assert list(report.opened) == ["half", "whole"]
  first, second = (ops.convert_to_numpy(each(IMAGES)) for each in (model, smaller))
  assert first.dtype == second.dtype
  np.testing.assert_allclose(second, first, rtol=0.05, atol=0.05 * abs(first).max())


class Reshaping(Block):
  """Puts rows and columns together, by the size of the batch, and undoes that."""

  def __init__(self, places=64, **arguments):
    super().__init__(**arguments)
    self.places = places

  def call(self, x):
    y = super().call(x)
    batch, *sizes = ops.shape(y)
    return ops.reshape(ops.reshape(y, (batch, self.places, sizes[-1])), [batch, *sizes])


class Broadcasting(Block):
  """Does what symbolic tensors can and, on them, no others."""

  def call(self, x):
    y = super().call(x)
    return ops.broadcast_to(y, ops.shape(y))


def test_a_reshape_to_the_size_of_the_batch(randomize, tmp_path):
  images = image()
  model = with_dead(keras.Model(images, layers.Conv2D(2, 3)(Reshaping(name="block")(images))), randomize)
  smaller, removed, _ = squeeze_and_check(model)
  assert removed == {"block/conv": 1}
  smaller.save(tmp_path / "smaller.keras")
  assert_same_function(model, keras.saving.load_model(tmp_path / "smaller.keras", custom_objects={}))


def test_a_reshape_by_several_sizes_that_are_not_fixed():
  images = image()
  report = plan(keras.Model(images, layers.Conv2D(2, 3)(Reshaping(-1, name="block")(images))))
  assert report.opened == {}
  assert "since it reshapes by sizes that are not fixed" in report.notes[0]


def test_what_cannot_be_called_once_it_is_opened_is_said(randomize):
  images = image()
  model = with_dead(keras.Model(images, layers.Conv2D(2, 3)(Broadcasting(name="block")(images))), randomize)
  with pytest.raises(ValueError, match=r"squeezed cannot be called as the model can .*register\(its class, rules.Wall"):
    squeeze(model)
  register(Broadcasting, rules.Wall())
  assert_same_function(model, squeeze(model)[0])


class Branches(layers.Layer):
  """A padded convolution beside one that is not, which is built for the padded size and called with the other."""

  def __init__(self, filters, **arguments):
    super().__init__(**arguments)
    self.pad = layers.ZeroPadding2D(name="pad")
    self.wide, self.narrow = (
      keras.Sequential(
        [layers.Conv2D(filters, size, 2, use_bias=False), layers.BatchNormalization(name="bn")], name=f"of_{size}"
      )
      for size in (3, 1)
    )

  def build(self, shape):
    padded = self.pad.compute_output_shape(shape)
    self.wide.build(padded)
    self.narrow.build(padded)

  def call(self, x):
    return ops.relu(self.wide(self.pad(x)) + self.narrow(x))


def test_sequential_models_that_were_built_for_another_size(randomize, tmp_path):
  images = image()
  model = with_dead(keras.Model(images, layers.Conv2D(2, 3)(Branches(6, name="branches")(images))), randomize)
  model(IMAGES)
  before = state(model)
  smaller, removed, _ = squeeze_and_check(model)
  assert state(model) == before
  assert removed == {"branches/of_3/conv2d": 2, "branches/of_1/conv2d": 2}
  assert {"of_1/bn/gamma", "of_3/bn/gamma"} == set(penalties(model))
  smaller.save(tmp_path / "smaller.keras")
  assert_same_function(model, keras.saving.load_model(tmp_path / "smaller.keras", custom_objects={}))


# TimeDistributed.


def clip(steps=3):
  return keras.Input((steps, 8, 8, 3), name="clip")


def each_frame(layer, **arguments):
  return layers.TimeDistributed(layer, **arguments)


def of_single_layers(frames):
  """A network of frames as such are often written: a TimeDistributed around each layer."""
  for filters in (6, 4):
    frames = each_frame(layers.Conv2D(filters, 3, padding="same", use_bias=False))(frames)
    frames = each_frame(layers.BatchNormalization())(frames)
    frames = each_frame(layers.MaxPooling2D())(each_frame(layers.ReLU())(frames))
  return each_frame(layers.Flatten())(frames)


def of_a_model(frames):
  """One TimeDistributed, around a model with a block of a class of its own."""
  images = image()
  x = layers.Conv2D(6, 3, padding="same", name="conv")(images)
  x = Residual(6, name="block")(layers.ReLU()(layers.BatchNormalization(name="conv_bn")(x)))
  encoder = keras.Model(images, layers.GlobalAveragePooling2D()(x), name="encoder")
  return each_frame(encoder, name="frames")(frames)


@pytest.mark.parametrize(("encoded", "least"), [(of_single_layers, 3), (of_a_model, 4)])
def test_steps_of_time_are_pruned(encoded, least, randomize, tmp_path):
  keras.utils.clear_session()
  frames = clip()
  model = with_dead(keras.Model(frames, layers.Dense(2)(layers.LSTM(5)(encoded(frames)))), randomize)
  model(np.zeros((1, 3, 8, 8, 3)))
  before = state(model)
  smaller, removed, _ = squeeze_and_check(model)
  report = plan(model)
  assert state(model) == before
  assert "TimeDistributed" in report.opened.values()
  assert report.walls == []
  assert sum(removed.values()) >= least
  assert multiply_adds(model) > multiply_adds(smaller)
  assert penalties(model, num_pixels=64).keys() == penalties(smaller, num_pixels=64).keys()
  smaller.save(tmp_path / "smaller.keras")
  assert_same_function(model, keras.saving.load_model(tmp_path / "smaller.keras"))


def test_steps_of_time_cost_what_each_costs():
  frames = clip(steps=3)
  model = keras.Model(frames, each_frame(layers.Conv2D(4, 1))(frames))
  assert multiply_adds(model) == 3 * 8 * 8 * 3 * 4


def test_steps_whose_number_is_not_fixed_or_that_are_masked_stay_shut(randomize):
  def shut_by(frames, batch_norm):
    x = each_frame(layers.Flatten(), name="flat")(frames)
    return plan(keras.Model(frames, layers.Dense(2)(each_frame(batch_norm, name="steps")(x))))

  report = shut_by(clip(steps=None), layers.BatchNormalization())
  assert report.opened == {}
  assert "since its number of steps is not fixed" in report.notes[0]
  frames = clip()
  masked = layers.Masking()(layers.Reshape((3, -1))(frames))
  report = plan(keras.Model(frames, each_frame(layers.BatchNormalization(), name="steps")(masked)))
  assert "since it is called with a mask" in report.notes[0]


# What is no model of layers.


class Gan(keras.Model):
  """Two models, and no call."""

  def __init__(self):
    super().__init__()
    self.generator = keras.Sequential([keras.Input((4,)), layers.Dense(3)])


class Reading(keras.Model):
  """Reads values."""

  def __init__(self):
    super().__init__()
    self.dense = layers.Dense(3)

  def call(self, x):
    y = self.dense(x)
    return y if isinstance(y, keras.KerasTensor) and ops.sum(y) > 0 else -y


@pytest.mark.parametrize("model", [Gan(), blocks.Classifier()], ids=["no call", "not built"])
def test_a_subclassed_model_has_to_be_called_first(model):
  with pytest.raises(ValueError, match="is no functional Keras model; build it with.*or call it on an example"):
    squeeze(model)


def test_a_subclassed_model_that_cannot_be_traced_is_refused():
  model = Reading()
  model(np.ones((2, 4)))
  with pytest.raises(ValueError, match="is no functional Keras model, and what its call does cannot be traced"):
    squeeze(model)
