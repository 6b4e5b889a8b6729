import dataclasses
import hashlib
import itertools
import json
import os
import re
import signal
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
  assert_same_weights,
  build_tiny_network,
  change,
  deterministic_rows,
  saved_weights,
  short_stage,
  version,
)

from cifar10 import input_pipeline
from cifar10.config import FIXED, MAY_CHANGE, TrainConfig, left_open, names
from cifar10.errors import Interrupted, UserError
from cifar10.models import MODELS, cnn4
from cifar10.pruning import fake_sparsity, recalibrate
from cifar10.train import train
from cifar10.training import hand_over, loop
from cifar10.training import step as step_module
from cifar10.training.recorder import Recorder
from cifar10.training.trainer import Trainer
from cifar10.training_state import TrainingState, update_averages
from cifar10.version import checkpoints
from cifar10.version.metrics import read_gammas

pytestmark = pytest.mark.usefixtures("tiny_world", "default_signals")


def contents(directory):
  return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def test_three_stages_chain_and_shut_channels_go(config):
  train(config)
  train(change(config, checkpoint_version=1, model=None, l1_penalty=30.0))
  train(change(config, checkpoint_version=2, model=None, l1_penalty=0.0))
  first, second, third = (version(config, number).network() for number in (1, 2, 3))
  assert first.get_layer("conv1").filters == 4
  assert second.get_layer("conv1").filters < 4
  assert third.count_params() == second.count_params() < first.count_params()
  report = version(config, 1).read_stage()[0].finished.report
  assert report["parameters_before"] == first.count_params()
  assert report["parameters_after"] == second.count_params()


def test_console_lines_are_the_reference_s_to_the_character(config, capsys):
  train(change(config, max_steps=12))
  line = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: step (\d+), loss = \d+\.\d\d, group lasso = \d+\.\d\d, "
    r"fake sparsity = \d\.\d\d, \(\d+\.\d examples/sec; \d+\.\d{3} sec/batch\)"
  )
  output = capsys.readouterr().out.splitlines()
  lines = [line.fullmatch(text) for text in output if ": step " in text]
  assert [int(match[1]) for match in lines] == [0, 5, 10]


def test_the_rate_is_that_since_the_last_line(config, monkeypatch):
  clock = itertools.count()
  monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
  monkeypatch.setattr(loop, "SECONDS_PER_CALL", 0)
  train(change(config, max_steps=12))
  readings_per_step = 2
  rates = [row["examples_per_second"] for row in version(config, 0).rows()]
  assert rates == pytest.approx([8 / readings_per_step] * 3, rel=0.1)


def test_on_a_terminal_a_progress_bar_runs_on_stderr(config, monkeypatch, capsys):
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
  train(config)
  output = capsys.readouterr()
  assert "20/20" in output.err
  assert "step 15, loss" in output.out
  assert "20/20" not in output.out


def test_a_run_in_two_parts_gives_the_weights_of_one_run(config, trained_once):
  whole = trained_once({})
  train(change(config, max_steps=9, squeeze_model=False))
  train(config)
  assert_same_weights(saved_weights(config, 1), saved_weights(whole, 1))
  assert deterministic_rows(config) == deterministic_rows(whole)


def test_another_seed_gives_other_weights(config, trained_once):
  train(change(config, seed=4))
  assert (saved_weights(config, 1)[0] != saved_weights(trained_once({}), 1)[0]).any()


def test_stages_with_one_seed_see_their_examples_in_another_order(config, monkeypatch):
  seeds = []
  batch = input_pipeline.batch
  monkeypatch.setattr(
    input_pipeline,
    "batch",
    lambda examples, seed, *rest, **settings: (seeds.append(seed), batch(examples, seed, *rest, **settings))[1],
  )
  train(config)
  train(change(config, checkpoint_version=1))
  assert len(set(seeds)) == 2


EARLY_ENDS = [
  {"stop_at_plateau": True, "l1_penalty": 0.5},
  {"target_sparsity": 0.6, "l1_penalty": 0.05, "penalty_doubling_steps": 20},
]


@pytest.fixture(params=EARLY_ENDS, ids=["stop_at_plateau", "target_sparsity"])
def settings(request):
  """What makes a stage end long before its `max_steps`."""
  return {"learning_rate": 0.05, "log_frequency": 2, "max_steps": 2000, **request.param}


def test_a_stage_that_ends_early_is_saved_squeezed_and_finished(config, settings, capsys):
  early = change(config, **settings)
  train(early)
  step = version(early, 0).read_stage()[0].progress.step
  assert 20 < step < 2000
  assert version(early, 0).checkpoint_steps() == [step]
  assert version(early, 0).rows()[-1]["step"] == step - 1
  assert version(early, 1).network().get_layer("conv1").filters < 4
  assert f": the stage ends after {step} steps." in capsys.readouterr().out
  before = contents(version(early, 0).path), contents(version(early, 1).path)
  for more in (0, 1000):
    train(change(early, max_steps=2000 + more))
    assert f"is finished: {step} steps are done" in capsys.readouterr().out
  assert (contents(version(early, 0).path), contents(version(early, 1).path)) == before


@pytest.mark.parametrize("moment", ["between rows", "at the last row"])
def test_an_early_end_comes_at_the_same_step_after_interruptions(config, settings, trained_once, moment, monkeypatch):
  early, whole = change(config, **settings), trained_once(settings)
  end = version(whole, 0).read_stage()[0].progress.step

  train_some, log = Trainer.train, Recorder.log

  def halting(trainer, count):
    if moment == "between rows" and trainer.step in (end // 2 - end // 2 % 2, end - 2):
      os.kill(os.getpid(), signal.SIGINT)
      return train_some(trainer, 1)
    return train_some(trainer, count)

  def signalled(recorder, *figures):
    log(recorder, *figures)
    if moment == "at the last row" and recorder.trainer.step == end:
      os.kill(os.getpid(), signal.SIGINT)

  interruptions = 0
  monkeypatch.setattr(Recorder, "log", signalled)
  monkeypatch.setattr(Trainer, "train", halting)
  monkeypatch.setattr(loop, "SECONDS_PER_CALL", 0)
  while not version(early, 1).path.exists():
    try:
      train(early)
    except Interrupted:
      interruptions += 1
      if interruptions == 2:
        monkeypatch.setattr(Recorder, "log", log)
        monkeypatch.setattr(Trainer, "train", train_some)
  assert interruptions >= 1
  assert_same_weights(saved_weights(early, 1), saved_weights(whole, 1))
  assert deterministic_rows(early) == deterministic_rows(whole)


def test_a_stage_that_ended_early_goes_on_without_the_flag_as_if_it_had_not(config, tmp_path):
  settings = {**EARLY_ENDS[0], "learning_rate": 0.05, "log_frequency": 2}
  whole = change(config, train_dir=str(tmp_path / "whole"), **{**settings, "stop_at_plateau": False}, max_steps=150)
  train(whole)
  early = change(config, **settings, max_steps=150)
  train(early)
  assert version(early, 0).read_stage()[0].progress.step < 150
  train(change(early, stop_at_plateau=False))
  assert_same_weights(saved_weights(early, 1), saved_weights(whole, 1))


def test_the_penalty_doubles_until_the_target_and_is_recorded(config, monkeypatch):
  traces = []
  monkeypatch.setattr(step_module, "fake_sparsity", lambda *args: traces.append(args) or fake_sparsity(*args))
  train(change(config, learning_rate=0.05, max_steps=2000, **EARLY_ENDS[1]))
  rows = version(config, 0).rows()
  penalties = [row["l1_penalty"] for row in rows]
  assert penalties == pytest.approx([0.05 * 2 ** ((row["step"] + 1) / 20) for row in rows], rel=1e-5)
  assert [row["fake_sparsity"] >= 0.6 for row in rows] == [False] * (len(rows) - 1) + [True]
  assert len(traces) == 1


def test_a_target_that_is_not_reached_is_said(config, capsys):
  train(change(config, target_sparsity=0.5, l1_penalty=1e-6))
  assert "fake sparsity has not reached --target_sparsity 0.5 after 20 steps" in capsys.readouterr().out
  assert version(config, 1).path.exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on_exactly_there(config, trained_once, signum, monkeypatch):
  whole, stopped = trained_once({"max_steps": 60}), change(config, max_steps=60)
  handler = signal.getsignal(signum)

  log = Recorder.log

  def signalled(recorder, *figures):
    log(recorder, *figures)
    if recorder.trainer.step == 26:
      os.kill(os.getpid(), signum)

  with monkeypatch.context() as patch, pytest.raises(Interrupted) as interrupted:
    patch.setattr(Recorder, "log", signalled)
    train(stopped)
  assert interrupted.value.signum == signum
  assert signal.getsignal(signum) == handler
  assert version(config, 0).checkpoint_steps() == [26]
  assert "step 26 is saved" in str(interrupted.value)
  assert not version(config, 1).path.exists()
  train(stopped)
  assert_same_weights(saved_weights(stopped, 1), saved_weights(whole, 1))


def test_averages_follow_the_formula():
  generator = np.random.default_rng(0)
  variable = tf.Variable(generator.normal(size=5))
  average = tf.Variable(variable)
  expected = variable.numpy()
  for step in [0, 1, 2, 3, 50, 8000, 9000, 10**6]:
    variable.assign(generator.normal(size=5))
    decay = min(0.999, (1 + step) / (10 + step))
    expected = decay * expected + (1 - decay) * variable.numpy()
    variable32, average32 = tf.Variable(variable.numpy().astype("f")), tf.Variable(average.numpy().astype("f"))
    update_averages([average32], [variable32], tf.constant(step, tf.int64))
    average.assign(average32.numpy().astype(float))
    np.testing.assert_allclose(average.numpy(), expected, atol=1e-6)


def test_averages_take_the_weights_after_gradient_step_and_threshold(config):
  train(change(config, max_steps=1, squeeze_model=False, l1_penalty=1.0))
  state = TrainingState(MODELS["cnn4"]())
  keras.utils.set_random_seed(config.seed)
  initial = MODELS["cnn4"]().get_layer("conv1_bn").gamma.numpy()
  checkpoints.restore(version(config, 0).path, state, 1)
  index = [v.path for v in state.model.trainable_variables].index("conv1_bn/gamma")
  raw = state.model.trainable_variables[index].numpy()
  assert (raw != initial).all()
  np.testing.assert_allclose(state.averages[index].numpy(), 0.1 * initial + 0.9 * raw, rtol=1e-6)


def test_weight_decay_is_half_the_sum_of_squared_kernels(config):
  train(change(config, weight_decay=0.1, max_steps=1))
  keras.utils.set_random_seed(config.seed)
  kernels = [v.numpy() for v in MODELS["cnn4"]().trainable_variables if v.name == "kernel"]
  (row,) = version(config, 0).rows()
  decay = 0.1 * sum((kernel.astype(float) ** 2).sum() for kernel in kernels) / 2
  assert row["loss"] - row["cross_entropy"] == pytest.approx(decay, rel=1e-4)


@pytest.mark.parametrize(("model", "weight_decay"), [("resnet20", 0.0005), ("cnn4", 0.0)])
def test_the_default_weight_decay_is_the_model_s(config, model, weight_decay):
  train(change(config, model=model, max_steps=1))
  assert version(config, 0).read_stage()[0].flags.weight_decay == weight_decay


def test_the_learning_rate_drops_to_a_tenth_after_350_epochs():
  config = TrainConfig(learning_rate=0.1, batch_size=125)
  schedule = step_module.make_optimizer(config, {}, 50000)._learning_rate
  np.testing.assert_allclose([schedule(0), schedule(139999), schedule(140000)], [0.1, 0.1, 0.01], rtol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run_and_the_last_checkpoint_stays(after):
  config = change(after({"squeeze_model": False, "weight_decay": 1.0}), weight_decay=1.0)
  before = contents(version(config, 0).path)
  with pytest.raises(UserError, match=r"not finite after step \d+; the checkpoint at step 20 stays as it is"):
    train(change(config, max_steps=200, learning_rate=1e6))
  after = contents(version(config, 0).path)
  assert {name: after[name] for name in before if "ckpt" in name} == {
    name: before[name] for name in before if "ckpt" in name
  }
  assert not version(config, 1).path.exists()
  train(config)
  assert version(config, 1).path.exists()


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_the_step_whose_loss_is_not_finite_is_named_however_many_a_call_has(config, monkeypatch, precision):
  sentences, diverging = [], change(config, learning_rate=1e6, weight_decay=1.0)
  for seconds_per_call in (0, 1000):
    monkeypatch.setattr(loop, "SECONDS_PER_CALL", seconds_per_call)
    with pytest.raises(UserError, match="^loss is not finite after step [1-9]") as error:
      train(change(diverging, log_frequency=1000, max_steps=1000, precision=precision))
    sentences.append(str(error.value))
  assert sentences[0] == sentences[1]
  assert ("with another --precision" in sentences[0]) == (precision == "mixed_float16")


def test_without_squeezing_there_is_no_next_version_and_squeezing_can_follow(after):
  config = after({"squeeze_model": False})
  assert not version(config, 1).path.exists()
  train(config)
  assert version(config, 0).read_stage()[0].progress.step == 20
  assert version(config, 1).path.exists()


def test_a_finished_stage_says_so_and_changes_nothing(finished, capsys):
  before = contents(version(finished, 0).path), contents(version(finished, 1).path)
  capsys.readouterr()
  train(finished)
  assert "is finished: 20 steps are done" in capsys.readouterr().out
  assert (contents(version(finished, 0).path), contents(version(finished, 1).path)) == before


def test_a_finished_stage_goes_on_with_more_steps_and_squeezes_again(finished):
  before = saved_weights(finished, 1)
  train(change(finished, max_steps=30))
  assert version(finished, 0).read_stage()[0].finished.step == 30
  assert any((ours != theirs).any() for ours, theirs in zip(before, saved_weights(finished, 1)))


def test_a_longer_run_that_fails_leaves_the_stage_finished(after, capsys):
  finished = change(after({"weight_decay": 1.0}), weight_decay=1.0)
  with pytest.raises(UserError, match="not finite"):
    train(change(finished, max_steps=30, learning_rate=1e6))
  capsys.readouterr()
  train(finished)
  assert "is finished: 20 steps" in capsys.readouterr().out


def test_a_run_that_fails_in_its_start_can_run_again(config, monkeypatch):
  def fail(*_):
    raise MemoryError

  with monkeypatch.context() as patch, pytest.raises(MemoryError):
    patch.setattr("cifar10.training.trainer.make_train_steps", fail)
    train(config)
  train(config)
  assert version(config, 1).path.exists()


def test_training_never_starts_anew_where_its_checkpoints_are_gone(finished):
  (version(finished, 0).path / "checkpoint").write_text("damaged")
  train(change(finished, max_steps=25))
  assert version(finished, 0).checkpoint_steps() == [20, 25]
  for path in version(finished, 0).path.glob("model.ckpt-*"):
    path.unlink()
  with pytest.raises(UserError, match="was trained to step 25, but its model.ckpt-"):
    train(change(finished, max_steps=30))


def test_a_removed_checkpoint_makes_training_go_on_from_the_one_before(after, trained_once):
  whole = trained_once({"max_steps": 30})
  config = after(*({"max_steps": steps, "squeeze_model": False} for steps in (10, 20)))
  for path in version(config, 0).path.glob("model.ckpt-20*"):
    path.unlink()
  train(change(config, max_steps=30))
  assert_same_weights(saved_weights(config, 1), saved_weights(whole, 1))


def test_a_next_version_with_progress_is_replaced_only_on_demand(after):
  config = after({}, {"checkpoint_version": 1})
  before = contents(version(config, 1).path)
  with pytest.raises(UserError, match="has training progress.*--overwrite"):
    train(change(config, max_steps=30))
  assert contents(version(config, 1).path) == before
  assert version(config, 0).checkpoint_steps() == [20]
  train(change(config, max_steps=30, overwrite=True))
  assert list(contents(version(config, 1).path)) == ["model.keras"]


def test_a_missing_version_is_one_sentence(config):
  with pytest.raises(UserError, match="run_2/model.keras does not exist: train --checkpoint_version 1"):
    train(change(config, checkpoint_version=2))
  assert not version(config, 2).path.exists()


def test_another_model_than_the_version_s_is_refused(finished):
  for number in (0, 1):
    with pytest.raises(UserError, match="--model is resnet20, but .* was made with cnn4"):
      train(change(finished, checkpoint_version=number, model="resnet20"))
  train(change(finished, checkpoint_version=1, model=None))


@pytest.mark.parametrize(
  "flag", [{"seed": 4}, {"batch_size": 9}, {"weight_decay": 0.5}, {"dataset": "cifar10"}, {"use_fp16": True}]
)
def test_what_cannot_change_within_a_stage_is_refused(finished, flag):
  for steps in (20, 30):
    with pytest.raises(UserError, match=f"--{'precision' if 'use_fp16' in flag else next(iter(flag))} is"):
      train(change(finished, max_steps=steps, **flag))


def test_every_flag_is_fixed_or_changes_with_a_notice_or_counts_for_the_run_alone():
  flags = {field.name for field in dataclasses.fields(TrainConfig)}
  places = {"checkpoint_version", "train_dir"}
  assert {
    *names(TrainConfig, FIXED),
    *names(TrainConfig, MAY_CHANGE),
    *places,
    "overwrite",
    "use_fp16",
    "log_device_placement",
  } == flags


@pytest.mark.parametrize(
  "flags",
  [
    {
      "l1_penalty": 0.5,
      "learning_rate": 0.02,
      "max_steps": 25,
      "data_dir": "elsewhere",
      "log_frequency": 7,
      "save_interval_secs": 5.0,
      "exact_squeeze": False,
      "recalibration_batches": 2,
      "penalty_doubling_steps": 50,
      "round_channels_to": 4,
      "round_channels": "nearest",
      "sync_batch_norm": True,
    },
    {"squeeze_model": True, "stop_at_plateau": True},
    {"target_sparsity": 0.5, "jit_compile": True, "l1_penalty": 0.5},
  ],
)
def test_what_changes_within_a_stage_is_said(after, capsys, flags):
  config = change(after({"squeeze_model": False}), squeeze_model=False)
  train(change(config, **{"max_steps": 21, **flags}))
  output = capsys.readouterr().out
  for name, value in flags.items():
    assert f"--{name} was {getattr(config, name)} and is now {value}." in output


def test_a_foreign_directory_is_refused(config):
  version(config, 0).path.mkdir()
  (version(config, 0).path / "notes.txt").write_text("mine")
  with pytest.raises(UserError, match="written by something else"):
    train(config)
  assert list(contents(version(config, 0).path)) == ["notes.txt"]


def test_a_foreign_next_version_is_refused_before_training(config):
  version(config, 1).path.mkdir()
  (version(config, 1).path / "notes.txt").write_text("mine")
  with pytest.raises(UserError, match="written by something else"):
    train(change(config, overwrite=True))
  assert not version(config, 0).path.exists()


def test_a_drawn_seed_is_recorded_and_kept(config, capsys):
  train(change(config, seed=None, squeeze_model=False))
  seed = version(config, 0).read_stage()[0].flags.seed
  assert f"seed {seed}" in capsys.readouterr().out
  train(change(config, seed=None, max_steps=30, squeeze_model=False))
  assert version(config, 0).read_stage()[0].flags.seed == seed


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_ops_are_asked_for_on_demand(config, monkeypatch, wanted):
  asked = []
  monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
  train(change(config, max_steps=2, deterministic_ops=wanted))
  assert asked == [True] * wanted


def test_the_stage_records_its_flags_and_the_self_check(config, capsys):
  train(config)
  stage = json.loads((version(config, 0).path / "stage.json").read_text())
  assert stage["flags"] == {**dataclasses.asdict(config), **left_open(), "weight_decay": 0.0}
  assert stage["progress"]["step"] == 20
  assert stage["finished"]["self_check"] == {"images": 1000, "largest_difference": 0.0, "agreeing": 1000}
  assert "logits differ by 0 at most and 1000 predictions agree" in capsys.readouterr().out


def test_metrics_gammas_and_events_are_recorded(config):
  train(change(config, l1_penalty=1.0))
  rows = version(config, 0).rows()
  assert [row["step"] for row in rows] == [0, 5, 10, 15]
  assert [row["learning_rate"] for row in rows] == pytest.approx([0.01] * 4)
  assert [row["l1_penalty"] for row in rows] == [1.0] * 4
  gammas = read_gammas(version(config, 0).path)
  assert list(gammas) == [0, 5, 10, 15]
  penalty = version(config, 0).read_stage()[0].penalties["conv1_bn/gamma"]
  for row in rows:
    assert row["group_lasso"] == pytest.approx(penalty * abs(gammas[row["step"]]["conv1_bn/gamma"]).sum(), rel=1e-5)
  assert any("tfevents" in name for name in contents(version(config, 0).path))


def test_uniform_penalties_are_the_mean_of_the_paper_s(tmp_path, monkeypatch):
  monkeypatch.setitem(MODELS, "cnn4", cnn4)
  recorded = {}
  for uniform in (False, True):
    chain = short_stage(tmp_path / str(uniform), model="cnn4", max_steps=1, batch_size=2, squeeze_model=False)
    train(change(chain, uniform_penalties=uniform))
    recorded[uniform] = version(chain, 0).read_stage()[0].penalties
  sizes = {"conv1_bn/gamma": 96, "conv2_bn/gamma": 192, "conv3_bn/gamma": 192, "fc1_bn/gamma": 384}
  assert recorded[False].keys() == recorded[True].keys() == sizes.keys()
  mean = np.average(list(recorded[False].values()), weights=[sizes[key] for key in recorded[False]])
  assert len(set(recorded[False].values())) > 1
  assert list(recorded[True].values()) == pytest.approx([mean] * 4)


def test_checkpoints_are_saved_every_so_often(config):
  train(change(config, save_interval_secs=1e-9, max_steps=8, log_frequency=1))
  assert version(config, 0).checkpoint_steps() == [4, 5, 6, 7, 8]


def test_recalibration_sets_the_next_version_s_moving_statistics_to_those_of_batches(config, capsys, monkeypatch):
  batches = []
  monkeypatch.setattr(
    hand_over, "recalibrate", lambda model, images: batches.extend(images) or recalibrate(model, batches)
  )
  train(change(config, recalibration_batches=3))
  assert "moving statistics are recomputed on 3 training batches." in capsys.readouterr().out
  assert version(config, 0).read_stage()[0].finished.recalibration_batches == 3
  assert [batch.shape for batch in batches] == [(8, 32, 32, 3)] * 3
  assert len({batch.numpy().tobytes() for batch in batches}) == 3
  network = version(config, 0).load().network
  lagging, recalibrated = network.get_weights(), saved_weights(config, 1)
  assert any((one != other).any() for one, other in zip(lagging, recalibrated))
  recalibrate(network, batches)
  for ours, theirs in zip(network.get_weights(), recalibrated, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains_as_float32_does_and_leaves_a_float32_network(config, trained_once, precision):
  full, half = trained_once({}), change(config, precision=precision)
  train(half)
  losses = [[row["loss"] for row in version(each, 0).rows()] for each in (full, half)]
  assert losses[1] == pytest.approx(losses[0], rel=0.02)
  assert losses[1] != losses[0]
  network = version(half, 1).network()
  assert network.get_config() == version(full, 1).network().get_config()
  assert {variable.dtype for variable in network.variables} == {"float32"}
  train(change(half, checkpoint_version=1, model=None, precision=None, l1_penalty=30.0))
  assert version(half, 2).network().count_params() < network.count_params()


def test_a_resumed_run_in_half_precision_gives_the_weights_of_one_run(config, trained_once):
  whole = trained_once({"use_fp16": True})
  assert version(whole, 0).read_stage()[0].flags.precision == "mixed_bfloat16"
  train(change(config, use_fp16=True, max_steps=9, squeeze_model=False))
  train(config)
  assert_same_weights(saved_weights(config, 1), saved_weights(whole, 1))


def test_a_signal_during_the_last_save_ends_the_run_before_the_squeeze(config, monkeypatch):
  save = checkpoints.save

  def signalled(*args, **kwargs):
    save(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(checkpoints, "save", signalled)
  with pytest.raises(Interrupted, match="step 20 is saved"):
    train(config)
  assert not version(config, 1).path.exists()


def test_widths_are_rounded_up(after):
  config = after({"l1_penalty": 30.0})
  assert version(config, 1).network().get_layer("conv1").filters < 4
  train(change(config, l1_penalty=30.0, max_steps=21, round_channels_to=4))
  assert version(config, 1).network().get_layer("conv1").filters == 4
  assert version(config, 0).read_stage()[0].finished.multiple_of == 4


@pytest.mark.parametrize(("rounding", "filters", "exact"), [("up", 8, True), ("nearest", 4, False)])
def test_widths_are_rounded_to_the_nearer_multiple(config, monkeypatch, capsys, rounding, filters, exact):
  network = build_tiny_network(filters=8)
  network.get_layer("conv1_bn").gamma.assign([0, 0, 0, 1, 1, 0.9, 1, 1])
  monkeypatch.setattr(hand_over, "averaged_model", lambda state: network)
  train(change(config, round_channels_to=4, round_channels=rounding))
  assert version(config, 1).network().get_layer("conv1").filters == filters
  finished = version(config, 0).read_stage()[0].finished
  assert (finished.multiple_of, finished.rounding, finished.exact) == (4, rounding, exact)
  assert (finished.self_check.largest_difference < 1e-4) == exact
  assert ("the nearest multiples of 4: channels that were not dead went too" in capsys.readouterr().out) != exact


def test_compiled_by_xla_training_computes_the_same(config, trained_once, monkeypatch):
  plain, compiled = trained_once({}), change(config, jit_compile=True)
  calls, function = [], tf.function
  monkeypatch.setattr(tf, "function", lambda *args, **kwargs: calls.append((args, kwargs)) or function(*args, **kwargs))
  train(compiled)
  (kwargs,) = [kwargs for args, kwargs in calls if args and args[0].__name__ == "gradients_and_loss"]
  assert kwargs == {"jit_compile": True}
  for ours, theirs in zip(saved_weights(compiled, 1), saved_weights(plain, 1), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  ("flag", "gpus", "replicas", "sync", "compiled"),
  [
    (None, [], 1, False, False),
    (None, ["GPU"], 1, False, True),
    (False, ["GPU"], 1, False, False),
    (None, ["GPU"], 2, True, False),
    (True, [], 2, True, False),
    (True, [], 1, True, True),
  ],
)
def test_xla_compiles_on_a_gpu_or_on_demand(config, monkeypatch, flag, gpus, replicas, sync, compiled):
  monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
  config = change(config, jit_compile=flag, sync_batch_norm=sync)
  assert step_module.is_to_be_compiled(config, replicas) == compiled
