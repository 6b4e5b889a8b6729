"""Squeezing keeps the function of models drawn at random from the layers that the channel graph knows.

`pytest --hypothesis-profile thorough tests/pruning/test_random_models.py` tries many more than CI does.
"""

import functools

import blocks
import keras
import numpy as np
import pytest
from flows import squeeze_and_check
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from cifar10.pruning import penalties, plan, squeeze

pytestmark = [
  pytest.mark.usefixtures("float64"),
  pytest.mark.filterwarnings("ignore:Do not use the `random` module:Warning"),  # Keras draws seeds of layers with it.
]

ACTIVATIONS = ["linear", "relu", "swish", "tanh", "leaky_relu"]


class Builder:
  """Draws the calls of one model; `tensors` are those made so far."""

  def __init__(self, draw, data_format, inputs, shared):
    self.draw = draw
    self.data_format = data_format
    self.tensors = list(inputs)
    self.shared = shared

  def one_of(self, *values):
    return self.draw(st.sampled_from(values))

  def tensor(self, rank=None):
    """One of the tensors, of a rank if there is any, the newest most often."""
    found = [x for x in self.tensors if rank is None or len(x.shape) == rank]
    return found[-1 - self.draw(st.integers(0, min(2, len(found) - 1)))] if found else None

  def channels(self, x):
    return x.shape[self.axis(x)]

  def axis(self, x):
    return 1 if self.data_format == "channels_first" and len(x.shape) > 2 else len(x.shape) - 1

  def space(self, x):
    """The smallest side of an image."""
    return min(size for axis, size in enumerate(x.shape) if axis not in (0, self.axis(x)))

  def like(self, x):
    """A tensor of the shape of x, x itself if there is no other."""
    found = [y for y in self.tensors if y.shape == x.shape and y is not x]
    return found[self.draw(st.integers(0, len(found) - 1))] if found else x

  def step(self):
    names = [name for kind in reversed(type(self).__mro__) for name in vars(kind) if name.startswith("add_")]
    made = getattr(self, self.draw(st.sampled_from(names)))()
    if made is not None and np.prod(made.shape[1:]) <= 2000:
      self.tensors.append(made)

  def add_gated_convolution(self):
    x = self.add_convolution()
    return None if x is None else self.gated(x)

  def gated(self, x):
    x = layers.BatchNormalization(axis=self.axis(x), center=self.one_of(True, True, False))(x)
    return layers.Activation(self.one_of(*ACTIVATIONS))(x)

  def add_convolution(self):
    x = self.tensor(4)
    if x is None:
      return None
    size = self.one_of(*range(1, min(3, self.space(x)) + 1))
    can_group = self.channels(x) % 2 == 0 and self.data_format == "channels_last"
    groups = self.one_of(1, 1, 2) if can_group else 1
    stride = self.one_of(1, 1, 2)
    transposed = groups == 1 and size >= stride and self.one_of(*range(6)) == 5
    kind = layers.Conv2DTranspose if transposed else layers.Conv2D
    return kind(
      groups * self.one_of(1, 2, 4),
      size,
      stride,
      self.one_of("same", "valid"),
      data_format=self.data_format,
      use_bias=self.one_of(True, False),
      activation=self.one_of("linear", *ACTIVATIONS),
      **({"groups": groups} if kind is layers.Conv2D else {}),
    )(x)

  def add_channelwise_convolution(self):
    x = self.tensor(4)
    if x is None:
      return None
    arguments = {
      "kernel_size": self.one_of(*range(1, min(3, self.space(x)) + 1)),
      "padding": self.one_of("same", "valid"),
      "depth_multiplier": self.one_of(1, 1, 2),
      "use_bias": self.one_of(True, False),
      "data_format": self.data_format,
    }
    if self.one_of("depthwise", "separable") == "depthwise":
      return layers.DepthwiseConv2D(**arguments)(x)
    return layers.SeparableConv2D(self.one_of(2, 3), **arguments)(x)

  def add_shared_convolution(self):
    x = self.tensor(4)
    if x is None:
      return None
    key = (self.channels(x), self.data_format)
    if key not in self.shared:
      self.shared[key] = layers.Conv2D(self.channels(x), 3, padding="same", data_format=self.data_format)
    return self.shared[key](x)

  def add_batch_norm(self):
    return self.gated(self.tensor())

  def add_activation(self):
    x = self.tensor()
    shared_axes = [axis for axis in range(1, len(x.shape)) if axis != self.axis(x)] or None
    return self.one_of(
      lambda: layers.ReLU(),
      lambda: layers.ReLU(max_value=1),
      lambda: layers.LeakyReLU(0.3),
      lambda: layers.ELU(),
      lambda: layers.Activation("gelu"),
      lambda: layers.PReLU(),
      lambda: layers.PReLU(shared_axes=shared_axes),
      lambda: layers.Dropout(0.5, seed=1),
    )()(x)

  def add_spatial(self):
    x = self.tensor(4)
    if x is None:
      return None
    kinds = [layers.ZeroPadding2D, layers.UpSampling2D, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D]
    if self.space(x) >= 3:
      pools = [functools.partial(kind, 2) for kind in (layers.MaxPooling2D, layers.AveragePooling2D)]
      kinds += [layers.Cropping2D, *pools, *pools]
    return self.one_of(*kinds)(data_format=self.data_format)(x)

  def add_padded_convolution(self):
    x = self.tensor(4)
    if x is None:
      return None
    if self.one_of(True, False):
      x = layers.ZeroPadding2D(self.one_of(1, (0, 1), ((2, 0), (1, 1))), data_format=self.data_format)(x)
    else:
      widths = [(0, 0) if axis in (0, self.axis(x)) else self.one_of((1, 1), (0, 2)) for axis in range(4)]
      x = ops.pad(x, widths, constant_values=self.one_of(0.0, 0.0, 1.0))
    x = self.one_of(
      lambda: x, lambda: layers.ReLU()(x), lambda: layers.MaxPooling2D(2, 1, data_format=self.data_format)(x)
    )()
    size = min(3, self.space(x))
    kinds = [layers.Conv2D, layers.Conv2D, layers.SeparableConv2D]
    return self.gated(self.one_of(*kinds)(4, size, data_format=self.data_format, use_bias=self.one_of(True, False))(x))

  def add_grouped_block(self):
    x = self.tensor(4)
    if x is None or self.data_format == "channels_first":
      return None
    groups, width = self.one_of((2, 2), (2, 4), (3, 2))
    x = self.gated(layers.Conv2D(groups * width, 1)(x))
    size, padding = min(3, self.space(x)), self.one_of("same", "valid")
    return self.gated(layers.Conv2D(groups * self.one_of(2, 3), size, padding=padding, groups=groups)(x))

  def add_cut(self):
    x = self.tensor()
    axis = self.one_of(self.axis(x), len(x.shape) - 1, 1)
    n = x.shape[axis]
    start = self.draw(st.integers(0, n - 1))
    stop = self.draw(st.integers(start + 1, n))
    key = [slice(None)] * axis + [slice(start, stop)]
    parts = [k for k in (1, 2, 3) if n % k == 0]
    return self.one_of(
      lambda: x[tuple(key)],
      lambda: x[tuple(key)],
      lambda: ops.split(x, self.one_of(*parts), axis=axis)[-1],
      lambda: ops.concatenate(ops.split(x, [stop], axis=axis)[::-1] if stop < n else [x], axis=axis),
    )()

  def add_other_places(self):
    x = self.tensor()
    axis = self.one_of(*range(1, len(x.shape)))
    return self.one_of(
      lambda: ops.repeat(x, 2, axis=axis),
      lambda: ops.tile(x, [1] * axis + [2] + [1] * (len(x.shape) - 1 - axis)),
      lambda: ops.flip(x, axis=axis),
      lambda: ops.sum(x, axis=axis) if len(x.shape) > 2 else None,
      lambda: layers.Lambda(lambda x: ops.tanh(x) + 1)(x),
    )()

  def add_operator(self):
    x = self.tensor()
    s = np.linspace(-1, 1, self.channels(x)).reshape([-1] + [1] * (len(x.shape) - 1 - self.axis(x)))
    return self.one_of(lambda: x + 3.0, lambda: x * s, lambda: ops.subtract(s, x), lambda: ops.relu(x), lambda: -x)()

  def add_joint(self):
    x = self.tensor()
    y = self.like(x)
    return self.one_of(
      lambda: layers.Add()([x, y]),
      lambda: x + y,
      lambda: layers.Subtract()([x, y]),
      lambda: x * y,
      lambda: layers.Maximum()([x, y]),
      lambda: layers.Average()([x, y]),
      lambda: layers.Concatenate(axis=self.axis(x))([x, y]),
      lambda: ops.concatenate([x, y], axis=self.axis(x)),
      lambda: layers.Concatenate(axis=1)([x, y]),
    )()

  def add_excitation(self):
    x = self.tensor(4)
    if x is None:
      return None
    s = layers.GlobalAveragePooling2D(data_format=self.data_format, keepdims=True)(x)
    s = layers.Conv2D(self.one_of(1, self.channels(x)), 1, data_format=self.data_format, activation="sigmoid")(s)
    return layers.Multiply()([x, s])

  def add_arrangement(self):
    x = self.tensor()
    if len(x.shape) == 2:
      n = x.shape[1]
      return layers.Reshape((2, n // 2) if n % 2 == 0 else (1, 1, n))(x)
    axes = self.draw(st.permutations(range(1, len(x.shape))))
    n = int(np.prod(x.shape[1:]))
    return self.one_of(
      lambda: layers.Flatten(data_format=self.data_format)(x),
      lambda: layers.Permute(axes)(x),
      lambda: ops.transpose(x, (0, *axes)),
      lambda: layers.Reshape((-1, x.shape[-1]))(x),
      lambda: layers.Reshape((2, -1))(x) if n % 2 == 0 else None,
    )()

  def add_dense(self):
    return self.gated(layers.Dense(self.one_of(2, 4), use_bias=self.one_of(True, False))(self.tensor()))

  def add_reduction(self):
    x = self.tensor()
    return ops.mean(x, axis=self.one_of(*range(1, len(x.shape)))) if len(x.shape) > 2 else None

  def add_nested(self):
    x = self.tensor()
    key = ("nested", x.shape)
    if key not in self.shared:
      inner_input = keras.Input(x.shape[1:])
      inner = type(self)(self.draw, self.data_format, [inner_input], {})
      for _ in range(self.draw(st.integers(1, 3))):
        inner.step()
      if inner.tensors[-1] is inner_input:
        return None
      self.shared[key] = keras.Model(inner_input, inner.tensors[-1])
    return self.shared[key](x)


class BlockBuilder(Builder):
  """Draws layers that hold layers too: behind convolutions, and again where one was called on such a tensor before."""

  def add_gated_convolution(self):
    x = super().add_gated_convolution()
    if x is None or self.data_format == "channels_first" or x.sparse:  # As Keras 3.15 takes 2 * x to be.
      return x
    key = ("block", x.shape)
    if key not in self.shared:
      n = self.channels(x)
      kinds = [lambda: blocks.Residual(n), lambda: blocks.Excitation(n), lambda: blocks.Inverted(n, self.one_of(2, 4))]
      self.shared[key] = self.one_of(*kinds)()
    return self.shared[key](x)


@st.composite
def models(draw, kind=Builder):
  """A model of two inputs or one, and of outputs."""
  data_format = draw(st.sampled_from(["channels_last", "channels_last", "channels_first"]))
  shape = (5, 6, 3) if data_format == "channels_last" else (3, 5, 6)
  inputs = [keras.Input(shape) for _ in range(draw(st.integers(1, 2)))]
  builder = kind(draw, data_format, inputs, {})
  builder.tensors += [builder.add_gated_convolution() for _ in inputs]
  for _ in range(draw(st.integers(2, 9))):
    builder.step()
  outputs = []
  for _ in range(draw(st.integers(1, 2))):
    x = builder.tensor()
    if len(x.shape) > 2 and draw(st.booleans()):
      x = layers.Flatten()(x)
    outputs.append(layers.Dense(2)(x) if draw(st.sampled_from([True] * 4 + [False])) else x)
  model = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs)
  randomize(model, np.random.default_rng(draw(st.integers(0, 1000))))
  return model


def randomize(model, rng):
  """Random weights; half of the gammas are 0, many kernels have columns of 0."""
  for variable in model.variables:
    if variable.name == "gamma":
      value = rng.uniform(0.5, 1.5, variable.shape) * (rng.random(variable.shape) < rng.choice([0.3, 0.6]))
    elif variable.name == "moving_variance":
      value = rng.uniform(0.5, 1.5, variable.shape)
    elif "kernel" in variable.name:
      value = rng.normal(size=variable.shape) / np.sqrt(max(1, np.prod(variable.shape[:-1])))
      value = value * (rng.random(variable.shape[-1:]) < rng.choice([0.7, 1.0]))
    elif "seed" in variable.name:
      continue
    else:
      value = rng.normal(size=variable.shape) * rng.choice([0.0, 0.5, 0.5])
    variable.assign(value)


def test_random_models():
  removed = []

  @given(models(), st.data())
  def check(model, data):
    names = data.draw(st.lists(st.sampled_from([layer.name for layer in model.layers]), max_size=1))
    arguments = {
      "multiple_of": data.draw(st.sampled_from([1, 1, 1, 2, 3])),
      "min_channels": data.draw(st.sampled_from([1, 1, 1, 2])),
      "keep": names,
    }
    smaller, *_ = squeeze_and_check(model, **arguments)
    removed.append(model.count_params() - smaller.count_params())
    squeeze(model, exact=False, **arguments)
    penalties(model, num_pixels=30)

  check()
  assert np.mean(np.array(removed) > 0) > 0.15


def test_random_models_of_blocks():
  opened = []

  @settings(max_examples=settings().max_examples // 3)
  @given(models(BlockBuilder))
  def check(model):
    squeeze_and_check(model)
    opened.append(bool(plan(model).opened))

  check()
  assert np.mean(opened) > 0.3


# What it found.


def test_a_factor_in_which_no_channels_are_followed():
  images = keras.Input((5, 5, 3))
  x = layers.BatchNormalization(name="a_bn")(layers.Conv2D(4, 1, name="a")(images))
  y = layers.LayerNormalization(name="norm")(layers.Conv2D(4, 1)(images))
  model = keras.Model(images, layers.Conv2D(2, 1)(x * y))
  model.get_layer("a_bn").gamma.assign([0, 0, 1, 1])
  _, removed, kept = squeeze_and_check(model)
  assert removed == {}
  assert kept == {"a": {"norm": 2}}


def test_a_grouped_convolution_that_keeps_one_group():
  images = keras.Input((5, 5, 3))
  x = layers.Conv2D(4, 1, name="a")(images)
  x = layers.Conv2D(4, 3, groups=2, name="b")(layers.BatchNormalization(name="a_bn")(x))
  model = keras.Model(images, layers.Dense(2)(layers.Flatten()(x)))
  model.get_layer("a_bn").gamma.assign([0, 0, 0, 1])
  smaller, removed, _ = squeeze_and_check(model)
  assert removed == {"a": 3, "b": 2}
  assert smaller.get_layer("b").groups == 1
  assert plan(smaller).layers["a"].removed == 0
