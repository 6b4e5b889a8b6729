"""How channels flow through a functional Keras model: one short rule per kind of layer.

A channel is made by a convolution or a dense layer (the layers that mix channels), flows through layers that treat
each channel by itself, and is read by the next layers that mix. The graph gives every position along the
channel axis of every tensor

- an id: positions with the same id, in whatever tensors, stay or go together;
- a constant: the value that the position has everywhere and for every input in inference, where it has one;
- whether it is used: whether any output of the model can depend on it.

Constants flow forward, use flows backward. To teach the graph a new kind of layer, write a `Rule` and
`register` it; a layer without a rule is a wall, through which no channel is followed.
"""

import collections
import dataclasses
import math

import keras
import numpy as np

COUPLED_ACTIVATIONS = ("softmax", "log_softmax", "sparsemax", "glu")


@dataclasses.dataclass
class Channels:
  """The positions along the channel axis (the last one) of one tensor.

  Attributes:
    ids: int64 (positions,).
    constant: float64 (positions,); NaN where the position is not constant.
    used: bool (positions,).
  """

  ids: np.ndarray
  constant: np.ndarray
  used: np.ndarray = None


class ChannelGraph:
  """The channels of a functional model, by tensor.

  Attributes:
    nodes: the calls of the model's operations, in the order of execution.
    blocked: dict from channel id to the reason why it cannot be removed: "input", "output", or the name of
      the layer that is a wall.

  Raises:
    ValueError: `model` is not a functional Keras model.
  """

  def __init__(self, model):
    if not isinstance(model, keras.Model) or not hasattr(model, "_nodes_by_depth"):
      raise ValueError(f"{model!r} is no functional Keras model; build it with keras.Model(inputs, outputs)")
    by_depth = model._nodes_by_depth
    self.nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    self.blocked = {}
    self._outputs = {id(tensor) for tensor in model.outputs}
    self._parents = []
    self._channels = {}
    self._readers = {}
    self._rules = _rules_by_node(self.nodes)
    self._flow_constants_forward(model)
    self._resolve_unions()
    self._flow_use_backward(model)

  def rule(self, node):
    """The rule of the node's operation."""
    return self._rules[id(node)]

  def mixing_nodes(self):
    """The calls of layers that mix channels, in the order of execution."""
    return [node for node in self.nodes if self.rule(node).mixes]

  def of(self, tensor):
    """The `Channels` of a tensor of the model."""
    return self._channels[id(tensor)]

  def tensors(self):
    """The `Channels` of all tensors."""
    return self._channels.values()

  def readers(self, tensor):
    """The nodes that a tensor goes into."""
    return self._readers.get(id(tensor), [])

  def is_output(self, node):
    """Whether an output of the node is one of the model."""
    return any(id(tensor) in self._outputs for tensor in node.outputs)

  def new_ids(self, count):
    """Makes `count` new channels."""
    first = len(self._parents)
    self._parents.extend(range(first, first + count))
    return np.arange(first, first + count)

  def unite(self, ids, others):
    """Declares that channels `ids[i]` and `others[i]` stay or go together."""
    for one, other in zip(ids, others):
      one, other = self._root(one), self._root(other)
      self._parents[max(one, other)] = min(one, other)

  def block(self, ids, reason):
    """Declares that channels cannot be removed."""
    for channel in ids:
      self.blocked.setdefault(int(channel), reason)

  def _root(self, channel):
    while self._parents[channel] != channel:
      channel = self._parents[channel]
    return channel

  def _flow_constants_forward(self, model):
    for node in self.nodes:
      for tensor in node.input_tensors:
        self._readers.setdefault(id(tensor), []).append(node)
      for tensor, channels in zip(node.outputs, self.rule(node).forward(self, node)):
        self._channels[id(tensor)] = channels
    for tensor in model.outputs:
      self.block(self.of(tensor).ids, "output")

  def _resolve_unions(self):
    for channels in self.tensors():
      channels.ids = np.array([self._root(channel) for channel in channels.ids])
    blocked, self.blocked = self.blocked, {}
    for channel, reason in blocked.items():
      self.block([self._root(channel)], reason)

  def _flow_use_backward(self, model):
    for channels in self.tensors():
      channels.used = np.zeros(len(channels.ids), bool)
    for tensor in model.outputs:
      self.of(tensor).used[:] = True
    for node in reversed(self.nodes):
      for tensor, used in zip(node.input_tensors, self.rule(node).backward(self, node)):
        self.of(tensor).used |= used


class Rule:
  """What the graph needs to know of a kind of layer; by default, of one that treats each channel by itself.

  Attributes:
    mixes: whether outputs depend on several input channels, through a kernel (..., inputs, outputs).
    owns_weights: whether the layer has weights for each channel.
  """

  mixes = False
  owns_weights = False

  def applies(self, node):
    """Whether the rule holds for this call; else the layer is a wall."""
    return getattr(node.operation, "data_format", "channels_last") == "channels_last"

  def constant(self, layer, constant):
    """The constants after the layer, from those before it."""
    return constant

  def forward(self, graph, node):
    """The `Channels` of each output of the call, which may add ids, unions and blocks to the graph."""
    channels = graph.of(node.input_tensors[0])
    return [Channels(channels.ids, self.constant(node.operation, channels.constant))]

  def backward(self, graph, node):
    """Which positions of each input are used, given which positions of the output are."""
    return [graph.of(node.outputs[0]).used] * len(node.input_tensors)

  def squeezed(self, layer, keep_in, keep_out):
    """The layer without some of its channels.

    Args:
      layer: the layer.
      keep_in: bool array, which positions of its input stay.
      keep_out: bool array, which positions of its output stay.

    Returns:
      Changes to the layer's config, and its weights by attribute name as float arrays.
    """
    return {}, {}


RULES = {}


def register(layer_class, rule):
  """Makes `rule` the rule of `layer_class`; subclasses need their own."""
  RULES[layer_class] = rule


def _rules_by_node(nodes):
  calls = collections.Counter(id(node.operation) for node in nodes)
  rules = {}
  for node in nodes:
    rule = RULES.get(type(node.operation), Wall())
    shares_weights = rule.owns_weights and calls[id(node.operation)] > 1
    followed = len(node.outputs) == 1 and not shares_weights and rule.applies(node)
    rules[id(node)] = rule if followed else Wall()
  return rules


class Wall(Rule):
  """A layer that the graph knows nothing about: what reaches it stays as it is."""

  def forward(self, graph, node):
    for tensor in node.input_tensors:
      graph.block(graph.of(tensor).ids, node.operation.name)
    return [_opaque(graph, tensor, node.operation.name) for tensor in node.outputs]

  def backward(self, graph, node):
    return [np.ones(len(graph.of(tensor).ids), bool) for tensor in node.input_tensors]


class Input(Rule):
  """An input of the model: its channels stay."""

  def forward(self, graph, node):
    return [_opaque(graph, node.outputs[0], "input")]

  def backward(self, graph, node):
    return []


class Elementwise(Rule):
  """An activation that maps every value by itself."""

  def applies(self, node):
    return getattr(node.operation, "activation", None) is None or not _is_coupled(node.operation)

  def constant(self, layer, constant):
    return _apply(layer, constant)


class BatchNorm(Rule):
  """gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta; a gamma of 0 is a shut gate."""

  owns_weights = True

  def applies(self, node):
    layer = node.operation
    return layer.axis in (-1, len(node.outputs[0].shape) - 1) and not layer.renorm

  def constant(self, layer, constant):
    gamma, beta, mean, variance = _batch_norm_weights(layer)
    value = gamma * (constant - mean) / np.sqrt(variance + layer.epsilon) + beta
    return np.where(gamma == 0, beta, value)

  def backward(self, graph, node):
    return [graph.of(node.outputs[0]).used & (_batch_norm_weights(node.operation)[0] != 0)]

  def squeezed(self, layer, keep_in, keep_out):
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    weights = {name: getattr(layer, name) for name in names}
    return {}, {name: _array(w)[keep_out] for name, w in weights.items() if w is not None}


class Mixer(Rule):
  """A convolution or a dense layer: activation(kernel * x + bias), kernel (..., inputs, outputs)."""

  mixes = True
  owns_weights = True

  def applies(self, node):
    layer = node.operation
    quantized = getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False)
    return super().applies(node) and getattr(layer, "groups", 1) == 1 and not quantized

  def forward(self, graph, node):
    layer = node.operation
    kernel = self.kernel(layer)
    constant = graph.of(node.input_tensors[0]).constant
    varies = np.isnan(constant) | (self.pads(node) & (constant != 0))
    connected = self.connected(layer)
    outputs = np.nan_to_num(constant) @ kernel.sum(axis=0)
    if layer.use_bias:
      outputs = outputs + _array(layer.bias)
    outputs = _apply(layer.activation, outputs)
    outputs = np.where((connected & varies[:, None]).any(axis=0), np.nan, outputs)
    ids = graph.new_ids(kernel.shape[-1])
    if _is_coupled(layer):
      graph.block(ids, layer.name)
      outputs[:] = np.nan
    return [Channels(ids, outputs)]

  def backward(self, graph, node):
    used = graph.of(node.outputs[0]).used
    return [(self.connected(node.operation) & used).any(axis=1)]

  def kernel(self, layer):
    """The kernel as float64 (kernel positions, inputs, outputs)."""
    kernel = _array(layer.kernel).astype(np.float64)
    return kernel.reshape(-1, *kernel.shape[-2:])

  def connected(self, layer):
    """Which inputs have a weight other than 0 to which outputs: bool (inputs, outputs)."""
    return (self.kernel(layer) != 0).any(axis=0)

  def pads(self, node):
    """Whether the kernel reaches over the border of the input, where it reads zeros."""
    layer = node.operation
    if getattr(layer, "padding", "valid") == "valid":
      return False
    sizes = node.input_tensors[0].shape[1:-1]
    return any(
      size is None or (math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 > size
      for size, kernel, stride, dilation in zip(sizes, layer.kernel_size, layer.strides, layer.dilation_rate)
    )

  def squeezed(self, layer, keep_in, keep_out):
    size = "units" if hasattr(layer, "units") else "filters"
    weights = {"kernel": _array(layer.kernel)[..., keep_in, :][..., keep_out]}
    if layer.use_bias:
      weights["bias"] = _array(layer.bias)[keep_out]
    return {size: int(keep_out.sum())}, weights


class Sum(Rule):
  """A sum of tensors of one shape: a channel stays in all the terms or in none."""

  def applies(self, node):
    return len({tensor.shape for tensor in node.input_tensors}) == 1

  def forward(self, graph, node):
    first, *others = [graph.of(tensor) for tensor in node.input_tensors]
    for other in others:
      graph.unite(first.ids, other.ids)
    return [Channels(first.ids, sum(term.constant for term in (first, *others)))]


class Flatten(Rule):
  """(height, width, channels) in one row: every channel once for each pixel."""

  def applies(self, node):
    return super().applies(node) and None not in node.outputs[0].shape[1:]

  def forward(self, graph, node):
    channels = graph.of(node.input_tensors[0])
    pixels = node.outputs[0].shape[-1] // len(channels.ids)
    return [Channels(np.tile(channels.ids, pixels), np.tile(channels.constant, pixels))]

  def backward(self, graph, node):
    positions = len(graph.of(node.input_tensors[0]).ids)
    return [graph.of(node.outputs[0]).used.reshape(-1, positions).any(axis=0)]


def _opaque(graph, tensor, reason):
  """Channels that are not constant and cannot be removed."""
  positions = tensor.shape[-1] if len(tensor.shape) > 1 else None
  ids = graph.new_ids(positions or 1)
  graph.block(ids, reason)
  return Channels(ids, np.full(len(ids), np.nan))


def _array(variable):
  return keras.ops.convert_to_numpy(variable)


def _apply(function, constant):
  known = ~np.isnan(constant)
  result = np.full(len(constant), np.nan)
  result[known] = keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(constant[known])))
  return result


def _is_coupled(layer):
  """Whether the layer's activation mixes channels, or might, being none that Keras knows."""
  name = getattr(layer.activation, "__name__", "")
  return name in COUPLED_ACTIVATIONS or not hasattr(keras.activations, name)


def _batch_norm_weights(layer):
  mean, variance = _array(layer.moving_mean), _array(layer.moving_variance)
  gamma = _array(layer.gamma) if layer.scale else np.ones_like(mean)
  beta = _array(layer.beta) if layer.center else np.zeros_like(mean)
  return [array.astype(np.float64) for array in (gamma, beta, mean, variance)]


register(keras.layers.InputLayer, Input())
register(keras.layers.Conv2D, Mixer())
register(keras.layers.Dense, Mixer())
register(keras.layers.BatchNormalization, BatchNorm())
register(keras.layers.Add, Sum())
register(keras.layers.Flatten, Flatten())
for _layer in ("Activation", "ReLU", "LeakyReLU", "ELU"):
  register(getattr(keras.layers, _layer), Elementwise())
for _layer in (
  "MaxPooling2D",
  "AveragePooling2D",
  "GlobalAveragePooling2D",
  "GlobalMaxPooling2D",
  "Dropout",
  "SpatialDropout2D",
):
  register(getattr(keras.layers, _layer), Rule())
