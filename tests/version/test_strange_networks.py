"""Networks of the right shapes and name with something else inside."""

import keras
import pytest
from keras import layers

from cifar10.cli import command
from cifar10.config import EvalConfig, TrainConfig
from cifar10.evaluate import evaluate
from cifar10.train import train
from cifar10.version.directory import Version


def usual(x, **conv):
  x = layers.Conv2D(4, 5, strides=4, padding="same", use_bias=False, name="conv1", **conv)(x)
  x = layers.ReLU()(layers.BatchNormalization(name="conv1_bn")(x))
  return layers.Flatten()(layers.Conv2D(10, 8, use_bias=False, name="softmax_linear")(x))


def functional(inside, dtype="float32", outputs=lambda x: x):
  images = keras.Input((32, 32, 3), dtype=dtype)
  return keras.Model(images, outputs(inside(images)), name="cnn4")


def behind_dense(images):
  x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(6)(layers.Flatten()(images))))
  return layers.Dense(10)(x)


def channels_first(images):
  x = layers.Conv2D(4, 5, 4, padding="same", data_format="channels_first")(layers.Permute((3, 1, 2))(images))
  return layers.Dense(10)(layers.Flatten()(layers.ReLU()(layers.BatchNormalization(axis=1)(x))))


def hashed(images):
  x = layers.Hashing(7)(layers.Flatten()(images))
  return usual(layers.Reshape((32, 32, 3))(layers.Rescaling(0.5, dtype="float32")(x)))


def sequential():
  return keras.Sequential(
    [
      *(keras.Input((32, 32, 3)), layers.Conv2D(4, 5, strides=4, padding="same", name="conv1")),
      *(layers.BatchNormalization(name="conv1_bn"), layers.ReLU(), layers.Flatten(), layers.Dense(10)),
    ],
    name="cnn4",
  )


STRANGE = {
  "uint8": lambda: functional(lambda x: usual(layers.Rescaling(1 / 255)(x)), "uint8"),
  "int32": lambda: functional(lambda x: usual(layers.Rescaling(1 / 255)(x)), "int32"),
  "float16": lambda: functional(lambda x: usual(layers.Rescaling(1 / 255)(x)), "float16"),
  "dict": lambda: functional(usual, outputs=lambda x: {"logits": x}),
  "list": lambda: functional(usual, outputs=lambda x: [x]),
  "two outputs": lambda: functional(usual, outputs=lambda x: [x, x]),
  "sequential": sequential,
  "channels first": lambda: functional(channels_first),
  "hashing": lambda: functional(hashed),
  "discretization": lambda: functional(lambda x: usual(layers.Discretization([0.0, 1.0])(x))),
  "behind dense": lambda: functional(behind_dense),
  "half precision": lambda: functional(lambda x: usual(x, dtype="mixed_float16")),
  "batch norm of rows": lambda: functional(lambda x: usual(layers.BatchNormalization(axis=1)(x))),
  "recurrent": lambda: functional(lambda x: layers.Dense(10)(layers.LSTM(4)(layers.Reshape((32, 96))(usual_only(x))))),
}


def usual_only(x):
  x = layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
  x = layers.ReLU()(layers.BatchNormalization()(x))
  return layers.Conv2D(3, 3, padding="same", use_bias=False)(x)


@pytest.mark.parametrize("name", STRANGE)
def test_a_network_with_a_strange_inside_is_one_sentence_or_used(tmp_path, tiny_world, capsys, name):
  version = Version(tmp_path / "run", 1)
  version.path.mkdir()
  STRANGE[name]().save(version.model_path)
  settings = TrainConfig(
    train_dir=str(tmp_path / "run"), checkpoint_version=1, dataset="synthetic", max_steps=2, batch_size=4, seed=1
  )
  evaluation = EvalConfig(
    checkpoint_dir=settings.train_dir, dataset="synthetic", num_examples=10, eval_dir=str(tmp_path / "eval")
  )
  capsys.readouterr()
  for function, config in ((evaluate, evaluation), (train, settings)):
    code = command.run("program", function, config)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("program: ")]
    assert len(lines) == code
    assert all("model.keras holds a network" in line or "model.keras cannot be loaded" in line for line in lines)


def test_the_usual_networks_are_not_tried_out(tmp_path, tiny_network, monkeypatch):
  monkeypatch.setattr("cifar10.version.trial.fused", None)
  version = Version(tmp_path / "run", 1)
  version.replace(tiny_network)
  assert version.network().count_params() == tiny_network.count_params()
