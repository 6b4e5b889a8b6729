"""What TensorBoard shows of a stage as it trains."""

import functools

import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram.summary import histogram_pb

SHOWN_IMAGES = 16


class Events:
  """The event file of one run of a stage, in the version's directory; it begins with the first record."""

  def __init__(self, directory):
    self._directory = directory

  @functools.cached_property
  def _writer(self):
    return tf.summary.create_file_writer(str(self._directory))

  def add(self, step, scalars, gammas):
    """Records figures, a dict from name to number, and the distributions of gammas, a dict from path to array."""
    with self._writer.as_default(step):
      for name, value in scalars.items():
        tf.summary.scalar(name, value)
      if gammas:
        # By numpy, since tf.summary.histogram takes milliseconds for each; serialised messages join to one.
        histograms = [histogram_pb(path, values) for path, values in gammas.items()]
        tf.summary.experimental.write_raw_pb(b"".join(message.SerializeToString() for message in histograms))

  def add_images(self, step, images):
    """Shows some images of a batch, (batch, height, width, channels), each from black to white."""
    images = np.asarray(images[:SHOWN_IMAGES])
    low, high = (function(images, axis=(1, 2, 3), keepdims=True) for function in (np.min, np.max))
    with self._writer.as_default(step):
      tf.summary.image("images", (images - low) / np.maximum(high - low, 1e-6), max_outputs=SHOWN_IMAGES)

  def flush(self):
    """Has what was recorded written."""
    self._writer.flush()
