"""How channels flow through a functional Keras model.

A channel is made by a convolution or a dense layer (the layers that mix channels), flows through layers that treat
each channel by itself, and is read by the next layers that mix. Along the channel axis of every tensor the graph
gives each position

- an id: positions with the same id, in whatever tensors, stay or go together;
- a constant: the value that the position has everywhere and for every input in inference, where it has one;
- whether that holds near borders, where zeros padded around a constant other than 0 spoil it;
- whether it is used: whether any output of the model can depend on it.

Ids and constants flow forward, use flows backward. Nested models are looked into: the graph is one flat list of
calls, and a layer that is called several times has several. What a kind of layer does is a `Rule`; those of Keras'
own layers and operations are in `cifar10.pruning.rules`. A layer without a rule is a wall, through which no
channel is followed.
"""

import collections

import numpy as np

from cifar10.pruning.calls import flat_calls, layers_in
from cifar10.pruning.opening import opened
from cifar10.pruning.rules.base import Channels, Wall, opaque, rule_of, to_float64


class ChannelGraph:
  """The channels of a functional model.

  Args:
    model: a functional or Sequential Keras model, or one that `opened` makes functional.
    threshold: a batch norm's gamma counts as 0 if its absolute value is no more than this.
    keep: names of layers whose output channels stay, and whose gammas the threshold leaves alone; the name of a
      nested model, or of a layer that was opened, stands for all its layers.
    whole_groups: whether of grouped convolutions only whole groups may go.
    size: what the height and width of inputs count as where they are not fixed; by default they stay open.

  Attributes:
    model: the functional or Sequential model that the graph is of: the model itself where nothing was opened.
    opened: what `opened` says of it.
    calls: list of `Call`, in the order of execution, those inside nested models included.
    blocked: dict from channel id to the reason why it cannot be removed: "input", "output", "keep", or the name of
      the layer that is a wall.
    walls: names of the layers that are walls, in the order of execution.
    is_shut: bool array over ids: those that `shut` has made constant.

  Raises:
    ValueError: `model` is neither functional nor a built Sequential and cannot be made so, or has no layer of a name
      in `keep`.
  """

  def __init__(self, model, threshold=0.0, keep=(), size=None, whole_groups=False):
    self.threshold = threshold
    self.whole_groups = whole_groups
    self.blocked = {}
    self._parents = []
    self._patterns = {}
    self.opened = opened(model)
    self.model = self.opened.model
    self.calls, tensors, bindings = flat_calls(self.model, size)
    self._by_keras_tensor = {id(key): value for key, value in tensors}
    self._makers = {id(tensor): call for call in self.calls for tensor in call.outputs}
    self._kept = _kept_operations(model, self.calls, keep)
    _assign_rules(self.calls)
    self.walls = list(dict.fromkeys(call.name for call in self.calls if isinstance(call.rule, Wall)))
    self._flow_forward()
    self._tie_calls(bindings)
    self._resolve_unions()
    self.is_shut = np.zeros(self.channel_count, bool)
    self._flow_use_backward()

  def shut(self, which, means):
    """Makes channels constant, whatever the layers before them make, and lets that flow on.

    Args:
      which: bool array over ids.
      means: dict from the id() of a tensor's `Channels` to the values that its positions have once they are shut; they
        are 0 in a tensor that is not there.
    """
    self.is_shut = which
    for call in self.calls:
      for tensor, (constant, border) in zip(call.outputs, self.constants_after(call)):
        channels = tensor.channels
        shut = which[channels.ids]
        channels.constant = np.where(shut, means.get(id(channels), 0.0), constant)
        channels.border = np.where(shut, 0, border).astype(np.int8)
    for channels in self.tensors():
      channels.used[:] = False
    self._flow_use_backward()

  def constants_after(self, call):
    """What the call's rule makes of its inputs' constants as they are now: a pair of constant and border an output."""
    reads, blocked = call.reads, self.blocked
    call.reads, self.blocked = [tensor.channels for tensor in call.inputs], {}
    made = call.rule.forward(self, call)
    call.reads, self.blocked = reads, blocked
    del self._parents[len(self.is_shut) :]  # Ids were given when the graph was made.
    return [
      (new.constant, new.border) if new.axis == old.axis else (np.full(len(old.ids), np.nan), old.border)
      for new, old in zip(made, (tensor.channels for tensor in call.outputs))
    ]

  def of(self, tensor):
    """The `Channels` of a symbolic Keras tensor of the model; inside a nested model, those of its first call.

    None for one inside a wall.
    """
    found = self._by_keras_tensor.get(id(tensor))
    return None if found is None else found.channels

  def tensors(self):
    """The `Channels` of all tensors, and of those inputs that a rule reads along another axis."""
    found = [tensor.channels for call in self.calls for tensor in call.outputs]
    found += [channels for call in self.calls for channels in call.reads]
    return list({id(channels): channels for channels in found}.values())

  def maker(self, tensor):
    """The call that computes a `Tensor`."""
    return self._makers[id(tensor)]

  def mixing_calls(self):
    """The calls of layers that mix channels, in the order of execution."""
    return [call for call in self.calls if call.rule.mixes]

  def calls_by_operation(self):
    """Lists of calls, one for each layer or operation, in the order of the first call."""
    groups = collections.defaultdict(list)
    for call in self.calls:
      groups[id(call.operation)].append(call)
    return list(groups.values())

  def gamma(self, call):
    """The gamma of a batch norm's call as float64, 0 where its absolute value is within the threshold."""
    layer = call.operation
    if not layer.scale:
      return np.ones(layer.moving_mean.shape)
    gamma = to_float64(layer.gamma)
    return gamma if id(layer) in self._kept else np.where(abs(gamma) <= self.threshold, 0, gamma)

  @property
  def channel_count(self):
    """One more than the largest id."""
    return len(self._parents)

  # What rules call.

  def read(self, call, index, axis):
    """The `Channels` of input number `index` along `axis`, blocked if they are not followed along it.

    Opaque if there is no fixed number of positions.
    """
    tensor = call.inputs[index]
    channels = tensor.channels
    axis %= len(tensor.shape)
    if channels.axis != axis:
      self.block(channels.ids, call.name)
      if tensor.shape[axis] is None:
        return opaque(channels.reason or call.name)
      ids = self.new_ids(tensor.shape[axis])
      reason = call.name if channels.reason == "" else channels.reason
      self.block(ids, reason)
      channels = Channels(axis, ids, np.full(len(ids), np.nan), np.zeros(len(ids), np.int8), reason=reason)
    call.reads[index] = channels
    return channels

  def new_ids(self, count):
    """Makes `count` new channels."""
    first = len(self._parents)
    self._parents.extend(range(first, first + count))
    return np.arange(first, first + count)

  def pattern(self, *key):
    """The number of a pattern of zeros, 1 or more: the same for the same key."""
    return self._patterns.setdefault(key, len(self._patterns) + 1)

  def unite(self, ids, others):
    """Declares that channels `ids[i]` and `others[i]` stay or go together."""
    for one, other in zip(ids.tolist(), others.tolist(), strict=True):
      one, other = self._root(one), self._root(other)
      self._parents[max(one, other)] = min(one, other)

  def block(self, ids, reason):
    """Declares that channels cannot be removed."""
    for channel in ids.tolist():
      self.blocked.setdefault(channel, reason)

  def _root(self, channel):
    parents = self._parents
    while parents[channel] != channel:
      parents[channel] = parents[parents[channel]]
      channel = parents[channel]
    return channel

  def _flow_forward(self):
    for call in self.calls:
      call.reads = [tensor.channels for tensor in call.inputs]
      for tensor, channels in zip(call.outputs, call.rule.forward(self, call), strict=True):
        tensor.channels = channels
    for call in self.calls:
      for tensor in call.outputs:
        if tensor.is_output:
          self.block(tensor.channels.ids, "output")
        if id(call.operation) in self._kept:
          self.block(tensor.channels.ids, "keep")

  def _tie_calls(self, bindings):
    """One set of weights, or one shape of an input, serves all calls: their channels stay or go together."""
    for first, *others in self.calls_by_operation():
      for other in others if first.rule.owns_channels else []:
        self._tie(*(call.reads + [tensor.channels for tensor in call.outputs] for call in (first, other)))
    for first, *others in bindings:
      for other in others:
        self._tie([tensor.channels for tensor in first], [tensor.channels for tensor in other])

  def _tie(self, channels, others):
    for one, other in zip(channels, others, strict=True):
      if one.axis == other.axis and len(one.ids) == len(other.ids):
        self.unite(one.ids, other.ids)
      else:
        reason = one.reason or other.reason or "shared"
        self.block(one.ids, reason)
        self.block(other.ids, reason)

  def _resolve_unions(self):
    roots = np.array([self._root(channel) for channel in range(len(self._parents))], int)
    for channels in self.tensors():
      channels.ids = roots[channels.ids]
    blocked, self.blocked = self.blocked, {}
    for channel, reason in blocked.items():
      self.blocked.setdefault(int(roots[channel]), reason)

  def _flow_use_backward(self):
    for call in reversed(self.calls):
      for tensor in call.outputs:
        tensor.channels.used |= tensor.is_output
      if all(tensor.channels.axis is None for tensor in call.outputs):
        reads_used = [np.ones(len(channels.ids), bool) for channels in call.reads]
      else:
        used = [tensor.channels.used for tensor in call.outputs]
        for tensor, before in zip(call.outputs, used):
          tensor.channels.used = before & ~self.is_shut[tensor.channels.ids]
        reads_used = call.rule.backward(self, call)
        for tensor, before in zip(call.outputs, used):
          tensor.channels.used = before
      for tensor, read, used in zip(call.inputs, call.reads, reads_used, strict=True):
        read.used |= used
        if read is not tensor.channels:
          tensor.channels.used[:] = True


def _kept_operations(model, calls, names):
  if isinstance(names, str):
    raise ValueError(f"keep is {names!r}; it is a list of names: [{names!r}]")
  kept = set()
  for name in names:
    found = {id(call.operation) for call in calls if call.name == name or call.name.startswith(f"{name}/")}
    if not found:
      raise ValueError(
        f"keep names {name!r}, but {model.name} has no such layer; one in a nested model is 'model/layer'"
      )
    kept |= found
  return kept


def _assign_rules(calls):
  """Gives each call its rule; a layer that is a wall in any call, or inside one, is a wall in all."""
  walls = set()
  for call in calls:
    call.rule = rule_of(call)
    if isinstance(call.rule, Wall):
      walls.add(id(call.operation))
      walls.update(id(layer) for layer in layers_in(call.operation))
  for call in calls:
    if id(call.operation) in walls:
      call.rule = Wall()
    if call.rule.ignores_mask:
      call.inputs = [tensor for tensor in call.inputs if tensor is not call.kwargs.get("mask")]
