"""Kills `cifar10-train` again and again, restarts it, and compares what comes out with an uninterrupted chain.

python scripts/kill_and_resume.py [--kills 30] [--power_cuts] [--seed 0]

Three short stages of resnet20 on the built-in data. Half of the kills (SIGKILL) come at a random moment, the others
while a checkpoint, the first index of one, a record or the next version is being written. Fails if a version's weights
or architecture are not bit for bit those of the uninterrupted chain, or anything unfinished lies about.

With --power_cuts the chain stands on a small ext4 disk in a file, and with each kill the power of that disk is cut: all
goes that was not synced. That takes a Linux that lets one mount disks, usually as root.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

from cifar10.recipes import RECIPES, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

STAGES = RECIPES["kills"]
FIRST_INDEX = "the index of a checkpoint"
UNFINISHED = {
  "a checkpoint": "{name}_*/.unfinished.model.ckpt-*",
  FIRST_INDEX: "{name}_*/.unfinished.model.ckpt-*/*.index",
  **{
    record: "{name}_*/.unfinished." + record for record in ("stage.json", "stage.json.old", "metrics.csv", "gammas.npz")
  },
  "the next version": ".unfinished.{name}_*",
}
DISK_BYTES = 128 << 20
# Nothing reaches the disk by itself while a stage trains, nor for a file that replaces another.
DISK_OPTIONS = "loop,commit=300,noauto_da_alloc"


def command(train_dir, version):
  """The command line of one stage."""
  where = ["--dataset=synthetic", f"--train_dir={train_dir}", f"--checkpoint_version={version}"]
  return [sys.executable, "-m", "cifar10.cli.train", *where, *flags(STAGES[version])]


def run_whole(train_dir):
  """Trains a chain without interruption; returns the seconds of its slowest stage."""
  seconds = []
  for version in range(len(STAGES)):
    start = time.monotonic()
    subprocess.run(command(train_dir, version), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds.append(time.monotonic() - start)
  return max(seconds)


@contextlib.contextmanager
def disk(workplace):
  """Mounts a small ext4 disk that stands in a file.

  Yields:
    The directory where it is mounted, and a function that cuts its power: what was not synced is gone.

  Raises:
    OSError: that cannot be done here; the message says why.
  """
  image, copy, place = (pathlib.Path(workplace, name) for name in ("disk", "copy of the disk", "mounted disk"))
  place.mkdir()
  with open(image, "wb") as file:
    file.truncate(DISK_BYTES)

  def call(*arguments):
    result = subprocess.run([*map(str, arguments)], capture_output=True, text=True, check=False)
    if result.returncode:
      raise OSError(f"{arguments[0]} fails here ({result.stderr.strip().splitlines()[-1]})")

  def cut_power():
    shutil.copy(image, copy)
    call("umount", place)
    copy.replace(image)
    call("mount", "-o", DISK_OPTIONS, image, place)

  call("mkfs.ext4", "-q", "-F", image)
  call("mount", "-o", DISK_OPTIONS, image, place)
  try:
    yield place, cut_power
  finally:
    call("umount", place)


def run_killed(train_dir, rng, kills, seconds, after_kill):
  """Trains a chain that is killed up to `kills` times; counts the kills, and which of them left what half-written.

  After each kill `after_kill` is called.
  """
  counts = collections.Counter()
  for version in range(len(STAGES)):
    killed = True
    while killed:
      moment = rng.choice([None, rng.choice([*UNFINISHED])]) if counts["kills"] < kills else "the end"
      start = time.time()
      killed = killed_at(moment, train_dir, version, 0 if moment == FIRST_INDEX else rng.uniform(0, seconds))
      if killed:
        left = [what for what, pattern in UNFINISHED.items() if appears(train_dir, pattern, start)]
        after_kill()
        counts.update(["kills", *left])
        print(
          f"kill {counts['kills']}: version {version}, left half-written: {', '.join(left) or 'nothing'}", flush=True
        )
  return counts


def killed_at(moment, train_dir, version, delay):
  """Starts a stage and kills it after `delay` seconds, or at what it writes first after that; False if it ended."""
  pattern = UNFINISHED.get(moment)
  process = subprocess.Popen(
    command(train_dir, version), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
  )
  start = time.time()
  while process.poll() is None:
    due = moment != "the end" and time.time() - start > delay
    if due and (not pattern or appears(train_dir, pattern, start)):
      process.kill()
    time.sleep(0.0005 if due else 0.01)
  output = process.stdout.read()
  process.stdout.close()
  if process.returncode not in (0, -9):
    raise SystemExit(f"version {version} ended with {process.returncode}:\n{output}")
  return process.returncode != 0


def appears(train_dir, pattern, start=0.0):
  """Whether a file written since `start` is there; one that comes and goes meanwhile may count or not."""
  try:
    return any(path.stat().st_mtime > start for path in train_dir.parent.glob(pattern.format(name=train_dir.name)))
  except FileNotFoundError:
    return False


def assert_same(whole, killed):
  """Exits with a sentence unless the versions of two chains are the same and nothing unfinished is left."""
  import numpy as np

  from cifar10.version.directory import Version

  for version in range(1, len(STAGES) + 1):
    ours, theirs = (Version(train_dir, version).network() for train_dir in (killed, whole))
    if ours.get_config() != theirs.get_config():
      raise SystemExit(f"version {version}: the architectures differ")
    for one, other in zip(ours.variables, theirs.variables, strict=True):
      if not np.array_equal(one.numpy(), other.numpy()):
        raise SystemExit(f"version {version}: {one.path} differs")
  left = [what for what, pattern in UNFINISHED.items() if appears(killed, pattern)]
  if left:
    raise SystemExit(f"half-written at the end: {', '.join(left)}")


def main():
  """Runs chains until there were as many kills as asked for."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=30)
  parser.add_argument("--power_cuts", action="store_true", help="cut the power of a disk in a file with each kill")
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args()
  rng, counts, chains = random.Random(arguments.seed), collections.Counter(), 0
  with contextlib.ExitStack() as stack:
    workplace = stack.enter_context(tempfile.TemporaryDirectory(prefix="größte runs "))
    whole, place, after_kill = pathlib.Path(workplace, "whole"), workplace, lambda: None
    if arguments.power_cuts:
      try:
        place, after_kill = stack.enter_context(disk(workplace))
      except OSError as error:
        print(f"The power cannot be cut: {error}; run this as root on a Linux that lets one mount disks.")
        return
    seconds = run_whole(whole)
    while counts["kills"] < arguments.kills:
      chains += 1
      killed = pathlib.Path(place, f"killed{chains}")
      counts += run_killed(killed, rng, arguments.kills - counts["kills"], seconds, after_kill)
      assert_same(whole, killed)
      for directory in killed.parent.glob(f"{killed.name}_*"):
        shutil.rmtree(directory)
  left = ", ".join(f"{what} {counts[what]} times" for what in UNFINISHED)
  print(
    f"{counts['kills']} kills in {chains} chains (left half-written: {left}): every version is the same bit for bit."
  )


if __name__ == "__main__":
  main()
