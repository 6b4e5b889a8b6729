"""Records in a version's directory that are no files, or hold other values under a true checksum."""

import json
import os
import zipfile

import keras
import numpy as np
import pytest
from helpers import change, write_record

from cifar10.config import ReportConfig
from cifar10.errors import UserError
from cifar10.models import MODELS
from cifar10.pruning import multiply_adds, squeeze
from cifar10.report import report
from cifar10.train import train
from cifar10.version.directory import Version
from cifar10.version.evaluations import read_evaluations
from cifar10.version.exports import read_exports
from cifar10.version.metrics import COLUMNS, read_gammas, read_metrics
from cifar10.version.network import costs
from cifar10.version.predictions import Predictions, read_predictions, write_predictions
from cifar10.version.stage import read_stage

READERS = {
  "stage.json": read_stage,
  "metrics.csv": read_metrics,
  "gammas.npz": read_gammas,
  "evaluations.jsonl": read_evaluations,
  "predictions.npz": read_predictions,
  "export.json": read_exports,
  "model.keras": lambda directory: Version.at(directory).network(),
}


def device(path):
  path.symlink_to("/dev/zero")


def pipe(path):
  os.mkfifo(path)


def sparse(path):
  with open(path, "wb") as file:
    file.truncate(20 << 30)


@pytest.mark.parametrize("place", [device, pipe, sparse])
@pytest.mark.parametrize("name", READERS)
def test_a_record_that_is_no_file_or_too_large_is_one_sentence(tmp_path, name, place):
  directory = tmp_path / "run_1"
  directory.mkdir()
  place(directory / name)
  with pytest.raises(UserError, match=f"{name} .*(not a file|are the most)") as error:
    READERS[name](directory)
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("place", [device, pipe])
def test_a_stage_whose_checkpoints_are_no_files_goes_on_from_the_one_before(finished, place, capsys):
  train(change(finished, max_steps=25, squeeze_model=False))
  path = Version(finished.train_dir, 0).path / "model.ckpt-25.index"
  path.unlink()
  place(path)
  train(change(finished, max_steps=30, squeeze_model=False))
  assert "resumed at step 20." in capsys.readouterr().out


LAYER = {"channels": 4, "removed": 1}
STAGES = [
  {"penalties": [1]},
  {"penalties": {"a": "1"}},
  {"packages": {"keras": 3}},
  {"packages": "x"},
  {"progress": {"step": 10**19, "seconds": 1.0}},
  {"progress": {"step": 5, "seconds": float("inf")}},
  *(
    {"finished": {"step": 20, **other}}
    for other in (
      {"exact": "yes"},
      {"multiple_of": 1.5},
      {"recalibration_batches": [1]},
      {"report": 7},
      {"report": [1]},
    )
  ),
]
REPORTS = [
  {"parameters_before": float("inf"), "multiply_adds_after": float("nan")},
  {"layers": {"conv1": {"channels": float("inf"), "removed": 0}}},
  {"layers": {"conv1": {"channels": 10**30, "removed": 0}}},
  {"layers": {"\ud800": LAYER}},
  {"layers": {"$\\frac$": LAYER, "<b>": LAYER}},
  {"layers": [LAYER]},
  {"parameters_before": "\ud800"},
]


def changed_stage(config, change):
  path = Version(config.train_dir, 0).path / "stage.json"
  stage = json.loads(path.read_text())
  del stage["sha256"]
  change(stage)
  write_record(path, stage)
  path.with_name("stage.json.old").unlink(missing_ok=True)


def in_train_and_report(config, tmp_path):
  sentence = ""
  try:
    train(config)
  except UserError as error:
    sentence = str(error)
  assert "\n" not in sentence
  report(ReportConfig(train_dir=(config.train_dir,), output_dir=str(tmp_path / "page")))
  return (tmp_path / "page" / "index.html").read_text()


@pytest.mark.parametrize("change", STAGES)
def test_a_stage_of_other_values_is_one_sentence_in_train_and_report(finished, change, tmp_path):
  changed_stage(finished, lambda stage: stage.update(change))
  with pytest.raises(UserError, match="stage.json is damaged: it lacks what a stage has, or has something else"):
    train(finished)
  assert "stage.json is damaged" in in_train_and_report(finished, tmp_path)


@pytest.mark.parametrize("change", REPORTS)
def test_a_squeeze_s_report_of_other_values_leaves_a_page(finished, change, tmp_path):
  changed_stage(finished, lambda stage: stage["finished"]["report"].update(change))
  in_train_and_report(finished, tmp_path)


ROW = {**dict.fromkeys(COLUMNS, "1.0"), "step": "5"}


@pytest.mark.parametrize(
  "row", [{"step": "1" + "0" * 300}, {"step": "-5"}, {"step": "nan"}, {"step": "1e3"}, {"loss": "x"}]
)
def test_rows_of_other_values_are_one_sentence(finished, row, tmp_path):
  path = Version(finished.train_dir, 0).path / "metrics.csv"
  path.write_text(",".join(COLUMNS) + "\n" + ",".join({**ROW, **row}.values()) + "\n")
  with pytest.raises(UserError, match="metrics.csv is damaged; remove it to go on"):
    train(change(finished, max_steps=30))
  assert "metrics.csv is damaged" in in_train_and_report(change(finished, max_steps=30), tmp_path)


@pytest.mark.parametrize("value", ["1e300", "-1e308", "inf", "nan"])
def test_rows_of_huge_figures_leave_a_page(finished, value, tmp_path):
  path = Version(finished.train_dir, 0).path / "metrics.csv"
  path.write_text("\n".join([",".join(COLUMNS), ",".join({**dict.fromkeys(COLUMNS, value), "step": "5"}.values()), ""]))
  in_train_and_report(finished, tmp_path)


GAMMAS = [
  {"step": [0, 5], "conv1_bn/gamma": np.ones((2, 7), "float32")},
  {"step": [0, 5], "other/gamma": np.ones((2, 4), "float32")},
  {"step": [0, 5], "conv1_bn/gamma": np.ones((1, 4), "float32")},
  {"step": [0, 5], "conv1_bn/gamma": np.ones((2, 4, 3), "float32")},
  {"step": [0, 5], "conv1_bn/gamma": np.ones((2, 0), "float32")},
  {"step": [0, 5], "conv1_bn/gamma": np.full((2, 4), 1e38, "float32")},
  {"step": [0.5, 1.5], "conv1_bn/gamma": np.ones((2, 4), "float32")},
  {"step": np.array([2**63, 5], np.uint64), "conv1_bn/gamma": np.ones((2, 4), "float32")},
  {"step": 5, "conv1_bn/gamma": np.ones((2, 4), "float32")},
  {"conv1_bn/gamma": np.ones((2, 4), "float32")},
  {"step": [], "conv1_bn/gamma": np.ones((0, 4), "float32")},
]


@pytest.mark.parametrize("arrays", GAMMAS)
def test_gammas_of_other_values_are_no_traceback(finished, arrays, tmp_path):
  np.savez(Version(finished.train_dir, 0).path / "gammas.npz", **arrays)
  in_train_and_report(change(finished, max_steps=30), tmp_path)


def test_gammas_that_unpack_to_very_much_are_not_unpacked(finished, monkeypatch):
  path = Version(finished.train_dir, 0).path / "gammas.npz"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("step.npy", bytes(300 << 20))
  monkeypatch.setattr(np, "load", None)
  with pytest.raises(UserError, match="gammas.npz is damaged; remove it"):
    read_gammas(path.parent)


RECORD = {"precision": 0.5, "loss": 1.0, "checkpoint_iter": 0, "eval_data": "test", "examples": 20}
COUNTS = (2 * np.eye(10, dtype=int)).tolist()


@pytest.mark.parametrize(
  "confusion",
  [
    None,
    7,
    {},
    COUNTS[:9],
    [row[:9] for row in COUNTS],
    [[-1, 3, *([0] * 8)], *COUNTS[1:]],
    [["2", *([0] * 9)], *COUNTS[1:]],
    [[2.0, *([0] * 9)], *COUNTS[1:]],
    [[True, 1, *([0] * 8)], *COUNTS[1:]],
    [[3, *([0] * 9)], *COUNTS[1:]],
  ],
)
def test_counts_by_class_that_are_none_are_left_out_of_a_record_that_counts(tmp_path, confusion):
  lines = [json.dumps({**RECORD, "confusion": each}) for each in (COUNTS, confusion)] + [json.dumps(RECORD)]
  (tmp_path / "evaluations.jsonl").write_text("\n".join(lines) + "\n")
  records, unreadable = read_evaluations(tmp_path)
  assert [record["confusion"] for record in records] == [COUNTS, None, None]
  assert unreadable == 0


def predictions(**changed):
  arrays = {"images": np.zeros((2, 32, 32, 3), np.uint8), "labels": np.array([0, 9]), "classes": np.array([1, 9])}
  return {**arrays, "probabilities": np.float32([0.5, 1]), "evaluation": "now", **changed}


def test_predictions_are_what_was_written(tmp_path):
  assert read_predictions(tmp_path) is None
  write_predictions(tmp_path, Predictions(**predictions()))
  read = read_predictions(tmp_path)
  for name, value in predictions().items():
    np.testing.assert_array_equal(getattr(read, name), value)


@pytest.mark.parametrize(
  "changed",
  [
    {"images": np.zeros((2, 32, 32, 3), np.float32)},
    {"images": np.zeros((1, 32, 32, 3), np.uint8)},
    {"images": np.zeros((2, 2000, 2000, 3), np.uint8)},
    {"labels": np.array([0, 10])},
    {"classes": np.array([-1, 0])},
    {"labels": np.array(["a", "b"])},
    {"probabilities": np.float32([0.5, np.nan])},
    {"probabilities": np.float32([0.5, 1.5])},
    {"probabilities": np.float32([0.5])},
    {"more": 1},
  ],
)
def test_predictions_of_other_values_are_one_sentence(tmp_path, changed):
  np.savez_compressed(tmp_path / "predictions.npz", **predictions(**changed))
  with pytest.raises(
    UserError, match=r"predictions.npz (is damaged|holds something else than predictions); remove it, and"
  ):
    read_predictions(tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_network_costs_is_read_off_its_file(tmp_path, name):
  network = MODELS[name]()
  for layer in network.layers[:20]:
    if getattr(layer, "gamma", None) is not None:
      layer.gamma.assign([0.0] * 3 + [1.0] * (layer.gamma.shape[0] - 3))
  for model in (network, squeeze(network)[0]):
    model.save(tmp_path / "model.keras")
    assert costs(tmp_path) == (model.count_params(), multiply_adds(model))


def test_costs_of_other_layers_and_of_damaged_files_are_not_known(tmp_path):
  images = keras.Input((32, 32, 3))
  keras.Model(images, keras.layers.LayerNormalization()(images)).save(tmp_path / "model.keras")
  assert costs(tmp_path) == (None, None)
  (tmp_path / "model.keras").write_bytes(b"junk")
  assert costs(tmp_path) == (None, None)
