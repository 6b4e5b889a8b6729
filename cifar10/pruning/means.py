"""What channels are on average: a constant to put in their place."""

import statistics

import keras
import numpy as np

from cifar10.pruning.calls import left_alone
from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.inputs import Arrays, batches
from cifar10.pruning.rules import BatchNorm
from cifar10.pruning.rules.base import to_float64
from cifar10.pruning.running import run_calls

DRAWS = 16


def means_of_batch_norms(graph: ChannelGraph) -> dict[int, np.ndarray]:
  """The mean of each position, as far as batch norms know it.

  Behind a batch norm a channel has the mean beta and the standard deviation |gamma|. From there on the mean is that
  over quantiles of a normal distribution, in an order of its own for each batch norm, of what the layers make of them;
  behind a convolution or dense layer without a batch norm it counts as 0.

  Args:
    graph: a model's `ChannelGraph`, before anything is shut.

  Returns:
    A dict from the id() of each `Channels` to a float64 array (positions,).
  """
  quantiles = [statistics.NormalDist().inv_cdf((i + 0.5) / DRAWS) for i in range(DRAWS)]
  rng, shuffled = np.random.default_rng(0), {}
  tensors = [tensor for call in graph.calls for tensor in call.outputs]
  constants = [tensor.channels.constant for tensor in tensors]
  means = {id(tensor.channels): np.zeros(len(tensor.channels.ids)) for tensor in tensors}
  for draw in range(DRAWS):
    for call in graph.calls:
      if isinstance(call.rule, BatchNorm):
        layer = call.operation
        order = shuffled.setdefault(id(call), rng.permutation(quantiles))
        beta = to_float64(layer.beta) if layer.center else 0.0
        made = [beta + order[draw] * abs(graph.gamma(call))]
      elif call.rule.mixes:
        made = [0.0]
      else:
        made = [np.nan_to_num(constant) for constant, _ in graph.constants_after(call)]
      for tensor, values in zip(call.outputs, made):
        count = len(tensor.channels.ids)
        tensor.channels.constant = np.broadcast_to(values if count else 0.0, count)
        means[id(tensor.channels)] += tensor.channels.constant / DRAWS
  for tensor, constant in zip(tensors, constants):
    tensor.channels.constant = constant
  return means


def means_of_examples(graph: ChannelGraph, model: keras.Model, inputs: Arrays) -> dict[int, np.ndarray]:
  """The mean of each position over examples, in inference.

  Args:
    graph: the `ChannelGraph` of the model.
    model: the model.
    inputs: inputs for it, one example or more.

  Returns:
    A dict from the id() of each `Channels` to a float64 array (positions,); what is not finite counts as 0.
  """
  sums = {}
  for examples, batch in batches(inputs):
    with left_alone(model):
      for call, (_, outputs) in zip(graph.calls, run_calls(model, batch)):
        for tensor, values in zip(call.outputs, outputs):
          channels = tensor.channels
          if channels.axis is not None:
            others = [axis for axis in range(len(values.shape)) if axis != channels.axis]
            mean = to_float64(keras.ops.mean(keras.ops.cast(values, "float32"), axis=others))
            sums[id(channels)] = sums.get(id(channels), 0) + examples * np.nan_to_num(mean, posinf=0, neginf=0)
  count = len(keras.tree.flatten(inputs)[0])
  return {key: total / count for key, total in sums.items()}
