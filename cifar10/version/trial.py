"""Whether a network that was read from a file can be trained, evaluated and squeezed."""

import keras
import tensorflow as tf
from keras import layers

from cifar10.batch_norm import fused
from cifar10.datasets.examples import IMAGE_SHAPE
from cifar10.pruning import ProximalSGD, fold_batch_norms, multiply_adds, penalties, squeeze

# The layers of `models.MODELS`, which squeezing keeps.
_USUAL = (
  layers.InputLayer,
  layers.Conv2D,
  layers.BatchNormalization,
  layers.ReLU,
  layers.Add,
  layers.Flatten,
  layers.AveragePooling2D,
  layers.MaxPooling2D,
)


def try_out(network):
  """Does once what training, evaluating and squeezing will do, unless the network has the usual layers alone.

  Args:
    network: a Keras model from images (batch, 32, 32, 3) to logits.

  Raises:
    Exception: whatever goes wrong.
  """
  usual = isinstance(network.output, keras.KerasTensor) and not isinstance(network, keras.Sequential)
  if usual and all(map(_is_usual, network.layers)):
    return
  images, copy = tf.zeros((2, *IMAGE_SHAPE)), fused(network)
  ProximalSGD(0.0, 0.0, penalties(network)).build(copy.trainable_variables)
  with tf.GradientTape() as tape:
    total = tf.reduce_sum(copy(images, training=True))
  gradients = tape.gradient(total, [variable.value for variable in copy.trainable_variables])
  for variable, gradient in zip(copy.trainable_variables, gradients):
    if gradient is None:
      raise ValueError(f"the loss does not depend on {variable.path} smoothly")
  for smaller in (fold_batch_norms(network), squeeze(network)[0]):
    smaller(images, training=False)
  multiply_adds(network)


def _is_usual(layer):
  if type(layer) not in _USUAL or layer.compute_dtype != "float32" or layer.dtype != "float32":
    return False
  if isinstance(layer, layers.BatchNormalization):
    return len(layer.input.shape) == 4 and layer.axis in (-1, 3, [-1], [3])
  return getattr(layer, "data_format", "channels_last") == "channels_last"
