"""The facts of a chain, read from its version directories; what is missing or damaged becomes a sentence."""

import contextlib
import dataclasses
import io
import itertools
import json
import math
import pathlib
import re
import zipfile

import numpy as np

from cifar10 import checkpoints
from cifar10.errors import UserError, first_line
from cifar10.evaluate import EVALUATIONS_FILE
from cifar10.export import EXPORT_FILE
from cifar10.metrics import read_gammas, read_metrics
from cifar10.pruning import multiply_adds


@dataclasses.dataclass
class Version:
  """What the directory of one checkpoint version holds.

  Attributes:
    number: of the version.
    stage: flags, progress and so on of the stage that starts from it, as `stage.json` has them; None if unknown.
    squeeze: the report of the squeeze that ended the stage, a dict; None before.
    rows: of `metrics.csv`, dicts.
    gammas: step to path to gammas, (channels,) float32.
    evaluation: the record of its newest evaluation on test images, a dict; None without one.
    exports: dicts, as `export.json` lists them.
    parameters: how many the network has; None if unknown.
    multiply_adds: of the network for one image; None if unknown.
    bytes: size of `model.keras`; None without one.
    missing: sentences that say what is not there or cannot be read.
  """

  number: int
  stage: dict | None = None
  squeeze: dict | None = None
  rows: list = dataclasses.field(default_factory=list)
  gammas: dict = dataclasses.field(default_factory=dict)
  evaluation: dict | None = None
  exports: list = dataclasses.field(default_factory=list)
  parameters: int | None = None
  multiply_adds: int | None = None
  bytes: int | None = None
  missing: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Chain:
  """The versions `<train_dir>_<number>`, ascending, and sentences about what is missing between them."""

  name: str
  versions: list
  missing: list


def read_chain(train_dir, name):
  """Reads the version directories of a chain.

  Args:
    train_dir: their path, without `_<version>`.
    name: what to call the chain.

  Returns:
    A `Chain`.

  Raises:
    UserError: there is no version directory.
  """
  numbers = _version_numbers(train_dir)
  if not numbers:
    raise UserError(
      f"there is no directory {train_dir}_0 nor of another version; give a --train_dir that cifar10-train was given."
    )
  directories = [checkpoints.version_dir(train_dir, number) for number in numbers]
  versions = [
    _read_version(number, directory, number == numbers[-1]) for number, directory in zip(numbers, directories)
  ]
  before = {version.number + 1: version.squeeze for version in versions}
  for version, directory in zip(versions, directories):
    _set_costs(version, before.get(version.number), directory)
  return Chain(name, versions, [_gap(low, high) for low, high in itertools.pairwise(numbers) if high > low + 1])


def _version_numbers(train_dir):
  start = pathlib.Path(f"{train_dir}_")
  if not start.parent.is_dir():
    return []
  names = (path.name for path in start.parent.iterdir() if path.is_dir())
  found = (re.fullmatch(re.escape(start.name) + r"(0|[1-9][0-9]{0,6})", name) for name in names)
  return sorted(int(match[1]) for match in found if match)


def _gap(low, high):
  return f"Version {low + 1} is missing." if high == low + 2 else f"Versions {low + 1} to {high - 1} are missing."


def _read_version(number, directory, is_last):
  version = Version(number)
  readers = (_read_stage, _read_rows, _read_gammas, _read_evaluation, _read_exports, _check_network)
  for read in readers:
    try:
      read(version, directory)
    except (UserError, OSError) as error:
      version.missing.append(_sentence(str(error), directory))
  if not version.stage and not version.missing and (version.rows or not is_last):
    version.missing.append(f"{directory / checkpoints.STAGE_FILE} is not there: how it was trained is unknown.")
  return version


def _read_stage(version, directory):
  said = io.StringIO()
  with contextlib.redirect_stdout(said):
    version.stage = checkpoints.read_stage(directory)
  version.missing += said.getvalue().splitlines()
  if not version.stage:
    return
  if not version.stage["finished"]:
    version.missing.append(f"The stage stands at step {version.stage['progress']['step']} and is not squeezed.")
    return
  try:
    version.squeeze = _checked_squeeze(version.stage["finished"]["report"])
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise UserError(f"the squeeze's report in {directory / checkpoints.STAGE_FILE} has other fields") from error


def _checked_squeeze(report):
  names = ("parameters_before", "parameters_after", "multiply_adds_before", "multiply_adds_after")
  layers = {name: (int(layer["channels"]), int(layer["removed"])) for name, layer in report["layers"].items()}
  if not all(0 <= removed <= channels and channels > 0 for channels, removed in layers.values()):
    raise ValueError("channels")
  return {**{name: number(report[name]) for name in names}, "layers": layers}


def _read_rows(version, directory):
  path = directory / "metrics.csv"
  if path.exists() and not path.read_bytes().endswith(b"\n"):
    version.missing.append(f"The last line of {path} is cut short.")
  version.rows = read_metrics(directory)
  if version.stage and not version.rows:
    version.missing.append(f"{path} has no rows: the course of the training is unknown.")


def _read_gammas(version, directory):
  gammas = read_gammas(directory)
  arrays = [array for at in gammas.values() for array in at.values()]
  if not all(array.ndim == 1 and array.size and array.dtype.kind == "f" for array in arrays):
    raise UserError(f"{directory / 'gammas.npz'} holds something else than gammas")
  if not all(np.isfinite(array).all() for array in arrays):
    raise UserError(f"{directory / 'gammas.npz'} holds gammas that are not finite")
  version.gammas = gammas
  if version.stage and not gammas:
    version.missing.append(f"{directory / 'gammas.npz'} is not there: how the gammas moved is unknown.")


def _read_evaluation(version, directory):
  path = directory / EVALUATIONS_FILE
  lines = path.read_bytes().splitlines() if path.exists() else []
  records = [_evaluation(line) for line in lines if line.strip()]
  if None in records:
    version.missing.append(f"{records.count(None)} of {len(records)} lines of {path} cannot be read.")
  tests = [record for record in records if record and record["eval_data"] == "test"]
  if not tests:
    version.missing.append(f"There is no evaluation on test images in {directory}; cifar10-eval makes one.")
    return
  # What stage V-1 left to version V counts; version 0 got nothing, so what it became.
  usual = [record for record in tests if (record["checkpoint_iter"] > 0) == (version.number == 0)]
  if not usual:
    version.missing.append(
      f"{path} tells of training checkpoints alone; cifar10-eval --checkpoint_iter 0 evaluates what the version "
      "starts from."
    )
    return
  version.evaluation = usual[-1]


def _evaluation(line):
  """One line of `evaluations.jsonl` as a dict; None if it was cut, or is something else."""
  try:
    record = json.loads(line)
    numbers = {name: number(record[name]) for name in ("precision", "loss", "checkpoint_iter", "examples")}
    costs = {name: number(record.get(name)) for name in ("parameters", "multiply_adds")}
    return None if None in numbers.values() else {**record, **numbers, **costs, "eval_data": record["eval_data"]}
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return None


def _read_exports(version, directory):
  path = directory / EXPORT_FILE
  if not path.exists():
    return
  try:
    exports = json.loads(path.read_bytes())["exports"]
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise UserError(f"{path} cannot be read ({first_line(error)})") from error
  if not isinstance(exports, list) or not all(isinstance(export, dict) for export in exports):
    raise UserError(f"{path} holds something else than a list of exports")
  version.exports = exports


def _check_network(version, directory):
  path = directory / checkpoints.MODEL_FILE
  if not path.exists():
    if version.number > 0:
      version.missing.append(f"{path} is not there.")
    return
  version.bytes = path.stat().st_size
  try:
    with zipfile.ZipFile(path) as file:
      damaged = file.testzip()
  except Exception as error:  # Whatever zipfile and zlib raise for a damaged file.
    raise UserError(f"{path} is damaged ({first_line(error)})") from error
  if damaged:
    raise UserError(f"{path} is damaged ({damaged})")


def _set_costs(version, squeeze_before, directory):
  """Parameters and multiply-adds, from records where they have them: loading a network takes seconds."""
  known = [
    _costs(version.evaluation, ""),
    _costs(squeeze_before, "_after"),
    _costs(version.squeeze, "_before"),
  ]
  costs = next((pair for pair in known if None not in pair), None)
  if not costs and (directory / checkpoints.MODEL_FILE).exists():
    try:
      network = checkpoints.load_network(directory)
      costs = network.count_params(), multiply_adds(network)
    except UserError as error:
      version.missing.append(_sentence(str(error), directory))
  version.parameters, version.multiply_adds = costs or (None, None)


def _costs(record, suffix):
  return tuple((record or {}).get(name + suffix) for name in ("parameters", "multiply_adds"))


def number(value):
  """`value` if it is a finite number of a size that can be drawn, else None."""
  usable = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18
  return value if usable and math.isfinite(value) else None


def _sentence(text, directory):
  """A text as a sentence; a path in `directory` that it begins with stays as it is."""
  start = text[:1] if text.startswith(str(directory)) else text[:1].upper()
  return start + text[1:].rstrip(".") + "."
