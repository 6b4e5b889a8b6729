"""Penalties of gammas, and the two figures that the training reports: group lasso and fake sparsity."""

import math

import keras
import tensorflow as tf

from cifar10.pruning.channel_graph import ChannelGraph


def penalties(model, num_pixels=None):
  """The penalty of each gated gamma: how much of the network goes with one channel.

  For the channels that a batch norm scales (section 4.1 of the paper, "memory-normalised" cost lambda):

      (height * width of the batch norm's output
       + kernel size * input channels of the convolution that makes the channel
       + sum of kernel size * output channels over the convolutions and dense layers that it reaches)
      / num_pixels

  all read off the network as it now is. A channel reaches a layer through layers that treat each channel by
  itself. A gamma is not gated, and not listed, if its channels reach an output of the model or a layer that
  the channel graph has no rule for, since such channels cannot be removed.

  Args:
    model: a functional Keras model.
    num_pixels: height * width of the model's image input; by default read off its only input. An input
      without a fixed size needs it given, and counts as a square of that many pixels.

  Returns:
    A dict from the path of the gamma variable, like "g0b0c0_bn/gamma", to its penalty, a float above 0.

  Raises:
    ValueError: `model` is not functional, or `num_pixels` is needed and not given, or is not positive.
  """
  graph = ChannelGraph(model)
  if num_pixels is None:
    num_pixels = _num_pixels(model)
  elif not num_pixels > 0:
    raise ValueError(f"num_pixels is {num_pixels}; it is the height * width of the images, 1 or more")
  if any(None in tensor.shape[1:-1] for tensor in model.inputs):
    graph = ChannelGraph(_with_fixed_size(model, num_pixels))
  result = {}
  for node in graph.nodes:
    if isinstance(node.operation, keras.layers.BatchNormalization) and node.operation.scale:
      penalty = _penalty(graph, node, num_pixels)
      if penalty is not None:
        result[node.operation.gamma.path] = penalty
  return result


def group_lasso(model, penalties):
  """Sum of penalty * |gamma| over all gated gammas: a float32 scalar tensor of 0 or more."""
  return tf.add_n([penalty * tf.reduce_sum(tf.abs(gamma)) for gamma, penalty in _gated(model, penalties)])


def fake_sparsity(model, penalties):
  """Sum of penalties over the gammas at exactly 0 / sum over all gated gammas: a scalar tensor in [0, 1].

  "Fake", as the paper has it, since the share of parameters that can be removed is not quite the same.
  """
  gated = _gated(model, penalties)
  zero = tf.add_n([penalty * tf.reduce_sum(tf.cast(tf.equal(gamma, 0), tf.float32)) for gamma, penalty in gated])
  return zero / sum(penalty * gamma.shape[0] for gamma, penalty in gated)


def _gated(model, penalties):
  gammas = {variable.path: variable for variable in model.variables}
  missing = sorted(set(penalties) - set(gammas))
  if missing or not penalties:
    raise ValueError(f"penalties names {missing or 'no gamma'}; it needs paths of this model's gammas")
  return [(tf.convert_to_tensor(gammas[path]), penalty) for path, penalty in penalties.items()]


def _num_pixels(model):
  shapes = [tensor.shape[1:-1] for tensor in model.inputs]
  if len(shapes) != 1 or None in shapes[0] or not shapes[0]:
    raise ValueError(
      f"num_pixels cannot be read off the inputs {[tensor.shape for tensor in model.inputs]}; "
      "pass penalties(model, num_pixels=height * width)"
    )
  return math.prod(shapes[0])


def _with_fixed_size(model, num_pixels):
  side = round(math.sqrt(num_pixels))
  inputs = [
    keras.Input((*(side if size is None else size for size in x.shape[1:-1]), x.shape[-1]), dtype=x.dtype)
    for x in model.inputs
  ]
  return keras.models.clone_model(model, input_tensors=inputs if len(inputs) > 1 else inputs[0])


def _penalty(graph, node, num_pixels):
  output = node.outputs[0]
  channels = graph.of(output)
  if any(int(channel) in graph.blocked for channel in channels.ids):
    return None
  cost = math.prod(output.shape[1:-1])
  for maker in _makers(graph, node):
    cost += math.prod(maker.operation.kernel.shape[:-1])
  for reader in _mixing_readers(graph, output):
    kernel = reader.operation.kernel.shape
    rows = (graph.of(reader.input_tensors[0]).ids == channels.ids[0]).sum()
    cost += int(rows) * math.prod(kernel) // kernel[-2]
  return cost / num_pixels


def _makers(graph, node):
  """The nodes that mix channels and from which the channels of `node` come."""
  makers = {}
  for parent in node.parent_nodes:
    found = [parent] if graph.rule(parent).mixes else _makers(graph, parent)
    makers.update((id(maker), maker) for maker in found)
  return list(makers.values())


def _mixing_readers(graph, tensor):
  """The nodes that mix channels and read `tensor`, directly or through layers that do not mix."""
  readers = {}
  for reader in graph.readers(tensor):
    nested = [_mixing_readers(graph, output) for output in reader.outputs]
    found = [reader] if graph.rule(reader).mixes else [node for nodes in nested for node in nodes]
    readers.update((id(node), node) for node in found)
  return list(readers.values())
