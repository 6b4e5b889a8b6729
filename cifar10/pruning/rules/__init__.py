"""The rules of the channel graph for Keras' own layers and operations, one class a kind.

`README.md` in this folder shows how to write one for a layer of one's own.

>>> import keras
>>> from cifar10.pruning import plan, register, rules
>>> @keras.saving.register_keras_serializable("example")
... class OwnDense(keras.layers.Dense):
...   "A dense layer by another name."
>>> register(OwnDense, rules.Mixer())
>>> plan(keras.Sequential([keras.Input((3,)), OwnDense(4, name="own"), keras.layers.Dense(2)])).layers["own"].channels
4
"""

from cifar10.pruning.rules.arrangement import Concatenation, Rearrangement, Reduction, Repeat, Stack, Total
from cifar10.pruning.rules.base import Channels, Rule, Squeezed, Wall
from cifar10.pruning.rules.channelwise import Activation, Clip, Elementwise, Function, Passing, Product, Sum
from cifar10.pruning.rules.convolutions import Depthwise, Grouped, Mixer, Separable, Transposed
from cifar10.pruning.rules.kernels import KernelRule
from cifar10.pruning.rules.readers import Reader
from cifar10.pruning.rules.scales import Affine, BatchNorm, ParametricRelu, PerChannel
from cifar10.pruning.rules.slicing import GetItem, Slice, Split
from cifar10.pruning.rules.spatial import Maximum, Padding, Resizing, Spatial, ZeroPadding

__all__ = [
  "Activation",
  "Affine",
  "BatchNorm",
  "Channels",
  "Clip",
  "Concatenation",
  "Depthwise",
  "Elementwise",
  "Function",
  "GetItem",
  "Grouped",
  "KernelRule",
  "Maximum",
  "Mixer",
  "Padding",
  "ParametricRelu",
  "Passing",
  "PerChannel",
  "Product",
  "Reader",
  "Rearrangement",
  "Reduction",
  "Repeat",
  "Resizing",
  "Rule",
  "Separable",
  "Slice",
  "Spatial",
  "Split",
  "Squeezed",
  "Stack",
  "Sum",
  "Total",
  "Transposed",
  "Wall",
  "ZeroPadding",
]
