"""What `squeeze` and `compare` report."""

import collections
import dataclasses

from cifar10.pruning.printing import aligned, change

# Why dead channels stay; any other reason is the name of a layer.
REASONS = {
  "carrier": "stands for others whose constants cannot pass a padded border",
  "padding": "is a constant that cannot pass a padded border, and nothing can stand for it",
  "width": "multiple_of or min_channels wants it, or the layer has no other",
  "groups": "all groups of a grouped convolution are as wide",
  "keep": "keep names the layer",
  "shared": "other tensors or layers need it",
  "output": "is an output of the model",
  "input": "is an input of the model",
}


@dataclasses.dataclass
class Differences:
  """How the outputs of two networks differ.

  Attributes:
    largest: largest absolute difference of any output.
    relative: Euclidean norm of the difference of all outputs / norm of the first network's.
    agreeing: number of positions, over all outputs of two classes or more, at which the largest class is the same and
      all are finite.
    agreement: `agreeing` / number of such positions; None if there are none.
  """

  largest: float
  relative: float
  agreeing: int
  agreement: float | None


@dataclasses.dataclass
class Comparison:
  """How two models differ; pairs are (first, second).

  Attributes:
    examples: number of examples.
    largest_difference: largest absolute difference of any output.
    relative_difference: Euclidean norm of the difference of the outputs / norm of the first model's.
    agreement: share of positions, over all outputs of two classes or more, at which the largest class is the same, and
      all are finite; None if there is no such output.
    parameters: numbers of weights.
    multiply_adds: as `multiply_adds` counts them; None where sizes are not fixed or the model is not functional.
    seconds: median time of a call on the inputs, in turns, compiled as for Keras' `predict`, on TensorFlow without XLA.
  """

  examples: int
  largest_difference: float
  relative_difference: float
  agreement: float | None
  parameters: tuple[int, int]
  multiply_adds: tuple[int | None, int | None]
  seconds: tuple[float, float]

  def __str__(self) -> str:
    rows = [
      ["", "first", "second"],
      ["parameters", *(f"{count:,}" for count in self.parameters)],
      ["multiply-adds", *("unknown" if count is None else f"{count:,}" for count in self.multiply_adds)],
      ["milliseconds", *(f"{1000 * seconds:.3g}" for seconds in self.seconds)],
    ]
    differ = f"{self.largest_difference:.2g} at most, {self.relative_difference:.2g} of their norm"
    agree = "" if self.agreement is None else f"; the largest class agrees in {self.agreement:.2%}"
    return f"{aligned(rows)}\noutputs for {self.examples:,} examples differ by {differ}{agree}"


@dataclasses.dataclass
class SelfCheck:
  """What came of calling the model and the squeezed one with the same inputs.

  Attributes:
    examples: how many; 0 where they could not be called.
    difference: largest Euclidean norm of the difference of an output / norm of the model's, or, of an output that is
      not of floating point, share of positions that differ; None without examples.
    note: why they could not be called, or why a difference was put up with; else "".
  """

  examples: int
  difference: float | None
  note: str = ""

  def __str__(self) -> str:
    if not self.examples:
      return f"not called: {self.note}"
    by = "more than a finite number" if self.difference is None else f"{self.difference:.2g} of their norm"
    note = f" ({self.note})" if self.note else ""
    return f"outputs for {self.examples} examples differ by {by}{note}"


@dataclasses.dataclass
class LayerReport:
  """The output channels of one layer.

  Attributes:
    channels: how many there were.
    removed: how many went.
    kept_though_dead: dict from reason to how many dead channels stay for it: a key of `REASONS`, or the name of a
      layer through which they cannot be followed: a wall, or one that reads another axis or mixes channels without a
      kernel.
  """

  channels: int
  removed: int
  kept_though_dead: dict[str, int]

  def is_lost(self) -> bool:
    """Whether all channels are dead, and some stay only because a layer cannot be without."""
    own = sum(self.kept_though_dead.get(reason, 0) for reason in ("carrier", "width", "groups"))
    return own == self.channels - self.removed


@dataclasses.dataclass
class WallKind:
  """The walls of one class.

  Attributes:
    kind: name of the class.
    names: names of the layers.
    dead_channels: how many dead channels of the layers before stay because of them.
    registration: the call of `register` that is likely to fit: `YourRule` is one to write. "" for a class of Keras.
  """

  kind: str
  names: list[str]
  dead_channels: int
  registration: str

  def __str__(self) -> str:
    """
    >>> print(WallKind("Mish", ["a", "b"], 5, "register(Mish, rules.Elementwise())"))
    2 Mish (a, b) keep 5 dead channels; if it holds: register(Mish, rules.Elementwise())
    """
    known = f"; if it holds: {self.registration}" if self.registration else ""
    verb = "keeps" if len(self.names) == 1 else "keep"
    return f"{len(self.names)} {self.kind} ({', '.join(self.names)}) {verb} {self.dead_channels} dead channels{known}"


@dataclasses.dataclass
class SqueezeReport:
  """What `squeeze` did, or would do; printed it is a table of `layers`, and `dataclasses.asdict` makes it JSON's.

  Attributes:
    parameters_before, parameters_after: numbers of weights, those of moving statistics included.
    multiply_adds_before, multiply_adds_after: as `multiply_adds` counts them.
    layers: dict from the name of each convolution and dense layer to its `LayerReport`, but for depthwise
      convolutions, whose channels are those of the layer before; a layer inside a nested model goes by "model/layer".
    gates: the same for batch norms.
    walls: names of the layers that the channel graph has no rule for; what reaches them stays.
    wall_kinds: list of `WallKind`, the same by class, with what they keep and how to register them.
    opened: dict from the name of each layer that became a functional model of the layers that it calls to that of its
      class.
    comparison: the `Comparison` of the model and the squeezed one, if a threshold above 0 or pruning changed the
      function.
    remade: names of the layers that lost channels, and were made anew from their configs; the others are copies.
    shared: dict from the name of each layer that the squeezed model shares with the model, since it cannot be copied,
      to the reason.
    notes: sentences on what else of the model the squeezed one does not have.
    check: the `SelfCheck` of the squeezed model; None if it was left out.
  """

  parameters_before: int
  parameters_after: int
  multiply_adds_before: int | None
  multiply_adds_after: int | None
  layers: dict[str, LayerReport]
  gates: dict[str, LayerReport]
  walls: list[str]
  opened: dict[str, str] = dataclasses.field(default_factory=dict)
  comparison: Comparison | None = dataclasses.field(default=None, compare=False)
  wall_kinds: list[WallKind] = dataclasses.field(default_factory=list)
  remade: list[str] = dataclasses.field(default_factory=list, compare=False)
  shared: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
  notes: list[str] = dataclasses.field(default_factory=list, compare=False)
  check: SelfCheck | None = dataclasses.field(default=None, compare=False)

  def summary(self) -> str:
    """The totals in two lines: parameters, multiply-adds, channels.

    >>> conv = LayerReport(channels=32, removed=7, kept_though_dead={"carrier": 1})
    >>> print(SqueezeReport(57450, 30237, 1991296, 1177864, {"conv": conv}, {}, []).summary())
    parameters 57,450 -> 30,237 (47% fewer), multiply-adds 1,991,296 -> 1,177,864 (41% fewer)
    7 of 32 channels went; dead, but kept: 1
    """
    layers = self.layers.values()
    kept = sum(sum(layer.kept_though_dead.values()) for layer in layers)
    went = f"{sum(layer.removed for layer in layers):,} of {sum(layer.channels for layer in layers):,} channels went"
    parameters = change("parameters", self.parameters_before, self.parameters_after)
    multiply_adds = change("multiply-adds", self.multiply_adds_before, self.multiply_adds_after)
    return f"{parameters}, {multiply_adds}\n{went}{f'; dead, but kept: {kept:,}' if kept else ''}"

  def __str__(self) -> str:
    check = [] if self.check is None else [f"check: {self.check}"]
    comparison = [] if self.comparison is None else [f"outputs changed:\n{self.comparison}"]
    parts = [self.summary(), _layer_table(self.layers), "\n".join([*_remarks(self), *check, *comparison])]
    return "\n\n".join(part for part in parts if part)


def _layer_table(layers):
  """A line for each layer: its channels, how many went, how many are left, and why dead ones are among these."""
  rows = [["layer", "channels", "gone", "left", "dead, but kept"]]
  for name, layer in layers.items():
    counts = (layer.channels, layer.removed, layer.channels - layer.removed)
    kept = ", ".join(f"{count} {reason}" for reason, count in layer.kept_though_dead.items())
    rows.append([name, *(str(count) for count in counts), kept])
  return aligned(rows, left=(0, 4)) if layers else ""


def _remarks(report):
  """Sentences on what stays, and on what is not as it was."""
  found = collections.Counter()
  for layer in report.layers.values():
    found.update(layer.kept_though_dead)
  for reason in found:
    yield f"{reason}: {REASONS.get(reason, 'a layer through which channels cannot be followed')}"
  if report.walls:
    yield f"walls, through which no channel is followed: {', '.join(report.walls)}"
  yield from (f"  {kind}" for kind in report.wall_kinds if kind.dead_channels or kind.registration)
  if report.opened:
    yield f"functional models now of what they call: {', '.join(map('{0[0]}, a {0[1]}'.format, report.opened.items()))}"
  for name, reason in report.shared.items():
    yield f"{name} serves both models, since it has no copy: {reason}"
  yield from (f"note: {note}" for note in report.notes)
