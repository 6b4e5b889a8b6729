"""The settings of a step beyond those of the paper's own program."""

import math
import os
import signal

import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_same_weights, change, deterministic_rows, saved_weights, version

from cifar10.config import TrainConfig
from cifar10.errors import Interrupted, UserError
from cifar10.train import train
from cifar10.training import loop
from cifar10.training.step import cross_entropy_of, make_optimizer
from cifar10.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("tiny_world", "default_signals")

BEYOND_THE_PAPER = {
  "momentum": 0.9,
  "learning_rate_schedule": "cosine",
  "warm_up_steps": 5,
  "label_smoothing": 0.1,
  "distortions": "crop_flip",
  "batch_norm_momentum": 0.9,
  "penalty_warm_up_steps": 8,
}
SPARSE = {"l1_penalty": 1.0}


def test_the_learning_rate_rises_in_a_line_and_falls_like_a_cosine():
  config = TrainConfig(learning_rate=0.4, learning_rate_schedule="cosine", warm_up_steps=10, max_steps=50)
  schedule = make_optimizer(config, {}, 50000)._learning_rate
  falling = [0.4 * (1 + math.cos(math.pi * step / 40)) / 2 for step in (0, 20, 30, 40)]
  got = [float(schedule(step)) for step in (0, 5, 10, 30, 40, 50)]
  np.testing.assert_allclose(got, [0, 0.2, *falling], atol=1e-6)


def test_the_penalty_rises_in_a_line_and_stays():
  optimizer = make_optimizer(TrainConfig(l1_penalty=0.8, penalty_warm_up_steps=4), {}, 50000)
  got = [float(optimizer.l1_penalty(step)) for step in (0, 1, 4, 40)]
  np.testing.assert_allclose(got, [0, 0.2, 0.8, 0.8], rtol=1e-6)


def test_a_share_of_each_label_is_spread_over_all_classes():
  logits = np.random.default_rng(0).normal(size=(4, 10))
  labels = np.array([0, 3, 9, 3])
  shares = 0.7 * np.eye(10)[labels] + 0.3 / 10
  log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  expected = -(shares * log_softmax).sum(axis=1)
  np.testing.assert_allclose(cross_entropy_of(labels, tf.constant(logits), 0.3), expected, rtol=1e-6)


def settled_with(names, settings=BEYOND_THE_PAPER):
  return {**SPARSE, **{name: settings[name] for name in names}}


@pytest.mark.parametrize("name", [name for name in BEYOND_THE_PAPER if name != "warm_up_steps"])
def test_each_setting_changes_what_is_trained(trained_once, name):
  plain, other = (saved_weights(trained_once(settings)) for settings in (SPARSE, settled_with([name])))
  assert any((one != another).any() for one, another in zip(plain, other))


def test_a_run_in_two_parts_gives_the_weights_of_one_run(config, trained_once, monkeypatch):
  settings = settled_with(BEYOND_THE_PAPER)
  whole, parts = trained_once(settings), change(config, **settings)
  train_some = Trainer.train

  def interrupted(trainer, count):
    if trainer.step >= 9:
      os.kill(os.getpid(), signal.SIGINT)
    return train_some(trainer, count)

  with monkeypatch.context() as patch, pytest.raises(Interrupted):
    patch.setattr(loop, "SECONDS_PER_CALL", 0)
    patch.setattr(Trainer, "train", interrupted)
    train(parts)
  assert 9 < version(parts).read_stage()[0].progress.step < 20
  train(parts)
  assert_same_weights(saved_weights(parts), saved_weights(whole))
  assert deterministic_rows(parts) == deterministic_rows(whole)


def test_a_stage_that_goes_on_keeps_what_it_was_started_with(after):
  config = after(settled_with(BEYOND_THE_PAPER))
  train(change(config, learning_rate_schedule="cosine", warm_up_steps=5, max_steps=30))
  assert version(config).read_stage()[0].flags.momentum == 0.9
  with pytest.raises(UserError, match=r"--momentum is 0.5, but .* was made with 0.9"):
    train(change(config, momentum=0.5))


def test_the_momentum_of_batch_norms_is_that_of_the_version_before(after):
  config = after({"batch_norm_momentum": 0.9})
  assert version(config, 1).network().get_layer("conv1_bn").momentum == 0.9
  train(change(config, checkpoint_version=1))
  assert version(config, 1).read_stage()[0].flags.batch_norm_momentum == 0.9


def test_groups_and_betas_are_thresholded_where_settings_say_so():
  plain, other = (
    make_optimizer(TrainConfig(threshold_betas=betas), {"a/gamma": 1.0}, 50000, groups)
    for betas, groups in ((False, None), (True, {"a/gamma": [0, 0]}))
  )
  assert (plain.groups, plain.threshold_betas) == (None, False)
  assert (dict(other.groups), other.threshold_betas) == ({"a/gamma": (0, 0)}, True)


def test_with_thresholds_of_betas_a_dead_channel_is_0(trained_once):
  betas = []
  for settings in ({}, {"threshold_betas": True, "group_penalties": True}):
    network = version(trained_once({"l1_penalty": 20.0, "exact_squeeze": False, **settings}), 1).network()
    layer = network.get_layer("conv1_bn")
    np.testing.assert_array_equal(layer.gamma, np.zeros(1))
    betas.append(layer.beta.numpy())
  assert betas[0] != 0
  assert betas[1] == 0
