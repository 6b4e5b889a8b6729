"""The keys by which penalties name gammas.

The path of a variable, "a_bn/gamma", does not survive saving everywhere: a loaded Sequential model loses its name from
the paths of its variables, and in those of nested models that of the model is missing. Names of layers stay. So a
gamma's key is its layer's name and its own, after as many names of the nested models around it as tell it from others:
"a_bn/gamma", or "left/a_bn/gamma" and "right/a_bn/gamma". In a functional model without nested ones it is the path.
Layers that hold layers count as nested models.
"""

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence

import keras

from cifar10.pruning.calls import is_composite, is_model, sublayers

MARK = "_pruning_key"  # The attribute of a variable that tells an optimizer its key, where paths do not.


def gamma_keys(names: Collection[str]) -> dict[str, str]:
  """The keys of gammas: dict from what `ChannelGraph` calls the batch norm of each to its key."""
  keys = {}
  for name in names:
    parts = name.split("/")
    suffixes = ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    alone = (suffix for suffix in suffixes if not any(_ends(other, suffix) for other in names if other != name))
    keys[name] = f"{next(alone, name)}/gamma"
  return keys


def variables_of(model: keras.Model, keys: Iterable[str]) -> dict[str, keras.Variable]:
  """The variables of a model that keys stand for, or the paths that they had before it was saved and loaded.

  Raises:
    ValueError: a key stands for none of the model's variables, or for several; or there is no key.
  """
  namings = [list(_named_variables(model, "")), [(variable.path, variable) for variable in model.variables]]
  found = {key: variable_of(key, namings) for key in keys}
  missing = sorted(key for key, variable in found.items() if variable is None)
  if missing or not found:
    raise ValueError(f"penalties names {missing or 'no gamma'}; it needs paths of gammas of {model.name}")
  return found


def variable_of(key: str, namings: Sequence[Sequence[tuple[str, keras.Variable]]]) -> keras.Variable | None:
  """The variable that a key stands for, by its whole name, by the end of it, or else by the end of the key.

  Args:
    key: the key.
    namings: lists of pairs of a name and a variable, those that count most first.

  Raises:
    ValueError: there are several.
  """
  for fits in (str.__eq__, _ends, lambda name, key: _ends(key, name)):
    for naming in namings:
      found = {id(variable): (name, variable) for name, variable in naming if fits(name, key)}
      names = sorted((name for name, _ in found.values()), key=len)
      if len(names) > 1 and (names[-2] == names[-1] or not _ends(key, names[-1])):
        full = {id(variable): name for name, variable in namings[0]}
        which = " or ".join(full.get(each, name) for each, (name, _) in found.items())
        raise ValueError(f"penalties names {key}, which may be {which}; give the names of the models around it too")
      if names:
        return max(found.values(), key=lambda pair: len(pair[0]))[1]
  return None


def distinct(names: Iterable[str]) -> list[str]:
  """Names of which no two are alike: those that were there before have _1, _2 and so on behind them."""
  names, given = list(names), {}
  for name in names:
    others = (f"{name}_{number}" for number in itertools.count(1))
    given[name if name not in given else next(each for each in others if each not in given and each not in names)] = (
      None
    )
  return list(given)


def names_inside(layers: Iterable[keras.Layer]) -> list[str]:
  """Distinct names of the layers that a layer holds, which are the same whenever it is made.

  Keras numbers layers without names through: those that a constructor makes have others in a loaded model.
  """
  names = []
  for layer in layers:
    kind = re.sub(r"_\d+$", "", layer.name)
    names.append(kind if kind.replace("_", "") == type(layer).__name__.lower() else layer.name)
  return distinct(names)


def _named_variables(model: keras.Layer, prefix: str, inside: bool = False) -> Iterator[tuple[str, keras.Variable]]:
  inside = inside or not is_model(model)
  layers = model.layers if is_model(model) else sublayers(model)
  for layer, name in zip(layers, names_inside(layers) if inside else [layer.name for layer in layers]):
    if is_model(layer) or is_composite(layer):
      yield from _named_variables(layer, f"{prefix}{name}/", inside)
    else:
      yield from ((f"{prefix}{name}/{variable.name}", variable) for variable in layer.variables)


def _ends(name, end):
  """Whether a name is that, or ends with it after some names of models."""
  return name == end or name.endswith(f"/{end}")
