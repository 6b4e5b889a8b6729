"""Tests of cifar10.pruning.costs, against counts by hand."""

import keras
import pytest
from keras import layers

from cifar10.pruning import multiply_adds


@pytest.mark.parametrize(
  ("shape", "layer", "expected"),
  [
    ((6, 8, 3), lambda: layers.Conv2D(4, (3, 5), 2, "same"), 3 * 4 * 3 * 5 * 3 * 4),
    ((6, 8, 3), lambda: layers.Conv2D(4, 3), 4 * 6 * 3 * 3 * 3 * 4),
    ((6, 8, 4), lambda: layers.Conv2D(8, 3, groups=2, padding="same"), 6 * 8 * 3 * 3 * 2 * 8),
    ((6, 8, 3), lambda: layers.Conv2DTranspose(4, 3, 2), 6 * 8 * 3 * 3 * 3 * 4),
    ((6, 8, 3), lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), 4 * 6 * 3 * 3 * 3 * 2),
    ((6, 8, 3), lambda: layers.SeparableConv2D(4, 3, depth_multiplier=2), 4 * 6 * (3 * 3 * 3 * 2 + 3 * 2 * 4)),
    ((3, 6, 8), lambda: layers.Conv2D(4, 3, data_format="channels_first"), 4 * 6 * 3 * 3 * 3 * 4),
    ((9, 3), lambda: layers.Conv1D(4, 3, padding="causal"), 9 * 3 * 3 * 4),
    ((4, 4, 4, 2), lambda: layers.Conv3D(3, 2), 3**3 * 2**3 * 2 * 3),
    ((9, 3), lambda: layers.Dense(4), 9 * 3 * 4),
    ((3,), lambda: layers.Dense(4), 3 * 4),
    ((None, 8, 3), lambda: layers.Conv2D(4, 3), None),
    ((6, 8, 3), lambda: layers.LayerNormalization(), 0),
  ],
)
def test_multiply_adds_of_each_kind(shape, layer, expected):
  images = keras.Input(shape)
  assert multiply_adds(keras.Model(images, layer()(images))) == expected


def test_multiply_adds_of_shared_layers_count_once_a_call():
  images = keras.Input((6, 6, 3))
  conv = layers.Conv2D(3, 1)
  inner = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(3, 1)])
  assert multiply_adds(keras.Model(images, inner(inner(conv(conv(images)))))) == 4 * 6 * 6 * 3 * 3
