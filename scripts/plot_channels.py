"""Draws which share of each layer's channels a stage kept, as an SVG picture.

python scripts/plot_channels.py checkpoints/cifar10_train_1 channels.svg
"""

import argparse
import json
import pathlib

ROW = 22
LABEL_WIDTH = 130
BAR_WIDTH = 420
WIDTH = LABEL_WIDTH + BAR_WIDTH + 110


def main():
  """Reads the squeeze's report from a version's stage.json and writes the picture."""
  parser = argparse.ArgumentParser()
  parser.add_argument("version_dir", type=pathlib.Path, help="directory of the version that was squeezed")
  parser.add_argument("picture", type=pathlib.Path, help="the SVG file to write")
  arguments = parser.parse_args()
  finished = json.loads((arguments.version_dir / "stage.json").read_text())["finished"]
  if not finished:
    parser.exit(1, f"{arguments.version_dir} was not squeezed yet; train it to the end first.\n")
  arguments.picture.write_text(drawing(finished["report"]))


def drawing(report):
  """The SVG text for a squeeze's report: a row for each layer that lost channels."""
  layers = {name: layer for name, layer in report["layers"].items() if layer["removed"]}
  rows = [row(index, name, layer) for index, (name, layer) in enumerate(layers.items())]
  before, after = report["parameters_before"], report["parameters_after"]
  title = f"channels kept: {before:,} parameters became {after:,} ({1 - after / before:.0%} fewer)"
  return "\n".join(
    [
      f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{ROW * len(rows) + 50}" '
      'font-family="sans-serif" font-size="13">',
      '<rect width="100%" height="100%" rx="6" fill="#ffffff"/>',
      f'<text x="16" y="26" font-size="14" font-weight="bold" fill="#222222">{title}</text>',
      *rows,
      "</svg>",
      "",
    ]
  )


def row(index, name, layer):
  """One layer: its full width in a light colour, what was kept in a dark one, and the numbers."""
  top = 40 + index * ROW
  kept = layer["channels"] - layer["removed"]
  return "\n".join(
    [
      f'<text x="{LABEL_WIDTH - 12}" y="{top + 14}" text-anchor="end" fill="#222222">{name}</text>',
      f'<rect x="{LABEL_WIDTH}" y="{top + 2}" width="{BAR_WIDTH}" height="{ROW - 6}" fill="#d9dee7"/>',
      f'<rect x="{LABEL_WIDTH}" y="{top + 2}" width="{BAR_WIDTH * kept / layer["channels"]:.1f}" '
      f'height="{ROW - 6}" fill="#2f6db5"/>',
      f'<text x="{LABEL_WIDTH + BAR_WIDTH + 12}" y="{top + 14}" fill="#222222">{kept} of {layer["channels"]}</text>',
    ]
  )


if __name__ == "__main__":
  main()
