"""Soft thresholds of gammas, one by one or by group, and what optimizers need to apply them after gradient steps."""

import contextlib
import numbers
import types
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from cifar10.pruning.calls import KnowsLastOfStep, place_among_trained
from cifar10.pruning.keys import MARK, variable_of

# Compiled steps have these as they were when traced: a later change would show, and do nothing.
FIXED_ONCE_BUILT = (
  "momentum",
  "nesterov",
  "weight_decay",
  "clipnorm",
  "clipvalue",
  "global_clipnorm",
  "use_ema",
  "ema_momentum",
  "ema_overwrite_frequency",
  "loss_scale_factor",
  "gradient_accumulation_steps",
  "penalties",
  "groups",
  "threshold_betas",
)


def soft_threshold(x, threshold):
  """Moves `x` towards 0 by `threshold`, and to exactly 0 where |x| <= threshold.

  The proximal operator of `threshold * |x|`: sign(x) * max(|x| - threshold, 0), element by element.
  """
  return ops.sign(x) * ops.maximum(ops.abs(x) - threshold, 0.0)


def group_soft_threshold(x, threshold, groups):
  """Makes the Euclidean norm of each group of `x` smaller by its threshold, and the group exactly 0 where it is less.

  The proximal operator of the sum over groups of `threshold * norm of the group`: x / norm * max(norm - threshold, 0).
  For a group of one it is `soft_threshold`, to the bit.

  Args:
    x: tensor (n,).
    threshold: tensor (n,), the same for all of a group.
    groups: int array (n,), numbers of the groups, from 0 up.
  """
  sizes = np.bincount(groups)
  norms = ops.take(ops.sqrt(ops.segment_sum(ops.square(x), groups, num_segments=len(sizes))), groups)
  norms = ops.where(sizes[groups] == 1, ops.abs(x), norms)
  left = ops.maximum(norms - threshold, 0.0)
  moved = ops.where(left > 0, x / ops.where(left > 0, norms, 1.0) * left, 0.0)
  return ops.where(threshold > 0, moved, x)


class Thresholding(KnowsLastOfStep):
  """What an optimizer needs to threshold gammas: it stands before the class of Keras among the bases.

  After `_set_thresholds` and `build`, `_threshold(variable, learning_rate)` in `update_step` does what is due once the
  variable has had its gradient step.
  """

  def _set_thresholds(self, l1_penalty, penalties, groups, threshold_betas):
    if not isinstance(penalties, Mapping):
      raise ValueError(f"penalties is {penalties!r}; it is a dict, as penalties(model) gives it")
    for name, value in penalties.items():
      _check_penalty(name, value)
    self._l1_penalty = _Setting(l1_penalty, type(self).__name__)
    self._shows_setting = True
    self.penalties = types.MappingProxyType(dict(penalties))
    self.groups = None if groups is None else types.MappingProxyType(_checked_groups(groups))
    self.threshold_betas = bool(threshold_betas)
    self._indices = {}
    self._averages = []

  def __setattr__(self, name: str, value: Any) -> None:
    schedules = name == "learning_rate" and callable(value)  # A number counts from the next step.
    if getattr(self, "built", False) and (schedules or (name in FIXED_ONCE_BUILT and value != getattr(self, name))):
      raise ValueError(
        f"{name} cannot be set to {value} once the optimizer is built, since compiled steps keep what they have; "
        f"compile the model with a new {type(self).__name__}"
      )
    super().__setattr__(name, value)

  @property
  def l1_penalty(self) -> float | LearningRateSchedule:
    """The strength of the sparsity; set, it counts from the next step."""
    return self._l1_penalty.value

  @l1_penalty.setter
  def l1_penalty(self, value: float) -> None:
    self._l1_penalty.set(value)

  def current_l1_penalty(self) -> Any:
    """The `l1_penalty` of the next step, a scalar tensor: what it is set to, or what the schedule gives."""
    steps = self.variables[0]  # As the schedule of the learning rate counts them, those that accumulate too.
    return self._l1_penalty.at(steps)

  def build(self, variables: list[keras.Variable]) -> None:
    """Pairs the penalties with the variables; see `keras.optimizers.Optimizer.build`."""
    if self.built or not variables:  # Keras 3.15 builds that of a model in an .h5 file for none of its variables.
      return
    by_key = _variables_of(self.penalties, variables, self._indices)
    index_of = {id(variable): index for index, variable in enumerate(variables)}
    self._indices = {key: index_of[id(variable)] for key, variable in by_key.items()}
    super().build(variables)
    # update_step may get a backend's variable, which has no path: so the pairs are made by index.
    self._penalty_by_index = [0.0] * len(variables)
    for key, index in self._indices.items():
      self._penalty_by_index[index] = self.penalties[key]
    self._trained = types.MappingProxyType(dict(enumerate(variables)))
    self._grouped = _grouped(self.groups, self._indices, self._penalty_by_index, variables)
    self._betas = _betas_behind(self._indices.values(), variables) if self.threshold_betas else ()

  def add_optimizer_variables(
    self, trainable_variables: list[keras.Variable], name: str | list[str], initializer: Any = "zeros"
  ) -> Any:
    """See `keras.optimizers.Optimizer.add_optimizer_variables`; those named "average" are noted."""
    made = super().add_optimizer_variables(trainable_variables, name, initializer)
    if name == "average":
      self._averages = list(made)
    return made

  def _threshold(self, variable, learning_rate):
    """Thresholds a gamma that is on its own; and what is thresholded together, once the last variable has its step."""
    index = place_among_trained(self, variable)
    if self._penalty_by_index[index] > 0 and not (self._grouped and index in self._grouped.indices):
      threshold = self._thresholds(self._penalty_by_index[index], learning_rate, variable.dtype)
      self._put(index, variable, soft_threshold(ops.convert_to_tensor(variable), threshold), threshold)
    if index == self.last_of_step:
      if self._grouped:
        self._threshold_groups(learning_rate)
      for gamma, beta in self._betas:
        self._threshold_beta(gamma, beta, learning_rate)

  def _threshold_groups(self, learning_rate):
    grouped, dtype = self._grouped, self._trained[self._grouped.indices[0]].dtype
    gammas = [ops.cast(ops.convert_to_tensor(self._trained[index]), dtype) for index in grouped.indices]
    threshold = self._thresholds(grouped.penalties, learning_rate, dtype)
    thresholded = group_soft_threshold(ops.concatenate(gammas), threshold, grouped.numbers)
    for index, start, end in zip(grouped.indices, grouped.ends, grouped.ends[1:]):
      self._put(index, self._trained[index], thresholded[start:end], threshold[start:end])

  def _threshold_beta(self, gamma, beta, learning_rate):
    variable = self._trained[beta]
    threshold = self._thresholds(self._penalty_by_index[gamma], learning_rate, variable.dtype)
    shut = ops.equal(ops.convert_to_tensor(self._trained[gamma]), 0)
    threshold = ops.where(shut, threshold, ops.zeros_like(threshold))
    self._put(beta, variable, soft_threshold(ops.convert_to_tensor(variable), threshold), threshold)

  def _thresholds(self, penalties, learning_rate, dtype):
    strength = ops.cast(self._strength(penalties), dtype)
    return ops.cast(learning_rate, dtype) * strength

  def _strength(self, penalties):
    current = self.current_l1_penalty()
    return current * (ops.cast(penalties, current.dtype) if isinstance(penalties, np.ndarray) else penalties)

  def _put(self, index, variable, thresholded, threshold):
    self.assign(variable, thresholded)
    if self._averages:
      average, shut = self._averages[index], ops.logical_and(ops.equal(thresholded, 0), threshold > 0)
      self.assign(average, ops.where(shut, ops.zeros_like(thresholded), ops.convert_to_tensor(average)))

  @property
  def variables(self) -> list[keras.Variable]:
    """See `keras.optimizers.Optimizer.variables`; on JAX, whose steps have no other state, the `l1_penalty` too."""
    setting = getattr(self, "_l1_penalty", None)
    shown = setting is not None and self._shows_setting and keras.backend.backend() == "jax"
    return super().variables + (setting.variables if shown else [])

  def save_own_variables(self, store: Any) -> None:
    """See `keras.optimizers.Optimizer.save_own_variables`; the `l1_penalty` is in the config."""
    with self._setting_left_out():
      super().save_own_variables(store)

  def load_own_variables(self, store: Any) -> None:
    """See `keras.optimizers.Optimizer.load_own_variables`."""
    with self._setting_left_out():
      super().load_own_variables(store)

  @contextlib.contextmanager
  def _setting_left_out(self):
    self._shows_setting = False
    try:
      yield
    finally:
      self._shows_setting = True

  def get_config(self) -> dict[str, Any]:
    """The arguments of the constructor, as Keras serialises them."""
    l1_penalty = self.l1_penalty
    if isinstance(l1_penalty, LearningRateSchedule):
      l1_penalty = keras.optimizers.schedules.serialize(l1_penalty)
    config = {
      **super().get_config(),
      "l1_penalty": l1_penalty,
      "penalties": dict(self.penalties),
      "groups": self.groups and {key: list(numbers) for key, numbers in self.groups.items()},
      "threshold_betas": self.threshold_betas,
    }
    return {**config, "indices": dict(self._indices)} if self._indices else config

  @classmethod
  def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The optimizer that `get_config` describes."""
    config = dict(config)
    indices = config.pop("indices", {})
    if isinstance(config["l1_penalty"], dict):
      config["l1_penalty"] = keras.optimizers.schedules.deserialize(config["l1_penalty"], custom_objects)
    optimizer = super().from_config(config, custom_objects)
    optimizer._indices = dict(indices)
    return optimizer


class _Setting:
  """A number that a compiled step reads anew each time, or a schedule.

  Keras does not see its variable where it need not: saved with the others, it would come back over what a later run is
  given.
  """

  def __init__(self, value, holder):
    self.value = value
    self.variables = []
    self._holder = holder
    if not isinstance(value, LearningRateSchedule):
      _check_penalty("l1_penalty", value)
      self.value = float(value)
      dtype = "float32" if keras.backend.backend() == "jax" else "float64"
      self.variables.append(
        keras.Variable(self.value, name="l1_penalty", dtype=dtype, trainable=False, aggregation="only_first_replica")
      )

  def set(self, value):
    if isinstance(value, LearningRateSchedule) or isinstance(self.value, LearningRateSchedule):
      raise ValueError(
        f"l1_penalty cannot be set from {self.value} to {value}, since compiled steps keep to a schedule or have none; "
        f"compile the model with a new {self._holder}"
      )
    _check_penalty("l1_penalty", value)
    self.value = float(value)
    self.variables[0].assign(self.value)

  def at(self, steps):
    if isinstance(self.value, LearningRateSchedule):
      return self.value(steps)
    return ops.convert_to_tensor(self.variables[0])


class _Grouped:
  """The gammas that are thresholded together, one behind the other.

  Attributes:
    indices: tuple of their places among the variables.
    ends: tuple with 0, and where each gamma ends.
    numbers: int array (channels,), the group of each channel.
    penalties: float64 array (channels,), the sum of the penalties of all that are in the group of the channel.
  """

  def __init__(self, indices, numbers, penalties):
    self.indices = tuple(indices)
    self.ends = tuple(np.cumsum([0, *map(len, numbers)]).tolist())
    self.numbers = np.unique(np.concatenate(numbers), return_inverse=True)[1].astype("int32")
    own = np.concatenate([np.full(len(each), penalty) for each, penalty in zip(numbers, penalties)])
    self.penalties = np.bincount(self.numbers, own)[self.numbers]


def _grouped(groups, indices, penalties, variables):
  found = {index: groups[key] for key, index in indices.items() if key in groups} if groups else {}
  for key, index in indices.items():
    if index in found and len(found[index]) != variables[index].shape[0]:
      raise ValueError(f"groups has {len(found[index])} numbers for {key}, which has {variables[index].shape[0]}")
  return _Grouped(found, list(found.values()), [penalties[index] for index in found]) if found else None


def _betas_behind(gammas: Iterable[int], variables):
  """Pairs of the places of gammas and of their layers' betas, which Keras keeps behind them."""
  pairs = []
  for index in gammas:
    paths = [getattr(variable, "path", "") for variable in variables[index : index + 2]]
    if len(paths) == 2 and paths[1] == f"{paths[0].removesuffix('gamma')}beta":
      pairs.append((index, index + 1))
  if not pairs:
    raise ValueError("threshold_betas is True, and no gamma that penalties names has a beta; leave it False")
  return tuple(pairs)


def _checked_groups(groups):
  if not isinstance(groups, Mapping):
    raise ValueError(f"groups is {groups!r}; it is a dict, as groups(model) gives it")
  checked = {}
  for key, found in groups.items():
    array = np.asarray(found)
    if array.ndim != 1 or array.dtype.kind not in "iu":
      raise ValueError(f"groups has {found!r} for {key}; it needs one whole number for each channel")
    checked[key] = tuple(array.tolist())
  return checked


def _check_penalty(name, value):
  if not isinstance(value, numbers.Real) or not 0 <= value < float("inf"):
    raise ValueError(f"{name} is {value}; a penalty is a finite number of 0 or more")


def _variables_of(keys, variables, indices):
  """The variables that keys stand for: by their marks or paths, else where they stood when the optimizer was saved."""
  marked = [(getattr(variable, MARK), variable) for variable in variables if hasattr(variable, MARK)]
  namings = [marked, [(variable.path, variable) for variable in variables]]
  found = {}
  for key in keys:
    try:
      found[key] = variable_of(key, namings)
    except ValueError as error:
      index = indices.get(key, len(variables))
      ends = [variable.path.split("/")[-2:] for variable in variables[index : index + 1]]
      if ends != [key.split("/")[-2:]]:
        raise ValueError(f"{error}, or call penalties(model) on this model before") from error
      found[key] = variables[index]
  unknown = sorted(key for key, variable in found.items() if variable is None)
  if unknown:
    raise ValueError(f"penalties names {unknown}, which are not among the trained variables")
  if len(set(map(id, found.values()))) < len(found):
    raise ValueError(f"penalties names one variable twice: {sorted(found)}")
  return found
