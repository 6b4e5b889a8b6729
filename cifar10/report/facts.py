"""The facts of a chain, read from its version directories; what is missing or damaged becomes a sentence."""

import dataclasses
import itertools
import pathlib
import re

import numpy as np

from cifar10.errors import UserError, first_line
from cifar10.report.stages import name_of
from cifar10.version.directory import Version
from cifar10.version.evaluations import EVALUATIONS_FILE, is_on_own_test_images, newest_of, number
from cifar10.version.files import is_cut
from cifar10.version.metrics import GAMMAS_FILE, METRICS_FILE
from cifar10.version.network import costs, members
from cifar10.version.predictions import Predictions
from cifar10.version.stage import STAGE_FILE, Stage


@dataclasses.dataclass
class Facts:
  """What the directory of one checkpoint version holds.

  Attributes:
    version: the `Version`.
    name: what to call it after what made it; "" if that is unknown.
    stage: what is recorded of the stage that starts from it, a `Stage`; None if unknown.
    squeeze: the report of the squeeze that ended the stage, a dict; None before.
    rows: of `metrics.csv`, dicts.
    gammas: step to path to gammas, (channels,) float32.
    evaluation: the record of its newest evaluation on test images, a dict; None without one.
    evaluations: the records of all evaluations on test images, of training checkpoints too, dicts.
    predictions: some `Predictions` of `evaluation`; None without.
    exports: dicts, as `export.json` lists them.
    parameters: how many the network has; None if unknown.
    multiply_adds: of the network for one image; None if unknown.
    bytes: size of `model.keras`; None without one.
    missing: sentences that say what is not there or cannot be read.
  """

  version: Version
  name: str = ""
  stage: Stage | None = None
  squeeze: dict | None = None
  rows: list = dataclasses.field(default_factory=list)
  gammas: dict = dataclasses.field(default_factory=dict)
  evaluation: dict | None = None
  evaluations: list = dataclasses.field(default_factory=list)
  predictions: Predictions | None = None
  exports: list = dataclasses.field(default_factory=list)
  parameters: int | None = None
  multiply_adds: int | None = None
  bytes: int | None = None
  missing: list = dataclasses.field(default_factory=list)

  @property
  def number(self):
    return self.version.number


@dataclasses.dataclass
class Chain:
  """The `Facts` of the versions `<train_dir>_<number>`, ascending, and sentences about what is missing between them."""

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
  versions = [_read_version(Version(train_dir, number), is_last=number == numbers[-1]) for number in numbers]
  by_number = {facts.number: facts for facts in versions}
  for facts in versions:
    before = by_number.get(facts.number - 1, Facts(None))
    facts.name = name_of(facts.number, before.stage, before.squeeze)
    _set_costs(facts, before.squeeze)
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


def _read_version(version, is_last):
  facts = Facts(version)
  readers = (_read_stage, _read_rows, _read_gammas, _read_evaluation, _read_predictions, _read_exports, _check_network)
  for read in readers:
    try:
      read(facts)
    except (UserError, OSError) as error:
      facts.missing.append(_sentence(str(error), version))
  if not facts.stage and not facts.missing and (facts.rows or not is_last):
    facts.missing.append(f"{version.path / STAGE_FILE} is not there: how it was trained is unknown.")
  return facts


def _read_stage(facts):
  facts.stage, damage = facts.version.read_stage()
  if damage:
    facts.missing.append(damage)
  if not facts.stage:
    return
  if not facts.stage.finished:
    facts.missing.append(f"The stage stands at step {facts.stage.progress.step} and is not squeezed.")
    return
  try:
    facts.squeeze = _checked_squeeze(facts.stage.finished.report)
  except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
    raise UserError(f"the squeeze's report in {facts.version.path / STAGE_FILE} has other fields") from error


def _checked_squeeze(report):
  names = ("parameters_before", "parameters_after", "multiply_adds_before", "multiply_adds_after")
  layers = {name: (int(layer["channels"]), int(layer["removed"])) for name, layer in report["layers"].items()}
  if not all(0 <= removed <= channels and 0 < channels < 10**6 for channels, removed in layers.values()):
    raise ValueError("channels")
  "".join(layers).encode()  # Half of a surrogate pair, which JSON may hold, is no text.
  return {**{name: number(report[name]) for name in names}, "layers": layers}


def _read_rows(facts):
  path = facts.version.path / METRICS_FILE
  if path.exists() and is_cut(path):
    facts.missing.append(f"The last line of {path} is cut short.")
  facts.rows = [
    {name: value if name == "step" or number(value) is not None else np.nan for name, value in row.items()}
    for row in facts.version.rows()
  ]
  if facts.stage and not facts.rows:
    facts.missing.append(f"{path} has no rows: the course of the training is unknown.")


def _read_gammas(facts):
  path, gammas = facts.version.path / GAMMAS_FILE, facts.version.gammas()
  if not all((abs(array) < 1e18).all() for at in gammas.values() for array in at.values()):
    raise UserError(f"{path} holds gammas that are not finite")
  facts.gammas = gammas
  if facts.stage and not gammas:
    facts.missing.append(f"{path} is not there: how the gammas moved is unknown.")


def _read_evaluation(facts):
  path = facts.version.path / EVALUATIONS_FILE
  records, unreadable = facts.version.evaluations()
  if unreadable:
    facts.missing.append(f"{unreadable} of {len(records) + unreadable} lines of {path} cannot be read.")
  dataset, tests = facts.version.dataset(), [record for record in records if record["eval_data"] == "test"]
  facts.evaluations = [record for record in records if is_on_own_test_images(record, dataset)]
  facts.evaluation = newest_of(records, facts.number, dataset)
  if facts.evaluation:
    return
  if tests and all(record.get("dataset", dataset) != dataset for record in tests) and dataset:
    facts.missing.append(f"{path} tells of other data than {dataset}, on which it was trained; cifar10-eval makes one.")
  elif tests:
    facts.missing.append(
      f"{path} tells of training checkpoints alone; cifar10-eval --checkpoint_iter 0 evaluates what the version "
      "starts from."
    )
  else:
    facts.missing.append(f"There is no evaluation on test images in {facts.version}; cifar10-eval makes one.")


def _read_predictions(facts):
  predictions = facts.version.predictions()
  if predictions and facts.evaluation and predictions.evaluation == facts.evaluation.get("time"):
    facts.predictions = predictions


def _read_exports(facts):
  facts.exports = facts.version.exports()


def _check_network(facts):
  path = facts.version.model_path
  if not path.exists():
    if facts.number > 0:
      facts.missing.append(f"{path} is not there.")
    return
  facts.bytes = path.stat().st_size
  try:
    with members(path) as file:
      damaged = file.testzip()
  except Exception as error:  # Whatever zipfile and zlib raise for a damaged file.
    raise UserError(f"{path} is damaged ({first_line(error)})") from error
  if damaged:
    raise UserError(f"{path} is damaged ({damaged})")


def _set_costs(facts, squeeze_before):
  """Parameters and multiply-adds, from records where they have them, else read off the file of the network."""
  known = [
    _costs(facts.evaluation, ""),
    _costs(squeeze_before, "_after"),
    _costs(facts.squeeze, "_before"),
  ]
  found = next((pair for pair in known if None not in pair), None) or costs(facts.version.path)
  facts.parameters, facts.multiply_adds = found
  if None in found and facts.version.has_network():
    facts.missing.append(
      f"What {facts.version.model_path} computes is not recorded, nor plain from it; cifar10-eval records it."
    )


def _costs(record, suffix):
  return tuple((record or {}).get(name + suffix) for name in ("parameters", "multiply_adds"))


def _sentence(text, version):
  """A text as a sentence; a path in a version's directory that it begins with stays as it is."""
  start = text[:1] if text.startswith(str(version)) else text[:1].upper()
  return start + text[1:].rstrip(".") + "."
