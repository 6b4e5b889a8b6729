"""`cifar10-train`: trains one stage."""

import os
import sys

from absl import flags

from cifar10.cli import command
from cifar10.config import TrainConfig

USAGE = """cifar10-train trains one stage: from the network of --checkpoint_version V, which it resumes or starts, to
--max_steps; then it removes the channels whose gamma is 0 and writes the smaller network as version V+1.
"""


def flag_values():
  """The flags of the command."""
  values, defaults = flags.FlagValues(), TrainConfig()

  def number(name, text, **limits):
    command.define_number(values, name, getattr(defaults, name), text, **limits)

  def path(name, text):
    command.define_path(values, name, getattr(defaults, name), text)

  def switch(name, text):
    flags.DEFINE_bool(name, getattr(defaults, name), text, flag_values=values)

  def choice(name, choices, text):
    flags.DEFINE_enum(name, getattr(defaults, name), choices, text, flag_values=values)

  number("checkpoint_version", "Version to train; it stands in <train_dir>_<version>.", integer=True, high=10**6)
  path("train_dir", "Directory of a version, without _<version>.")
  choice(
    "model", ["resnet20", "cnn4"], "Network to start version 0 with: resnet20 by default. Later versions know theirs."
  )
  choice("dataset", ["cifar10", "synthetic"], "Data set; synthetic is built in and needs no files.")
  path(
    "data_dir",
    "Directory of CIFAR-10: holds cifar-10-batches-bin/, or what TensorFlow Datasets prepared, or gets its "
    "download. By default CIFAR10_DATA_DIR from the environment, else TensorFlow Datasets' own.",
  )
  number("max_steps", "Steps of the whole stage.", integer=True, low=1, high=2**31 - 1)
  number("l1_penalty", "Strength of the sparsity of gammas; 0 for fine-tuning.", high=10**6)
  number("learning_rate", "Learning rate; a tenth of it after every 350 epochs.", above=True, high=10**6)
  number("batch_size", "Images in a step.", integer=True, low=1, high=10**6)
  number("weight_decay", "Weight decay of kernels. By default 0.0005 for resnet20, 0 for cnn4.", high=10**6)
  number(
    "seed",
    "Seed of initial weights, order of images and distortions. By default one is drawn, and recorded.",
    integer=True,
    high=2**31 - 1,
  )
  choice(
    "precision",
    ["float32", "mixed_bfloat16", "mixed_float16"],
    "What convolutions compute in; variables, batch statistics and the loss stay float32. By default float32.",
  )
  switch("use_fp16", "The half --precision that suits the device: mixed_bfloat16, but mixed_float16 on older GPUs.")
  choice(
    "distribution_strategy",
    ["one_device", "mirrored", "multi_worker"],
    "one_device: the first GPU, else the CPU; mirrored: all GPUs of this host; multi_worker: the workers that "
    "TF_CONFIG names. Replicas share a batch evenly.",
  )
  number(
    "num_replicas",
    "For mirrored: how many GPUs, or, on a host without one, parts of its CPU. By default all GPUs.",
    integer=True,
    low=1,
    high=1024,
  )
  switch(
    "sync_batch_norm",
    "Normalise with the statistics of the whole batch, not with those of each replica's part of it.",
  )
  switch(
    "jit_compile",
    "Have XLA compile the gradients. By default on a GPU; never with --sync_batch_norm on several replicas.",
  )
  number("log_frequency", "Steps between console lines.", integer=True, low=1, high=2**31 - 1)
  number("save_interval_secs", "Seconds between checkpoints.", above=True, high=10**9)
  switch(
    "stop_at_plateau",
    "End the stage once fake sparsity has plateaued: of the steps since the stage began or --l1_penalty last changed, "
    "it was above 0.01 over the last two fifths, and its mean over the last is less than 0.01 above that over the one "
    "before; each has at least 10 console lines.",
  )
  number(
    "target_sparsity",
    "Double the penalty, from --l1_penalty, every --penalty_doubling_steps, smoothly, and end the stage at the first "
    "console line whose fake sparsity is so much or more. By default the penalty stays as it is.",
    above=True,
    high=0.99,
  )
  number("penalty_doubling_steps", "See --target_sparsity.", integer=True, low=1, high=2**31 - 1)
  switch("squeeze_model", "At the end, squeeze and write the next version.")
  switch(
    "exact_squeeze",
    "Keep the function of the network exactly, at image borders too; else fold as in the paper, which removes "
    "a channel more in layers whose dead channels have constants other than 0.",
  )
  number(
    "round_channels_to",
    "Squeeze to widths that are multiples of this, where a layer had so many channels: dead ones fill up.",
    integer=True,
    low=1,
    high=1024,
  )
  number(
    "recalibration_batches",
    "After squeezing, recompute the moving statistics of batch norms on so many batches of distorted training "
    "images; 0 leaves them as training made them, as the paper's own program does.",
    integer=True,
    high=10**6,
  )
  switch("overwrite", "Replace the next version though it has training progress; clears its directory.")
  switch(
    "deterministic_ops",
    "Use only operations that give the same result each time, for a GPU. On a CPU runs repeat without it; there it "
    "rounds otherwise, and cost 6% of the time in one run.",
  )
  switch("log_device_placement", "Log which device each operation runs on.")
  flags.register_multi_flags_validator(
    ["target_sparsity", "stop_at_plateau", "l1_penalty"],
    lambda given: given["target_sparsity"] is None or (given["l1_penalty"] > 0 and not given["stop_at_plateau"]),
    "--target_sparsity needs an --l1_penalty above 0 to start with, and goes without --stop_at_plateau",
    flag_values=values,
  )
  flags.register_multi_flags_validator(
    ["use_fp16", "precision"],
    lambda given: not given["use_fp16"] or given["precision"] is None,
    "--use_fp16 chooses a --precision; pass one of the two",
    flag_values=values,
  )
  flags.register_multi_flags_validator(
    ["num_replicas", "distribution_strategy"],
    lambda given: given["num_replicas"] is None or given["distribution_strategy"] == "mirrored",
    "--num_replicas is for --distribution_strategy mirrored",
    flag_values=values,
  )
  return values


def main(argv=None):
  """Runs the command; returns its exit code."""
  argv = sys.argv if argv is None else argv
  config = TrainConfig(**command.parse(flag_values(), USAGE, argv))
  return command.run(argv[0], _train, config)


def _train(config):
  # Between workers TensorFlow logs as errors what devices.py says in a sentence.
  quiet = "3" if config.distribution_strategy == "multi_worker" else "2"
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if config.log_device_placement else quiet)
  from cifar10.train import train

  train(config)


if __name__ == "__main__":
  sys.exit(main())
