"""The records of evaluations, `evaluations.jsonl`: a line of JSON for each.

A record names, as `network`, the checksum of the network that its version started from. Where that is not the one that
stands there now, the record tells of another network, and is passed over. `confusion`, None in records from before
there was one, is how many images of each class (the row) were taken for each (the column).
"""

import json
import math

from cifar10.datasets.examples import NUM_CLASSES
from cifar10.version import directory_of
from cifar10.version.files import MOST_BYTES, append_line, atomic_file, read
from cifar10.version.network import checksum
from cifar10.version.stage import dataset_of

EVALUATIONS_FILE = "evaluations.jsonl"
NEEDED = ("precision", "loss", "checkpoint_iter")
OTHERS = ("examples", "parameters", "multiply_adds")


def add_evaluation(directory, record):
  """Appends the record of an evaluation, a dict ready for JSON."""
  append_line(directory / EVALUATIONS_FILE, json.dumps(record))


def leave_to(directory, network):
  """Has the records that name no network name this one, a checksum, before another comes into its place."""
  path = directory / EVALUATIONS_FILE
  if not path.exists():
    return
  lines = read(path, MOST_BYTES).splitlines()
  records = [_record(line) for line in lines]
  named = [
    json.dumps({**json.loads(line), "network": network}).encode() if record and not record.get("network") else line
    for line, record in zip(lines, records)
  ]
  if named != lines:
    with atomic_file(path) as file:
      file.write(b"".join(line + b"\n" for line in named))


def read_evaluations(directory):
  """Reads the records of a version's directory.

  Returns:
    List of dicts, in the order of the file, those of another network left out, and how many lines cannot be read.

  Raises:
    UserError: the file cannot be read, or is too large.
  """
  path, network = directory / EVALUATIONS_FILE, checksum(directory)
  lines = read(path, MOST_BYTES).splitlines() if path.exists() else []
  records = [_record(line) for line in lines if line.strip()]
  ours = [record for record in records if record and (network is None or record.get("network") in (None, network))]
  return ours, records.count(None)


def newest_evaluation(train_dir, number):
  """What `newest_of` finds in the directory of version `number` of a chain."""
  records, _ = read_evaluations(directory_of(train_dir, number))
  return newest_of(records, number, dataset_of(train_dir, number))


def newest_of(records, number, dataset):
  """The last evaluation on test images of the network that version `number` stands for; None without one.

  That is the network that it starts from, which stage V-1 left to version V; of version 0, the network that it became.
  Evaluations on another data set than `dataset`, on which it was trained, do not count; None if that is unknown.
  """
  usual = [record for record in records if stands_for(record, number, dataset)]
  return usual[-1] if usual else None


def stands_for(record, number, dataset):
  """Whether an evaluation is one of those of which `newest_of` takes the last."""
  return is_on_own_test_images(record, dataset) and (record["checkpoint_iter"] > 0) == (number == 0)


def is_on_own_test_images(record, dataset):
  """Whether an evaluation is on the test images of the data set that its version was trained on, None if unknown."""
  return record["eval_data"] == "test" and (dataset is None or record.get("dataset", dataset) == dataset)


def number(value):
  """`value` if it is a finite number of a size that can be drawn, else None."""
  usable = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18
  return value if usable and math.isfinite(value) else None


def _record(line):
  """One line as a dict; None if it was cut, or is something else."""
  try:
    record = json.loads(line)
    numbers = {name: number(record[name]) for name in NEEDED}
    others = {name: number(record.get(name)) for name in OTHERS}
    others["confusion"] = _confusion(record.get("confusion"), others["examples"])
    return None if None in numbers.values() else {**record, **numbers, **others, "eval_data": record["eval_data"]}
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return None


def _confusion(rows, examples):
  """The rows if they are counts of images, `NUM_CLASSES` for each class, that sum up to the examples, else None."""
  square = isinstance(rows, list) and all(isinstance(row, list) and len(row) == NUM_CLASSES for row in rows)
  if not square or len(rows) != NUM_CLASSES:
    return None
  counts = [count for row in rows for count in row]
  are_counts = all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
  return rows if are_counts and 0 < sum(counts) == examples else None
