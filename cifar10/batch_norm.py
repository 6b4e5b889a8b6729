"""Batch norm by TensorFlow's fused operation, for training.

Keras 3 computes batch norm on TensorFlow from single operations. `FusedBatchNormV3` is faster, and, like the
reference, puts the unbiased variance of the batch (N/(N-1) times the biased one) into the moving variance.
Networks train with it; what is saved holds Keras' own layer (`unfused`).
"""

import keras
import tensorflow as tf

from cifar10.pruning import register, rules

# On a CPU TensorFlow's fused batch norm of any other number of channels is several times slower, so that squeezed
# networks would train slower than full ones. Channels are independent of each other: zeros fill the last block up.
CHANNEL_BLOCK = 16


class FusedBatchNormalization(keras.layers.BatchNormalization):
  """Keras' BatchNormalization for (batch, height, width, channels), channels last; a mask is ignored."""

  def call(self, inputs, training=None, mask=None):
    channels = inputs.shape[-1]
    padding = -channels % CHANNEL_BLOCK
    training = bool(training and self.trainable)
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
      x=_padded(inputs, padding),
      scale=_padded(self.gamma.value if self.scale else tf.ones(channels), padding),
      offset=_padded(self.beta.value if self.center else tf.zeros(channels), padding),
      mean=tf.zeros(0) if training else _padded(self.moving_mean.value, padding),
      variance=tf.zeros(0) if training else _padded(self.moving_variance.value, padding),
      epsilon=self.epsilon,
      is_training=training,
    )
    if padding:
      outputs, mean, variance = (values[..., :channels] for values in (outputs, mean, variance))
    if training:
      self.moving_mean.value.assign_sub((1 - self.momentum) * (self.moving_mean.value - mean))
      self.moving_variance.value.assign_sub((1 - self.momentum) * (self.moving_variance.value - variance))
    return outputs


register(FusedBatchNormalization, rules.BatchNorm())


def _padded(values, padding):
  return tf.pad(values, [[0, 0]] * (values.shape.rank - 1) + [[0, padding]]) if padding else values


def fused(model):
  """Returns a copy of `model`, weights included, whose batch norms are fused."""
  return _with_batch_norm(model, FusedBatchNormalization)


def unfused(model):
  """Returns a copy of `model`, weights included, that holds standard Keras layers alone."""
  return _with_batch_norm(model, keras.layers.BatchNormalization)


def _with_batch_norm(model, batch_norm):
  def clone(layer):
    is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
    return (batch_norm if is_batch_norm else type(layer)).from_config(layer.get_config())

  copy = keras.models.clone_model(model, clone_function=clone)
  copy.set_weights(model.get_weights())
  return copy
