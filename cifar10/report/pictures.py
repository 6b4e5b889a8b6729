"""Pictures of chains, with matplotlib: each as SVG text for the page and as the bytes of a PNG file."""

import dataclasses
import io
import re

import matplotlib
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

WIDTH = 430  # Of a picture, in points, which the page shows as pixels; a phone shows nearly as many.
INK, MUTED, GRID, TRACK = "#1c2024", "#60666c", "#e3e6e9", "#d3d9e0"
THEMED = {INK: "ink", MUTED: "muted", GRID: "grid", TRACK: "track"}  # The page's variables for light and dark.
# Okabe and Ito's colours for the colour-blind, changed a little to be readable on white and on black.
BLUE, ORANGE = "#2f7fc1", "#d55e00"
CHAIN_COLOURS = (BLUE, ORANGE, "#009e73", "#b5679b", "#b58900", "#7a8288")
CHAIN_MARKERS = "osD^vP"
SETTINGS = {
  "svg.fonttype": "none",
  "svg.hashsalt": "cifar10-report",
  "text.parse_math": False,
  "font.family": "sans-serif",
  "font.sans-serif": ["DejaVu Sans"],
  "font.size": 11,
  "text.color": INK,
  "axes.labelcolor": MUTED,
  "axes.edgecolor": GRID,
  "axes.titlecolor": INK,
  "axes.titlesize": 11,
  "axes.titlelocation": "left",
  "axes.labelsize": 10.5,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": GRID,
  "xtick.color": GRID,
  "ytick.color": GRID,
  "xtick.labelcolor": MUTED,
  "ytick.labelcolor": MUTED,
  "xtick.labelsize": 10,
  "ytick.labelsize": 10,
  "legend.frameon": False,
  "legend.fontsize": 10,
}
MOST_LAYERS = 40
MOST_POINTS = 1000


@dataclasses.dataclass
class Picture:
  """A picture: the name of its PNG file, what it shows in words, the text of its SVG, the bytes of its PNG."""

  file_name: str
  caption: str
  svg: str
  png: bytes


def comparison(chains):
  """Pictures of precision against parameters and against multiply-adds, with a mark for each chain and version."""
  costs = (("parameters", "parameters"), ("multiply_adds", "multiply-adds for one image"))
  pictures = [_precision(chains, attribute, label) for attribute, label in costs]
  return [picture for picture in pictures if picture]


def of_chain(chain, prefix=""):
  """The pictures of one chain: channels kept, the course of its training, and gammas for each stage.

  Args:
    chain: a `facts.Chain`.
    prefix: what the names of its files start with.

  Returns:
    A list of `Picture`, without those that nothing is known for.
  """
  pictures = [_channels(chain, prefix), _training(chain, prefix), *(_gammas(v, prefix) for v in chain.versions)]
  return [picture for picture in pictures if picture]


def chain_style(index):
  """Colour and marker of the chain at `index`."""
  return CHAIN_COLOURS[index % len(CHAIN_COLOURS)], CHAIN_MARKERS[index % len(CHAIN_MARKERS)]


@matplotlib.rc_context(SETTINGS)
def _precision(chains, attribute, label):
  figure = _figure(300 + 16 * len(chains) * (len(chains) > 1))
  axes = figure.subplots()
  marks = []
  for index, chain in enumerate(chains):
    points = [
      (getattr(version, attribute), version.evaluation["precision"], version.number)
      for version in chain.versions
      if version.evaluation and getattr(version, attribute) is not None
    ]
    if points:
      colour, marker = chain_style(index)
      x, y, _ = zip(*points)
      axes.plot(x, y, color=colour, linewidth=1, alpha=0.5)
      axes.plot(x, y, color=colour, marker=marker, markersize=7, linestyle="none", label=chain.name)
      marks += [(*point, colour) for point in points]
  if not marks:
    return None
  axes.set(xlabel=label, ylabel="precision @ 1, test images", xlim=(0, 1.12 * max(mark[0] for mark in marks) or 1))
  axes.margins(y=0.15)
  axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
  axes.xaxis.set_major_locator(_ticks(5))
  axes.yaxis.set_major_locator(_ticks(5))
  if len(chains) > 1:
    figure.legend(loc="outside upper left", ncols=1, handletextpad=0.3)
  figure.draw_without_rendering()
  _label_marks(axes, marks)
  return _picture(figure, f"precision_{attribute}", f"Precision against {label}; numbers are versions.")


def _label_marks(axes, marks):
  """Writes the version beside each mark; where marks are close, labels move up so that they don't overlap."""
  taken = []
  for x, y, version, colour in sorted(marks, key=lambda mark: (mark[1], mark[2])):
    left, height = axes.transData.transform((x, y)) * 72 / axes.figure.dpi
    near = [other for across, other in taken if abs(across - left) < 12]
    place = max([height, *(other + 12 for other in near if other + 12 > height - 1e-6 and other > height - 40)])
    taken.append((left, place))
    axes.annotate(
      str(version),
      (x, y),
      (6, 8 + place - height),
      textcoords="offset points",
      va="center",
      color=colour,
      weight="bold",
    )


@matplotlib.rc_context(SETTINGS)
def _channels(chain, prefix):
  squeezes = [version.squeeze for version in chain.versions if version.squeeze]
  full, kept = {}, {}
  for squeeze in squeezes:
    for layer, (channels, removed) in squeeze["layers"].items():
      full.setdefault(layer, channels)
      kept[layer] = channels - removed
  layers = [layer for layer in full if kept[layer] < full[layer]][:MOST_LAYERS]
  if not layers:
    return None
  figure = _figure(18 * len(layers) + 14)
  axes = figure.subplots()
  rows = range(len(layers))
  axes.barh(rows, [1] * len(layers), height=0.66, color=TRACK)
  axes.barh(rows, [kept[layer] / full[layer] for layer in layers], height=0.66, color=BLUE)
  axes.set_yticks(rows, [_short(layer) for layer in layers], color=INK)
  for row, layer in zip(rows, layers):
    axes.text(1.02, row, f"{kept[layer]:,} of {full[layer]:,}", va="center")
  axes.set(xlim=(0, 1), ylim=(len(layers) - 0.5, -0.5), xticks=[])
  axes.grid(False)
  axes.spines[:].set_visible(False)
  axes.tick_params(length=0)
  caption = f"Channels kept, of the full width of each layer. {_shrinking(squeezes)}{_left_out(len(layers), full)}"
  return _picture(figure, f"{prefix}channels", caption)


def _shrinking(squeezes):
  before, after = squeezes[0]["parameters_before"], squeezes[-1]["parameters_after"]
  if not before or after is None:
    return ""
  return f"{before:,} parameters became {after:,} ({1 - after / before:.0%} fewer). "


def _left_out(drawn, full):
  return f"{len(full) - drawn} of {len(full)} layers, which kept all or are too many to draw, are left out."


@matplotlib.rc_context(SETTINGS)
def _training(chain, prefix):
  stages = [version for version in chain.versions if version.rows]
  if not stages:
    return None
  columns = {"loss": "loss", "fake_sparsity": "fake sparsity", "learning_rate": "learning rate"}
  figure = _figure(390)
  panels = figure.subplots(3, 1, sharex=True)
  start = 0
  for version in stages:
    rows = _thinned(version.rows)
    steps = start + np.array([row["step"] for row in rows])
    for axes, column in zip(panels, columns):
      values = np.array([row[column] for row in rows])
      values = np.where(np.isfinite(values), values, np.nan)
      axes.plot(steps, values, color=BLUE, linewidth=1.4, marker="o" if len(rows) == 1 else None, markersize=3)
    _mark_stage(panels, start, version)
    start = max(int(steps[-1]) + 1, start + _steps_done(version))
  for axes, title in zip(panels, columns.values()):
    axes.set_title(title, pad=18 if axes is panels[0] else 6)
    axes.yaxis.set_major_locator(_ticks(4))
  panels[1].set_ylim(bottom=0)
  panels[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
  panels[2].set_ylim(bottom=0)
  panels[2].set_xlabel("step, counted through the stages")
  panels[2].set_xlim(0, start)
  panels[2].xaxis.set_major_locator(_ticks(5))
  panels[2].xaxis.set_major_formatter(EngFormatter(sep=" "))
  caption = "Loss, fake sparsity (the share of the penalties that belongs to gammas at 0) and learning rate."
  return _picture(figure, f"{prefix}training", caption)


def _mark_stage(panels, start, version):
  for axes in panels:
    axes.axvline(start, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
  panels[0].annotate(
    f"stage {version.number}",
    (start, 1),
    (3, 3),
    xycoords=("data", "axes fraction"),
    textcoords="offset points",
    color=MUTED,
    fontsize=9.5,
  )


def _steps_done(version):
  return version.stage.progress.step if version.stage else 0


@matplotlib.rc_context(SETTINGS)
def _gammas(version, prefix):
  steps = sorted(version.gammas)
  layers = list(version.gammas[steps[0]]) if steps else []
  drawn = layers[:MOST_LAYERS]
  if not drawn:
    return None
  figure = _figure(78 * len(drawn) + 40)
  panels = figure.subplots(len(drawn), 2, sharex="col", sharey="row", width_ratios=(3, 1), squeeze=False)
  for (course, histogram), layer in zip(panels, drawn):
    gammas = np.stack([version.gammas[step][layer] for step in steps])
    _draw_course(course, steps, gammas)
    _draw_histogram(histogram, gammas)
    dead = (gammas[-1] == 0).sum()
    course.set_title(f"{_short(layer.removesuffix('/gamma'))}: {dead:,} of {gammas.shape[1]:,} at 0", pad=4)
  course.set_xlabel("step")
  course.xaxis.set_major_locator(_ticks(5))
  course.xaxis.set_major_formatter(EngFormatter(sep=" "))
  histogram.set_xlabel("channels")
  histogram.xaxis.set_major_locator(_ticks(2, integer=True))
  caption = (
    f"Stage {version.number}: each gamma over the steps (orange: 0 at the end), and how many have which value at the "
    f"first recorded step (grey) and the last (blue)."
  )
  more = f" {len(layers) - len(drawn)} more layers are not drawn." * (len(layers) > len(drawn))
  return _picture(figure, f"{prefix}gammas_{version.number}", caption + more)


def _draw_course(axes, steps, gammas):
  dead = gammas[-1] == 0
  for chosen, colour in ((gammas.T[~dead], BLUE), (gammas.T[dead], ORANGE)):
    lines = [np.column_stack([steps, line]) for line in chosen]
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=0.8, alpha=0.75, rasterized=True))
  axes.autoscale_view(scaley=False)
  low, high = _range(gammas)
  axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
  if len(steps) == 1:
    axes.plot(np.repeat(steps, gammas.shape[1]), gammas[0], ".", color=BLUE)
  axes.yaxis.set_major_locator(_ticks(3))


def _draw_histogram(axes, gammas):
  bins = np.linspace(*_range(gammas), 25)
  axes.hist(gammas[0], bins, orientation="horizontal", color=TRACK)
  axes.hist(gammas[-1], bins, orientation="horizontal", histtype="step", color=BLUE, linewidth=1.2)
  axes.tick_params(labelleft=False, left=False)


def _range(gammas):
  low, high = min(0.0, float(gammas.min())), float(gammas.max())
  return (low, high) if high - low > 1e-6 else (low, low + 1)


def _thinned(rows):
  """At most `MOST_POINTS` of the rows, the last among them."""
  return rows[:: -max(1, -(-len(rows) // MOST_POINTS))][::-1]


def _short(name):
  return name if len(name) <= 24 else name[:23] + "…"


def _ticks(most, **options):
  return MaxNLocator(most, steps=[1, 2, 5, 10], **options)


def _figure(height):
  return Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")


def _picture(figure, name, caption):
  svg, png = io.StringIO(), io.BytesIO()
  figure.savefig(svg, format="svg", transparent=True, dpi=144, metadata={"Date": None})
  figure.savefig(png, format="png", facecolor="white", dpi=144)
  return Picture(f"{name}.png", caption, _for_page(svg.getvalue(), caption), png.getvalue())


def _for_page(svg, caption):
  """An SVG as a part of the page: no header, no names that a second one would repeat, colours that follow the theme."""
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
  svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
  for colour, name in THEMED.items():
    svg = svg.replace(colour, f"var(--{name})")
  return re.sub(r'^<svg ([^>]*?)width="[^"]*" height="[^"]*"|^<svg', r'<svg role="img" \1', svg, count=1)
