"""Every setting of the commands, declared once: its default, what it may be, its help, and how long it holds.

A field of a config is a setting. `cli/command.py` makes the flags of them, `training/settling.py` learns which ones a
stage fixes, `version/stage.py` checks what it reads, and `cli/flag_table.py` prints the table of the manual. TensorFlow
is not needed here, so that --help answers at once.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

from cifar10.errors import UserError

# The weight decay of each network, as in the paper's own program; `models.MODELS` builds them.
WEIGHT_DECAY = {"resnet20": 0.0005, "cnn4": 0.0}
NETWORKS = tuple(WEIGHT_DECAY)
DATASETS = ("cifar10", "synthetic")
DISTORTIONS = ("paper", "crop_flip")
CHAIN = "checkpoints/cifar10_train"
FORMATS = ("saved_model", "litert", "litert_int8", "onnx")

FIXED = "fixed for the stage"
MAY_CHANGE = "may change between runs"

# What settings are about; --help and the manual list them by it.
STAGE = "Which stage"
VERSION = "Which network"
DATA = "Data"
SPARSITY = "Sparsity"
OPTIMIZATION = "Optimization"
SQUEEZE = "The squeeze at the end"
DEVICES = "Devices and precision"
RECORDS = "Logs and checkpoints"
OUTPUT = "What comes out"
BUDGET = "Budget"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """What is declared of a setting, beside its default.

  Each kind has `expected`, words for the values that it takes, and `admits(value)`, whether it takes one.

  Attributes:
    help: what it is, in a sentence or more.
    scope: how long it holds: `FIXED`, what it was when the stage began; `MAY_CHANGE` from run to run of a stage, and a
      line says so; or "", where it says which stage it is, or counts for the run alone.
    workers_own: whether the workers of one run may have different values.
    positional: whether it stands on the command line without a flag.
    left_open: what it is where it is left open, and in records from before there was the setting; None where that
      depends on more.
  """

  help: str
  scope: str = ""
  workers_own: bool = False
  positional: bool = False
  group: str = "Settings"
  left_open: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Number(Setting):
  """A finite number from `low` (with `above`, greater than it) to `high`; with `whole`, an int, else a float."""

  whole: bool = False
  low: float = 0
  above: bool = False
  high: float = math.inf

  @property
  def expected(self):
    expected = f"a {'whole ' * self.whole}number {'above' if self.above else 'from'} {self.low}"
    return expected + (f" to {self.high}" if self.high < math.inf else "" if self.above else " up")

  def admits(self, value):
    of_type = isinstance(value, int if self.whole else (int, float)) and not isinstance(value, bool)
    return of_type and self.low <= value <= self.high and value != math.inf and not (self.above and value == self.low)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice(Setting):
  """One of `choices`."""

  choices: tuple[str, ...]

  @property
  def expected(self):
    return f"one of {', '.join(self.choices)}"

  def admits(self, value):
    return value in self.choices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices(Choice):
  """A tuple of some of `choices`."""

  @property
  def expected(self):
    return f"some of {', '.join(self.choices)}, separated by commas"

  def admits(self, value):
    return isinstance(value, tuple) and set(value) <= set(self.choices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Switch(Setting):
  """True or False."""

  expected = "true or false"

  def admits(self, value):
    return isinstance(value, bool)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path(Setting):
  """The path of a directory, a text that can be one."""

  expected = "the path of a directory, in UTF-8"

  def admits(self, value):
    return (
      isinstance(value, str)
      and value != ""
      and "\0" not in value
      and not any("\ud800" <= character <= "\udfff" for character in value)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paths(Path):
  """A tuple of paths."""

  def admits(self, value):
    return isinstance(value, tuple) and all(map(super().admits, value))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names(Setting):
  """A tuple of names of layers."""

  expected = "names of layers, separated by commas"

  def admits(self, value):
    return isinstance(value, tuple) and all(isinstance(name, str) and name for name in value)


def _setting(default, declaration):
  return dataclasses.field(default=default, metadata={"declaration": declaration})


def number(default, help, **declared):
  """A field whose declaration is a `Number`; the functions below are alike."""
  return _setting(default, Number(help=help, **declared))


def choice(default, choices, help, **declared):
  return _setting(default, Choice(help=help, choices=tuple(choices), **declared))


def choices(default, help, **declared):
  return _setting(default, Choices(help=help, choices=default, **declared))


def switch(default, help, **declared):
  return _setting(default, Switch(help=help, **declared))


def path(default, help, **declared):
  return _setting(default, Path(help=help, **declared))


def paths(default, help, **declared):
  return _setting(default, Paths(help=help, **declared))


def layer_names(default, help, **declared):
  return _setting(default, Names(help=help, **declared))


def declarations(config):
  """The declarations of a config, a class or an instance: dict from name to `Setting`, in the order of the fields."""
  return {field.name: field.metadata["declaration"] for field in dataclasses.fields(config)}


def names(config, scope):
  """The settings of a config that hold so long: a tuple of names, in the order of the fields."""
  return tuple(name for name, declaration in declarations(config).items() if declaration.scope == scope)


def left_open():
  """What settings of a stage are that are left open, where that depends on nothing else: dict from name to value."""
  declared = declarations(TrainConfig).items()
  return {name: declaration.left_open for name, declaration in declared if declaration.left_open is not None}


def groups(config):
  """The settings of a config that are flags, by what they are about: dict from group to names, in order."""
  by_group = {}
  for name, declaration in declarations(config).items():
    if not declaration.positional:
      by_group.setdefault(declaration.group, []).append(name)
  return by_group


@dataclasses.dataclass(frozen=True)
class Rule:
  """A condition on several settings.

  Attributes:
    names: of the settings.
    is_met: whether they go together, of a dict from name to value.
    sentence: what they must be, for the user who gave others.
  """

  names: tuple[str, ...]
  is_met: Callable[[dict[str, Any]], bool]
  sentence: str


def check(config):
  """Raises a `UserError` unless all settings of a config have values that they take, and go together."""
  for field in dataclasses.fields(config):
    declared, value = field.metadata["declaration"], getattr(config, field.name)
    if value != field.default and not declared.positional and not declared.admits(value):
      raise UserError(f"--{field.name} is {value!r}; expected {declared.expected}.")
  for rule in getattr(config, "RULES", ()):
    if not rule.is_met({name: getattr(config, name) for name in rule.names}):
      raise UserError(f"{rule.sentence}.")


def dataset(help, **declared):
  """A field for the data set; left open, it is the one that the chain was trained on."""
  return choice(None, DATASETS, help, **declared)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The settings of one stage."""

  checkpoint_version: int = number(
    0, "Version to train; it stands in <train_dir>_<version>.", whole=True, high=10**6, group=STAGE
  )
  train_dir: str = path(CHAIN, "Directory of a version, without _<version>.", workers_own=True, group=STAGE)
  overwrite: bool = switch(
    False, "Replace the next version though it has training progress; clears its directory.", group=STAGE
  )
  model: str | None = choice(
    None,
    NETWORKS,
    f"Network to start version 0 with: {NETWORKS[0]} by default. Later versions know theirs.",
    scope=FIXED,
    group=STAGE,
  )
  dataset: str | None = dataset(
    f"Data set of a new chain: {DATASETS[0]} by default; synthetic is built in and needs no files. Later versions know "
    "theirs.",
    scope=FIXED,
    group=DATA,
  )
  data_dir: str | None = path(
    None,
    "Directory of CIFAR-10, in any form: cifar-10-batches-bin or -py or one that holds it, a published archive or one "
    "that holds it, or what TensorFlow Datasets prepared; else it gets its download. By default CIFAR10_DATA_DIR from "
    "the environment, else TensorFlow Datasets' own and Keras' cache.",
    scope=MAY_CHANGE,
    workers_own=True,
    group=DATA,
  )
  distortions: str | None = choice(
    None,
    DISTORTIONS,
    "paper: crops, flips, brightness and contrast; crop_flip: the first two. By default paper.",
    scope=FIXED,
    left_open=DISTORTIONS[0],
    group=DATA,
  )
  batch_size: int = number(125, "Images in a step.", whole=True, low=1, high=10**6, scope=FIXED, group=DATA)
  seed: int | None = number(
    None,
    "Seed of initial weights, order of images and distortions. By default one is drawn, and recorded.",
    whole=True,
    high=2**31 - 1,
    scope=FIXED,
    group=DATA,
  )
  l1_penalty: float = number(
    0.005, "Strength of the sparsity of gammas; 0 for fine-tuning.", high=10**6, scope=MAY_CHANGE, group=SPARSITY
  )
  penalty_warm_up_steps: int = number(
    0,
    "Steps over which the penalty rises from 0 to --l1_penalty.",
    whole=True,
    high=2**31 - 1,
    scope=MAY_CHANGE,
    group=SPARSITY,
  )
  uniform_penalties: bool = switch(
    False,
    "Give all gammas the same penalty, the mean of the paper's: a plain L1 penalty, as network slimming has it.",
    scope=FIXED,
    left_open=False,
    group=SPARSITY,
  )
  group_penalties: bool = switch(
    False,
    "Shut the channels that sums and concatenations tie together by group, since they can only go together. The two "
    "built-in networks have no such channels.",
    scope=MAY_CHANGE,
    group=SPARSITY,
  )
  threshold_betas: bool = switch(
    False,
    "Shrink the beta of a channel whose gamma is 0 too, so that the channel is 0 and no other constant.",
    scope=MAY_CHANGE,
    group=SPARSITY,
  )
  target_sparsity: float | None = number(
    None,
    "Double the penalty, from --l1_penalty, every --penalty_doubling_steps, smoothly, and end the stage at the first "
    "console line whose fake sparsity is so much or more. By default the penalty stays as it is.",
    above=True,
    high=0.99,
    scope=MAY_CHANGE,
    group=SPARSITY,
  )
  penalty_doubling_steps: int = number(
    5000, "See --target_sparsity.", whole=True, low=1, high=2**31 - 1, scope=MAY_CHANGE, group=SPARSITY
  )
  max_steps: int = number(
    100000, "Steps of the whole stage.", whole=True, low=1, high=2**31 - 1, scope=MAY_CHANGE, group=OPTIMIZATION
  )
  stop_at_plateau: bool = switch(
    False,
    "End the stage once fake sparsity has plateaued: of the steps since the stage began or --l1_penalty last changed, "
    "it was above 0.01 over the last two fifths, and its mean over the last is less than 0.01 above that over the one "
    "before; each has at least 10 console lines.",
    scope=MAY_CHANGE,
    group=OPTIMIZATION,
  )
  learning_rate: float = number(
    0.1, "Learning rate at its highest.", above=True, high=10**6, scope=MAY_CHANGE, group=OPTIMIZATION
  )
  learning_rate_schedule: str = choice(
    "staircase",
    ("staircase", "cosine"),
    "staircase: a tenth after every 350 epochs; cosine: it falls like a cosine, to 0 at --max_steps.",
    scope=MAY_CHANGE,
    group=OPTIMIZATION,
  )
  warm_up_steps: int = number(
    0,
    "For cosine: steps over which the learning rate rises from 0 before it falls.",
    whole=True,
    high=2**31 - 1,
    scope=MAY_CHANGE,
    group=OPTIMIZATION,
  )
  momentum: float | None = number(
    None,
    "Nesterov momentum of the gradient steps. By default 0: plain steps.",
    high=0.999,
    scope=FIXED,
    left_open=0.0,
    group=OPTIMIZATION,
  )
  weight_decay: float | None = number(
    None,
    f"Weight decay of kernels. By default {', '.join(f'{decay:g} for {name}' for name, decay in WEIGHT_DECAY.items())}"
    ".",
    high=10**6,
    scope=FIXED,
    group=OPTIMIZATION,
  )
  label_smoothing: float | None = number(
    None,
    "Share of each label that is spread evenly over all classes, in the training loss. By default 0.",
    high=0.9,
    scope=FIXED,
    left_open=0.0,
    group=OPTIMIZATION,
  )
  batch_norm_momentum: float | None = number(
    None,
    "Momentum of the moving statistics. By default that of the network that the stage starts from, 0.999 at first.",
    high=1,
    scope=FIXED,
    left_open=0.999,
    group=OPTIMIZATION,
  )
  squeeze_model: bool = switch(True, "At the end, squeeze and write the next version.", scope=MAY_CHANGE, group=SQUEEZE)
  exact_squeeze: bool = switch(
    True,
    "Keep the function of the network exactly, at image borders too; else fold as in the paper, which removes "
    "a channel more in layers whose dead channels have constants other than 0.",
    scope=MAY_CHANGE,
    group=SQUEEZE,
  )
  round_channels_to: int = number(
    1,
    "Squeeze to widths that are multiples of this, where a layer had so many channels: dead ones fill up.",
    whole=True,
    low=1,
    high=1024,
    scope=MAY_CHANGE,
    group=SQUEEZE,
  )
  round_channels: str = choice(
    "up",
    ("up", "nearest"),
    "up: to the next multiple of --round_channels_to, the network computes the same; nearest: where that is less, the "
    "channels with the smallest gammas go too, so it computes something else until it is fine-tuned.",
    scope=MAY_CHANGE,
    group=SQUEEZE,
  )
  recalibration_batches: int = number(
    0,
    "After squeezing, recompute the moving statistics of batch norms on so many batches of distorted training "
    "images; 0 leaves them as training made them, as the paper's own program does.",
    whole=True,
    high=10**6,
    scope=MAY_CHANGE,
    group=SQUEEZE,
  )
  precision: str | None = choice(
    None,
    ("float32", "mixed_bfloat16", "mixed_float16"),
    "What convolutions compute in; variables, batch statistics and the loss stay float32. By default float32.",
    scope=FIXED,
    left_open="float32",
    group=DEVICES,
  )
  use_fp16: bool = switch(
    False, "The half --precision that suits the device: mixed_bfloat16, but mixed_float16 on older GPUs.", group=DEVICES
  )
  distribution_strategy: str = choice(
    "one_device",
    ("one_device", "mirrored", "multi_worker"),
    "one_device: the first GPU, else the CPU; mirrored: all GPUs of this host; multi_worker: the workers that "
    "TF_CONFIG names. Replicas share a batch evenly.",
    scope=MAY_CHANGE,
    group=DEVICES,
  )
  num_replicas: int | None = number(
    None,
    "For mirrored: how many GPUs, or, on a host without one, parts of its CPU. By default all GPUs.",
    whole=True,
    low=1,
    high=1024,
    scope=MAY_CHANGE,
    group=DEVICES,
  )
  sync_batch_norm: bool = switch(
    False,
    "Normalise with the statistics of the whole batch, not with those of each replica's part of it.",
    scope=MAY_CHANGE,
    group=DEVICES,
  )
  jit_compile: bool | None = switch(
    None,
    "Have XLA compile the gradients. By default on a GPU; never with --sync_batch_norm on several replicas.",
    scope=MAY_CHANGE,
    group=DEVICES,
  )
  deterministic_ops: bool = switch(
    False,
    "Use only operations that give the same result each time, for a GPU. On a CPU runs repeat without it; there it "
    "rounds otherwise, and cost 6% of the time in one run.",
    scope=MAY_CHANGE,
    group=DEVICES,
  )
  log_frequency: int = number(
    100, "Steps between console lines.", whole=True, low=1, high=2**31 - 1, scope=MAY_CHANGE, group=RECORDS
  )
  save_interval_secs: float = number(
    600.0, "Seconds between checkpoints.", above=True, high=10**9, scope=MAY_CHANGE, group=RECORDS
  )
  log_device_placement: bool = switch(
    False, "Log which device each operation runs on.", workers_own=True, group=RECORDS
  )

  RULES: ClassVar = (
    Rule(
      ("target_sparsity", "stop_at_plateau", "l1_penalty"),
      lambda given: given["target_sparsity"] is None or (given["l1_penalty"] > 0 and not given["stop_at_plateau"]),
      "--target_sparsity needs an --l1_penalty above 0 to start with, and goes without --stop_at_plateau",
    ),
    Rule(
      ("target_sparsity", "penalty_warm_up_steps"),
      lambda given: given["target_sparsity"] is None or not given["penalty_warm_up_steps"],
      "--target_sparsity raises the penalty by itself, and goes without --penalty_warm_up_steps",
    ),
    Rule(
      ("warm_up_steps", "learning_rate_schedule", "max_steps"),
      lambda given: given["warm_up_steps"] < (given["max_steps"] if given["learning_rate_schedule"] == "cosine" else 1),
      "--warm_up_steps is for --learning_rate_schedule cosine, and less than --max_steps",
    ),
    Rule(
      ("use_fp16", "precision"),
      lambda given: not given["use_fp16"] or given["precision"] is None,
      "--use_fp16 chooses a --precision; pass one of the two",
    ),
    Rule(
      ("num_replicas", "distribution_strategy"),
      lambda given: given["num_replicas"] is None or given["distribution_strategy"] == "mirrored",
      "--num_replicas is for --distribution_strategy mirrored",
    ),
  )


@dataclasses.dataclass(frozen=True)
class OfAVersion:
  """Which network of which version a command takes."""

  checkpoint_version: int | None = number(
    None,
    "Version whose network to take. By default the newest, and a line says which.",
    whole=True,
    high=10**6,
    group=VERSION,
  )
  checkpoint_dir: str = path(
    CHAIN,
    "Directory of a version, without _<version>: cifar10-train's --train_dir. With _<version> it means that version.",
    group=VERSION,
  )
  checkpoint_iter: int = number(
    -1,
    "Step of the training checkpoint to take; 0: the network that the version starts from; -1: the newest.",
    whole=True,
    low=-1,
    high=2**31 - 1,
    group=VERSION,
  )
  published: bool = switch(
    False,
    "Take the trained chain that comes with the package, in which nothing is written or recorded.",
    group=VERSION,
  )

  RULES: ClassVar = (
    Rule(
      ("published", "checkpoint_dir"),
      lambda given: not given["published"] or given["checkpoint_dir"] == CHAIN,
      "--published and --checkpoint_dir are two chains; pass one of them",
    ),
  )


@dataclasses.dataclass(frozen=True)
class EvalConfig(OfAVersion):
  """The settings of an evaluation."""

  model: str | None = choice(
    None, NETWORKS, "The network that the version must hold. By default it is not checked.", group=VERSION
  )
  dataset: str | None = dataset(
    "Data set. By default the one that the chain was trained on; what is recorded on another one does not stand "
    "for it.",
    group=DATA,
  )
  data_dir: str | None = path(None, "Directory of CIFAR-10, as for cifar10-train.", group=DATA)
  eval_data: str = choice(
    "test", ("test", "train_eval"), "Test images, or training images without distortion.", group=DATA
  )
  num_examples: int = number(
    10000, "Images to evaluate, the first ones, each once.", whole=True, low=1, high=10**9, group=DATA
  )
  batch_size: int = number(125, "Images at a time.", whole=True, low=1, high=10**6, group=DATA)
  run_once: bool = switch(True, "Evaluate once; else every --eval_interval_secs.", group=OUTPUT)
  eval_interval_secs: float = number(
    300.0, "Seconds from one evaluation to the next.", above=True, high=10**9, group=OUTPUT
  )
  eval_dir: str | None = path(
    None,
    "Directory of TensorBoard events, one of its own in it for each version. By default eval in the version's; with "
    "--published none are written.",
    group=OUTPUT,
  )


@dataclasses.dataclass(frozen=True)
class ExportConfig(OfAVersion):
  """The settings of an export."""

  formats: tuple[str, ...] = choices(FORMATS, "Formats to write, of these four.", group=OUTPUT)
  input: str = choice(
    "standardized",
    ("standardized", "uint8"),
    "What the exported networks take: images standardised as in training, float32; or images as they are, 0 to 255, "
    "which they standardise themselves.",
    group=OUTPUT,
  )
  softmax: bool = switch(False, "Append a softmax: probabilities come out, not logits.", group=OUTPUT)
  output_dir: str | None = path(
    None,
    "Directory of the files. By default export in the version's directory, with --published ./export.",
    group=OUTPUT,
  )
  dataset: str | None = dataset("Data set to compare on. By default the one that the chain was trained on.", group=DATA)
  data_dir: str | None = path(None, "Directory of CIFAR-10, as for cifar10-train.", group=DATA)


@dataclasses.dataclass(frozen=True)
class PredictConfig(OfAVersion):
  """The settings of predictions, and the image files."""

  images: tuple[str, ...] = paths((), "Image files.", positional=True)
  dataset: str | None = dataset(
    "Data set that names the classes. By default the one that the chain was trained on.", group=DATA
  )
  top: int = number(3, "Classes to print.", whole=True, low=1, high=10, group=OUTPUT)


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """The settings of a report."""

  train_dir: tuple[str, ...] = paths(
    (CHAIN,),
    "Directory of a version, without _<version>; several, with commas between them, are compared.",
  )
  output_dir: str | None = path(
    None,
    "Directory to write to. By default <train_dir>_report, or, of several, the first's with _comparison; with "
    "--published ./published_report.",
  )
  published: bool = switch(False, "Report on the trained chain that comes with the package.")

  RULES: ClassVar = (
    Rule(
      ("published", "train_dir"),
      lambda given: not given["published"] or tuple(given["train_dir"]) == (CHAIN,),
      "--published and --train_dir are two chains; pass one of them",
    ),
  )


@dataclasses.dataclass(frozen=True)
class SqueezeConfig:
  """How a Keras file is made smaller, and the two files."""

  files: tuple[str, ...] = paths((), "The model, and where to write the smaller one.", positional=True)
  multiply_adds: float | None = number(
    None, "Budget: a share of the model's multiply-adds, or how many, from 2 up.", above=True, high=10**15, group=BUDGET
  )
  parameters: float | None = number(
    None, "Budget: a share of the model's parameters, or how many, from 2 up.", above=True, high=10**15, group=BUDGET
  )
  importance: str | None = choice(
    None,
    ("gamma", "l1", "l2", "random"),
    "With a budget: which channels matter least. gamma: by the scales of batch norms; l1, l2: by the norms of kernels; "
    "random. By default l2.",
    group=BUDGET,
  )
  multiple_of: int = number(
    1, "Widths of layers that lose channels are multiples of this.", whole=True, low=1, high=1024, group=OUTPUT
  )
  exact: bool = switch(
    True,
    "Without a budget: keep the function of the model exactly, at image borders too; else a few more channels go.",
    group=OUTPUT,
  )
  keep: tuple[str, ...] = layer_names((), "Layers that lose no channels.", group=OUTPUT)
  plan: bool = switch(False, "Only print what would go; write nothing.", group=OUTPUT)
  overwrite: bool = switch(False, "Replace the file to write, if it is there.", group=OUTPUT)

  RULES: ClassVar = (
    Rule(
      ("multiply_adds", "parameters"),
      lambda given: given["multiply_adds"] is None or given["parameters"] is None,
      "--multiply_adds and --parameters are two budgets; pass one of them",
    ),
    Rule(
      ("importance", "multiply_adds", "parameters"),
      lambda given: given["importance"] is None or given["multiply_adds"] or given["parameters"],
      "--importance is for a budget: pass --multiply_adds or --parameters too",
    ),
    Rule(
      ("exact", "multiply_adds", "parameters"),
      lambda given: given["exact"] or not (given["multiply_adds"] or given["parameters"]),
      "--noexact goes without a budget, which changes the function anyway",
    ),
    Rule(
      ("plan", "overwrite"),
      lambda given: not (given["plan"] and given["overwrite"]),
      "--plan writes nothing, and goes without --overwrite",
    ),
  )
