"""The network of a stage in training, on all replicas of this worker."""

import tensorflow as tf

from cifar10.errors import UserError, first_line
from cifar10.pruning import groups
from cifar10.training import workers
from cifar10.training.step import make_optimizer, make_train_steps
from cifar10.training_state import TrainingState
from cifar10.version import checkpoints


class Trainer:
  """Trains a network; every worker has one.

  Args:
    config: `TrainConfig`, settled.
    strategy: `tf.distribute.Strategy`.
    network: what to start from; it is copied.
    penalties: dict from the path of a gamma to its penalty.
    examples: the training set, `Examples`.

  Attributes:
    state: `TrainingState`.
    step: how many steps are done.
  """

  def __init__(self, config, strategy, network, penalties, examples):
    self.config = config
    self.strategy = strategy
    self.penalties = penalties
    with strategy.scope():
      synchronized = config.sync_batch_norm and strategy.num_replicas_in_sync > 1
      self.state = TrainingState(
        network, dtype_policy=config.precision, synchronized=synchronized, momentum=config.batch_norm_momentum
      )
      together = groups(network) if config.group_penalties else None
      optimizer = make_optimizer(config, penalties, len(examples.labels), together)
      optimizer.build(self.state.model.trainable_variables)
    self.step = 0
    self._optimizer_variables = {v.path: v.value for v in optimizer.variables}
    self._train_steps = make_train_steps(config, strategy, self.state, optimizer, examples, penalties)

  def restore(self, version):
    """Goes on from the newest training checkpoint of a version, if there is one; every worker calls it.

    Returns:
      Sentences about checkpoints that are damaged; where none can be read, the stage starts again.

    Raises:
      UserError: they belong to another network, or the chief finds another.
    """
    self.step, damage = checkpoints.restore_newest(version.path, self.state, optimizer=self._optimizer_variables)
    if workers.broadcast(self.strategy, self.step) != (self.step,):
      raise UserError(f"this worker finds step {self.step} in {version}, the chief another; let both see the same.")
    if damage and not self.step:
      start = version.model_path if version.has_network() else "new weights"
      damage.append(f"{version} has no training checkpoint that can be read: the stage starts again from {start}.")
    return damage

  def save(self, version):
    """Saves a training checkpoint."""
    checkpoints.save(version.path, self.state, self.step, optimizer=self._optimizer_variables)

  def train(self, count):
    """Trains `count` steps; returns the figures of the last of them, floats by name.

    Raises:
      UserError: memory does not suffice.
    """
    try:
      figures = {name: float(value) for name, value in self._train_steps(count).items()}
    except tf.errors.ResourceExhaustedError as error:
      raise UserError(
        f"--batch_size {self.config.batch_size} needs more memory than there is ({first_line(error)}); "
        "take a smaller one, in a stage of its own."
      ) from error
    self.step += count
    return figures

  def gammas(self):
    """The gated gammas as they are: dict from path to array (channels,) float32."""
    variables = {variable.path: variable for variable in self.state.model.trainable_variables}
    return {path: variables[path].numpy() for path in self.penalties}
