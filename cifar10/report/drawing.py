"""How pictures look, and how a figure of matplotlib becomes a part of the page and a PNG file."""

import base64
import dataclasses
import io
import xml.etree.ElementTree as ElementTree

import matplotlib
from matplotlib import image
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

WIDTH = 430  # Of a picture, in points, which the page shows as pixels; a phone shows nearly as many.
MOST_LAYERS = 40  # In one picture.
INK, MUTED, GRID, TRACK = "#1c2024", "#5a6066", "#e3e6e9", "#d3d9e0"
# Okabe and Ito's colours for the colour-blind, changed a little to be seen on white and on black.
BLUE, ORANGE = "#2f7fc1", "#d55e00"
# The page's variables for light and dark.
THEMED = {INK: "ink", MUTED: "muted", GRID: "grid", TRACK: "track", BLUE: "blue", ORANGE: "orange"}
SETTINGS = {
  "svg.fonttype": "none",
  "text.parse_math": False,
  "font.family": "sans-serif",
  "font.sans-serif": ["DejaVu Sans"],
  "font.size": 12,
  "text.color": INK,
  "axes.labelcolor": MUTED,
  "axes.edgecolor": GRID,
  "axes.titlecolor": INK,
  "axes.titlesize": 12,
  "axes.titlelocation": "left",
  "axes.labelsize": 11.5,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": GRID,
  "xtick.color": GRID,
  "ytick.color": GRID,
  "xtick.labelcolor": MUTED,
  "ytick.labelcolor": MUTED,
  "xtick.labelsize": 11,
  "ytick.labelsize": 11,
  "legend.frameon": False,
  "legend.fontsize": 11,
}
SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
NOTHING = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # What matplotlib tells of a picture if it may.


@dataclasses.dataclass
class Picture:
  """A picture.

  Attributes:
    section: the part of the page that it belongs to.
    file_name: of its PNG file.
    caption: what it shows, in words.
    svg: the text of its SVG, a part of the page.
    png: the bytes of its PNG file.
  """

  section: str
  file_name: str
  caption: str
  svg: str
  png: bytes


def styled(function):
  """Has a function draw with the `SETTINGS`."""
  return matplotlib.rc_context(SETTINGS)(function)


def new_figure(height):
  """A figure as wide as all are, and of a height in points."""
  return Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")


def picture(figure, section, name, caption):
  """The `Picture` of a figure; `name` is its file's, without the suffix, and no other's on the page."""
  svg, png = io.StringIO(), io.BytesIO()
  with matplotlib.rc_context({"svg.hashsalt": name}):  # Names within a picture, by which its parts refer to others.
    figure.savefig(svg, format="svg", transparent=True, dpi=144, metadata=NOTHING)
  figure.savefig(png, format="png", facecolor="white", dpi=144)
  return Picture(section, f"{name}.png", caption, _for_page(svg.getvalue(), caption), png.getvalue())


def _for_page(svg, caption):
  """An SVG as a part of the page: named, as wide as there is room, in colours that follow the page's theme."""
  root = ElementTree.fromstring(svg)
  for name in ("width", "height", "version"):
    del root.attrib[name]
  root.attrib.update(role="img", **{"aria-label": caption})
  for element in root.iter():
    if element.tag == f"{{{SVG}}}g":
      element.attrib.pop("id", None)  # Nothing refers to groups, and other pictures name theirs the same.
    if "style" in element.attrib:
      element.set("style", _themed(element.get("style")))
  for defs in root.findall(f"{{{SVG}}}defs"):
    for style in defs.findall(f"{{{SVG}}}style"):
      defs.remove(style)  # It would hold for the whole page.
  return ElementTree.tostring(root, encoding="unicode")


def _themed(style):
  for colour, name in THEMED.items():
    style = style.replace(colour, f"var(--{name})")
  return style


def data_uri(pixels):
  """An image, uint8 (height, width, 3), as the address of a PNG that is all in it."""
  png = io.BytesIO()
  image.imsave(png, pixels, format="png", metadata={"Software": None})
  return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def ticks(most, **options):
  """A locator of `most` ticks at most, at plain numbers."""
  return MaxNLocator(most, steps=[1, 2, 5, 10], **options)


def count_steps(axis):
  """Has an axis show numbers like 10 k."""
  axis.set_major_locator(ticks(5))
  axis.set_major_formatter(EngFormatter(sep=" "))


def shortened(name):
  """A name of any length, as there is room for it in a picture."""
  return name if len(name) <= 24 else name[:23] + "…"
