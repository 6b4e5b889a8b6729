"""Makes a Keras model anew, with some of its layers changed."""

import tempfile

import keras

from cifar10.pruning.calls import is_model, layers_in, nodes_in_order


def rebuilt(model, graph, kept, pieces):
  """A copy of a model with its layers as the pieces say.

  Args:
    model: the model.
    graph: its `ChannelGraph`.
    kept: function from `Channels` to which of their positions stay, a bool array.
    pieces: dict from the id() of each layer or operation to its `Squeezed`.

  Returns:
    A model of the same structure, not compiled.

  Raises:
    ValueError: a layer cannot be made anew from its config.
  """
  copies = {}

  def bypassed(operation):
    return id(operation) in pieces and pieces[id(operation)].bypassed

  def copied(operation):
    if id(operation) not in copies:
      piece = pieces.get(id(operation))
      copies[id(operation)] = model_copied(operation) if piece is None else _operation_copied(operation, piece)
    return copies[id(operation)]

  def model_copied(model):
    tensors = {}
    for node in nodes_in_order(model):
      if node.is_input:
        tensors[id(node.outputs[0])] = _input_copied(node, graph, kept)
    if isinstance(model, keras.Sequential):
      stay = [copied(layer) for layer in model.layers if not bypassed(layer)]
      return keras.Sequential([tensors[id(model.inputs[0])], *stay], name=model.name)
    for node in nodes_in_order(model):
      if bypassed(node.operation):
        tensors[id(node.outputs[0])] = tensors[id(node.inputs[0])]
      elif not node.is_input:
        args, kwargs = node.arguments(tensors)
        copy = copied(node.operation)
        changed = pieces[id(node.operation)].args if id(node.operation) in pieces else {}
        outputs = copy(*(changed.get(index, value) for index, value in enumerate(args)), **kwargs)
        tensors.update(zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True))
    new = [keras.tree.map_structure(lambda tensor: tensors[id(tensor)], x) for x in (model.input, model.output)]
    return keras.Model(*new, name=model.name)

  smaller = model_copied(model)
  for calls in graph.calls_by_operation():
    layer = calls[0].operation
    if isinstance(layer, keras.Layer) and copies.get(id(layer), layer) is not layer:
      _copy_state(layer, copies[id(layer)], pieces[id(layer)].weights)
  _copy_trainable(model, smaller)
  return smaller


def _input_copied(node, graph, kept):
  """The input of a model, with as many channels as stay: none goes of the whole model's, but of a nested one's."""
  config, channels = node.operation.get_config(), graph.of(node.outputs[0])
  shape = list(config["batch_shape"])
  if channels.axis is not None:
    shape[channels.axis] = int(kept(channels).sum())
  return keras.layers.InputLayer.from_config({**config, "batch_shape": tuple(shape)}).output


def _operation_copied(operation, piece):
  if isinstance(operation, keras.layers.Lambda) or not (isinstance(operation, keras.Layer) or piece.config):
    return operation  # What has no weights can serve two models; and the code of a Lambda is not in its config.
  try:
    config = operation.get_config()
    functions = {name: getattr(operation, name, None) for name in config}
    # Those that Keras does not know by name: activations, initializers, regularizers of the caller's own.
    config |= {name: f for name, f in functions.items() if callable(f) and not isinstance(f, keras.Operation)}
    copy = type(operation).from_config({**config, **piece.config})
  except Exception as error:
    raise ValueError(
      f"layer {operation.name} cannot be made anew from its config, as squeeze must; "
      f"give {type(operation).__name__} a get_config that holds all arguments of its constructor"
    ) from error
  copy.name = operation.name
  return copy


def _copy_state(layer, copy, weights):
  """Copies weights, those by attribute name as given, trainable flags, and what lookups have learnt."""
  names = [name for name in weights if getattr(layer, name, None) is not None]
  given = {id(getattr(layer, name)) for name in names}
  ours = [variable for variable in copy.weights if id(variable) not in {id(getattr(copy, name)) for name in weights}]
  theirs = [variable for variable in layer.weights if id(variable) not in given]
  for one, other in zip(ours, theirs, strict=True):
    one.assign(other)
  for name, array in weights.items():
    getattr(copy, name).assign(array)
  if hasattr(copy, "finalize_state"):
    copy.finalize_state()
  for one, other in zip(layers_in(copy), layers_in(layer), strict=True):
    one.trainable = other.trainable
  if hasattr(layer, "save_assets"):
    with tempfile.TemporaryDirectory() as directory:
      layer.save_assets(directory)
      copy.load_assets(directory)


def _copy_trainable(model, copy):
  """The trainable flags, those of models first since they set those of their layers."""
  copy.trainable = model.trainable
  if is_model(model):
    there = {layer.name: layer for layer in copy.layers}
    for layer in model.layers:
      if layer.name in there:
        _copy_trainable(layer, there[layer.name])
