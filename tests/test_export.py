import importlib.util
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import change

from cifar10 import export as export_module
from cifar10.config import ExportConfig, TrainConfig, left_open
from cifar10.errors import UserError
from cifar10.export import FILES, export, load, served_model, write
from cifar10.input_pipeline import standardize
from cifar10.pruning import fold_batch_norms, squeeze
from cifar10.training_state import TrainingState
from cifar10.version import checkpoints
from cifar10.version.directory import Version
from cifar10.version.stage import Progress, Stage, write_stage

pytestmark = pytest.mark.usefixtures("tiny_world")

FLOAT_FORMATS = [name for name in FILES if name != "litert_int8"]


def randomized(model):
  """A network whose batch norms do something, and whose predictions vary."""
  rng = np.random.default_rng(0)
  for layer in model.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
      channels = layer.moving_mean.shape[0]
      values = [rng.uniform(0.5, 1.5, channels), *rng.normal(size=(2, channels)) * 0.1, rng.uniform(0.5, 1, channels)]
      layer.set_weights(values)
  return model


@pytest.fixture
def network(tiny_network):
  """The tiny network, with gammas of 0 in two channels."""
  model = randomized(tiny_network)
  gamma = model.get_layer("conv1_bn").gamma
  gamma.assign(gamma * [1.0, 0.0, 1.0, 0.0])
  return model


@pytest.fixture
def config(tmp_path, network, monkeypatch):
  """The settings to export version 1, the network, and version 2, the same squeezed."""
  monkeypatch.setattr(export_module, "EXAMPLES", 200)
  monkeypatch.setattr(export_module, "CALIBRATION_EXAMPLES", 50)
  monkeypatch.setattr(export_module, "TIMED_RUNS", 3)
  train_dir = str(tmp_path / "run")
  Version(train_dir, 1).replace(network)
  Version(train_dir, 2).replace(squeeze(network)[0])
  return ExportConfig(checkpoint_dir=train_dir, checkpoint_version=1, dataset="synthetic")


def record(config, version=1):
  return json.loads((Version(config.checkpoint_dir, version).path / "export.json").read_text())


def files(directory):
  return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.mark.parametrize(("version", "input"), [(1, "standardized"), (2, "uint8")])
def test_each_file_computes_what_the_network_does(config, network, synthetic, capsys, input, version):
  export(change(config, checkpoint_version=version, input=input, softmax=input == "uint8"))
  images = synthetic["test"].images[:200]
  logits = network(standardize(images), training=False)
  expected = (tf.nn.softmax(logits) if input == "uint8" else logits).numpy()
  labels = synthetic["test"].labels[:200]
  written = record(config, version)
  assert written.pop("time")
  rows = {row.pop("format"): row for row in written.pop("exports")}
  assert written == {
    "checkpoint_iter": 0,
    "dataset": "synthetic",
    "examples": 200,
    "input": input,
    "softmax": input == "uint8",
    "network": Version(config.checkpoint_dir, version).network_checksum(),
  }
  assert list(rows) == ["keras", *FILES]
  directory = Version(config.checkpoint_dir, version).path
  given = images if input == "uint8" else standardize(images).numpy()
  for name in FILES:
    path = directory / rows[name]["path"]
    run = load(name, path)
    outputs = run(given)
    for batch in (given[:1], given[:7]):  # Batches of any size.
      np.testing.assert_allclose(run(batch), outputs[: len(batch)], atol=1e-5)
    difference = abs(outputs - expected).max()
    if name in FLOAT_FORMATS:
      np.testing.assert_allclose(outputs, expected, atol=1e-4)
      assert rows[name]["agreement"] == 1
    else:
      assert 0 < abs(outputs - expected).mean() < 0.02 * np.ptp(expected)
      assert rows[name]["agreement"] >= 0.9
    assert rows[name]["largest_difference"] == pytest.approx(difference, abs=1e-5)
    assert rows[name]["precision"] == pytest.approx((outputs.argmax(axis=1) == labels).mean())
    assert rows[name]["latency_ms"] > 0
    sizes = [path.stat().st_size] if path.is_file() else [p.stat().st_size for p in path.rglob("*") if p.is_file()]
    assert rows[name]["bytes"] == sum(sizes)
  assert rows["keras"]["largest_difference"] == 0
  assert rows["keras"]["precision"] == (expected.argmax(axis=1) == labels).mean()
  assert rows["keras"]["bytes"] == pytest.approx((directory / "model.keras").stat().st_size, rel=0.05)
  table = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
  assert [row[0] for row in table[2:]] == ["keras", *FILES]
  assert [float(row[5]) for row in table[2:]] == [
    pytest.approx(rows[row[0]]["precision"], abs=1e-4) for row in table[2:]
  ]
  assert files(directory / "export")[:3] == ["model.onnx", "model.tflite", "model_int8.tflite"]


def test_onnx_alone_is_exported(config):
  export(change(config, formats=("onnx",)))
  assert [row["format"] for row in record(config, 1)["exports"]] == ["keras", "onnx"]


def grouped_network(layer):
  """From images to logits, through a layer of the name "grouped"."""
  images = keras.Input((32, 32, 3), name="images")
  x = keras.layers.Conv2D(4, 5, strides=4, name="conv1")(images)
  x = keras.layers.GlobalAveragePooling2D()(layer(x))
  return keras.Model(images, keras.layers.Dense(10, name="softmax_linear")(x), name="cnn4")


def test_a_grouped_convolution_is_one_sentence_and_leaves_no_onnx_file(config, synthetic, tmp_path):
  network = grouped_network(keras.layers.Conv2D(8, 3, groups=2, name="grouped"))
  path = tmp_path / "model.onnx"
  with pytest.raises(
    UserError, match="cannot be written as ONNX: the grouped convolutions grouped become .*; leave onnx"
  ):
    write(network, "onnx", path, None)
  assert not path.exists()
  Version(config.checkpoint_dir, 3).replace(network)
  directory = Version(config.checkpoint_dir, 3).path
  with pytest.raises(UserError, match="cannot be written as ONNX"):
    export(change(config, checkpoint_version=3, formats=("litert", "onnx")))
  assert files(directory) == ["model.keras"]
  export(change(config, checkpoint_version=3, formats=("litert",)))
  assert [row["agreement"] for row in record(config, 3)["exports"]] == [1, 1]


def test_a_depthwise_convolution_is_written_as_onnx(synthetic, tmp_path):
  network = grouped_network(keras.layers.DepthwiseConv2D(3, name="grouped"))
  write(network, "onnx", tmp_path / "model.onnx", None)
  images = standardize(synthetic["test"].images[:3]).numpy()
  np.testing.assert_allclose(load("onnx", tmp_path / "model.onnx")(images), network(images), atol=1e-5)


def test_weights_and_activations_of_the_int8_file_are_int8(network, synthetic, tmp_path):
  from ai_edge_litert.interpreter import Interpreter

  images = synthetic["train"].images[:20]
  for input, dtype in (("standardized", np.float32), ("uint8", np.uint8)):
    path = tmp_path / f"{input}.tflite"
    given = images if input == "uint8" else standardize(images).numpy()
    write(served_model(fold_batch_norms(network), input, False), "litert_int8", path, given)
    interpreter = Interpreter(model_path=str(path))
    assert interpreter.get_input_details()[0]["dtype"] == dtype
    assert interpreter.get_output_details()[0]["dtype"] == np.float32
    shapes = {4: (4, 5, 5, 3), 10: (10, 8, 8, 4)}
    kernels = [d for d in interpreter.get_tensor_details() if tuple(d["shape"]) in shapes.values()]
    assert len(kernels) == 2
    assert {kernel["dtype"] for kernel in kernels} == {np.int8}


def test_a_training_checkpoint_is_exported(config, network, synthetic):
  directory = Version(config.checkpoint_dir, 1).path
  state = TrainingState(network)
  state.averages[-1].assign_add(np.arange(10.0))
  checkpoints.save(directory, state, 5)
  flags = TrainConfig(model="cnn4", dataset="synthetic", batch_size=1, weight_decay=0.0, seed=1, **left_open())
  write_stage(directory, Stage(flags, progress=Progress(5, 1.0)))
  given = standardize(synthetic["test"].images[:5]).numpy()
  outputs = {}
  for step in (-1, 0):
    export(change(config, checkpoint_iter=step, formats=("saved_model",)))
    assert record(config)["checkpoint_iter"] == max(step, 5 * -step)
    outputs[step] = load("saved_model", directory / "export" / "saved_model")(given)
  np.testing.assert_allclose(outputs[-1] - outputs[0], np.tile(np.arange(10.0), (5, 1)), atol=1e-4)


def test_an_export_replaces_its_own_files_alone(config, tmp_path):
  place = tmp_path / "elsewhere" / "there"
  config = change(config, output_dir=str(place), formats=("saved_model",))
  export(config)
  (place / "notes.txt").write_text("mine")
  (place / "saved_model" / "old").write_text("old")
  export(change(config, checkpoint_version=2))
  assert [name for name in files(place) if "/" not in name] == ["notes.txt", "saved_model"]
  assert not (place / "saved_model" / "old").exists()
  assert [row["path"] for row in record(config, 2)["exports"]] == [None, str(place / "saved_model")]


@pytest.mark.parametrize("there", [False, True])
def test_nothing_is_half_written(config, monkeypatch, there):
  config = change(config, formats=("saved_model", "litert"))
  directory = Version(config.checkpoint_dir, 1).path
  if there:
    export(config)
  before = {name: (directory / name).read_bytes() for name in files(directory) if (directory / name).is_file()}

  def fail(name, path, load=load):
    if name == "litert":
      raise OSError("disk full")
    return load(name, path)

  monkeypatch.setattr(export_module, "load", fail)
  with pytest.raises(OSError, match="disk full"):
    export(change(config, softmax=True))
  assert {name: (directory / name).read_bytes() for name in files(directory) if (directory / name).is_file()} == before
  assert ("export" in files(directory)) == there


def test_a_missing_package_is_named_before_anything_is_done(config, monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name))
  before = files(Version(config.checkpoint_dir, 1).path)
  with pytest.raises(UserError, match=r"--formats has onnx, which needs tf2onnx; .*\.\[export\]' in the checkout"):
    export(config)
  assert files(Version(config.checkpoint_dir, 1).path) == before
  export(change(config, formats=("saved_model",)))


def test_a_missing_version_is_one_sentence(config):
  with pytest.raises(UserError, match="there is no directory .*run_7: train --checkpoint_version 6 first"):
    export(change(config, checkpoint_version=7))
  with pytest.raises(UserError, match="--checkpoint_iter is 3, but .*run_1 has: 0"):
    export(change(config, checkpoint_iter=3))


def test_a_file_in_the_place_of_the_directory_stays(config, tmp_path):
  (tmp_path / "file").write_text("mine")
  with pytest.raises(OSError, match="file"):
    export(change(config, output_dir=os.fspath(tmp_path / "file"), formats=("saved_model",)))
  assert (tmp_path / "file").read_text() == "mine"
