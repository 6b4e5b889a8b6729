"""Keeps what TensorFlow prints on stderr as it starts, and that means nothing, off the console.

These lines come from native code before logging is set up, so that no log level holds them back. `quietly` lays a pipe
in the place of stderr, and this file, run as a program, passes on what comes out of it, but for the known lines. It is
a process of its own so that the last words of a program that crashes or is killed come through.
"""

import contextlib
import os
import re
import subprocess
import sys

KNOWN = (
  rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR",
  rb"[IWE]\d{4} .* port\.cc:\d+\] oneDNN custom operations are on\. You may see slightly different numerical results.*",
  rb"I\d{4} .* cpu_feature_guard\.cc:\d+\] This TensorFlow binary is optimized to use available CPU instructions.*",
  rb"To enable the following instructions: .*, in other operations, rebuild TensorFlow with the appropriate .* flags\.",
  rb"INFO: Created TensorFlow Lite XNNPACK delegate for CPU\.",
  rb"fully_quantize: \d+, inference_type: \d+, input_inference_type: \w+, output_inference_type: \w+",
)
KNOWN_WITHOUT_A_GPU = (
  rb"I\d{4} .* cudart_stub\.cc:\d+\] Could not find cuda drivers on your machine, GPU will not be used\.",
  rb"E\d{4} .* cuda_platform\.cc:\d+\] failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: .*",
)
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
LONGEST = 1 << 16  # Bytes that wait for the end of their line.
WAIT_SECONDS = 5


@contextlib.contextmanager
def quietly(level="2"):
  """Keeps known lines off stderr in the context, where TensorFlow is imported, and, at its end, finds the devices.

  All else comes through, in order, and all of it with TF_CPP_MIN_LOG_LEVEL=0.

  Args:
    level: of TensorFlow's own log, TF_CPP_MIN_LOG_LEVEL, unless the environment has it.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", level)
  has_started = "tensorflow" in sys.modules
  with contextlib.nullcontext() if has_started or os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0" else _filtered():
    yield
    if "tensorflow" in sys.modules:
      sys.modules["tensorflow"].config.list_physical_devices()


@contextlib.contextmanager
def _filtered():
  try:
    with contextlib.ExitStack() as stack:
      stderr = os.dup(2)
      stack.callback(os.close, stderr)
      command = [sys.executable, "-I", "-S", __file__]
      # In a session of its own, so that what ends this program from its terminal does not end the filter.
      process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
      stack.pop_all()
  except OSError:  # stderr is closed, or there can be no further process.
    stderr = None
  if stderr is None:
    yield
    return
  _put_in_its_place(process.stdin.fileno())
  process.stdin.close()
  try:
    yield
  finally:
    _put_in_its_place(stderr)
    os.close(stderr)
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(WAIT_SECONDS)


def _put_in_its_place(descriptor):
  with contextlib.suppress(AttributeError, OSError, ValueError):  # It may be gone, full or closed.
    sys.stderr.flush()
  os.dup2(descriptor, 2)


def known_lines():
  """The patterns of what is kept back on this machine, bytes: of GPUs nothing where it may have one."""
  return KNOWN if any(map(os.path.exists, GPU_DEVICES)) else KNOWN + KNOWN_WITHOUT_A_GPU


def main():
  """The filter: from stdin to stderr, until the last process that writes into it ends."""
  is_known = re.compile(rb"(?:%b)\n?" % b"|".join(known_lines())).fullmatch
  waiting = b""
  while chunk := os.read(0, LONGEST):
    *lines, waiting = (waiting + chunk).splitlines(keepends=True)
    if waiting.endswith((b"\n", b"\r")) or len(waiting) > LONGEST:
      lines, waiting = [*lines, waiting], b""
    _write(b"".join(line for line in lines if not is_known(line)))
  _write(b"" if is_known(waiting) else waiting)


def _write(content):
  with contextlib.suppress(OSError):  # Where stderr takes nothing, the program is not to wait for it.
    while content:
      content = content[os.write(2, content) :]


if __name__ == "__main__":
  main()
