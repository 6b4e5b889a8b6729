"""Tests of cifar10.pruning.timing."""

import time

import pytest

from cifar10.pruning.timing import seconds_in_turns


@pytest.mark.parametrize(("repeats", "warm_up"), [(1, 0), (3, 1), (2, 3)])
def test_functions_take_turns_and_the_first_calls_do_not_count(repeats, warm_up):
  calls = []
  functions = {name: lambda name=name: calls.append(name) for name in "ab"}
  seconds = seconds_in_turns(functions, repeats, warm_up)
  assert calls == ["a", "b"] * (warm_up + repeats)
  assert {name: len(found) for name, found in seconds.items()} == {"a": repeats, "b": repeats}


def test_seconds_are_those_of_each_function():
  seconds = seconds_in_turns({"slow": lambda: time.sleep(0.02), "fast": lambda: None}, 2)
  assert min(seconds["slow"]) >= 0.02 > 0.01 > max(seconds["fast"]) >= 0


def test_no_repeats_are_refused():
  with pytest.raises(ValueError, match="repeats is 0; it is a whole number of 1 or more"):
    seconds_in_turns({"a": lambda: None}, 0)
