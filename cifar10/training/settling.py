"""The settings of a run: what a stage fixed, what was given, what was left open; and whether anything is left to do."""

import dataclasses
import secrets
import zlib

from cifar10.batch_norm import batch_norm_momentum
from cifar10.config import DATASETS, FIXED, NETWORKS, WEIGHT_DECAY, TrainConfig, declarations, left_open, names
from cifar10.errors import UserError
from cifar10.training import workers
from cifar10.training.stopping import is_done


def settled(config, stage, version, network):
  """Fills in the settings that were left open.

  Args:
    config: `TrainConfig`, as given.
    stage: what the version's `stage.json` holds, a `Stage`, or None.
    version: the `Version` to train.
    network: that it starts from, or None.

  Returns:
    A `TrainConfig`: what the stage fixed, else what was given, else the default.

  Raises:
    UserError: what was given is not what the stage, or its network, has.
  """
  if config.use_fp16:
    config = dataclasses.replace(config, precision=workers.half_precision())
  given = {name: getattr(config, name) for name in names(TrainConfig, FIXED) if getattr(config, name) is not None}
  recorded = stage.fixed() if stage else {}
  chain = {"model": network and network.name, "dataset": None if stage else version.dataset()}
  fixed = {name: value for name, value in {**chain, **recorded}.items() if value is not None}
  for name, value in given.items():
    if value != fixed.get(name, value):
      raise UserError(
        f"--{name} is {value}, but {version} was made with {fixed[name]}; "
        f"pass --{name} {fixed[name]}, or choose another --train_dir."
      )
  momentum = batch_norm_momentum(network) if network else None
  defaults = {"model": NETWORKS[0], "dataset": DATASETS[0], "seed": secrets.randbelow(2**31), **left_open()}
  defaults |= {} if momentum is None else {"batch_norm_momentum": momentum}
  settings = {**defaults, **given, **fixed}
  settings = {"weight_decay": WEIGHT_DECAY[settings["model"]], **settings}
  return dataclasses.replace(config, **settings)


def agreed(config, given_seed, strategy):
  """The settings with the chief's seed where none was given.

  Every worker calls it.

  Raises:
    UserError: others of this worker's settings are not the chief's.
  """
  (seed,) = workers.broadcast(strategy, config.seed)
  config = dataclasses.replace(config, seed=seed if given_seed is None else given_seed)
  declared = declarations(TrainConfig)
  settings = {name: getattr(config, name) for name in declared if not declared[name].workers_own}
  checksums = [zlib.crc32(repr(value).encode()) for value in settings.values()]
  for name, ours, theirs in zip(settings, checksums, workers.broadcast(strategy, *checksums)):
    if ours != theirs:
      raise UserError(
        f"--{name} is {settings[name]} for this worker, and not for the chief; pass all workers the same."
      )
  return config


def is_finished(config, stage, version):
  """Whether there is nothing left to do."""
  if not is_trained(config, stage, version):
    return False
  return not config.squeeze_model or (stage.is_squeezed() and version.next().has_network())


def is_trained(config, stage, version):
  """Whether there is nothing left to train, after what a stage and its directory have recorded."""
  if stage is None:
    return False
  step, may_end_early = stage.progress.step, config.stop_at_plateau or config.target_sparsity
  rows = [row for row in version.rows() if row["step"] < step] if may_end_early else []
  return is_done(config, step, rows)
