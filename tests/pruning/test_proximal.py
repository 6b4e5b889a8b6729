"""Tests of cifar10.pruning.proximal, against the update rule in numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cifar10.pruning import ProximalSGD, penalties
from cifar10.pruning.proximal import soft_threshold


class Gammas:
  """Three variables, two of them gated, with gradients that differ at every step."""

  def __init__(self):
    rng = np.random.default_rng(0)
    self.start = {name: rng.uniform(-1, 1, 8).astype("float32") for name in ("a", "free", "b")}
    self.variables = [keras.Variable(value, name=name) for name, value in self.start.items()]
    self.penalties = {"a": 2.0, "b": 0.5}
    self.gradients = rng.normal(size=(5, 3, 8)).astype("float32")

  def apply(self, optimizer, compiled=False):
    optimizer.build(self.variables)

    def step(gradients):
      optimizer.apply(gradients, self.variables)

    step = tf.function(step) if compiled else step
    for gradients in self.gradients:
      step([tf.constant(gradient) for gradient in gradients])

  def expected(self, learning_rate, l1_penalty):
    """The variables after all steps; `learning_rate` is a function of the step."""
    values = {name: value.astype("float64") for name, value in self.start.items()}
    for step, gradients in enumerate(self.gradients):
      for name, gradient in zip(values, gradients):
        threshold = learning_rate(step) * l1_penalty * self.penalties.get(name, 0)
        value = values[name] - learning_rate(step) * gradient
        values[name] = np.sign(value) * np.maximum(abs(value) - threshold, 0)
    return values

  def assert_at(self, expected):
    for variable in self.variables:
      np.testing.assert_allclose(variable, expected[variable.path], rtol=1e-5, atol=1e-6)
      np.testing.assert_array_equal(variable.numpy() == 0, expected[variable.path] == 0)


def test_soft_threshold_moves_to_0_and_stops_there():
  x = np.array([-2, -0.5, -0.25, 0, 0.125, 0.5, 0.75], "float32")
  result = soft_threshold(x, 0.5)
  np.testing.assert_array_equal(result, np.array([-1.5, 0, 0, 0, 0, 0, 0.25], "float32"))


def test_soft_threshold_of_0_changes_nothing():
  x = np.random.default_rng(0).normal(size=100).astype("float32")
  np.testing.assert_array_equal(soft_threshold(x, 0.0), x)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_is_a_gradient_step_and_a_threshold(compiled):
  gammas = Gammas()
  gammas.apply(ProximalSGD(0.1, l1_penalty=1.5, penalties=gammas.penalties), compiled)
  expected = gammas.expected(lambda step: 0.1, 1.5)
  assert (expected["a"] == 0).any()
  assert not (expected["free"] == 0).any()
  gammas.assert_at(expected)


def test_the_threshold_follows_the_learning_rate():
  gammas = Gammas()
  schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.2, 0.1, 0.01])
  gammas.apply(ProximalSGD(schedule, l1_penalty=1.5, penalties=gammas.penalties))
  gammas.assert_at(gammas.expected(lambda step: [0.2, 0.2, 0.1, 0.1, 0.01][step], 1.5))


@pytest.mark.parametrize("compiled", [False, True])
def test_the_penalty_may_follow_a_schedule_too(compiled):
  gammas, copied = Gammas(), Gammas()
  doubling = keras.optimizers.schedules.ExponentialDecay(0.5, decay_steps=2, decay_rate=2.0)
  optimizer = ProximalSGD(0.1, l1_penalty=doubling, penalties=gammas.penalties)
  copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
  assert copy.get_config() == optimizer.get_config()
  gammas.apply(optimizer, compiled)
  copied.apply(copy, compiled)
  assert float(optimizer.current_l1_penalty()) == pytest.approx(0.5 * 2 ** (5 / 2))
  for one, other in zip(gammas.variables, copied.variables):
    np.testing.assert_array_equal(one, other)
  values = {name: value.astype("float64") for name, value in gammas.start.items()}
  for step, gradients in enumerate(gammas.gradients):
    for name, gradient in zip(values, gradients):
      value = values[name] - 0.1 * gradient
      threshold = 0.1 * 0.5 * 2 ** (step / 2) * gammas.penalties.get(name, 0)
      values[name] = np.sign(value) * np.maximum(abs(value) - threshold, 0)
  assert (values["a"] == 0).any()
  gammas.assert_at(values)


def test_an_assigned_learning_rate_scales_the_threshold():
  variable = keras.Variable(np.ones(1, "float32"), name="a")
  optimizer = ProximalSGD(0.1, l1_penalty=1.0, penalties={"a": 2.0})
  optimizer.learning_rate = 0.25
  optimizer.apply([tf.zeros(1)], [variable])
  np.testing.assert_allclose(variable, [0.5], rtol=1e-6)


def test_without_penalty_it_is_plain_sgd_and_zeros_come_back():
  ours, theirs = Gammas(), Gammas()
  for gammas in (ours, theirs):
    gammas.variables[0].assign(np.zeros(8))
  ours.apply(ProximalSGD(0.1, l1_penalty=0.0, penalties=ours.penalties))
  theirs.apply(keras.optimizers.SGD(0.1))
  for one, other in zip(ours.variables, theirs.variables):
    np.testing.assert_array_equal(one, other)
  assert (ours.variables[0].numpy() != 0).all()


def test_a_penalty_of_0_leaves_that_gamma_to_plain_sgd():
  gammas = Gammas()
  gammas.penalties["b"] = 0.0
  gammas.apply(ProximalSGD(0.1, l1_penalty=1.5, penalties=gammas.penalties))
  gammas.assert_at(gammas.expected(lambda step: 0.1, 1.5))


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_goes_into_the_gradient_step_and_the_threshold_follows(nesterov):
  gammas = Gammas()
  schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.2, 0.1, 0.01])
  optimizer = ProximalSGD(schedule, l1_penalty=1.5, penalties=gammas.penalties, momentum=0.9, nesterov=nesterov)
  expected = {name: value.astype("float64") for name, value in gammas.start.items()}
  velocity = dict.fromkeys(expected, 0.0)
  for rate, gradients in zip([0.2, 0.2, 0.1, 0.1, 0.01], gammas.gradients):
    for name, gradient in zip(expected, gradients):
      velocity[name] = 0.9 * velocity[name] - rate * gradient
      step = 0.9 * velocity[name] - rate * gradient if nesterov else velocity[name]
      value, threshold = expected[name] + step, rate * 1.5 * gammas.penalties.get(name, 0)
      expected[name] = np.sign(value) * np.maximum(abs(value) - threshold, 0)
  gammas.apply(optimizer)
  assert (expected["a"] == 0).any()
  gammas.assert_at(expected)


def test_later_changes_to_the_dict_do_not_reach_the_optimizer():
  gammas = Gammas()
  optimizer = ProximalSGD(0.1, l1_penalty=1.5, penalties=gammas.penalties)
  expected = gammas.expected(lambda step: 0.1, 1.5)
  gammas.penalties["a"] = 1000.0
  gammas.apply(optimizer)
  gammas.assert_at(expected)


@pytest.mark.parametrize("decay", [False, True])
def test_config_round_trips(decay):
  gammas, copied = Gammas(), Gammas()
  rate = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5) if decay else 0.1
  optimizer = ProximalSGD(rate, l1_penalty=1.5, penalties=gammas.penalties, momentum=0.5)
  copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
  assert type(copy) is ProximalSGD
  assert copy.get_config() == optimizer.get_config()
  assert ProximalSGD.from_config(optimizer.get_config()).get_config() == optimizer.get_config()
  gammas.apply(optimizer)
  copied.apply(copy)
  for one, other in zip(gammas.variables, copied.variables):
    np.testing.assert_array_equal(one, other)


def small_model():
  images = keras.Input((6, 6, 2), name="images")
  x = keras.layers.Conv2D(5, 3, use_bias=False, name="a")(images)
  x = keras.layers.BatchNormalization(name="a_bn")(x)
  x = keras.layers.ReLU(name="a_relu")(x)
  x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
  return keras.Model(images, keras.layers.Dense(3, name="logits")(x))


def test_works_in_fit(tmp_path):
  model = small_model()
  assert list(penalties(model)) == ["a_bn/gamma"]
  optimizer = ProximalSGD(0.01, l1_penalty=10.0, penalties=penalties(model))
  model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  rng = np.random.default_rng(0)
  images = rng.normal(size=(64, 6, 6, 2)).astype("float32")
  kernel = model.get_layer("a").kernel.numpy()
  model.fit(images, rng.integers(0, 3, 64), batch_size=16, epochs=1, verbose=0)
  assert 0 < model.get_layer("a_bn").gamma.numpy().max() < 1
  model.fit(images, rng.integers(0, 3, 64), batch_size=16, epochs=9, verbose=0)
  np.testing.assert_array_equal(model.get_layer("a_bn").gamma, np.zeros(5))
  assert (model.get_layer("a").kernel.numpy() != kernel).any()
  model.save(tmp_path / "model.keras")
  loaded = keras.saving.load_model(tmp_path / "model.keras")
  assert loaded.optimizer.get_config() == optimizer.get_config()


def test_penalties_are_a_dict():
  with pytest.raises(ValueError, match="penalties is None; it is a dict"):
    ProximalSGD(0.1, l1_penalty=1.0, penalties=None)


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf"), None, "much"])
def test_bad_values_are_named(value):
  with pytest.raises(ValueError, match=f"l1_penalty is {value}"):
    ProximalSGD(0.1, l1_penalty=value, penalties={"a": 1.0})
  with pytest.raises(ValueError, match=f"a_bn/gamma is {value}"):
    ProximalSGD(0.1, l1_penalty=1.0, penalties={"a_bn/gamma": value})


def test_a_path_that_no_variable_bears_is_an_error_every_time():
  variables = [keras.Variable(np.ones(3, "float32"), name="a")]
  optimizer = ProximalSGD(0.1, l1_penalty=1.0, penalties={"a": 1.0, "lost/gamma": 1.0})
  for _ in range(2):
    with pytest.raises(ValueError, match="lost/gamma"):
      optimizer.apply([tf.zeros(3)], variables)
  np.testing.assert_array_equal(variables[0], np.ones(3))


# Arguments of SGD, and what may change while training goes on.


def test_averages_of_gammas_at_0_are_0():
  gammas = Gammas()
  optimizer = ProximalSGD(0.1, l1_penalty=0.5, penalties=gammas.penalties, use_ema=True, ema_momentum=0.9)
  gammas.apply(optimizer, True)
  before = [variable.numpy() for variable in gammas.variables]
  optimizer.finalize_variable_values(gammas.variables)
  assert 0 < (before[0] == 0).sum() < 8
  for variable, value in zip(gammas.variables, before):
    np.testing.assert_array_equal(variable.numpy() == 0, value == 0)
    assert (variable.numpy() != value).any()


@pytest.mark.parametrize("frequency", [1, 2])
def test_averages_that_take_the_place_of_weights_leave_gammas_at_0(frequency):
  gammas = Gammas()
  arguments = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": frequency}
  gammas.apply(ProximalSGD(0.1, l1_penalty=1.5, penalties=gammas.penalties, **arguments), True)
  a, free, _ = (variable.numpy() for variable in gammas.variables)
  assert (a == 0).any()
  assert not (free == 0).any()


def test_without_penalty_averages_are_those_of_sgd():
  ours, theirs = Gammas(), Gammas()
  for gammas in (ours, theirs):
    gammas.variables[0].assign(np.zeros(8))
  optimizer = ProximalSGD(0.1, 0.0, ours.penalties, use_ema=True)
  other = keras.optimizers.SGD(0.1, use_ema=True)
  ours.apply(optimizer)
  theirs.apply(other)
  for one, another in zip(optimizer.variables, other.variables, strict=True):
    np.testing.assert_array_equal(one, another)


def test_accumulated_gradients_are_one_step_with_one_threshold():
  ours, theirs = Gammas(), Gammas()
  ours.gradients = [[g / 2 for g in each] for each in ours.gradients for _ in range(2)]
  ours.apply(ProximalSGD(0.1, 1.5, ours.penalties, gradient_accumulation_steps=2), True)
  theirs.gradients = [[g / 2 for g in each] for each in theirs.gradients]
  theirs.apply(ProximalSGD(0.1, 1.5, theirs.penalties), True)
  for one, another in zip(ours.variables, theirs.variables):
    np.testing.assert_allclose(one, another, rtol=1e-6)
  assert (ours.variables[0].numpy() == 0).any()


def test_both_schedules_count_the_same_steps():
  seen = {"rate": [], "penalty": []}

  class Noted(keras.optimizers.schedules.LearningRateSchedule):
    """It notes the steps that it is asked for."""

    def __init__(self, name):
      self.name = name

    def __call__(self, step):
      seen[self.name].append(int(step))
      return 0.01

  gammas = Gammas()
  optimizer = ProximalSGD(Noted("rate"), Noted("penalty"), gammas.penalties, gradient_accumulation_steps=2)
  gammas.apply(optimizer)
  assert set(seen["rate"]) == set(seen["penalty"]) == {1, 3}


@pytest.mark.parametrize(
  "arguments",
  [{"clipnorm": 0.5}, {"clipvalue": 0.1}, {"global_clipnorm": 0.5}, {"weight_decay": 0.1}, {"loss_scale_factor": 4.0}],
  ids=str,
)
def test_other_arguments_act_before_the_threshold(arguments):
  """A step is that of SGD with the same arguments, and a threshold."""
  gammas, plain = Gammas(), Gammas()
  optimizer, sgd = ProximalSGD(0.1, 1.5, gammas.penalties, **arguments), keras.optimizers.SGD(0.1, **arguments)
  for gradients in gammas.gradients:
    for one, another in zip(plain.variables, gammas.variables):
      one.assign(another)
    optimizer.apply([tf.constant(g, tf.float32) for g in gradients], gammas.variables)
    sgd.apply([tf.constant(g, tf.float32) for g in gradients], plain.variables)
    for one, another in zip(gammas.variables, plain.variables):
      threshold = 0.1 * 1.5 * gammas.penalties.get(one.path, 0)
      np.testing.assert_allclose(one, soft_threshold(another.numpy(), np.float32(threshold)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_l1_penalty_that_is_set_counts_at_once(compiled):
  variable = keras.Variable(np.ones(1, "float32"), name="a")
  optimizer = ProximalSGD(0.5, l1_penalty=0.0, penalties={"a": 1.0})
  optimizer.build([variable])
  step = tf.function(lambda: optimizer.apply([tf.zeros(1)], [variable])) if compiled else None
  for value, expected in ((0.0, 1.0), (0.5, 0.75), (1, 0.25), (0.0, 0.25)):
    optimizer.l1_penalty = value
    assert (optimizer.l1_penalty, float(optimizer.current_l1_penalty())) == (value, value)
    step() if compiled else optimizer.apply([tf.zeros(1)], [variable])
    np.testing.assert_allclose(variable, [expected])
  assert optimizer.get_config()["l1_penalty"] == 0.0
  for bad in (-1.0, float("nan"), None):
    with pytest.raises(ValueError, match=f"l1_penalty is {bad}"):
      optimizer.l1_penalty = bad
  with pytest.raises(
    ValueError, match="l1_penalty cannot be set from 0.0 to.*compile the model with a new ProximalSGD"
  ):
    optimizer.l1_penalty = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)


def test_an_l1_penalty_that_a_callback_sets_counts_from_the_next_step():
  model, gammas = small_model(), []
  optimizer = ProximalSGD(0.01, l1_penalty=0.0, penalties=penalties(model))
  model.compile(optimizer, "mse")
  before = [variable.path for variable in optimizer.variables]

  def begin(epoch, logs):
    gammas.append(model.get_layer("a_bn").gamma.numpy())
    optimizer.l1_penalty = 20.0 * epoch

  callback = keras.callbacks.LambdaCallback(on_epoch_begin=begin)
  model.fit(np.ones((8, 6, 6, 2)), np.ones((8, 3)), epochs=3, callbacks=[callback], verbose=0)
  gammas.append(model.get_layer("a_bn").gamma.numpy())
  assert abs(gammas[0] - gammas[1]).max() < 0.1
  assert (gammas[1] - gammas[2]).min() > 0.2
  assert not any("l1_penalty" in path for path in [*before, *(variable.path for variable in optimizer.variables)])


def test_a_schedule_cannot_be_set_to_a_number():
  optimizer = ProximalSGD(0.1, keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5), {"a": 1.0})
  with pytest.raises(ValueError, match="l1_penalty cannot be set from .*ExponentialDecay.* to 0.5"):
    optimizer.l1_penalty = 0.5


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("momentum", 0.5),
    ("nesterov", True),
    ("weight_decay", 0.1),
    ("clipnorm", 1.0),
    ("clipvalue", 1.0),
    ("global_clipnorm", 1.0),
    ("use_ema", True),
    ("ema_momentum", 0.5),
    ("ema_overwrite_frequency", 3),
    ("loss_scale_factor", 2.0),
    ("gradient_accumulation_steps", 2),
    ("penalties", {"a": 2.0}),
    ("learning_rate", keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)),
  ],
)
def test_what_compiled_steps_keep_cannot_be_set_once_they_are(name, value):
  optimizer = ProximalSGD(0.1, 0.5, {"a": 1.0})
  setattr(optimizer, name, value)
  optimizer = ProximalSGD(0.1, 0.5, {"a": 1.0})
  optimizer.build([keras.Variable(np.ones(2, "float32"), name="a")])
  setattr(optimizer, name, getattr(optimizer, name))
  with pytest.raises(ValueError, match=f"{name} cannot be set to .* once the optimizer is built.*compile the model"):
    setattr(optimizer, name, value)


def test_penalties_cannot_be_edited_in_place():
  optimizer = ProximalSGD(0.1, 0.5, {"a": 1.0})
  with pytest.raises(TypeError, match="does not support item assignment"):
    optimizer.penalties["a"] = 2.0


def test_two_keys_of_one_variable_are_refused():
  variable = keras.Variable(np.ones(2, "float32"), name="a")
  with pytest.raises(ValueError, match=r"one variable twice: \['a', 'model/a'\]"):
    ProximalSGD(0.1, 0.5, {"a": 1.0, "model/a": 1.0}).build([variable])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, keras.optimizers.LossScaleOptimizer])
def test_compiled_by_xla_and_with_scaled_losses(wrap, jit_compile):
  model, plain = small_model(), small_model()
  plain.set_weights(model.get_weights())
  for each, optimizer in ((model, wrap(ProximalSGD(0.01, 5.0, penalties(model)))), (plain, keras.optimizers.SGD(0.01))):
    each.compile(optimizer, "mse", jit_compile=jit_compile and each is model)
    each.fit(np.ones((8, 6, 6, 2)), np.ones((8, 3)), batch_size=8, verbose=0)
  threshold = 0.01 * 5.0 * penalties(model)["a_bn/gamma"]
  expected = soft_threshold(plain.get_layer("a_bn").gamma.numpy(), np.float32(threshold))
  np.testing.assert_allclose(model.get_layer("a_bn").gamma, expected, rtol=1e-4)
  assert (model.get_layer("a_bn").gamma.numpy() < 0.99).all()
