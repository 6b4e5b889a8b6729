"""What `stage.json` holds: the settings of a stage, how far it is, and how it ended."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math

from cifar10.config import FIXED, MAY_CHANGE, TrainConfig, declarations, left_open, names
from cifar10.errors import UserError
from cifar10.version import directory_of
from cifar10.version.files import MOST_BYTES, atomic_file, read

STAGE_FILE = "stage.json"
STAGE_BACKUP = "stage.json.old"
LARGEST_COUNT = 2**31 - 1
PACKAGES = ("keras", "numpy", "tensorflow")


@dataclasses.dataclass
class Progress:
  """How many steps are done, and in how many seconds."""

  step: int = 0
  seconds: float = 0.0


@dataclasses.dataclass
class SelfCheck:
  """How the squeezed network differed from the full one on so many training images; of how many predictions agreed."""

  images: int
  largest_difference: float
  agreeing: int


@dataclasses.dataclass
class Finished:
  """How a stage ended.

  Attributes:
    step: the step at which it was squeezed.
    exact, multiple_of: arguments of `pruning.squeeze`; a network with channels pruned is not exact.
    recalibration_batches: batches on which moving statistics were computed anew.
    self_check: `SelfCheck`.
    report: `pruning.SqueezeReport` as a dict.
    rounding: "up" or "nearest", how widths became multiples.
  """

  step: int
  exact: bool = True
  multiple_of: int = 1
  recalibration_batches: int = 0
  self_check: SelfCheck | None = None
  report: dict | None = None
  rounding: str = "up"


@dataclasses.dataclass
class Stage:
  """What is known of a stage.

  Attributes:
    flags: its settings, those filled in that were left open.
    penalties: path of a gamma to its penalty.
    progress: `Progress`.
    finished: `Finished`, once its network is squeezed; a stage that goes on is no longer finished.
    packages: versions by name.
  """

  flags: TrainConfig
  penalties: dict[str, float] = dataclasses.field(default_factory=dict)
  progress: Progress = dataclasses.field(default_factory=Progress)
  finished: Finished | None = None
  packages: dict[str, str] = dataclasses.field(default_factory=dict)

  def is_squeezed(self):
    """Whether its network, as it now is, was squeezed into the next version."""
    return self.finished is not None and self.finished.step == self.progress.step

  def fixed(self):
    """The settings that stay what they are: dict from name to value."""
    return {name: getattr(self.flags, name) for name in names(TrainConfig, FIXED)}

  def changes(self, config):
    """Sentences about the settings that another run changes."""
    pairs = {name: (getattr(self.flags, name), getattr(config, name)) for name in names(TrainConfig, MAY_CHANGE)}
    return [f"--{name} was {before} and is now {now}." for name, (before, now) in pairs.items() if before != now]


def read_stage(directory):
  """Reads `stage.json`, or, where that is damaged, what it was before.

  Args:
    directory: of the version, a `pathlib.Path`.

  Returns:
    The `Stage`, None where there is none; and a sentence about damage, None without.

  Raises:
    UserError: there is none that can be read.
  """
  path, backup = directory / STAGE_FILE, directory / STAGE_BACKUP
  if not path.exists() and not backup.exists():
    return None, None
  stage, fault = _read(path)
  if stage:
    return stage, None
  stage, _ = _read(backup)
  if not stage:
    raise UserError(f"{path} is damaged: {fault}; restore it, or remove {directory} to start anew.")
  return stage, f"{path} is damaged; {backup} from before it is used."


def dataset_of(train_dir, number):
  """The data set that version `number` of a chain was trained on, or, before that, the one before it.

  None if that is unknown; neither directory needs to be there.
  """
  for each in (number, number - 1):
    directory = directory_of(train_dir, each)
    stage = _read(directory / STAGE_FILE)[0] or _read(directory / STAGE_BACKUP)[0]
    if stage:
      return stage.flags.dataset
  return None


def write_stage(directory, stage):
  """Writes `stage.json`, with the versions of the packages and a checksum; keeps what it was as `stage.json.old`."""
  stage.packages = {name: importlib.metadata.version(name) for name in PACKAGES}
  record = {"checkpoint_version": stage.flags.checkpoint_version, **dataclasses.asdict(stage)}
  text = json.dumps({**record, "sha256": _checksum(record)}, indent=1)
  path = directory / STAGE_FILE
  before, _ = _read(path)
  if before:
    with atomic_file(directory / STAGE_BACKUP) as file:
      file.write(read(path, MOST_BYTES))
  with atomic_file(path) as file:
    file.write(text.encode())


def _read(path):
  """The stage in a file, or None and what is wrong."""
  try:
    record = json.loads(read(path, MOST_BYTES))
    if record.pop("sha256") != _checksum(record):
      return None, "it does not match its checksum"
  except UserError as error:
    return None, str(error)
  except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
    return None, "it does not match its checksum"
  try:
    return _stage(record), None
  except (ValueError, KeyError, AttributeError, TypeError) as error:
    return None, f"it lacks what a stage has, or has something else in its place ({error})"


def _stage(record):
  return Stage(
    flags=_flags(record["flags"]),
    penalties=_by_name(record, "penalties", _is_number),
    progress=_progress(record["progress"]),
    finished=_finished(record.get("finished")),
    packages=_by_name(record, "packages", lambda value: isinstance(value, str)),
  )


def _flags(recorded):
  """The settings of a record; one that may change and that is none (any more) counts as left at its default."""
  recorded, known = {**left_open(), **recorded}, {}
  for name, declared in declarations(TrainConfig).items():
    if declared.scope == FIXED and not declared.admits(recorded[name]):
      raise ValueError(f"{name} is {recorded[name]!r}; expected {declared.expected}")
    if name in recorded and declared.admits(recorded[name]):
      known[name] = recorded[name]
  return TrainConfig(**known)


def _progress(recorded):
  step, seconds = recorded["step"], recorded["seconds"]
  if not _is_count(step) or not _is_number(seconds):
    raise ValueError(f"progress is {recorded!r}; expected a number of steps and of seconds")
  return Progress(step, seconds)


def _finished(recorded):
  if recorded is None:
    return None
  fields = {field.name: recorded[field.name] for field in dataclasses.fields(Finished) if field.name in recorded}
  finished = Finished(**fields)
  kinds = {
    "step": (_is_count, "a number of steps"),
    "exact": (lambda value: isinstance(value, bool), "true or false"),
    "multiple_of": (_is_count, "a number of channels"),
    "rounding": (lambda value: value in ("up", "nearest"), "up or nearest"),
    "recalibration_batches": (_is_count, "a number of batches"),
    "report": (lambda value: value is None or isinstance(value, dict), "the report of a squeeze"),
  }
  for name, (is_of_kind, expected) in kinds.items():
    if not is_of_kind(getattr(finished, name)):
      raise ValueError(f"finished.{name} is {getattr(finished, name)!r}; expected {expected}")
  if finished.self_check is not None:
    check = finished.self_check
    finished.self_check = SelfCheck(*(check[field.name] for field in dataclasses.fields(SelfCheck)))
  return finished


def _by_name(record, name, is_value):
  """A dict of a record from names to values of a kind; {} where the record has none."""
  values = record.get(name) or {}
  if not isinstance(values, dict) or not all(map(is_value, values.values())):
    raise ValueError(f"{name} are {values!r}")
  return values


def _is_count(value):
  return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


def _is_number(value):
  return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _checksum(record):
  return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
