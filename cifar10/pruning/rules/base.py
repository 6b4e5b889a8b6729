"""What a rule is, and the rules of inputs and of layers that the channel graph does not know."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from cifar10.pruning.calls import Call, Tensor

if TYPE_CHECKING:
  from cifar10.pruning.channel_graph import ChannelGraph


@dataclasses.dataclass(eq=False)
class Channels:
  """The positions along the channel axis of one tensor.

  Attributes:
    axis: the channel axis, 1 or more; None for an opaque tensor, in which no channels are followed.
    ids: int64 (positions,).
    constant: float64 (positions,); NaN where the position is not constant.
    border: int8 (positions,): 0 where the constant holds everywhere; where it may not hold near the borders 1, or 2
      if all that was padded there was constant, so that nothing but the border is left of a layer.
    used: bool (positions,).
    reason: why a tensor is opaque: "input" or the name of a layer that is a wall.
    pattern: int64 (positions,): 0, or the number of a pattern of zeros that was put around or between values: all
      positions of one pattern are their constants times the same image, whatever `border` says.
  """

  axis: int | None
  ids: np.ndarray
  constant: np.ndarray
  border: np.ndarray
  used: np.ndarray | None = None
  reason: str = ""
  pattern: np.ndarray | None = None

  def __post_init__(self):
    self.used = np.zeros(len(self.ids), bool)
    if self.pattern is None:
      self.pattern = np.zeros(len(self.ids), int)

  @property
  def known(self) -> np.ndarray:
    """Where the position is constant near the borders too: bool (positions,)."""
    return ~np.isnan(self.constant) & (self.border == 0)


def border_behind_zeros(
  channels: Channels, zeros: bool = True, used: np.ndarray | None = None, value: float = 0.0
) -> np.ndarray:
  """`channels.border` after zeros were put around the image.

  Args:
    channels: `Channels`.
    zeros: whether there are any.
    used: bool (positions,): which positions matter; all by default.
    value: another number, if it was that and not 0.
  """
  nonzero = zeros & (channels.constant != value) & ~np.isnan(channels.constant)
  lost = not np.isnan(channels.constant if used is None else channels.constant[used]).any()
  return np.maximum(channels.border, np.where(nonzero, 2 if lost else 1, 0)).astype(np.int8)


def opaque(reason: str) -> Channels:
  """The `Channels` of a tensor in which none are followed."""
  return Channels(None, np.zeros(0, int), np.zeros(0), np.zeros(0, np.int8), reason=reason)


@dataclasses.dataclass
class Squeezed:
  """How a layer or operation looks without some of its channels.

  Attributes:
    config: what changes in its config.
    weights: its weights by attribute name, arrays; those not named stay as they are.
    args: dict from index to what its call gets in place of that one of `args`.
    bypassed: whether it goes, and what it is called with takes the place of its output.
    shifted: whether its output lacks constants, which the batch norm behind it makes good.
  """

  config: dict[str, Any] = dataclasses.field(default_factory=dict)
  weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  args: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
  bypassed: bool = False
  shifted: bool = False


class Rule:
  """What pruning needs to know of a kind of layer; by default, of one that treats each channel by itself.

  The default holds for layers with one input and one output that leave a constant as it is: pooling, cropping,
  dropout. Of a layer with a kernel `KernelRule` knows more. `README.md` beside this file shows how rules are written.

  Attributes:
    mixes: whether each output depends on several input channels; such a rule is a `KernelRule`.
    owns_channels: whether weights or config of the layer have an entry for each channel.
    trains: whether the layer may do something else in training, so that the rule does not hold there.
    ignores_mask: whether a mask makes no difference in inference; else a layer that is called with one is a wall.
    elementwise: whether the layer maps each value by itself.
    many_outputs: whether the rule knows what comes of a call with several outputs; else that is a wall.
    kernels: names of the layer's attributes that hold its kernels. A layer with one counts in penalties and
      multiply-adds, and can take up what its inputs are multiplied by.
  """

  mixes: bool = False
  owns_channels: bool = False
  trains: bool = True
  ignores_mask: bool = False
  elementwise: bool = False
  many_outputs: bool = False
  kernels: tuple[str, ...] = ()

  def applies(self, call: Call) -> bool:
    """Whether the rule holds for this call; else the layer is a wall."""
    return True

  def forward(self, graph: "ChannelGraph", call: Call) -> list[Channels]:
    """The `Channels` of each output of the call; may add ids, unions and blocks to the graph."""
    channels = self.read(graph, call)
    if channels.axis is None:
      return [channels]
    same_rank = len(call.outputs[0].shape) == len(call.inputs[0].shape)
    axis, (constant, border) = channels.axis if same_rank else 1, self.constant(graph, call, channels)
    pattern = self.pattern(graph, call, channels)
    return [Channels(axis, channels.ids, constant, border, reason=channels.reason, pattern=pattern)]

  def read(self, graph: "ChannelGraph", call: Call) -> Channels:
    """The `Channels` of the input; a rule for a layer that has an axis of its own for them reads along that."""
    return call.inputs[0].channels

  def constant(self, graph: "ChannelGraph", call: Call, channels: Channels) -> tuple[np.ndarray, np.ndarray]:
    """Constants and borders after the layer, from the `Channels` before it."""
    return channels.constant, channels.border

  def pattern(self, graph: "ChannelGraph", call: Call, channels: Channels) -> np.ndarray | None:
    """The patterns of zeros after the layer, from the `Channels` before it; None where there are none, or not known."""
    return None

  def backward(self, graph: "ChannelGraph", call: Call) -> list[np.ndarray]:
    """Which positions of each of `call.reads` are used, given which of the output are; all if that is opaque."""
    return [call.outputs[0].channels.used] * len(call.inputs)

  def squeezed(self, graph: "ChannelGraph", call: Call, keep_in: list[np.ndarray], keep_out: np.ndarray) -> Squeezed:
    """The layer without some of its channels.

    Args:
      graph: the graph.
      call: a call of the layer.
      keep_in: list of bool arrays, which positions of each of `call.reads` stay.
      keep_out: bool array, which positions of the output stay.
    """
    return Squeezed()

  def scaled(self, call: Call, factors: list[np.ndarray]) -> np.ndarray | None:
    """What the output's channels are multiplied by if those of the inputs are multiplied by positive numbers.

    Args:
      call: a call of the layer, which has no kernel.
      factors: list of float64 arrays, one number for each position of each of `call.reads`.

    Returns:
      A float64 array, one number for each position of the output; None if the output is not just multiplied.
    """
    by_channel = {}
    for channels, factor in zip(call.reads, factors):
      for channel, value in zip(channels.ids.tolist(), factor.tolist()):
        if by_channel.setdefault(channel, value) != value:
          return None
    return np.array([by_channel[channel] for channel in call.outputs[0].channels.ids.tolist()])

  def absorbed(self, layer: keras.Operation, factors: np.ndarray) -> dict[str, np.ndarray]:
    """The weights by attribute name with which inputs multiplied by `factors` give what the inputs gave.

    Asked for only where there are `kernels`.
    """
    raise NotImplementedError(f"{type(self).__name__} has kernels, and no way to multiply them: define absorbed")

  def weights_per_output(self, layer: keras.Operation) -> int:
    """How many weights of the kernels go with one output."""
    return 0

  def weights_per_input(self, layer: keras.Operation) -> int:
    """How many weights of the kernels go with one input."""
    return 0

  def multiply_adds(self, call: Call, weights: Mapping[str, npt.ArrayLike]) -> int | None:
    """Multiply-adds of the call for one example, with `kernels` by attribute name; None if a size is not fixed."""
    return 0


class Wall(Rule):
  """A layer that the graph knows nothing about: what reaches it stays as it is."""

  def forward(self, graph, call):
    for tensor in call.inputs:
      graph.block(tensor.channels.ids, call.name)
    return [opaque(call.name) for _ in call.outputs]

  def scaled(self, call, factors):
    return None


class Input(Rule):
  """An input of the model: its channels stay."""

  def forward(self, graph, call):
    return [opaque("input") for _ in call.outputs]


RULES = {keras.layers.InputLayer: (Input(),)}


def register(layer_class: type[keras.Operation] | Callable, *rules: Rule) -> None:
  """Teaches the graph a class of layers or operations; subclasses need to be registered themselves.

  So that a layer of one's own is followed; `README.md` beside this file shows how rules are written.

  Args:
    layer_class: the class; or a function, that of Lambda layers or an activation function.
    *rules: one or more `Rule`; the first that applies to a call is the call's. For a layer that is called with
      `training=True` none does, unless its attribute `trains` is False.

  Raises:
    ValueError: there is no rule.

  >>> import keras
  >>> from cifar10.pruning import plan, rules
  >>> class Cube(keras.layers.Layer):
  ...   def call(self, x):
  ...     return x**3
  >>> given = keras.Input((5,))
  >>> model = keras.Model(given, keras.layers.Dense(2)(Cube(name="cube")(keras.layers.Dense(4)(given))))
  >>> plan(model).walls
  ['cube']
  >>> register(Cube, rules.Elementwise())
  >>> plan(model).walls
  []
  """
  if not rules:
    raise ValueError(
      f"register({getattr(layer_class, '__name__', layer_class)}) needs a rule, such as rules.Elementwise()"
    )
  RULES[layer_class] = rules


def attribute_of(layer: keras.Operation, name: str) -> Any:
  """An attribute by its name, or by "cell.kernel" that of one; None if there is none."""
  return functools.reduce(lambda owner, part: getattr(owner, part, None), name.split("."), layer)


def rules_of(key: type[keras.Operation] | Callable) -> tuple[Rule, ...]:
  """The rules that are registered for a class, or for a function; none for what is not."""
  return RULES.get(key, ()) if isinstance(key, Hashable) else ()


def to_float64(variable: npt.ArrayLike) -> np.ndarray:
  """A variable or tensor as a float64 array."""
  return keras.ops.convert_to_numpy(variable).astype(np.float64)


def rule_of(call: Call) -> Rule:
  """The first registered rule that applies to a call; a `Wall` if none does."""
  in_training = call.kwargs.get("training") or any(argument is True for argument in call.args[1:])
  masked = _heeds_mask(call)
  function = call.operation.function if isinstance(call.operation, keras.layers.Lambda) else None
  for rule in rules_of(function) or rules_of(type(call.operation)):
    fits = len(call.outputs) == 1 or rule.many_outputs
    if fits and not (in_training and rule.trains) and not (masked and not rule.ignores_mask) and rule.applies(call):
      return rule
  return Wall()


def _heeds_mask(call):
  """Whether the call has a mask that may make a difference: as an argument, or on the tensors that it reads."""
  given = any(isinstance(value, Tensor) for value in keras.tree.flatten(call.kwargs.get("mask")))
  takes = isinstance(call.operation, keras.Layer) and (
    len(call.inputs) > 1 or "mask" in inspect.signature(call.operation.call).parameters
  )
  return given or (takes and any(tensor.masked for tensor in call.inputs))
