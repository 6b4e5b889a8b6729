"""What users write, for pyright to check against the library's type hints; nothing runs it."""

import collections.abc
from typing import Any, assert_type

import keras
import numpy as np

from cifar10 import pruning
from cifar10.pruning.reports import Comparison, LayerReport, SqueezeReport


def train(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
  gates = assert_type(pruning.penalties(model, num_pixels=32 * 32), dict[str, float])
  gates["a_bn/gamma"] = 2.0
  together = pruning.groups(model)
  sgd = pruning.ProximalSGD(0.1, l1_penalty=0.05, penalties=gates, groups=together, momentum=0.9)
  decay = keras.optimizers.schedules.ExponentialDecay(0.1, 1000, 0.5)
  pruning.ProximalSGD(decay, decay, {"a_bn/gamma": 1}, groups={"a_bn/gamma": [0, 1]}, threshold_betas=True)
  adam = pruning.ProximalOptimizer(keras.optimizers.Adam(0.001), 0.5, gates, use_ema=True)
  sgd.l1_penalty = adam.l1_penalty = 0.1
  model.compile(optimizer=adam, loss="mse")
  model.fit(images, labels, callbacks=[pruning.SparsityLogger(gates)])
  assert_type(float(pruning.group_lasso(model, gates)), float)
  assert_type(float(pruning.fake_sparsity(model, gates)), float)


def squeeze(model: keras.Model, images: np.ndarray, batches: collections.abc.Iterator[np.ndarray]) -> keras.Model:
  assert_type(pruning.plan(model, exact=False), SqueezeReport)
  smaller, report = pruning.squeeze(model, multiple_of=8, keep=["a", "b"], inputs={"images": images}, verify=True)
  assert_type(report.layers["a"], LayerReport)
  assert_type(report.layers["a"].kept_though_dead, dict[str, int])
  assert_type(report.summary(), str)
  print(report, report.check and report.check.difference)
  comparison = assert_type(pruning.compare(model, smaller, [images, images]), Comparison)
  print(comparison, comparison.parameters[0] - comparison.parameters[1], comparison.seconds[0] / comparison.seconds[1])
  pruning.recalibrate(smaller, batches)
  assert_type(pruning.multiply_adds(smaller), int | None)
  return pruning.fold_batch_norms(smaller)


def to_a_budget(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> keras.Model:
  assert_type(pruning.plan_prune(model, parameters=100_000, importance="l1", scope="layer", keep=["a"]), SqueezeReport)
  smaller, report = pruning.prune(
    model, multiply_adds=0.5, importance=lambda groups: next(iter(groups.kernels.values())).std(axis=1), multiple_of=8
  )
  assert_type(report.multiply_adds_after, int | None)
  loss = keras.losses.SparseCategoricalCrossentropy()
  return pruning.prune(smaller, channels=0.5, importance="taylor", inputs=images, targets=labels, loss=loss)[0]


def pretrained(model: keras.Model) -> None:
  gates = pruning.penalties(model)
  pruning.scale_gammas(model, gates, 0.01)
  pruning.unscale_gammas(model, list(gates), 0.01)


class Own(keras.layers.Layer):
  def call(self, inputs: Any) -> Any:
    return inputs


pruning.register(Own, pruning.rules.Elementwise())

# What is wrong is seen: pyright would say that these need not be ignored.
pruning.penalties("model")  # pyright: ignore[reportArgumentType]
pruning.prune("model", parameters=0.5)  # pyright: ignore[reportArgumentType]
pruning.ProximalSGD(0.1, 0.05)  # pyright: ignore[reportCallIssue]
