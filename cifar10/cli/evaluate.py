"""`cifar10-eval`: evaluates a checkpoint version."""

import os
import sys

from absl import flags

from cifar10.cli import command
from cifar10.config import EvalConfig

USAGE = """cifar10-eval evaluates the network of --checkpoint_version V on CIFAR-10: the moving averages of its newest
training checkpoint, or, before it is trained, the squeezed network that version V-1 left there.
"""


def flag_values():
  """The flags of the command."""
  values, defaults = flags.FlagValues(), EvalConfig()

  def number(name, text, **limits):
    command.define_number(values, name, getattr(defaults, name), text, **limits)

  def path(name, text):
    command.define_path(values, name, getattr(defaults, name), text)

  def choice(name, choices, text):
    flags.DEFINE_enum(name, getattr(defaults, name), choices, text, flag_values=values)

  command.define_version(values, defaults, "evaluate")
  choice("model", ["resnet20", "cnn4"], "The network that the version must hold. By default it is not checked.")
  choice("dataset", ["cifar10", "synthetic"], "Data set; synthetic is built in and needs no files.")
  path("data_dir", "Directory of CIFAR-10, as for cifar10-train.")
  choice("eval_data", ["test", "train_eval"], "Test images, or training images without distortion.")
  number("num_examples", "Images to evaluate, the first ones, each once.", integer=True, low=1, high=10**9)
  number("batch_size", "Images at a time.", integer=True, low=1, high=10**6)
  flags.DEFINE_bool(
    "run_once", defaults.run_once, "Evaluate once; else every --eval_interval_secs.", flag_values=values
  )
  number("eval_interval_secs", "Seconds from one evaluation to the next.", above=True, high=10**9)
  path("eval_dir", "Directory of TensorBoard events; each version writes into one of its own there.")
  return values


def main(argv=None):
  """Runs the command; returns its exit code."""
  argv = sys.argv if argv is None else argv
  config = EvalConfig(**command.parse(flag_values(), USAGE, argv))
  return command.run(argv[0], _evaluate, config)


def _evaluate(config):
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from cifar10.evaluate import evaluate

  evaluate(config)


if __name__ == "__main__":
  sys.exit(main())
