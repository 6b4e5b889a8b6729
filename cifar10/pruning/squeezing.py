"""Removes dead channels from a functional Keras model: fold constants, drop channels, rebuild.

A channel is dead where nothing uses it, or where it is a constant and the layers that read it can do without: the
constant times its weights is added to their bias, or taken off the moving mean of the batch norm behind them
(section 4.3 of the paper).
"""

import collections
import dataclasses
import logging
import math

import keras
import numpy as np

from cifar10.pruning.channel_graph import BatchNorm, ChannelGraph


@dataclasses.dataclass
class LayerReport:
  """The output channels of one convolution or dense layer.

  Attributes:
    channels: how many there were.
    removed: how many went.
    kept_though_dead: dict from reason to how many dead channels stay for it: "carrier" (stands for others
      whose constants cannot pass a padded border), "width" (a layer keeps `multiple_of` channels, or one),
      "shared" (other tensors of a sum, or other readers, need it), "output", or the name of a layer that
      the channel graph has no rule for.
  """

  channels: int
  removed: int
  kept_though_dead: dict

  def is_lost(self):
    """Whether all channels are dead, and some stay only because a layer cannot be without."""
    own = sum(self.kept_though_dead.get(reason, 0) for reason in ("carrier", "width"))
    return own == self.channels - self.removed


@dataclasses.dataclass
class SqueezeReport:
  """What `squeeze` did; `dataclasses.asdict` makes it ready for JSON.

  Attributes:
    parameters_before, parameters_after: numbers of weights, those of moving statistics included.
    multiply_adds_before, multiply_adds_after: as `multiply_adds` counts them.
    layers: dict from layer name to `LayerReport`.
  """

  parameters_before: int
  parameters_after: int
  multiply_adds_before: int | None
  multiply_adds_after: int | None
  layers: dict


def squeeze(model, exact=True, multiple_of=1):
  """Returns a smaller model without the dead channels, and a report.

  Args:
    model: a functional Keras model; it is left alone. Gates are batch-norm gammas at exactly 0.
    exact: at the border of a zero-padded convolution a constant other than 0 is no constant any more. With
      `exact` the function of the model in inference is kept all the same: one dead channel, the carrier,
      stays for all those of its layer whose constants are not 0. Without it such channels go too, as in
      the paper, and the outputs are a little off near image borders.
    multiple_of: dead channels stay so that the width of each layer is a multiple of this, where it can be.

  Returns:
    (smaller, report): a functional model of the same layers with the same names, and a `SqueezeReport`.
    A layer whose channels are all dead keeps one of them; the log has a warning.

  Raises:
    ValueError: `model` is not functional, or `multiple_of` is less than 1.
  """
  if multiple_of < 1:
    raise ValueError(f"multiple_of is {multiple_of}; it is a whole number of 1 or more")
  smaller, layers = _squeeze_once(model, exact, multiple_of)
  found = layers
  while any(layer.removed for layer in found.values()):
    # What read folded constants alone may be constant now.
    smaller, found = _squeeze_once(smaller, exact, multiple_of)
    layers = {name: _merged(layer, found[name]) for name, layer in layers.items()}
  for name, layer in layers.items():
    if layer.is_lost():
      logging.warning("all channels of layer %s are dead; it keeps one", name)
  report = SqueezeReport(
    parameters_before=model.count_params(),
    parameters_after=smaller.count_params(),
    multiply_adds_before=multiply_adds(model),
    multiply_adds_after=multiply_adds(smaller),
    layers=layers,
  )
  return smaller, report


def multiply_adds(model):
  """The multiply-adds of convolutions and dense layers for one example; None if an input size is not fixed.

  Output height * width * size of the kernel, summed over the calls of the layers that mix channels by a rule of the
  channel graph; layers without a rule do not count. Padding counts like the rest.
  """
  total = 0
  for node in ChannelGraph(model).mixing_nodes():
    sizes = node.outputs[0].shape[1:-1]
    if None in sizes:
      return None
    total += math.prod(sizes) * math.prod(node.operation.kernel.shape)
  return total


def _squeeze_once(model, exact, multiple_of):
  graph = ChannelGraph(model)
  plan = _plan(graph, exact, multiple_of)
  layers = {node.operation.name: _layer_report(graph, plan, node) for node in graph.mixing_nodes()}
  return _rebuild(model, graph, plan), layers


def _merged(first, then):
  return LayerReport(first.channels, first.removed + then.removed, then.kept_though_dead)


@dataclasses.dataclass
class _Plan:
  """What to do with dead channels, by id.

  Attributes:
    removed: set of the ids that go.
    carrier: dict from a removed id to the id that stands for its constant at padded convolutions.
    reasons: dict from a dead id that stays, though nothing blocks it, to the reason.
  """

  removed: set = dataclasses.field(default_factory=set)
  carrier: dict = dataclasses.field(default_factory=dict)
  reasons: dict = dataclasses.field(default_factory=dict)

  def keep(self, channel, reason):
    self.removed.discard(channel)
    self.carrier.pop(channel, None)
    self.reasons[channel] = reason

  def kept(self, channels):
    return np.array([channel not in self.removed for channel in channels.ids], bool)


def _plan(graph, exact, multiple_of):
  varying, padded = _reads(graph)
  removable = {channel for channels in graph.tensors() for channel in channels.ids.tolist()}
  plan = _Plan(removed=removable - varying - set(graph.blocked))
  lost = _lost_channels(graph, plan)
  for siblings in _siblings(graph, plan.removed):
    if exact or lost.issuperset(siblings):
      _choose_carriers(plan, [channel for channel in siblings if padded[channel]], padded)
  _fill_widths(graph, plan, multiple_of)
  return plan


def _reads(graph):
  """How layers that mix channels read them.

  Returns:
    The set of ids that some layer uses and that are not constant there, and a dict from id to
    {index of a padded convolution: constant other than 0 that it uses}.
  """
  varying, padded = set(), collections.defaultdict(dict)
  for index, node in enumerate(graph.mixing_nodes()):
    channels = graph.of(node.input_tensors[0])
    used = graph.rule(node).backward(graph, node)[0]
    varying.update(channels.ids[used & np.isnan(channels.constant)].tolist())
    if graph.rule(node).pads(node):
      for channel, constant in zip(channels.ids[used].tolist(), channels.constant[used]):
        if constant != 0:
          padded[channel][index] = constant
  return varying, padded


def _lost_channels(graph, plan):
  """The channels of those tensors of which nothing would stay."""
  lost = set()
  for channels in graph.tensors():
    if not plan.kept(channels).any():
      lost.update(channels.ids.tolist())
  return lost


def _siblings(graph, ids):
  """Groups those `ids` that stand in the same tensors."""
  tensors = collections.defaultdict(list)
  for index, channels in enumerate(graph.tensors()):
    for channel in channels.ids.tolist():
      if channel in ids:
        tensors[channel].append(index)
  groups = collections.defaultdict(list)
  for channel, indices in tensors.items():
    groups[tuple(indices)].append(channel)
  return groups.values()


def _choose_carriers(plan, siblings, padded):
  """Keeps some to stand for the others, first those that most layers read, with the largest constant."""
  waiting = sorted(siblings, key=lambda c: (-len(padded[c]), -max(map(abs, padded[c].values()))))
  while waiting:
    carrier, *waiting = waiting
    plan.keep(carrier, "carrier")
    plan.carrier |= {c: carrier for c in waiting if padded[c].keys() <= padded[carrier].keys()}
    waiting = [channel for channel in waiting if channel not in plan.carrier]


def _fill_widths(graph, plan, multiple_of):
  for node in graph.mixing_nodes():
    channels = graph.of(node.outputs[0])
    kept = plan.kept(channels)
    width = min(max(1, math.ceil(kept.sum() / multiple_of)) * multiple_of, len(kept))
    for channel in channels.ids[~kept][: width - kept.sum()].tolist():
      plan.keep(channel, "width")


def _layer_report(graph, plan, node):
  channels = graph.of(node.outputs[0])
  kept = plan.kept(channels)
  dead = ~channels.used | ~np.isnan(channels.constant)
  reasons = collections.Counter(
    plan.reasons.get(channel) or graph.blocked.get(channel, "shared") for channel in channels.ids[kept & dead].tolist()
  )
  return LayerReport(channels=len(kept), removed=int((~kept).sum()), kept_though_dead=dict(reasons))


def _rebuild(model, graph, plan):
  configs, weights = collections.defaultdict(dict), collections.defaultdict(dict)
  for node in graph.nodes:
    if not node.is_input:
      keep_in, keep_out = (plan.kept(graph.of(tensor)) for tensor in (node.input_tensors[0], node.outputs[0]))
      name = node.operation.name
      configs[name], weights[name] = graph.rule(node).squeezed(node.operation, keep_in, keep_out)
  for node in graph.mixing_nodes():
    _fold(graph, plan, node, configs, weights)

  def clone(layer):
    return type(layer).from_config({**layer.get_config(), **configs[layer.name]})

  smaller = keras.models.clone_model(model, clone_function=clone)
  for layer in model.layers:
    if layer.weights:
      copy = smaller.get_layer(layer.name)
      for name, array in weights[layer.name].items():
        getattr(copy, name).assign(array)
      if not weights[layer.name]:
        copy.set_weights(layer.get_weights())
  return smaller


def _fold(graph, plan, node, configs, weights):
  """Puts what removed constants contribute to a convolution or dense layer where it stays."""
  layer, rule = node.operation, graph.rule(node)
  inputs = graph.of(node.input_tensors[0])
  keep_in, keep_out = plan.kept(inputs), plan.kept(graph.of(node.outputs[0]))
  used = rule.backward(graph, node)[0]
  kernel = rule.kernel(layer)
  shift = np.zeros(kernel.shape[-1])
  for position in np.flatnonzero(~keep_in & used & (inputs.constant != 0)):
    constant, carrier = inputs.constant[position], plan.carrier.get(inputs.ids[position])
    if carrier is not None and rule.pads(node):
      stand_in = np.argmax((inputs.ids == carrier) * abs(np.nan_to_num(inputs.constant)))
      kernel[:, stand_in] += constant / inputs.constant[stand_in] * kernel[:, position]
    else:
      shift += constant * kernel[:, position].sum(axis=0)
  kernel = kernel.reshape(layer.kernel.shape)
  weights[layer.name]["kernel"] = kernel[..., keep_in, :][..., keep_out]
  _shift_outputs(graph, node, shift[keep_out], configs, weights)


def _shift_outputs(graph, node, shift, configs, weights):
  if not shift.any():
    return
  layer, readers = node.operation, graph.readers(node.outputs[0])
  into_batch_norm = len(readers) == 1 and isinstance(graph.rule(readers[0]), BatchNorm)
  if layer.use_bias:
    weights[layer.name]["bias"] = weights[layer.name]["bias"] + shift
  elif into_batch_norm and layer.activation is keras.activations.linear and not graph.is_output(node):
    batch_norm = weights[readers[0].operation.name]
    batch_norm["moving_mean"] = batch_norm["moving_mean"] - shift
  else:
    configs[layer.name]["use_bias"] = True
    weights[layer.name]["bias"] = shift
