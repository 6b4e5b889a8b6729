import itertools
import json
import pathlib

import numpy as np
import pytest
from helpers import change

from cifar10.config import TrainConfig
from cifar10.training.stopping import has_plateaued, reason_to_stop

# Fake sparsity at every 20th step of stages on CIFAR-10 (JPEG quality 75), from new weights, batches of 16, seed 1:
# resnet20 with --l1_penalty 0.015 and 0.005, cnn4 with 0.01.
RECORDED = json.loads((pathlib.Path(__file__).parent / "sparsity_curves.json").read_text())


def rows_of(sparsities, interval=20, start=0, l1_penalty=0.005):
  return [
    {"step": start + i * interval, "fake_sparsity": float(s), "l1_penalty": l1_penalty}
    for i, s in enumerate(sparsities)
  ]


def plateau_step(rows):
  """The step at which a run with these rows would stop."""
  return next((rows[end - 1]["step"] for end in range(1, len(rows) + 1) if has_plateaued(rows[:end])), None)


@pytest.mark.parametrize(("name", "step"), [("resnet20, 0.015", 3760), ("cnn4, 0.01", 980), ("resnet20, 0.005", None)])
def test_recorded_stages_stop_where_fake_sparsity_has_come_close_to_what_it_becomes(name, step):
  rows = rows_of(RECORDED[name])
  assert plateau_step(rows) == step
  if step is None:
    hundreds = [row["fake_sparsity"] for row in rows[::50]]
    assert hundreds[-1] - hundreds[-2] > 0.01
  else:
    assert rows[-1]["fake_sparsity"] - rows[step // 20]["fake_sparsity"] < 0.07


@pytest.mark.parametrize("name", RECORDED)
def test_no_recorded_stage_stops_before_fake_sparsity_leaves_0(name):
  rows = rows_of(RECORDED[name])
  flat = list(itertools.takewhile(lambda row: row["fake_sparsity"] == 0, rows))
  assert len(flat) >= 5
  assert plateau_step(flat + rows_of(np.zeros(1000), start=flat[-1]["step"] + 20)) is None


def saturating(steps, scale=0.4):
  return scale * (1 - np.exp(-np.maximum(0, np.arange(steps) - 50) / 50))


def test_what_saturates_stops_once_it_is_close():
  step = plateau_step(rows_of(saturating(1000)))
  assert 0.38 < saturating(1000)[step // 20] < 0.4


@pytest.mark.parametrize("seed", range(5))
def test_noise_changes_little(seed):
  noise = np.random.default_rng(seed).normal(scale=0.01, size=1000)
  step = plateau_step(rows_of(saturating(1000) + noise))
  assert 0.37 < saturating(1000)[step // 20] < 0.4


def test_noise_around_0_is_no_plateau():
  noise = abs(np.random.default_rng(0).normal(scale=0.005, size=1000))
  assert plateau_step(rows_of(noise)) is None


def test_what_keeps_rising_never_stops():
  assert plateau_step(rows_of(np.linspace(0, 0.9, 500))) is None


def test_a_fall_after_a_rise_is_a_plateau():
  assert plateau_step(rows_of([*np.linspace(0, 0.5, 50), *np.linspace(0.5, 0.4, 50)])) is not None


def test_few_rows_say_nothing():
  for count in range(47):
    assert not has_plateaued(rows_of([0.5] * count))
  assert has_plateaued(rows_of([0.5] * 100))


def test_only_rows_with_the_penalty_in_force_count():
  config = TrainConfig(stop_at_plateau=True, l1_penalty=0.01)
  flat = rows_of([0.3] * 100, l1_penalty=0.005)
  assert reason_to_stop(change(config, l1_penalty=0.005), flat) == "fake sparsity 0.3000 has plateaued"
  assert reason_to_stop(config, flat) is None
  raised = flat + rows_of([0.3] * 10, start=2000, l1_penalty=0.01)
  assert reason_to_stop(config, raised) is None
  assert reason_to_stop(config, raised + rows_of([0.3] * 90, start=2200, l1_penalty=float(np.float32(0.01))))
  assert reason_to_stop(config, rows_of([0.3] * 100, l1_penalty=float("nan"))) is None


def test_a_target_stops_at_the_first_row_that_has_it():
  config = TrainConfig(target_sparsity=0.5)
  rows = rows_of([0.1, 0.499, 0.5])
  assert [reason_to_stop(config, rows[:end]) for end in range(4)] == [
    None,
    None,
    None,
    "fake sparsity 0.5000 has reached --target_sparsity 0.5",
  ]


def test_without_the_flags_nothing_stops():
  assert reason_to_stop(TrainConfig(), rows_of([0.9] * 1000)) is None
