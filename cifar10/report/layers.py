"""How wide the layers of a chain were, and are."""

from typing import NamedTuple


class Width(NamedTuple):
  """The channels of a layer before the first squeeze of a chain, and after the last."""

  name: str
  before: int
  after: int


def widths(chain):
  """The `Width` of each layer, in the order of the network; [] before there is a squeeze."""
  before, after = {}, {}
  for version in chain.versions:
    for name, (channels, removed) in (version.squeeze or {"layers": {}})["layers"].items():
      before.setdefault(name, channels)
      after[name] = channels - removed
  return [Width(name, before[name], after[name]) for name in before]
