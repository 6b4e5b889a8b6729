"""Writes CIFAR-10 as JPEG compression leaves it, in the binary form of the published files.

python scripts/compress_images.py checkpoints/jpeg75 --quality 75 [--data_dir DIRECTORY]

Then name the result with `--data_dir` or CIFAR10_DATA_DIR. Colours are stored at half the resolution, as in most JPEGs.
"""

import argparse
import os
import pathlib
import sys

import numpy as np

from cifar10.errors import UserError
from cifar10.quiet import quietly

with quietly():
  import tensorflow as tf

  from cifar10 import input_pipeline
  from cifar10.datasets import binary_files
  from cifar10.datasets.published import FORMS
  from cifar10.version.files import workplace


def quality_of(text):
  """The quality of a JPEG, an int from 1 to 100, that a command line gives."""
  if not text.isdecimal() or not 1 <= int(text) <= 100:
    raise argparse.ArgumentTypeError(f"is {text!r}; expected a number from 1 to 100.")
  return int(text)


def compressed(images, quality):
  """Images as they are read from JPEGs of them: uint8 (number, height, width, 3), with quality from 1 to 100."""

  def through_jpeg(image):
    encoded = tf.io.encode_jpeg(image, "rgb", quality, chroma_downsampling=True)
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")

  return tf.map_fn(through_jpeg, images).numpy()


def records(images, labels):
  """The bytes of a file: for each image its label, then its red, green and blue planes."""
  planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
  return np.column_stack([labels.astype(np.uint8), planes]).tobytes()


def write(directory, splits, quality):
  """Writes the files of all splits, a dict of `Examples`, and prints how far their images are from those before."""
  form, per_file = FORMS[0], binary_files.RECORDS_PER_FILE
  place = directory / form.directories[0]
  place.mkdir()
  for split, examples in splits.items():
    images = compressed(examples.images, quality)
    error = np.abs(images.astype(np.int16) - examples.images).mean()
    print(f"{split}: mean absolute error {error:.2f} of 255", flush=True)
    for number, name in enumerate(form.files[split]):
      part = slice(number * per_file, (number + 1) * per_file)
      (place / name).write_bytes(records(images[part], examples.labels[part]))


def main():
  """Leaves a directory with all files of both splits, or none."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("directory", type=pathlib.Path, help="where to write; must not be there yet")
  parser.add_argument("--quality", type=quality_of, default=75, help="of the JPEGs, from 1, the lowest, to 100 (75)")
  parser.add_argument("--data_dir", help="CIFAR-10 as it is, by default CIFAR10_DATA_DIR or a download")
  arguments = parser.parse_args()
  if os.path.lexists(arguments.directory):
    parser.error(f"{arguments.directory} is there already; name a new directory.")
  try:
    splits = {split: input_pipeline.load("cifar10", split, arguments.data_dir) for split in ("train", "test")}
    with workplace(arguments.directory) as place:
      write(place, splits, arguments.quality)
      place.rename(arguments.directory)
  except (UserError, OSError) as error:
    sys.exit(str(error))


if __name__ == "__main__":
  main()
