import struct

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers import change

from cifar10.cli import predict as command
from cifar10.config import PredictConfig
from cifar10.datasets.examples import CLASS_NAMES, SYNTHETIC_CLASS_NAMES
from cifar10.errors import UserError
from cifar10.input_pipeline import standardize
from cifar10.predict import predict, read_image
from cifar10.version.directory import Version

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
RGB = PIXELS[..., :3]


def bmp(pixels):
  """A BMP file of blue, green, red, and alpha if there is one."""
  height, width, channels = pixels.shape
  data = np.ascontiguousarray(pixels[::-1]).tobytes()
  info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 * channels, 0, len(data), 2835, 2835, 0, 0)
  return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + info + data


def gif():
  """Two frames of one pixel: white, then black."""
  frame = b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02%s\x01\x00"
  header = b"GIF89a" + struct.pack("<2H3B", 1, 1, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
  return header + frame % b"\x4c" + frame % b"\x44" + b"\x3b"


def png(pixels):
  return tf.io.encode_png(pixels).numpy()


@pytest.fixture
def write(tmp_path):
  def write(contents, name="image"):
    (tmp_path / name).write_bytes(contents)
    return str(tmp_path / name)

  return write


@pytest.mark.parametrize(
  ("contents", "expected"),
  [
    (lambda: png(RGB), RGB),
    (lambda: png(RGB[..., :1]), RGB[..., :1]),
    (lambda: png(RGB.astype(np.uint16) * 257), RGB),
    (lambda: png(PIXELS), 255 - PIXELS[..., 3:] / 255.0 * (255.0 - RGB)),
    (lambda: png(PIXELS[..., 2:]), 255 - PIXELS[..., 3:] / 255.0 * (255.0 - PIXELS[..., 2:3])),
    (lambda: bmp(RGB[..., ::-1]), RGB),
    (lambda: bmp(np.concatenate([RGB[..., ::-1], np.zeros((32, 32, 1), np.uint8)], axis=-1)), RGB),
    (lambda: tf.io.encode_jpeg(np.full((32, 32, 3), 90, np.uint8)).numpy(), np.full((32, 32, 3), 90)),
    (lambda: tf.io.encode_jpeg(np.full((32, 32, 1), 90, np.uint8)).numpy(), np.full((32, 32, 3), 90)),
    (gif, np.full((32, 32, 3), 255)),
  ],
  ids=["rgb", "grey", "16 bit", "transparent", "grey transparent", "bmp", "bmp 32", "jpeg", "jpeg grey", "gif"],
)
def test_every_kind_of_file_becomes_rgb(write, contents, expected):
  image = read_image(write(contents()))
  assert (image.shape, image.dtype) == ((32, 32, 3), tf.float32)
  np.testing.assert_allclose(image, np.broadcast_to(expected, (32, 32, 3)), atol=1e-3)


def test_the_largest_square_in_the_middle_is_scaled(write):
  square = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
  for pixels in (np.pad(square, [(0, 0), (20, 20), (0, 0)]), np.pad(square, [(7, 7), (0, 0), (0, 0)]), square):
    image = read_image(write(png(pixels)))
    np.testing.assert_allclose(image, tf.image.resize(square, (32, 32), antialias=True))
  coarse = np.repeat(np.repeat(RGB[:8, :8], 8, axis=0), 8, axis=1)
  means = read_image(write(png(coarse))).numpy().reshape(8, 4, 8, 4, 3)[:, 1:3, :, 1:3].mean(axis=(1, 3))
  np.testing.assert_allclose(means, RGB[:8, :8], atol=16)


@pytest.fixture
def config(tmp_path, tiny_world, tiny_network):
  Version(tmp_path / "run", 3).replace(tiny_network)
  return PredictConfig(checkpoint_version=3, checkpoint_dir=str(tmp_path / "run"), dataset="synthetic")


@pytest.mark.parametrize(("dataset", "names"), [("synthetic", SYNTHETIC_CLASS_NAMES), ("cifar10", CLASS_NAMES)])
def test_the_classes_are_those_of_the_network(config, tiny_network, synthetic, write, capsys, dataset, names):
  pixels = synthetic["test"].images[:3]
  images = tuple(write(png(each), f"{index}.png") for index, each in enumerate(pixels))
  predict(change(config, images=images, dataset=dataset, top=4))
  probabilities = tf.nn.softmax(tiny_network(standardize(pixels), training=False)).numpy()
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 3
  for line, path, expected in zip(lines, images, probabilities):
    file, _, classes = line.rpartition(": ")
    assert file == path
    found = [(each.rsplit(" ", 1)[0], float(each.rsplit(" ", 1)[1])) for each in classes.split(", ")]
    order = np.argsort(-expected)[:4]
    assert [name for name, _ in found] == [names[index] for index in order]
    np.testing.assert_allclose([value for _, value in found], expected[order], atol=1e-4)


def test_synthetic_names_are_those_of_its_textures(synthetic):
  assert len(set(SYNTHETIC_CLASS_NAMES)) == 10
  images, labels = (array[:500] for array in synthetic["test"])
  for label, name in enumerate(SYNTHETIC_CLASS_NAMES):
    values = images[labels == label].astype(int)
    across, down = (abs(np.diff(values, axis=axis)).mean() for axis in (2, 1))
    if "horizontal" in name:
      assert across < down / 2
    if "vertical" in name:
      assert down < across / 2
    if name.startswith("narrow"):
      wide = images[labels == SYNTHETIC_CLASS_NAMES.index(name.replace("narrow", "wide"))].astype(int)
      assert across + down > sum(abs(np.diff(wide, axis=axis)).mean() for axis in (1, 2))


@pytest.mark.parametrize(
  ("contents", "sentence"),
  [
    (b"", r"is no image, or a damaged one \(Input is empty\); give a whole PNG"),
    (b"some text", r"is no image, or a damaged one \(Unknown image file format"),
    (png(RGB)[:1000], r"is no image, or a damaged one \("),
    (png(RGB)[:20], r"is no image, or a damaged one \("),
    (tf.io.encode_jpeg(RGB).numpy()[:1000], r"is no image, or a damaged one \("),
    (bmp(RGB)[:1000], r"is no image, or a damaged one \("),
    (gif()[:30], r"is no image, or a damaged one \("),
  ],
  ids=["empty", "text", "png", "png head", "jpeg", "bmp", "gif"],
)
def test_what_is_no_whole_image_is_one_sentence(write, contents, sentence):
  with pytest.raises(UserError, match=sentence) as error:
    read_image(write(contents))
  assert len(str(error.value).splitlines()) == 1


def test_other_images_are_not_lost(config, write, tmp_path, capsys):
  good = write(png(RGB), "good.png")
  missing, directory, text = str(tmp_path / "missing.png"), str(tmp_path), write(b"text", "text.txt")
  arguments = ["--checkpoint_version=3", f"--checkpoint_dir={config.checkpoint_dir}", missing, good, directory, text]
  assert command.main(["cifar10-predict", *arguments]) == 1
  output = capsys.readouterr()
  assert [line.partition(": ")[0] for line in output.out.splitlines()] == [good]
  first, second, third = [line for line in output.err.splitlines() if "; give " in line]
  assert (
    first == f"cifar10-predict: {missing} cannot be read (No such file or directory); give the path of an image file."
  )
  assert second == f"{directory} cannot be read (Is a directory); give the path of an image file."
  assert third.startswith(f"{text} is no image")


def test_a_missing_version_is_one_sentence(config):
  with pytest.raises(UserError, match="there is no directory .*run_5: train --checkpoint_version 4 first"):
    predict(change(config, checkpoint_version=5, images=("a.png",)))


def test_webp_files_are_read_but_not_animated_ones(tmp_path):
  frames = [PIL.Image.fromarray(np.full((32, 32, 3), value, np.uint8)) for value in (90, 30)]
  frames[0].save(tmp_path / "still.webp", lossless=True)
  frames[0].save(tmp_path / "animated.webp", save_all=True, append_images=frames[1:], lossless=True)
  np.testing.assert_array_equal(read_image(tmp_path / "still.webp"), np.full((32, 32, 3), 90))
  with pytest.raises(UserError, match="animated.webp is no image"):
    read_image(tmp_path / "animated.webp")
