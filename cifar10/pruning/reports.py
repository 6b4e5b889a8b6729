"""What `squeeze` and `compare` report."""

import dataclasses


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
    seconds: median time of a call on the inputs, compiled by `tf.function`, in turns.
  """

  examples: int
  largest_difference: float
  relative_difference: float
  agreement: float | None
  parameters: tuple[int, int]
  multiply_adds: tuple[int | None, int | None]
  seconds: tuple[float, float]


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


@dataclasses.dataclass
class LayerReport:
  """The output channels of one layer.

  Attributes:
    channels: how many there were.
    removed: how many went.
    kept_though_dead: dict from reason to how many dead channels stay for it: "carrier" (stands for others
      whose constants cannot pass a padded border), "padding" (has such a constant itself, where nothing can
      stand for it), "width" (a layer keeps `multiple_of` or `min_channels` channels, or one), "keep", "shared"
      (other tensors or readers need it), "output", "input", or the name of a layer through which it cannot be
      followed: a wall, or one that reads another axis or mixes channels without a kernel.
  """

  channels: int
  removed: int
  kept_though_dead: dict[str, int]

  def is_lost(self) -> bool:
    """Whether all channels are dead, and some stay only because a layer cannot be without."""
    own = sum(self.kept_though_dead.get(reason, 0) for reason in ("carrier", "width"))
    return own == self.channels - self.removed


@dataclasses.dataclass
class SqueezeReport:
  """What `squeeze` did, or would do; `dataclasses.asdict` makes it ready for JSON.

  Attributes:
    parameters_before, parameters_after: numbers of weights, those of moving statistics included.
    multiply_adds_before, multiply_adds_after: as `multiply_adds` counts them.
    layers: dict from the name of each convolution and dense layer to its `LayerReport`, but for depthwise
      convolutions, whose channels are those of the layer before; a layer inside a nested model goes by "model/layer".
    gates: the same for batch norms.
    walls: names of the layers that the channel graph has no rule for; what reaches them stays.
    opened: dict from the name of each layer that became a functional model of the layers that it calls to that of its
      class.
    comparison: the `Comparison` of the model and the squeezed one, if a threshold above 0 changed the function.
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
  comparison: Comparison | None = None
  remade: list[str] = dataclasses.field(default_factory=list, compare=False)
  shared: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
  notes: list[str] = dataclasses.field(default_factory=list, compare=False)
  check: SelfCheck | None = dataclasses.field(default=None, compare=False)
