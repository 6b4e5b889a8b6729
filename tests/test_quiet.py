"""What is known to mean nothing stays off stderr, and all else comes through, however the program ends."""

import os
import re
import signal
import subprocess
import sys

import pytest

from cifar10 import quiet

KNOWN = [
  "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
  "I0000 00:00:1795623063.656984   20717 port.cc:153] oneDNN custom operations are on. You may see slightly different "
  "numerical results due to floating-point round-off errors from different computation orders. To turn them off, set "
  "the environment variable `TF_ENABLE_ONEDNN_OPTS=0`.",
  "I0000 00:00:1795623064.135039   20717 cpu_feature_guard.cc:227] This TensorFlow binary is optimized to use "
  "available CPU instructions in performance-critical operations.",
  "To enable the following instructions: AVX2 AVX512F, in other operations, rebuild TensorFlow with the appropriate "
  "compiler flags.",
]
OF_GPUS = [
  "I0000 00:00:1795623063.657363   20717 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not "
  "be used.",
  "E0000 00:00:1795623068.881947   20717 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed call "
  "to cuInit: UNKNOWN ERROR (303)",
]
OTHERS = ["E0000 00:00:1795623068.881947   20717 port.cc:1] something else", " " + KNOWN[0], "", "Warnung: ä"]


def start(body, **settings):
  """Starts a program whose `body` runs in the context; `known` is what it may write."""
  lines = [
    *(f"import {name}" for name in ("contextlib", "os", "signal", "subprocess", "sys", "time")),
    "from cifar10 import quiet",
    "quiet.WAIT_SECONDS = 0.3",
    f"known = {KNOWN[0]!r}.encode() + b'\\n'",
    "with quiet.quietly():",
    *(f"  {line}" for line in body),
    "sys.stderr.write('after\\n')",
  ]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
  settings = {**pipes, "env": environment, "start_new_session": True, **settings}
  return subprocess.Popen([sys.executable, "-c", "\n".join(lines)], **settings)


def run(*body, **settings):
  """What such a program leaves: the exit code and stderr."""
  process = start(body, **settings)
  _, errors = process.communicate(timeout=60)
  return process.returncode, errors


def test_known_lines_stay_away_and_others_come_through_in_order():
  lines = [line for pair in zip(KNOWN, OTHERS, strict=True) for line in pair]
  text = "".join(line + "\n" for line in lines)
  assert run(
    f"os.write(2, {text!r}.encode())",
    "sys.stderr.write('from Python\\n')",
    "os.write(2, known[:30]), time.sleep(0.05), os.write(2, known[30:] + b'cut')",
  ) == (0, "".join(line + "\n" for line in OTHERS) + "from Python\ncutafter\n")


def test_all_lines_come_through_at_level_0():
  assert run("os.write(2, known)", env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}) == (0, KNOWN[0] + "\nafter\n")


@pytest.mark.parametrize("there", [False, True])
def test_what_tensorflow_says_of_gpus_comes_through_where_there_may_be_one(monkeypatch, there):
  monkeypatch.setattr(quiet, "GPU_DEVICES", (__file__,) if there else ("/dev/no such device",))
  for line in KNOWN + OF_GPUS:
    is_known = any(re.fullmatch(pattern, line.encode()) for pattern in quiet.known_lines())
    assert is_known != (there and line in OF_GPUS)


@pytest.mark.parametrize(
  ("end", "code"),
  [
    ("os.abort()", -signal.SIGABRT),
    ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
    ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ("os.killpg(0, signal.SIGKILL)", -signal.SIGKILL),
    ("os._exit(3)", 3),
    ("sys.exit(4)", 4),
  ],
)
def test_last_words_come_out(end, code):
  assert run("os.write(2, known + b'a line\\n' + known + b'last words')", end) == (code, "a line\nlast words")


def test_an_interrupt_ends_the_program_alone():
  code, errors = run(
    "os.write(2, known)", "signal.signal(signal.SIGINT, signal.default_int_handler)", "os.killpg(0, 2)"
  )
  assert code == -signal.SIGINT
  assert errors.splitlines()[-1] == "KeyboardInterrupt"
  assert KNOWN[0] not in errors


def test_more_than_a_pipe_holds_comes_through():
  assert run("for i in range(3000): os.write(2, known + b'x' * 99 + b'\\n')") == (
    0,
    ("x" * 99 + "\n") * 3000 + "after\n",
  )
  assert run("os.write(2, b'x' * 300000)") == (0, "x" * 300000 + "after\n")


def test_a_program_that_it_starts_writes_through_it_and_may_live_on():
  child = "import os, time; os.write(2, b'child\\n'); time.sleep(1); os.write(2, b'late\\n')"
  code, errors = run(f"subprocess.Popen([sys.executable, '-c', {child!r}])", "time.sleep(0.5)")
  assert code == 0
  assert errors.splitlines() == ["child", "after", "late"]


def test_a_closed_or_full_stderr_ends_nothing():
  body = ["with contextlib.suppress(OSError): os.write(2, b'x')", "os.write(1, b'on')"]
  closed = start(body, stderr=None, preexec_fn=lambda: os.close(2))
  assert closed.communicate(timeout=60)[0] == "on"
  with open("/dev/full", "w") as full:
    process = start(["for i in range(3000): os.write(2, b'x' * 99 + b'\\n')", "os.write(1, b'on')"], stderr=full)
    assert process.communicate(timeout=60)[0] == "on"
