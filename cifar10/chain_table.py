"""The newest evaluation on the test images of each version of a chain, as a table, and what is asked of them."""

from cifar10.console import table
from cifar10.errors import UserError
from cifar10.version.evaluations import newest_evaluation

VERSIONS = range(4)


def read_rows(train_dir):
  """The newest evaluation of each version of a chain, a dict from number to record, or None without one."""
  return {version: newest_evaluation(train_dir, version) for version in VERSIONS}


def chain_table(rows):
  """A Markdown table of what `read_rows` reads.

  Raises:
    UserError: there is no evaluation.
  """
  if not any(rows.values()):
    raise UserError(
      "no version of the chain has an evaluation on test images; give another directory, or cifar10-eval."
    )
  header = ["version", "parameters", "multiply-adds", "precision @ 1", "test loss"]
  return table(header, [cells(version, row) for version, row in rows.items() if row])


def cells(version, row):
  """The row of a version."""
  costs = [f"{row[name]:,}" for name in ("parameters", "multiply_adds")]
  return [version, *costs, *(f"{row[name]:.4f}" for name in ("precision", "loss"))]


def failures(rows, min_reduction, min_precisions):
  """What does not hold of what is asked, a list of sentences.

  Args:
    rows: what `read_rows` reads.
    min_reduction: share of version 0's parameters that version 2 must lack; None for any.
    min_precisions: dict from version to the precision that it must have, or None.
  """
  needed = [version for version, least in min_precisions.items() if least is not None]
  needed += [0, 2] * (min_reduction is not None)
  missing = [version for version in needed if not rows.get(version)]
  if missing:
    return [f"Version {missing[0]} has no evaluation on test images."]
  sentences = []
  if min_reduction is not None:
    reduction = 1 - rows[2]["parameters"] / rows[0]["parameters"]
    if reduction < min_reduction:
      sentences.append(f"Version 2 has {reduction:.1%} fewer parameters than version 0, not {min_reduction:.0%}.")
  for version, least in min_precisions.items():
    if least is not None and rows[version]["precision"] < least:
      sentences.append(f"Version {version} has precision {rows[version]['precision']:.4f}, not {least}.")
  return sentences
