"""A Keras file in, a smaller one out: what `keras-squeeze` does, for models of any kind."""

import contextlib
import pathlib

import keras

from cifar10.config import check
from cifar10.errors import UserError, first_line
from cifar10.pruning import plan, plan_prune, prune, squeeze
from cifar10.pruning.comparing import output_differences
from cifar10.pruning.inputs import inputs_that_run
from cifar10.version.files import MOST_BYTES_OF_WEIGHTS, opened, written_whole
from cifar10.version.network import members

FORMATS = (".keras", ".h5", ".hdf5")


def squeeze_file(config):
  """Writes the smaller model of a file, and prints what went; with `plan` it prints what would go.

  Args:
    config: `SqueezeConfig`.

  Raises:
    UserError: settings or files do not fit, the model cannot be loaded without running code of its own, or cannot be
      squeezed or pruned so.
  """
  check(config)
  given, wanted = _paths(config)
  model = _loaded(given)
  try:
    if config.plan:
      print(_plan(model, config))
      return
    smaller, report = _smaller(model, config)
  except ValueError as error:
    raise UserError(f"{given}: {first_line(error)}.") from error
  print(report)
  print(f"\n{_differences(model, smaller)}")
  with written_whole(wanted) as new:
    smaller.save(new)
  print(f"{wanted} is written: {given.stat().st_size:,} bytes -> {wanted.stat().st_size:,}, not compiled.")


def _paths(config):
  """The file to read and the one to write, None for a plan."""
  given, *rest = map(pathlib.Path, config.files)
  if len(rest) != (0 if config.plan else 1):
    expected = "one file, MODEL.keras, with --plan" if config.plan else "two files, MODEL.keras SMALLER.keras"
    raise UserError(f"files are {', '.join(config.files)}; expected {expected}.")
  if given.suffix not in FORMATS:
    raise UserError(f"{given} does not end with {', '.join(FORMATS)}; expected a model that Keras has saved.")
  if not rest:
    return given, None
  (wanted,) = rest
  if wanted.suffix != FORMATS[0]:
    raise UserError(f"{wanted} does not end with {FORMATS[0]}, as the file that is written does.")
  if not wanted.parent.is_dir():
    raise UserError(f"there is no directory {wanted.parent} to write {wanted.name} into; make it first.")
  if wanted.exists() and (wanted.samefile(given) or not config.overwrite):
    advice = "give another name" if wanted.samefile(given) else "give another name, or pass --overwrite"
    raise UserError(f"{wanted} is there already; {advice}.")
  return given, wanted


def _loaded(path):
  opened(path, MOST_BYTES_OF_WEIGHTS, "give the file of a model").close()
  try:
    with members(path) if path.suffix == FORMATS[0] else contextlib.nullcontext():
      model = keras.models.load_model(path, compile=False, safe_mode=True)
  except Exception as error:  # Whatever a damaged or foreign file makes Keras raise.
    raise UserError(
      f"{path} cannot be loaded ({first_line(error)}); expected a model of Keras' own layers, without code of its own: "
      "for others call cifar10.pruning from Python."
    ) from error
  return model


def _smaller(model, config):
  budget = _budget(config)
  if budget:
    return prune(model, **budget, verify=False)
  return squeeze(model, exact=config.exact, multiple_of=config.multiple_of, keep=config.keep)


def _plan(model, config):
  budget = _budget(config)
  if budget:
    return plan_prune(model, **budget)
  return plan(model, exact=config.exact, multiple_of=config.multiple_of, keep=config.keep)


def _budget(config):
  """The arguments of `prune`; None where there is no budget."""
  given = {name: getattr(config, name) for name in ("parameters", "multiply_adds") if getattr(config, name) is not None}
  if not given:
    return None
  ((name, value),) = given.items()
  budget = {name: value if value <= 1 else round(value)}
  return {**budget, "importance": config.importance or "l2", "multiple_of": config.multiple_of, "keep": config.keep}


def _differences(model, smaller):
  try:
    inputs = inputs_that_run(model, guess=True)
  except ValueError as error:
    return f"outputs were not compared: {first_line(error)}."
  found = output_differences(model(inputs, training=False), smaller(inputs, training=False))
  return f"on noise outputs differ by {found.largest:.2g} at most, {found.relative:.2g} of their norm."
