"""Optimizers that soft-threshold gammas after each gradient step: ISTA (section 4.2 of the paper)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy.typing as npt
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from cifar10.pruning.calls import place_among_trained
from cifar10.pruning.thresholding import Thresholding, soft_threshold

__all__ = ["ProximalOptimizer", "ProximalSGD", "soft_threshold"]

# What else `ProximalOptimizer` takes: all other arguments of optimizers are those of the one in it.
OWN_ARGUMENTS = ("use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor", "name")


@keras.saving.register_keras_serializable("pruning")
class ProximalSGD(Thresholding, keras.optimizers.SGD):
  """SGD that soft-thresholds the gated gammas after each gradient step.

  For a variable `w` with the gradient `g`, of any kind, the step is that of `keras.optimizers.SGD`:

      w = w - learning_rate * g

  and for a gated gamma, after it:

      w = soft_threshold(w, learning_rate * l1_penalty * penalties[key of w])

  With `l1_penalty` 0 it is plain SGD, and gammas at 0 may come back.

  With `groups`, the gammas of channels that stay or go together are thresholded together, once all variables have had
  their gradient step (group lasso). With v the gammas of a group, and the penalty of the group the sum of those of its
  members:

      v = v / norm(v) * max(norm(v) - learning_rate * l1_penalty * sum(penalties), 0)

  so that they come to 0 in the same step; for a group of one it is the soft threshold. With `threshold_betas`, after
  that, for the beta `b` of a channel whose gamma is 0:

      b = soft_threshold(b, learning_rate * l1_penalty * penalties[key of its gamma])

  so that the channel becomes the constant 0, for which padding, products and most activations make no difference.

  What the further arguments of SGD do to gradients and weights (clipping, weight decay, momentum, the mean of
  accumulated gradients) comes before the threshold, which takes place as often as the gradient step does. With
  `use_ema` the average of a gamma is 0 as long as the threshold holds the gamma at 0, so that it stays there when
  averages take the place of weights. Both schedules are asked for the same steps.

  `learning_rate` and `l1_penalty` may be set while training goes on, and count from the next step; a callback reaches
  them as `self.model.optimizer`, which on JAX brings the state up to date first. What cannot change in a compiled step
  is refused once the optimizer is built. Where Keras has put it into a `LossScaleOptimizer`, as
  `compile` does for mixed_float16, set `model.optimizer.inner_optimizer.l1_penalty`.

  Args:
    learning_rate: a float, a `LearningRateSchedule` or a callable, as for `keras.optimizers.SGD`.
    l1_penalty: strength of the sparsity, a float of 0 or more (rho in the paper, mu * rho per step), or a
      `LearningRateSchedule` that gives it for each step.
    penalties: dict from the key of a gamma variable to its penalty, as `penalties(model)` gives it. A key
      that stands for no variable, or for several, is an error when the optimizer is built.
    groups: dict from the key of a gamma variable to one number for each of its channels, as `groups(model)` gives it:
      channels with the same number, in whatever gammas, are a group. A gamma that `penalties` does not name is left
      out; one that only `penalties` names is thresholded channel by channel, as all are by default.
    threshold_betas: whether betas are thresholded where gammas are 0.
    **kwargs: further arguments of `keras.optimizers.SGD`.

  Raises:
    ValueError: `l1_penalty` or a penalty is negative or not finite; when the optimizer is built, if `groups` has not
      one number for each channel, or `threshold_betas` finds no beta.

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
    groups: Mapping[str, npt.ArrayLike] | None = None,
    threshold_betas: bool = False,
    **kwargs: Any,
  ):
    super().__init__(learning_rate, **kwargs)
    self._set_thresholds(l1_penalty, penalties, groups, threshold_betas)

  def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
    """The gradient step for one variable, then its threshold."""
    super().update_step(gradient, variable, learning_rate)
    self._threshold(variable, learning_rate)


@keras.saving.register_keras_serializable("pruning")
class ProximalOptimizer(Thresholding, keras.optimizers.Optimizer):
  """Any optimizer of Keras, with soft thresholds for gated gammas after each of its steps.

  A step is one of `inner_optimizer`, on all variables, and then, with its learning rate for that step, what
  `ProximalSGD` does after the gradient step:

      w = soft_threshold(w, learning_rate * l1_penalty * penalties[key of w])

  For Adam and its like this is the proximal step in the metric of the weights, not in that of the gradients' moments:
  a gamma comes down by the same amount a step, whatever its gradients are. Where gradients are accumulated, the
  threshold takes place as often as the inner optimizer steps.

  It wraps, rather than being a callback, since callbacks come too late for steps that are compiled together
  (`steps_per_execution`), and would have to find the learning rate that a step had. What averages and scales comes
  after and around the threshold, and so belongs here and not in the inner optimizer: `use_ema`, `loss_scale_factor`.
  A `LossScaleOptimizer` goes around this one, as `compile` puts it for mixed_float16.

  Args:
    inner_optimizer: a `keras.optimizers.Optimizer`, such as `keras.optimizers.AdamW(0.001)`, of this model alone.
    l1_penalty: as for `ProximalSGD`; it may be set while training goes on.
    penalties: as for `ProximalSGD`.
    groups: as for `ProximalSGD`.
    threshold_betas: as for `ProximalSGD`.
    **kwargs: `use_ema`, `ema_momentum`, `ema_overwrite_frequency`, `loss_scale_factor` and `name`, as for all
      optimizers of Keras.

  Raises:
    ValueError: as `ProximalSGD`; or an argument belongs to the other optimizer.

  >>> import keras
  >>> gamma = keras.Variable([0.5, -0.25, 0.01], name="gamma")
  >>> optimizer = ProximalOptimizer(keras.optimizers.Adam(0.5), l1_penalty=1.0, penalties={"gamma": 0.25})
  >>> optimizer.apply([keras.ops.zeros(3)], [gamma])
  >>> gamma.numpy().tolist()
  [0.375, -0.125, 0.0]
  """

  def __init__(
    self,
    inner_optimizer: keras.optimizers.Optimizer,
    l1_penalty: float | LearningRateSchedule,
    penalties: Mapping[str, float],
    groups: Mapping[str, npt.ArrayLike] | None = None,
    threshold_betas: bool = False,
    **kwargs: Any,
  ):
    _check_arguments(inner_optimizer, kwargs)
    super().__init__(learning_rate=0.0, **kwargs)
    self.inner_optimizer = inner_optimizer
    self._rate = None  # Of the step whose thresholds are due.
    self._set_thresholds(l1_penalty, penalties, groups, threshold_betas)

  def build(self, variables: list[keras.Variable]) -> None:
    """Builds the inner optimizer too; see `keras.optimizers.Optimizer.build`."""
    if variables and not self.built:
      self.inner_optimizer.build(variables)
    super().build(variables)

  def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
    """A step of the inner optimizer, then one of this one, whose step is the threshold."""
    if not self.built:
      if trainable_variables is None:
        raise ValueError("ProximalOptimizer is not built yet; pass trainable_variables, or call build with them before")
      self.build(list(trainable_variables))
    trained = list(self._trained.values() if trainable_variables is None else trainable_variables)
    scale, inner = self.loss_scale_factor, self.inner_optimizer
    unscaled = grads if scale is None else [gradient if gradient is None else gradient / scale for gradient in grads]
    rate, steps = ops.convert_to_tensor(inner.learning_rate), ops.add(inner.iterations, 0)
    inner.apply(unscaled, trained)
    gated = [pair for pair in zip(grads, trained) if pair[0] is not None and self._is_gated(pair[1])]
    if gated:
      self._rate = ops.where(ops.not_equal(inner.iterations, steps), rate, ops.zeros_like(rate))
      try:
        super().apply(*zip(*gated))
      finally:
        self._rate = None

  def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
    """The threshold of one gamma."""
    self._threshold(variable, learning_rate)

  @property
  def variables(self) -> list[keras.Variable]:
    """See `keras.optimizers.Optimizer.variables`; those of the inner optimizer are among them."""
    return super().variables + self.inner_optimizer.variables

  @property
  def learning_rate(self) -> Any:
    """That of the inner optimizer; set, it counts from the next step."""
    return self.inner_optimizer.learning_rate if self._rate is None else self._rate

  @learning_rate.setter
  def learning_rate(self, value: Any) -> None:
    self.inner_optimizer.learning_rate = value

  @property
  def iterations(self) -> Any:
    """How many steps the inner optimizer has made."""
    count, accumulated = self.variables[0], self.inner_optimizer.gradient_accumulation_steps
    return ops.floor_divide(count, accumulated) if accumulated else count

  def get_config(self) -> dict[str, Any]:
    """The arguments of the constructor, as Keras serialises them."""
    config = super().get_config()
    own = {name: config[name] for name in (*OWN_ARGUMENTS, "l1_penalty", "penalties", "groups", "threshold_betas")}
    indices = {"indices": config["indices"]} if "indices" in config else {}
    return {"inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer), **own, **indices}

  @classmethod
  def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The optimizer that `get_config` describes."""
    inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects=custom_objects)
    return super().from_config({**config, "inner_optimizer": inner}, custom_objects)

  def _is_gated(self, variable):
    return self._penalty_by_index[place_among_trained(self, variable)] > 0


def _check_arguments(inner_optimizer, arguments):
  if isinstance(inner_optimizer, keras.optimizers.LossScaleOptimizer):
    raise ValueError("inner_optimizer is a LossScaleOptimizer; put that around ProximalOptimizer")
  for name in ("use_ema", "loss_scale_factor"):
    if getattr(inner_optimizer, name):
      raise ValueError(f"inner_optimizer has {name}, which comes after the threshold: pass it to ProximalOptimizer")
  for name in set(arguments) - set(OWN_ARGUMENTS):
    raise ValueError(f"{name} is no argument of ProximalOptimizer; pass it to the optimizer in it")
