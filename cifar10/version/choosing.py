"""Which version a command means: one by its number, the newest, or the one whose own directory is named."""

import pathlib
import re

from cifar10.console import say
from cifar10.errors import UserError
from cifar10.version.checkpoint_files import checkpoint_steps
from cifar10.version.directory import Version
from cifar10.version.network import MODEL_FILE

# The chain that comes with the package; `published/README.md` says how it was trained.
PUBLISHED = str(pathlib.Path(__file__).parents[1] / "published" / "resnet20")


def chosen_by(config):
  """The version that a config, a `config.OfAVersion`, means, and says which one where it was not named.

  Returns:
    A `Version`, as `chosen` gives it.

  Raises:
    UserError: as `chosen`, or no such version is published.
  """
  if not config.published:
    return chosen(config.checkpoint_dir, config.checkpoint_version)
  numbers = sorted(_numbers(PUBLISHED))
  if config.checkpoint_version not in (None, *numbers):
    raise UserError(
      f"--checkpoint_version is {config.checkpoint_version}, and with --published there "
      f"{'are' if len(numbers) > 1 else 'is'} {', '.join(map(str, numbers))}; pass one of these, or leave it out."
    )
  return chosen(PUBLISHED, config.checkpoint_version)


def chosen(checkpoint_dir, number=None):
  """The version that `--checkpoint_dir` and `--checkpoint_version` mean, and says which one where it was not named.

  Args:
    checkpoint_dir: path of a chain's directories without `_<number>`; or the directory of a version, unless there is a
      chain of that name.
    number: of the version; None for that whose directory is named, else for the newest.

  Returns:
    A `Version`; where the chain has none, number 1, which does not exist.

  Raises:
    UserError: the directory is that of a version with another number.
  """
  named = named_version(checkpoint_dir)
  if named:
    if number not in (None, named.number):
      raise UserError(
        f"--checkpoint_dir {checkpoint_dir} is version {named.number}, and --checkpoint_version is {number}; leave one "
        f"of them out, or give --checkpoint_dir {named.train_dir}."
      )
    return named
  if number is not None:
    return Version(checkpoint_dir, number)
  newest = max(_numbers(checkpoint_dir), default=None)
  if newest is None:
    return Version(checkpoint_dir, 1)
  version = Version(checkpoint_dir, newest)
  say(f"{version} is the newest version.")
  return version


def refuse_named_version(train_dir):
  """Raises a `UserError` where `--train_dir` is the directory of a version, and there is no chain of that name."""
  named = named_version(train_dir)
  if named:
    raise UserError(
      f"--train_dir {train_dir} is version {named.number} of a chain; to train it, give --train_dir {named.train_dir} "
      f"--checkpoint_version {named.number}."
    )


def named_version(path):
  """The version whose directory a path names, as shells complete it; None where it names a chain, or nothing."""
  directory = pathlib.Path(path)
  if not re.search(r"_(0|[1-9][0-9]*)/*$", str(path)) or not _has_network(directory) or _numbers(str(directory)):
    return None
  return Version.at(directory)


def _numbers(train_dir):
  """The versions of a chain that have a network."""
  prefix = pathlib.Path(f"{train_dir}_")
  if not prefix.parent.is_dir():
    return []
  names = ((path, path.name.removeprefix(prefix.name)) for path in prefix.parent.iterdir())
  return [
    int(number)
    for path, number in names
    if path.name.startswith(prefix.name) and re.fullmatch("0|[1-9][0-9]*", number) and _has_network(path)
  ]


def _has_network(directory):
  return (directory / MODEL_FILE).is_file() or bool(checkpoint_steps(directory))
