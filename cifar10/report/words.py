"""Figures as words: counts, shares, sizes, times, and how they differ."""

from cifar10.version.evaluations import number

UNKNOWN = "-"
MINUS = "\N{MINUS SIGN}"


def count(value):
  """281304 as "281,304"."""
  return UNKNOWN if number(value) is None else f"{value:,}"


def short(value):
  """41599616 as "41.6 M"."""
  for size, unit in ((10**9, " G"), (10**6, " M"), (10**5, " k")):
    if number(value) is not None and value >= size:
      return f"{value / (size if size > 10**5 else 1000):.1f}{unit}"
  return count(value)


def fixed(value):
  """0.84721 as "0.8472"."""
  return UNKNOWN if number(value) is None else f"{value:.4f}"


def size(value):
  """A number of bytes as "1.05 MiB"."""
  return UNKNOWN if number(value) is None else f"{value / 2**20:.2f} MiB"


def milliseconds(value):
  """0.114 as "0.11 ms"."""
  return UNKNOWN if number(value) is None else f"{value:.2f} ms"


def difference(before, after):
  """Of two shares or losses, "+0.0503"; "same" where that would be 0, "" where one is unknown."""
  if None in (number(before), number(after)):
    return ""
  text = f"{after - before:+.4f}"
  return "same" if float(text) == 0 else text.replace("-", MINUS)


def relative(before, after):
  """Of two counts, "+1.5%"; "same" where they are equal, "" where one is unknown or the first is 0."""
  if None in (number(before), number(after)) or not before:
    return ""
  return "same" if before == after else f"{100 * (after / before - 1):+.1f}%".replace("-", MINUS)


def fewer(before, after, what):
  """Of two counts, "23.3% fewer parameters", "1.0% more parameters" or "as many parameters"."""
  if before == after:
    return f"as many {what}"
  return f"{abs(100 * (after / before - 1)):.1f}% {'fewer' if after < before else 'more'} {what}"


def joined(texts):
  """Texts as "a, b and c"."""
  *most, last = texts
  return f"{', '.join(most)} and {last}" if most else last
