"""What the commands print: sentences, times, and tables."""

import datetime


def say(*sentences):
  """Prints sentences, a line each, at once; passes over None."""
  for sentence in sentences:
    if sentence:
      print(sentence, flush=True)


def timestamp():
  """Now, as console lines and records have it."""
  return f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S.%f}"


def table(header, rows=()):
  """A Markdown table as text, of a header and rows: lists of as many cells, of anything that has a text."""
  return "\n".join([table_row(header), "|" + "---|" * len(header), *map(table_row, rows)])


def table_row(cells):
  """One row of a Markdown table as text, where rows are printed as they come."""
  return "| " + " | ".join(map(str, cells)) + " |"
