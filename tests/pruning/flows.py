"""What the tests of the channel graph share: what it says of a tensor, held against the tensor's values."""

import contextlib
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from builders import image
from keras import layers, ops

from cifar10.pruning import multiply_adds, plan, squeeze
from cifar10.pruning.calls import as_functional
from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.opening import opened

NAN = np.nan


def end():
  """A convolution that lets nothing else reach the output."""
  return layers.Conv2D(2, 1, name="end")


def read(x, data_format="channels_last"):
  """`end` for a tensor of any rank: a dense layer, or a convolution of size 1."""
  rank = len(x.shape) - 2
  return (layers.Dense(2, name="end") if rank == 0 else convolution(rank, 2, "end", data_format))(x)


def convolution(rank, filters, name, data_format="channels_last", **arguments):
  """A convolution over `rank` axes, of size 1."""
  return getattr(layers, f"Conv{rank}D")(filters, 1, data_format=data_format, name=name, **arguments)


def gate(x, name, filters=4, data_format="channels_last"):
  """A convolution of size 1, or a dense layer, and its batch norm."""
  rank = len(x.shape) - 2
  if rank == 0:
    maker = layers.Dense(filters, use_bias=False, name=name)
  else:
    maker = convolution(rank, filters, name, data_format, use_bias=False)
  axis = 1 if data_format == "channels_first" else -1
  return layers.BatchNormalization(axis=axis, name=f"{name}_bn")(maker(x))


def gated_model(randomize, shut, *tail, shape=(9, 9, 3), data_format="channels_last", betas=None):
  """The model that `tail` makes of four gated channels "a", of which by default 1 and 3 are -2 and 2."""
  images = image(*shape)
  x = gate(images, "a", data_format=data_format)
  for layer in tail:
    x = layer(x)
  model = randomize(keras.Model(images, x))
  betas = {1: -2, 3: 2} if betas is None else betas
  shut(model, "a_bn", list(betas), list(betas.values()))
  return model


def sizes(rank, size=9, channels=3, data_format="channels_last"):
  """The shape of an image of `rank` axes, without the batch."""
  space = (size,) * rank
  return (channels, *space) if data_format == "channels_first" else (*space, channels)


def of(model, name):
  """The `Channels` of the output of a layer."""
  return ChannelGraph(model).of(model.get_layer(name).output)


def constants(model, name):
  """The constants that the graph gives of the output of a layer, after a check against its values.

  A constant position has its constant everywhere, the borders aside where the graph says so; another varies.
  """
  channels = of(model, name)
  (values,) = outputs(keras.Model(model.input, model.get_layer(name).output))
  values = np.moveaxis(values, channels.axis, -1)
  assert (values.reshape(-1, len(channels.known))[:, ~channels.known].std(axis=0) > 1e-6).all()
  inner = values[(slice(None),) + (slice(2, -2),) * (values.ndim - 2)]
  for array, known in ((values, channels.known), (inner, ~np.isnan(channels.constant))):
    expected = np.broadcast_to(channels.constant[known], array[..., known].shape)
    np.testing.assert_allclose(array[..., known], expected, rtol=1e-6)
  return channels.constant


def random_images(model, seed=9):
  """Noise for a model, 8 of each input, in the structure of its inputs."""
  rng = np.random.default_rng(seed)
  return keras.tree.map_structure(
    lambda tensor: rng.normal(size=(8, *tensor.shape[1:])) * 3, as_functional(opened(model).model).input
  )


def is_opaque(model, name):
  """Whether the graph follows no channels in the output of a layer."""
  return of(model, name).axis is None


def ids(model, name):
  return of(model, name).ids.tolist()


def used(model, name):
  return of(model, name).used.tolist()


def reasons(model, name):
  """Why the channels of the output of a layer cannot be removed; None for those that can."""
  return [ChannelGraph(model).blocked.get(channel) for channel in ids(model, name)]


def connect(model, name, outputs, inputs):
  """Sets the kernel's weights to `outputs` from all inputs but `inputs` to 0."""
  kernel = model.get_layer(name).kernel
  array = kernel.numpy()
  others = [i for i in range(array.shape[-2]) if i not in inputs]
  for output in outputs:
    array[..., others, output] = 0
  kernel.assign(array)


def squeeze_and_check(model, **arguments):
  """Squeezes exactly; asserts that the function and the model stay, and that nothing was overlooked.

  Returns:
    (smaller, {name of a convolution or dense layer: channels removed, where any were},
    {its name: dead channels kept by reason, where any were}).
  """
  weights = model.get_weights()
  smaller, report = squeeze(model, exact=True, **arguments)
  for before, after in zip(weights, model.get_weights(), strict=True):
    np.testing.assert_array_equal(before, after)
  assert_same_function(model, smaller)
  assert report == plan(model, exact=True, **arguments)
  assert report.parameters_after == smaller.count_params()
  assert report.multiply_adds_after == multiply_adds(smaller)
  again = plan(smaller, exact=True, **arguments)
  assert sum(layer.removed for layer in again.layers.values()) == 0
  removed = {name: layer.removed for name, layer in report.layers.items() if layer.removed}
  kept = {name: layer.kept_though_dead for name, layer in report.layers.items() if layer.kept_though_dead}
  return smaller, removed, kept


def assert_same_function(model, other):
  """Asserts that two models compute the same to 1e-9 of the norm of each output."""
  for y, z in zip(outputs(model), outputs(other), strict=True):
    assert y.shape == z.shape
    assert np.linalg.norm(z - y) <= 1e-9 * (np.linalg.norm(y) + 1e-3)


def outputs(model):
  """What a model makes of random images, in inference: a list of arrays.

  TensorFlow has no convolutions with channels first on a CPU, and Keras 3.15 adds a bias along the last axis instead
  of the first where both are as long: here both are put right.
  """
  backend = keras.src.backend
  names = ("conv", "depthwise_conv", "separable_conv", "conv_transpose")
  convolutions = {name: _transposing(getattr(backend.nn, name)) for name in names}
  with contextlib.ExitStack() as stack:
    if keras.backend.backend() == "tensorflow":
      stack.enter_context(mock.patch.multiple(backend.nn, **convolutions))
      stack.enter_context(mock.patch.object(backend.numpy, "add", tf.add))
    results = model(random_images(model), training=False)
  return [ops.convert_to_numpy(y) for y in keras.tree.flatten(results)]


def _transposing(convolution):
  def convolve(inputs, *arguments):
    formats = [a for a in arguments if isinstance(a, str) and a == "channels_first"]
    if not formats:
      return convolution(inputs, *arguments)
    arguments = ["channels_last" if a is formats[0] else a for a in arguments]
    return ops.moveaxis(convolution(ops.moveaxis(inputs, 1, -1), *arguments), -1, 1)

  return convolve
