"""The record of a version's newest export, `export.json`; it names its network as an evaluation's record does."""

import json

from cifar10.errors import UserError, first_line
from cifar10.version.files import MOST_BYTES, atomic_file, read
from cifar10.version.network import checksum

EXPORT_FILE = "export.json"


def write_exports(directory, record):
  """Writes the record, a dict ready for JSON, whose "exports" are a list of dicts, one for each format."""
  with atomic_file(directory / EXPORT_FILE) as file:
    file.write(json.dumps(record, indent=1).encode())


def read_exports(directory):
  """The "exports" of the record, a list of dicts; [] without one, or where it is of another network.

  Raises:
    UserError: the file is damaged, or something else.
  """
  path = directory / EXPORT_FILE
  if not path.exists():
    return []
  try:
    record = json.loads(read(path, MOST_BYTES))
    exports, network = record["exports"], record.get("network")
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(f"{path} cannot be read ({first_line(error)})") from error
  if not isinstance(exports, list) or not all(isinstance(export, dict) for export in exports):
    raise UserError(f"{path} holds something else than a list of exports")
  return exports if network is None or checksum(directory) in (None, network) else []
