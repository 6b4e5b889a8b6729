"""The tables of the page: captions, headers and cells, as texts."""

import dataclasses
from typing import NamedTuple

from cifar10.report import classes, headline, words
from cifar10.version.evaluations import number


class Cell(NamedTuple):
  """What stands in a cell, beside it how that differs from the version before, and whether it is the best."""

  text: str
  change: str = ""
  best: bool = False


@dataclasses.dataclass
class Table:
  """A table; of its columns the first `texts` hold text, the others figures, and the first names the row."""

  caption: str
  header: list[str]
  rows: list[list[Cell]]
  texts: int = 1


def chains(all_chains):
  """A row for each chain: its last version, and of each figure the best; of precision and loss on like images alone."""
  lasts = [headline.last_of(chain) for chain in all_chains]
  images = {headline.images(version) for version in lasts if version.evaluation}
  figures = [_figures(version) for version in lasts]
  best = {"parameters": min, "multiply-adds": min}
  best |= {"precision @ 1": max, "test loss": min} if len(images) == 1 else {}
  best = {name: _best(choose, [row[name][0] for row in figures]) for name, choose in best.items()}
  rows = [
    [Cell(chain.name), Cell(_name(version)), Cell(_images(version))]
    + [Cell(show(value), best=value is not None and value == best.get(name)) for name, (value, show) in row.items()]
    for chain, version, row in zip(all_chains, lasts, figures)
  ]
  header = ["chain", "version", "evaluated on", *figures[0]]
  note = " Precisions are on different images, so that none is marked as the best." * (len(images) > 1)
  return Table(f"The last version of each chain that was evaluated.{note}", header, rows, texts=3)


def versions(all_chains):
  """A row for each version of each chain."""
  several = len(all_chains) > 1
  header = ["chain"] * several + ["version"]
  header += ["parameters", "multiply-adds", "precision @ 1", "test loss", "images", "model.keras", "latency"]
  rows = [[Cell(chain.name)] * several + row for chain in all_chains for row in _versions(chain)]
  caption = "Each version, and how it differs from the one before. Precision and loss are on test images."
  return Table(caption, header, rows, 1 + several)


def _versions(chain):
  rows, before = [], {}
  for version in chain.versions:
    figures, changes = _figures(version), (words.relative, words.relative, words.difference, words.difference)
    cells = [
      Cell(show(value), change(before[name][0], value) if before else "")
      for (name, (value, show)), change in zip(figures.items(), changes)
    ]
    examples = words.count((version.evaluation or {}).get("examples"))
    others = [examples, words.size(version.bytes), _latency(version.exports)]
    rows.append([Cell(_name(version)), *cells, *map(Cell, others)])
    before = figures
  return rows


def _figures(version):
  evaluation = version.evaluation or {}
  return {
    "parameters": (version.parameters, words.count),
    "multiply-adds": (version.multiply_adds, words.count),
    "precision @ 1": (evaluation.get("precision"), words.fixed),
    "test loss": (evaluation.get("loss"), words.fixed),
  }


def _name(version):
  return f"{version.number} {version.name}".strip()


def _images(version):
  return headline.images(version) if version.evaluation else "not evaluated"


def _best(choose, values):
  """The best of several values that are not all the same, else None."""
  known = [value for value in values if value is not None]
  return choose(known) if len(set(known)) > 1 else None


def stages(chain):
  """A row for each stage that is recorded."""
  header = ["stage", "model", "data", "steps", "l1 penalty", "learning rate", "batch", "seed", "minutes", "squeezed to"]
  rows = [list(map(Cell, _stage(version))) for version in chain.versions if version.stage]
  return Table("How each stage was trained, and what its squeeze left.", header, rows, texts=3)


def _stage(version):
  flags, progress = version.stage.flags, version.stage.progress
  seconds = number(progress.seconds)
  return [
    str(version.number),
    flags.model,
    flags.dataset,
    words.count(progress.step),
    str(flags.l1_penalty),
    str(flags.learning_rate),
    str(flags.batch_size),
    str(flags.seed),
    words.UNKNOWN if seconds is None else f"{seconds / 60:.1f}",
    f"{words.count(version.squeeze['parameters_after'])} parameters" if version.squeeze else words.UNKNOWN,
  ]


def exports(chain):
  """A row for each file of the newest export of each version."""
  header = ["version", "format", "file", "size", "largest difference", "agreement", "precision @ 1", "latency"]
  rows = [
    list(map(Cell, [str(version.number), *_export(export)])) for version in chain.versions for export in version.exports
  ]
  return Table("What was exported, each file held against the Keras model.", header, rows, texts=3)


def _export(export):
  difference = number(export.get("largest_difference"))
  return [
    str(export.get("format") or words.UNKNOWN),
    str(export.get("path") or words.UNKNOWN),
    words.size(export.get("bytes")),
    words.UNKNOWN if difference is None else f"{difference:.1e}",
    words.fixed(export.get("agreement")),
    words.fixed(export.get("precision")),
    words.milliseconds(export.get("latency_ms")),
  ]


def _latency(exported):
  known = [(number(export.get("latency_ms")), str(export.get("format"))) for export in exported]
  known = [pair for pair in known if pair[0] is not None]
  return f"{words.milliseconds(min(known)[0])} ({min(known)[1]})" if known else words.UNKNOWN


def layer_widths(widths):
  """A row for each `layers.Width`."""
  rows = [
    [Cell(name), Cell(words.count(before)), Cell(words.count(after)), Cell(words.relative(before, after))]
    for name, before, after in widths
  ]
  return Table(
    "Channels of each layer before the first squeeze and after the last.", ["layer", "before", "after", "change"], rows
  )


def by_class(chain):
  """A row for each class, of the first and the last version that has counts by class."""
  counted = classes.counted(chain)
  recognised = [{each.name: each for each in classes.recognised(version)} for version in counted]
  header = ["class", "images", *map(_name, counted), "most often taken for"]
  rows = [_class(name, recognised) for name in (recognised[-1] if recognised else ())]
  return Table("Share of the test images of each class that is recognised.", header, rows)


def _class(name, recognised):
  last = recognised[-1][name]
  shares = [of_version[name].share if name in of_version else None for of_version in recognised]
  changes = ["", words.difference(shares[0], shares[-1])]
  mistakes = f"{last.mistaken_for} ({last.mistakes:,})" if last.mistaken_for else "none"
  cells = [Cell(words.fixed(share), change) for share, change in zip(shares, changes)]
  return [Cell(name), Cell(words.count(last.images)), *cells, Cell(mistakes)]
