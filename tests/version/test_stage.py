import dataclasses
import json

import pytest
import tensorflow as tf
from helpers import write_record

from cifar10.config import TrainConfig, left_open
from cifar10.errors import UserError
from cifar10.version.stage import Finished, Progress, SelfCheck, Stage, read_stage, write_stage

FLAGS = TrainConfig(model="cnn4", dataset="synthetic", batch_size=8, weight_decay=0.0, seed=3, **left_open())
STAGE = Stage(
  FLAGS,
  {"conv1_bn/gamma": 0.5},
  Progress(5, 0.5),
  Finished(5, False, 8, 2, SelfCheck(1000, 0.5, 999), {"parameters_before": 7}, "nearest"),
)
RECORD = {
  "flags": {"model": "cnn4", "dataset": "synthetic", "batch_size": 8, "weight_decay": 0.0, "seed": 3},
  "progress": {"step": 5, "seconds": 0.5},
  "finished": None,
}


def test_a_stage_is_written_and_read(tmp_path):
  write_stage(tmp_path, STAGE)
  read, damage = read_stage(tmp_path)
  assert damage is None
  assert read.packages["tensorflow"] == tf.__version__
  assert read == STAGE


def test_a_stage_that_was_changed_is_refused(tmp_path):
  write_stage(tmp_path, STAGE)
  path = tmp_path / "stage.json"
  stage = json.loads(path.read_text())
  stage["flags"]["seed"] = 4
  for text in (json.dumps(stage), path.read_text()[:-20], "[]", ""):
    path.write_text(text)
    with pytest.raises(UserError, match="does not match its checksum"):
      read_stage(tmp_path)


def test_where_the_record_is_damaged_the_one_before_is_used_and_the_damage_comes_back(tmp_path):
  for step in (5, 6):
    write_stage(tmp_path, dataclasses.replace(STAGE, progress=Progress(step, 1.0)))
  (tmp_path / "stage.json").write_text("{")
  stage, damage = read_stage(tmp_path)
  assert stage.progress.step == 5
  assert damage == f"{tmp_path / 'stage.json'} is damaged; {tmp_path / 'stage.json.old'} from before it is used."


@pytest.mark.parametrize(
  ("change", "named"),
  [
    ({"flags": {}}, "model"),
    ({"flags": []}, ""),
    ({"progress": {"step": "5", "seconds": 0.5}}, "'5'"),
    ({"progress": {"step": 5.5, "seconds": 0.5}}, "5.5"),
    ({"progress": {"step": -5, "seconds": 0.5}}, "-5"),
    ({"progress": None}, ""),
    ({"finished": 7}, ""),
    ({"finished": {"step": None}}, "finished.step is None"),
    ({"flags": {**RECORD["flags"], "model": "zzz"}}, "model is 'zzz'; expected one of resnet20, cnn4"),
    ({"flags": {**RECORD["flags"], "seed": "3"}}, "seed is '3'; expected a whole number from 0 to"),
    ({"flags": {**RECORD["flags"], "seed": 1.5}}, "seed is 1.5; expected a whole number"),
    ({"flags": {**RECORD["flags"], "seed": 10**19}}, "seed is 10000000000000000000; expected"),
    ({"flags": {**RECORD["flags"], "seed": [3]}}, "seed is"),
    ({"flags": {**RECORD["flags"], "seed": True}}, "seed is True"),
    ({"flags": {**RECORD["flags"], "batch_size": 8.0}}, "batch_size is 8.0"),
    ({"flags": {**RECORD["flags"], "precision": 5}}, "precision is 5; expected one of float32"),
    ({"flags": {**RECORD["flags"], "weight_decay": float("inf")}}, "weight_decay is inf"),
  ],
)
def test_a_stage_of_other_values_is_damaged_though_its_checksum_is_right(tmp_path, change, named):
  write_record(tmp_path / "stage.json", {**RECORD, **change})
  with pytest.raises(UserError, match="stage.json is damaged: it lacks what a stage has, or has something") as error:
    read_stage(tmp_path)
  assert named in str(error.value)


def test_a_record_from_before_there_were_some_settings_is_read_with_their_defaults(tmp_path):
  write_record(tmp_path / "stage.json", {**RECORD, "flags": {**RECORD["flags"], "a_setting_of_later": 1}})
  stage, _ = read_stage(tmp_path)
  assert stage.flags == FLAGS


def test_a_setting_that_may_change_and_is_none_counts_as_left_at_its_default(tmp_path):
  others = {"learning_rate": float("nan"), "save_interval_secs": 0, "max_steps": "x", "jit_compile": None}
  write_record(tmp_path / "stage.json", {**RECORD, "flags": {**RECORD["flags"], **others, "l1_penalty": 0.5}})
  stage, _ = read_stage(tmp_path)
  assert stage.flags == dataclasses.replace(FLAGS, l1_penalty=0.5)


def test_changes_name_the_settings_that_may_change():
  config = dataclasses.replace(FLAGS, learning_rate=0.5, seed=4, overwrite=True, train_dir="elsewhere")
  assert Stage(FLAGS).changes(config) == ["--learning_rate was 0.1 and is now 0.5."]


def test_a_stage_is_squeezed_where_it_ended_at_the_step_that_it_has():
  assert STAGE.is_squeezed()
  assert not dataclasses.replace(STAGE, progress=Progress(6, 1.0)).is_squeezed()
  assert not dataclasses.replace(STAGE, finished=None).is_squeezed()
