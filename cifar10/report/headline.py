"""What a chain comes to: a sentence, the figures before and after, and what was trained with what."""

import dataclasses
import datetime

from cifar10.report import words
from cifar10.version.evaluations import number


@dataclasses.dataclass
class Figure:
  """A figure before and after ("" where there is but one), and how it changed, as texts."""

  label: str
  before: str
  after: str
  change: str


def ends(chain):
  """The first and the last version that was evaluated, or, where none was, of known size; None where there is none."""
  evaluated = [version for version in chain.versions if version.evaluation]
  known = evaluated or [version for version in chain.versions if version.parameters is not None]
  return (known[0], known[-1]) if known else None


def sentence(chain):
  """The outcome of a chain in a sentence."""
  if not ends(chain):
    return "No version was evaluated, and the size of none is known."
  first, last = ends(chain)
  return f"{_size(first, last)}; {_precision(first, last)}."


def compared(chains):
  """Which of several chains is the smallest and, where all were evaluated on like images, the most precise."""
  lasts = [(chain.name, last_of(chain)) for chain in chains]
  precisions = {name: version.evaluation["precision"] for name, version in lasts if version.evaluation}
  sizes = {name: version.parameters for name, version in lasts if version.parameters is not None}
  like = len({images(version) for _, version in lasts if version.evaluation}) == 1
  parts = []
  if like and len(set(precisions.values())) > 1:
    name = max(precisions, key=precisions.get)
    parts.append(f"{name} has the highest precision, {words.fixed(precisions[name])}")
  if len(set(sizes.values())) > 1:
    name = min(sizes, key=sizes.get)
    parts.append(f"{name} has the fewest parameters, {words.count(sizes[name])}")
  return f"{'; '.join(parts)}." if parts else "None of them is known to be better than another."


def last_of(chain):
  """The version that a chain comes to: the last of `ends`, else its last."""
  return (ends(chain) or [chain.versions[-1]])[-1]


def comparison(chain):
  """Which versions the sentence compares, a sentence; "" where it tells of one alone."""
  first, last = ends(chain) or (None, None)
  return f"{_named(last)} against {_named(first, 'version')}." if first is not last else ""


def figures(chain):
  """The `Figure`s of the first and the last version."""
  if not ends(chain):
    return []
  first, last = ends(chain)
  (before, after), several = (_figures(version) for version in (first, last)), first is not last
  formats = (words.count, words.short, words.fixed, words.fixed)
  changes = (words.relative, words.relative, words.difference, words.difference)
  return [
    Figure(label, show(before[label]) * several, show(after[label]), change(before[label], after[label]) * several)
    for label, show, change in zip(before, formats, changes)
    if after[label] is not None
  ]


def facts(chain):
  """What was trained on what, how long, when it was evaluated and with which packages: pairs of a name and a text."""
  stages = [version.stage for version in chain.versions if version.stage]
  minutes = sum(number(stage.progress.seconds) or 0 for stage in stages) / 60
  steps = sum(stage.progress.step for stage in stages)
  packages = {f"{name} {version}" for stage in stages for name, version in stage.packages.items()}
  known = {
    "network": ", ".join(dict.fromkeys(stage.flags.model for stage in stages)),
    "data set": ", ".join(dict.fromkeys(stage.flags.dataset for stage in stages)),
    "trained": f"{steps:,} steps in {minutes:,.1f} minutes" if stages else "",
    "evaluated": evaluated_on(chain),
    "packages": ", ".join(sorted(packages)),
  }
  return [(name, text) for name, text in known.items() if text]


def evaluated_on(chain):
  """The day of the newest evaluation, as it is recorded; "" without one."""
  return max((_day(version.evaluation.get("time")) for version in chain.versions if version.evaluation), default="")


def _day(time):
  try:
    return f"{datetime.datetime.fromisoformat(time):%Y-%m-%d}"
  except (TypeError, ValueError):
    return ""


def _size(first, last):
  pairs = [
    (first.parameters, last.parameters, "parameters"),
    (first.multiply_adds, last.multiply_adds, "multiply-adds"),
  ]
  known = [pair for pair in pairs if pair[0] and pair[1] is not None]
  if not known:
    return "Size unknown"
  if all(before == after for before, after, _ in known):
    size = words.joined([f"{words.short(count)} {what}" for _, count, what in known])
    return size if first is last else f"Nothing removed so far of {size}"
  text = words.joined([words.fewer(*pair) for pair in known])
  return text[0].upper() + text[1:]


def _precision(first, last):
  if not last.evaluation:
    return "precision unknown, since no version was evaluated"
  if first is last or (images(first), first.evaluation["precision"]) == (images(last), last.evaluation["precision"]):
    return f"precision {words.fixed(last.evaluation['precision'])} on {images(last)}"
  before, after = (words.fixed(version.evaluation["precision"]) for version in (first, last))
  if images(first) == images(last):
    return f"precision from {before} to {after} on {images(last)}"
  return f"precision from {before} on {images(first)} to {after} on {images(last)}"


def images(version):
  """Which images a version was evaluated on, in words."""
  dataset = version.evaluation.get("dataset") or version.version.dataset()
  examples = version.evaluation["examples"]
  return f"{'' if examples is None else f'{examples:,} '}test images{f' of {dataset}' if dataset else ''}"


def _figures(version):
  evaluation = version.evaluation or {}
  return {
    "parameters": version.parameters,
    "multiply-adds": version.multiply_adds,
    "precision @ 1": evaluation.get("precision"),
    "test loss": evaluation.get("loss"),
  }


def _named(version, word="Version"):
  return f"{word} {version.number}" + f" ({version.name})" * bool(version.name)
