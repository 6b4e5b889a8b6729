"""What the tests of pruning share."""

import hypothesis_profiles  # noqa: F401
import keras
import numpy as np
import pytest

from cifar10.pruning.rules import base

# Files that are about TensorFlow's functions, strategies or data sets, which other backends do not have.
OF_TENSORFLOW = {
  "test_proximal.py": "steps are compiled by tf.function; test_thresholds.py has the same for all backends",
  "test_thresholds_on_tensorflow.py": "it is about tf.function and tf.distribute",
}

# Files that run on PyTorch as a program of a user does, without no_grad().
WITH_GRADIENTS = ("test_on_any_backend.py", "test_thresholds_in_models.py")


def pytest_collection_modifyitems(items):
  """On other backends than TensorFlow, tests of what it alone has are skipped."""
  if keras.backend.backend() != "tensorflow":
    for item in items:
      reason = OF_TENSORFLOW.get(item.path.name)
      if reason:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def without_gradients(request, monkeypatch):
  """On PyTorch a tensor with gradients is no array for NumPy, as most tests take it; only training needs them."""
  if keras.backend.backend() != "torch" or request.path.name in WITH_GRADIENTS:
    yield
    return
  import torch

  for name in ("fit", "train_on_batch"):
    monkeypatch.setattr(keras.Model, name, torch.enable_grad()(getattr(keras.Model, name)))
  with torch.no_grad():
    yield


@pytest.fixture
def float64(monkeypatch):
  """Models built in the test compute in float64, so that equal means equal to 1e-9.

  On other backends than TensorFlow, Keras has batch norms and operations on float64 and float32 compute in float32.
  """
  monkeypatch.setitem(keras.src.backend.common.dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
  if keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_enable_x64", True)
  floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
  keras.config.set_floatx("float64")
  keras.config.set_dtype_policy("float64")
  yield
  keras.config.set_floatx(floatx)
  keras.config.set_dtype_policy(policy)


@pytest.fixture
def randomize():
  """A function that gives a model random weights, no gamma near 0, and returns the model."""

  def draw(rng, variable):
    if variable.name == "kernel":
      return rng.normal(size=variable.shape) / np.sqrt(np.prod(variable.shape[:-1]))
    if variable.name == "gamma":
      return rng.uniform(0.5, 1.5, variable.shape) * rng.choice([-1, 1], variable.shape)
    if variable.name == "moving_variance":
      return rng.uniform(0.5, 1.5, variable.shape)
    return rng.normal(size=variable.shape) * 0.5

  def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.variables:
      variable.assign(draw(rng, variable))
    return model

  return randomize


@pytest.fixture
def shut():
  """A function that sets gammas of a layer to 0, and their betas if given."""

  def shut(model, name, channels, beta=None):
    layer = model.get_layer(name)
    gamma, betas = layer.gamma.numpy(), layer.beta.numpy()
    gamma[channels] = 0
    if beta is not None:
      betas[channels] = beta
    layer.gamma.assign(gamma)
    layer.beta.assign(betas)

  return shut


@pytest.fixture
def own_rules(monkeypatch):
  """What the test registers is forgotten after it."""
  monkeypatch.setattr(base, "RULES", dict(base.RULES))
