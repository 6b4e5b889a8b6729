"""Plain text for people: tables whose columns are aligned, how much less there is of something, what went wrong."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
  """Lines with the cells of a table one below the other.

  Args:
    rows: lists of as many texts each.
    left: numbers of the columns that are aligned on the left; the others are on the right.

  >>> print(aligned([["layer", "channels"], ["conv2d", "32"], ["logits", "8"]]))
  layer   channels
  conv2d        32
  logits         8
  """
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines = (
    "  ".join(cell.ljust(width) if index in left else cell.rjust(width) for index, (cell, width) in cells)
    for cells in (enumerate(zip(row, widths)) for row in rows)
  )
  return "\n".join(line.rstrip() for line in lines)


def first_line(error: Exception) -> str:
  r"""The kind of an exception and the first line of its text.

  >>> first_line(ValueError("no such layer\nand more"))
  'ValueError: no such layer'
  """
  return f"{type(error).__name__}: {str(error).strip()}".strip().partition("\n")[0]


def change(what: str, before: int | None, after: int | None) -> str:
  """What became of a number.

  >>> change("parameters", 57450, 30237)
  'parameters 57,450 -> 30,237 (47% fewer)'
  """
  if before is None or after is None:
    return f"{what} unknown, since a size is not fixed"
  share = (before - after) / before if before else 0.0
  return f"{what} {before:,} -> {after:,} ({abs(share):.0%} {'more' if share < 0 else 'fewer'})"
