"""Prints the newest evaluation on the test images of each checkpoint version, and checks what was asked for.

python scripts/table.py TRAIN_DIR [--min_reduction 0.2] [--min_precision 0.9 [--of 1,2,3]]
"""

import argparse
import sys

from cifar10.console import table
from cifar10.version.evaluations import newest_evaluation


def main():
  """Prints the table; exits with 1 if version 2 is not small enough, or one that was asked for not good enough."""
  parser = argparse.ArgumentParser()
  parser.add_argument("train_dir", help="directory of a version, without _<version>")
  parser.add_argument("--min_reduction", type=float, help="least share of version 0's parameters that 2 lacks")
  parser.add_argument("--min_precision", type=float, help="least precision of some versions")
  parser.add_argument("--of", default="3", help="which versions need that, with commas between them; by default 3")
  arguments = parser.parse_args()
  rows = {version: newest_evaluation(arguments.train_dir, version) for version in range(4)}
  header = ["version", "parameters", "multiply-adds", "precision @ 1", "test loss"]
  print(table(header, [cells(version, row) for version, row in rows.items() if row]))
  needed = dict.fromkeys(map(int, arguments.of.split(",")), arguments.min_precision)
  sys.exit(failures(rows, arguments.min_reduction, needed))


def cells(version, row):
  """The row of a version."""
  costs = [f"{row[name]:,}" for name in ("parameters", "multiply_adds")]
  return [version, *costs, *(f"{row[name]:.4f}" for name in ("precision", "loss"))]


def failures(rows, min_reduction, min_precisions):
  """One sentence for each condition that does not hold, or None."""
  sentences = []
  if min_reduction is not None:
    reduction = 1 - rows[2]["parameters"] / rows[0]["parameters"]
    if reduction < min_reduction:
      sentences.append(f"Version 2 has {reduction:.1%} fewer parameters than version 0, not {min_reduction:.0%}.")
  for version, least in min_precisions.items():
    if least is not None and rows[version]["precision"] < least:
      sentences.append(f"Version {version} has precision {rows[version]['precision']:.4f}, not {least}.")
  return " ".join(sentences) or None


if __name__ == "__main__":
  main()
