"""CIFAR-10 as TensorFlow Datasets downloads and prepares it, in `cifar10/<version>/`."""

import http.client
import pathlib
import queue
import ssl
import threading
import urllib.request

import numpy as np

from cifar10.datasets import published
from cifar10.datasets.examples import Examples
from cifar10.errors import UserError, first_line

PROBE_SECONDS = 8
MOST_NAMED = 10


def prepared_dir(data_dir):
  """The newest version that TensorFlow Datasets has prepared, or None.

  It prepares a version in a directory `incomplete.*` and renames that at the end, so a directory
  named by a version is whole.
  """
  return max(data_dir.glob("cifar10/[0-9].[0-9].[0-9]"), default=None)


def read(directory, split):
  """Reads a split from a directory of `prepared_dir`, in the order of the published files.

  Args:
    directory: of the version, a `pathlib.Path`.
    split: "train" or "test".

  Returns:
    `Examples` of NumPy arrays.

  Raises:
    UserError: it cannot be read.
  """
  import tensorflow_datasets as tfds

  try:
    # Unlike `tfds.builder`, this reads the directory alone and never asks a server.
    builder = tfds.builder_from_directory(directory)
    columns = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    order = np.argsort(columns["id"])
    return Examples(columns["image"][order], columns["label"][order].astype(np.int32))
  except Exception as error:  # Damage shows as any of a dozen types.
    raise UserError(
      f"{directory} cannot be read as CIFAR-10 prepared by TensorFlow Datasets"
      f" ({first_line(error)}); delete it to have it downloaded again."
    ) from error


def download(data_dir):
  """Has TensorFlow Datasets download, verify and prepare CIFAR-10; returns the prepared directory.

  It compares the archive with its registered SHA-256 before it uses it, and gives files their final
  names only when they are whole, so a download that fails leaves nothing that is taken for data.
  """
  import tensorflow_datasets as tfds

  form = published.FORMS[0]
  advice = (
    f"put {form.archive} from {published.SOURCE} in {data_dir}, or what it unpacks to in "
    f"{data_dir / form.directories[0]}, or name a directory that has the data with --data_dir or CIFAR10_DATA_DIR."
  )
  builder = tfds.builder("cifar10", data_dir=data_dir)
  (url,) = builder.url_infos
  problem = _probe(url)
  if problem:
    there = f"{data_dir} has no CIFAR-10 ({_what_is_in(data_dir)})"
    raise UserError(f"{there} and {url} is out of reach ({problem}); {advice}")
  try:
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=config)
  except Exception as error:  # The network, the disk, the archive: any of many types.
    raise UserError(
      f"downloading CIFAR-10 from {url} to {data_dir} failed ({first_line(error)}); try again, or {advice}"
    ) from error
  return pathlib.Path(builder.data_dir)


def _what_is_in(directory):
  """What lies in a directory, in some words."""
  if not directory.is_dir():
    return "it is not there"
  names = sorted(path.name + "/" * path.is_dir() for path in directory.iterdir())
  more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
  return f"it has {', '.join(names[:MOST_NAMED])}{more}" if names else "it is empty"


def _probe(url):
  """Says why `url` cannot be had, or None if it can; TensorFlow Datasets itself tries for minutes.

  The thread bounds name resolution too, which heeds no timeout.
  """
  problems = queue.Queue()
  threading.Thread(target=lambda: problems.put(_request_head(url)), daemon=True).start()
  try:
    return problems.get(timeout=PROBE_SECONDS)
  except queue.Empty:
    return f"no answer in {PROBE_SECONDS} seconds"


def _request_head(url):
  try:
    request = urllib.request.Request(url, method="HEAD")
    urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
  except (OSError, http.client.HTTPException) as error:
    if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
      return None  # Somebody answered, and the download brings its own certificates.
    return first_line(error)
  return None
