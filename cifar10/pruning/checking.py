"""Whether a squeezed model computes what the model computes, and if not, from which layer on."""

import collections
from collections.abc import Callable, Mapping

import keras
import numpy as np

from cifar10.pruning.calls import layers_in, left_alone
from cifar10.pruning.channel_graph import ChannelGraph
from cifar10.pruning.inputs import Arrays, inputs_that_run
from cifar10.pruning.printing import first_line
from cifar10.pruning.reports import SelfCheck
from cifar10.pruning.rules.base import Channels, Squeezed, to_float64
from cifar10.pruning.running import run_calls

EXAMPLES = 2
EPSILONS = {"bfloat16": 2**-7, "float16": 2**-10, "float32": 2**-23, "float64": 2**-52}
PERTURBATION = 4  # Of inputs, in units of these, to see what rounding can do to outputs.
LARGEST_FACTOR = 1000  # By which squeezing may change outputs more than that.


def self_check(model: keras.Model, smaller: keras.Model, inputs: Arrays | None) -> tuple[SelfCheck, Arrays | None]:
  """Calls two models of one structure with the same inputs, in inference; both are as before after that.

  Args:
    model: the model.
    smaller: another, that should compute the same.
    inputs: inputs for one call; by default noise.

  Returns:
    The `SelfCheck`; and the inputs if the models differ by more than rounding explains, else None.

  Raises:
    ValueError: the model cannot be called with the inputs that are given, or the smaller one not as the model can.
  """
  given = inputs is not None
  try:
    with left_alone(model):
      inputs = inputs if given else inputs_that_run(model, EXAMPLES, guess=True)
    before = _outputs(model, inputs)
  except Exception as error:
    if given:
      raise ValueError(
        f"{model.name} cannot be called with inputs ({first_line(error)}): give what one call of it takes"
      ) from error
    return SelfCheck(0, None, str(error).strip().partition("\n")[0]), None
  examples, tolerance = len(keras.tree.flatten(inputs)[0]), _tolerance(model)
  try:
    after = _outputs(smaller, inputs)
  except Exception as error:
    raise ValueError(
      f"{model.name} squeezed cannot be called as the model can ({first_line(error)}): keep a layer of one's own that "
      "does such a thing shut with register(its class, rules.Wall())"
    ) from error
  difference = _difference(before, after)
  if difference <= tolerance and not any(_is_finite(output).any() for output in before):
    return SelfCheck(examples, None, "no output of the model is finite"), None
  if difference <= tolerance:
    return SelfCheck(examples, difference), None
  with left_alone(model):
    first, second = (_arrays(model(inputs, training=False)) for _ in range(2))
  if _difference(first, second) > tolerance:
    return SelfCheck(examples, _finite(difference), "two calls of the model differ as well"), None
  rounding = _difference(before, _outputs(model, _perturbed(inputs, model)))
  if difference <= LARGEST_FACTOR * rounding:
    return SelfCheck(examples, difference, f"rounding inputs changes the outputs of the model by {rounding:.2g}"), None
  return SelfCheck(examples, _finite(difference)), inputs


def first_difference(
  model: keras.Model,
  smaller: keras.Model,
  inputs: Arrays,
  graph: ChannelGraph,
  kept: Callable[[Channels], np.ndarray],
  pieces: Mapping[int, Squeezed],
) -> str | None:
  """The name of the first layer that does not make the same of the channels that stay and are used; None if all do.

  Args:
    model: the model, or a copy of it.
    smaller: the squeezed one.
    inputs: inputs for one call of either.
    graph: the `ChannelGraph` of the model.
    kept: function from its `Channels` to which of their positions stay.
    pieces: dict from the id() of each layer and operation of the graph to its `Squeezed`.
  """
  with left_alone(model), left_alone(smaller):
    ours, theirs = _outputs_of_calls(model, inputs), _outputs_of_calls(smaller, inputs)
  for call in graph.calls:
    before, after = ours[call.name].popleft(), theirs[call.name].popleft()
    for tensor, one, other in zip(call.outputs, before, after):
      channels = tensor.channels
      if channels.axis is not None:
        keep = kept(channels)
        one = np.compress(keep & channels.used, one, channels.axis)
        other = np.compress(channels.used[keep], other, channels.axis)
      if not pieces[id(call.operation)].shifted and _difference([one], [other]) > _tolerance(model):
        return call.name
  return None


def _outputs(model, inputs):
  with left_alone(model):
    return _arrays(model(inputs, training=False))


def _arrays(outputs):
  return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def _outputs_of_calls(model, inputs):
  """What each call makes: dict from its name to a deque with a list of arrays for each time that it is made."""
  made = collections.defaultdict(collections.deque)
  for call, outputs in run_calls(model, inputs):
    made[call.name].append(_arrays(outputs))
  return made


def _difference(arrays, others):
  """The largest relative difference of two arrays each: inf if they are not finite at the same places."""
  return max((_relative(one, other) for one, other in zip(arrays, others, strict=True)), default=0.0)


def _relative(one, other):
  if one.shape != other.shape:
    return np.inf
  if one.dtype.kind not in "fcV":  # NumPy knows bfloat16 as V.
    return float(np.mean(one != other)) if one.size else 0.0
  finite = _is_finite(one)
  if (finite != _is_finite(other)).any():
    return np.inf
  one, other = (each if each.dtype.kind == "c" else to_float64(each) for each in (one, other))
  norm, change = np.linalg.norm(one[finite]), np.linalg.norm((other - one)[finite])
  return float(change / norm) if norm else float(change)


def _is_finite(array):
  return np.isfinite(to_float64(array) if array.dtype.kind == "V" else array)


def _tolerance(model):
  """The square root of the rounding error of the coarsest type in which a layer computes."""
  types = {layer.compute_dtype for layer in layers_in(model)} & set(EPSILONS)
  if "float64" in types:  # Batch norms compute in what Keras makes of it and float32: on JAX and PyTorch in float32.
    types.add(keras.backend.result_type("float64", "float32"))
  return max((EPSILONS[name] for name in types), default=EPSILONS["float32"]) ** 0.5


def _perturbed(inputs, model):
  rng = np.random.default_rng(0)

  def perturbed(array):
    array = keras.ops.convert_to_numpy(array)
    if array.dtype.kind != "f":
      return array
    size = PERTURBATION * _tolerance(model) ** 2
    return (array * (1 + size * rng.choice([-1, 1], array.shape))).astype(array.dtype)

  return keras.tree.map_structure(perturbed, inputs)


def _finite(difference):
  return difference if np.isfinite(difference) else None
