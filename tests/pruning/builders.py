"""Inputs, blocks and models that several tests of pruning build theirs of."""

import keras
from keras import layers


def image(*shape, name="images"):
  """An input, by default of 8 x 8 pixels and 3 channels."""
  return keras.Input(shape or (8, 8, 3), name=name)


def conv_bn(x, name, filters, size=3, stride=1, padding="same", activation="relu", norm=None, **arguments):
  """A convolution, by default without bias, its batch norm with the arguments `norm`, and an activation if any."""
  convolution = layers.Conv2D(filters, size, stride, padding, **{"use_bias": False, **arguments}, name=name)
  x = layers.BatchNormalization(**norm or {}, name=f"{name}_bn")(convolution(x))
  return x if activation is None else layers.Activation(activation, name=f"{name}_act")(x)


def chain(filters=(16, 24, 32), activation="relu"):
  """Convolutions with batch norms, one behind the other, then classes."""
  x = images = image()
  for index, count in enumerate(filters):
    x = conv_bn(x, f"c{index}", count, activation=activation)
  return keras.Model(images, layers.Dense(5, name="logits")(layers.GlobalAveragePooling2D()(x)))


class Subclassed(keras.Model):
  """A model that is no graph of layers."""

  def call(self, inputs):
    return inputs
