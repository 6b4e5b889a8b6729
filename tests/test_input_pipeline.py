"""Tests of cifar10.input_pipeline."""

import functools
import hashlib
import http.server
import io
import os
import socket
import tarfile
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from cifar10 import input_pipeline
from cifar10.datasets import prepared
from cifar10.datasets.examples import CLASS_NAMES, Examples
from cifar10.errors import UserError

BINARY_DIR = "cifar-10-batches-bin"
TRAIN_FILES = [f"data_batch_{i}.bin" for i in range(1, 6)]


# The binary files.


def write_binary_files(data_dir, rng):
  """Writes a random data set; returns images and labels of the five training files and the test."""
  (data_dir / BINARY_DIR).mkdir()
  written = {}
  for name in [*TRAIN_FILES, "test_batch.bin"]:
    images = rng.integers(0, 256, (10000, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, 10000, np.uint8)
    (data_dir / BINARY_DIR / name).write_bytes(binary_records(images, labels))
    written[name] = images, labels
  return written


def binary_records(images, labels):
  red, green, blue = (images[..., i].reshape(len(images), -1) for i in range(3))
  return np.concatenate([labels[:, None], red, green, blue], 1).tobytes()


@pytest.fixture(scope="module")
def binary_data(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("binary")
  return data_dir, write_binary_files(data_dir, np.random.default_rng(0))


@pytest.fixture
def published_file(tmp_path):
  """A test file as good as the published one, to be spoilt."""
  (tmp_path / BINARY_DIR).mkdir()
  path = tmp_path / BINARY_DIR / "test_batch.bin"
  path.write_bytes(bytes(30730000))
  return path


def test_binary_files_are_read_in_order(binary_data):
  data_dir, written = binary_data
  train = input_pipeline.load("cifar10", "train", data_dir)
  np.testing.assert_array_equal(train.images, np.concatenate([written[f][0] for f in TRAIN_FILES]))
  np.testing.assert_array_equal(train.labels, np.concatenate([written[f][1] for f in TRAIN_FILES]))
  test = input_pipeline.load("cifar10", "test", data_dir)
  np.testing.assert_array_equal(test.images, written["test_batch.bin"][0])
  np.testing.assert_array_equal(test.labels, written["test_batch.bin"][1])
  assert (test.images.dtype, test.labels.dtype) == (np.uint8, np.int32)
  assert test.images.flags.c_contiguous


def test_data_dir_comes_from_the_environment(binary_data, monkeypatch):
  monkeypatch.setenv("CIFAR10_DATA_DIR", str(binary_data[0]))
  assert input_pipeline.load("cifar10", "test").images.shape == (10000, 32, 32, 3)


def load_error(data_dir, split="test", dataset="cifar10"):
  with pytest.raises(UserError) as caught:
    input_pipeline.load(dataset, split, data_dir)
  message = str(caught.value)
  assert message.endswith(".")
  assert "\n" not in message
  return message


def test_missing_file_is_named(published_file):
  assert "data_batch_1.bin is missing" in load_error(published_file.parent.parent, "train")


@pytest.mark.parametrize("size", [0, 30729999, 30730001])
def test_wrong_size_is_named(published_file, size):
  os.truncate(published_file, size)
  message = load_error(published_file.parent.parent)
  assert str(published_file) in message
  assert f"{size} bytes" in message
  assert "30730000" in message


def test_wrong_label_is_named(published_file):
  with published_file.open("r+b") as file:
    file.seek(3073 * 1234)
    file.write(b"\x0b")
  message = load_error(published_file.parent.parent)
  assert str(published_file) in message
  assert "label 11 in record 1234" in message


def test_data_dir_must_be_a_directory(published_file):
  assert f"{published_file} is not a directory" in load_error(published_file)


def test_names_are_checked():
  assert "cifar10, synthetic" in load_error(None, dataset="cifar100")
  assert "train or test" in load_error(None, split="train_eval")


@pytest.mark.skipif("CIFAR10_DATA_DIR" not in os.environ, reason="CIFAR10_DATA_DIR is not set")
def test_real_data():
  for split, per_class in (("train", 5000), ("test", 1000)):
    examples = input_pipeline.load("cifar10", split)
    assert examples.images.shape == (10 * per_class, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(examples.labels), [per_class] * 10)


# TensorFlow Datasets: download, verification, prepared directory.


def make_archive(rng, per_file=20):
  """The published archive's layout with few records; returns its bytes, images, labels by split."""
  files, splits = {"batches.meta.txt": "\n".join(CLASS_NAMES).encode()}, {}
  for split, names in (("train", TRAIN_FILES), ("test", ["test_batch.bin"])):
    images = rng.integers(0, 256, (per_file * len(names), 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, len(images), np.uint8)
    splits[split] = images, labels
    for i, name in enumerate(names):
      part = slice(i * per_file, (i + 1) * per_file)
      files[name] = binary_records(images[part], labels[part])
  archive = io.BytesIO()
  with tarfile.open(fileobj=archive, mode="w:gz") as tar:
    for name, content in files.items():
      member = tarfile.TarInfo(f"{BINARY_DIR}/{name}")
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return archive.getvalue(), splits


class QuietHandler(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *args):
    pass


@pytest.fixture
def server(tmp_path):
  """A web server on this machine that serves `<tmp_path>/www`."""
  (tmp_path / "www").mkdir()
  handler = functools.partial(QuietHandler, directory=tmp_path / "www")
  server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield server
  server.shutdown()
  server.server_close()


@pytest.fixture
def register(monkeypatch):
  """Makes TensorFlow Datasets expect CIFAR-10 at another address, with another checksum."""
  import tensorflow_datasets as tfds

  cifar10 = tfds.builder_cls("cifar10")
  published = cifar10._cifar_info.fget

  def register(url, content=b""):
    checksum = hashlib.sha256(content).hexdigest()
    info = tfds.core.download.checksums.UrlInfo(len(content), checksum, "cifar.tar.gz")
    monkeypatch.setattr(cifar10, "url_infos", {url: info})
    monkeypatch.setattr(cifar10, "_cifar_info", property(lambda self: published(self)._replace(url=url)))
    monkeypatch.setenv("no_proxy", "localhost")

  return register


def serve(server, tmp_path, content):
  (tmp_path / "www" / "cifar.tar.gz").write_bytes(content)
  return f"http://localhost:{server.server_port}/cifar.tar.gz"


def assert_examples(examples, images, labels):
  np.testing.assert_array_equal(examples.images, images)
  np.testing.assert_array_equal(examples.labels, labels)
  assert (examples.images.dtype, examples.labels.dtype) == (np.uint8, np.int32)


def test_published_url_and_checksum():
  import tensorflow_datasets as tfds

  ((url, info),) = tfds.builder_cls("cifar10").url_infos.items()
  assert url.endswith("/cifar-10-binary.tar.gz")
  assert len(info.checksum) == 64


def test_download_then_read_again_without_network(server, register, tmp_path, monkeypatch):
  from tensorflow_datasets.core.utils import gcs_utils

  archive, splits = make_archive(np.random.default_rng(1))
  register(serve(server, tmp_path, archive), archive)
  data_dir = tmp_path / "data"
  assert_examples(input_pipeline.load("cifar10", "train", data_dir), *splits["train"])

  server.shutdown()
  server.server_close()
  monkeypatch.setattr(prepared, "_probe", lambda url: pytest.fail("asked for the download"))
  monkeypatch.setattr(gcs_utils, "_is_gcs_disabled", False)
  monkeypatch.setattr(gcs_utils, "exists", lambda path: pytest.fail("asked Google Cloud Storage"))
  assert_examples(input_pipeline.load("cifar10", "train", data_dir), *splits["train"])
  assert_examples(input_pipeline.load("cifar10", "test", data_dir), *splits["test"])

  (records,) = data_dir.glob("cifar10/*/cifar10-test.tfrecord-*")
  os.truncate(records, records.stat().st_size // 2)
  assert "cannot be read" in load_error(data_dir)


def test_wrong_checksum_leaves_no_data(server, register, tmp_path):
  archive, splits = make_archive(np.random.default_rng(2))
  url = serve(server, tmp_path, archive)
  data_dir = tmp_path / "data"
  register(url, b"something else")
  for _ in range(2):  # A second try takes nothing left by the first for data.
    message = load_error(data_dir)
    assert "wrong checksum" in message
    assert url in message
    assert str(data_dir) in message
    assert not list(data_dir.glob("cifar10/*"))
  register(url, archive)
  assert_examples(input_pipeline.load("cifar10", "test", data_dir), *splits["test"])


def test_damaged_archive_leaves_no_data(server, register, tmp_path):
  archive, splits = make_archive(np.random.default_rng(3))
  data_dir = tmp_path / "data"
  half = archive[: len(archive) // 2]
  register(serve(server, tmp_path, half), half)
  for _ in range(2):
    assert "failed (" in load_error(data_dir)
  register(serve(server, tmp_path, archive), archive)
  assert_examples(input_pipeline.load("cifar10", "test", data_dir), *splits["test"])


@pytest.mark.parametrize("name", ["../evil", "{outside}/evil", "cifar-10-batches-bin/../../../evil"])
def test_an_archive_that_reaches_outside_is_refused(server, register, tmp_path, name):
  name = name.format(outside=tmp_path)
  archive = io.BytesIO()
  with tarfile.open(fileobj=archive, mode="w:gz") as tar:
    member = tarfile.TarInfo(name)
    member.size = 4
    tar.addfile(member, io.BytesIO(b"evil"))
  register(serve(server, tmp_path, archive.getvalue()), archive.getvalue())
  assert "failed (" in load_error(tmp_path / "data")
  assert not list(tmp_path.parent.rglob("evil"))


def test_interrupted_preparation_is_not_data(register, tmp_path):
  register("http://localhost:9/cifar.tar.gz")
  (tmp_path / "cifar10" / "incomplete.ABCDEF_3.0.2").mkdir(parents=True)
  assert "has no CIFAR-10" in load_error(tmp_path)


def test_damaged_prepared_directory(tmp_path):
  (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
  message = load_error(tmp_path)
  assert str(tmp_path / "cifar10" / "3.0.2") in message
  assert "delete it" in message


def assert_fails_fast(data_dir):
  start = time.monotonic()
  message = load_error(data_dir)
  assert time.monotonic() - start < 15
  assert "out of reach" in message
  assert str(data_dir / BINARY_DIR) in message
  return message


def test_refused_connection_fails_fast(register, tmp_path):
  with socket.socket() as unused:
    unused.bind(("localhost", 0))
    register(f"http://localhost:{unused.getsockname()[1]}/cifar.tar.gz")
    assert "refused" in assert_fails_fast(tmp_path)


def test_silent_server_fails_fast(register, tmp_path):
  with socket.create_server(("localhost", 0)) as silent:
    register(f"http://localhost:{silent.getsockname()[1]}/cifar.tar.gz")
    assert_fails_fast(tmp_path)


def test_slow_name_resolution_fails_fast(register, tmp_path, monkeypatch):
  def resolve(*_):
    time.sleep(20)
    raise socket.gaierror("no such host")

  register("http://localhost:9/cifar.tar.gz")
  monkeypatch.setattr(socket, "getaddrinfo", resolve)
  monkeypatch.setattr(prepared, "PROBE_SECONDS", 1)
  assert "no answer in 1 seconds" in assert_fails_fast(tmp_path)


def test_absent_file_on_server_fails_fast(server, register, tmp_path):
  register(f"http://localhost:{server.server_port}/nothing.tar.gz")
  assert "404" in assert_fails_fast(tmp_path)


# The synthetic data.


@pytest.fixture(scope="module")
def synthetic():
  return [input_pipeline.load("synthetic", split) for split in ("train", "test")]


def test_synthetic_is_the_same_everywhere(synthetic):
  digests = [hashlib.sha256(e.images.tobytes() + e.labels.tobytes()).hexdigest() for e in synthetic]
  assert digests == [
    "0054e0e1146c1e126ad0d4b29eb180df5a4f7a3cfa462ead3317d063ab44ec05",
    "729a3f52238aec2d97dd3fe8b07044e26b4bc397730546312bc4380b132e69d4",
  ]


def test_synthetic_classes_are_balanced(synthetic):
  for examples, per_class in zip(synthetic, (2000, 1000), strict=True):
    assert examples.images.shape == (10 * per_class, 32, 32, 3)
    assert (examples.images.dtype, examples.labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(np.bincount(examples.labels), [per_class] * 10)


def ridge_accuracies(features, synthetic, ridges):
  """Accuracies on the test images of linear classifiers fitted to 5000 training images, one for each ridge."""
  (x, y), (x_test, y_test) = ((features(e.images[:5000]), e.labels[:5000]) for e in synthetic)
  x, x_test = (np.pad(a, [(0, 0), (0, 1)], constant_values=1) for a in (x, x_test))
  one_hot = np.eye(10, dtype=np.float32)[y]
  products, sums = x.T @ x, x.T @ one_hot
  for ridge in ridges:
    weights = np.linalg.solve(products + ridge * np.eye(x.shape[1], dtype=np.float32), sums)
    yield np.mean(np.argmax(x_test @ weights, 1) == y_test)


def test_synthetic_is_not_told_by_mean_colour(synthetic):
  def mean_colour(images):
    return images.mean((1, 2), dtype=np.float32) / 255

  (accuracy,) = ridge_accuracies(mean_colour, synthetic, [1e-3])
  assert accuracy < 0.15


def test_synthetic_is_not_told_by_a_linear_model(synthetic):
  def pixels(images):
    return images.reshape(len(images), -1) / np.float32(255) - np.float32(0.5)

  assert max(ridge_accuracies(pixels, synthetic, [1, 100, 1000, 10000])) < 0.45


def test_synthetic_is_told_by_structure(synthetic):
  """Nearest class mean of the images' spectra, blind to position, flip and sign of contrast."""

  def spectra(images):
    grey = images.mean(3) - images.mean((1, 2, 3))[:, None, None]
    power = np.abs(np.fft.fft2(grey))
    power = power + power[:, :, -np.arange(32)]
    return power.reshape(len(power), -1) / np.linalg.norm(power, axis=(1, 2))[:, None]

  (x, y), (x_test, y_test) = ((spectra(e.images[:2000]), e.labels[:2000]) for e in synthetic)
  means = np.stack([x[y == label].mean(0) for label in range(10)])
  distances = np.linalg.norm(x_test[:, None] - means, axis=2)
  assert np.mean(np.argmin(distances, 1) == y_test) > 0.8


# Standardisation and distortions, against tf.image one image at a time.


@pytest.fixture(scope="module")
def images():
  images = np.random.default_rng(4).integers(0, 256, (16, 32, 32, 3), np.uint8)
  images[0] = 77  # No variance.
  return images


def one_by_one(function, images, *draws):
  return np.stack([function(*arguments).numpy() for arguments in zip(images, *draws, strict=True)])


def test_standardize(images):
  got = input_pipeline.standardize(images)
  x = images.astype(np.float64)
  deviation = np.maximum(x.std((1, 2, 3), keepdims=True), 1 / np.sqrt(3072))
  expected = (x - x.mean((1, 2, 3), keepdims=True)) / deviation
  np.testing.assert_allclose(got, expected, atol=1e-5)
  np.testing.assert_allclose(got, one_by_one(tf.image.per_image_standardization, images), atol=1e-5)
  assert got.dtype == tf.float32
  assert not np.any(got[0])


def test_crop(images):
  offsets = np.array([(i * 5 % 9, i * 7 % 9) for i in range(14)] + [(0, 8), (8, 0)], np.int32)

  def crop(image, offset):
    padded = tf.image.resize_with_crop_or_pad(image, 40, 40)
    return tf.image.crop_to_bounding_box(padded, *offset, 32, 32)

  got = input_pipeline.crop(images, offsets)
  assert got.dtype == tf.uint8
  np.testing.assert_array_equal(got, one_by_one(crop, images, offsets))


def test_flip(images):
  flipped = np.arange(16) % 3 == 0

  def flip(image, flipped):
    return tf.image.flip_left_right(image) if flipped else tf.constant(image)

  np.testing.assert_array_equal(input_pipeline.flip(images, flipped), one_by_one(flip, images, flipped))


def test_adjust_brightness(images):
  x = images.astype(np.float32)
  deltas = np.linspace(-63, 63, 16, dtype=np.float32)
  np.testing.assert_array_equal(
    input_pipeline.adjust_brightness(x, deltas),
    one_by_one(tf.image.adjust_brightness, x, deltas),
  )


def test_adjust_contrast(images):
  x = images.astype(np.float32)
  factors = np.linspace(0.2, 1.8, 16, dtype=np.float32)
  np.testing.assert_allclose(
    input_pipeline.adjust_contrast(x, factors),
    one_by_one(tf.image.adjust_contrast, x, factors),
    atol=1e-3,
  )


@pytest.fixture
def draws(monkeypatch):
  """Records the draws of each call of `distort`, by the name of the distortion."""
  recorded = {}

  def record(distortion, images, values):
    recorded[distortion.__name__] = values.numpy()
    return distortion(images, values)

  for name in ("crop", "flip", "adjust_brightness", "adjust_contrast"):
    distortion = getattr(input_pipeline, name)
    monkeypatch.setattr(input_pipeline, name, functools.partial(record, distortion))
  return recorded


def test_distort_is_the_chain_of_distortions(images, draws):
  got = input_pipeline.distort(images, 5, 6)
  assert got.dtype == tf.float32
  assert got.shape == images.shape

  def chain(image, offset, flipped, delta, factor):
    image = tf.image.resize_with_crop_or_pad(image, 40, 40)
    image = tf.image.crop_to_bounding_box(image, *offset, 32, 32)
    image = tf.image.flip_left_right(image) if flipped else image
    image = tf.image.adjust_brightness(tf.cast(image, tf.float32), delta)
    return tf.image.per_image_standardization(tf.image.adjust_contrast(image, factor))

  np.testing.assert_allclose(got, one_by_one(chain, images, *draws.values()), atol=1e-4)


def test_crops_and_flips_alone_leave_brightness_and_contrast(images, draws):
  got = input_pipeline.distort(images, 5, 6, distortions="crop_flip")
  assert list(draws) == ["crop", "flip"]
  offsets, flipped = map(tf.constant, draws.values())
  cropped = input_pipeline.crop(tf.cast(images, tf.float32), offsets)
  expected = input_pipeline.standardize(input_pipeline.flip(cropped, flipped))
  np.testing.assert_array_equal(got, expected)


def test_draws_have_the_reference_ranges(draws):
  input_pipeline.distort(np.zeros((9000, 32, 32, 3), np.uint8), 7, 8)
  offsets, flipped, deltas, factors = draws.values()
  counts = np.unique(offsets, axis=0, return_counts=True)[1]
  assert len(counts) == 81
  assert counts.min() > 60
  assert counts.max() < 170
  assert offsets.min() == 0
  assert offsets.max() == 8
  assert 0.45 < flipped.mean() < 0.55
  for values, low, high in ((deltas, -63, 63), (factors, 0.2, 1.8)):
    counts, _ = np.histogram(values, 10, (low, high))
    assert counts.sum() == 9000
    assert counts.min() > 750
    assert counts.max() < 1050


def test_draws_are_independent(draws):
  """Between images, kinds of draws, seeds and steps."""

  def columns(seed, step):
    input_pipeline.distort(np.zeros((4000, 32, 32, 3), np.uint8), seed, step)
    return np.column_stack(list(draws.values())).T

  first, other_step, other_seed = columns(1, 1), columns(1, 2), columns(2, 1)
  shifted = np.roll(first, 1, axis=1)  # Each image's draws beside those of the one before it.
  correlation = np.corrcoef(np.concatenate([first, shifted, other_step, other_seed]))
  assert np.abs(correlation - np.eye(len(correlation))).max() < 0.07


def test_distort_is_a_pure_function_of_seed_and_step(images):
  first = input_pipeline.distort(images, 2**63 - 1, 3)
  traced = tf.function(input_pipeline.distort)
  again = traced(images, tf.constant(2**63 - 1, tf.int64), tf.constant(3, tf.int64))
  np.testing.assert_allclose(first, again, atol=1e-4)
  assert np.abs(first - input_pipeline.distort(images, 2**63 - 1, 4)).max() > 0.1
  assert np.abs(first - input_pipeline.distort(images, 2**63 - 2, 3)).max() > 0.1
  assert np.abs(first - input_pipeline.distort(images, 2**31 - 1, 3)).max() > 0.1


# The order of the examples.


@pytest.mark.parametrize(
  ("batch_size", "num_examples", "epochs"),
  [(1, 1, 5), (4, 1, 5), (3, 7, 6), (20, 7, 20), (125, 1000, 3), (128, 1000, 16), (9999, 65537, 2)],
)
def test_order_is_whole_permutations(batch_size, num_examples, epochs):
  steps = -(-epochs * num_examples // batch_size)
  indices = tf.function(input_pipeline.example_indices)
  row = np.concatenate([indices(11, tf.constant(step, tf.int64), batch_size, num_examples) for step in range(steps)])
  assert row.dtype == np.int64
  for epoch in row[: epochs * num_examples].reshape(epochs, num_examples):
    np.testing.assert_array_equal(np.sort(epoch), np.arange(num_examples))


def test_order_of_cifar10_differs_by_epoch_and_seed():
  orders = [
    input_pipeline.example_indices(seed, epoch, 50000, 50000)
    for seed, epoch in [(0, 0), (0, 1), (0, 256), (1, 0), (256, 0), (2**32, 0), (2**63 - 1, 0)]
  ]
  for i, order in enumerate(orders):
    np.testing.assert_array_equal(np.sort(order), np.arange(50000))
    assert abs(np.corrcoef(order, np.arange(50000))[0, 1]) < 0.02
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.02
    for other in orders[:i]:
      assert np.mean(order == other) < 0.001
      assert abs(np.corrcoef(order, other)[0, 1]) < 0.02


def test_every_permutation_turns_up():
  row = input_pipeline.example_indices(3, 0, 3 * 400, 3)
  counts = np.unique(row.numpy().reshape(-1, 3), axis=0, return_counts=True)[1]
  assert len(counts) == 6
  assert counts.min() > 40


def test_batches_of_any_size_cut_the_same_row():
  row = input_pipeline.example_indices(9, 0, 42, 10).numpy()
  for batch_size in (1, 2, 3, 6, 7, 14, 21):
    batches = [input_pipeline.example_indices(9, step, batch_size, 10) for step in range(42 // batch_size)]
    np.testing.assert_array_equal(np.concatenate(batches), row)


def test_order_is_a_pure_function_of_seed_and_step():
  indices = tf.function(lambda seed, step: input_pipeline.example_indices(seed, step, 30, 50))
  seed, step = 2**62 + 1, 2**40
  first = input_pipeline.example_indices(seed, step, 30, 50)
  assert first.shape == (30,)
  again = indices(tf.constant(seed, tf.int64), tf.constant(step, tf.int64))
  assert again.shape == (30,)
  np.testing.assert_array_equal(first, again)


# Whole batches.


def test_batch_picks_and_distorts(synthetic):
  examples = Examples(synthetic[0].images[:100], synthetic[0].labels[:100])
  tensors = Examples(*map(tf.constant, examples))
  traced = tf.function(lambda step: input_pipeline.batch(tensors, 13, step, 30))
  for step in (0, 3, 10):
    indices = input_pipeline.example_indices(13, step, 30, 100).numpy()
    images, labels = input_pipeline.batch(examples, 13, step, 30)
    assert (images.dtype, labels.dtype) == (tf.float32, tf.int32)
    np.testing.assert_array_equal(labels, examples.labels[indices])
    expected = input_pipeline.distort(examples.images[indices], 13, step)
    np.testing.assert_allclose(images, expected, atol=1e-4)
    traced_images, traced_labels = traced(tf.constant(step, tf.int64))
    np.testing.assert_array_equal(traced_labels, labels)
    np.testing.assert_allclose(traced_images, images, atol=1e-4)
