"""Which version commands take."""

import pytest
from helpers import build_tiny_network, short_stage

from cifar10.config import EvalConfig
from cifar10.errors import UserError
from cifar10.evaluate import evaluate
from cifar10.train import train
from cifar10.version.choosing import chosen
from cifar10.version.directory import Version


@pytest.fixture
def chain(tmp_path):
  """A chain of versions 1, 2 and 10, and what is no version of it that could be taken."""
  for number in (1, 2, 10):
    Version(tmp_path / "run", number).replace(build_tiny_network())
  for name in ("run_11", "run_eval", "run_012"):
    (tmp_path / name).mkdir()
  (tmp_path / "run_report").write_text("")
  return str(tmp_path / "run")


def paths(*arguments):
  return str(chosen(*arguments))


def test_the_newest_version_that_has_a_network_is_taken_and_said(chain, capsys):
  assert paths(chain) == f"{chain}_10"
  assert capsys.readouterr().out == f"{chain}_10 is the newest version.\n"


def test_the_first_version_counts_once_it_is_trained(tmp_path, tiny_world):
  train(short_stage(tmp_path / "new", max_steps=1, squeeze_model=False))
  assert paths(tmp_path / "new") == f"{tmp_path}/new_0"


def test_a_number_is_taken_as_it_is(chain, capsys):
  assert paths(chain, 2) == f"{chain}_2"
  assert paths(chain, 7) == f"{chain}_7"
  assert not capsys.readouterr().out


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_the_directory_of_a_version_means_that_version(chain, slashes, capsys):
  assert paths(f"{chain}_2{slashes}") == f"{chain}_2"
  assert paths(f"{chain}_2{slashes}", 2) == f"{chain}_2"
  with pytest.raises(
    UserError, match=f"--checkpoint_dir .*run_2{slashes} is version 2, and --checkpoint_version is 1; .*{chain}"
  ):
    chosen(f"{chain}_2{slashes}", 1)
  assert not capsys.readouterr().out


def test_a_chain_that_is_called_like_a_version_is_a_chain(chain):
  Version(f"{chain}_2", 0).replace(build_tiny_network())
  assert paths(f"{chain}_2") == f"{chain}_2_0"
  assert paths(f"{chain}_2", 1) == f"{chain}_2_1"


@pytest.mark.parametrize("name", ["none", "run_11", "run_eval"])
def test_without_a_version_the_first_to_evaluate_is_said_to_be_missing(chain, tmp_path, name):
  with pytest.raises(UserError, match=f"there is no directory .*{name}_1: train --checkpoint_version 0 first"):
    evaluate(EvalConfig(checkpoint_dir=str(tmp_path / name), dataset="synthetic"))


def test_training_in_the_directory_of_a_version_is_refused(chain):
  with pytest.raises(
    UserError, match=f"--train_dir {chain}_2/ is version 2 of a chain; .* --train_dir {chain} --checkpoint_version 2"
  ):
    train(short_stage(f"{chain}_2/"))
