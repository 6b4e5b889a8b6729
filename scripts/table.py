"""Prints the newest evaluation on the test images of each checkpoint version, and checks what was asked for.

python scripts/table.py TRAIN_DIR [--min_reduction 0.2] [--min_precision 0.9]
"""

import argparse
import pathlib
import sys

from cifar10.console import table
from cifar10.version.evaluations import newest_evaluation


def main():
  """Prints the table; exits with 1 if version 2 is not small enough or version 3 not good enough."""
  parser = argparse.ArgumentParser()
  parser.add_argument("train_dir", help="directory of a version, without _<version>")
  parser.add_argument("--min_reduction", type=float, help="least share of version 0's parameters that 2 lacks")
  parser.add_argument("--min_precision", type=float, help="least precision of version 3")
  arguments = parser.parse_args()
  directories = {version: pathlib.Path(f"{arguments.train_dir}_{version}") for version in range(4)}
  rows = {version: newest_evaluation(directory, version) for version, directory in directories.items()}
  header = ["version", "parameters", "multiply-adds", "precision @ 1", "test loss"]
  print(table(header, [cells(version, row) for version, row in rows.items() if row]))
  sys.exit(failures(rows, arguments.min_reduction, arguments.min_precision))


def cells(version, row):
  """The row of a version."""
  costs = [f"{row[name]:,}" for name in ("parameters", "multiply_adds")]
  return [version, *costs, *(f"{row[name]:.4f}" for name in ("precision", "loss"))]


def failures(rows, min_reduction, min_precision):
  """One sentence for each condition that does not hold, or None."""
  sentences = []
  if min_reduction is not None:
    reduction = 1 - rows[2]["parameters"] / rows[0]["parameters"]
    if reduction < min_reduction:
      sentences.append(f"Version 2 has {reduction:.1%} fewer parameters than version 0, not {min_reduction:.0%}.")
  if min_precision is not None and rows[3]["precision"] < min_precision:
    sentences.append(f"Version 3 has precision {rows[3]['precision']:.4f}, not {min_precision}.")
  return " ".join(sentences) or None


if __name__ == "__main__":
  main()
