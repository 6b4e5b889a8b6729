"""Tests of cifar10.training.signals, and of training when its console goes away."""

import os
import signal
import subprocess
import time

import pytest
from helpers import TRAIN_TINY

from cifar10.training.signals import caught_signals, first_of
from cifar10.version.directory import Version

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers():
  """What handles the signals now is put back at the end."""
  before = {signum: signal.getsignal(signum) for signum in SIGNALS}
  yield before
  for signum, handler in before.items():
    signal.signal(signum, handler)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_first_signal_is_caught_and_a_second_acts_as_usual(signum):
  seen = []
  signal.signal(signum, lambda *_: seen.append("as usual"))
  with caught_signals() as caught:
    os.kill(os.getpid(), signum)
    time.sleep(0.01)
    os.kill(os.getpid(), signum)
    time.sleep(0.01)
  assert caught == [signum]
  assert first_of(caught) == signum
  assert seen == ["as usual"]


@pytest.mark.parametrize("signum", SIGNALS)
def test_an_ignored_signal_stays_ignored(signum):
  signal.signal(signum, signal.SIG_IGN)
  with caught_signals() as caught:
    os.kill(os.getpid(), signum)
    time.sleep(0.01)
  assert caught == []
  assert signal.getsignal(signum) == signal.SIG_IGN


def start(train_dir, *before):
  flags = ["--model=cnn4", "--dataset=synthetic", "--batch_size=8", "--seed=1", "--max_steps=100000"]
  command = [*before, *TRAIN_TINY, *flags, f"--train_dir={train_dir}"]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("default_signals")
def test_a_hangup_saves_and_ends(tmp_path):
  with start(tmp_path / "run") as process:
    try:
      while ": step 0," not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
      process.send_signal(signal.SIGHUP)
      _, error = process.communicate(timeout=300)
    finally:
      process.kill()
  (step,) = Version(tmp_path / "run", 0).checkpoint_steps()
  assert process.returncode == 128 + signal.SIGHUP
  assert (
    error.splitlines()[-1]
    == f"cifar10-train: SIGHUP: step {step} is saved in {tmp_path / 'run_0'}; run again to go on."
  )
