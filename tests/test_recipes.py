import sys

import pytest

from cifar10 import recipes
from cifar10.config import TrainConfig, declarations


def test_the_paper_s_recipe_is_the_schedule_of_its_program():
  assert recipes.RECIPES["paper"] == (
    {"l1_penalty": 0.001, "max_steps": 30000},
    {"l1_penalty": 0.005, "max_steps": 50000},
    {"l1_penalty": 0.0, "learning_rate": 0.01, "max_steps": 50000},
  )


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_set_settings_to_what_these_may_be(name):
  declared = declarations(TrainConfig)
  assert len(recipes.RECIPES[name]) == 3
  for stage in recipes.RECIPES[name]:
    assert all(declared[setting].admits(value) for setting, value in stage.items())
    assert {"l1_penalty", "max_steps"} <= stage.keys()


def test_the_flags_of_a_stage_are_printed(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["recipes", "paper", "2"])
  recipes.main()
  assert capsys.readouterr().out == "--l1_penalty=0.0 --learning_rate=0.01 --max_steps=50000\n"


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    (["zzz", "0"], "the recipe is 'zzz'; expected one of paper, nesterov, quickstart, kills."),
    (["paper", "3"], "the stage is '3'; expected a number from 0 to 2."),
    (["paper", "x"], "the stage is 'x'; expected a number from 0 to 2."),
  ],
)
def test_an_unknown_recipe_or_stage_is_one_sentence(monkeypatch, arguments, sentence):
  monkeypatch.setattr(sys, "argv", ["recipes", *arguments])
  with pytest.raises(SystemExit) as end:
    recipes.main()
  assert end.value.code == sentence
