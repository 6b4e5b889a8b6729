import pathlib
import shutil
import signal

import hypothesis_profiles  # noqa: F401
import keras
import numpy as np
import pytest
from helpers import build_tiny_network, put_tiny_world_in_place, short_stage

from cifar10 import input_pipeline
from cifar10.train import train
from cifar10.training_state import TrainingState


@pytest.fixture
def tiny_network():
  """What `build_tiny_network` builds, with the same weights each time."""
  keras.utils.set_random_seed(0)
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
  """The built-in data set of the tiny world by split."""
  with pytest.MonkeyPatch.context() as patch:
    put_tiny_world_in_place(patch.setitem)
    return {split: input_pipeline.load("synthetic", split) for split in ("train", "test")}


def enter_tiny_world(patch, synthetic):
  put_tiny_world_in_place(patch.setitem)
  patch.setattr(input_pipeline, "load", lambda dataset, split, data_dir=None: synthetic[split])


@pytest.fixture
def tiny_world(monkeypatch, synthetic):
  """resnet20 and cnn4 are the tiny network, and the synthetic data, less of it, is at hand."""
  enter_tiny_world(monkeypatch, synthetic)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory, synthetic):
  """A function that trains short stages in a tiny world, one after the other, each with some settings changed.

  It returns their `--train_dir`, which is the same for all tests that ask for the same stages: to be read only.
  """
  train_dirs = {}

  def trained_once(*changes):
    if repr(changes) not in train_dirs:
      train_dir = tmp_path_factory.mktemp("trained") / "run"
      with pytest.MonkeyPatch.context() as patch:
        enter_tiny_world(patch, synthetic)
        for settings in changes:
          train(short_stage(train_dir, **settings))
      train_dirs[repr(changes)] = train_dir
    return train_dirs[repr(changes)]

  return trained_once


@pytest.fixture
def config(tmp_path, tiny_world):
  """The settings of a short stage in a tiny world."""
  return short_stage(tmp_path / "run")


@pytest.fixture
def after(config, trained_once):
  """A function that puts what stages have left, as `trained_once` has it, where `config` trains; returns `config`."""

  def after(*changes):
    directory = pathlib.Path(config.train_dir).parent
    shutil.copytree(trained_once(*changes).parent, directory, dirs_exist_ok=True)
    return config

  return after


@pytest.fixture
def finished(after):
  """The settings of a stage that was trained with them and squeezed."""
  return after({})


@pytest.fixture
def default_signals():
  """SIGINT, SIGTERM and SIGHUP act here and in child processes as in a terminal, though pytest may ignore them."""
  defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
  before = {signum: signal.signal(signum, handler) for signum, handler in defaults.items()}
  yield
  for signum, handler in before.items():
    signal.signal(signum, handler)
