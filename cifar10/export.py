"""Writes a version's network in the formats of other runtimes, and holds each file against the Keras model."""

import contextlib
import importlib.util
import pathlib
import statistics
import warnings

import keras
import tensorflow as tf

from cifar10 import console, input_pipeline
from cifar10.config import ExportConfig, check
from cifar10.datasets.examples import IMAGE_SHAPE, Examples
from cifar10.errors import UserError, how_to_install
from cifar10.input_pipeline import standardize
from cifar10.pruning import fold_batch_norms
from cifar10.pruning.calls import layers_in
from cifar10.pruning.comparing import output_differences
from cifar10.pruning.timing import seconds_in_turns
from cifar10.version import files
from cifar10.version.choosing import chosen_by
from cifar10.version.directory import MODEL_FILE

FILES = {
  "saved_model": "saved_model",
  "litert": "model.tflite",
  "litert_int8": "model_int8.tflite",
  "onnx": "model.onnx",
}
MODULES = {
  "saved_model": (),
  "litert": ("ai_edge_litert",),
  "litert_int8": ("ai_edge_litert",),
  "onnx": ("onnx", "onnxruntime", "tf2onnx"),
}
EXAMPLES = 1000
CALIBRATION_EXAMPLES = 300
WARM_UP_RUNS, TIMED_RUNS = 5, 30


def export(config: ExportConfig):
  """Exports a version's network, compares each file with it on test images, prints a table and records it.

  Raises:
    UserError: a package is missing; data, directory or settings do not fit.
  """
  check(config)
  _check_packages(config.formats)
  version = chosen_by(config).must_exist()
  with version.watched() as check_same:
    _export(config, version, check_same)


def _export(config, version, check_same):
  network, step, damage = version.load(config.checkpoint_iter)
  console.say(*damage)
  dataset = version.own_dataset(config.dataset)
  test, calibration = (
    _first(input_pipeline.load(dataset, split, config.data_dir), count)
    for split, count in (("test", EXAMPLES), ("train", CALIBRATION_EXAMPLES))
  )
  served = served_model(fold_batch_norms(network), config.input, config.softmax)
  run = _compiled(served_model(network, config.input, config.softmax))
  output_dir = pathlib.Path(config.output_dir or ("export" if config.published else version.path / "export"))
  images = _inputs(test.images, config.input)
  expected = run(images)
  with _workplace(output_dir) as workplace:
    network.save(workplace / MODEL_FILE)
    size = _size(workplace / MODEL_FILE)
    rows = [_row("keras", None, size, run, images, test.labels, expected)]
    for name in config.formats:
      path = workplace / FILES[name]
      write(served, name, path, _inputs(calibration.images, config.input))
      final = _recorded_path(output_dir / FILES[name], version.path)
      rows.append(_row(name, final, _size(path), load(name, path), images, test.labels, expected))
    network_checksum = check_same()
    for name in config.formats:
      _move(workplace / FILES[name], output_dir / FILES[name], workplace)
  print(table(rows))
  if config.published:
    return
  record = {
    "network": network_checksum,
    "checkpoint_iter": step,
    "dataset": dataset,
    "examples": len(test.labels),
    "input": config.input,
    "softmax": config.softmax,
    "time": console.timestamp(),
    "exports": rows,
  }
  version.write_exports(record)


def served_model(network, input, softmax):
  """Puts the preprocessing before a network and the softmax behind it, as asked for.

  Args:
    network: a Keras model from standardised images (batch, 32, 32, 3) float32 to logits (batch, 10).
    input: "standardized", or "uint8" for a model of images as they are in CIFAR-10, 0 to 255.
    softmax: whether the model gives probabilities instead of logits.

  Returns:
    A Keras model of one input, "images".
  """
  images = x = keras.Input(IMAGE_SHAPE, dtype="uint8" if input == "uint8" else "float32", name="images")
  if input == "uint8":
    x = keras.layers.Lambda(standardize, output_shape=IMAGE_SHAPE, name="standardize")(x)
  x = network(x)
  return keras.Model(images, keras.layers.Softmax(name="softmax")(x) if softmax else x, name="served")


def write(model, name, path, calibration_images):
  """Writes a model in one of the formats `FILES`; all take batches of any size.

  "litert_int8" has weights and activations in int8, and takes and gives what the others do.

  Args:
    model: a Keras model of one input.
    name: of the format.
    path: of the file, or of the directory for "saved_model".
    calibration_images: inputs of the model, from which "litert_int8" learns the ranges of activations.

  Raises:
    UserError: the model has what ONNX has no operator for, like grouped convolutions; no file is left.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # Keras asks NumPy for what tf2onnx misses there.
    if name == "saved_model":
      model.export(path, format="tf_saved_model", verbose=False)
    elif name == "onnx":
      # Without a signature Keras 3.15 refuses a model that was never called.
      signature = [keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype, name=tensor.name) for tensor in model.inputs]
      model.export(path, format="onnx", verbose=False, input_signature=signature)
      _refuse_what_onnx_lacks(path, model)
    elif name == "litert":
      model.export(path, format="litert", verbose=False, target_spec=_operations(tf.lite.OpsSet.TFLITE_BUILTINS))
    else:
      model.export(
        path,
        format="litert",
        verbose=False,
        target_spec=_operations(tf.lite.OpsSet.TFLITE_BUILTINS_INT8),
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([image[None]] for image in calibration_images),
      )


def _refuse_what_onnx_lacks(path, model):
  """Removes a file that no runtime could load: tf2onnx writes what it cannot translate as it is."""
  import onnx

  nodes = onnx.load(path).graph.node
  foreign = {node.op_type for node in nodes if not onnx.defs.has(node.op_type, node.domain)}
  if not foreign:
    return
  path.unlink()
  # Keras has XLA compile these on a CPU, and tf2onnx does not look into what is compiled.
  grouped = [layer.name for layer in layers_in(model) if getattr(layer, "groups", 1) > 1]
  cause = f"the grouped convolutions {', '.join(grouped)} become" if grouped else "the network has"
  raise UserError(
    f"the network cannot be written as ONNX: {cause} {', '.join(sorted(foreign))}, for which ONNX has no operator; "
    "leave onnx out of --formats."
  )


def load(name, path):
  """Loads what `write` wrote, by its own runtime with the settings that this has by default, on the CPU.

  Returns:
    A function from a batch of inputs to the outputs, NumPy arrays.
  """
  if name == "saved_model":
    with files.plain_name(path) as plain:
      loaded = tf.saved_model.load(str(plain))
    return lambda images: loaded.serve(images).numpy()
  if name == "onnx":
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]
  from ai_edge_litert.interpreter import Interpreter

  interpreter = Interpreter(model_path=str(path))
  (image_details,), (output_details,) = interpreter.get_input_details(), interpreter.get_output_details()
  shape = None

  def run(images):
    nonlocal shape
    if images.shape != shape:
      shape = images.shape
      interpreter.resize_tensor_input(image_details["index"], shape)
      interpreter.allocate_tensors()
    interpreter.set_tensor(image_details["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(output_details["index"])

  return run


def table(rows):
  """The rows of `export.json` as a Markdown table."""
  header = ["format", "file", "bytes", "largest difference", "equal predictions", "precision @ 1", "ms at batch 1"]
  return console.table(header, [_cells(row) for row in rows])


def _cells(row):
  return [
    row["format"],
    row["path"] or "",
    f"{row['bytes']:,}",
    f"{row['largest_difference']:.1e}",
    f"{row['agreement']:.4f}",
    f"{row['precision']:.4f}",
    f"{row['latency_ms']:.2f}",
  ]


def _check_packages(formats):
  for name in formats:
    missing = [module for module in MODULES[name] if importlib.util.find_spec(module) is None]
    if missing:
      raise UserError(
        f"--formats has {name}, which needs {', '.join(missing)}; "
        f"install it with {how_to_install('export')}, or leave the format out."
      )


def _first(examples, count):
  return Examples(*(array[:count] for array in examples))


def _inputs(images, input):
  """Images uint8 as a served model takes them."""
  return images if input == "uint8" else standardize(images).numpy()


def _compiled(model):
  function = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
  return lambda images: function(images).numpy()


def _operations(operations):
  return {"supported_ops": [operations]}


@contextlib.contextmanager
def _workplace(output_dir):
  """A directory to write in beside the finished files; nothing of it stays, nor of `output_dir` if that stays empty."""
  made = [path for path in (output_dir, *output_dir.parents) if not path.exists()]
  try:
    with files.workplace(output_dir / "export") as workplace:
      yield workplace
  finally:
    with contextlib.suppress(OSError):
      for path in made:
        path.rmdir()


def _move(new, place, workplace):
  """Puts a finished file or directory in its place, and what was there into the workplace."""
  if place.exists():
    place.rename(workplace / f"old_{place.name}")
  new.rename(place)


def _recorded_path(path, directory):
  """The path from the version's directory, or a whole one if it leads elsewhere."""
  path, directory = path.absolute(), directory.absolute()
  return str(path.relative_to(directory) if path.is_relative_to(directory) else path)


def _size(path):
  files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
  return sum(file.stat().st_size for file in files)


def _row(name, path, size, run, images, labels, expected):
  """What `export.json` says of one format."""
  outputs = run(images)
  differences = output_differences(expected, outputs)
  return {
    "format": name,
    "path": path,
    "bytes": size,
    "largest_difference": differences.largest,
    "agreement": differences.agreement,
    "precision": float((outputs.argmax(axis=1) == labels).mean()),
    "latency_ms": _latency(run, images[:1]) * 1000,
  }


def _latency(run, images):
  """Median time of a run, in seconds."""
  return statistics.median(seconds_in_turns({"run": lambda: run(images)}, TIMED_RUNS, WARM_UP_RUNS)["run"])
