"""Stochastic gradient descent with soft thresholding of gammas: ISTA (section 4.2 of the paper)."""

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule


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

      w = soft_threshold(w, learning_rate * l1_penalty * penalties[path of w])

  With `l1_penalty` 0 it is plain SGD, and gammas at 0 may come back.

  Args:
    learning_rate: a float, a `LearningRateSchedule` or a callable, as for `keras.optimizers.SGD`.
    l1_penalty: strength of the sparsity, a float of 0 or more (rho in the paper, mu * rho per step), or a
      `LearningRateSchedule` that gives it for each step.
    penalties: dict from the path of a gamma variable to its penalty, as `penalties(model)` gives it. A path
      that no variable bears is an error when the optimizer is built.
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
    if not isinstance(penalties, dict):
      raise ValueError(f"penalties is {penalties!r}; it is a dict, as penalties(model) gives it")
    scheduled = isinstance(l1_penalty, LearningRateSchedule)
    for name, value in {"l1_penalty": 0.0 if scheduled else l1_penalty, **penalties}.items():
      if not isinstance(value, numbers.Real) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value}; a penalty is a finite number of 0 or more")
    self.l1_penalty = l1_penalty if scheduled else float(l1_penalty)
    self.penalties = dict(penalties)

  def build(self, variables: list[keras.Variable]) -> None:
    """Pairs the penalties with the variables; see `keras.optimizers.Optimizer.build`."""
    if self.built:
      return
    unknown = set(self.penalties) - {variable.path for variable in variables}
    if unknown:
      raise ValueError(f"penalties names {sorted(unknown)}, which are not among the trained variables")
    super().build(variables)
    # update_step may get a backend's variable, which has no path: so the pairs are made by index.
    self._penalty_by_index = [self.penalties.get(variable.path, 0.0) for variable in variables]

  def update_step(self, gradient, variable, learning_rate):
    """The gradient step for one variable, then its threshold."""
    super().update_step(gradient, variable, learning_rate)
    penalty = self._penalty_by_index[self._get_variable_index(variable)]
    if penalty > 0 and self.l1_penalty != 0:
      strength = ops.cast(self.current_l1_penalty() * penalty, variable.dtype)
      threshold = ops.cast(learning_rate, variable.dtype) * strength
      self.assign(variable, soft_threshold(ops.convert_to_tensor(variable), threshold))

  def current_l1_penalty(self) -> Any:
    """The `l1_penalty` of the next step: a float, or what the schedule gives, a scalar tensor."""
    return self.l1_penalty(self.iterations) if isinstance(self.l1_penalty, LearningRateSchedule) else self.l1_penalty

  def get_config(self) -> dict[str, Any]:
    """The arguments of the constructor, as Keras serialises them."""
    config, l1_penalty = super().get_config(), self.l1_penalty
    if isinstance(l1_penalty, LearningRateSchedule):
      l1_penalty = keras.optimizers.schedules.serialize(l1_penalty)
    return {**config, "l1_penalty": l1_penalty, "penalties": self.penalties}

  @classmethod
  def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> "ProximalSGD":
    """The optimizer that `get_config` describes."""
    config = dict(config)
    if isinstance(config["l1_penalty"], dict):
      config["l1_penalty"] = keras.optimizers.schedules.deserialize(config["l1_penalty"], custom_objects)
    return super().from_config(config, custom_objects)
