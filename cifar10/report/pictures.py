"""Pictures of chains: precision against costs, channels of layers, classes, the course of the training."""

import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, PercentFormatter

from cifar10.report import classes, layers
from cifar10.report.drawing import (
  BLUE,
  INK,
  MOST_LAYERS,
  MUTED,
  ORANGE,
  TRACK,
  count_steps,
  new_figure,
  picture,
  shortened,
  styled,
  ticks,
)
from cifar10.report.gammas import gammas

CHAIN_COLOURS = (BLUE, ORANGE, "#009e73", "#b5679b", "#b58900", "#7a8288")
CHAIN_MARKERS = "osD^vP"
MOST_POINTS = 1000


def comparison(chains):
  """Pictures of precision against parameters and against multiply-adds, with a mark for each chain and version."""
  costs = (("parameters", "parameters"), ("multiply_adds", "multiply-adds for one image"))
  pictures = [_precision(chains, attribute, label) for attribute, label in costs]
  return [picture for picture in pictures if picture]


def of_chain(chain, prefix=""):
  """The pictures of one chain: channels of layers, classes, the course of its training, and gammas for each stage.

  Args:
    chain: a `facts.Chain`.
    prefix: what the names of its files start with.

  Returns:
    A list of `Picture`, without those that nothing is known for.
  """
  pictures = [_channels(chain, prefix), _classes(chain, prefix), _training(chain, prefix)]
  pictures += [gammas(version, prefix) for version in chain.versions]
  return [picture for picture in pictures if picture]


def chain_style(index):
  """Colour and marker of the chain at `index`."""
  return CHAIN_COLOURS[index % len(CHAIN_COLOURS)], CHAIN_MARKERS[index % len(CHAIN_MARKERS)]


@styled
def _precision(chains, attribute, label):
  several = len(chains) > 1
  figure = new_figure(270 + 16 * len(chains) * several)
  axes = figure.subplots()
  marks = []
  for index, chain in enumerate(chains):
    points = [
      (getattr(version, attribute), version.evaluation["precision"], version)
      for version in chain.versions
      if version.evaluation and getattr(version, attribute) is not None
    ]
    colour, marker = chain_style(index)
    x, y = [point[0] for point in points], [point[1] for point in points]
    axes.plot(x, y, color=colour, linewidth=1, alpha=0.5)
    name = chain.name if points else f"{chain.name} (not evaluated)"
    axes.plot(x, y, color=colour, marker=marker, markersize=7, linestyle="none", label=name)
    marks += points
  if not marks:
    return None
  axes.set(xlabel=label, ylabel="precision @ 1")
  axes.margins(x=0.08 if several else 0.16, y=0.2)
  count_steps(axes.xaxis)
  axes.yaxis.set_major_locator(ticks(5))
  if several:
    figure.legend(loc="outside upper left", ncols=1, handletextpad=0.3)
  figure.draw_without_rendering()
  _label_marks(axes, [(x, y, str(v.number) if several else f"{v.number} {v.name}") for x, y, v in marks])
  caption = f"Precision on test images against {label}, version by version. The axes show the range of the data, not 0."
  return picture(figure, "precision", f"precision_{attribute}", caption)


def _label_marks(axes, marks):
  """Writes the version beside each mark; where marks are close, labels move up so that they don't overlap."""
  taken, (low, high) = [], axes.get_xlim()
  for x, y, text in sorted(marks, key=lambda mark: (mark[1], mark[2])):
    left, height = axes.transData.transform((x, y)) * 72 / axes.figure.dpi
    near = [other for across, other in taken if abs(across - left) < 12]
    place = max([height, *(other + 13 for other in near if other + 13 > height - 1e-6 and other > height - 40)])
    taken.append((left, place))
    on_the_right = x <= (low + high) / 2
    axes.annotate(
      text,
      (x, y),
      (7 if on_the_right else -7, 8 + place - height),
      textcoords="offset points",
      ha="left" if on_the_right else "right",
      va="center",
    )


@styled
def _channels(chain, prefix):
  widths = layers.widths(chain)
  changed = [layer for layer in widths if layer.after < layer.before]
  drawn = changed[:MOST_LAYERS]
  if not drawn:
    return None
  figure = new_figure(18 * len(drawn) + 14)
  axes = figure.subplots()
  rows = range(len(drawn))
  axes.barh(rows, [1] * len(drawn), height=0.66, color=TRACK)
  axes.barh(rows, [layer.after / layer.before for layer in drawn], height=0.66, color=BLUE)
  axes.set_yticks(rows, [shortened(layer.name) for layer in drawn])
  for row, layer in zip(rows, drawn):
    axes.text(1.02, row, f"{layer.after:,} of {layer.before:,}", va="center")
  axes.set(xlim=(0, 1), ylim=(len(drawn) - 0.5, -0.5), xticks=[])
  axes.grid(False)
  axes.spines[:].set_visible(False)
  axes.tick_params(length=0, labelcolor=INK)
  caption = "Channels that each layer kept (blue), of those that it had before (the whole bar)."
  caption += f" {len(widths) - len(changed)} of {len(widths)} layers kept all." * (len(widths) > len(changed))
  caption += f" {len(changed) - len(drawn)} more are not drawn." * (len(changed) > len(drawn))
  return picture(figure, "layers", f"{prefix}channels", caption)


@styled
def _classes(chain, prefix):
  counted = classes.counted(chain)
  if not counted:
    return None
  shares = {version.number: {each.name: each.share for each in classes.recognised(version)} for version in counted}
  names = list(dict.fromkeys(name for of_version in shares.values() for name in of_version))
  figure = new_figure(20 * len(names) + 62)
  axes = figure.subplots()
  for row, name in enumerate(names):
    axes.plot([of_version.get(name) for of_version in shares.values()], [row] * len(shares), color=MUTED, linewidth=1)
  for number, fill in zip(reversed(shares), (BLUE, "none")):
    points = [(shares[number][name], row) for row, name in enumerate(names) if name in shares[number]]
    label = f"version {number}"
    axes.plot(*zip(*points), "o", color=BLUE, markerfacecolor=fill, markeredgewidth=1.5, markersize=6.5, label=label)
  axes.set_yticks(range(len(names)), names)
  axes.tick_params(axis="y", length=0, labelcolor=INK)
  axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="share of the images of a class that is recognised")
  axes.margins(x=0.06)
  axes.xaxis.set_major_locator(ticks(5))
  figure.legend(*map(reversed, axes.get_legend_handles_labels()), loc="outside upper right", ncols=2, handletextpad=0.1)
  before = ", before (hollow) and after (filled)" * (len(counted) > 1)
  return picture(figure, "classes", f"{prefix}classes", f"How much of each class is recognised{before}.")


@styled
def _training(chain, prefix):
  if not any(version.rows for version in chain.versions):
    return None
  figure = new_figure(400)
  panels = figure.subplots(3, 1, sharex=True, height_ratios=(1.5, 1, 1))
  start, tests = 0, []
  for version in chain.versions:
    tests += [(start + record["checkpoint_iter"], record["loss"]) for record in version.evaluations]
    if version.rows:
      start = _draw_stage(panels, version, start)
  if tests:
    panels[0].plot(*zip(*tests), "D", color=ORANGE, markersize=5, label="on test images")
  rows = [row["cross_entropy"] for version in chain.versions for row in version.rows]
  _fit_losses(panels[0], np.array(rows + [loss for _, loss in tests]))
  panels[0].set_title("Cross entropy", pad=18)
  panels[1].set_title("Fake sparsity")
  panels[1].set_ylim(bottom=0)
  panels[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
  panels[2].set_title("Learning rate")
  panels[2].set_ylim(bottom=0)
  panels[2].set(xlabel="step, counted through the stages", xlim=(-0.015 * start, 1.015 * start))
  for axes in panels[1:]:
    axes.yaxis.set_major_locator(ticks(4))
  count_steps(panels[2].xaxis)
  caption = (
    "Cross entropy on the batches of the training (blue line) and on test images (orange diamonds), fake sparsity (the "
    "share of the penalties that belongs to gammas at 0) and learning rate."
  )
  return picture(figure, "training", f"{prefix}training", caption)


def _draw_stage(panels, version, start):
  """Draws the rows of a stage that begins at step `start`; returns where the next begins."""
  rows = _thinned(version.rows)
  steps = start + np.array([row["step"] for row in rows])
  for axes, column in zip(panels, ("cross_entropy", "fake_sparsity", "learning_rate")):
    values = np.array([row[column] for row in rows])
    values = np.where(np.isfinite(values), values, np.nan)
    label = "in training" if not axes.lines else None
    axes.plot(
      steps, values, color=BLUE, linewidth=1.3, marker="o" if len(rows) == 1 else None, markersize=3, label=label
    )
  for axes in panels:
    axes.axvline(start, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
  place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
  panels[0].annotate(f"stage {version.number}", (start, 1), (3, 3), color=MUTED, fontsize=10.5, **place)
  return max(int(steps[-1]) + 1, start + (version.stage.progress.step if version.stage else 0))


def _fit_losses(axes, values):
  """Has losses that span more than a decade shown by their logarithms."""
  values = values[np.isfinite(values)]
  if len(values) and values.min() > 0 and values.max() > 10 * values.min():
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(EngFormatter() if values.max() > 1000 else "{x:g}")
  else:
    axes.yaxis.set_major_locator(ticks(4))
  axes.legend(loc="upper right")


def _thinned(rows):
  """At most `MOST_POINTS` of the rows, the last among them."""
  return rows[:: -max(1, -(-len(rows) // MOST_POINTS))][::-1]
