"""Where CIFAR-10 is looked for, and what is said of what lies there instead."""

import hashlib
import os
import shutil
import tarfile

import numpy as np
import pytest
from batches import RECORDS, as_python_2, random_batch

from cifar10.datasets import prepared, published
from cifar10.errors import UserError
from cifar10.input_pipeline import load

pytestmark = pytest.mark.usefixtures("small_files")

BINARY, PYTHON = published.FORMS
NAMES = [*BINARY.files["train"], *BINARY.files["test"]]


@pytest.fixture(scope="module")
def batches():
  """A random batch by name of the file for Python; its name in binary is that with .bin."""
  names = [*PYTHON.files["train"], *PYTHON.files["test"]]
  return {name: random_batch(seed) for seed, name in enumerate(names)}


@pytest.fixture(scope="module")
def sources(batches, tmp_path_factory):
  """A directory that holds both directories and both archives."""
  place = tmp_path_factory.mktemp("sources")
  in_binary = {f"{name}.bin": as_binary(batch) for name, batch in batches.items()}
  for_python = {name: as_python_2(batch) for name, batch in batches.items()}
  for form, files in ((BINARY, in_binary), (PYTHON, for_python)):
    directory = place / form.directories[0]
    directory.mkdir()
    for name, content in files.items():
      (directory / name).write_bytes(content)
    with tarfile.open(place / form.archive, "w:gz") as archive:
      archive.add(directory, form.directories[0])
  return place


def as_binary(batch):
  return np.concatenate([np.array(batch["labels"], np.uint8)[:, None], batch["data"]], 1).tobytes()


@pytest.fixture(autouse=True)
def checksums(sources, monkeypatch):
  """The archives of the test count as the published ones."""
  digests = [hashlib.sha256((sources / form.archive).read_bytes()).hexdigest() for form in published.FORMS]
  forms = (form._replace(sha256=digest) for form, digest in zip(published.FORMS, digests))
  monkeypatch.setattr(published, "FORMS", tuple(forms))


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
  monkeypatch.setattr(prepared, "_probe", lambda url: "there is no network")


def put(sources, name, place):
  """Copies a directory or a file of the sources to a place."""
  place.parent.mkdir(parents=True, exist_ok=True)
  (shutil.copytree if (sources / name).is_dir() else shutil.copy)(sources / name, place)


def assert_is_the_data(data_dir, batches):
  train, test = (load("cifar10", split, data_dir) for split in ("train", "test"))
  expected = [batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for batch in batches.values()]
  np.testing.assert_array_equal(np.concatenate([train.images, test.images]), np.concatenate(expected))
  labels = [batch["labels"] for batch in batches.values()]
  np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), np.concatenate(labels))
  assert len(test.labels) == RECORDS


@pytest.mark.parametrize(
  ("source", "place", "data_dir"),
  [
    ("cifar-10-batches-bin", "cifar-10-batches-bin", ""),
    ("cifar-10-batches-bin", "cifar-10-batches-bin", "cifar-10-batches-bin"),
    ("cifar-10-batches-bin", "renamed", "renamed/"),
    ("cifar-10-batches-py", "cifar-10-batches-py", ""),
    ("cifar-10-batches-py", "cifar-10-batches-py", "cifar-10-batches-py"),
    ("cifar-10-batches-py", "datasets/cifar-10-batches-py-target/cifar-10-batches-py", "datasets"),
    ("cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py", "cifar-10-batches-py-target"),
    ("cifar-10-binary.tar.gz", "cifar-10-binary.tar.gz", ""),
    ("cifar-10-python.tar.gz", "cifar-10-python.tar.gz", ""),
    ("cifar-10-binary.tar.gz", "cifar-10-binary.tar.gz", "cifar-10-binary.tar.gz"),
    ("cifar-10-python.tar.gz", "cifar-10-batches-py.tar.gz", "cifar-10-batches-py.tar.gz"),
  ],
)
def test_data_that_is_there_is_found(sources, batches, tmp_path, source, place, data_dir):
  put(sources, source, tmp_path / "data" / place)
  assert_is_the_data(str(tmp_path / "data" / data_dir), batches)
  paths = {path.relative_to(tmp_path / "data").parts[0] for path in (tmp_path / "data").iterdir()}
  assert paths == {place.partition("/")[0]}, "nothing is extracted"


@pytest.mark.parametrize("directory", ["cifar-10-batches-py-target/cifar-10-batches-py", "cifar-10-batches-py"])
def test_keras_cache_is_looked_into_where_no_directory_is_named(sources, batches, tmp_path, monkeypatch, directory):
  import tensorflow_datasets as tfds

  monkeypatch.delenv("CIFAR10_DATA_DIR", raising=False)
  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.delenv("KERAS_HOME", raising=False)
  put(sources, "cifar-10-batches-py", tmp_path / ".keras" / "datasets" / directory)
  assert_is_the_data(None, batches)
  monkeypatch.setenv("KERAS_HOME", str(tmp_path / "none"))
  with pytest.raises(UserError, match=r"tfds has no CIFAR-10 \(it is not there\)"):
    load("cifar10", "test")
  (tmp_path / ".keras").rename(tmp_path / "none")
  assert_is_the_data(None, batches)
  with pytest.raises(UserError, match=r"empty has no CIFAR-10 \(it is not there\)"):
    load("cifar10", "test", tmp_path / "empty")


def test_what_is_whole_counts_where_something_else_is_not(sources, batches, tmp_path):
  (tmp_path / BINARY.directories[0]).mkdir()
  put(sources, PYTHON.archive, tmp_path / PYTHON.archive)
  assert_is_the_data(tmp_path, batches)


@pytest.mark.parametrize("form", published.FORMS, ids=lambda form: form.archive)
def test_what_is_missing_is_named_and_what_lies_there(sources, tmp_path, form):
  directory = tmp_path / form.directories[0]
  put(sources, form.directories[0], directory)
  for name in form.files["train"][2:4]:
    (directory / name).unlink()
  gone, other = form.files["train"][2:4]
  for place in (tmp_path, directory):
    with pytest.raises(UserError) as caught:
      load("cifar10", "train", place)
    message = str(caught.value)
    assert f"{directory / gone} is missing, and so are {other}; of the published files there are" in message
    assert all(name in message for name in (*form.files["train"][:2], *form.files["test"], form.archive))
    assert load("cifar10", "test", place)


def test_an_archive_with_another_checksum_is_refused_before_it_is_opened(sources, tmp_path, monkeypatch):
  monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("opened"))
  content = bytearray((sources / BINARY.archive).read_bytes())
  content[-1] ^= 1
  path = tmp_path / BINARY.archive
  path.write_bytes(content)
  for place in (path, tmp_path):
    with pytest.raises(UserError) as caught:
      load("cifar10", "test", place)
    assert f"{path} is not a directory and no published archive of CIFAR-10" in str(caught.value)
    assert hashlib.sha256(content).hexdigest() in str(caught.value)
    assert all(form.sha256 in str(caught.value) for form in published.FORMS)


def test_checksums_are_those_of_tensorflow_datasets_and_keras(monkeypatch):
  import inspect

  import keras
  import tensorflow_datasets as tfds

  ((url, info),) = tfds.builder_cls("cifar10").url_infos.items()
  assert (url, info.checksum) == (published.SOURCE + BINARY.archive, BINARY.sha256)
  source = inspect.getsource(keras.datasets.cifar10.load_data)
  assert published.SOURCE + PYTHON.archive in source
  assert PYTHON.sha256 in source


def test_what_is_no_data_is_listed(tmp_path):
  for name in "abcdefghijklm":
    (tmp_path / name).mkdir()
  (tmp_path / "a.txt").write_text("")
  with pytest.raises(
    UserError, match=r"has no CIFAR-10 \(it has a.txt, a/, b/, c/, d/, e/, f/, g/, h/, i/ and 4 more\)"
  ):
    load("cifar10", "test", tmp_path)
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=r"empty has no CIFAR-10 \(it is empty\) and https"):
    load("cifar10", "test", tmp_path / "empty")


def test_a_large_file_and_a_pipe_are_refused(tmp_path):
  large, pipe = tmp_path / "large", tmp_path / "pipe"
  with large.open("wb") as file:
    file.truncate(published.MOST_ARCHIVE_BYTES + 1)
  os.mkfifo(pipe)
  for path in (large, pipe):
    with pytest.raises(UserError, match=f"{path} is not a directory"):
      load("cifar10", "test", path)
  (tmp_path / "test_batch").symlink_to(large)
  with pytest.raises(UserError, match="test_batch has .* bytes, and 67108864 are the most"):
    load("cifar10", "test", tmp_path)
