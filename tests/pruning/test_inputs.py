"""Tests of cifar10.pruning.inputs."""

import keras
from keras import layers

from cifar10.pruning.inputs import random_inputs


def test_noise_for_inputs_of_any_structure_and_type():
  inputs = {"image": keras.Input((None, 5, 3), name="image"), "index": keras.Input((4,), dtype="int32", name="index")}
  model = keras.Model(inputs, layers.Flatten()(inputs["index"]))
  noise = random_inputs(model)
  assert noise["image"].shape == (8, 64, 5, 3)
  assert noise["index"].dtype == "int32"
  assert set(noise["index"].numpy().ravel()) == {0, 1}
