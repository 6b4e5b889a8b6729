import pytest
from helpers import assert_same_weights

from cifar10.errors import UserError
from cifar10.training_state import TrainingState
from cifar10.version import checkpoints


def test_a_state_is_saved_and_restored(tmp_path, state, tiny_network):
  checkpoints.save(tmp_path, state, 7)
  other = TrainingState(tiny_network)
  checkpoints.restore(tmp_path, other, 7)
  assert int(other.step) == 7
  assert_same_weights(state.model.variables, other.model.variables)
  assert_same_weights(state.averages, other.averages)


def test_the_newest_five_checkpoints_stay_and_those_of_others(tmp_path, state):
  ours, others = tmp_path / "a*_0", tmp_path / "ab_0"
  for directory in (ours, others):
    directory.mkdir()
  checkpoints.save(others, state, 10)
  for step in range(10, 80, 10):
    checkpoints.save(ours, state, step)
  assert checkpoints.checkpoint_steps(ours) == [30, 40, 50, 60, 70]
  assert len(list(ours.iterdir())) == 10
  assert checkpoints.checkpoint_steps(others) == [10]


def test_other_files_that_look_like_checkpoints_are_none(tmp_path):
  for name in ("model.ckpt-best.index", "model.ckpt-5.index.bak", "my.ckpt-6.index"):
    (tmp_path / name).write_text("")
  assert checkpoints.checkpoint_steps(tmp_path) == []


def test_restoring_what_is_not_there_or_damaged_is_one_sentence(tmp_path, state):
  with pytest.raises(UserError, match="model.ckpt-9 cannot be read"):
    checkpoints.restore(tmp_path, state, 9)
  checkpoints.save(tmp_path, state, 9)
  (tmp_path / "model.ckpt-9.index").write_bytes(b"junk")
  with pytest.raises(UserError, match="model.ckpt-9 cannot be read"):
    checkpoints.restore(tmp_path, state, 9)
