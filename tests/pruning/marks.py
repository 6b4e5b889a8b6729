"""Marks of tests that not every backend can run."""

import keras
import pytest


def only_on(*backends, reason):
  """Skips a test on all backends but some; the reason says what the others lack."""
  return pytest.mark.skipif(keras.backend.backend() not in backends, reason=reason)


of_tensorflow = only_on("tensorflow", reason="it is about functions, variables or files of TensorFlow")
takes_text = only_on("tensorflow", reason="Keras gives models text on TensorFlow alone")
