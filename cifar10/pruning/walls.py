"""What walls cost, and which call of `register` would let channels through them."""

import collections
from collections.abc import Mapping

import keras
import numpy as np

from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.reports import LayerReport, WallKind
from cifar10.pruning.rules.activations import acts_on_values
from cifar10.pruning.rules.base import Wall


def wall_kinds(graph: ChannelGraph, layers: Mapping[str, LayerReport]) -> list[WallKind]:
  """The walls of a graph by their classes, those first that keep most dead channels.

  Args:
    graph: the graph.
    layers: what becomes of the layers that make channels, by name.
  """
  kept = collections.Counter()
  for layer in layers.values():
    kept.update(layer.kept_though_dead)
  kinds = collections.defaultdict(dict)
  for call in graph.calls:
    if isinstance(call.rule, Wall):
      kinds[type(call.operation)].setdefault(call.name, call)
  found = [
    WallKind(kind.__name__, list(calls), sum(kept[name] for name in calls), _registration(next(iter(calls.values()))))
    for kind, calls in kinds.items()
  ]
  return sorted(found, key=lambda kind: -kind.dead_channels)


def _registration(call):
  """The call of `register` that is likely to fit; "" for a class of Keras, of which no rule holds in general."""
  operation = call.operation
  kind = type(operation)
  if isinstance(operation, keras.layers.Lambda):
    name = getattr(operation.function, "__name__", "function")
    return f"register({'function' if name == '<lambda>' else name}, rules.Elementwise())"
  if kind.__module__.startswith("keras."):
    return ""
  return f"register({kind.__name__}, {_likely_rule(call)})"


def _likely_rule(call):
  operation, channels = call.operation, call.inputs[0].shape[-1] if call.inputs else None
  same_shape = all(tensor.shape == call.inputs[0].shape for tensor in call.outputs) if call.inputs else False
  weights = {
    name: value
    for name, value in vars(operation).items()
    if isinstance(value, keras.Variable) and value.dtype != "string"
  }
  if not getattr(operation, "variables", []):
    return "rules.Elementwise()" if same_shape and acts_on_values(operation.call) else "YourRule()"
  if same_shape and weights and all(np.prod(value.shape) in (1, channels) for value in weights.values()):
    add = [name for name in weights if name in ("beta", "bias", "shift", "offset")]
    names = {"multiply": [name for name in weights if name not in add], "add": add}
    return f"rules.PerChannel({', '.join(f'{key}={value}' for key, value in names.items() if value)})"
  return "rules.KernelRule()" if len(getattr(weights.get("kernel"), "shape", ())) >= 2 else "YourRule()"
