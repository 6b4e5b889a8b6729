"""Residual networks in PyTorch, with the weights of Keras models, for the scripts that compare with Torch-Pruning."""

import re

import keras
import numpy as np
import torch
from torch import nn

IMAGE = torch.zeros(1, 3, 32, 32)


class ConvNorm(nn.Sequential):
  """A convolution and its batch norm, padded as TensorFlow pads, from layers of Keras."""

  def __init__(self, layer, norm, relu=True):
    size, _, inputs, outputs = layer.kernel.shape
    stride = layer.strides[0]
    padding = max(size - stride, 0)
    parts = [nn.Conv2d(inputs, outputs, size, stride, bias=False), nn.BatchNorm2d(outputs, eps=norm.epsilon)]
    if padding:
      parts.insert(0, nn.ZeroPad2d((padding // 2, padding - padding // 2) * 2))
    super().__init__(*parts, *([nn.ReLU()] if relu else []))
    with torch.no_grad():
      parts[-2].weight.copy_(tensor(layer.kernel).permute(3, 2, 0, 1))
      if norm.scale:
        parts[-1].weight.copy_(tensor(norm.gamma))
      for own, theirs in (("bias", "beta"), ("running_mean", "moving_mean"), ("running_var", "moving_variance")):
        getattr(parts[-1], own).copy_(tensor(getattr(norm, theirs)))


class Block(nn.Module):
  """A residual block of two convolutions, with a shortcut that is a third one or nothing, and a ReLU behind or not."""

  def __init__(self, first, second, shortcut=None, relu=False):
    super().__init__()
    self.shortcut = nn.Identity() if shortcut is None else shortcut
    self.convolutions = nn.Sequential(first, second)
    self.end = nn.ReLU() if relu else nn.Identity()

  def forward(self, x):
    """The sum of both ways."""
    return self.end(self.shortcut(x) + self.convolutions(x))


def resnet20_in_torch(model):
  """`cifar10.models.resnet20` in PyTorch, with the weights of the Keras model."""

  def conv_norm(name, relu=True):
    return ConvNorm(model.get_layer(name), model.get_layer(f"{name}_bn"), relu)

  def block(name):
    projected = any(layer.name == f"{name}p" for layer in model.layers)
    shortcut = conv_norm(f"{name}p", relu=False) if projected else None
    return Block(conv_norm(f"{name}c0"), conv_norm(f"{name}c1", relu=False), shortcut)

  blocks = [block(f"g{group}b{number}") for group in range(3) for number in range(3)]
  head = [nn.AvgPool2d(8), conv_norm("softmax_linear", relu=False), nn.Flatten()]
  return nn.Sequential(conv_norm("first_conv"), *blocks, *head).eval()


def resnet_v1_in_torch(model):
  """`compare_thresholds.resnet` in PyTorch, with the weights of the Keras model."""

  def in_order(kind):
    found = [layer for layer in model.layers if isinstance(layer, kind)]
    return sorted(found, key=lambda layer: int((re.search(r"_([0-9]+)$", layer.name) or [0, 0])[1]))

  pairs = zip(in_order(keras.layers.Conv2D), in_order(keras.layers.BatchNormalization), strict=True)

  def conv_norm(relu=True):
    return ConvNorm(*next(pairs), relu)

  parts = [conv_norm()]
  for group in range(3):
    for block in range(3):
      shortcut = conv_norm(relu=False) if group > 0 and block == 0 else None
      parts.append(Block(conv_norm(), conv_norm(relu=False), shortcut, relu=True))
  (dense,) = in_order(keras.layers.Dense)
  head = nn.Linear(*dense.kernel.shape)
  with torch.no_grad():
    head.weight.copy_(tensor(dense.kernel).T)
    head.bias.copy_(tensor(dense.bias))
  return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


def tensor(variable):
  """A Keras variable as a tensor of PyTorch."""
  return torch.from_numpy(keras.ops.convert_to_numpy(variable).copy())


def channels_first(batch):
  """A batch of images as PyTorch takes it."""
  return torch.from_numpy(np.moveaxis(batch, -1, 1).copy())


def parameters_of(network):
  """Moving statistics among them, as Keras counts them; PyTorch has a gamma for each batch norm."""
  return sum(each.numel() for each in [*network.parameters(), *network.buffers()] if each.dim())
