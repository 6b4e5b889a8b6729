"""What the tests of several files share."""

import hashlib
import json


def write_record(path, record):
  """Writes a stage's record, a dict, with its checksum."""
  checksum = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
  path.write_text(json.dumps({**record, "sha256": checksum}))
