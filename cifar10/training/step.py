"""The method: one training step with sparse gammas (section 4 of the paper).

With the gated gammas g, the kernels W and n steps done before, a step on one batch is

    loss      = cross entropy + weight_decay * sum(W^2) / 2
    variables = variables - learning_rate * gradient of the loss           (g among them)
    g         = sign(g) * max(|g| - learning_rate * l1_penalty * penalty(g), 0)
    averages  = d * averages + (1 - d) * variables,  d = min(0.999, (1 + n) / (10 + n))

The first is `gradients_and_loss` below; the next two, together ISTA, are `pruning.ProximalSGD`; the last is
`training_state.update_averages`; `pruning.penalties` says what penalty(g) is. The tests hold all of it against values
that the paper's own program computed. Momentum, smoothed labels, other schedules,
thresholds by group and of betas are left out by default.
"""

import tensorflow as tf
from keras.optimizers import schedules

from cifar10 import input_pipeline
from cifar10.pruning import ProximalSGD, fake_sparsity, group_lasso
from cifar10.training import workers
from cifar10.training_state import update_averages

EPOCHS_PER_DECAY = 350
LEARNING_RATE_DECAY = 0.1
FLOAT16_LOSS_SCALE = 1024.0


def make_optimizer(config, penalties, num_examples, groups=None):
  """SGD with soft thresholding, by default plain, as the reference's.

  Args:
    config: `TrainConfig`.
    penalties: dict from the path of a gamma to its penalty.
    num_examples: how many images make an epoch.
    groups: dict from the path of a gamma to the groups of its channels, which are then shut together.
  """
  return ProximalSGD(
    _learning_rate(config, num_examples),
    _l1_penalty(config),
    penalties,
    groups,
    config.threshold_betas,
    momentum=config.momentum or 0.0,
    nesterov=bool(config.momentum),
    loss_scale_factor=FLOAT16_LOSS_SCALE if config.precision == "mixed_float16" else None,
    name="optimizer",
  )


def _learning_rate(config, num_examples):
  """A schedule: a tenth after every 350 epochs, as the reference has it, or a cosine that ends at 0."""
  if config.learning_rate_schedule == "cosine":
    return schedules.CosineDecay(
      0.0 if config.warm_up_steps else config.learning_rate,
      config.max_steps - config.warm_up_steps,
      warmup_target=config.learning_rate if config.warm_up_steps else None,
      warmup_steps=config.warm_up_steps,
    )
  return schedules.ExponentialDecay(
    config.learning_rate,
    decay_steps=max(1, int(EPOCHS_PER_DECAY * num_examples / config.batch_size)),
    decay_rate=LEARNING_RATE_DECAY,
    staircase=True,
  )


def _l1_penalty(config):
  """A number; or, on the way to a target sparsity, a schedule that doubles it every so many steps; or one from 0."""
  if config.target_sparsity:
    return schedules.ExponentialDecay(config.l1_penalty, config.penalty_doubling_steps, decay_rate=2.0)
  if config.penalty_warm_up_steps:
    return schedules.PolynomialDecay(0.0, config.penalty_warm_up_steps, end_learning_rate=config.l1_penalty)
  return config.l1_penalty


def make_train_step(config, replicas, state, optimizer):
  """Makes the function that takes one step, on one replica of several, with its part of the batch.

  Args:
    config: `TrainConfig`.
    replicas: how many there are.
    state: the `TrainingState` that steps change.
    optimizer: of `make_optimizer`.

  Returns:
    A function of the training set, `Examples` of tensors, and the number of the step, an int64 scalar, that returns
    the loss and the cross entropy of the whole batch, float32 scalars.
  """
  variables = state.model.trainable_variables
  kernels = [variable for variable in variables if variable.name == "kernel"]
  # Synchronised batch norms have the same ones on all replicas.
  statistics = [] if config.sync_batch_norm else [variable.value for variable in state.model.non_trainable_variables]

  def gradients_and_loss(images, labels):
    """Of this replica's part of the batch: their sums over the replicas are those of the batch."""
    with tf.GradientTape() as tape:
      logits = tf.cast(state.model(images, training=True), tf.float32)
      cross_entropy = tf.reduce_mean(cross_entropy_of(labels, logits, config.label_smoothing))
      decay = tf.add_n([tf.nn.l2_loss(kernel.value) for kernel in kernels])
      loss = (cross_entropy + config.weight_decay * decay) / replicas
      scaled_loss = optimizer.scale_loss(loss)
    return tape.gradient(scaled_loss, [variable.value for variable in variables]), loss, cross_entropy / replicas

  if is_to_be_compiled(config, replicas):
    gradients_and_loss = tf.function(gradients_and_loss, jit_compile=True)

  @tf.autograph.experimental.do_not_convert  # It branches on settings alone; converting it takes seconds.
  def step_on_replica(examples, step):
    replica = tf.distribute.get_replica_context()
    part = replica.replica_id_in_sync_group
    images, labels = input_pipeline.batch(
      examples, batch_seed(config), step, config.batch_size, part, replicas, distortions=config.distortions
    )
    gradients, loss, cross_entropy = gradients_and_loss(images, labels)
    optimizer.apply(gradients, variables)
    update_averages(state.averages, variables, step)
    state.step.assign_add(1)
    if replicas > 1:
      shares = [loss, cross_entropy, *(variable / replicas for variable in statistics)]
      loss, cross_entropy, *means = replica.all_reduce(tf.distribute.ReduceOp.SUM, shares)
      for variable, mean in zip(statistics, means):
        variable.assign(mean)
    return loss, cross_entropy

  return step_on_replica


def make_train_steps(config, strategy, state, optimizer, examples, penalties):
  """Makes the function that trains so many steps, an int, and returns the figures of the last of them.

  Args:
    config: `TrainConfig`.
    strategy: `tf.distribute.Strategy`, whose replicas share each batch.
    state: the `TrainingState` that steps change.
    optimizer: of `make_optimizer`, built.
    examples: the training set, `Examples`.
    penalties: dict from the path of a gamma to its penalty.

  Returns:
    A function of an int; its figures are scalar tensors by name: those of `version.metrics.COLUMNS` that a step has,
    the `l1_penalty` in force, and `finite_steps`, after how many steps the loss was still finite.
  """
  step_on_replica = make_train_step(config, strategy.num_replicas_in_sync, state, optimizer)
  examples = workers.on_each_replica(strategy, examples)

  # Only the number of the step ends the loop, so that no step on a GPU waits until the host has seen a loss.
  @tf.function
  def steps(first, count, examples):
    loss = cross_entropy = tf.constant(0.0)
    finite_steps = tf.constant(0, tf.int64)
    for step in tf.range(first, first + count):
      results = strategy.run(step_on_replica, (examples, step))
      loss, cross_entropy = (strategy.experimental_local_results(result)[0] for result in results)
      finite = tf.math.is_finite(loss) & tf.equal(first + finite_steps, step)
      finite_steps += tf.cast(finite, tf.int64)
    return {
      "finite_steps": finite_steps,
      "loss": loss,
      "cross_entropy": cross_entropy,
      "group_lasso": group_lasso(state.model, penalties),
      "fake_sparsity": fake_sparsity(state.model, penalties),
      "learning_rate": optimizer.learning_rate,
      "l1_penalty": tf.cast(optimizer.current_l1_penalty(), tf.float32),
    }

  return lambda count: steps(tf.convert_to_tensor(state.step), tf.constant(count, tf.int64), examples)


def cross_entropy_of(labels, logits, smoothing):
  """Of each example, (batch,) float32; a share `smoothing` of its label is spread evenly over all classes."""
  if not smoothing:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
  classes = logits.shape[-1]
  spread = tf.one_hot(labels, classes, 1 - smoothing + smoothing / classes, smoothing / classes)
  return tf.nn.softmax_cross_entropy_with_logits(labels=spread, logits=logits)


def is_to_be_compiled(config, replicas):
  """Whether XLA compiles the gradients: by default on a GPU; it cannot exchange statistics between replicas."""
  exchanges = config.sync_batch_norm and replicas > 1
  on_gpu = bool(tf.config.list_physical_devices("GPU"))
  return (on_gpu if config.jit_compile is None else config.jit_compile) and not exchanges


def batch_seed(config):
  """The seed of the batches: another order of examples in each stage, with one and the same --seed."""
  return (config.checkpoint_version << 32) + config.seed
