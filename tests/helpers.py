"""What the tests of several files share."""

import dataclasses
import hashlib
import json
import os
import pathlib
import sys

import keras
import numpy as np
from keras import layers

from cifar10.config import TrainConfig
from cifar10.datasets.synthetic import SPLITS
from cifar10.models import MODELS
from cifar10.version.directory import Version

TRAIN_TINY = (sys.executable, str(pathlib.Path(__file__).with_name("train_tiny.py")))
change = dataclasses.replace


def build_tiny_network(name="cnn4", filters=4):
  """A network that trains in no time; it has one gated gamma, conv1_bn's."""
  images = keras.Input((32, 32, 3), name="images")
  x = layers.Conv2D(filters, 5, strides=4, padding="same", use_bias=False, name="conv1")(images)
  x = layers.BatchNormalization(momentum=0.999, name="conv1_bn")(x)
  x = layers.ReLU(name="conv1_relu")(x)
  x = layers.Conv2D(10, 8, use_bias=False, name="softmax_linear")(x)
  x = layers.BatchNormalization(momentum=0.999, name="softmax_linear_bn")(x)
  return keras.Model(images, layers.Flatten(name="logits")(x), name=name)


def put_tiny_world_in_place(set_item=dict.__setitem__):
  """Makes every network of the commands the tiny one, and the built-in training set small, by `set_item`."""
  for name in list(MODELS):
    set_item(MODELS, name, lambda name=name: build_tiny_network(name))
  set_item(SPLITS, "train", (2000, 1))


def short_stage(train_dir, **settings):
  """The settings of a stage of few steps of the tiny network, without a penalty."""
  config = TrainConfig(
    train_dir=str(train_dir),
    dataset="synthetic",
    model="cnn4",
    seed=3,
    max_steps=20,
    batch_size=8,
    log_frequency=5,
    l1_penalty=0.0,
    learning_rate=0.01,
  )
  return change(config, **settings)


def version(chain, number=0):
  """A version of a chain, which its `--train_dir` or the settings of one of its stages name."""
  return Version(getattr(chain, "train_dir", chain), number)


def directory(chain, number=0):
  """The directory of a version."""
  return version(chain, number).path


def saved_weights(chain, number=1):
  """The weights that a version of a chain starts from."""
  return version(chain, number).network().get_weights()


def deterministic_rows(chain, number=0):
  """The recorded metrics of a version, but for those that tell of time."""
  rows = version(chain, number).rows()
  return [{name: row[name] for name in row if name not in ("seconds", "examples_per_second")} for row in rows]


def assert_same_weights(ours, theirs):
  """Asserts that two lists of arrays or variables are the same to the bit."""
  for one, other in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(one, other)


def cut(path):
  """Truncates a file to half of its length."""
  os.truncate(path, path.stat().st_size // 2)


def write_record(path, record):
  """Writes a stage's record, a dict, with its checksum."""
  checksum = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
  path.write_text(json.dumps({**record, "sha256": checksum}))
