"""The rules of the channel graph for Keras' own layers and operations, one class a kind."""

from cifar10.pruning.rules.arrangement import Concatenation, Rearrangement, Reduction
from cifar10.pruning.rules.base import Channels, Rule, Squeezed, Wall
from cifar10.pruning.rules.channelwise import (
  Activation,
  Affine,
  BatchNorm,
  Clip,
  Elementwise,
  ParametricRelu,
  Passing,
  Product,
  Resizing,
  Spatial,
  Sum,
  ZeroPadding,
)
from cifar10.pruning.rules.convolutions import Depthwise, Grouped, Mixer, Separable, Transposed
from cifar10.pruning.rules.kernels import KernelRule

__all__ = [
  "Activation",
  "Affine",
  "BatchNorm",
  "Channels",
  "Clip",
  "Concatenation",
  "Depthwise",
  "Elementwise",
  "Grouped",
  "KernelRule",
  "Mixer",
  "ParametricRelu",
  "Passing",
  "Product",
  "Rearrangement",
  "Reduction",
  "Resizing",
  "Rule",
  "Separable",
  "Spatial",
  "Squeezed",
  "Sum",
  "Transposed",
  "Wall",
  "ZeroPadding",
]
