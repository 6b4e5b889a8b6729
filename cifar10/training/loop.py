"""The loop over the steps of a stage: train some, log, save; stop at the end or at a signal."""

import sys
import time

import tqdm

from cifar10.errors import Interrupted
from cifar10.training import workers
from cifar10.training.signals import caught_signals, first_of
from cifar10.training.stopping import is_done, reason_to_stop

SECONDS_PER_CALL = 1.0


def train_to_the_end(trainer, version, recorder):
  """Trains until nothing is left to train; every worker calls it.

  How many steps come next is the chief's to say. They last about a second at most, since signals wait for them.

  Args:
    trainer: `Trainer`.
    version: the `Version` that is trained.
    recorder: the chief's `Recorder`; None on the other workers.

  Raises:
    UserError: the loss is not finite, or records cannot be written.
    Interrupted: a signal came to this worker or another; the state is saved.
  """
  strategy = trainer.strategy
  with _progress_bar(trainer, recorder) as bar, caught_signals() as caught:
    logged_step, logged_time = trainer.step, time.monotonic()
    saved_time = logged_time
    (count,) = workers.broadcast(strategy, _next_steps(trainer, recorder, 1))
    while count:
      start = time.monotonic()
      figures = trainer.train(count)
      now = time.monotonic()
      if recorder:
        recorder.check_loss(count, figures["finite_steps"])
        bar.update(count)
        recorder.stage.progress.seconds += now - start
        if (trainer.step - 1) % trainer.config.log_frequency == 0:
          recorder.log(figures, trainer.step - logged_step, now - logged_time)
          logged_step, logged_time = trainer.step, now
      at_most = max(1, int(SECONDS_PER_CALL * count / (now - start)))
      count, signals = workers.all_reduce_sum(strategy, _next_steps(trainer, recorder, at_most), len(caught))
      if recorder and (signals or not count or now - saved_time >= trainer.config.save_interval_secs):
        recorder.save()
        saved_time = time.monotonic()
      if signals:
        workers.barrier(strategy)
        raise _interrupted(caught, trainer, version, recorder)
    if recorder and caught:
      raise _interrupted(caught, trainer, version, recorder)


def say_how_it_ended(trainer, recorder):
  """Prints why a stage ended before its `max_steps`, or that it has not reached its target."""
  config = trainer.config
  reason = reason_to_stop(config, recorder.rows)
  if reason:
    print(f"{reason}: the stage ends after {trainer.step} steps.")
  elif config.target_sparsity:
    print(
      f"fake sparsity has not reached --target_sparsity {config.target_sparsity} after {trainer.step} steps; "
      "a larger --max_steps goes on."
    )


def _next_steps(trainer, recorder, at_most):
  """How many steps the chief wants next: up to the next console line; 0 when the stage is done, and from others."""
  config = trainer.config
  if not recorder or is_done(config, trainer.step, recorder.rows):
    return 0
  to_log = -trainer.step % config.log_frequency + 1
  return min(at_most, to_log, config.max_steps - trainer.step)


def _progress_bar(trainer, recorder):
  hidden = not recorder or not sys.stderr.isatty()
  return tqdm.tqdm(total=trainer.config.max_steps, initial=trainer.step, unit="step", file=sys.stderr, disable=hidden)


def _interrupted(caught, trainer, version, recorder):
  if recorder:
    return Interrupted(first_of(caught), f"step {trainer.step} is saved in {version}; run again to go on")
  return Interrupted(first_of(caught), f"the chief has saved {version}; run all workers again to go on")
