"""A page about one chain of checkpoint versions, or several: figures, pictures, and what is missing."""

import pathlib

from cifar10.config import ReportConfig, check
from cifar10.errors import UserError, first_line, how_to_install
from cifar10.report.facts import read_chain
from cifar10.version.choosing import PUBLISHED
from cifar10.version.files import atomic_file

PAGE_FILE = "index.html"


def report(config: ReportConfig):
  """Writes the page and its pictures; prints where they are.

  Raises:
    UserError: a chain has no version directory, matplotlib or jinja2 is missing, or the page cannot be written.
  """
  check(config)
  page, pictures = _load()
  train_dirs = [PUBLISHED] if config.published else list(dict.fromkeys(config.train_dir))
  several = len(train_dirs) > 1
  chains = [read_chain(train_dir, name) for train_dir, name in zip(train_dirs, _names(train_dirs))]
  comparison = pictures.comparison(chains)
  prefixes = [f"chain_{place}_" * several for place in range(1, len(chains) + 1)]
  of_chains = [pictures.of_chain(chain, prefix) for chain, prefix in zip(chains, prefixes)]
  files = {picture.file_name: picture.png for drawn in (comparison, *of_chains) for picture in drawn}
  files[PAGE_FILE] = page(chains, comparison, of_chains).encode(errors="backslashreplace")
  beside = "published" if config.published else train_dirs[0]
  directory = pathlib.Path(config.output_dir or beside + ("_comparison" if several else "_report"))
  _write(directory, files)
  print(f"{directory / PAGE_FILE} and {len(files) - 1} pictures are written.")


def _load():
  """The function of the page, and the module of the pictures."""
  try:
    from cifar10.report import pictures
    from cifar10.report.page import page
  except ModuleNotFoundError as error:
    if error.name not in ("jinja2", "matplotlib"):
      raise
    raise UserError(f"the report needs {error.name}, which is not installed: {how_to_install('report')}.") from error
  return page, pictures


def _names(train_dirs):
  """What to call the chains: the last part of their paths, or the whole paths where that is not enough."""
  short = [pathlib.Path(train_dir).name for train_dir in train_dirs]
  return short if len(set(short)) == len(short) else train_dirs


def _write(directory, files):
  """Writes files, each whole or not at all; the page, which needs none of the others, is the last."""
  try:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
      with atomic_file(directory / name) as file:
        file.write(content)
  except OSError as error:
    raise UserError(
      f"--output_dir {directory} cannot be written ({first_line(error)}); make room, or give another directory."
    ) from error
