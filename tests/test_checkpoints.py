import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_same_weights

from cifar10 import checkpoints
from cifar10.errors import UserError


@pytest.fixture
def state(tiny_network):
  state = checkpoints.TrainingState(tiny_network)
  generator = np.random.default_rng(0)
  for variable in state.model.trainable_variables:
    variable.assign(generator.normal(size=variable.shape))
  for average in state.averages:
    average.assign(generator.normal(size=average.shape))
  state.step.assign(7)
  return state


def test_averaged_model_takes_averages_and_zeroes_gammas_that_are_zero(state):
  gamma = next(v for v in state.model.trainable_variables if v.path == "conv1_bn/gamma")
  gamma.assign([0.0, 1.0, 0.0, -2.0])
  model = checkpoints.averaged_model(state)
  for variable, average in zip(model.trainable_variables, state.averages):
    expected = average.numpy()
    if variable.path == gamma.path:
      expected = expected * [0, 1, 0, 1]
    np.testing.assert_array_equal(variable.numpy(), expected, err_msg=variable.path)


def test_averaged_model_leaves_gammas_alone_that_reach_the_output(state):
  gamma = next(v for v in state.model.trainable_variables if v.path == "softmax_linear_bn/gamma")
  gamma.assign(np.zeros(10))
  averaged = checkpoints.averaged_model(state)
  got = next(v for v in averaged.trainable_variables if v.path == gamma.path)
  assert (got.numpy() != 0).all()


def test_averaged_model_keeps_moving_statistics_and_holds_standard_layers(state):
  for variable in state.model.non_trainable_variables:
    variable.assign(np.full(variable.shape, 3.5))
  model = checkpoints.averaged_model(state)
  assert all((variable.numpy() == 3.5).all() for variable in model.non_trainable_variables)
  assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}


def test_a_state_is_saved_and_restored(tmp_path, state, tiny_network):
  checkpoints.save(tmp_path, state, 7)
  other = checkpoints.TrainingState(tiny_network)
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


STAGE = {
  "flags": {"model": "cnn4", "dataset": "synthetic", "batch_size": 8, "weight_decay": 0.0, "seed": 3},
  "progress": {"step": 5, "seconds": 0.5},
  "finished": None,
}


def test_a_stage_is_written_and_read(tmp_path):
  stage = STAGE
  checkpoints.write_stage(tmp_path, stage)
  read = checkpoints.read_stage(tmp_path)
  assert read.pop("packages")["tensorflow"] == tf.__version__
  assert read == stage


def test_a_stage_that_was_changed_is_refused(tmp_path):
  checkpoints.write_stage(tmp_path, STAGE)
  path = tmp_path / "stage.json"
  stage = json.loads(path.read_text())
  stage["flags"]["seed"] = 4
  for text in (json.dumps(stage), path.read_text()[:-20], "[]", ""):
    path.write_text(text)
    with pytest.raises(UserError, match="does not match its checksum"):
      checkpoints.read_stage(tmp_path)


@pytest.mark.parametrize(
  "change",
  [{"flags": {}}, {"flags": []}, {"progress": {"step": "5", "seconds": 0.5}}, {"progress": None}, {"finished": 7},
   {"flags": {**STAGE["flags"], "model": "zzz"}}],
)  # fmt: skip
def test_a_stage_that_lacks_what_is_needed_is_damaged_though_its_checksum_is_right(tmp_path, change):
  checkpoints.write_stage(tmp_path, {**STAGE, **change})
  with pytest.raises(UserError, match="stage.json is damaged"):
    checkpoints.read_stage(tmp_path)


def test_an_unused_directory_has_no_stage(tmp_path):
  assert checkpoints.read_stage(tmp_path / "absent") is None
  assert checkpoints.read_stage(tmp_path) is None


def test_a_directory_where_the_first_file_was_cut_short_is_not_foreign(tmp_path):
  (tmp_path / "stage.json.new").write_text("{")
  assert checkpoints.read_stage(tmp_path) is None


def test_a_foreign_directory_is_refused(tmp_path):
  (tmp_path / "checkpoint").write_text("model_checkpoint_path: ...")
  with pytest.raises(UserError, match="written by something else"):
    checkpoints.read_stage(tmp_path)


def test_replace_version_leaves_the_network_alone_in_the_directory(tmp_path, tiny_network):
  directory = tmp_path / "version_1"
  directory.mkdir()
  (directory / "metrics.csv").write_text("old")
  checkpoints.replace_version(directory, tiny_network)
  assert [path.name for path in tmp_path.iterdir()] == ["version_1"]
  assert [path.name for path in directory.iterdir()] == ["model.keras"]
  loaded = checkpoints.load_network(directory)
  assert_same_weights(tiny_network.variables, loaded.variables)


def test_a_version_stays_when_its_replacement_cannot_be_saved(tmp_path, tiny_network, monkeypatch):
  directory = tmp_path / "version_1"
  checkpoints.replace_version(directory, tiny_network)
  before = (directory / "model.keras").read_bytes()

  def fail(path):
    path.write_bytes(b"half")
    raise OSError("no space left")

  monkeypatch.setattr(tiny_network, "save", fail)
  with pytest.raises(OSError, match="no space"):
    checkpoints.replace_version(directory, tiny_network)
  assert (directory / "model.keras").read_bytes() == before


def test_a_damaged_network_is_one_sentence(tmp_path, tiny_network):
  path = tmp_path / "model.keras"
  tiny_network.save(path)
  path.write_bytes(path.read_bytes()[:500])
  with pytest.raises(UserError, match="model.keras cannot be loaded"):
    checkpoints.load_network(tmp_path)


def test_a_network_of_other_shapes_or_another_name_is_refused(tmp_path):
  images = keras.Input((32, 32, 3))
  flat = keras.layers.Flatten()(images)
  for network in (
    keras.Model(images, keras.layers.Dense(10)(flat), name="other"),
    keras.Model(images, keras.layers.Dense(9)(flat), name="cnn4"),
  ):
    network.save(tmp_path / "model.keras")
    with pytest.raises(UserError, match="expected one of resnet20, cnn4"):
      checkpoints.load_network(tmp_path)


def test_loading_a_network_runs_no_foreign_code(tmp_path, tiny_network):
  marker = tmp_path / "ran"
  images = keras.Input((32, 32, 3))
  function = eval(f"lambda x: (open({str(marker)!r}, 'w'), x)[1]")
  network = keras.Model(images, keras.layers.Lambda(function, output_shape=(32, 32, 3))(images), name="cnn4")
  marker.unlink(missing_ok=True)
  network.save(tmp_path / "model.keras")
  assert zipfile.is_zipfile(tmp_path / "model.keras")
  with pytest.raises(UserError, match="cannot be loaded"):
    checkpoints.load_network(tmp_path)
  assert not marker.exists()


def test_an_atomic_file_appears_whole_or_not_at_all(tmp_path):
  path = tmp_path / "file"
  path.write_bytes(b"old")
  with pytest.raises(ZeroDivisionError), checkpoints.atomic_file(path) as file:
    file.write(b"half")
    raise ZeroDivisionError
  assert [p.name for p in tmp_path.iterdir()] == ["file"]
  assert path.read_bytes() == b"old"
  with checkpoints.atomic_file(path) as file:
    file.write(b"new")
  assert path.read_bytes() == b"new"
