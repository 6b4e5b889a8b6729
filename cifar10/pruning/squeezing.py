"""Removes dead channels from a Keras model: fold constants, drop channels, rebuild.

A channel is dead where nothing uses it, or where it is a constant and the layers that read it can do without: the
constant times its weights is added to their bias, or taken off the moving mean of the batch norm behind them
(section 4.3 of the paper).
"""

import collections
import logging
import math
from collections.abc import Collection

import keras
import numpy as np

from cifar10.pruning.checking import first_difference, self_check
from cifar10.pruning.costs import multiply_adds
from cifar10.pruning.deciding import decide
from cifar10.pruning.inputs import Arrays, inputs_that_run
from cifar10.pruning.rebuilding import rebuilt, refuse_shared_variables
from cifar10.pruning.remarks import never_trained, out_of_sight, warn_of
from cifar10.pruning.reports import LayerReport, SqueezeReport
from cifar10.pruning.rules import BatchNorm
from cifar10.pruning.rules.base import Squeezed, attribute_of, to_float64
from cifar10.pruning.walls import wall_kinds

logger = logging.getLogger(__name__)


def squeeze(
  model: keras.Model,
  exact: bool = True,
  multiple_of: int = 1,
  min_channels: int = 1,
  threshold: float = 0.0,
  keep: Collection[str] = (),
  inputs: Arrays | None = None,
  verify: bool = True,
) -> tuple[keras.Model, SqueezeReport]:
  """Returns a smaller model without the dead channels, and a report.

  Gates are batch-norm gammas at 0. Dead are the channels that they shut, those whose kernels are all 0, and those
  that nothing uses.

  Args:
    model: a functional or Sequential Keras model, or a subclassed one that was called before; it is left alone.
    exact: at the border of a zero-padded convolution a constant other than 0 is no constant any more. With
      `exact` the function of the model in inference is kept all the same: one dead channel, the carrier,
      stays for all those of its layer whose constants are not 0. Without it such channels go too, as in
      the paper, and the outputs are a little off near image borders.
    multiple_of: dead channels stay so that the width of each layer is a multiple of this, where it can be.
    min_channels: dead channels stay so that each layer has this many, where it had them.
    threshold: a gamma of no more than this in absolute value counts as 0, and becomes 0. Above 0 that changes the
      function: by how much is measured, in the report and the log.
    keep: names of layers whose output channels all stay. A batch norm named here is no gate, whatever the threshold.
    inputs: inputs for one call of `model`, to check the result on, and where `threshold` is above 0 to measure the
      change on; by default noise in the shapes and ranges that the model says.
    verify: whether both models are called once, so that the report can say by how much they differ, and a fault of a
      layer's rule or config is found. What the model says of its inputs may not be enough to call it; then the report
      says that.

  Returns:
    (smaller, report): a functional model, or a Sequential one where `model` is, of the same layers with the same
    names, not compiled, and a `SqueezeReport`. A layer or model that could be opened is a functional model of the
    layers that it calls. A layer whose channels are all dead keeps one of them; the log has a warning.

  Raises:
    ValueError: `model` is not functional, an argument is out of its range, `keep` names no layer, or a layer of the
      caller's own cannot be made from its config. With `exact`, the models differ by more than rounding explains; the
      first layer that does is named. With `threshold` above 0, the change cannot be measured without `inputs`.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="a_bn")(x)))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> _ = model.get_layer("a_bn").gamma.assign([1, 0, 1, 0])
  >>> smaller, report = squeeze(model)
  >>> smaller.get_layer("a").filters
  2
  >>> report.layers["a"]
  LayerReport(channels=4, removed=2, kept_though_dead={})
  >>> report.parameters_before, report.parameters_after
  (134, 68)
  """
  graph, decisions = decide(model, exact, multiple_of, min_channels, threshold, keep)
  pieces = pieces_of(graph, decisions)
  report = report_of(graph, decisions, pieces)
  warn_of(report.notes)
  made = rebuilt(graph.model, graph, decisions.kept, pieces)
  smaller = made.model
  report.remade, report.shared = made.remade, made.shared
  report.notes += made.notes
  for name, layer in report.layers.items():
    if layer.is_lost():
      logger.warning("all channels of layer %s are dead; it keeps %d", name, layer.channels - layer.removed)
  if verify:
    report.check = _checked(model, smaller, exact, inputs, report, graph, decisions, pieces)
  if threshold > 0:
    from cifar10.pruning.comparing import compare

    report.comparison = compare(model, smaller, inputs_that_run(model) if inputs is None else inputs)
    change = report.comparison.relative_difference
    logger.warning("gammas up to %g were set to 0: outputs changed by %.2g of their norm", threshold, change)
  return smaller, report


def plan(
  model: keras.Model,
  exact: bool = True,
  multiple_of: int = 1,
  min_channels: int = 1,
  threshold: float = 0.0,
  keep: Collection[str] = (),
) -> SqueezeReport:
  """Returns the `SqueezeReport` that `squeeze` would give, without building the smaller model, nor a comparison.

  Args:
    model: as for `squeeze`.
    exact: as for `squeeze`.
    multiple_of: as for `squeeze`.
    min_channels: as for `squeeze`.
    threshold: as for `squeeze`.
    keep: as for `squeeze`.

  Raises:
    ValueError: as `squeeze`.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="a_bn")(x)))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> _ = model.get_layer("a_bn").gamma.assign([1, 0.01, 1, 0])
  >>> plan(model).layers["a"].removed, plan(model, threshold=0.1).layers["a"].removed
  (1, 2)
  """
  graph, decisions = decide(model, exact, multiple_of, min_channels, threshold, keep)
  pieces = pieces_of(graph, decisions)
  refuse_shared_variables(graph, pieces)
  report = report_of(graph, decisions, pieces)
  warn_of(report.notes)
  return report


def _checked(model, smaller, exact, inputs, report, graph, decisions, pieces):
  """The `SelfCheck` of a squeezed model; raises ValueError if it is exact, and is not the same."""
  thresholded = {}  # Gammas that the threshold shuts, of which the function is to be that of the smaller model.
  for first, *_ in graph.calls_by_operation():
    if isinstance(first.rule, BatchNorm) and first.operation.scale:
      gamma = graph.gamma(first)
      if not np.array_equal(gamma, to_float64(first.operation.gamma)):
        thresholded[id(first.operation)] = Squeezed(weights={"gamma": gamma})
  if thresholded:
    model = rebuilt(graph.model, graph, lambda channels: np.ones(len(channels.ids), bool), thresholded).model
  functional = model if thresholded else graph.model
  check, failing = self_check(model, smaller, inputs)
  if failing is None or not (exact or decisions.is_exact()):
    return check
  name = first_difference(functional, smaller, failing, graph, decisions.kept, pieces)
  by = (
    "not finite where the model's are" if check.difference is None else f"off by {check.difference:.2g} of their norm"
  )
  where = "no layer is by itself" if name is None else f"layer {name} is the first that is"
  if name in report.remade:
    where += ", which was made anew from its config: that does not hold all that it is"
  raise ValueError(
    f"{model.name} squeezed does not compute the same: outputs are {by}, and {where}; mend its config or its rule, "
    "name it in keep, or pass verify=False to have the result all the same"
  )


def pieces_of(graph, decisions):
  """What becomes of each layer and operation: dict from its id() to `Squeezed`."""
  pieces = {}
  for call, *_ in graph.calls_by_operation():
    keep_in = [decisions.kept(channels) for channels in call.reads]
    keep_out = decisions.kept(call.outputs[0].channels)
    pieces[id(call.operation)] = call.rule.squeezed(graph, call, keep_in, keep_out)
  for reading in decisions.readings:
    _fold(graph, decisions, pieces, reading)
  return pieces


def _fold(graph, decisions, pieces, reading):
  """Puts what the constants that go contribute to a convolution or dense layer where it stays."""
  call, rule, layer = reading.call, reading.call.rule, reading.call.operation
  keep_in, keep_out = decisions.kept(call.reads[0]), rule.made(layer, decisions.kept(call.outputs[0].channels))
  gone = np.flatnonzero(~keep_in & reading.used & (reading.constant != 0))
  carried = [p for p in gone.tolist() if not reading.folds[p] and reading.ids[p] in decisions.carrier]
  if carried:
    kernel = rule.kernel(layer).astype(np.float64)
    for position in carried:
      alike = [each == reading.alike[position] for each in reading.alike]
      carriers = alike & (reading.ids == decisions.carrier[reading.ids[position]])
      stand_in = np.argmax(carriers * abs(np.nan_to_num(reading.constant)))
      ratio = reading.constant[position] / reading.constant[stand_in]
      rule.carry(layer, kernel, stand_in, position, ratio)
    pieces[id(layer)].weights |= rule.sliced(layer, kernel, keep_in, keep_out)
  shift = rule.shift(layer, np.setdiff1d(gone, carried), reading.constant)[keep_out]
  if shift.any():
    _shift_outputs(graph, pieces, reading, shift)


def _shift_outputs(graph, pieces, reading, shift):
  call, rule, layer = reading.call, reading.call.rule, reading.call.operation
  piece, output = pieces[id(layer)], call.outputs[0]
  reader = output.readers[0] if len(output.readers) == 1 and not output.is_output else None
  into_batch_norm = (
    reader is not None
    and isinstance(reader.rule, BatchNorm)
    and reader.reads[0] is output.channels
    and rule.activation(layer) is keras.activations.linear
    and not reading.shared
    and sum(other.operation is reader.operation for other in graph.calls) == 1
  )
  if rule.has_bias(layer):
    piece.weights |= rule.shifted(layer, piece.weights, shift)
  elif into_batch_norm:
    weights = pieces[id(reader.operation)].weights
    weights["moving_mean"] = weights["moving_mean"] - shift
    piece.shifted = True
  else:
    piece.config["use_bias"] = True
    piece.weights[rule.bias] = shift


def report_of(graph, decisions, pieces):
  layers = {calls[0].operation: calls for calls in graph.calls_by_operation()}
  grown = sum(
    np.size(array) - math.prod(getattr(attribute_of(layer, name), "shape", (0,)))
    for layer in layers
    for name, array in pieces[id(layer)].weights.items()
  )
  made = {calls[0].name: _layer_report(decisions, calls) for calls in layers.values() if _makes_channels(calls)}
  before = graph.model.count_params()
  notes = [*graph.opened.notes, *out_of_sight(graph), *never_trained(graph, before, before + grown)]
  return SqueezeReport(
    parameters_before=before,
    parameters_after=before + grown,
    multiply_adds_before=multiply_adds(graph),
    multiply_adds_after=multiply_adds(graph, {key: piece.weights for key, piece in pieces.items()}),
    layers=made,
    gates={
      calls[0].name: _layer_report(decisions, calls)
      for calls in layers.values()
      if isinstance(calls[0].rule, BatchNorm)
    },
    walls=graph.walls,
    wall_kinds=wall_kinds(graph, made),
    opened=graph.opened.layers,
    notes=notes,
  )


def _makes_channels(calls):
  """Whether the calls are of a layer that makes channels, which are followed."""
  return calls[0].rule.mixes and calls[0].outputs[0].channels.axis is not None


def _layer_report(decisions, calls):
  outputs = [call.outputs[0].channels for call in calls]
  kept = decisions.kept(outputs[0])
  dead = np.logical_and.reduce([~channels.used | ~np.isnan(channels.constant) for channels in outputs])
  reasons = collections.Counter(
    decisions.reasons.get(channel, "shared") for channel in outputs[0].ids[kept & dead].tolist()
  )
  return LayerReport(channels=len(kept), removed=int((~kept).sum()), kept_though_dead=dict(reasons))
