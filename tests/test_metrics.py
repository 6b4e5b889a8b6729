import numpy as np

from cifar10.metrics import COLUMNS, GAMMA_STEPS, Metrics, read_gammas, read_metrics


def record(directory, steps, start=0, max_steps=1000, log_frequency=10):
  metrics = Metrics(directory, start, max_steps, log_frequency)
  for step in steps:
    row = dict.fromkeys(COLUMNS, step / 7) | {"step": step}
    metrics.add(row, {"conv_bn/gamma": np.array([step, 1.0], np.float32)})
  metrics.save()


def test_rows_are_read_as_they_were_added(tmp_path):
  record(tmp_path, [0, 10, 20])
  rows = read_metrics(tmp_path)
  assert [row["step"] for row in rows] == [0, 10, 20]
  np.testing.assert_allclose([row["loss"] for row in rows], [0, 10 / 7, 20 / 7], rtol=1e-8)


def test_a_resumed_run_drops_later_rows_and_goes_on(tmp_path):
  record(tmp_path, [0, 10, 20, 30])
  record(tmp_path, [20, 30, 40], start=20)
  assert [row["step"] for row in read_metrics(tmp_path)] == [0, 10, 20, 30, 40]
  assert list(read_gammas(tmp_path)) == [0, 10, 20, 30, 40]


def test_a_row_cut_short_by_a_crash_is_dropped(tmp_path):
  record(tmp_path, [0, 10])
  path = tmp_path / "metrics.csv"
  path.write_text(path.read_text()[:-30])
  assert [row["step"] for row in read_metrics(tmp_path)] == [0]


def test_gammas_are_recorded_at_few_steps(tmp_path):
  record(tmp_path, range(0, 100000, 100), max_steps=100000, log_frequency=100)
  steps = list(read_gammas(tmp_path))
  assert len(steps) == GAMMA_STEPS
  assert set(np.diff(steps)) == {500}


def test_gammas_stay_few_when_the_stage_is_made_longer(tmp_path):
  record(tmp_path, range(0, 2000, 10), max_steps=2000)
  record(tmp_path, range(2000, 20000, 10), start=2000, max_steps=20000)
  steps = list(read_gammas(tmp_path))
  assert len(steps) == GAMMA_STEPS
  assert set(np.diff(steps)) == {100}
  np.testing.assert_array_equal(read_gammas(tmp_path)[100]["conv_bn/gamma"], [100, 1])


def test_nothing_recorded_reads_as_nothing(tmp_path):
  assert read_metrics(tmp_path) == []
  assert read_gammas(tmp_path) == {}
