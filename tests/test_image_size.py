import io
import os

import numpy as np
import PIL.Image
import pytest

from cifar10 import predict
from cifar10.errors import UserError
from cifar10.image_size import image_size
from cifar10.predict import read_image


def encoded(kind, width=37, height=21, **settings):
  file = io.BytesIO()
  image = PIL.Image.fromarray(np.full((height, width, 3), 90, np.uint8))
  image.save(file, kind, **settings)
  return file.getvalue()


KINDS = [
  ("PNG", {}),
  ("JPEG", {}),
  ("JPEG", {"progressive": True}),
  ("JPEG", {"exif": bytes(5000), "comment": b"\xff\xc0"}),
  ("GIF", {}),
  ("BMP", {}),
  ("WEBP", {}),
  ("WEBP", {"lossless": True}),
  ("WEBP", {"exif": b"Exif\0\0MM"}),
]


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_the_size_stands_in_the_header(kind, settings):
  contents = encoded(kind, **settings)
  assert image_size(contents) == (37, 21)
  for length in range(0, min(len(contents), 600), 7):
    image_size(contents[:length])


def test_a_bmp_from_top_to_bottom_has_its_size():
  contents = bytearray(encoded("BMP"))
  contents[22:26] = (-21).to_bytes(4, "little", signed=True)
  assert image_size(bytes(contents)) == (37, 21)


def test_all_frames_of_a_gif_count():
  frames = [PIL.Image.fromarray(np.full((21, 37, 3), value, np.uint8)) for value in (90, 30, 10)]
  file = io.BytesIO()
  frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
  width, height = image_size(file.getvalue())
  assert width * height == 3 * 21 * 37


def test_what_is_no_image_has_no_size():
  for contents in (b"", b"text", b"\xff\xd8\xff\xff", b"\xff\xd8\xff\xda\0", b"BM", b"GIF89a"):
    assert image_size(contents) is None


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path, monkeypatch, kind, settings):
  path = tmp_path / "image"
  path.write_bytes(encoded(kind, **settings))
  assert read_image(path).shape == (32, 32, 3)
  monkeypatch.setattr(predict, "MOST_PIXELS", 37 * 21 - 1)
  monkeypatch.setattr("tensorflow.io.decode_image", None)
  with pytest.raises(UserError, match="image has 37 x 21 pixels; give an image of up to 776 pixels, in a file"):
    read_image(path)


def test_a_png_that_claims_to_be_huge_is_refused(tmp_path):
  contents = bytearray(encoded("PNG"))
  contents[16:24] = (23000).to_bytes(4, "big") * 2
  (tmp_path / "image").write_bytes(contents)
  with pytest.raises(UserError, match="image has 23,000 x 23,000 pixels; give an image of up to 67,108,864 pixels"):
    read_image(tmp_path / "image")


def test_only_regular_files_of_some_size_are_read(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  with open(tmp_path / "sparse", "wb") as file:
    file.truncate(20 << 30)
  (tmp_path / "link").symlink_to("/dev/zero")
  for name, reason in (
    ("pipe", "It is a device, a pipe or a socket, not a file"),
    ("link", "It is a device, a pipe or a socket, not a file"),
    ("sparse", "It has 21,474,836,480 bytes, and 268,435,456 are the most"),
  ):
    with pytest.raises(UserError) as error:
      read_image(tmp_path / name)
    assert str(error.value) == f"{tmp_path / name} cannot be read ({reason}); give the path of an image file."
