"""Each public name has an example in its docstring that runs, and type hints that say something."""

import doctest
import inspect
import typing

import pytest

from cifar10 import pruning
from cifar10.pruning import comparing, timing

PUBLIC = {name: getattr(pruning, name) for name in pruning.__all__}
CALLABLES = {name: value for name, value in PUBLIC.items() if callable(value)}


@pytest.mark.usefixtures("own_rules")
@pytest.mark.parametrize("name", [*PUBLIC, "seconds_in_turns"])
def test_the_example_of_a_public_name_runs(name):
  value = PUBLIC.get(name) or timing.seconds_in_turns
  (test,) = doctest.DocTestFinder(recurse=False).find(value, name, globs={**PUBLIC, name: value})
  assert test.examples
  failures, _ = doctest.DocTestRunner().run(test)
  assert failures == 0


@pytest.mark.parametrize("name", [*CALLABLES, "output_differences", "seconds_in_turns"])
def test_a_public_name_has_type_hints(name):
  value = CALLABLES.get(name) or getattr(comparing, name, None) or timing.seconds_in_turns
  function = value.__init__ if inspect.isclass(value) else value
  hints = typing.get_type_hints(function)
  expected = {parameter for parameter in inspect.signature(function).parameters if parameter != "self"}
  assert expected <= set(hints)
  assert inspect.isclass(value) or "return" in hints
  assert not {object, dict, list, tuple, set} & set(hints.values())
