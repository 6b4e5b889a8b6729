"""Prunes a model to a budget: the channels that matter least are shut, then squeezed away."""

import dataclasses
import numbers
from collections.abc import Callable, Collection

import keras
import numpy as np

from cifar10.pruning import importance as importances
from cifar10.pruning.budget import ROUNDING, Budget, evenly, within
from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.comparing import compare
from cifar10.pruning.counting import Counts
from cifar10.pruning.deciding import Decisions, decided, refuse_all_but_counts
from cifar10.pruning.importance import Importance
from cifar10.pruning.inputs import Arrays, inputs_that_run
from cifar10.pruning.means import means_of_batch_norms, means_of_examples
from cifar10.pruning.rebuilding import rebuilt, refuse_shared_variables
from cifar10.pruning.remarks import warn_of
from cifar10.pruning.reports import SelfCheck, SqueezeReport
from cifar10.pruning.rules.base import Squeezed
from cifar10.pruning.squeezing import pieces_of, report_of
from cifar10.pruning.steps import Widths, allowed, possible_steps

IMPORTANCES = ("gamma", "l1", "l2", "taylor", "random")
SCOPES = ("global", "layer")
LEFT_BEHIND = ("mean", "zero")
EXAMPLES = 2  # Of noise, on which the models are compared.


def prune(
  model: keras.Model,
  *,
  parameters: float | None = None,
  multiply_adds: float | None = None,
  channels: float | None = None,
  importance: str | Importance = "l2",
  scope: str = "global",
  max_removed: float = 0.9,
  multiple_of: int = 1,
  keep: Collection[str] = (),
  inputs: Arrays | None = None,
  targets: Arrays | None = None,
  loss: Callable | None = None,
  left_behind: str = "mean",
  seed: int = 0,
  verify: bool = True,
) -> tuple[keras.Model, SqueezeReport]:
  """Returns a smaller model within a budget, and a report: the channels that matter least go, and what is dead.

  Channels that stay or go together, through sums, depthwise layers and the like, are one group. The function of the
  model changes; fine-tuning brings back what that costs. In the place of a channel its mean is put.

  Args:
    model: a functional or Sequential Keras model; it is left alone.
    parameters: the budget, a share of the model's parameters (0.5: half of them stay) or a count from 2 up. The result
      is below it, and would be above it with any one of the groups that went. There is one budget at most; without
      any, the widths that dead channels leave are rounded to the nearer multiple, and nothing else.
    multiply_adds: the same for multiply-adds, as the function `multiply_adds` counts them.
    channels: the same for the channels of each layer that may go; a share alone, not less than 1 - `max_removed`. Where
      some of a layer are tied to other layers than the rest, each such set of them loses its share.
    importance: "l1" or "l2": norm of the kernels that make a group; "gamma": |gamma| of its batch norms; "taylor": by
      how much the loss changes without it, to first order; "random". Or a function from a `Groups` to an array with a
      number of 0 or more for each of its groups, or None if these are to stay. Numbers count over their mean in a
      layer, so that layers compare.
    scope: "global": groups of all layers compare; "layer": layers lose equal shares.
    max_removed: the largest share of a layer's channels that goes, from 0 to less than 1, unless more are dead; one
      channel stays at least.
    multiple_of: layers that lose channels end with multiples of this, those nearest to what importance says. Groups go
      in steps of as many as that takes, and what is said of one group above holds of one step.
    keep: names of layers whose output channels all stay.
    inputs: examples, inputs for `model`, one or more: means are measured on them, and the result is compared with the
      model. By default means are what batch norms know, 0 where there are none, and the comparison is on noise.
    targets: for "taylor", what the outputs for `inputs` should be.
    loss: for "taylor", a function of (targets, outputs) to losses, one an example; by default the loss that the model
      was compiled with, if that is one for all outputs.
    left_behind: "mean", or "zero" for nothing in the place of a channel.
    seed: of "random", from 0 up.
    verify: whether the result is compared with the model on inputs; without, `report.comparison` is None.

  Returns:
    (smaller, report): a model of the same layers with the same names, not compiled; and a `SqueezeReport`, which is
    that of `plan_prune` with the same arguments.

  Raises:
    ValueError: the budget cannot be reached; the sentence says what the least is. Or an argument is out of its range,
      `model` is not functional, or a layer of the caller's own cannot be made from its config.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.ReLU()(layers.Conv2D(8, 3, name="a")(images))
  >>> x = layers.ReLU()(layers.Conv2D(8, 3, name="b")(x))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x)))
  >>> smaller, report = prune(model, multiply_adds=0.5)
  >>> 0.4 < report.multiply_adds_after / report.multiply_adds_before <= 0.5
  True
  """
  pruned = _pruned(
    model,
    Budget.of(parameters=parameters, multiply_adds=multiply_adds, channels=channels),
    _Wishes(importance, scope, max_removed, multiple_of, keep, inputs, targets, loss, left_behind, seed),
  )
  report = pruned.report
  warn_of(report.notes)
  made = rebuilt(pruned.graph.model, pruned.graph, pruned.decisions.kept, pruned.pieces)
  report.remade, report.shared = made.remade, made.shared
  report.notes += made.notes
  if verify:
    try:
      inputs = inputs_that_run(model, EXAMPLES, guess=True) if inputs is None else inputs
    except ValueError as error:
      report.check = SelfCheck(0, None, str(error))
    else:
      report.comparison = compare(model, made.model, inputs, repeats=1)
  return made.model, report


def plan_prune(
  model: keras.Model,
  *,
  parameters: float | None = None,
  multiply_adds: float | None = None,
  channels: float | None = None,
  importance: str | Importance = "l2",
  scope: str = "global",
  max_removed: float = 0.9,
  multiple_of: int = 1,
  keep: Collection[str] = (),
  inputs: Arrays | None = None,
  targets: Arrays | None = None,
  loss: Callable | None = None,
  left_behind: str = "mean",
  seed: int = 0,
) -> SqueezeReport:
  """Returns the `SqueezeReport` that `prune` would give, without making the smaller model, nor a comparison.

  Args:
    model: as for `prune`.
    parameters: as for `prune`.
    multiply_adds: as for `prune`.
    channels: as for `prune`.
    importance: as for `prune`.
    scope: as for `prune`.
    max_removed: as for `prune`.
    multiple_of: as for `prune`.
    keep: as for `prune`.
    inputs: as for `prune`.
    targets: as for `prune`.
    loss: as for `prune`.
    left_behind: as for `prune`.
    seed: as for `prune`.

  Raises:
    ValueError: as `prune`.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.ReLU()(layers.Conv2D(8, 3, name="a")(images))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x)))
  >>> plan_prune(model, channels=0.5).layers["a"]
  LayerReport(channels=8, removed=4, kept_though_dead={})
  """
  pruned = _pruned(
    model,
    Budget.of(parameters=parameters, multiply_adds=multiply_adds, channels=channels),
    _Wishes(importance, scope, max_removed, multiple_of, keep, inputs, targets, loss, left_behind, seed),
  )
  refuse_shared_variables(pruned.graph, pruned.pieces)
  warn_of(pruned.report.notes)
  return pruned.report


@dataclasses.dataclass
class _Pruned:
  """What becomes of a model's channels and layers, and the report of it."""

  graph: ChannelGraph
  decisions: Decisions
  pieces: dict[int, Squeezed]
  report: SqueezeReport


@dataclasses.dataclass
class _Wishes:
  """How to prune: what `prune` takes beside the budget."""

  importance: str | Importance
  scope: str
  max_removed: float
  multiple_of: int
  keep: Collection[str]
  inputs: Arrays | None
  targets: Arrays | None
  loss: Callable | None
  left_behind: str
  seed: int

  def __post_init__(self):
    refuse_all_but_counts("multiple_of", self.multiple_of)
    _refuse_all_but(SCOPES, scope=self.scope)
    _refuse_all_but(LEFT_BEHIND, left_behind=self.left_behind)
    if not isinstance(self.max_removed, numbers.Real) or not 0 <= self.max_removed < 1:
      raise ValueError(f"max_removed is {self.max_removed}; it is a share from 0 to less than 1")
    if not callable(self.importance) and self.importance not in IMPORTANCES:
      raise ValueError(f"importance is {self.importance!r}; it is one of {', '.join(IMPORTANCES)}, or a function")
    if not isinstance(self.seed, numbers.Integral) or self.seed < 0:
      raise ValueError(f"seed is {self.seed}; it is a whole number of 0 or more")
    given = [array for array in keras.tree.flatten((self.inputs, self.targets)) if array is not None]
    counts = {np.shape(array)[0] if np.ndim(array) else 0 for array in given}
    if len(counts) > 1 or 0 in counts:
      raise ValueError(
        f"inputs and targets hold {' and '.join(map(str, sorted(counts)))} examples; give arrays with one or more, "
        "the same number in all"
      )


def _pruned(model, budget, wishes):
  if budget is None and wishes.multiple_of == 1:
    raise ValueError("there is no budget; give one of parameters, multiply_adds and channels, or multiple_of above 1")
  if budget is not None and budget.name == "channels" and budget.given < 1 - wishes.max_removed - ROUNDING:
    raise ValueError(
      f"channels is {budget.given}; with max_removed={wishes.max_removed} a share of {1 - wishes.max_removed:.3g} or "
      "more of each layer stays: raise one of them"
    )
  graph = ChannelGraph(model, keep=wishes.keep, whole_groups=True)
  counts = Counts(graph, graph.model.count_params())
  if budget is not None and budget.name == "multiply_adds" and counts.multiply_adds is None:
    raise ValueError(f"{model.name} has inputs of open sizes: give parameters or channels, not multiply_adds")
  measure = _measure(model, wishes)
  means = _means(graph, wishes)
  dead = decided(graph, exact=False).goes
  steps, stay = possible_steps(graph, counts, dead, measure, wishes.scope, wishes.multiple_of)
  steps = allowed(steps, Widths(graph, wishes.max_removed, dead))

  def outcome(chosen):
    gone = np.zeros(graph.channel_count, bool)
    for step in chosen:
      gone[step.ids] = True
    graph.shut(gone & ~dead, means)
    decisions = decided(graph, exact=False, multiple_of=wishes.multiple_of)
    pieces = pieces_of(graph, decisions)
    return _Pruned(graph, decisions, pieces, report_of(graph, decisions, pieces))

  if budget is None or budget.name == "channels":
    return outcome(evenly(steps, None if budget is None else budget.given, wishes.multiple_of))
  pruned = within(budget, steps, stay, counts, outcome)
  if pruned is None:
    least, whole = budget.left(outcome(steps).report), getattr(counts, budget.name)
    raise ValueError(
      f"{model.name} cannot be pruned to {budget.name}={budget.given}: with what walls, keep, inputs and outputs hold, "
      f"and max_removed={wishes.max_removed}, the least is {least:,} of {whole:,}, a share of {least / whole:.3f}"
    )
  return pruned


def _refuse_all_but(choices, **argument):
  ((name, value),) = argument.items()
  if value not in choices:
    raise ValueError(f"{name} is {value!r}; it is one of {', '.join(choices)}")


def _measure(model, wishes):
  """The function of groups that an importance stands for."""
  name, inputs, targets = wishes.importance, wishes.inputs, wishes.targets
  if callable(name):
    return name
  if name == "random":
    return importances.random(wishes.seed)
  if name == "taylor":
    loss = wishes.loss or getattr(model, "loss", None)
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss if callable(loss) else None
    missing = [name for name, value in (("inputs", inputs), ("targets", targets), ("loss", loss)) if value is None]
    if missing:
      raise ValueError(f"importance 'taylor' needs {' and '.join(missing)}: examples, and a loss of (targets, outputs)")
    return importances.taylor(model, inputs, targets, loss)
  return getattr(importances, name)


def _means(graph, wishes):
  if wishes.left_behind == "zero":
    return {}
  return means_of_batch_norms(graph) if wishes.inputs is None else means_of_examples(graph, graph.model, wishes.inputs)
