"""The library on other backends than TensorFlow: what of the tests knows no backend runs on JAX too."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
# Of the tests that know no backend, those that take the whole path or compiled steps: a selection for time's sake.
SELECTED = ("test_on_any_backend.py", "test_thresholds_in_models.py")
NAMES = "on_any_backend or l1_penalty"
FAST = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"}


def run_on(backend, *arguments):
  environment = {**os.environ, **FAST, "KERAS_BACKEND": backend, "PYTHONPATH": str(HERE.parent.parent)}
  return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)


def test_nothing_of_tensorflow_is_imported_on_jax():
  program = "import sys, cifar10.pruning; print({'tensorflow', 'torch'} & set(sys.modules))"
  result = run_on("jax", "-c", program)
  assert result.stdout.strip() == "set()", result.stderr


def test_the_root_logger_is_left_alone():
  package = HERE.parent.parent / "cifar10"
  text = "".join(path.read_text() for path in package.rglob("*.py"))
  assert "logging.getLogger(__name__)" in text
  assert not re.findall(r"\blogging\.(?:debug|info|warning|error|exception|critical|log|basicConfig)\b", text)


@pytest.mark.skipif(os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow", reason="runs these tests itself")
def test_tests_that_know_no_backend_pass_on_jax():
  options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "--confcutdir", str(HERE))
  result = run_on("jax", "-m", "pytest", *options, "-k", NAMES, *(str(HERE / name) for name in SELECTED))
  assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
