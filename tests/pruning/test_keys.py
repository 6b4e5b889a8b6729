"""Tests of cifar10.pruning.keys: penalties name the same gammas after a model was saved and loaded."""

import keras
import numpy as np
import pytest
from builders import conv_bn, image
from keras import layers

from cifar10.pruning import (
  ProximalSGD,
  SparsityLogger,
  fake_sparsity,
  group_lasso,
  penalties,
  scale_gammas,
  squeeze,
  unscale_gammas,
)
from cifar10.pruning.keys import gamma_keys, names_inside, variables_of

IMAGES = np.random.default_rng(1).normal(size=(8, 8, 8, 3)).astype("float32")


def block(name, filters):
  x = image(8, 8, filters)
  return keras.Model(x, conv_bn(x, "a", filters), name=name)


def sequential():
  return keras.Sequential(
    [
      image(),
      layers.Conv2D(6, 3, name="a"),
      layers.BatchNormalization(name="a_bn"),
      layers.ReLU(),
      layers.Flatten(),
      layers.Dense(2),
    ],
    name="row",
  )


def nested_sequential():
  images = image()
  inner = keras.Sequential([layers.Conv2D(6, 3), layers.BatchNormalization(name="a_bn"), layers.ReLU()], name="inner")
  return keras.Model(images, layers.Dense(2)(layers.Flatten()(inner(images))))


def two_blocks():
  """Two blocks that share inner names, and a layer of the same name outside."""
  images = image()
  x = block("right", 4)(block("left", 4)(conv_bn(images, "a", 4)))
  return keras.Model(images, layers.Dense(2)(layers.Flatten()(x)))


KEYS = {
  sequential: ["a_bn/gamma"],
  nested_sequential: ["a_bn/gamma"],
  two_blocks: ["a_bn/gamma", "left/a_bn/gamma", "right/a_bn/gamma"],
}
MODELS = pytest.mark.parametrize("build", KEYS)


def saved(model, path):
  model.save(path)
  return keras.saving.load_model(path)


def train(model, optimizer=None, *callbacks):
  if optimizer is not None:
    model.compile(optimizer, keras.losses.MeanSquaredError())
  model.fit(IMAGES, np.zeros((8, 2)), shuffle=False, verbose=0, callbacks=callbacks)


def assert_same_weights(model, other):
  for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(ours == 0, theirs == 0)


def with_gammas(model):
  for index, variable in enumerate(variables_of(model, penalties(model)).values()):
    variable.assign(np.where(np.arange(variable.shape[0]) < index + 1, 0, 0.1 * (index + 2)))
  return model


@MODELS
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_keys_survive_saving_and_loading(build, name, tmp_path):
  model = with_gammas(build())
  by_key = {key: penalty * (index + 1) for index, (key, penalty) in enumerate(penalties(model).items())}
  assert list(by_key) == KEYS[build]
  loaded = saved(model, tmp_path / name)
  assert penalties(loaded) == penalties(model)
  assert [v.numpy().tolist() for v in variables_of(loaded, by_key).values()] == [
    v.numpy().tolist() for v in variables_of(model, by_key).values()
  ]
  for figure in (group_lasso, fake_sparsity):
    np.testing.assert_array_equal(figure(model, by_key), figure(loaded, by_key))


@MODELS
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_model_that_is_saved_while_it_trains_goes_on(build, name, tmp_path):
  if build is two_blocks and keras.backend.backend() == "torch":
    pytest.skip("Keras on PyTorch adds up, over steps, the gradients of all but one of the variables of one path")
  model = with_gammas(build())
  by_key = {key: 10.0 ** (index + 1) for index, key in enumerate(penalties(model))}
  momentum = 0.5 if name == "model.keras" else 0.0  # Keras' .h5 has no place for two velocities of one name.
  train(model, ProximalSGD(1e-4, 0.5, by_key, momentum=momentum))
  loaded = saved(model, tmp_path / name)
  assert loaded.optimizer.built is (name == "model.keras")
  for each in (model, loaded):
    train(each, None, SparsityLogger(by_key))
  assert_same_weights(loaded, model)


@MODELS
def test_a_loaded_model_trains_with_the_penalties_of_the_model(build, tmp_path):
  model = with_gammas(build())
  by_key = penalties(model)
  loaded = saved(model, tmp_path / "model.keras")
  if build is two_blocks:
    with pytest.raises(ValueError, match=r"a_bn/gamma, which may be.*or call penalties\(model\) on this model"):
      train(loaded, ProximalSGD(1e-3, 0.5, by_key))
    penalties(loaded)
  for each in (model, loaded):
    train(each, ProximalSGD(1e-3, 0.5, by_key))
  assert_same_weights(loaded, model)


@pytest.mark.parametrize("build", [sequential, nested_sequential])
def test_paths_of_before_saving_still_work(build, tmp_path):
  model = with_gammas(build())
  (path,) = (variable.path for variable in model.trainable_variables if variable.name == "gamma")
  assert path != KEYS[build][0]
  loaded = saved(model, tmp_path / "model.keras")
  for each in (model, loaded):
    assert group_lasso(each, {path: 2.0}) == group_lasso(each, {KEYS[build][0]: 2.0})
    train(each, ProximalSGD(1e-3, 0.5, {path: 1.0}))
  assert_same_weights(loaded, model)
  again = saved(loaded, tmp_path / "model.keras")
  assert again.optimizer.penalties == {path: 1.0}


def test_a_key_that_may_be_several_is_refused():
  x = image(8, 8, 4)
  model = keras.Model(x, layers.Conv2D(2, 1)(block("right", 4)(block("left", 4)(x))))
  with pytest.raises(ValueError, match="names a_bn/gamma, which may be left/a_bn/gamma or right/a_bn/gamma; give"):
    group_lasso(model, {"a_bn/gamma": 1.0})
  assert list(penalties(model)) == ["left/a_bn/gamma", "right/a_bn/gamma"]


@MODELS
def test_gammas_are_scaled_back_after_saving_and_squeezing(build, tmp_path):
  model = build()
  gates = penalties(model)
  gammas = [variable.numpy() for variable in variables_of(model, gates).values()]
  before = keras.ops.convert_to_numpy(model(IMAGES))
  scale_gammas(model, gates, 0.25)
  smaller = squeeze(saved(model, tmp_path / "model.keras"))[0]
  unscale_gammas(smaller, gates, 0.25)
  for variable, gamma in zip(variables_of(smaller, gates).values(), gammas, strict=True):
    np.testing.assert_array_equal(variable, gamma)
  np.testing.assert_allclose(smaller(IMAGES), before, rtol=1e-4, atol=1e-5)


def test_what_is_no_gamma_is_not_scaled():
  model = sequential()
  with pytest.raises(ValueError, match=r"penalties names \['a_bn/beta'\], which are no gammas of row"):
    scale_gammas(model, {"a_bn/beta": 1.0}, 0.5)


def test_names_inside_do_not_count_on():
  kinds = [layers.Conv2D(2, 1), layers.ReLU(), layers.Conv2D(2, 1), layers.Conv2D(2, 1, name="conv_7")]
  assert names_inside(kinds) == ["conv2d", "re_lu", "conv2d_1", "conv_7"]
  assert names_inside([layers.ReLU(name="a"), layers.ReLU(name="a"), layers.ReLU(name="a_1")]) == ["a", "a_2", "a_1"]


def test_keys_are_as_short_as_can_be():
  names = ["a", "b", "one/b", "one/c", "two/inner/d", "three/inner/d", "three/e"]
  keys = [key.removesuffix("/gamma") for key in gamma_keys(names).values()]
  assert keys == ["a", "b", "one/b", "c", "two/inner/d", "three/inner/d", "e"]
