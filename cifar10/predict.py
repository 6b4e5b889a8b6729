"""The classes that a version's network sees in image files."""

import tensorflow as tf

from cifar10.config import PredictConfig, check
from cifar10.console import say
from cifar10.datasets.examples import CLASSES, IMAGE_SHAPE
from cifar10.errors import UserError, first_line
from cifar10.image_size import image_size
from cifar10.input_pipeline import standardize
from cifar10.version.choosing import chosen_by
from cifar10.version.files import MOST_BYTES, read

# Decoding takes some 20 bytes for each.
MOST_PIXELS = 1 << 26


def predict(config: PredictConfig):
  """Prints for each image file the most probable classes, one line a file.

  Raises:
    UserError: there is no such version; or files cannot be read, one sentence for each, after the lines of the others.
  """
  check(config)
  version = chosen_by(config).must_exist()
  network, _, damage = version.load(config.checkpoint_iter)
  say(*damage)
  class_names = CLASSES[version.own_dataset(config.dataset)]
  complaints = []
  for path in config.images:
    try:
      image = read_image(path)
    except UserError as error:
      complaints.append(str(error))
      continue
    probabilities = tf.nn.softmax(network(standardize(image[None]), training=False)[0])
    top = tf.math.top_k(probabilities, config.top)
    names = (class_names[index] for index in top.indices.numpy())
    classes = ", ".join(f"{name} {value:.4f}" for name, value in zip(names, top.values.numpy()))
    print(f"{path}: {classes}".encode(errors="backslashreplace").decode(), flush=True)
  if complaints:
    raise UserError(*complaints)


def read_image(path):
  """Reads an image file of any size as the networks take images, but for `standardize`.

  Grey becomes RGB, what is transparent becomes white, 16 bits become 8, and of an animation the first frame counts.
  The largest square in the middle is cut out and scaled, so that proportions stay.

  Args:
    path: of a PNG, JPEG, BMP or GIF file.

  Returns:
    float32 (32, 32, 3), 0 to 255; exactly the pixels of an image of that size.

  Raises:
    UserError: it cannot be read, is no image, or too large a one.
  """
  contents = read(path, MOST_BYTES, "give the path of an image file")
  width, height = image_size(contents) or (0, 0)
  if width * height > MOST_PIXELS:
    raise UserError(
      f"{path} has {width:,} x {height:,} pixels; give an image of up to {MOST_PIXELS:,} pixels, in a file of up to "
      f"{MOST_BYTES:,} bytes."
    )
  try:
    # On an animated WebP file TensorFlow 2.21 writes outside its memory with channels=0; with 3 it refuses the file.
    channels = 3 if contents[8:12] == b"WEBP" else 0
    image = tf.io.decode_image(contents, channels, expand_animations=False)
  except tf.errors.OpError as error:
    raise UserError(
      f"{path} is no image, or a damaged one ({first_line(error)}); give a whole PNG, JPEG, BMP or GIF file."
    ) from error
  side = min(image.shape[:2])
  image = _rgb(tf.cast(tf.image.resize_with_crop_or_pad(image, side, side), tf.float32))
  return tf.image.resize(image, IMAGE_SHAPE[:2], antialias=True)


def _rgb(image):
  """Red, green and blue, on white, of an image (height, width, 1 to 4 channels), float32, 0 to 255."""
  colours, opacity = image, 1.0
  if image.shape[-1] in (2, 4):
    colours, opacity = image[..., :-1], image[..., -1:] / 255
    opacity = opacity if tf.reduce_any(opacity > 0) else 1.0  # BMP files often have an alpha channel without use.
  return colours * opacity + 255 * (1 - opacity) + tf.zeros(3)
