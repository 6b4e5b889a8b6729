"""Whatever `keras.layers` and `keras.ops` export, between a gated layer and a dense one: the function stays."""

import inspect

import keras
import numpy as np
import pytest
from builders import image
from keras import layers, ops

from cifar10.pruning import squeeze

pytestmark = [
  pytest.mark.usefixtures("float64"),
  pytest.mark.filterwarnings("ignore"),  # Keras warns of many of them.
]

CHANNELS = 6
SHAPES = {4: (6, 6, 3), 3: (8, 3), 2: (5,), 5: (4, 4, 4, 3)}

# What none can be made of, or takes no tensor of numbers alone.
NO_LAYERS = {
  "FlaxLayer",
  "HashedCrossing",
  "InputLayer",
  "JaxLayer",
  "Layer",
  "StringLookup",
  "TFSMLayer",
  "TextVectorization",
  "TorchModuleWrapper",
  "Wrapper",
}
SINGLE = {"GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells"}  # They read a state too.
LAYERS = {
  "Activation": ("tanh",),
  "AdaptiveAveragePooling1D": (3,),
  "AdaptiveAveragePooling2D": (3,),
  "AdaptiveAveragePooling3D": (3,),
  "AdaptiveMaxPooling1D": (3,),
  "AdaptiveMaxPooling2D": (3,),
  "AdaptiveMaxPooling3D": (3,),
  "AlphaDropout": (0.5,),
  "CategoryEncoding": (4,),
  "CenterCrop": (4, 4),
  "Discretization": ([0.2, 0.5],),
  "Dot": (-1,),
  "Dropout": (0.5,),
  "EinsumDense": ("...c,cd->...d", (None, 4)),
  "Embedding": (9, 2),
  "GaussianDropout": (0.5,),
  "GaussianNoise": (0.5,),
  "GroupNormalization": (3,),
  "GroupQueryAttention": (4, 2, 1),
  "Hashing": (5,),
  "Lambda": (lambda x: 2 * x,),
  "MelSpectrogram": (4, 4, 8),
  "MultiHeadAttention": (2, 3),
  "Permute": ((2, 1, 3),),
  "RandomBrightness": (0.2,),
  "RandomContrast": (0.2,),
  "RandomCrop": (4, 4),
  "RandomRotation": (0.2,),
  "RandomTranslation": (0.2, 0.2),
  "RandomZoom": (0.2,),
  "RepeatVector": (3,),
  "Rescaling": (0.5, 0.1),
  "Reshape": ((-1, CHANNELS),),
  "Resizing": (4, 9),
  "ReversibleEmbedding": (9, 2),
  "SpatialDropout1D": (0.5,),
  "SpatialDropout2D": (0.5,),
  "SpatialDropout3D": (0.5,),
}
KERNELS = ("Conv", "SeparableConv", "DepthwiseConv")


def kernel(*shape):
  return np.random.default_rng(2).normal(size=shape)


OPS = {
  "adaptive_average_pool": lambda x: ops.adaptive_average_pool(x, 3),
  "adaptive_max_pool": lambda x: ops.adaptive_max_pool(x, 3),
  "argpartition": lambda x: ops.argpartition(x, 2),
  "array_split": lambda x: ops.array_split(x, 2, axis=-1),
  "average_pool": lambda x: ops.average_pool(x, 2),
  "batch_normalization": lambda x: ops.batch_normalization(x, kernel(6), kernel(6) ** 2, -1),
  "cast": lambda x: ops.cast(x, "float32"),
  "clip": lambda x: ops.clip(x, 0.2, 0.5),
  "concatenate": lambda x, y: ops.concatenate([x, y], axis=-1),
  "cond": lambda x: ops.cond(True, lambda: x, lambda: -x),
  "conv": lambda x: ops.conv(x, kernel(3, 3, 6, 4)),
  "conv_transpose": lambda x: ops.conv_transpose(x, kernel(3, 3, 4, 6), 2),
  "depth_to_space": lambda x, y: ops.depth_to_space(ops.concatenate([x, y], axis=-1), 2),
  "depthwise_conv": lambda x: ops.depthwise_conv(x, kernel(3, 3, 6, 1)),
  "digitize": lambda x: ops.digitize(x, np.array([0.2, 0.5])),
  "dot_product_attention": lambda x, y: ops.dot_product_attention(x, y, y),
  "dsplit": lambda x: ops.dsplit(x, 2),
  "dstack": lambda x, y: ops.dstack([x, y]),
  "einsum": lambda x: ops.einsum("bhwc,cd->bhwd", x, kernel(6, 4)),
  "expand_dims": lambda x: ops.expand_dims(x, -1),
  "fft": lambda x, y: ops.fft((x, y)),
  "fft2": lambda x, y: ops.fft2((x, y)),
  "get_item": lambda x: x[..., 1:5],
  "hsplit": lambda x: ops.hsplit(x, 2),
  "hstack": lambda x, y: ops.hstack([x, y]),
  "ifft2": lambda x, y: ops.ifft2((x, y)),
  "map": lambda x: ops.map(lambda row: 2 * row, x),
  "max_pool": lambda x: ops.max_pool(x, 2),
  "moments": lambda x: ops.moments(x, [1, 2]),
  "moveaxis": lambda x: ops.moveaxis(x, -1, 1),
  "norm": lambda x: ops.norm(x, axis=1),
  "one_hot": lambda x: ops.one_hot(ops.argmax(x, axis=-1), 6),
  "pad": lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 2)), constant_values=1.0),
  "rearrange": lambda x: ops.rearrange(x, "b h w c -> b (h w) c"),
  "repeat": lambda x: ops.repeat(x, 2, axis=-1),
  "reshape": lambda x: ops.reshape(x, (-1, 6, 12, 3)),
  "roll": lambda x: ops.roll(x, 1, axis=-1),
  "saturate_cast": lambda x: ops.saturate_cast(x, "float32"),
  "searchsorted": lambda x: ops.searchsorted(np.linspace(0, 1, 5), ops.reshape(x, (-1,))),
  "select": lambda x, y: ops.select([x > 0.3, y > 0.3], [x, y], 1.0),
  "separable_conv": lambda x: ops.separable_conv(x, kernel(3, 3, 6, 1), kernel(1, 1, 6, 4)),
  "space_to_depth": lambda x: ops.space_to_depth(x, 2),
  "split": lambda x: ops.split(x, [2, 3], axis=-1),
  "stack": lambda x, y: ops.stack([x, y], axis=-1),
  "swapaxes": lambda x: ops.swapaxes(x, 1, 3),
  "switch": lambda x: ops.switch(0, [lambda t: 2 * t, lambda t: t], x),
  "take": lambda x: ops.take(x, [0, 2, 4], axis=-1),
  "take_along_axis": lambda x: ops.take_along_axis(x, ops.argsort(x, axis=-1), axis=-1),
  "tensordot": lambda x: ops.tensordot(x, kernel(6, 2), 1),
  "threshold": lambda x: ops.threshold(x, 0.3, 2.0),
  "tile": lambda x: ops.tile(x, (1, 1, 1, 2)),
  "top_k": lambda x: ops.top_k(x, 2),
  "unstack": lambda x: ops.unstack(x, axis=-1),
  "vectorized_map": lambda x: ops.vectorized_map(lambda row: 2 * row, x),
  "vsplit": lambda x: ops.vsplit(ops.swapaxes(x, 0, 0), 1),
  "vstack": lambda x, y: ops.vstack([x, y]),
  "where": lambda x: ops.where(x > 0.3, x, 1.0),
}


def layer_functions(name):
  """Functions of one tensor, or of two, that call a new layer of that name."""
  layer_class, arguments = getattr(layers, name), LAYERS.get(name, ())
  if name in SINGLE:
    cells = {"StackedRNNCells": lambda: layers.StackedRNNCells([layers.GRUCell(4), layers.LSTMCell(3)])}
    return [lambda x: layers.RNN(cells.get(name, lambda: layer_class(4))())(x)]
  wrapped = {
    "Bidirectional": lambda: layers.Bidirectional(layers.GRU(3, return_sequences=True)),
    "Pipeline": lambda: layers.Pipeline([layers.Rescaling(0.5), layers.RandomFlip()]),
    "RNN": lambda: layers.RNN(layers.SimpleRNNCell(4)),
    "SpectralNormalization": lambda: layers.SpectralNormalization(layers.Dense(4)),
    "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(4)),
    "IntegerLookup": lambda: layers.IntegerLookup(vocabulary=[0, 1, 2]),
    "Normalization": lambda: layers.Normalization(mean=0.5, variance=2.0),
  }
  if name.startswith(("AveragePool", "AvgPool", "MaxPool")):
    wrapped[name] = lambda: layer_class(2, dtype="float32" if name.endswith("3D") else None)  # As TensorFlow has them.
  if name.startswith(KERNELS):
    wrapped[name] = lambda: layer_class(*((3,) if name.startswith("Depthwise") else (4, 3)))
  if name in ("Dense", "LSTM", "GRU", "SimpleRNN"):
    arguments = (4,)
  make = wrapped.get(name, lambda: layer_class(*arguments))
  return [
    lambda x: make()(x),
    lambda x, y: make()([x, y]),
    lambda x, y: make()(x, y),
    lambda x: make()(ops.cast(4 * x, "int64")),
  ]


def functions(name):
  if inspect.isclass(getattr(layers, name, None)):
    return layer_functions(name)
  if name in OPS:
    return [OPS[name]]
  function = getattr(ops, name)
  return [lambda x: function(x), lambda x, y: function(x, y), lambda x, y: function([x, y])]


def gate(x, name):
  """A convolution or dense layer of 6 channels, of which 1 and 4 are shut."""
  rank = len(x.shape) - 2
  maker = getattr(layers, f"Conv{rank}D")(CHANNELS, 1, name=name) if rank else layers.Dense(CHANNELS, name=name)
  return layers.ReLU(name=f"{name}_act")(layers.BatchNormalization(name=f"{name}_bn")(maker(x)))


def branch(name, function, rank):
  """The input and the outputs of a model of a layer or operation."""
  two = len(inspect.signature(function).parameters) == 2
  images = image(*SHAPES[rank], name=f"{name}_in")
  made = keras.tree.flatten(function(*(gate(images, f"{name}_{which}") for which in ("xy" if two else "x"))))
  outputs = []
  for x in (each for each in made if isinstance(each, keras.KerasTensor)):
    if len(x.shape) > 1 and x.shape[-1] and x.dtype == "float64":
      x = layers.Dense(2)(x)
    outputs.append(ops.real(x) if "complex" in x.dtype else x)
  if not outputs:
    raise ValueError("no tensor is made")
  return images, outputs


def randomize(model):
  rng = np.random.default_rng(0)
  for variable in model.variables:
    if "float" in variable.dtype:
      value = rng.uniform(0.2, 1, size=variable.shape)
      if variable.name in ("gamma", "beta") and variable.path.split("/")[0].endswith(("_x_bn", "_y_bn")):
        value[[1, 4]] = (0, 0) if variable.name == "gamma" else (-1, 0.5)
      variable.assign(value)
  return model


def noise(model):
  rng = np.random.default_rng(1)
  return [rng.uniform(0.1, 1, size=(4, *tensor.shape[1:])) for tensor in model.inputs]


def buildable(name):
  """The function and the rank with which a layer or operation makes something of what it is given; None if none do."""
  for function in functions(name):
    for rank in SHAPES:
      try:
        images, outputs = branch(name, function, rank)
        model = randomize(keras.Model(images, outputs))
        model(noise(model))
      except Exception:
        continue
      return function, rank
  return None


def assert_same(model, smaller, inputs):
  for one, other in zip(*(keras.tree.flatten(each(inputs, training=False)) for each in (model, smaller)), strict=True):
    one, other = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
    assert one.shape == other.shape
    if one.dtype.kind in "iub":
      assert np.mean(one != other) < 0.02
    else:
      np.testing.assert_array_equal(np.isfinite(one), np.isfinite(other))
      finite = np.isfinite(one)
      tolerance = 1e-9 if one.dtype == "float64" else 1e-5
      assert np.linalg.norm((one - other)[finite]) <= tolerance * (np.linalg.norm(one[finite]) + 1e-3)


def layers_and_operations():
  """The names of all that can be tried."""
  classes = [name for name in dir(layers) if inspect.isclass(getattr(layers, name)) and name not in NO_LAYERS]
  found = [name for name in classes if issubclass(getattr(layers, name), layers.Layer)]
  return found, [name for name in dir(ops) if name.islower() and callable(getattr(ops, name))]


def assert_squeezes(names):
  """Asserts that a model with a branch for each name squeezes to the same function.

  Returns:
    The names that something was made of, and those whose channels went; what stopped the others is a wall.
  """
  inputs, outputs, tried = [], [], []
  for name in names:
    if (found := buildable(name)) is not None:
      given, made = branch(name, *found)
      inputs.append(given)
      outputs += made
      tried.append(name)
  model = randomize(keras.Model(inputs, outputs))
  given = noise(model)
  smaller, report = squeeze(model, inputs=given)
  assert_same(model, smaller, given)
  assert report.check.note == ""
  assert report.shared == {}
  reports = {name: report.layers[f"{name}_x"] for name in tried}
  for each in reports.values():
    assert each.removed + sum(each.kept_though_dead.values()) >= 2
  gone = {name for name, each in reports.items() if each.removed}
  return tried, gone


def test_some_together():
  classes, operations = layers_and_operations()
  tried, gone = assert_squeezes([*classes[::9], *operations[::9]])
  assert len(tried) > 35
  assert len(gone) > 8


@pytest.mark.slow
def test_each_layer_alone():
  classes, _ = layers_and_operations()
  results = [assert_squeezes([name]) for name in classes if buildable(name)]
  assert len(results) > 130
  assert sum(len(gone) for _, gone in results) > 75


@pytest.mark.slow
def test_each_operation_alone():
  _, operations = layers_and_operations()
  results = [assert_squeezes([name]) for name in operations if buildable(name)]
  assert len(results) > 260
  assert sum(len(gone) for _, gone in results) > 45
