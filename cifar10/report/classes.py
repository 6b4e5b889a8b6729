"""How well each class is recognised, from the counts that evaluations record."""

import dataclasses

import numpy as np

from cifar10.datasets.examples import CLASSES, NUM_CLASSES


@dataclasses.dataclass
class Recognised:
  """One class: its name, how many images, the share of them recognised, and the class that they are most taken for.

  Attributes:
    mistaken_for: its name, "" where all are recognised.
    mistakes: how many images are taken for that class.
  """

  name: str
  images: int
  share: float
  mistaken_for: str
  mistakes: int


def counted(chain):
  """The first and the last version whose evaluation has counts by class; [] where none has."""
  known = [version for version in chain.versions if version.evaluation and version.evaluation["confusion"]]
  return list({version.number: version for version in known[:1] + known[-1:]}.values())


def recognised(version):
  """A `Recognised` for each class that has images, of a version whose evaluation has counts by class."""
  names, counts = class_names(version), np.array(version.evaluation["confusion"])
  classes = []
  for label in np.flatnonzero(counts.sum(axis=1)):
    row = counts[label].copy()
    images, right, row[label] = row.sum(), row[label], 0
    most = row.argmax()
    classes.append(
      Recognised(names[label], int(images), float(right / images), names[most] if row[most] else "", int(row[most]))
    )
  return classes


def class_names(version):
  """The names of the classes that a version was evaluated on."""
  dataset = version.evaluation.get("dataset") or version.version.dataset()
  return CLASSES.get(dataset) if isinstance(dataset, str) and dataset in CLASSES else list(map(str, range(NUM_CLASSES)))
