"""Tests of grouped convolutions: as many channels go from each group as from that of the fewest dead ones."""

from unittest import mock

import keras
import numpy as np
import pytest
from builders import conv_bn, image
from flows import connect, gate, read, squeeze_and_check
from keras import layers

from cifar10.pruning import penalties, plan, rules, squeeze

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def grouped(randomize, shut):
  """A function: 6 channels "a" in 2 groups, mixed into 8 channels "b", of which some are dead, by beta."""

  def grouped(a, b, **arguments):
    images = image()
    x = layers.ReLU()(gate(images, "a", filters=6))
    x = layers.Conv2D(8, 3, groups=2, name="b", **arguments)(x)
    x = layers.Activation("swish")(layers.BatchNormalization(name="b_bn")(x))
    model = randomize(keras.Model(images, read(x)))
    for name, betas in {"a_bn": a, "b_bn": b}.items():
      shut(model, name, list(betas), list(betas.values()))
    return model

  return grouped


@pytest.mark.parametrize("use_bias", [True, False])
def test_each_group_loses_as_many_as_the_one_with_the_fewest(grouped, use_bias):
  model = grouped({0: 1, 1: 2, 4: 3}, {0: 1, 3: 2, 5: 1, 6: 1, 7: -1}, use_bias=use_bias)
  smaller, removed, kept = squeeze_and_check(model)
  assert removed == {"a": 2, "b": 4}
  assert kept == {"a": {"groups": 1}, "b": {"groups": 1}}
  layer = smaller.get_layer("b")
  assert layer.groups == 2
  assert layer.kernel.shape == (3, 3, 2, 4)


def test_a_group_that_goes_whole_lets_the_others_lose_what_they_can(grouped):
  model = grouped({0: 1, 1: 2, 2: 1, 4: 3}, {0: 1, 1: 1, 2: 1, 3: 1, 6: 2})
  smaller, removed, kept = squeeze_and_check(model)
  assert (removed, kept) == ({"a": 4, "b": 5}, {})
  assert smaller.get_layer("b").groups == 1


def test_a_group_without_inputs_keeps_one_for_its_outputs(grouped):
  model = grouped({0: 1, 1: 2, 2: 1, 4: 3, 5: 1}, {})
  connect(model, "b", [0, 1, 2], [])
  model.get_layer("b_bn").gamma.assign(np.ones(8))
  _, removed, kept = squeeze_and_check(model, keep=["b"])
  assert (removed, kept["a"]) == ({"a": 4}, {"groups": 1})


def test_in_a_padded_one_each_group_has_its_carriers(grouped):
  model = grouped({0: 1, 1: 2, 3: 3, 4: 1}, {}, padding="same")
  _, removed, kept = squeeze_and_check(model)
  assert removed == {"a": 2}
  assert kept == {"a": {"carrier": 2}}


def test_widths_are_filled_and_balanced(grouped):
  model = grouped({0: 1, 1: 2, 4: 3, 5: 1}, {0: 1, 1: 1, 2: 1, 5: 1, 6: 1, 7: 1})
  assert squeeze_and_check(model)[1] == {"a": 4, "b": 6}
  for arguments in ({"multiple_of": 4}, {"min_channels": 3}):
    smaller, *_ = squeeze_and_check(model, **arguments)
    assert [smaller.get_layer(name).filters for name in ("a", "b")] == [4, 4]
  assert squeeze_and_check(model, multiple_of=3)[0].get_layer("b").filters == 6


def test_as_many_groups_as_channels_are_a_depthwise_convolution(randomize, shut):
  images = image()
  x = gate(images, "a")
  x = layers.Conv2D(8, 3, groups=4, use_bias=False, name="b")(x)
  model = randomize(keras.Model(images, read(layers.BatchNormalization(name="b_bn")(x))))
  shut(model, "a_bn", [0, 3], [1, 2])
  smaller, removed, _ = squeeze_and_check(model)
  assert removed == {"a": 2, "b": 4}
  assert smaller.get_layer("b").groups == 2


def regnet(widths=(8, 16), group_width=4):
  """RegNetX's blocks: 1 x 1, 3 x 3 in groups, 1 x 1, beside a shortcut."""
  images = image()
  x = conv_bn(images, "stem", 6, stride=2)
  for stage, width in enumerate(widths):
    for block in range(2):
      name, stride = f"s{stage}b{block}", 1 + (block == 0)
      y = conv_bn(x, f"{name}_1", width, 1)
      y = conv_bn(y, f"{name}_2", width, 3, stride, groups=width // group_width)
      y = conv_bn(y, f"{name}_3", width, 1, activation=None)
      x = conv_bn(x, f"{name}_0", width, 1, stride, activation=None) if block == 0 else x
      x = layers.ReLU(name=f"{name}_out")(layers.Add()([x, y]))
  return keras.Model(images, layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_blocks_of_regnet(randomize, share):
  model = randomize(regnet())
  rng = np.random.default_rng(1)
  for layer in model.layers:
    if isinstance(layer, layers.BatchNormalization):
      layer.gamma.assign(layer.gamma.numpy() * (rng.random(layer.gamma.shape[0]) > share))
  smaller, removed, _ = squeeze_and_check(model)
  assert {f"s{stage}b{block}_2" for stage in (0, 1) for block in (0, 1)} <= set(removed)
  assert squeeze(model, exact=False)[1].parameters_after <= smaller.count_params()


def test_a_grouped_kernel_is_not_made_dense():
  layer = layers.Conv2D(64, 3, groups=8)
  model = keras.Sequential([keras.Input((8, 8, 64)), layer])
  sizes = []
  kernel = rules.Grouped.kernel

  def noted(rule, layer):
    sizes.append(kernel(rule, layer).size)
    return kernel(rule, layer)

  with mock.patch.object(rules.Grouped, "kernel", noted):
    plan(model)
  assert sizes
  assert max(sizes) == layer.kernel.numpy().size


def test_penalties_build_the_graph_once(monkeypatch):
  from cifar10.pruning import sparsity

  made = []
  graph = sparsity.ChannelGraph
  monkeypatch.setattr(sparsity, "ChannelGraph", lambda *args, **kwargs: made.append(1) or graph(*args, **kwargs))
  assert penalties(regnet())
  assert len(made) == 1
