"""The two networks of the experiment, as functional Keras models.

Both map standardised images (batch, 32, 32, 3) float32 to logits (batch, 10). Convolutions have no bias;
each is followed by a batch norm, whose gamma, where it has one, is the gate of its channels. Layers bear the
reference's names: convolution `g0b0c0`, batch norm `g0b0c0_bn`, activation `g0b0c0_relu`.
"""

import keras
from keras import layers

from cifar10.datasets.examples import IMAGE_SHAPE, NUM_CLASSES


def resnet20():
  """Builds the residual network of 20 layers: 281,304 parameters.

  In each block only the first convolution's batch norm has gammas, so only the channels inside blocks are gated;
  the sums, which have no ReLU after them, keep their width.
  """
  images = keras.Input(IMAGE_SHAPE, name="images")
  x = _conv_bn(images, "first_conv", 16, 3, gamma=False)
  for group, filters in enumerate((16, 32, 64)):
    for block in range(3):
      stride = 2 if group > 0 and block == 0 else 1
      x = _residual_block(x, f"g{group}b{block}", filters, stride)
  x = layers.AveragePooling2D(8, name="average_pool")(x)
  return keras.Model(images, _softmax_linear(x), name="resnet20")


def cnn4():
  """Builds the network of 4 convolutions and a linear layer: 1,986,760 parameters."""
  images = x = keras.Input(IMAGE_SHAPE, name="images")
  for name, filters, kernel_size in (("conv1", 96, 5), ("conv2", 192, 5), ("conv3", 192, 3)):
    x = _conv_bn(x, name, filters, kernel_size)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name=f"{name}_pool")(x)
  x = _conv_bn(x, "fc1", 384, 4, padding="valid")
  return keras.Model(images, _softmax_linear(x), name="cnn4")


MODELS = {"resnet20": resnet20, "cnn4": cnn4}


def _residual_block(x, name, filters, stride):
  shortcut = x
  if stride > 1:
    shortcut = _conv_bn(x, f"{name}p", filters, 2, stride, gamma=False, relu=False)
  x = _conv_bn(x, f"{name}c0", filters, 3, stride)
  x = _conv_bn(x, f"{name}c1", filters, 3, gamma=False, relu=False)
  return layers.Add(name=f"{name}sum")([shortcut, x])


def _softmax_linear(x):
  x = _conv_bn(x, "softmax_linear", NUM_CLASSES, 1, relu=False)
  return layers.Flatten(name="logits")(x)


def _conv_bn(x, name, filters, kernel_size, stride=1, padding="same", gamma=True, relu=True):
  x = layers.Conv2D(filters, kernel_size, stride, padding, use_bias=False, name=name)(x)
  x = layers.BatchNormalization(momentum=0.999, epsilon=0.001, scale=gamma, name=f"{name}_bn")(x)
  return layers.ReLU(name=f"{name}_relu")(x) if relu else x
