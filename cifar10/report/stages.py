"""What the versions of a chain are called, and the commands that make them again."""

import dataclasses
import shlex

from cifar10.config import DATASETS, NETWORKS, WEIGHT_DECAY, TrainConfig, left_open

# What a version after the first knows from the network and the stage before it.
INHERITED = ("model", "dataset", "batch_norm_momentum")

LINE = 76


def name_of(number, stage, squeeze):
  """What to call version `number` after what made it, the stage before and its squeeze; "" if that is unknown.

  Args:
    number: of the version.
    stage: the `Stage` of the version before, or None.
    squeeze: what `facts` keeps of that stage's squeeze, or None.
  """
  if number == 0:
    return "as trained"
  if not stage or not squeeze:
    return ""
  if number > 1 and stage.flags.l1_penalty == 0:
    return "fine-tuned"
  if any(removed for _, removed in squeeze["layers"].values()):
    return "pruned"
  return "warmed up" if number == 1 else "trained on"


def command(stage):
  """The command of a stage: `cifar10-train` with those of its settings that differ from the defaults, in lines."""
  flags = stage.flags
  usual = {"model": NETWORKS[0], "dataset": DATASETS[0], "weight_decay": WEIGHT_DECAY[flags.model], **left_open()}
  inherited = INHERITED if flags.checkpoint_version else ()
  lines = ["cifar10-train"]
  for field in dataclasses.fields(TrainConfig):
    value = getattr(flags, field.name)
    always = field.name == "checkpoint_version"
    if always or (field.name not in inherited and value != field.default and value != usual.get(field.name)):
      text = _flag(field.name, value)
      if len(lines[-1]) + len(text) < LINE:
        lines[-1] += f" {text}"
      else:
        lines.append(f"  {text}")
  return " \\\n".join(lines)


def _flag(name, value):
  if isinstance(value, bool):
    return f"--{name}" if value else f"--no{name}"
  return shlex.join([f"--{name}", str(value)])
