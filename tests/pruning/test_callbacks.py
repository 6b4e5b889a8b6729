"""Tests of cifar10.pruning.callbacks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from cifar10.pruning import ProximalSGD, SparsityLogger, fake_sparsity, group_lasso, penalties


@pytest.fixture
def model():
  images = keras.Input((6, 6, 3))
  x = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, use_bias=False)(images))
  x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
  model = keras.Model(images, layers.Dense(2)(x))
  model.get_layer("bn").gamma.assign([0.03, 0.2, 0.5, 1.0])
  return model


def fit(model, by_path, *callbacks, verbose=0):
  model.compile(ProximalSGD(0.01, 2.0, by_path), "mse")
  rng = np.random.default_rng(0)
  images, targets = rng.normal(size=(16, 6, 6, 3)), rng.normal(size=(16, 2))
  return model.fit(images, targets, batch_size=8, epochs=3, callbacks=list(callbacks), verbose=verbose)


def test_the_figures_of_each_epoch_are_in_the_history(model):
  by_path = penalties(model)
  seen = []
  figures = keras.callbacks.LambdaCallback(
    on_epoch_end=lambda epoch, logs: seen.append(
      (float(group_lasso(model, by_path)), float(fake_sparsity(model, by_path)))
    )
  )
  history = fit(model, by_path, SparsityLogger(by_path), figures).history
  assert list(zip(history["group_lasso"], history["fake_sparsity"])) == seen
  assert len(set(history["group_lasso"])) == 3
  assert 0 < history["fake_sparsity"][0] < 1


def test_the_progress_bar_shows_them(model, capsys):
  by_path = penalties(model)
  history = fit(model, by_path, SparsityLogger(by_path), verbose=2).history
  lines = [line for line in capsys.readouterr().out.splitlines() if "loss" in line]
  assert len(lines) == 3
  for line, lasso, sparsity in zip(lines, history["group_lasso"], history["fake_sparsity"]):
    assert f"group_lasso: {lasso:.4f}" in line
    assert f"fake_sparsity: {sparsity:.4f}" in line


def test_tensorboard_writes_them(model, tmp_path):
  by_path = penalties(model)
  board = keras.callbacks.TensorBoard(tmp_path, write_graph=False)
  history = fit(model, by_path, SparsityLogger(by_path), board).history
  written = {}
  for path in (tmp_path / "train").iterdir():
    for event in EventFileLoader(str(path)).Load():
      for value in event.summary.value:
        written.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
  for name in ("group_lasso", "fake_sparsity"):
    np.testing.assert_allclose(written[f"epoch_{name}"], history[name], rtol=1e-6)


def test_penalties_of_another_model_are_an_error_before_the_training(model):
  with pytest.raises(ValueError, match="lost/gamma"):
    fit(model, penalties(model), SparsityLogger({"lost/gamma": 1.0}))
