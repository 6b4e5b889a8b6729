"""Writes CIFAR-10 anew, each image as a JPEG of the given quality leaves it, in the binary form of the published files.

python scripts/compress_images.py checkpoints/jpeg75 --quality 75 [--data_dir DIRECTORY]

`--data_dir` or CIFAR10_DATA_DIR then name the result. Colours are stored at half the resolution, as JPEGs mostly do.
"""

import argparse
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


def main():
  """Writes all files of both splits, or none, and prints how far the images are from those before."""
  parser = argparse.ArgumentParser()
  parser.add_argument("directory", type=pathlib.Path, help="where to write; must not be there yet")
  parser.add_argument("--quality", type=int, choices=range(1, 101), metavar="1..100", default=75)
  parser.add_argument("--data_dir", help="CIFAR-10 as it is, by default CIFAR10_DATA_DIR or a download")
  arguments = parser.parse_args()
  if arguments.directory.exists():
    parser.error(f"{arguments.directory} is there already; name a new directory.")
  binary, per_file = FORMS[0], binary_files.RECORDS_PER_FILE
  try:
    with workplace(arguments.directory) as place:
      (place / binary.directories[0]).mkdir()
      for split, names in binary.files.items():
        examples = input_pipeline.load("cifar10", split, arguments.data_dir)
        images = compressed(examples.images, arguments.quality)
        error = np.abs(images.astype(int) - examples.images).mean()
        print(f"{split}: mean absolute error {error:.2f} of 255", flush=True)
        for number, name in enumerate(names):
          part = slice(number * per_file, (number + 1) * per_file)
          (place / binary.directories[0] / name).write_bytes(records(images[part], examples.labels[part]))
      place.rename(arguments.directory)
  except UserError as error:
    sys.exit(str(error))


if __name__ == "__main__":
  main()
