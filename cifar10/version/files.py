"""Files and directories that appear under their names whole or not at all."""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile

UNFINISHED = ".unfinished."


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
  cut = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
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
