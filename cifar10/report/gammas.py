"""The picture of the gammas of a stage."""

import numpy as np
from matplotlib.collections import LineCollection

from cifar10.report.drawing import (
  BLUE,
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


@styled
def gammas(version, prefix):
  """A panel for each layer that has gammas at 0 at the end, or one for all layers where none has; None without gammas.

  Args:
    version: `Facts` of the version whose stage it is.
    prefix: what the name of the file starts with.
  """
  steps = sorted(version.gammas)
  courses = (
    {path: np.stack([version.gammas[at][path] for at in steps]) for path in version.gammas[steps[0]]} if steps else {}
  )
  if not courses:
    return None
  drawn, caption = _drawn(courses)
  figure = new_figure(84 * len(drawn) + 40)
  panels = figure.subplots(len(drawn), 2, sharex="col", sharey="row", width_ratios=(3, 1), squeeze=False)
  for (course, histogram), (layer, values) in zip(panels, drawn.items()):
    _draw_course(course, steps, values)
    _draw_histogram(histogram, values)
    dead = (values[-1] == 0).sum()
    course.set_title(f"{shortened(layer.removesuffix('/gamma'))}: {dead:,} of {values.shape[1]:,} at 0", pad=4)
  course.set_xlabel("step")
  count_steps(course.xaxis)
  histogram.set_xlabel("channels")
  histogram.xaxis.set_major_locator(ticks(2, integer=True))
  return picture(figure, "gammas", f"{prefix}gammas_{version.number}", f"Stage {version.number}: {caption}")


def at_zero(version):
  """How many gammas of a version's stage are at 0 at the end, in words; "" without gammas."""
  if not version.gammas:
    return ""
  last = version.gammas[max(version.gammas)].values()
  return f"{sum(int((values == 0).sum()) for values in last):,} of {sum(map(len, last)):,} gammas at 0"


def _drawn(courses):
  """The layers to draw, a dict from name to gammas (steps, channels), and what the caption says."""
  caption = (
    "each gamma over the steps (orange and dashed: 0 at the end), and how many have which value at the first recorded "
    "step (filled) and at the last (line)."
  )
  dying = {layer: values for layer, values in courses.items() if (values[-1] == 0).any()}
  if not dying:
    return {"all layers": np.concatenate(list(courses.values()), axis=1)}, caption
  drawn = dict(list(dying.items())[:MOST_LAYERS])
  others = len(courses) - len(dying)
  alive = f" {others} of {len(courses)} layers, which have none at 0, are not drawn." * (others > 0)
  more = f" Neither are {len(dying) - len(drawn)} more." * (len(dying) > len(drawn))
  return drawn, caption + alive + more


def _draw_course(axes, steps, values):
  dead = values[-1] == 0
  for chosen, colour, line in ((values.T[~dead], BLUE, "solid"), (values.T[dead], ORANGE, (0, (4, 2)))):
    lines = [np.column_stack([steps, each]) for each in chosen]
    kind = {"colors": colour, "linestyles": [line], "linewidths": 0.8, "alpha": 0.75}
    axes.add_collection(LineCollection(lines, rasterized=True, **kind))
  axes.autoscale_view(scaley=False)
  low, high = _range(values)
  axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
  if len(steps) == 1:
    axes.plot(np.repeat(steps, values.shape[1]), values[0], ".", color=BLUE)
  axes.yaxis.set_major_locator(ticks(3))


def _draw_histogram(axes, values):
  bins = np.linspace(*_range(values), 25)
  axes.hist(values[0], bins, orientation="horizontal", color=TRACK)
  axes.hist(values[-1], bins, orientation="horizontal", histtype="step", color=MUTED, linewidth=1.2)
  axes.tick_params(labelleft=False, left=False)


def _range(values):
  low, high = min(0.0, float(values.min())), float(values.max())
  return (low, high) if high - low > 1e-6 else (low, low + 1)
