"""Tests of cifar10.pruning.rules.spatial: zeros that a layer or an operation of its own puts around an image."""

import functools

import keras
import numpy as np
import pytest
from builders import image
from flows import gate, ids, of, read, reasons, squeeze_and_check
from keras import layers, ops

from cifar10.pruning import squeeze

pytestmark = pytest.mark.usefixtures("float64")

BETAS = {0: 0, 1: -2, 3: 2}
CARRIED = ({"a": 2}, {"a": {"carrier": 1}})
pad = functools.partial(ops.pad, pad_width=((0, 0), (1, 0), (1, 2), (0, 0)))


def convolved(filters=2, **arguments):
  return layers.Conv2D(filters, 3, **arguments)


@pytest.mark.parametrize(
  "tail",
  [
    lambda: (layers.ZeroPadding2D(),),
    lambda: (pad,),
    lambda: (functools.partial(pad, constant_values=0.0),),
    lambda: (layers.ZeroPadding2D(), pad),
    lambda: (layers.ZeroPadding2D(), layers.Dropout(0.5)),
    lambda: (layers.ZeroPadding2D(), layers.ReLU(negative_slope=0.5)),
    lambda: (layers.ZeroPadding2D(3), layers.AveragePooling2D(2)),
    lambda: (layers.ZeroPadding2D(3), layers.Cropping2D(2)),
    lambda: (layers.ZeroPadding2D(), layers.UpSampling2D(2, interpolation="bilinear")),
  ],
)
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_zeros_count_as_those_of_the_convolution_behind_them(gated, tail, padding):
  model = gated(*tail(), convolved(padding=padding), betas=BETAS)
  assert squeeze_and_check(model)[1:] == CARRIED


def test_the_paper_s_way_needs_no_carrier(gated):
  model = gated(layers.ZeroPadding2D(), convolved(), betas=BETAS)
  _, report = squeeze(model, exact=False)
  assert report.layers["a"].removed == 3


def test_of_max_pooling_one_carries_for_each_sign(gated):
  model = gated(layers.ZeroPadding2D(2), layers.MaxPooling2D(2), convolved(), betas={0: 3, 1: -2, 2: -1, 3: 2})
  _, removed, kept = squeeze_and_check(model)
  assert (removed, kept["a"]) == ({"a": 2}, {"carrier": 2})


@pytest.mark.parametrize(
  "tail",
  [
    lambda: (layers.ZeroPadding2D(), layers.Activation("sigmoid"), convolved()),
    lambda: (layers.ZeroPadding2D(), layers.DepthwiseConv2D(3), convolved()),
    lambda: (layers.ZeroPadding2D(), layers.SeparableConv2D(2, 3)),
    lambda: (functools.partial(pad, constant_values=1.0), convolved()),
  ],
)
def test_what_is_no_common_pattern_stays(gated, tail):
  model = gated(*tail(), betas={1: -2, 3: 2})
  assert squeeze_and_check(model)[2]["a"] == {"padding": 2}


def test_a_constant_that_equals_the_padding_goes(gated):
  model = gated(functools.partial(pad, constant_values=-2.0), convolved(), betas={1: -2})
  assert squeeze_and_check(model)[1:] == ({"a": 1}, {})


@pytest.mark.parametrize("mode", ["reflect", "symmetric"])
def test_values_that_are_repeated_spoil_no_constant(gated, mode):
  model = gated(functools.partial(pad, mode=mode), convolved(), betas=BETAS)
  assert squeeze_and_check(model)[1:] == ({"a": 3}, {})


def test_zeros_of_two_readers(randomize, shut):
  images = image()
  x = layers.ZeroPadding2D()(gate(images, "a"))
  model = randomize(
    keras.Model(images, [convolved()(x), layers.Conv2D(3, 1)(x), convolved()(layers.ZeroPadding2D()(x))])
  )
  shut(model, "a_bn", [0, 1, 3], [0, -2, 2])
  assert squeeze_and_check(model)[1:] == CARRIED


def test_a_channel_padded_and_not(randomize, shut):
  images = image()
  x = gate(images, "a")
  both = layers.Concatenate()([layers.ZeroPadding2D()(x), layers.ZeroPadding2D(2)(layers.Cropping2D(1)(x))])
  model = randomize(keras.Model(images, [convolved()(both), layers.Conv2D(2, 1)(x)]))
  shut(model, "a_bn", [0, 1, 3], [0, -2, 2])
  assert squeeze_and_check(model)[1:] == CARRIED


def test_channels_that_a_sum_pads_go_with_it(randomize, shut):
  images = image()
  x = gate(images, "a")
  y = gate(x, "b", filters=7)
  padded = layers.Identity(name="padded")(ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 2))))
  model = randomize(keras.Model(images, read(layers.Add()([padded, y]))))
  shut(model, "a_bn", [0, 2], [1, -1])
  shut(model, "b_bn", [0, 1, 4, 6], [1, 2, 3, 4])
  assert ids(model, "padded") == ids(model, "b")
  assert of(model, "padded").constant[[0, 1, 5, 6]].tolist() == [0, 1, 0, 0]
  smaller, removed, _ = squeeze_and_check(model)
  assert removed == {"a": 1, "b": 3}
  (padding,) = [layer for layer in smaller.operations if type(layer).__name__ == "Pad"]
  assert [tuple(pair) for pair in padding.pad_width] == [(0, 0), (0, 0), (0, 0), (0, 1)]


def test_repeating_along_the_channels_is_not_followed(gated):
  model = gated(lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1)), mode="reflect"), read, betas={1: 1})
  (reason,) = set(reasons(model, "a"))
  assert reason.startswith("pad")


def test_padding_of_images_is_no_wall():
  images = image()
  model = keras.Model(images, gate(ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))), "a"))
  assert squeeze(model)[1].walls == []
  assert np.isnan(of(model, "a").constant).all()
