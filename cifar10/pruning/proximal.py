"""Stochastic gradient descent with soft thresholding of gammas: ISTA (section 4.2 of the paper)."""

import numbers
import types
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from cifar10.pruning.calls import place_among_trained
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
)


def soft_threshold(x, threshold):
  """Moves `x` towards 0 by `threshold`, and to exactly 0 where |x| <= threshold.

  The proximal operator of `threshold * |x|`: sign(x) * max(|x| - threshold, 0), element by element.
  """
  return ops.sign(x) * ops.maximum(ops.abs(x) - threshold, 0.0)


@keras.saving.register_keras_serializable("pruning")
class ProximalSGD(keras.optimizers.SGD):
  """SGD that soft-thresholds the gated gammas after each gradient step.

  For a variable `w` with the gradient `g`, of any kind, the step is that of `keras.optimizers.SGD`:

      w = w - learning_rate * g

  and for a gated gamma, after it:

      w = soft_threshold(w, learning_rate * l1_penalty * penalties[key of w])

  With `l1_penalty` 0 it is plain SGD, and gammas at 0 may come back.

  What the further arguments of SGD do to gradients and weights (clipping, weight decay, momentum, the mean of
  accumulated gradients) comes before the threshold, which takes place as often as the gradient step does. With
  `use_ema` the average of a gamma is 0 as long as the threshold holds the gamma at 0, so that it stays there when
  averages take the place of weights. Both schedules are asked for the same steps.

  `learning_rate` and `l1_penalty` may be set while training goes on, and count from the next step. What cannot change
  in a compiled step is refused once the optimizer is built. Where Keras has put it into a `LossScaleOptimizer`, as
  `compile` does for mixed_float16, set `model.optimizer.inner_optimizer.l1_penalty`.

  Args:
    learning_rate: a float, a `LearningRateSchedule` or a callable, as for `keras.optimizers.SGD`.
    l1_penalty: strength of the sparsity, a float of 0 or more (rho in the paper, mu * rho per step), or a
      `LearningRateSchedule` that gives it for each step.
    penalties: dict from the key of a gamma variable to its penalty, as `penalties(model)` gives it. A key
      that stands for no variable, or for several, is an error when the optimizer is built.
    **kwargs: further arguments of `keras.optimizers.SGD`.

  Raises:
    ValueError: `l1_penalty` or a penalty is negative or not finite.

  >>> import keras
  >>> gamma = keras.Variable([0.5, -0.25, 0.01], name="gamma")
  >>> optimizer = ProximalSGD(learning_rate=0.5, l1_penalty=1.0, penalties={"gamma": 0.25})
  >>> optimizer.apply([keras.ops.zeros(3)], [gamma])
  >>> gamma.numpy().tolist()
  [0.375, -0.125, 0.0]
  """

  def __init__(
    self,
    learning_rate: float | LearningRateSchedule | Callable[[], float],
    l1_penalty: float | LearningRateSchedule,
    penalties: Mapping[str, float],
    **kwargs: Any,
  ):
    super().__init__(learning_rate, **kwargs)
    if not isinstance(penalties, Mapping):
      raise ValueError(f"penalties is {penalties!r}; it is a dict, as penalties(model) gives it")
    for name, value in penalties.items():
      _check_penalty(name, value)
    self._l1_penalty = _Setting(l1_penalty)
    self.penalties = types.MappingProxyType(dict(penalties))
    self._indices = {}
    self._averages = []

  def __setattr__(self, name: str, value: Any) -> None:
    if name in FIXED_ONCE_BUILT and getattr(self, "built", False) and value != getattr(self, name):
      raise ValueError(
        f"{name} cannot be set to {value} once the optimizer is built, since compiled steps keep what they have; "
        "compile the model with a new ProximalSGD"
      )
    super().__setattr__(name, value)

  @property
  def l1_penalty(self) -> float | LearningRateSchedule:
    """The strength of the sparsity; set, it counts from the next step."""
    return self._l1_penalty.value

  @l1_penalty.setter
  def l1_penalty(self, value: float) -> None:
    self._l1_penalty.set(value)

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

  def add_optimizer_variables(
    self, trainable_variables: list[keras.Variable], name: str | list[str], initializer: Any = "zeros"
  ) -> Any:
    """See `keras.optimizers.Optimizer.add_optimizer_variables`; those named "average" are noted."""
    made = super().add_optimizer_variables(trainable_variables, name, initializer)
    if name == "average":
      self._averages = list(made)
    return made

  def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
    """The gradient step for one variable, then its threshold."""
    super().update_step(gradient, variable, learning_rate)
    index = place_among_trained(self, variable)
    penalty = self._penalty_by_index[index]
    if penalty > 0:
      strength = ops.cast(self.current_l1_penalty() * penalty, variable.dtype)
      threshold = ops.cast(learning_rate, variable.dtype) * strength
      thresholded = soft_threshold(ops.convert_to_tensor(variable), threshold)
      self.assign(variable, thresholded)
      if self._averages:
        average, shut = self._averages[index], ops.logical_and(ops.equal(thresholded, 0), threshold > 0)
        self.assign(average, ops.where(shut, ops.zeros_like(thresholded), ops.convert_to_tensor(average)))

  def current_l1_penalty(self) -> Any:
    """The `l1_penalty` of the next step, a scalar tensor: what it is set to, or what the schedule gives."""
    steps = self.variables[0]  # As the schedule of the learning rate counts them, those that accumulate too.
    return self._l1_penalty.at(steps)

  def get_config(self) -> dict[str, Any]:
    """The arguments of the constructor, as Keras serialises them."""
    config, l1_penalty = super().get_config(), self.l1_penalty
    if isinstance(l1_penalty, LearningRateSchedule):
      l1_penalty = keras.optimizers.schedules.serialize(l1_penalty)
    config = {**config, "l1_penalty": l1_penalty, "penalties": dict(self.penalties)}
    return {**config, "indices": dict(self._indices)} if self._indices else config

  @classmethod
  def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> "ProximalSGD":
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

  Keras does not see its variable: saved with the others, it would come back over what a later run is given.
  """

  def __init__(self, value):
    self.value = value
    if not isinstance(value, LearningRateSchedule):
      _check_penalty("l1_penalty", value)
      self.value = float(value)
      self._variable = keras.Variable(
        self.value, name="l1_penalty", dtype="float64", trainable=False, aggregation="only_first_replica"
      )

  def set(self, value):
    if isinstance(value, LearningRateSchedule) or isinstance(self.value, LearningRateSchedule):
      raise ValueError(
        f"l1_penalty cannot be set from {self.value} to {value}, since compiled steps keep to a schedule or have none; "
        "compile the model with a new ProximalSGD"
      )
    _check_penalty("l1_penalty", value)
    self.value = float(value)
    self._variable.assign(self.value)

  def at(self, steps):
    return self.value(steps) if isinstance(self.value, LearningRateSchedule) else ops.convert_to_tensor(self._variable)


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
