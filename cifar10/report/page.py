"""The page as HTML text: self-contained, without scripts, light or dark as the reader's system is."""

from html import escape

from cifar10.version.evaluations import number

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2024; --muted: #60666c;
  --grid: #e3e6e9; --track: #d3d9e0; --warn: #9a4a00; --warn-paper: #fdf3e7; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --ink: #e6e9ec; --muted: #a2a9b0; --grid: #30363c; --track: #40474f;
    --warn: #f0b070; --warn-paper: #2c2218; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
h1, h2, p, li { overflow-wrap: anywhere; }
p { margin: .25rem 0 .75rem; }
.lead, figcaption { color: var(--muted); }
.lead { font-size: .95rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--grid); }
th { color: var(--muted); font-weight: 500; vertical-align: bottom; }
.text { text-align: left; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 1.25rem 2rem;
  align-items: start; margin-top: 1.5rem; }
figure { margin: .5rem 0 0; max-width: 520px; overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { font-size: .85rem; margin-top: .35rem; }
.missing { background: var(--warn-paper); color: var(--warn); border-radius: 6px; padding: .6rem 1rem; }
.missing ul { margin: .25rem 0; padding-left: 1.1rem; font-size: .875rem; }
"""
UNKNOWN = "-"


def page(chains, comparison, pictures_of_chains):
  """The page as text.

  Args:
    chains: `facts.Chain`s.
    comparison: `pictures.Picture`s of all chains.
    pictures_of_chains: for each chain, its `Picture`s.
  """
  several = len(chains) > 1
  title = f"{len(chains)} chains compared" if several else chains[0].name
  sections = [_chain(chain, pictures, several) for chain, pictures in zip(chains, pictures_of_chains)]
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="lead">Channel pruning, version by version. Version 0 is what its stage trained; every later version is what
the squeeze of the stage before left. Precision and loss are on test images.</p>
{_pictures(comparison)}
{_versions(chains, several)}
{"".join(sections)}
</main>
</body>
</html>
"""


def _versions(chains, several):
  header = ["version", "parameters", "multiply-adds", "precision @ 1", "loss", "images", "model.keras", "latency"]
  rows = [[chain.name] * several + _version(version) for chain in chains for version in chain.versions]
  return "<h3>Versions</h3>" + _table(["chain"] * several + header, rows, int(several))


def _version(version):
  evaluation = version.evaluation or {}
  return [
    str(version.number),
    _count(version.parameters),
    _count(version.multiply_adds),
    _fixed(evaluation.get("precision")),
    _fixed(evaluation.get("loss")),
    _count(evaluation.get("examples")),
    _size(version.bytes),
    _latency(version.exports),
  ]


def _chain(chain, pictures, several):
  missing = [*chain.missing]
  missing += [f"Version {version.number}: {text}" for version in chain.versions for text in version.missing]
  return f"""{f"<h2>{escape(chain.name)}</h2>" if several else ""}
{_missing(missing)}
{_stages(chain)}
{_exports(chain)}
{_pictures(pictures)}
"""


def _missing(sentences):
  if not sentences:
    return ""
  items = "".join(f"<li>{escape(text)}</li>" for text in sentences)
  return f'<h3>What is missing</h3><div class="missing"><ul>{items}</ul></div>'


def _stages(chain):
  header = ["stage", "model", "data", "steps", "l1 penalty", "learning rate", "batch", "seed", "minutes", "squeezed to"]
  rows = [_stage(version) for version in chain.versions if version.stage]
  return "<h3>Stages</h3>" + _table(header, rows, 0, texts=(1, 2)) if rows else ""


def _stage(version):
  flags, progress = version.stage.flags, version.stage.progress
  seconds = number(progress.seconds)
  return [
    str(version.number),
    flags.model,
    flags.dataset,
    _count(progress.step),
    str(flags.l1_penalty),
    str(flags.learning_rate),
    str(flags.batch_size),
    str(flags.seed),
    UNKNOWN if seconds is None else f"{seconds / 60:.1f}",
    f"{_count(version.squeeze['parameters_after'])} parameters" if version.squeeze else UNKNOWN,
  ]


def _exports(chain):
  header = ["version", "format", "file", "size", "largest difference", "agreement", "precision @ 1", "latency"]
  rows = [[str(version.number), *_export(export)] for version in chain.versions for export in version.exports]
  return "<h3>Exports</h3>" + _table(header, rows, 0, texts=(1, 2)) if rows else ""


def _export(export):
  difference = number(export.get("largest_difference"))
  return [
    str(export.get("format") or UNKNOWN),
    str(export.get("path") or UNKNOWN),
    _size(export.get("bytes")),
    UNKNOWN if difference is None else f"{difference:.1e}",
    _fixed(export.get("agreement")),
    _fixed(export.get("precision")),
    _milliseconds(export.get("latency_ms")),
  ]


def _pictures(pictures):
  figures = [
    f"<figure>{picture.svg}<figcaption>{escape(picture.caption)}</figcaption></figure>" for picture in pictures
  ]
  return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""


def _table(header, rows, first_number, texts=()):
  """A table in a frame that scrolls; columns before `first_number` and those of `texts` hold text."""

  def row(tag, cells):
    kinds = [' class="text"' if at < first_number or at in texts else "" for at in range(len(cells))]
    return "<tr>" + "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells)) + "</tr>"

  body = "".join(row("td", cells) for cells in rows)
  return f'<div class="wide"><table><thead>{row("th", header)}</thead><tbody>{body}</tbody></table></div>'


def _latency(exports):
  known = [(number(export.get("latency_ms")), str(export.get("format"))) for export in exports]
  known = [pair for pair in known if pair[0] is not None]
  return f"{_milliseconds(min(known)[0])} ({min(known)[1]})" if known else UNKNOWN


def _milliseconds(value):
  return UNKNOWN if number(value) is None else f"{value:.2f} ms"


def _count(value):
  return UNKNOWN if number(value) is None else f"{value:,}"


def _fixed(value):
  return UNKNOWN if number(value) is None else f"{value:.4f}"


def _size(value):
  return UNKNOWN if number(value) is None else f"{value / 2**20:.2f} MiB"
