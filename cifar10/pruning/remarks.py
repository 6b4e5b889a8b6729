"""What of a model its user should know before it is pruned: what nobody sees, and what was never trained."""

import logging
from collections.abc import Iterable

import keras

from cifar10.pruning.calls import layers_in
from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.rules.base import Wall

logger = logging.getLogger(__name__)

ALMOST_NOTHING = 0.1  # Of the parameters.


def out_of_sight(graph: ChannelGraph) -> list[str]:
  """Sentences on the walls in which there are batch norms, whose gammas nobody sees."""
  found = {}
  for call in graph.calls:
    inner = layers_in(call.operation)[1:]
    count = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in inner)
    if isinstance(call.rule, Wall) and count:
      kind, why = type(call.operation).__name__, graph.opened.shut.get(call.name)
      since = f", since {why}" if why else ""
      found[call.name] = (
        f"{count} batch norms in layer {call.name}, a {kind}, are out of sight{since}: their channels stay"
      )
  return list(found.values())


def never_trained(graph: ChannelGraph, before: int, after: int) -> list[str]:
  """Sentences on the layers whose kernels are all 0, if squeezing leaves almost nothing because of them.

  Args:
    graph: the `ChannelGraph` of the model.
    before: its number of parameters.
    after: that of the squeezed one.
  """
  heads = {
    call.name: call
    for call in graph.mixing_calls()
    if call.outputs[0].channels.used.any() and not call.rule.connected(call.operation).any()
  }
  if after >= ALMOST_NOTHING * before:
    return []
  return [
    f"the kernel of layer {name} is all 0, as if it was never trained: what leads to it is not used and goes, which "
    f"leaves {after:,} of {before:,} parameters; train the model, or load its weights, before it is squeezed"
    for name in heads
  ]


def warn_of(remarks: Iterable[str]) -> None:
  """Writes sentences to the log."""
  for remark in remarks:
    logger.warning(remark)
