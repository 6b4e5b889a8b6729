import zipfile

import keras
import pytest
from helpers import assert_same_weights

from cifar10.errors import UserError
from cifar10.version import files
from cifar10.version.directory import Version


def test_replace_version_leaves_the_network_alone_in_the_directory(tmp_path, tiny_network):
  version = Version(tmp_path / "version", 1)
  version.path.mkdir()
  (version.path / "metrics.csv").write_text("old")
  version.replace(tiny_network)
  assert [path.name for path in tmp_path.iterdir()] == ["version_1"]
  assert [path.name for path in version.path.iterdir()] == ["model.keras"]
  loaded = version.network()
  assert_same_weights(tiny_network.variables, loaded.variables)


def test_a_version_stays_when_its_replacement_cannot_be_saved(tmp_path, tiny_network, monkeypatch):
  version = Version(tmp_path / "version", 1)
  version.replace(tiny_network)
  before = (version.path / "model.keras").read_bytes()

  def fail(path):
    path.write_bytes(b"half")
    raise OSError("no space left")

  monkeypatch.setattr(tiny_network, "save", fail)
  with pytest.raises(OSError, match="no space"):
    version.replace(tiny_network)
  assert (version.path / "model.keras").read_bytes() == before


def test_a_damaged_network_is_one_sentence(tmp_path, tiny_network):
  version = Version(tmp_path / "run", 1)
  version.replace(tiny_network)
  path = version.model_path
  path.write_bytes(path.read_bytes()[:500])
  with pytest.raises(UserError, match="model.keras cannot be loaded"):
    version.network()


def test_a_network_of_other_shapes_or_another_name_is_refused(tmp_path):
  version = Version(tmp_path / "run", 1)
  version.path.mkdir()
  images = keras.Input((32, 32, 3))
  flat = keras.layers.Flatten()(images)
  for network in (
    keras.Model(images, keras.layers.Dense(10)(flat), name="other"),
    keras.Model(images, keras.layers.Dense(9)(flat), name="cnn4"),
  ):
    network.save(version.model_path)
    with pytest.raises(UserError, match="expected one of resnet20, cnn4"):
      version.network()


def test_loading_a_network_runs_no_foreign_code(tmp_path, tiny_network):
  version = Version(tmp_path / "run", 1)
  version.path.mkdir()
  marker = tmp_path / "ran"
  images = keras.Input((32, 32, 3))
  function = eval(f"lambda x: (open({str(marker)!r}, 'w'), x)[1]")
  network = keras.Model(images, keras.layers.Lambda(function, output_shape=(32, 32, 3))(images), name="cnn4")
  marker.unlink(missing_ok=True)
  network.save(version.model_path)
  assert zipfile.is_zipfile(version.model_path)
  with pytest.raises(UserError, match="cannot be loaded"):
    version.network()
  assert not marker.exists()


def test_an_unused_directory_has_no_stage(tmp_path):
  assert Version(tmp_path / "absent", 0).read_stage() == (None, None)
  (tmp_path / "empty_0").mkdir()
  assert Version(tmp_path / "empty", 0).read_stage() == (None, None)


def test_a_directory_where_the_first_file_was_cut_short_is_not_foreign(tmp_path):
  version = Version(tmp_path / "run", 0)
  version.path.mkdir()
  files.unfinished(version.path / "stage.json").write_text("{")
  assert version.read_stage() == (None, None)


def test_a_foreign_directory_is_refused(tmp_path):
  version = Version(tmp_path / "run", 0)
  version.path.mkdir()
  (version.path / "checkpoint").write_text("model_checkpoint_path: ...")
  with pytest.raises(UserError, match="written by something else"):
    version.read_stage()
