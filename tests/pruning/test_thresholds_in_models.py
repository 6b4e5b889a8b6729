"""Tests of models that are trained with thresholds under any optimizer, by group and of betas, on any backend."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.initializers import Constant, RandomUniform

from cifar10.pruning import ProximalOptimizer, ProximalSGD, groups, penalties, plan, squeeze


def batch_norm(name):
  """Its gammas differ from the start, so that they do not all come to 0 in one step."""
  return layers.BatchNormalization(
    gamma_initializer=RandomUniform(0.2, 1), beta_initializer=Constant(0.01), name=f"{name}_bn"
  )


def conv_bn(x, name, relu=True):
  x = batch_norm(name)(layers.Conv2D(6, 3, padding="same", use_bias=False, name=name)(x))
  return layers.ReLU()(x) if relu else x


def residual():
  keras.utils.set_random_seed(0)
  images = keras.Input((6, 6, 3))
  x = conv_bn(images, "first")
  for block in "ab":
    y = conv_bn(conv_bn(x, f"{block}0"), f"{block}1", relu=False)
    x = layers.ReLU()(layers.Add()([x, y]))
  return keras.Model(images, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x)))


def gated():
  """Behind swish, a padded depthwise convolution and squeeze-and-excitation follow."""
  keras.utils.set_random_seed(0)
  images = keras.Input((6, 6, 3))
  x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="a")(images)
  x = layers.Activation("silu")(batch_norm("a")(x))
  x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="each")(x)
  x = layers.Activation("silu")(batch_norm("each")(x))
  scale = layers.GlobalAveragePooling2D(keepdims=True)(x)
  scale = layers.Conv2D(8, 1, activation="sigmoid")(layers.Conv2D(2, 1, activation="silu")(scale))
  x = layers.Conv2D(4, 3, padding="same", name="b")(layers.Multiply()([x, scale]))
  return keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def data(seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(32, 6, 6, 3)).astype("float32"), rng.integers(0, 3, 32)


def fitted(model, optimizer, epochs=4, **more):
  model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  model.fit(*data(), batch_size=8, epochs=epochs, shuffle=False, verbose=0, **more)
  return model


def gamma(model, name):
  return ops.convert_to_numpy(model.get_layer(name).gamma)


def shut_in_stream(model):
  """Which channels of the residual stream each of its gammas shuts: bool (gammas, channels)."""
  return np.array([gamma(model, name) == 0 for name in ("first_bn", "a1_bn", "b1_bn")])


def test_the_channels_of_a_residual_stream_are_one_group_each():
  together = groups(residual())
  assert together.keys() == penalties(residual()).keys()
  assert len({tuple(together[f"{name}/gamma"]) for name in ("first_bn", "a1_bn", "b1_bn")}) == 1
  assert len(set(np.concatenate(list(together.values())).tolist())) == 3 * 6


def test_gammas_of_one_stream_die_together():
  model = residual()
  gates, together = penalties(model), groups(model)
  shut = shut_in_stream(fitted(model, ProximalSGD(0.1, 0.06, gates, groups=together)))
  assert (shut == shut[0]).all()
  assert 0 < shut[0].sum() < 6
  assert plan(model, exact=False).layers["a1"].removed == shut[0].sum()
  singly = shut_in_stream(fitted(residual(), ProximalSGD(0.1, 0.06, gates)))
  assert (singly != singly[0]).any()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_compiled_model_is_saved_and_trains_on(tmp_path, wrapped):
  model = residual()
  gates, given = penalties(model), {"groups": groups(model), "threshold_betas": True}
  optimizer = ProximalSGD(0.01, 0.5, gates, **given)
  if wrapped:
    optimizer = ProximalOptimizer(keras.optimizers.Adam(0.01), 0.5, gates, **given)
  fitted(model, optimizer, epochs=1)
  model.save(tmp_path / "model.keras")
  loaded = keras.saving.load_model(tmp_path / "model.keras")
  assert loaded.optimizer.get_config() == optimizer.get_config()
  for each in (model, loaded):
    each.fit(*data(1), batch_size=8, shuffle=False, verbose=0)
  for one, other in zip(model.variables, loaded.variables, strict=True):
    np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_l1_penalty_that_a_callback_sets_counts_in_compiled_steps(wrapped):
  model, gammas = residual(), []
  gates = penalties(model)

  class Setting(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
      gammas.append(gamma(model, "first_bn"))
      self.model.optimizer.l1_penalty = 1.0 * epoch

    def on_train_batch_begin(self, batch, logs=None):
      if batch == 2:
        self.model.optimizer.l1_penalty = 0.0

  sgd = keras.optimizers.SGD(0.01)
  optimizer = ProximalOptimizer(sgd, 0.0, gates) if wrapped else ProximalSGD(0.01, 0.0, gates)
  fitted(model, optimizer, epochs=2, callbacks=[Setting()])
  gammas.append(gamma(model, "first_bn"))
  moved = [(before - after).mean() for before, after in itertools.pairwise(gammas)]
  assert abs(moved[0]) < 0.03
  assert moved[1] == pytest.approx(2 * 0.01 * 1.0 * gates["first_bn/gamma"], abs=0.03)


@pytest.mark.parametrize(
  ("wrap", "given"),
  [
    (lambda optimizer: optimizer, {"steps_per_execution": 2}),
    (keras.optimizers.LossScaleOptimizer, {}),
  ],
  ids=["steps compiled together", "scaled losses"],
)
def test_a_wrapped_optimizer_does_the_same_in_all_kinds_of_steps(wrap, given):
  if given and keras.backend.backend() == "torch":
    pytest.skip("PyTorch has no steps_per_execution")
  gates, together = penalties(residual()), groups(residual())

  def trained(wrap, **given):
    model = residual()
    optimizer = wrap(ProximalOptimizer(keras.optimizers.SGD(0.05), 0.6, gates, together))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **given)
    model.fit(*data(), batch_size=8, shuffle=False, verbose=0)
    return np.concatenate([gamma(model, name) for name in ("first_bn", "a0_bn", "b1_bn")])

  plain = trained(lambda optimizer: optimizer)
  np.testing.assert_allclose(trained(wrap, **given), plain, rtol=1e-3, atol=1e-5)
  assert (plain == 0).any()


def test_dead_channels_with_betas_of_0_go_where_constants_would_stay():
  widths, zero = [], []
  for betas in (False, True):
    model = gated()
    optimizer = ProximalSGD(0.05, 0.12, penalties(model), groups=groups(model), threshold_betas=betas)
    fitted(model, optimizer, epochs=6)
    weights = [weight for name in ("a_bn", "each_bn") for weight in model.get_layer(name).trainable_variables]
    zero.append(np.all([ops.convert_to_numpy(weight) == 0 for weight in weights], axis=0).sum())
    assert 0 < (gamma(model, "a_bn") == 0).sum() < 8
    smaller, report = squeeze(model)
    widths.append(smaller.get_layer("a").filters)
    assert report.check.difference < 1e-5
  assert zero[0] == 0 < zero[1]
  assert widths[1] == 8 - zero[1] < widths[0]
