"""When a stage ends before its `max_steps`: fake sparsity has plateaued, or is what was asked for."""

import itertools
import math
import statistics

MIN_SPARSITY = 0.01
MAX_RISE = 0.01
WINDOW = 0.2
MIN_ROWS = 10


def reason_to_stop(config, rows):
  """Says why a stage ends where its last row was recorded, or None to go on.

  Args:
    config: `TrainConfig`.
    rows: the stage's rows, ascending, as `read_metrics` gives them. Nothing else counts, so that a resumed run stops
      where an uninterrupted one does.
  """
  if config.target_sparsity and rows and rows[-1]["fake_sparsity"] >= config.target_sparsity:
    return f"fake sparsity {rows[-1]['fake_sparsity']:.4f} has reached --target_sparsity {config.target_sparsity}"
  if config.stop_at_plateau and has_plateaued(_rows_at(config.l1_penalty, rows)):
    return f"fake sparsity {rows[-1]['fake_sparsity']:.4f} has plateaued"
  return None


def is_done(config, step, rows):
  """Whether a stage that has done `step` steps and recorded `rows` has none left to do."""
  return step >= config.max_steps or reason_to_stop(config, rows) is not None


def has_plateaued(rows):
  """Whether fake sparsity has left 0 and no longer rises.

  Compared are the rows of the last fifth of the steps and those of the fifth before it, at least ten each: in all of
  them fake sparsity is above 0.01, and its mean in the later ones is less than 0.01 above that in the earlier ones.

  Args:
    rows: dicts with `step` and `fake_sparsity`, ascending, of training with one penalty from its start.
  """
  if len(rows) < 2 * MIN_ROWS:
    return False
  last = rows[-1]["step"]
  window = WINDOW * (last - rows[0]["step"])
  earlier, later = (
    [row["fake_sparsity"] for row in rows if end - window < row["step"] <= end] for end in (last - window, last)
  )
  enough = min(len(earlier), len(later)) >= MIN_ROWS and min(earlier + later) > MIN_SPARSITY
  return enough and statistics.fmean(later) - statistics.fmean(earlier) < MAX_RISE


def _rows_at(l1_penalty, rows):
  """The rows since the penalty in force last changed."""
  same = itertools.takewhile(lambda row: math.isclose(row["l1_penalty"], l1_penalty, rel_tol=1e-6), reversed(rows))
  return list(same)[::-1]
