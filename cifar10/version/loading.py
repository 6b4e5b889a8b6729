"""The networks of a version: the one that it starts from, and the ones that its training checkpoints stand for."""

from typing import NamedTuple

import keras

from cifar10.datasets.examples import IMAGE_SHAPE, NUM_CLASSES
from cifar10.errors import UserError, first_line
from cifar10.models import MODELS
from cifar10.training_state import TrainingState, averaged_model
from cifar10.version import checkpoints
from cifar10.version.network import members
from cifar10.version.trial import try_out


class Loaded(NamedTuple):
  """A network, the step of its training checkpoint (0: the one that the version starts from), sentences on damage."""

  network: keras.Model
  step: int
  damage: list[str]


def network(version):
  """Loads the network that a version starts from; the errors are those of `Version.network`."""
  try:
    with members(version.model_path):
      model = keras.models.load_model(version.model_path, compile=False)
    shapes = (model.input_shape, model.output_shape)
    types = [keras.backend.standardize_dtype(tensor.dtype) for tensor in (*model.inputs, *model.outputs)]
  except Exception as error:  # Whatever a damaged or foreign file makes Keras raise.
    raise UserError(
      f"{version.model_path} cannot be loaded ({first_line(error)}); remove it, and train the version before it again "
      "to write it anew."
    ) from error
  if shapes != ((None, *IMAGE_SHAPE), (None, NUM_CLASSES)) or model.name not in MODELS:
    raise UserError(
      f"{version.model_path} holds a network {model.name!r} of shapes {shapes}; expected one of {', '.join(MODELS)}, "
      f"from images {IMAGE_SHAPE} to {NUM_CLASSES} logits."
    )
  if set(types) != {"float32"}:
    raise UserError(
      f"{version.model_path} holds a network from {types[0]} to {types[-1]}; expected float32: remove it, and "
      "train the version before it again to write it anew."
    )
  try:
    try_out(model)
  except Exception as error:  # Whatever layers of any kind raise.
    raise UserError(
      f"{version.model_path} holds a network that cannot be trained, evaluated and squeezed ({first_line(error)}); "
      "remove it, and train the version before it again to write it anew."
    ) from error
  return model


def load(version, iteration=-1):
  """Loads the network that a version stands for, as `Version.load` says."""
  stage, damage = version.read_stage()
  damage = [damage] if damage else []
  start = version.network() if version.has_network() else None
  steps = [0] * (start is not None) + version.checkpoint_steps()
  step = max(steps, default=None) if iteration == -1 else iteration
  if step not in steps:
    there = ", ".join(map(str, steps)) or "none"
    raise UserError(f"--checkpoint_iter is {iteration}, but {version} has: {there}.")
  if step == 0:
    return Loaded(start, 0, damage)
  state = TrainingState(start or MODELS[stage.flags.model]())
  if iteration == -1:
    step, passed_over = checkpoints.restore_newest(version.path, state)
    damage += passed_over
    if not step:
      raise UserError(
        f"no training checkpoint of {version} can be read; cifar10-train starts the stage again, "
        "--checkpoint_iter 0 takes the network that it starts from."
      )
  else:
    checkpoints.restore(version.path, state, step)
  return Loaded(averaged_model(state), step, damage)
