"""One stage: train with sparse gammas, squeeze, and leave the smaller network to the next version."""

import contextlib
import dataclasses
import secrets
import signal
import sys
import time
import zlib

import keras
import numpy as np
import tensorflow as tf
import tqdm

from cifar10 import checkpoints, devices, input_pipeline
from cifar10.config import TrainConfig
from cifar10.errors import Interrupted, UserError, first_line
from cifar10.metrics import Metrics, read_metrics, timestamp
from cifar10.models import MODELS
from cifar10.pruning import ProximalSGD, fake_sparsity, group_lasso, penalties, recalibrate, squeeze
from cifar10.stopping import reason_to_stop

WEIGHT_DECAY = {"resnet20": 0.0005, "cnn4": 0.0}
AVERAGE_DECAY = 0.999
EPOCHS_PER_DECAY = 350
LEARNING_RATE_DECAY = 0.1
SECONDS_PER_CALL = 1.0
FLOAT16_LOSS_SCALE = 1024.0
SELF_CHECK_IMAGES = 1000
FIXED_FLAGS = ("model", "dataset", "batch_size", "weight_decay", "seed", "precision")
OWN_TO_A_WORKER = ("train_dir", "data_dir", "log_device_placement")
CHANGING_FLAGS = (
  *("l1_penalty", "learning_rate", "max_steps", "data_dir", "log_frequency", "save_interval_secs"),
  *("stop_at_plateau", "target_sparsity", "penalty_doubling_steps"),
  *("squeeze_model", "exact_squeeze", "round_channels_to", "recalibration_batches", "deterministic_ops"),
  *("distribution_strategy", "num_replicas", "sync_batch_norm", "jit_compile"),
)


def train(config: TrainConfig):
  """Trains one stage from where it stands, and squeezes its network into the next version.

  Prints the reference's console lines on stdout. On SIGINT or SIGTERM (if called in the main thread)
  it saves within about a second; called again, it goes on exactly there. Of several workers, which all see the
  same directories, the chief alone prints these lines and writes.

  Raises:
    UserError: data, directory or settings do not fit, the loss is not finite, or another worker has gone.
    Interrupted: a signal came; the state is saved.
  """
  strategy = devices.open_strategy(config.distribution_strategy, config.num_replicas)
  devices.check_batch_size(config.batch_size, strategy)
  directory = checkpoints.version_dir(config.train_dir, config.checkpoint_version)
  next_directory = checkpoints.version_dir(config.train_dir, config.checkpoint_version + 1)
  with devices.lost_workers_are_said(strategy):
    if devices.is_chief(strategy):
      with checkpoints.locked(directory) as check_lock:
        _train(config, strategy, directory, next_directory, check_lock)
    else:
      _help_to_train(config, strategy, directory, next_directory)


def _train(config, strategy, directory, next_directory, check_lock):
  stage = checkpoints.read_stage(directory)
  network = _starting_network(config, directory)
  config = _settled(config, stage, directory, network)
  _say_what_changed(config, stage)
  if _is_finished(config, stage, directory, next_directory):
    print(f"{directory} is finished: {stage['progress']['step']} steps are done; nothing was changed.")
    return
  _check_next_version(config, stage, directory, next_directory)
  _set_up_tensorflow(config)
  print(f"{directory}: {config.model} on {config.dataset}, seed {config.seed}.", flush=True)
  examples = input_pipeline.load(config.dataset, "train", config.data_dir)
  config = _agreed(config, config.seed, strategy)
  trainer = _Trainer(config, strategy, network, examples, directory)
  run = _Run(trainer, stage, examples, directory, check_lock)
  run.train()
  if config.squeeze_model:
    run.finished = _squeeze_into(next_directory, run, examples)
    run.write_stage()
  devices.wait_for_all(strategy)


def _help_to_train(config, strategy, directory, next_directory):
  """What a worker does that is not the chief."""
  stage = checkpoints.read_stage(directory)
  network = _starting_network(config, directory)
  given_seed = config.seed
  config = _settled(config, stage, directory, network)
  if _is_finished(config, stage, directory, next_directory):
    return
  _set_up_tensorflow(config)
  config = _agreed(config, given_seed, strategy)
  examples = input_pipeline.load(config.dataset, "train", config.data_dir)
  trainer = _Trainer(config, strategy, network, examples, directory)
  with _caught_signals() as caught:
    (count,) = devices.chief_says(strategy, 0)
    while count:
      trainer.train_some(count)
      count, signals = devices.sum_over_workers(strategy, 0, len(caught))
      if signals:
        devices.wait_for_all(strategy)
        raise Interrupted(_first(caught), f"the chief has saved {directory}; run all workers again to go on")
  devices.wait_for_all(strategy)


def _agreed(config, given_seed, strategy):
  """The settings with the chief's seed where none was given; workers that differ in others are refused."""
  (seed,) = devices.chief_says(strategy, config.seed)
  config = dataclasses.replace(config, seed=seed if given_seed is None else given_seed)
  settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in OWN_TO_A_WORKER}
  checksums = [zlib.crc32(repr(value).encode()) for value in settings.values()]
  for name, ours, theirs in zip(settings, checksums, devices.chief_says(strategy, *checksums)):
    if ours != theirs:
      raise UserError(
        f"--{name} is {settings[name]} for this worker, and not for the chief; pass all workers the same."
      )
  return config


def _set_up_tensorflow(config):
  tf.debugging.set_log_device_placement(config.log_device_placement)
  if config.deterministic_ops:
    tf.config.experimental.enable_op_determinism()


def _is_finished(config, stage, directory, next_directory):
  """Whether there is nothing left to do."""
  if not _is_trained(config, stage, directory):
    return False
  squeezed = stage["finished"] and stage["finished"]["step"] == stage["progress"]["step"]
  stands = squeezed and (next_directory / checkpoints.MODEL_FILE).exists()
  return stands or not config.squeeze_model


def _is_trained(config, stage, directory):
  """Whether there is nothing left to train, after what a stage and its directory have recorded."""
  if stage is None:
    return False
  step, may_end_early = stage["progress"]["step"], config.stop_at_plateau or config.target_sparsity
  rows = [row for row in read_metrics(directory) if row["step"] < step] if may_end_early else []
  return _is_done(config, step, rows)


def _is_done(config, step, rows):
  return step >= config.max_steps or reason_to_stop(config, rows) is not None


def _check_next_version(config, stage, directory, next_directory):
  if not config.squeeze_model:
    return
  same_again = _is_trained(config, stage, directory) and stage["finished"]
  lost = same_again and not (next_directory / checkpoints.MODEL_FILE).exists()
  with checkpoints.locked(next_directory):
    if checkpoints.has_progress(next_directory) and not config.overwrite and not lost:
      raise UserError(
        f"{next_directory} has training progress, which squeezing this stage would replace; "
        "pass --overwrite to clear that directory, or --nosqueeze_model to leave it."
      )


def _starting_network(config, directory):
  """The network that the version starts from; None for a new one."""
  if (directory / checkpoints.MODEL_FILE).exists():
    return checkpoints.load_network(directory)
  if config.checkpoint_version > 0:
    raise UserError(
      f"{directory / checkpoints.MODEL_FILE} does not exist: train --checkpoint_version "
      f"{config.checkpoint_version - 1} with the same --train_dir first."
    )
  return None


def _new_network(config):
  keras.utils.set_random_seed(config.seed)
  return MODELS[config.model]()


def _settled(config, stage, directory, network):
  """The settings with what was left open filled in, from what the stage or its network has, or by default."""
  if config.use_fp16:
    config = dataclasses.replace(config, precision=devices.half_precision())
  given = {name: getattr(config, name) for name in FIXED_FLAGS if getattr(config, name) is not None}
  before_precision = {"precision": "float32"}
  recorded = {name: {**before_precision, **stage["flags"]}[name] for name in FIXED_FLAGS} if stage else {}
  fixed = {"model": network.name, **recorded} if network else recorded
  for name, value in given.items():
    if value != fixed.get(name, value):
      raise UserError(
        f"--{name} is {value}, but {directory} was made with {fixed[name]}; "
        f"pass --{name} {fixed[name]}, or choose another --train_dir."
      )
  defaults = {"model": "resnet20", "seed": secrets.randbelow(2**31), "precision": "float32"}
  settings = {**defaults, **given, **fixed}
  settings = {"weight_decay": WEIGHT_DECAY[settings["model"]], **settings}
  return dataclasses.replace(config, **settings)


def _say_what_changed(config, stage):
  for name in CHANGING_FLAGS if stage else ():
    before, now = stage["flags"].get(name, getattr(TrainConfig, name)), getattr(config, name)
    if before != now:
      print(f"--{name} was {before} and is now {now}.")


class _Trainer:
  """The network in training, on all replicas; every worker has one."""

  def __init__(self, config, strategy, network, examples, directory):
    self.config = config
    self.strategy = strategy
    network = network or _new_network(config)
    self.penalties = penalties(network)
    if not self.penalties:
      raise UserError(
        f"{directory / checkpoints.MODEL_FILE} has no batch norm whose gammas could shut a channel; remove it, and "
        "train the version before it again to write it anew."
      )
    with strategy.scope():
      synchronized = config.sync_batch_norm and strategy.num_replicas_in_sync > 1
      self.state = checkpoints.TrainingState(network, precision=config.precision, synchronized=synchronized)
      self.optimizer = _optimizer(config, self.penalties, len(examples.labels))
      self.optimizer.build(self.state.model.trainable_variables)
    self.optimizer_variables = {v.path: v.value for v in self.optimizer.variables}
    self.step = checkpoints.restore_newest(directory, self.state, optimizer=self.optimizer_variables)
    if devices.chief_says(strategy, self.step) != (self.step,):
      raise UserError(f"this worker finds step {self.step} in {directory}, the chief another; let both see the same.")
    self._train_steps = _train_steps(config, strategy, self.state, self.optimizer, examples, self.penalties)

  def train_some(self, count):
    """Trains `count` steps; returns the figures of the last of them."""
    try:
      figures = {name: float(value) for name, value in self._train_steps(count).items()}
    except tf.errors.ResourceExhaustedError as error:
      raise UserError(
        f"--batch_size {self.config.batch_size} needs more memory than there is ({first_line(error)}); "
        "take a smaller one, in a stage of its own."
      ) from error
    self.step += count
    return figures


class _Run:
  """The training of one stage by the chief: records, and the loop over steps."""

  def __init__(self, trainer, stage, examples, directory, check_lock):
    self.trainer = trainer
    self.config = config = trainer.config
    self.directory = directory
    self.check_lock = check_lock
    self.finished = stage["finished"] if stage else None
    self.seconds = stage["progress"]["seconds"] if stage else 0.0
    if stage and stage["progress"]["step"] > 0 and not checkpoints.checkpoint_steps(directory):
      raise UserError(
        f"{directory} was trained to step {stage['progress']['step']}, but its model.ckpt-* files are gone; "
        "restore them, or remove the directory to train the stage anew."
      )
    self.saved_step = self.step
    checkpoints.remove_unfinished_checkpoints(directory)
    if self.step:
      print(f"resumed at step {self.step}.")
    self.write_stage()
    self.metrics = Metrics(directory, self.step, config.max_steps, config.log_frequency)
    images, _ = input_pipeline.batch(examples, _batch_seed(config), self.step, config.batch_size)
    self.metrics.add_images(self.step, images)

  @property
  def step(self):
    """How many steps are done."""
    return self.trainer.step

  def train(self):
    """Trains to `max_steps`, or where there is a reason to stop before it, logging and saving on the way."""
    config, strategy = self.config, self.trainer.strategy
    last_save = time.monotonic()
    bar = tqdm.tqdm(
      total=config.max_steps, initial=self.step, unit="step", file=sys.stderr, disable=not sys.stderr.isatty()
    )
    with bar, _caught_signals() as caught:
      logged_step, logged_time = self.step, time.monotonic()
      (count,) = devices.chief_says(strategy, self._steps_to_train(1))
      while count:
        start = time.monotonic()
        figures = self.trainer.train_some(count)
        if figures["finite_steps"] < count:
          raise self._not_finite("loss", int(self.step - count + figures["finite_steps"]))
        bar.update(count)
        now = time.monotonic()
        self.seconds += now - start
        if (self.step - 1) % config.log_frequency == 0:
          self._log_or_save(figures, self.step - logged_step, now - logged_time)
          logged_step, logged_time = self.step, now
        steps_per_call = max(1, int(SECONDS_PER_CALL * count / (now - start)))
        count, signals = devices.sum_over_workers(strategy, self._steps_to_train(steps_per_call), len(caught))
        if signals or not count or now - last_save >= config.save_interval_secs:
          self._save()
          last_save = time.monotonic()
        if signals:
          devices.wait_for_all(strategy)
          raise self._interrupted(caught)
      if caught:
        raise self._interrupted(caught)
    reason = reason_to_stop(config, self.metrics.rows)
    if reason:
      print(f"{reason}: the stage ends after {self.step} steps.")
    elif config.target_sparsity:
      print(
        f"fake sparsity has not reached --target_sparsity {config.target_sparsity} after {self.step} steps; "
        "a larger --max_steps goes on."
      )

  def _steps_to_train(self, at_most):
    """How many steps the next call is to train; 0 when the stage is done."""
    if _is_done(self.config, self.step, self.metrics.rows):
      return 0
    to_log = -self.step % self.config.log_frequency + 1
    return min(at_most, to_log, self.config.max_steps - self.step)

  def write_stage(self):
    """Records settings, progress and, once squeezed, how the stage ended."""
    checkpoints.write_stage(
      self.directory,
      {
        "checkpoint_version": self.config.checkpoint_version,
        "flags": dataclasses.asdict(self.config),
        "penalties": self.trainer.penalties,
        "progress": {"step": self.step, "seconds": self.seconds},
        "finished": self.finished,
      },
    )

  def _log_or_save(self, *figures):
    try:
      self._log(*figures)
    except (OSError, tf.errors.OpError) as error:
      self._save()
      raise UserError(
        f"the console or the records in {self.directory} cannot be written ({first_line(error)}); "
        f"step {self.step} is saved: run again to go on."
      ) from error

  def _log(self, figures, steps, seconds):
    config, step = self.config, self.step - 1
    rate = steps * config.batch_size / seconds
    tqdm.tqdm.write(
      f"{timestamp()}: step {step}, loss = {figures['loss']:.2f}, "
      f"group lasso = {figures['group_lasso']:.2f}, fake sparsity = {figures['fake_sparsity']:.2f}, "
      f"({rate:.1f} examples/sec; {seconds / steps:.3f} sec/batch)",
      file=sys.stdout,
    )
    sys.stdout.flush()
    row = {**figures, "step": step, "seconds": self.seconds, "examples_per_second": rate}
    variables = {variable.path: variable for variable in self.trainer.state.model.trainable_variables}
    self.metrics.add(row, {path: variables[path] for path in self.trainer.penalties})

  def _save(self):
    for variable in self.trainer.state.model.variables:
      if not np.isfinite(variable.numpy()).all():
        raise self._not_finite(variable.path, self.step - 1)
    self.check_lock()
    try:
      self.metrics.save()
      trainer = self.trainer
      checkpoints.save(self.directory, trainer.state, trainer.step, optimizer=trainer.optimizer_variables)
      self.saved_step = self.step
      self.finished = None
      self.write_stage()
    except (OSError, tf.errors.OpError) as error:
      checkpoints.remove_unfinished_checkpoints(self.directory)
      raise UserError(
        f"step {self.step} cannot be saved in {self.directory} ({first_line(error)}); {self._what_stays()}: "
        "make room or restore the directory, and run again."
      ) from error

  def _interrupted(self, caught):
    return Interrupted(_first(caught), f"step {self.step} is saved in {self.directory}; run again to go on")

  def _what_stays(self):
    return f"the checkpoint at step {self.saved_step} stays as it is" if self.saved_step else "nothing was saved"

  def _not_finite(self, what, step):
    half = ", or a stage of its own with another --precision" if self.config.precision == "mixed_float16" else ""
    return UserError(
      f"{what} is not finite after step {step}; {self._what_stays()}: "
      f"try a --learning_rate below {self.config.learning_rate}{half}."
    )


def _optimizer(config, gamma_penalties, num_examples):
  """Plain SGD with soft thresholding; its learning rate drops to a tenth every 350 epochs.

  Its penalty stays as it is, or, on the way to a target sparsity, doubles every so many steps.
  """
  schedule = keras.optimizers.schedules.ExponentialDecay(
    config.learning_rate,
    decay_steps=max(1, int(EPOCHS_PER_DECAY * num_examples / config.batch_size)),
    decay_rate=LEARNING_RATE_DECAY,
    staircase=True,
  )
  l1_penalty = config.l1_penalty
  if config.target_sparsity:
    l1_penalty = keras.optimizers.schedules.ExponentialDecay(l1_penalty, config.penalty_doubling_steps, decay_rate=2.0)
  loss_scale = FLOAT16_LOSS_SCALE if config.precision == "mixed_float16" else None
  return ProximalSGD(schedule, l1_penalty, gamma_penalties, loss_scale_factor=loss_scale, name="optimizer")


def _train_steps(config, strategy, state, optimizer, examples, gamma_penalties):
  """Makes the function that trains some steps and returns the figures of the last of them."""
  examples = devices.on_each_replica(strategy, examples)
  replicas = strategy.num_replicas_in_sync
  variables = state.model.trainable_variables
  kernels = [variable for variable in variables if variable.name == "kernel"]
  # Synchronised batch norms have the same ones on all replicas.
  statistics = [] if config.sync_batch_norm else [variable.value for variable in state.model.non_trainable_variables]
  seed = _batch_seed(config)

  def gradients_and_loss(images, labels):
    """Of this replica's part of the batch: their sums over the replicas are those of the batch."""
    with tf.GradientTape() as tape:
      logits = tf.cast(state.model(images, training=True), tf.float32)
      cross_entropy = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
      decay = tf.add_n([tf.nn.l2_loss(kernel.value) for kernel in kernels])
      loss = (cross_entropy + config.weight_decay * decay) / replicas
      scaled_loss = optimizer.scale_loss(loss)
    return tape.gradient(scaled_loss, [variable.value for variable in variables]), loss, cross_entropy / replicas

  if _is_to_be_compiled(config, replicas):
    gradients_and_loss = tf.function(gradients_and_loss, jit_compile=True)

  def train_step(examples, step):
    replica = tf.distribute.get_replica_context()
    part = replica.replica_id_in_sync_group
    images, labels = input_pipeline.batch(examples, seed, step, config.batch_size, part, replicas)
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

  # Only the number of the step ends the loop, so that no step on a GPU waits until the host has seen a loss.
  @tf.function
  def train_steps(first, count, examples):
    loss = cross_entropy = tf.constant(0.0)
    finite_steps = tf.constant(0, tf.int64)
    for step in tf.range(first, first + count):
      results = strategy.run(train_step, (examples, step))
      loss, cross_entropy = (strategy.experimental_local_results(result)[0] for result in results)
      finite = tf.math.is_finite(loss) & tf.equal(first + finite_steps, step)
      finite_steps += tf.cast(finite, tf.int64)
    return {
      "finite_steps": finite_steps,
      "loss": loss,
      "cross_entropy": cross_entropy,
      "group_lasso": group_lasso(state.model, gamma_penalties),
      "fake_sparsity": fake_sparsity(state.model, gamma_penalties),
      "learning_rate": optimizer.learning_rate,
      "l1_penalty": tf.cast(optimizer.current_l1_penalty(), tf.float32),
    }

  return lambda count: train_steps(tf.convert_to_tensor(state.step), tf.constant(count, tf.int64), examples)


def _is_to_be_compiled(config, replicas):
  """Whether XLA compiles the gradients: by default on a GPU; it cannot exchange statistics between replicas."""
  exchanges = config.sync_batch_norm and replicas > 1
  on_gpu = bool(tf.config.list_physical_devices("GPU"))
  return (on_gpu if config.jit_compile is None else config.jit_compile) and not exchanges


def _batch_seed(config):
  """Another order of examples in each stage, with one and the same --seed."""
  return (config.checkpoint_version << 32) + config.seed


def _next_batches(run, examples):
  """The images of the batches that the stage would train on next."""
  examples = input_pipeline.Examples(*map(tf.constant, examples))
  for step in range(run.step, run.step + run.config.recalibration_batches):
    images, _ = input_pipeline.batch(examples, _batch_seed(run.config), step, run.config.batch_size)
    yield images


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


def _first(caught):
  """The signal that this worker caught, or SIGTERM where another one caught one."""
  return caught[0] if caught else signal.SIGTERM


@contextlib.contextmanager
def _caught_signals():
  """Puts the number of a first SIGINT or SIGTERM into the list that it yields; a second one acts as usual."""
  caught, handlers = [], {}

  def restore_handlers():
    for signum, handler in handlers.items():
      signal.signal(signum, handler)

  def catch(signum, _):
    caught.append(signum)
    restore_handlers()

  with contextlib.suppress(ValueError):  # Only the main thread can catch signals.
    for signum in (signal.SIGINT, signal.SIGTERM):
      handlers[signum] = signal.signal(signum, catch)
  try:
    yield caught
  finally:
    restore_handlers()


def _squeeze_into(next_directory, run, examples):
  """Writes the next version; returns how the stage ended, for `stage.json`."""
  network = checkpoints.averaged_model(run.trainer.state)
  smaller, report = squeeze(network, exact=run.config.exact_squeeze, multiple_of=run.config.round_channels_to)
  images = input_pipeline.standardize(examples.images[:SELF_CHECK_IMAGES])
  full, squeezed = (keras.ops.convert_to_numpy(model(images)) for model in (network, smaller))
  difference = float(np.abs(full - squeezed).max())
  agreeing = int((full.argmax(axis=1) == squeezed.argmax(axis=1)).sum())
  print(
    f"squeezed {report.parameters_before} parameters to {report.parameters_after}; on {len(images)} training "
    f"images logits differ by {difference:.2g} at most and {agreeing} predictions agree."
  )
  if run.config.recalibration_batches:
    recalibrate(smaller, _next_batches(run, examples))
    print(f"moving statistics are recomputed on {run.config.recalibration_batches} training batches.")
  try:
    with checkpoints.locked(next_directory):
      if checkpoints.has_progress(next_directory) and not run.config.overwrite:
        checkpoints.restore_network(next_directory, smaller)
      else:
        checkpoints.replace_version(next_directory, smaller)
  except OSError as error:
    raise UserError(
      f"{next_directory} cannot be written ({first_line(error)}); the stage is trained and saved: make room, and run "
      "again to squeeze it."
    ) from error
  print(f"{next_directory / checkpoints.MODEL_FILE} is written.")
  return {
    "step": run.step,
    "exact": run.config.exact_squeeze,
    "multiple_of": run.config.round_channels_to,
    "recalibration_batches": run.config.recalibration_batches,
    "self_check": {"images": len(images), "largest_difference": difference, "agreeing": agreeing},
    "report": dataclasses.asdict(report),
  }
