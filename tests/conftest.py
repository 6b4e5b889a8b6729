import hypothesis
import keras
import numpy as np
import pytest
from keras import layers

from cifar10 import input_pipeline
from cifar10.training_state import TrainingState


def build_tiny_network(name="cnn4"):
  images = keras.Input((32, 32, 3), name="images")
  x = layers.Conv2D(4, 5, strides=4, padding="same", use_bias=False, name="conv1")(images)
  x = layers.BatchNormalization(momentum=0.999, name="conv1_bn")(x)
  x = layers.ReLU(name="conv1_relu")(x)
  x = layers.Conv2D(10, 8, use_bias=False, name="softmax_linear")(x)
  x = layers.BatchNormalization(momentum=0.999, name="softmax_linear_bn")(x)
  return keras.Model(images, layers.Flatten(name="logits")(x), name=name)


@pytest.fixture(scope="session")
def build_network():
  """The function that builds `tiny_network`."""
  return build_tiny_network


@pytest.fixture
def tiny_network():
  """A network that trains in no time; it has one gated gamma of 4 channels, conv1_bn's."""
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


hypothesis.settings.register_profile(
  "default", max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.register_profile(
  "thorough", max_examples=400, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("default")
