import signal

import hypothesis
import numpy as np
import pytest
from helpers import build_tiny_network, short_stage

from cifar10 import input_pipeline
from cifar10.training_state import TrainingState


@pytest.fixture
def tiny_network():
  """What `build_tiny_network` builds."""
  return build_tiny_network()


@pytest.fixture
def state(tiny_network):
  """A training state of the tiny network at step 7, whose averages are not its weights."""
  state = TrainingState(tiny_network)
  generator = np.random.default_rng(0)
  for variable in state.model.trainable_variables:
    variable.assign(generator.normal(size=variable.shape))
  for average in state.averages:
    average.assign(generator.normal(size=average.shape))
  state.step.assign(7)
  return state


@pytest.fixture(scope="session")
def synthetic():
  """The built-in data set by split."""
  return {split: input_pipeline.load("synthetic", split) for split in ("train", "test")}


@pytest.fixture
def tiny_world(monkeypatch, synthetic):
  """resnet20 and cnn4 are the tiny network, and the synthetic data is at hand."""
  from cifar10.models import MODELS

  for name in list(MODELS):
    monkeypatch.setitem(MODELS, name, lambda name=name: build_tiny_network(name))
  monkeypatch.setattr(input_pipeline, "load", lambda dataset, split, data_dir=None: synthetic[split])


@pytest.fixture
def config(tmp_path, tiny_world):
  """The settings of a short stage in a tiny world."""
  return short_stage(tmp_path / "run")


@pytest.fixture
def default_signals():
  """SIGINT and SIGTERM act here and in child processes as in a terminal, even where pytest was told to ignore them."""
  defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
  before = {signum: signal.signal(signum, handler) for signum, handler in defaults.items()}
  yield
  for signum, handler in before.items():
    signal.signal(signum, handler)


hypothesis.settings.register_profile(
  "default", max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.register_profile(
  "thorough", max_examples=400, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("default")
