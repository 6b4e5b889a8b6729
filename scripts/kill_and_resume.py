"""Kills `cifar10-train` again and again, restarts it, and compares what comes out with an uninterrupted chain.

python scripts/kill_and_resume.py [--kills 30] [--seed 0]

Three short stages of resnet20 on the built-in data. Half of the kills (SIGKILL) come at a random moment, the others
while a checkpoint, a record or the next version is being written. Fails if a version's weights or architecture
are not bit for bit those of the uninterrupted chain, or anything unfinished lies about.
"""

import argparse
import collections
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from cifar10.recipes import RECIPES, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

STAGES = RECIPES["kills"]
UNFINISHED = {
  "a checkpoint": "{name}_*/model.ckpt-*temp*",
  "a record": "{name}_*/.unfinished.*",
  "the next version": ".unfinished.{name}_*",
}


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


def run_killed(train_dir, rng, kills, seconds):
  """Trains a chain that is killed up to `kills` times; counts the kills, and which of them left what half-written."""
  counts = collections.Counter()
  for version in range(len(STAGES)):
    killed = True
    while killed:
      moment = rng.choice([None, None, None, *UNFINISHED]) if counts["kills"] < kills else "the end"
      start = time.time()
      killed = killed_at(moment, train_dir, version, rng.uniform(0, seconds))
      if killed:
        left = [what for what, pattern in UNFINISHED.items() if appears(train_dir, pattern, start)]
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
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args()
  rng, counts, chains = random.Random(arguments.seed), collections.Counter(), 0
  with tempfile.TemporaryDirectory(prefix="größte runs ") as workplace:
    whole = pathlib.Path(workplace, "whole")
    seconds = run_whole(whole)
    while counts["kills"] < arguments.kills:
      chains += 1
      killed = pathlib.Path(workplace, f"killed{chains}")
      counts += run_killed(killed, rng, arguments.kills - counts["kills"], seconds)
      assert_same(whole, killed)
  left = ", ".join(f"{what} {counts[what]} times" for what in UNFINISHED)
  print(
    f"{counts['kills']} kills in {chains} chains (left half-written: {left}): every version is the same bit for bit."
  )


if __name__ == "__main__":
  main()
