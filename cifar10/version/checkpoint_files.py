"""The files of training checkpoints, `model.ckpt-<step>.*`, by their names."""

import re
import shutil

from cifar10.version import files


def checkpoint_steps(directory):
  """The steps at which training checkpoints stand in a directory, ascending."""
  names = (re.fullmatch(r"model\.ckpt-(\d+)\.index", path.name) for path in directory.glob("*.index"))
  return sorted(int(name[1]) for name in names if name)


def remove_unfinished(directory):
  """Removes what is left of training checkpoints that were not saved whole, or whose index is gone."""
  whole = {f"model.ckpt-{step}." for step in checkpoint_steps(directory)}
  for path in [*directory.glob(f"{files.UNFINISHED}model.ckpt-*"), *directory.glob("model.ckpt-*")]:
    if path.is_dir():
      shutil.rmtree(path)
    elif not path.name.startswith(tuple(whole)) or "temp" in path.name:
      path.unlink()
