"""Networks of keras-hub and kimm, with 40% of their gammas at 0, squeeze to the same function."""

import sys

import pytest
import zoo
from applications import shut_at_random
from flows import assert_same_function

from cifar10.pruning import squeeze

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64", "own_rules")]


@pytest.mark.parametrize("shut", [shut_at_random, zoo.shut_by_group])
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_they_keep_their_function(name, shut):
  pytest.importorskip("keras_hub" if name.startswith("keras-hub") else "kimm", reason="the extra zoo is not installed")
  zoo.register_layers()
  model = zoo.NETWORKS[name]()
  shut(model)
  smaller, report = squeeze(model, verify=False)
  assert_same_function(model, smaller)
  assert report.parameters_after == smaller.count_params() <= model.count_params()
  if shut is zoo.shut_by_group:
    (_, _, of_free), _ = zoo.counted(report, zoo.HELD_BY_GROUP)
    assert float(of_free) >= 0.8


def test_the_table_of_the_zoo_shows_what_goes(monkeypatch, capsys):
  pytest.importorskip("kimm", reason="the extra zoo is not installed")
  monkeypatch.setattr(sys, "argv", ["zoo.py", "--network=kimm LCNet100"])
  zoo.main()
  _, _, row = capsys.readouterr().out.splitlines()
  before, *ways = (float(cell) for cell in row.strip("| ").split(" | ")[1:8])
  for after, of_all, of_free in (ways[:3], ways[3:]):
    assert after < before
    assert of_all <= of_free <= 1
