"""Batch norm by TensorFlow's fused operation, for training.

Keras 3 computes batch norm on TensorFlow from single operations. `FusedBatchNormV3` is faster, and, like the
reference, puts the unbiased variance of the batch (N/(N-1) times the biased one) into the moving variance.
Networks train with it; what is saved holds Keras' own layer, in float32 (`unfused`).
"""

import keras
import tensorflow as tf

from cifar10.pruning import register, rules

# On a CPU TensorFlow's fused batch norm of any other number of channels is several times slower, so that squeezed
# networks would train slower than full ones. Channels are independent of each other: zeros fill the last block up.
CHANNEL_BLOCK = 16


class FusedBatchNormalization(keras.layers.BatchNormalization):
  """Keras' BatchNormalization for (batch, height, width, channels), channels last; a mask is ignored.

  With `synchronized` it takes the statistics of a batch over all replicas, by single operations.
  """

  def call(self, inputs, training=None, mask=None):
    training = bool(training and self.trainable)
    if training and self.synchronized:
      outputs, mean, variance = self._normalized_over_replicas(inputs)
    else:
      outputs, mean, variance = self._normalized(inputs, training)
    if training:
      self.moving_mean.value.assign_sub((1 - self.momentum) * (self.moving_mean.value - mean))
      self.moving_variance.value.assign_sub((1 - self.momentum) * (self.moving_variance.value - variance))
    return outputs

  def _normalized(self, inputs, training):
    channels = inputs.shape[-1]
    padding = -channels % CHANNEL_BLOCK
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
      # Not values[..., :channels], whose gradient TensorFlow computes on one thread, several times slower.
      outputs = tf.slice(outputs, [0, 0, 0, 0], [-1, -1, -1, channels])
    return outputs, mean[:channels], variance[:channels]

  def _normalized_over_replicas(self, inputs):
    context, axes = tf.distribute.get_replica_context(), [0, 1, 2]
    x = tf.cast(inputs, tf.float32)
    moments = [tf.reduce_mean(x, axes), tf.reduce_mean(tf.square(x), axes)]
    mean, mean_of_squares = context.all_reduce(tf.distribute.ReduceOp.MEAN, moments)
    variance = tf.maximum(mean_of_squares - tf.square(mean), 0.0)
    gamma, beta = self.gamma.value if self.scale else None, self.beta.value if self.center else None
    outputs = tf.nn.batch_normalization(x, mean, variance, beta, gamma, self.epsilon)
    count = tf.cast(tf.size(x) / x.shape[-1] * context.num_replicas_in_sync, tf.float32)
    return tf.cast(outputs, inputs.dtype), mean, variance * count / tf.maximum(count - 1, 1)


register(FusedBatchNormalization, rules.BatchNorm())


def _padded(values, padding):
  return tf.pad(values, [[0, 0]] * (values.shape.rank - 1) + [[0, padding]]) if padding else values


def fused(model, dtype_policy="float32", synchronized=False, momentum=None):
  """Returns a copy of `model`, weights included, to train: its batch norms are fused.

  Args:
    model: a functional Keras model in float32.
    dtype_policy: name of a `keras.dtype_policies.DTypePolicy` for its layers; variables stay float32.
    synchronized: whether batch norms take the statistics of a batch over all replicas.
    momentum: of the moving statistics, a float from 0 to 1; by default that which each batch norm has.
  """
  settings = {"synchronized": synchronized, **({} if momentum is None else {"momentum": momentum})}
  return _with_batch_norm(model, FusedBatchNormalization, dtype_policy, settings)


def unfused(model):
  """Returns a copy of `model`, weights included, that holds standard Keras layers alone, in float32."""
  return _with_batch_norm(model, keras.layers.BatchNormalization, "float32", {"synchronized": False})


def batch_norm_momentum(model):
  """The momentum of the moving statistics of a model's first batch norm; None without one."""
  found = (layer.momentum for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
  return next(found, None)


def _with_batch_norm(model, batch_norm, dtype_policy, settings):
  def clone(layer):
    config = layer.get_config()
    if isinstance(layer, keras.layers.Layer) and not isinstance(layer, keras.layers.InputLayer):
      config["dtype"] = dtype_policy  # What is no layer is an operation like the + of Python, and has none.
    if not isinstance(layer, keras.layers.BatchNormalization):
      return type(layer).from_config(config)
    return batch_norm.from_config({**config, **settings})

  copy = keras.models.clone_model(model, clone_function=clone)
  copy.set_weights(model.get_weights())
  return copy
