"""What a training run changes, its moving averages among it, and the network that this stands for."""

import tensorflow as tf

from cifar10.batch_norm import fused, unfused
from cifar10.pruning import penalties

AVERAGE_DECAY = 0.999


class TrainingState:
  """Weights, moving averages and step of a training run.

  Args:
    model: the network to train, a functional Keras model; it is copied.
    **how_to_train: dtype policy, and synchronisation and momentum of batch norms, as for `batch_norm.fused`.

  Attributes:
    model: the copy that is trained, its batch norms fused.
    averages: moving averages of `model.trainable_variables`, which start at their values.
    step: how many steps are done, int64.
  """

  def __init__(self, model, **how_to_train):
    self.model = fused(model, **how_to_train)
    self.averages = [tf.Variable(v.numpy(), trainable=False) for v in self.model.trainable_variables]
    self.step = tf.Variable(0, dtype=tf.int64)

  def trackables(self):
    """What a TensorFlow checkpoint of the state holds, by name."""
    paths = [variable.path for variable in self.model.trainable_variables]
    return {
      "weights": {variable.path: variable.value for variable in self.model.variables},
      "averages": dict(zip(paths, self.averages)),
      "step": self.step,
    }


def update_averages(averages, variables, step):
  """Moves averages towards variables, with the decay min(0.999, (1 + step) / (10 + step)).

  Args:
    averages: list of variables, each of which becomes decay * average + (1 - decay) * variable.
    variables: list of as many variables.
    step: how many steps were done before this one, an integer scalar.
  """
  step = tf.cast(step, tf.float32)
  decay = tf.minimum(AVERAGE_DECAY, (1 + step) / (10 + step))
  for average, variable in zip(averages, variables):
    average.assign_sub((1 - decay) * (average - tf.convert_to_tensor(variable)))


def averaged_model(state):
  """The network that a training state stands for, in standard Keras layers.

  Trainable variables are their moving averages, but a gated gamma is 0 where the raw gamma is: an average of
  a gamma that was thresholded to 0 only tends to 0. So is a beta where both raw ones are. Moving means and variances
  are as they are.
  """
  model = unfused(state.model)
  raw = {each.path: other.value for each, other in zip(model.trainable_variables, state.model.trainable_variables)}
  for variable, average in zip(model.trainable_variables, state.averages):
    variable.assign(average)
  for gamma in penalties(model):
    for variable in model.trainable_variables:
      if variable.path in (gamma, f"{gamma.removesuffix('gamma')}beta"):
        shut = (raw[gamma] == 0) & (raw[variable.path] == 0)
        variable.assign(tf.where(shut, 0.0, variable.value))
  return model
