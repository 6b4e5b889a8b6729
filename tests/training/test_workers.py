"""Tests of cifar10.training.workers, and of training on several devices and between several processes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf
from helpers import TRAIN_TINY, assert_same_weights, deterministic_rows, saved_weights, version

from cifar10.errors import UserError
from cifar10.training import workers

STEPS = 600
FLAGS = (
  *("--model=cnn4", "--dataset=synthetic", "--batch_size=8", "--seed=1", f"--max_steps={STEPS}", "--log_frequency=100"),
  *("--l1_penalty=0.5", "--learning_rate=0.01", "--save_interval_secs=0.2"),
)
ONE_DEVICE = {"seed": 1, "l1_penalty": 0.5}  # What else the flags say the short stages have too.
MIRRORED = ("--distribution_strategy=mirrored", "--num_replicas=2")


def start(train_dir, *flags, **environment):
  """Starts a stage of the tiny network."""
  return subprocess.Popen(
    [*TRAIN_TINY, *FLAGS, f"--train_dir={train_dir}", *flags],
    env={**os.environ, **environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def free_ports():
  """Ports below those that the system gives to connections, others for each process that runs tests."""
  for port in range(20000 + 500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), 32768):
    with contextlib.suppress(OSError):
      socket.create_server(("localhost", port)).close()
      yield port


PORTS = free_ports()


def start_workers(train_dir, flags_of_second=()):
  """Starts the stage on two workers of this host, the chief first."""
  addresses = [f"localhost:{next(PORTS)}" for _ in range(2)]
  processes = []
  for index, flags in enumerate([(), flags_of_second]):
    settings = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    flags = ("--distribution_strategy=multi_worker", *flags)
    processes.append(start(train_dir, *flags, TF_CONFIG=json.dumps(settings)))
  return processes


def ended(*processes):
  """Waits for processes; returns exit code, stdout and stderr of each."""
  outputs = [process.communicate(timeout=300) for process in processes]
  return [(process.returncode, *output) for process, output in zip(processes, outputs)]


def wait_for_line(process, text):
  while text not in (line := process.stdout.readline()):
    assert line, process.stderr.read()


def assert_same(train_dir, other):
  assert_same_weights(saved_weights(train_dir), saved_weights(other))
  assert deterministic_rows(train_dir) == deterministic_rows(other)


@pytest.fixture(scope="module")
def by_workers(tmp_path_factory):
  """A stage trained by two workers without interruption: its --train_dir, and how they ended."""
  train_dir = tmp_path_factory.mktemp("workers") / "run"
  return train_dir, ended(*start_workers(train_dir))


def test_two_workers_log_save_and_squeeze_once(by_workers):
  train_dir, ((code, chief, _), (other_code, other, _)) = by_workers
  assert code == other_code == 0
  assert [row["step"] for row in deterministic_rows(train_dir)] == [0, 100, 200, 300, 400, 500]
  assert chief.count(": step ") == 6
  assert chief.count("squeezed ") == 1
  assert other == "worker 1 waits for all of 2 workers.\n"
  chain = version(train_dir, 0)
  assert len(list(chain.path.glob("events.*"))) == 1
  assert chain.checkpoint_steps()[-1] == STEPS
  assert not list(chain.path.parent.glob("*/.unfinished.*"))
  assert chain.read_stage()[0].flags.distribution_strategy == "multi_worker"


def test_two_devices_in_two_runs_give_what_two_workers_give_in_one(by_workers, tmp_path):
  train_dir = tmp_path / "run"
  assert ended(start(train_dir, *MIRRORED, "--max_steps=250", "--nosqueeze_model"))[0][0] == 0
  ((code, output, _),) = ended(start(train_dir, *MIRRORED))
  assert code == 0
  assert "resumed at step 250." in output
  assert_same(train_dir, by_workers[0])


def test_the_replicas_share_the_batch_of_one_device(tmp_path, trained_once):
  one, two = trained_once({**ONE_DEVICE, "max_steps": 21}), tmp_path / "two"
  synchronized = ("--max_steps=21", "--log_frequency=5", *MIRRORED, "--sync_batch_norm")
  assert ended(start(two, *synchronized, "--max_steps=11", "--nosqueeze_model"))[0][0] == 0
  ((code, output, _),) = ended(start(two, *synchronized, "--num_replicas=4"))
  assert code == 0
  assert "--num_replicas was 2 and is now 4." in output
  for ours, theirs in zip(saved_weights(two), saved_weights(one), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
  for ours, theirs in zip(deterministic_rows(two), deterministic_rows(one), strict=True):
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_replicas_that_are_not_synchronized_have_batch_statistics_of_their_own(by_workers, trained_once):
  one = trained_once({**ONE_DEVICE, "max_steps": STEPS, "log_frequency": 100})
  apart, together = ([row["loss"] for row in deterministic_rows(each)] for each in (by_workers[0], one))
  assert len(apart) == len(together)
  assert apart != pytest.approx(together, rel=1e-3)


@pytest.mark.slow
def test_a_stage_goes_on_compiled_by_xla_and_on_one_device(tmp_path):
  plain, compiled = tmp_path / "plain", tmp_path / "compiled"
  few = ("--max_steps=21", "--log_frequency=5")
  ends = ended(start(plain, *few, *MIRRORED), start(compiled, *few, *MIRRORED, "--jit_compile"))
  assert [code for code, _, _ in ends] == [0, 0]
  for ours, theirs in zip(saved_weights(compiled), saved_weights(plain), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
  ((code, output, _),) = ended(start(compiled, "--max_steps=31", "--log_frequency=5"))
  assert code == 0
  assert "--distribution_strategy was mirrored and is now one_device." in output
  assert [row["step"] for row in deterministic_rows(compiled)] == list(range(0, 31, 5))


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_where_a_worker_dies_or_gets_a_signal_the_other_says_so_and_all_resume(by_workers, tmp_path, victim):
  train_dir = tmp_path / "run"
  processes = start_workers(train_dir)
  wait_for_line(processes[0], ": step 100,")
  processes[victim].kill()
  code, _, errors = ended(*processes)[1 - victim]
  assert code == 1
  assert "Traceback" not in errors
  assert errors.splitlines()[-1].startswith("cifar10-train: another worker has gone, or ")

  processes = start_workers(train_dir)
  wait_for_line(processes[0], ": step ")
  processes[1].send_signal(signal.SIGTERM)
  (code, _, errors), (other_code, _, other_errors) = ended(*processes)
  assert code == other_code == 128 + signal.SIGTERM
  (step,) = [int(word) for word in errors.splitlines()[-1].split() if word.isdecimal()]
  assert (
    errors.splitlines()[-1] == f"cifar10-train: SIGTERM: step {step} is saved in {train_dir}_0; run again to go on."
  )
  assert "the chief has saved" in other_errors

  ends = ended(*start_workers(train_dir))
  assert [code for code, _, _ in ends] == [0, 0]
  assert f"resumed at step {step}." in ends[0][1]
  assert_same(train_dir, by_workers[0])


def test_workers_with_different_flags_are_refused(tmp_path):
  first, second = ended(*start_workers(tmp_path / "run", ["--l1_penalty=0.25"]))
  assert (first[0], second[0]) == (1, 1)
  sentence = "--l1_penalty is 0.25 for this worker, and not for the chief; pass all workers the same."
  assert second[2].splitlines()[-1] == f"cifar10-train: {sentence}"
  assert "another worker has gone" in first[2]


@pytest.mark.usefixtures("default_signals")
def test_a_worker_that_waits_for_the_others_can_be_interrupted(tmp_path):
  first, second = start_workers(tmp_path / "run")
  second.kill()
  wait_for_line(first, "worker 0 waits for all of 2 workers.")
  while first.poll() is None:
    first.send_signal(signal.SIGINT)
    time.sleep(0.2)
  assert ended(first)[0][0] == -signal.SIGINT
  assert not version(tmp_path / "run", 0).path.exists()


@pytest.mark.parametrize(
  "tf_config",
  [
    "",
    "{",
    "[]",
    '{"cluster": {"worker": ["a:1"]}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
    '{"cluster": {"worker": ["a:1"], "ps": ["a:2"]}, "task": {"type": "ps", "index": 0}}',
  ],
)
def test_a_tf_config_that_names_no_place_among_workers_is_refused(tf_config, monkeypatch):
  monkeypatch.setenv("TF_CONFIG", tf_config)
  with pytest.raises(UserError, match="the environment variable TF_CONFIG is .* expects .*cluster"):
    workers.open_strategy("multi_worker")


def test_the_chief_is_the_chief_or_the_first_worker():
  class Strategy:
    def __init__(self, task_type, task_id, jobs):
      cluster = tf.train.ClusterSpec({key: ["a:1", "b:1"] for key in jobs})
      self.cluster_resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        cluster, task_type=task_type, task_id=task_id
      )

  assert workers.is_chief(tf.distribute.get_strategy())
  assert workers.is_chief(Strategy("worker", 0, ["worker"]))
  assert not workers.is_chief(Strategy("worker", 1, ["worker"]))
  assert workers.is_chief(Strategy("chief", 0, ["chief", "worker"]))
  assert not workers.is_chief(Strategy("worker", 0, ["chief", "worker"]))


@pytest.mark.parametrize(
  ("batch_size", "replicas", "fitting"), [(125, 2, "124 or 126"), (3, 8, "8"), (10, 4, "8 or 12"), (126, 2, None)]
)
def test_a_batch_that_cannot_be_split_evenly_is_refused(batch_size, replicas, fitting):
  class Strategy:
    num_replicas_in_sync = replicas

  if fitting is None:
    workers.check_batch_size(batch_size, Strategy)
    return
  sentence = f"--batch_size {batch_size} cannot be split evenly over {replicas} replicas; pass {fitting}."
  with pytest.raises(UserError, match=f"^{sentence}$"):
    workers.check_batch_size(batch_size, Strategy)


def test_more_replicas_than_gpus_are_refused(monkeypatch):
  gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{i}", "GPU") for i in range(2)]
  monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
  with pytest.raises(UserError, match=r"--num_replicas is 3, but this host has 2 GPUs; pass that many at most"):
    workers.open_strategy("mirrored", 3)


@pytest.mark.parametrize(
  ("capabilities", "expected"),
  [([], "mixed_bfloat16"), ([(8, 0)], "mixed_bfloat16"), ([(9, 0), (7, 5)], "mixed_float16")],
)
def test_the_half_precision_is_bfloat16_but_on_old_gpus(capabilities, expected, monkeypatch):
  monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: range(len(capabilities)))
  details = [{"compute_capability": capability} for capability in capabilities]
  monkeypatch.setattr(tf.config.experimental, "get_device_details", details.__getitem__)
  assert workers.half_precision() == expected
