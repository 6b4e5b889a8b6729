"""The trained chain that comes with the package, by --published."""

import itertools
import json
import os
import pathlib
import tomllib

import numpy as np
import pytest
import tensorflow as tf

from cifar10 import input_pipeline
from cifar10.cli import evaluate, export, predict, report
from cifar10.version.choosing import PUBLISHED
from cifar10.version.directory import Version

ROOT = pathlib.Path(__file__).parent.parent
NUMBERS = list(itertools.takewhile(lambda number: Version(PUBLISHED, number).has_network(), itertools.count(1)))
real_data = pytest.mark.skipif("CIFAR10_DATA_DIR" not in os.environ, reason="CIFAR10_DATA_DIR is not set")


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path, monkeypatch):
  """The working directory is an empty one; what is published stays as it is."""
  monkeypatch.chdir(tmp_path)

  def there():
    paths = pathlib.Path(PUBLISHED).parent.rglob("*")
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}

  before = there()
  yield
  assert there() == before


@pytest.fixture
def cat(tmp_path):
  """The path of an image file."""
  image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
  path = tmp_path / "cat.png"
  path.write_bytes(tf.io.encode_png(image).numpy())
  return str(path)


def test_the_chain_is_there_and_has_its_records():
  assert NUMBERS
  for number in NUMBERS:
    recorded, damaged = Version(PUBLISHED, number).evaluations()
    assert recorded
    assert not damaged
    assert recorded[-1]["parameters"] == Version(PUBLISHED, number).network().count_params()


def test_the_wheel_takes_all_of_it_and_stays_small():
  folder = pathlib.Path(PUBLISHED).parent
  globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["cifar10"]
  packed = {path for glob in globs for path in folder.parent.glob(glob) if folder in path.parents}
  in_versions = {path for number in (0, *NUMBERS) for path in Version(PUBLISHED, number).path.iterdir()}
  assert packed == {folder / "README.md", *in_versions}
  assert sum(path.stat().st_size for path in packed) < 5e6


def recorded_images_are_in(images):
  """Whether the newest version's record has its images from `images`, those of the test set."""
  with np.load(Version(PUBLISHED, NUMBERS[-1]).path / "predictions.npz") as recorded:
    return {image.tobytes() for image in recorded["images"]} <= {image.tobytes() for image in images}


@real_data
@pytest.mark.parametrize("number", NUMBERS)
def test_it_evaluates_to_the_digit(number, capsys):
  if not recorded_images_are_in(input_pipeline.load("cifar10", "test").images):
    pytest.skip("CIFAR10_DATA_DIR has other images than the JPEGs that the chain was trained and evaluated on")
  assert evaluate.main(["cifar10-eval", "--published", f"--checkpoint_version={number}"]) == 0
  shown = capsys.readouterr().out
  record = [each for each in Version(PUBLISHED, number).evaluations()[0] if each["checkpoint_iter"] == 0][-1]
  assert f"total params: {record['parameters']}\n" in shown
  assert f"precision @ 1 = {record['precision']:.4f}\n" in shown
  assert f"test loss = {record['loss']:.4f}\n" in shown


def test_it_sees_what_images_show(cat, capsys):
  assert predict.main(["cifar10-predict", "--published", cat]) == 0
  said, line = capsys.readouterr().out.splitlines()
  assert said == f"{PUBLISHED}_{NUMBERS[-1]} is the newest version."
  assert line.startswith(f"{cat}: ")
  assert len(line.split(", ")) == 3


@real_data
def test_it_is_exported(tmp_path, capsys):
  assert export.main(["cifar10-export", "--published", "--formats=saved_model"]) == 0
  assert [path.name for path in tmp_path.iterdir()] == ["export"]
  served = tf.saved_model.load(str(tmp_path / "export" / "saved_model"))
  images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
  expected = Version(PUBLISHED, NUMBERS[-1]).network()(images, training=False)
  np.testing.assert_allclose(served.serve(images), expected, rtol=1e-4, atol=1e-4)


def test_it_is_reported_on(tmp_path, capsys):
  assert report.main(["cifar10-report", "--published"]) == 0
  page = (tmp_path / "published_report" / "index.html").read_text()
  assert "0.8702" in page
  assert json.dumps(str(tmp_path)) not in page


@pytest.mark.parametrize("command", [evaluate, predict, export])
def test_a_version_that_is_not_published_is_named(command, cat, capsys):
  arguments = [cat] if command is predict else []
  assert command.main(["cifar10", "--published", "--checkpoint_version=17", *arguments]) == 1
  assert "--checkpoint_version is 17, and with --published there" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("command", "other"),
  [(evaluate, "--checkpoint_dir=own"), (predict, "--checkpoint_dir=own"), (report, "--train_dir=a,b")],
)
def test_two_chains_are_one_too_many(command, other, cat, capsys):
  arguments = [cat] if command is predict else []
  with pytest.raises(SystemExit) as ended:
    command.main(["cifar10", "--published", other, *arguments])
  assert ended.value.code == 2
  assert "are two chains; pass one of them" in capsys.readouterr().err
