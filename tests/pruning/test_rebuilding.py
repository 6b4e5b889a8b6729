"""Tests of cifar10.pruning.rebuilding and copying: what a layer or model is besides its config is carried over."""

import collections
import functools
import threading
import types
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import conv_bn, image
from flows import assert_same_function, outputs
from keras import layers
from marks import of_tensorflow, only_on

from cifar10.pruning import fold_batch_norms, plan, register, rules, squeeze

pytestmark = pytest.mark.usefixtures("float64")


@keras.saving.register_keras_serializable("tests")
class Sharpen(layers.Layer):
  """Its config does not tell its strength."""

  def __init__(self, strength=1.0, **kwargs):
    super().__init__(**kwargs)
    self.strength = strength

  def call(self, x):
    return x * self.strength

  def compute_output_shape(self, shape):
    return shape


class Applied(layers.Layer):
  """Its argument cannot be put into a config."""

  def __init__(self, function, **kwargs):
    super().__init__(**kwargs)
    self.function = function

  def call(self, inputs):
    return self.function(inputs)


class Stateful(layers.Layer):
  """It keeps state in ways that Keras does not know."""

  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    self.own = tf.Variable(2.0, dtype="float64")
    self.table = {"shift": np.full(1, 0.5), "nested": [tf.Variable([3.0], dtype="float64")]}
    self.lock = threading.Lock()
    self.module = np
    self.method = self.shifted
    self.parts = [layers.Rescaling(1.5), (Sharpen(0.5), "text")]

  def shifted(self, x):
    return x * tf.convert_to_tensor(self.table["nested"][0]) + self.table["shift"]

  def call(self, x):
    return self.method(self.parts[1][0](self.parts[0](x))) * tf.convert_to_tensor(self.own)


class Looked(layers.Layer):
  """It looks numbers up in a table of TensorFlow's."""

  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    pairs = tf.lookup.KeyValueTensorInitializer(tf.range(3, dtype=tf.int64), tf.constant([2.0, 4.0, 8.0]))
    self.lookup = tf.lookup.StaticHashTable(pairs, 1.0)

  def call(self, x):
    return x * tf.cast(self.lookup.lookup(tf.constant(1, tf.int64)), x.dtype)


def changed(layer, **attributes):
  for name, value in attributes.items():
    setattr(layer, name, value)
  return layer


STATEFUL = {
  "argument": lambda: Sharpen(0.25),
  "attribute": lambda: changed(Sharpen(), strength=0.25),
  "attribute of Keras' own layer": lambda: changed(layers.GaussianNoise(0.5), call=lambda x, training=None: x * 0.25),
  "state": Stateful,
  "table": Looked,
  "in a wrapper": lambda: layers.TimeDistributed(Sharpen(0.25)),
  "lambda in a wrapper": lambda: layers.TimeDistributed(
    layers.Lambda(lambda x: x / 7, output_shape=lambda shape: shape)
  ),
  "function": lambda: Applied(abs),
  "lambda": lambda: Applied(lambda x: 3 * x),
  "nested": lambda: keras.Sequential([layers.Rescaling(0.5), Sharpen(0.25)]),
}

OF_TENSORFLOW = ("state", "table")


def around(layer, randomize, shut):
  """A model with a layer before and after a convolution that loses 2 channels; it stays as it is."""
  images = image()
  x = layers.Conv2D(4, 1, name="b")(conv_bn(layer()(images), "a", 6))
  model = randomize(keras.Model(images, layers.Conv2D(2, 3, name="end")(layer()(x))))
  shut(model, "a_bn", [1, 2], -1)
  return model


def assert_squeezes(model, removed=2):
  smaller, report = squeeze(model)
  assert sum(layer.removed for layer in report.layers.values()) == removed
  assert_same_function(model, smaller)
  return smaller, report


@pytest.mark.parametrize(
  "kind", [pytest.param(kind, marks=of_tensorflow if kind in OF_TENSORFLOW else ()) for kind in STATEFUL]
)
def test_what_a_config_does_not_tell_is_carried_over(randomize, shut, kind):
  model = around(STATEFUL[kind], randomize, shut)
  smaller, report = assert_squeezes(model)
  assert report.shared == {}
  assert report.notes == []
  assert report.remade == ["a", "a_bn", "b"]
  assert not {id(layer) for layer in smaller.layers} & {id(layer) for layer in model.layers}
  assert_same_function(model, fold_batch_norms(model))


@of_tensorflow
def test_a_copy_and_its_original_go_their_own_ways(randomize, shut):
  model = around(Stateful, randomize, shut)
  smaller, _ = squeeze(model)
  before = outputs(model)
  for layer in (layer for layer in smaller.layers if isinstance(layer, Stateful)):
    layer.own.assign(0.0)
    layer.table["shift"][:] = 9
    layer.parts[1][0].strength = 0.0
  for variable in smaller.variables:
    variable.assign(variable * 0)
  np.testing.assert_array_equal(outputs(model), before)
  model.layers[1].own.assign(100.0)
  assert (outputs(smaller)[0] == 0).all()


@keras.saving.register_keras_serializable("tests")
class Gained(layers.Layer):
  """A layer with weights, some of them lists, and one that is not trained."""

  def build(self, shape):
    self.gains = []
    for name in ("first", "second"):
      self.gains.append(self.add_weight(shape=(1,), initializer="ones", name=name))
    self.calm = self.add_weight(shape=(1,), initializer="ones", trainable=False, name="calm")

  def call(self, x):
    return x * self.gains[0] * self.gains[1] + self.calm


def test_copies_train_and_are_saved_like_their_originals(randomize, shut, tmp_path):
  model = around(Gained, randomize, shut)
  smaller, _ = assert_squeezes(model)
  assert [v.path for v in smaller.trainable_variables] == [v.path for v in model.trainable_variables]
  assert [v.path for v in smaller.variables] == [v.path for v in model.variables]
  smaller.save(tmp_path / "smaller.keras")
  assert_same_function(model, keras.saving.load_model(tmp_path / "smaller.keras"))
  before = {variable.path: variable.numpy() for variable in smaller.variables}
  smaller.compile("sgd", "mse")
  smaller.fit(np.ones((4, 8, 8, 3)), np.ones((4, *smaller.output_shape[1:])), verbose=0)
  after = {variable.path: variable.numpy() for variable in smaller.variables}
  for path in ("gained/first", "gained_1/second") if "gained/first" in after else list(after)[:2]:
    assert (after[path] != before[path]).all()


@of_tensorflow
def test_copies_are_in_checkpoints_and_exports(randomize, shut, tmp_path):
  model = around(layers.LayerNormalization, randomize, shut)
  smaller, _ = squeeze(model)
  checkpoint = tf.train.Checkpoint(model=smaller)
  path = checkpoint.save(tmp_path / "checkpoint")
  for variable in smaller.variables:
    variable.assign(variable * 0)
  checkpoint.restore(path).assert_consumed()
  assert_same_function(model, smaller)
  smaller.export(tmp_path / "saved_model", verbose=False)
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
  loaded = tf.saved_model.load(tmp_path / "saved_model")
  np.testing.assert_allclose(loaded.serve(images), model(images), rtol=1e-9)


def test_variables_that_operations_are_called_with_are_copied(randomize, shut):
  gain = keras.Variable(np.arange(1.0, 5.0), dtype="float64")
  images = image()
  x = layers.Conv2D(4, 1, name="b")(conv_bn(images, "a", 6)) * gain
  model = randomize(keras.Model(images, layers.Conv2D(2, 3, name="end")(x)))
  shut(model, "a_bn", [1, 2], -1)
  smaller, _ = assert_squeezes(model)
  before = outputs(smaller)
  gain.assign(gain * 0)
  np.testing.assert_array_equal(outputs(smaller), before)


def test_what_lookups_and_boundaries_have_learnt_is_copied(shut):
  numbers = keras.Input((4,), name="numbers")
  bins = layers.Discretization(num_bins=4, output_mode="int")
  bins.adapt(np.random.default_rng(0).normal(size=(64, 4)))
  norm = layers.Normalization()
  norm.adapt(np.random.default_rng(1).normal(size=(64, 4)) + 3)
  lookup = layers.IntegerLookup(output_mode="multi_hot")
  lookup.adapt([2, 1, 1, 3])
  x = layers.Concatenate()([norm(numbers), layers.CategoryEncoding(4)(bins(numbers)), lookup(bins(numbers))])
  x = layers.BatchNormalization(name="a_bn")(layers.Dense(6, name="a")(x))
  model = keras.Model(numbers, layers.Dense(2)(layers.ReLU()(x)))
  shut(model, "a_bn", [0, 3], -1)
  smaller, _ = assert_squeezes(model)
  assert smaller.get_layer(bins.name).bin_boundaries == bins.bin_boundaries
  before = outputs(smaller)
  bins.adapt(np.zeros((8, 4)) + np.arange(4))
  lookup.adapt([7, 7, 8, 9])
  np.testing.assert_array_equal(outputs(smaller), before)


def bound_to_a_variable():
  gain = keras.Variable([0.5, 2.0, 3.0][:1], dtype="float64", name="gain")
  return Applied(lambda x: x * gain, name="bound")


def traced():
  return Applied(tf.function(lambda x: x * 0.5), name="traced")


class Scaled(layers.Layer):
  """Its call goes through a function that gets its gain in some way."""

  def __init__(self, way, **kwargs):
    super().__init__(name="scaled", **kwargs)
    self.gain = self.add_weight(shape=(1,), initializer="ones", name="gain")
    self.function = way(self, self.gain)

  def call(self, x):
    return self.function(x)


def by_another_function(layer, gain):
  scaled = lambda x: x * gain  # noqa: E731
  return lambda x: scaled(x)


def by_a_cached_function(layer, gain):
  cached = functools.cache(lambda: gain)
  return lambda x: x * cached()


def by_an_object(layer, gain):
  namespace = types.SimpleNamespace(inner=[gain])
  return lambda x: x * namespace.inner[0]


class Slotted:
  """Its attributes are in no dict."""

  __slots__ = ("held",)

  def __init__(self, held):
    self.held = held


Named = collections.namedtuple("Named", ["gain"])


class Held(layers.Layer):
  """It holds something where Keras does not look."""

  def __init__(self, held, **kwargs):
    super().__init__(name="held", **kwargs)
    self.gain = self.add_weight(shape=(1,), initializer="ones", name="gain")
    self.namespace = types.SimpleNamespace(held=held, gain=self.gain)
    self.queue = collections.deque([self.gain])
    self.tuples = ((self.gain,), Named(self.gain))
    self.reference = weakref.ref(self.gain)

  def call(self, x):
    return x * self.namespace.gain * self.queue[0]


def test_what_stands_in_several_places_does_so_in_the_copy_too(randomize, shut):
  images = image()
  model = randomize(keras.Model(images, layers.Conv2D(2, 3)(conv_bn(Held(None)(images), "a", 6))))
  shut(model, "a_bn", [1, 2], -1)
  smaller, report = assert_squeezes(model)
  copy = smaller.get_layer("held")
  assert report.shared == {}
  assert copy.gain is copy.namespace.gain is copy.queue[0] is copy.reference()
  assert copy.gain is copy.tuples[0][0] is copy.tuples[1].gain
  assert copy.gain is not model.get_layer("held").gain


@pytest.mark.parametrize(
  ("layer", "reason"),
  [
    (bound_to_a_variable, "refers to Variable gain"),
    pytest.param(traced, "tf.function", marks=of_tensorflow),
    (lambda: Scaled(lambda layer, gain: lambda x, gain=gain: x * gain), "refers to Variable gain"),
    (lambda: Scaled(lambda layer, gain: lambda x, *, gain=gain: x * gain), "refers to Variable gain"),
    (lambda: Scaled(lambda layer, gain: lambda x: x * layer.gain), "refers to Scaled scaled"),
    (lambda: Scaled(by_a_cached_function), "refers to Variable gain"),
    (lambda: Held(functools.cache(bound_to_a_variable().function)), "refers to Variable gain"),
    (lambda: Scaled(by_another_function), "refers to Variable gain"),
    (lambda: Scaled(by_an_object), "refers to Variable gain"),
    (lambda: Held(Slotted(layers.Rescaling(0.5, name="inner"))), "a Slotted holds Rescaling inner"),
  ],
)
def test_what_cannot_be_copied_is_shared_and_the_report_says_so(randomize, shut, layer, reason):
  images = image()
  shared = layer()
  x = conv_bn(shared(images), "a", 6)
  model = randomize(keras.Model(images, layers.Conv2D(2, 3, name="end")(x)))
  shared.trainable = False
  shut(model, "a_bn", [1, 2], -1)
  smaller, report = assert_squeezes(model)
  assert list(report.shared) == [shared.name]
  assert reason in report.shared[shared.name]
  assert smaller.get_layer(shared.name) is shared
  assert not shared.trainable
  smaller.trainable = False
  assert model.get_layer("a").trainable


def test_a_layer_that_fits_any_width_is_built_again(randomize, shut, own_rules):
  class Measured(layers.Layer):
    """It notes what it was built for, and forgets its argument."""

    def __init__(self, gain=1.0, **kwargs):
      super().__init__(**kwargs)
      self.gain = gain

    def build(self, shape):
      self.width = shape[-1]

    def call(self, x):
      return keras.ops.reshape(x, (-1, *x.shape[1:-1], self.width)) * self.gain

  register(Measured, rules.Elementwise())
  images = image()
  x = Measured(0.3, name="measured")(conv_bn(images, "a", 6))
  model = randomize(keras.Model(images, layers.Conv2D(2, 3)(x)))
  shut(model, "a_bn", [1, 2], -1)
  smaller, report = assert_squeezes(model)
  assert (smaller.get_layer("measured").width, model.get_layer("measured").width) == (4, 6)
  assert "measured" not in report.remade


# What must be made anew.


@keras.saving.register_keras_serializable("tests")
class Own(layers.Conv2D):
  """A convolution whose config is serialized, and taken apart by its from_config."""

  def __init__(self, filters, function, **kwargs):
    super().__init__(filters, 3, **kwargs)
    self.function = function

  def call(self, x):
    return self.function(super().call(x))

  def get_config(self):
    config = super().get_config()
    return {
      **{key: config[key] for key in ("name", "filters", "dtype", "use_bias")},
      "function": keras.saving.serialize_keras_object(self.function),
    }

  @classmethod
  def from_config(cls, config):
    config = dict(config)
    return cls(function=keras.saving.deserialize_keras_object(config.pop("function")), **config)


def halved(x):
  """An activation that is registered nowhere."""
  return x / 2


@pytest.mark.parametrize("function", [keras.activations.tanh, halved])
def test_from_config_is_called_as_keras_calls_it(randomize, shut, own_rules, function):
  register(Own, rules.Mixer())
  images = image()
  x = layers.ReLU()(layers.BatchNormalization(name="a_bn")(Own(6, function, name="a")(images)))
  model = randomize(keras.Model(images, Own(2, function, name="end")(x)))
  shut(model, "a_bn", [1, 2], -1)
  smaller, report = assert_squeezes(model)
  assert report.remade == ["a", "a_bn", "end"]
  assert smaller.get_layer("a").filters == 4


@keras.saving.register_keras_serializable("tests")
class Nameless(layers.Layer):
  """A gain whose variable has no name, so that Keras numbers it."""

  def build(self, shape):
    self.gain = self.add_weight(shape=(1,), initializer="ones")

  def call(self, x):
    return x * self.gain


def test_variables_without_names_of_their_own(randomize, shut, own_rules):
  register(Nameless, rules.Elementwise())
  images = image()
  x = Nameless(name="gain")(conv_bn(images, "a", 6))
  model = randomize(keras.Model(images, layers.Conv2D(2, 3)(x)))
  shut(model, "a_bn", [1, 2], -1)
  _, report = assert_squeezes(model)
  assert "gain" in report.remade


def test_functions_of_ones_own_in_a_layer_that_is_made_anew(randomize, shut):
  factor = 2.0
  images = image()
  x = conv_bn(
    images, "a", 6, kernel_initializer=lambda shape, dtype: keras.ops.ones(shape, dtype), kernel_constraint=halved
  )
  model = randomize(keras.Model(images, layers.Conv2D(2, 3, activation=lambda x: factor * x, name="end")(x)))
  shut(model, "a_bn", [1, 2], -1)
  smaller, _ = assert_squeezes(model)
  assert smaller.get_layer("a").kernel_constraint is halved


def test_a_layer_that_cannot_be_made_from_its_config_is_named(randomize, shut, own_rules):
  class Required(layers.Dense):
    """Its constructor needs what its config does not tell."""

    def __init__(self, units, secret, **kwargs):
      super().__init__(units, **kwargs)

  register(Required, rules.Mixer())
  images = image()
  inner = keras.Sequential([image(8, 8, 6), Required(3, "?", name="own")], name="head")
  model = randomize(keras.Model(images, inner(conv_bn(images, "a", 6))))
  squeeze(model)
  shut(model, "a_bn", [1], -1)
  with pytest.raises(ValueError, match=r"layer head/own cannot be made anew.*secret.*give Required a get_config"):
    squeeze(model)
  assert plan(model).layers["a"].removed == 1


def test_a_layer_that_cannot_be_called_without_the_channels_that_go_is_named(randomize, shut, own_rules):
  class Fixed(layers.Layer):
    """Its rule says that it takes any number of channels."""

    def call(self, x):
      return x + keras.ops.ones((1, 1, 1, 6), x.dtype)

  register(Fixed, rules.Elementwise())
  images = image()
  x = Fixed(name="own")(conv_bn(images, "a", 6))
  model = randomize(keras.Model(images, layers.Conv2D(2, 3)(x)))
  shut(model, "a_bn", [1, 2], -1)
  with pytest.raises(
    ValueError, match=r"layer own, a Fixed, cannot be called on what it gets without.*name the layers"
  ):
    squeeze(model)
  assert squeeze(model, keep=["a"])[1].layers["a"].removed == 0


# One variable in two layers.


class Tied(layers.Layer):
  """A dense layer with the kernel of another, turned round."""

  def __init__(self, layer, **kwargs):
    super().__init__(**kwargs)
    self.kernel = layer.kernel

  def call(self, x):
    return keras.ops.matmul(x, keras.ops.transpose(self.kernel))


def tied():
  """A dense layer from 5 to 4, a gated one of 6, and one back to 5 with the kernel of the first."""
  given = keras.Input((5,))
  first = layers.Dense(4, use_bias=False, name="first")
  x = layers.BatchNormalization(name="a_bn")(layers.Dense(6, name="a")(layers.LayerNormalization()(first(given))))
  x = layers.Dense(4, name="b")(layers.ReLU()(x))
  return keras.Model(given, Tied(first, name="tied")(x)), first


def test_a_variable_of_two_layers_that_stay_is_one_in_the_copy_too(randomize, shut):
  model, first = tied()
  shut(randomize(model), "a_bn", [0, 3], -1)
  smaller, _ = assert_squeezes(model)
  assert smaller.get_layer("tied").kernel is smaller.get_layer("first").kernel is not first.kernel
  assert smaller.count_params() == len(
    np.concatenate([v.numpy().ravel() for v in {id(v): v for v in smaller.weights}.values()])
  )


def test_a_variable_of_two_layers_that_would_change_in_one_is_refused(randomize):
  given = keras.Input((5,))
  first = layers.Dense(4, use_bias=False, name="first")
  x = layers.ReLU()(layers.BatchNormalization(name="a_bn")(first(given)))
  x = layers.Dense(4, name="b")(x)
  model = randomize(keras.Model(given, Tied(first, name="tied")(x)))
  assert_squeezes(model, 0)
  model.get_layer("a_bn").gamma.assign([0, 0, 1, 1])
  for function in (squeeze, plan):
    with pytest.raises(
      ValueError, match=r"layers first and tied hold one variable, first/kernel.*in first alone; give"
    ):
      function(model)
  assert_squeezes_with_keep = squeeze(model, keep=["first"])[0]
  assert_same_function(model, assert_squeezes_with_keep)


# The model itself.


class Trained(keras.Model):
  """A functional model with a train_step, and an attribute, of its own."""

  def __init__(self, *args, weight=1.0, **kwargs):
    super().__init__(*args, **kwargs)
    self.weight = weight
    self.steps = keras.metrics.Sum(name="steps")

  def train_step(self, data):
    self.steps.update_state(self.weight)
    return {"steps": self.steps.result(), "seen": 1000.0}

  @property
  def metrics(self):
    return [*super().metrics, self.steps]


class Closed(keras.Model):
  """A functional model that builds itself."""

  def __init__(self, filters):
    images = image()
    super().__init__(images, layers.Conv2D(2, 3)(conv_bn(images, "a", filters)))

  def train_step(self, data):
    return {"seen": 1000.0}


@only_on("tensorflow", "torch", reason="on JAX a train_step takes and returns the state")
def test_the_class_of_the_model_stays_with_its_attributes(randomize, shut):
  images = image()
  model = randomize(Trained(images, layers.Conv2D(2, 3)(conv_bn(images, "a", 6)), weight=3.0))
  model.compile("sgd", "mse")
  model.fit(np.ones((4, 8, 8, 3)), np.ones((4, 6, 6, 2)), verbose=0)
  model.marks = {"layer": model.get_layer("a"), "list": [1, 2]}
  shut(model, "a_bn", [1, 2], -1)
  smaller, report = assert_squeezes(model)
  assert type(smaller) is Trained
  assert report.notes == []
  assert smaller.weight == 3.0
  assert smaller.marks["layer"] is smaller.get_layer("a")
  assert smaller.steps is not model.steps
  smaller.compile("sgd", "mse")
  smaller.steps.reset_state()
  history = smaller.fit(np.ones((4, 8, 8, 3)), np.ones((4, 6, 6, 2)), verbose=0).history
  assert (history["steps"], history["seen"]) == ([3.0], [1000.0])


class Furnished(keras.Model):
  """A functional model whose constructor makes layers, variables and a metric of its own."""

  def __init__(self, inputs, outputs, name=None, **kwargs):
    super().__init__(inputs, outputs, name=name, **kwargs)
    self.heads = [keras.Sequential([keras.Input((3,)), layers.Dense(2, name="head")])]
    self.scale = self.add_weight(shape=(1,), name="scale")
    self.seen = keras.metrics.Mean(name="seen")


def test_what_a_constructor_makes_is_there_once(randomize, shut, tmp_path):
  images = image()
  model = randomize(Furnished(images, layers.Conv2D(2, 3)(conv_bn(images, "a", 6))))
  shut(model, "a_bn", [1, 2], -1)
  smaller, report = assert_squeezes(model)
  assert type(smaller) is Furnished
  assert report.parameters_after == smaller.count_params()
  assert [variable.path for variable in smaller.variables] == [variable.path for variable in model.variables]
  assert [metric.name for metric in smaller.metrics] == ["seen"]
  np.testing.assert_array_equal(smaller.scale, model.scale)
  with keras.saving.custom_object_scope({"Furnished": Furnished}):
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.saving.load_model(tmp_path / "smaller.keras")
  assert_same_function(smaller, loaded)


class Topped(keras.Model):
  """A functional model whose constructor adds to its outputs."""

  def __init__(self, inputs, outputs, **kwargs):
    super().__init__(inputs, 2 * layers.Softmax()(outputs), **kwargs)


class ToppedRow(keras.Sequential):
  """A Sequential model whose constructor adds a layer."""

  def __init__(self, given=None, layers=None, **kwargs):
    super().__init__(given or layers, **kwargs)
    self.add(keras.layers.Softmax())


@pytest.mark.parametrize("kind", [Topped, ToppedRow])
def test_a_class_whose_constructor_adds_to_the_outputs_is_lost_but_not_the_function(randomize, shut, kind):
  row = [layers.Conv2D(6, 3, name="a"), layers.BatchNormalization(name="a_bn"), layers.Conv2D(2, 3, name="end")]
  images = image()
  outputs = row[2](row[1](row[0](images))) if kind is Topped else None
  model = randomize(Topped(images, outputs) if kind is Topped else ToppedRow([images, *row]))
  shut(model, "a_bn", [1, 2], -1)
  _, report = assert_squeezes(model)
  assert "(ValueError: it adds to them)" in report.notes[0]


class Tempered(keras.Model):
  """A functional model whose constructor asks for something more, and notes it."""

  def __init__(self, inputs, outputs, temperature, **kwargs):
    super().__init__(inputs, outputs, **kwargs)
    self.temperature = temperature


def test_what_a_constructor_asks_for_is_what_the_model_has_of_that_name(randomize, shut):
  images = image()
  model = randomize(Tempered(images, layers.Conv2D(2, 3)(conv_bn(images, "a", 6)), 4.0, name="net"))
  shut(model, "a_bn", [1, 2], -1)
  smaller, report = assert_squeezes(model)
  assert (type(smaller), smaller.temperature, smaller.name, report.notes) == (Tempered, 4.0, "net", [])


def test_a_class_whose_constructor_takes_something_else_is_said_to_be_lost(randomize, shut, caplog):
  model = randomize(Closed(6))
  shut(model, "a_bn", [1, 2], -1)
  smaller, report = assert_squeezes(model)
  assert type(smaller) is not Closed
  assert f"model {model.name} is a Closed, whose constructor takes more than inputs and outputs" in report.notes[0]
  assert "without the methods of Closed" in caplog.text


@pytest.mark.parametrize("kind", [Trained, keras.Sequential, type("Row", (keras.Sequential,), {})])
def test_the_class_of_a_nested_model_stays(randomize, shut, kind):
  images, inner_input = image(), image(8, 8, 6)
  end = layers.Conv2D(3, 1, name="inner")
  inner = kind([inner_input, end]) if issubclass(kind, keras.Sequential) else kind(inner_input, end(inner_input))
  model = randomize(keras.Model(images, inner(conv_bn(images, "a", 6))))
  shut(model, "a_bn", [1, 2], -1)
  smaller, _ = assert_squeezes(model)
  assert type(smaller.layers[-1]) is kind


class Doubling(keras.Model):
  """A functional model that does more than its graph, and is a wall therefore."""

  def call(self, inputs):
    return 2 * super().call(inputs)


class DoublingClosed(Doubling):
  """One that builds itself."""

  def __init__(self, **kwargs):
    x = image(8, 8, 3)
    super().__init__(x, layers.Dense(3)(x), **kwargs)


def test_walls_that_are_graphs_are_copied_or_shared(randomize, shut):
  x = image(8, 8, 3)
  for wall in (Doubling(x, layers.Dense(3, name="in")(x), name="wall"), DoublingClosed(name="wall")):
    images = image()
    model = randomize(keras.Model(images, layers.Conv2D(2, 1)(conv_bn(wall(images), "a", 6))))
    shut(model, "a_bn", [1, 2], -1)
    smaller, report = assert_squeezes(model)
    assert report.walls == ["wall"]
    assert list(report.shared) == (["wall"] if type(wall) is DoublingClosed else [])
    assert type(smaller.get_layer("wall")) is type(wall)


@pytest.mark.usefixtures("own_rules")
def test_a_subclassed_model_that_is_a_wall_is_copied_with_the_graph_in_it(randomize, shut):
  class Holding(keras.Model):
    """Holds a functional model."""

    def __init__(self, **kwargs):
      super().__init__(**kwargs)
      x = image(8, 8, 3)
      self.inner = keras.Model(x, Sharpen(0.5)(layers.Dense(3)(x)))

    def call(self, inputs):
      return self.inner(inputs) + 1

  register(Holding, rules.Wall())
  images = image()
  model = randomize(keras.Model(images, layers.Conv2D(2, 1)(conv_bn(Holding(name="wall")(images), "a", 6))))
  shut(model, "a_bn", [1, 2], -1)
  smaller, report = assert_squeezes(model)
  assert report.shared == {}
  assert smaller.get_layer("wall").inner is not model.get_layer("wall").inner
  model.get_layer("wall").inner.layers[1].kernel.assign(np.zeros((3, 3)))
  assert abs(outputs(model)[0] - outputs(smaller)[0]).max() > 1e-3


# Flags.


def test_variables_that_are_not_trained_stay_so(randomize, shut):
  images = image()
  x = conv_bn(images, "a", 6, use_bias=True)
  inner = keras.Sequential([image(8, 8, 6), layers.Conv2D(5, 1, name="b"), Gained(name="gained")], name="inner")
  model = randomize(keras.Model(images, layers.Conv2D(2, 3, name="end")(inner(x))))
  shut(model, "a_bn", [1, 2], -1)
  model.get_layer("a").kernel.trainable = False
  inner.layers[0].bias.trainable = False
  inner.layers[1].gains[1].trainable = False
  model.get_layer("a_bn").trainable = False
  smaller, _ = assert_squeezes(model)
  assert [v.path for v in smaller.trainable_variables] == [v.path for v in model.trainable_variables]
  model.trainable = False
  model.get_layer("end").trainable = True
  model.get_layer("end").bias.trainable = False
  smaller, _ = assert_squeezes(model)
  assert [v.trainable for v in smaller.variables] == [v.trainable for v in model.variables]
  assert [layer.trainable for layer in smaller.layers] == [layer.trainable for layer in model.layers]


def test_states_of_stateful_layers_stay_where_they_are(randomize, shut):
  rows = keras.Input(batch_shape=(2, 5, 4))
  x = layers.LSTM(6, stateful=True, return_sequences=True, name="lstm")(rows)
  x = layers.ReLU()(layers.BatchNormalization(name="a_bn")(layers.Dense(8, name="a")(x)))
  model = randomize(keras.Model(rows, layers.Dense(2)(x)))
  shut(model, "a_bn", [1, 2], -1)
  model(np.ones((2, 5, 4)))
  states = [variable.numpy() for variable in model.get_layer("lstm").non_trainable_variables]
  smaller, report = squeeze(model)
  assert report.check.difference < 1e-9
  for each in (model, smaller):
    for variable, state in zip(each.get_layer("lstm").non_trainable_variables, states, strict=True):
      np.testing.assert_array_equal(variable, state)
