import math

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar10.errors import UserError
from cifar10.version.events import Events
from cifar10.version.metrics import COLUMNS, GAMMA_STEPS, Metrics, read_gammas, read_metrics


def record(directory, steps, start=0, max_steps=1000, log_frequency=10):
  metrics = Metrics(directory, max_steps, log_frequency)
  metrics.start(start)
  for step in steps:
    row = dict.fromkeys(COLUMNS, step / 7) | {"step": step}
    gammas = np.array([step, 1.0], np.float32)
    metrics.add(row, {"conv_bn/gamma": gammas, "other_bn/gamma": -gammas})
  metrics.save()
  return metrics


def test_rows_are_read_as_they_were_added(tmp_path):
  rows = record(tmp_path, [0, 10, 20]).rows
  assert rows == read_metrics(tmp_path)
  assert [row["step"] for row in rows] == [0, 10, 20]
  np.testing.assert_allclose([row["loss"] for row in rows], [0, 10 / 7, 20 / 7], rtol=1e-8)


def test_a_resumed_run_drops_later_rows_and_goes_on(tmp_path):
  record(tmp_path, [0, 10, 20, 30])
  record(tmp_path, [20, 30, 40], start=20)
  assert [row["step"] for row in read_metrics(tmp_path)] == [0, 10, 20, 30, 40]
  assert list(read_gammas(tmp_path)) == [0, 10, 20, 30, 40]


def test_rows_from_before_there_was_an_l1_penalty_are_read_and_kept(tmp_path):
  columns = [name for name in COLUMNS if name != "l1_penalty"]
  (tmp_path / "metrics.csv").write_text(f"{','.join(columns)}\n0,1,2,3,4,0.5,6,7\n10,1,2,3,4,0.5,6,7\n")
  record(tmp_path, [10], start=10)
  old, new = read_metrics(tmp_path)
  assert math.isnan(old.pop("l1_penalty"))
  assert old == dict(zip(columns, [0, 1, 2, 3, 4, 0.5, 6, 7]))
  assert new["l1_penalty"] == pytest.approx(10 / 7)


def test_other_columns_are_damage(tmp_path):
  (tmp_path / "metrics.csv").write_text("step,loss\n0,1\n")
  with pytest.raises(UserError, match="metrics.csv is damaged"):
    read_metrics(tmp_path)


def test_tensorboard_shows_scalars_histograms_and_images(tmp_path):
  metrics, events = Metrics(tmp_path, 10 * 2 * GAMMA_STEPS, 10), Events(tmp_path)
  for step in (0, 10):
    gammas = np.array([step, 1.0], np.float32)
    gammas = {"conv_bn/gamma": gammas, "other_bn/gamma": -gammas} if metrics.has_gammas_at(step) else {}
    events.add(step, dict.fromkeys(COLUMNS[2:], step / 7), gammas)
  images = np.random.default_rng(0).normal(size=(20, 32, 32, 3))
  images[0] = 0.5
  events.add_images(7, images)
  events.flush()
  events = EventAccumulator(str(tmp_path), {"tensors": 0}).Reload()
  assert set(events.Tags()["tensors"]) == {*COLUMNS[2:], "conv_bn/gamma", "other_bn/gamma", "images"}
  assert [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors("loss")] == [
    (0, 0.0),
    (10, pytest.approx(10 / 7)),
  ]
  (histogram,) = events.Tensors("conv_bn/gamma")
  buckets = tf.make_ndarray(histogram.tensor_proto)
  assert (histogram.step, buckets[0, 0], buckets[-1, 1], buckets[:, 2].sum()) == (0, 0, 1, 2)
  (shown,) = events.Tensors("images")
  width, height, *encoded = tf.make_ndarray(shown.tensor_proto)
  assert (shown.step, int(width), int(height), len(encoded)) == (7, 32, 32, 16)
  image = tf.io.decode_png(encoded[1]).numpy()
  assert (image.min(), image.max()) == (0, 255)


def test_a_row_cut_short_by_a_crash_is_dropped(tmp_path):
  record(tmp_path, [0, 10])
  path = tmp_path / "metrics.csv"
  path.write_text(path.read_text()[:-30])
  assert [row["step"] for row in read_metrics(tmp_path)] == [0]


@pytest.fixture
def gamma_steps(monkeypatch):
  """A tenth of the steps at which gammas are recorded."""
  monkeypatch.setattr("cifar10.version.metrics.GAMMA_STEPS", GAMMA_STEPS // 10)
  return GAMMA_STEPS // 10


def test_gammas_are_recorded_at_few_steps(tmp_path, gamma_steps):
  record(tmp_path, range(0, 10000, 100), max_steps=10000, log_frequency=100)
  steps = list(read_gammas(tmp_path))
  assert len(steps) == gamma_steps
  assert set(np.diff(steps)) == {500}


def test_gammas_stay_few_when_the_stage_is_made_longer(tmp_path, gamma_steps):
  record(tmp_path, range(0, 200, 10), max_steps=200)
  record(tmp_path, range(200, 2000, 10), start=200, max_steps=2000)
  steps = list(read_gammas(tmp_path))
  assert len(steps) == gamma_steps
  assert set(np.diff(steps)) == {100}
  np.testing.assert_array_equal(read_gammas(tmp_path)[100]["conv_bn/gamma"], [100, 1])


def test_nothing_recorded_reads_as_nothing(tmp_path):
  assert read_metrics(tmp_path) == []
  assert read_gammas(tmp_path) == {}
