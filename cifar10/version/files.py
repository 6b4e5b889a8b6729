"""Files and directories that appear under their names whole or not at all."""

import contextlib
import errno
import os
import pathlib
import shutil
import stat
import tempfile

from cifar10.errors import UserError

UNFINISHED = ".unfinished."
# The most that is read of a record; of a network or a training checkpoint. Real ones stay far below.
MOST_BYTES = 1 << 28
MOST_BYTES_OF_WEIGHTS = 1 << 32


def unfinished(path):
  """Where a file or directory is written before it gets its name: beside it, the one pattern for temporary names."""
  return path.with_name(UNFINISHED + path.name)


@contextlib.contextmanager
def written_whole(path):
  """Gives the name at which to write a file; at the end that becomes `path`, or goes where writing failed."""
  new = unfinished(path)
  try:
    new.unlink(missing_ok=True)
    yield new
    sync(new)
    new.replace(path)
    sync(path.parent)
  finally:
    new.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path):
  """Opens a binary file for writing that appears under its name only when it is whole, and on the disk."""
  with written_whole(path) as new:
    # Not through a link that somebody laid at that name.
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    with os.fdopen(descriptor, "wb") as file:
      yield file


@contextlib.contextmanager
def workplace(path):
  """Gives a new directory to write in, beside `path`; it goes at the end, with what is left in it."""
  place = unfinished(path)
  shutil.rmtree(place, ignore_errors=True)
  try:
    place.mkdir(parents=True)
    yield place
  finally:
    shutil.rmtree(place, ignore_errors=True)


def append_line(path, line):
  """Appends a line to a file; what a killed process left of another before it stays a line of its own."""
  cut = path.exists() and is_cut(path)
  with open(path, "a") as file:
    file.write("\n" * cut + line + "\n")
  sync(path)


@contextlib.contextmanager
def plain_name(directory):
  """Gives a path of a directory without the characters that TensorFlow takes for a pattern where it reads."""
  if not set("[*?\\") & set(str(directory)):
    yield directory
    return
  with tempfile.TemporaryDirectory() as place:
    link = pathlib.Path(place, "directory")
    link.symlink_to(directory.absolute(), target_is_directory=True)
    yield link


def read(path, at_most, advice="restore it, or remove it"):
  """The content of a regular file of up to `at_most` bytes.

  Raises:
    UserError: it cannot be read, is something else than a regular file, like a device or a pipe, or has more bytes;
      the sentence ends with the advice.
  """
  with opened(path, at_most, advice) as file:
    return file.read(at_most)


def opened(path, at_most, advice="restore it, or remove it"):
  """Opens such a file as `read` takes, for reading bytes."""
  try:
    return _opened(path, at_most)
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}); {advice}.") from error


def _opened(path, at_most):
  # Without O_NONBLOCK the opening of a pipe waits for somebody who writes.
  descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
  try:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
      raise OSError(errno.EINVAL, "It is a device, a pipe or a socket, not a file")
    if status.st_size > at_most:
      raise OSError(errno.EFBIG, f"It has {status.st_size:,} bytes, and {at_most:,} are the most")
    return os.fdopen(descriptor, "rb")
  except BaseException:
    os.close(descriptor)
    raise


def is_cut(path):
  """Whether the last line of a file lacks its end."""
  with opened(path, MOST_BYTES) as file:
    return bool(file.seek(0, os.SEEK_END)) and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n"


def sync(path):
  """Has a file or directory written to the disk, where its file system can be asked to."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):
      raise
  finally:
    os.close(descriptor)
