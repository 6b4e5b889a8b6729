"""One stage: open the version, train with sparse gammas, squeeze, and hand the smaller network over to the next one."""

import contextlib

import keras
import tensorflow as tf

from cifar10 import console, input_pipeline
from cifar10.config import TrainConfig, check
from cifar10.errors import UserError
from cifar10.models import MODELS
from cifar10.pruning import penalties
from cifar10.pruning.keys import variables_of
from cifar10.training import hand_over, loop, workers
from cifar10.training.recorder import Recorder
from cifar10.training.settling import agreed, is_finished, settled
from cifar10.training.step import batch_seed
from cifar10.training.trainer import Trainer
from cifar10.version.choosing import refuse_named_version
from cifar10.version.directory import Version


def train(config: TrainConfig):
  """Trains one stage from where it stands, and squeezes its network into the next version.

  Prints the reference's console lines on stdout. On SIGINT, SIGTERM or SIGHUP (if called in the main
  thread) it saves within about a second; called again, it goes on exactly there. Of several workers, which all see the
  same directories, the chief alone prints these lines and writes.

  Raises:
    UserError: data, directory or settings do not fit, the loss is not finite, or another worker has gone.
    Interrupted: a signal came; the state is saved.
  """
  check(config)
  refuse_named_version(config.train_dir)
  strategy = workers.open_strategy(config.distribution_strategy, config.num_replicas)
  workers.check_batch_size(config.batch_size, strategy)
  version = Version(config.train_dir, config.checkpoint_version)
  chief = workers.is_chief(strategy)
  with workers.lost_workers_are_said(strategy), version.locked() if chief else contextlib.nullcontext() as check_lock:
    _train(config, strategy, version, chief, check_lock)


def _train(given, strategy, version, chief, check_lock):
  say = console.say if chief else _say_nothing
  stage, damage = version.read_stage()
  say(damage)
  network = _starting_network(version)
  config = settled(given, stage, version, network)
  say(*(stage.changes(config) if stage else ()))
  if is_finished(config, stage, version):
    say(f"{version} is finished: {stage.progress.step} steps are done; nothing was changed.")
    return
  replaceable = hand_over.check_next_version(config, stage, version) if chief else None
  _set_up_tensorflow(config)
  say(f"{version}: {config.model} on {config.dataset}, seed {config.seed}.")

  config = agreed(config, given.seed, strategy)
  examples = input_pipeline.load(config.dataset, "train", config.data_dir)
  network = network or _new_network(config)
  trainer = Trainer(config, strategy, network, _penalties(network, version, config.uniform_penalties), examples)
  say(*trainer.restore(version))
  if chief:
    _train_as_chief(trainer, version, stage, check_lock, examples, replaceable)
  else:
    loop.train_to_the_end(trainer, version, recorder=None)
  workers.barrier(strategy)


def _train_as_chief(trainer, version, stage, check_lock, examples, replaceable):
  config = trainer.config
  _check_checkpoints(version, stage)
  recorder = Recorder(trainer, version, stage, check_lock)
  images, _ = input_pipeline.batch(
    examples, batch_seed(config), trainer.step, config.batch_size, distortions=config.distortions
  )
  recorder.start(images)
  loop.train_to_the_end(trainer, version, recorder)
  loop.say_how_it_ended(trainer, recorder)
  if config.squeeze_model:
    recorder.stage.finished = hand_over.squeeze_into(version.next(), trainer, examples, replaceable)
    recorder.write_stage()


def _starting_network(version):
  """The network that the version starts from; None for a new one."""
  if version.has_network():
    return version.network()
  if version.number > 0:
    raise UserError(
      f"{version.model_path} does not exist: train --checkpoint_version "
      f"{version.number - 1} with the same --train_dir first."
    )
  return None


def _new_network(config):
  keras.utils.set_random_seed(config.seed)
  return MODELS[config.model]()


def _penalties(network, version, uniform):
  found = penalties(network)
  if not found:
    raise UserError(
      f"{version.model_path} has no batch norm whose gammas could shut a channel; remove it, and "
      "train the version before it again to write it anew."
    )
  return _leveled(network, found) if uniform else found


def _leveled(network, found):
  """The mean over all gammas in the place of each penalty, so that fake sparsity is the share of gammas at 0."""
  counts = [gamma.shape[0] for gamma in variables_of(network, found).values()]
  mean = sum(count * penalty for count, penalty in zip(counts, found.values())) / sum(counts)
  return dict.fromkeys(found, mean)


def _check_checkpoints(version, stage):
  if stage and stage.progress.step > 0 and not version.checkpoint_steps():
    raise UserError(
      f"{version} was trained to step {stage.progress.step}, but its model.ckpt-* files are gone; "
      "restore them, or remove the directory to train the stage anew."
    )


def _set_up_tensorflow(config):
  tf.debugging.set_log_device_placement(config.log_device_placement)
  if config.deterministic_ops:
    tf.config.experimental.enable_op_determinism()


def _say_nothing(*sentences):
  """Of several workers, the chief alone speaks."""
