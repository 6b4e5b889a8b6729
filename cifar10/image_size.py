"""The size of an image, read from the header of its file before anything is decoded."""

import struct

_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xD9)}


def image_size(contents):
  """Reads the size of an image.

  Args:
    contents: bytes of a PNG, JPEG, GIF, BMP or WebP file.

  Returns:
    Width and height; of a GIF with several frames, those of all of them one below the other. None where the header says
    no size, so that nothing can be decoded either.
  """
  for start, size in _SIZES.items():
    if contents.startswith(start):
      try:
        return size(contents)
      except (struct.error, IndexError, ValueError):
        return None
  return None


def _png(contents):
  return struct.unpack_from(">II", contents, 16)


def _bmp(contents):
  width, height = struct.unpack_from("<ii", contents, 18)
  return abs(width), abs(height)


def _jpeg(contents):
  """Goes from marker to marker up to the frame's; what lies between them is passed over, as libjpeg does."""
  at = 2
  while True:
    at = contents.index(b"\xff", at)
    while contents[at] == 0xFF:
      at += 1
    marker, at = contents[at], at + 1
    if marker in _JPEG_FRAMES:
      height, width = struct.unpack_from(">HH", contents, at + 3)
      return width, height
    if marker not in _JPEG_WITHOUT_LENGTH:
      at += struct.unpack_from(">H", contents, at)[0]


def _gif(contents):
  """TensorFlow unpacks all frames, though only the first counts."""
  width, height, flags = struct.unpack_from("<HHB", contents, 6)
  pixels, frames, at = 0, 0, 13 + _palette(flags)
  while at < len(contents) and contents[at] in (0x21, 0x2C):
    if contents[at] == 0x2C:
      across, down, flags = struct.unpack_from("<4xHHB", contents, at + 1)
      pixels, frames, at = pixels + across * down, frames + 1, at + 10 + _palette(flags) + 1
    else:
      at += 2
    while at < len(contents) and contents[at]:
      at += 1 + contents[at]
    at += 1
  return (width, height) if frames < 2 and pixels <= width * height else (max(width, 1), -(-pixels // max(width, 1)))


def _palette(flags):
  return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp(contents):
  kind = contents[12:16]
  if kind == b"VP8X":
    width, height = (int.from_bytes(contents[at : at + 3], "little") + 1 for at in (24, 27))
  elif kind == b"VP8L":
    bits = int.from_bytes(contents[21:25], "little")
    width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
  else:
    width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", contents, 26))
  return width, height


_SIZES = {b"\x89PNG": _png, b"\xff\xd8": _jpeg, b"GIF8": _gif, b"BM": _bmp, b"RIFF": _webp}
