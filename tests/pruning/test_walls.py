"""Tests of cifar10.pruning.walls: what walls keep, and which call of `register` would open them."""

import dataclasses
import json

import keras
import pytest
from builders import conv_bn, image
from keras import layers, ops

from cifar10.pruning import plan, register, rules


class Mish(layers.Layer):
  """Acts on each value."""

  def call(self, x):
    return x * ops.tanh(ops.softplus(x))


class Centred(layers.Layer):
  """Does not."""

  def call(self, x):
    return x - ops.mean(x, axis=-1, keepdims=True)


class Scale(layers.Layer):
  """Has weights along the channel axis."""

  def build(self, shape):
    self.gamma = self.add_weight(shape=(shape[-1],), name="gamma")
    self.bias = self.add_weight(shape=(), name="bias")

  def call(self, x):
    return x * self.gamma + self.bias


class Projection(layers.Layer):
  """Has a kernel."""

  def build(self, shape):
    self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

  def call(self, x):
    return ops.matmul(x, self.kernel)


def model_of(*walls):
  x = images = image()
  for index, wall in enumerate(walls):
    x = wall(conv_bn(x, f"a{index}", 4))
  return keras.Model(images, layers.Dense(2)(x))


REGISTRATIONS = [
  (lambda: Mish(name="wall"), "register(Mish, rules.Elementwise())"),
  (lambda: Centred(name="wall"), "register(Centred, YourRule())"),
  (lambda: Scale(name="wall"), "register(Scale, rules.PerChannel(multiply=['gamma'], add=['bias']))"),
  (lambda: Projection(name="wall"), "register(Projection, rules.KernelRule())"),
  (lambda: layers.Lambda(lambda x: x - ops.mean(x), name="wall"), "register(function, rules.Elementwise())"),
  (lambda: layers.LayerNormalization(name="wall"), ""),
]


@pytest.mark.parametrize(("wall", "registration"), REGISTRATIONS)
def test_what_would_register_a_wall(wall, registration):
  (kind,) = plan(model_of(wall())).wall_kinds
  assert (kind.names, kind.registration) == (["wall"], registration)


def test_walls_are_counted_by_class_with_what_they_keep(shut):
  model = model_of(Centred(name="one"), Mish(name="two"), Mish(name="three"))
  for index, channels in enumerate(([0], [1, 2], [0, 3])):
    shut(model, f"a{index}_bn", channels)
  report = plan(model)
  assert report.walls == ["one", "two", "three"]
  assert [(kind.kind, kind.names, kind.dead_channels) for kind in report.wall_kinds] == [
    ("Mish", ["two", "three"], 4),
    ("Centred", ["one"], 1),
  ]
  assert json.loads(json.dumps(dataclasses.asdict(report)))["wall_kinds"][0]["dead_channels"] == 4
  assert "2 Mish (two, three) keep 4 dead channels; if it holds: register(Mish, rules.Elementwise())" in str(report)


@pytest.mark.usefixtures("own_rules")
def test_what_is_said_opens_them(shut):
  model = model_of(Mish(name="one"), Scale(name="two"))
  for index in range(2):
    shut(model, f"a{index}_bn", [0, 1], [0, 0])
  kept = {kind.kind: kind for kind in plan(model).wall_kinds}
  for layer in (Mish, Scale):
    exec(kept[layer.__name__].registration, {"register": register, "rules": rules, layer.__name__: layer})
  report = plan(model)
  assert report.walls == report.wall_kinds == []
  assert report.layers["a0"].removed == report.layers["a1"].removed == 2
