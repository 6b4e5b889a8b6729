"""Thresholds by group, of betas and under wrapped optimizers in what only TensorFlow has: its functions, strategies."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from cifar10.pruning import ProximalOptimizer, ProximalSGD

GROUPS = {"a_bn/gamma": [0, 1, 2], "b_bn/gamma": [2, 0, 0]}
GATES = {"a_bn/gamma": 2.0, "b_bn/gamma": 0.5}
KEYS = ("a_bn/gamma", "a_bn/beta", "b_bn/gamma", "b_bn/beta")
MAKE = {
  "sgd": lambda **more: ProximalSGD(0.02, 0.7, GATES, GROUPS, True, **more),
  "adam": lambda **more: ProximalOptimizer(keras.optimizers.Adam(0.02, **more), 0.7, GATES, GROUPS, True),
}


def variables():
  rng, made = np.random.default_rng(0), []
  for key in KEYS:
    with keras.name_scope(key.split("/")[0]):
      made.append(keras.Variable(rng.uniform(-0.1, 0.1, 3).astype("float32"), name=key.split("/")[1]))
  return made


def gradients():
  rng = np.random.default_rng(1)
  return [[tf.constant(rng.normal(size=3), tf.float32) for _ in KEYS] for _ in range(4)]


def trained(optimizer, variables, wrap=lambda step: step):
  optimizer.build(variables)
  step = wrap(lambda *gradients: optimizer.apply(gradients, variables))
  for each in gradients():
    step(*each)
  return [variable.numpy() for variable in variables]


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("more", [{}, {"gradient_accumulation_steps": 2}], ids=str)
def test_compiled_steps_are_those_of_eager_ones(name, more):
  eager = trained(MAKE[name](**more), variables())
  assert 0 < sum((value == 0).sum() for value in eager) < 12
  for compiled in (False, True):
    found = trained(MAKE[name](**more), variables(), tf.function(jit_compile=compiled))
    for one, other in zip(eager, found):
      np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
      np.testing.assert_array_equal(one == 0, other == 0)


def in_mirrored_replicas(name):
  """Prints what two replicas come to that have half of each gradient, and whether both have the same."""
  device = tf.config.list_physical_devices("CPU")[0]
  tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
  strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
  with strategy.scope():
    optimizer, mirrored = MAKE[name](), variables()
    optimizer.build(mirrored)

  @tf.function
  def step(*gradients):
    strategy.run(lambda *given: optimizer.apply([each / 2 for each in given], mirrored), gradients)

  for each in gradients():
    step(*each)
  for variable in mirrored:
    one, other = (np.asarray(each) for each in strategy.experimental_local_results(variable.value))
    assert (one == other).all()
    print(*one.tolist())


@pytest.mark.parametrize("name", MAKE)
def test_two_replicas_come_to_what_one_device_does(name):
  program = f"import test_thresholds_on_tensorflow as here; here.in_mirrored_replicas({name!r})"
  result = subprocess.run(
    [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {program}"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr[-2000:]
  found = [np.array(line.split(), float) for line in result.stdout.splitlines()]
  for one, other in zip(trained(MAKE[name](), variables()), found, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(one == 0, other == 0)
