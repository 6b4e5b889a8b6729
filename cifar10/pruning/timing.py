"""Times functions beside each other."""

import time
from collections.abc import Callable, Mapping
from typing import Any


def seconds_in_turns(
  functions: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1
) -> dict[str, list[float]]:
  """Calls functions in turns, so that what else the machine does slows all of them alike.

  Args:
    functions: by name, what to time: called without arguments; each waits until its work is done.
    repeats: how often each is timed.
    warm_up: how often each is called before that, untimed.

  Returns:
    The seconds of each call, `repeats` of them for each name.

  Raises:
    ValueError: `repeats` is less than 1.

  >>> seconds = seconds_in_turns({"few": lambda: sum(range(10)), "many": lambda: sum(range(100_000))}, repeats=3)
  >>> {name: len(each) for name, each in seconds.items()}
  {'few': 3, 'many': 3}
  """
  if repeats < 1:
    raise ValueError(f"repeats is {repeats}; it is a whole number of 1 or more")
  seconds = {name: [] for name in functions}
  for turn in range(-warm_up, repeats):
    for name, function in functions.items():
      start = time.perf_counter()
      function()
      if turn >= 0:
        seconds[name].append(time.perf_counter() - start)
  return seconds
