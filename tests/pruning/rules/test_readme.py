"""The page on rules: its example runs, and leaves no rules behind."""

import pathlib
import re

import pytest
from markdown_it import MarkdownIt

from cifar10.pruning import rules
from cifar10.pruning.rules import base

PAGE = pathlib.Path(base.__file__).with_name("README.md")


def python_of(text):
  """The python blocks of a page as one program, each line where it stands in the page."""
  lines = [""] * (text.count("\n") + 1)
  for token in MarkdownIt().parse(text):
    if token.type == "fence" and token.info == "python":
      first = token.map[0] + 1
      block = token.content.splitlines()
      lines[first : first + len(block)] = block
  return "\n".join(lines)


@pytest.mark.usefixtures("own_rules")
def test_the_example_runs():
  program = python_of(PAGE.read_text())
  assert program.count("assert ") == 4
  exec(compile(program, str(PAGE), "exec"), {"__name__": "example"})


def test_what_the_tables_name_is_there():
  methods = re.findall(r"`(\w+)(?:\([\w, ]*\))?`", PAGE.read_text().split("## What a rule is asked")[1])
  known = {*dir(base.Rule), *dir(rules.KernelRule)}
  own = {
    "kernels",
    "bias",
    "kernel",
    "sliced",
    "config",
    "activation",
    "folds",
    "pads",
    "connected",
    "shift",
    "carries",
  }
  assert own <= known
  assert {*own, "tied", "tie", "forward", "read", "constant", "backward", "squeezed", "scaled"} <= set(methods) & known
