"""What the chief says and writes of a stage in training: console lines, records and training checkpoints."""

import sys

import numpy as np
import tensorflow as tf
import tqdm

from cifar10.console import say, timestamp
from cifar10.errors import UserError, first_line
from cifar10.version import checkpoints
from cifar10.version.events import Events
from cifar10.version.metrics import COLUMNS, Metrics
from cifar10.version.stage import Progress, Stage


class Recorder:
  """Records a stage in the directory of its version.

  Args:
    trainer: its `Trainer`.
    version: the `Version`.
    stage: what was recorded of the stage, a `Stage`; None for a new one.
    check_lock: function that raises a `UserError` where the directory is no longer this process's.

  Attributes:
    stage: the `Stage` as it is now.
    rows: as `version.metrics.read_metrics` gives them.
  """

  def __init__(self, trainer, version, stage, check_lock):
    self.trainer = trainer
    self.config = trainer.config
    self.version = version
    self.check_lock = check_lock
    self.stage = Stage(
      self.config,
      trainer.penalties,
      Progress(trainer.step, stage.progress.seconds if stage else 0.0),
      stage.finished if stage else None,
    )
    self._saved_step = trainer.step
    self._metrics = Metrics(version.path, self.config.max_steps, self.config.log_frequency)
    self._events = None

  @property
  def rows(self):
    return self._metrics.rows

  def start(self, images):
    """Begins to record: cleans up after a run that was killed, and shows the first images of the first batch."""
    checkpoints.remove_unfinished(self.version.path)
    if self.trainer.step:
      print(f"resumed at step {self.trainer.step}.")
    self.write_stage()
    say(self._metrics.start(self.trainer.step, self.trainer.gammas()))
    self._events = Events(self.version.path)
    self._events.add_images(self.trainer.step, images)

  def write_stage(self):
    """Writes `stage.json` as the stage is now."""
    self.stage.progress.step = self.trainer.step
    self.version.write_stage(self.stage)

  def check_loss(self, count, finite_steps):
    """Raises a `UserError` unless the loss was finite after all of the last `count` steps."""
    if finite_steps < count:
      raise self._not_finite("loss", int(self.trainer.step - count + finite_steps))

  def log(self, figures, steps, seconds):
    """Says and records the figures of the last step; steps and seconds are those since the last line.

    Raises:
      UserError: that cannot be written; the state is saved.
    """
    try:
      self._log(figures, steps, seconds)
    except (OSError, tf.errors.OpError) as error:
      self.save()
      raise UserError(
        f"the console or the records in {self.version} cannot be written ({first_line(error)}); "
        f"step {self.trainer.step} is saved: run again to go on."
      ) from error

  def _log(self, figures, steps, seconds):
    step = self.trainer.step - 1
    rate = steps * self.config.batch_size / seconds
    row = {**figures, "step": step, "seconds": self.stage.progress.seconds, "examples_per_second": rate}
    gammas = self.trainer.gammas() if self._metrics.has_gammas_at(step) else {}
    # Before the console, which may be gone: what a stage does next depends on its rows.
    self._metrics.add(row, gammas)
    tqdm.tqdm.write(
      f"{timestamp()}: step {step}, loss = {figures['loss']:.2f}, "
      f"group lasso = {figures['group_lasso']:.2f}, fake sparsity = {figures['fake_sparsity']:.2f}, "
      f"({rate:.1f} examples/sec; {seconds / steps:.3f} sec/batch)",
      file=sys.stdout,
    )
    sys.stdout.flush()
    self._events.add(step, {name: row[name] for name in COLUMNS[2:]}, gammas)

  def save(self):
    """Saves the state and all records.

    Raises:
      UserError: a weight is not finite, or the disk does not take it.
    """
    for variable in self.trainer.state.model.variables:
      if not np.isfinite(variable.numpy()).all():
        raise self._not_finite(variable.path, self.trainer.step - 1)
    self.check_lock()
    try:
      self._events.flush()
      self._metrics.save()
      self.trainer.save(self.version)
      self._saved_step = self.trainer.step
      self.stage.finished = None
      self.write_stage()
    except (OSError, tf.errors.OpError) as error:
      checkpoints.remove_unfinished(self.version.path)
      raise UserError(
        f"step {self.trainer.step} cannot be saved in {self.version} ({first_line(error)}); {self._what_stays()}: "
        "make room or restore the directory, and run again."
      ) from error

  def _what_stays(self):
    return f"the checkpoint at step {self._saved_step} stays as it is" if self._saved_step else "nothing was saved"

  def _not_finite(self, what, step):
    half = ", or a stage of its own with another --precision" if self.config.precision == "mixed_float16" else ""
    return UserError(
      f"{what} is not finite after step {step}; {self._what_stays()}: "
      f"try a --learning_rate below {self.config.learning_rate}{half}."
    )
