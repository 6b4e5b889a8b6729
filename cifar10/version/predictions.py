"""A few predictions of an evaluation, with their images: `predictions.npz`.

The file names its evaluation by the record's time, and counts for no other.
"""

import dataclasses

import numpy as np

from cifar10.datasets.examples import IMAGE_SHAPE, NUM_CLASSES
from cifar10.errors import UserError
from cifar10.version.arrays import read_arrays
from cifar10.version.files import atomic_file

PREDICTIONS_FILE = "predictions.npz"
MOST_BYTES = 1 << 22
MOST_PREDICTIONS = 100


@dataclasses.dataclass
class Predictions:
  """Predictions for some images.

  Attributes:
    images: uint8 (n, 32, 32, 3).
    labels, classes: the right classes, and those with the largest logits, int32 (n,), 0 to 9.
    probabilities: of `classes`, float32 (n,).
    evaluation: the `time` in the record of the evaluation that they are from.
  """

  images: np.ndarray
  labels: np.ndarray
  classes: np.ndarray
  probabilities: np.ndarray
  evaluation: str

  def __getitem__(self, chosen):
    """The predictions at some places: a slice, or an array of indices or of bools."""
    return Predictions(
      self.images[chosen], self.labels[chosen], self.classes[chosen], self.probabilities[chosen], self.evaluation
    )


def write_predictions(directory, predictions):
  """Writes predictions, `MOST_PREDICTIONS` at most, in the place of those that were there."""
  with atomic_file(directory / PREDICTIONS_FILE) as file:
    np.savez_compressed(file, **vars(predictions))


def read_predictions(directory):
  """The `Predictions` in a version's directory; None without the file.

  Raises:
    UserError: the file is damaged, or holds something else.
  """
  path = directory / PREDICTIONS_FILE
  if not path.exists():
    return None
  try:
    arrays = read_arrays(path, MOST_BYTES, "remove it, and evaluate again")
    predictions = Predictions(**{**arrays, "evaluation": str(arrays["evaluation"])})
    whole = _is_whole(predictions)
  except UserError:
    raise
  except Exception as error:  # Whatever numpy raises for a damaged file.
    raise UserError(f"{path} is damaged; remove it, and evaluate again.") from error
  if not whole:
    raise UserError(f"{path} holds something else than predictions; remove it, and evaluate again.")
  return predictions


def _is_whole(predictions):
  count, probabilities = len(predictions.labels), predictions.probabilities
  classes = (predictions.labels, predictions.classes)
  return (
    count <= MOST_PREDICTIONS
    and predictions.images.dtype == np.uint8
    and predictions.images.shape == (count, *IMAGE_SHAPE)
    and all(each.dtype.kind == "i" and each.shape == (count,) for each in classes)
    and all(((each >= 0) & (each < NUM_CLASSES)).all() for each in classes)
    and probabilities.dtype.kind == "f"
    and probabilities.shape == (count,)
    and bool(((probabilities >= 0) & (probabilities <= 1)).all())
  )
