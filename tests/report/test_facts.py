"""What is read of a chain, and what is said where something is missing or damaged."""

import json
import shutil

import numpy as np
import pytest
from helpers import cut, directory
from reader import append, rewrite_stage, said, written

from cifar10.report.facts import read_chain

HOSTILE = "<script>alert(1)</script>$x^$&\"'"


def test_records_without_counts_by_class_and_predictions_of_another_evaluation_are_no_fault(chain):
  for number in range(3):
    path = directory(chain, number) / "evaluations.jsonl"
    record = json.loads(path.read_text())
    del record["confusion"]
    path.write_text(json.dumps({**record, "time": "2020-01-02 03:04:05.000006"}) + "\n")
  text = said(chain)
  assert "No evaluation has counts by class; cifar10-eval records them." in text
  assert "2020-01-02" in text
  assert "surest" not in text
  assert "What is missing" not in text


def remove_stage(directory):
  for name in ("stage.json", "stage.json.old"):
    (directory / name).unlink(missing_ok=True)
  for path in directory.glob("model.ckpt-*"):
    path.unlink()


def damage_stage(directory):
  cut(directory / "stage.json")
  cut(directory / "stage.json.old")


DAMAGE = [
  (remove_stage, "stage.json is not there: how it was trained is unknown."),
  (damage_stage, "stage.json is damaged: it does not match its checksum"),
  (lambda directory: cut(directory / "stage.json"), "stage.json.old from before it is used"),
  (lambda directory: cut(directory / "gammas.npz"), "gammas.npz is damaged"),
  (lambda directory: (directory / "gammas.npz").unlink(), "gammas.npz is not there"),
  (lambda directory: np.savez(directory / "gammas.npz", step=[0], g=["text"]), "holds something else than gammas"),
  (lambda directory: np.savez(directory / "gammas.npz", step=[0], g=[[np.nan]]), "gammas that are not finite"),
  (lambda directory: cut(directory / "metrics.csv"), "The last line of"),
  (lambda directory: (directory / "metrics.csv").write_text("a,b\n1,2\n"), "metrics.csv is damaged"),
  (lambda directory: (directory / "metrics.csv").unlink(), "metrics.csv has no rows"),
  (lambda directory: cut(directory / "evaluations.jsonl"), "1 of 1 lines of"),
  (lambda directory: (directory / "evaluations.jsonl").unlink(), "There is no evaluation on test images in"),
  (lambda directory: cut(directory / "model.keras"), "model.keras is damaged"),
  (lambda directory: (directory / "model.keras").write_bytes(b""), "model.keras is damaged"),
  (lambda directory: (directory / "model.keras").unlink(), "model.keras is not there."),
  (lambda directory: (directory / "export.json").write_text("{"), "export.json cannot be read"),
  (lambda directory: (directory / "export.json").write_text('{"exports": [1]}'), "else than a list of exports"),
  (lambda directory: (directory / "evaluations.jsonl").write_bytes(b'\xff{"precision": 1e999}\n'), "1 of 1 lines of"),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE)
def test_what_is_missing_is_said_and_the_rest_is_shown(chain, damage, sentence):
  damage(directory(chain, 1))
  text = said(chain)
  assert "What is missing" in text
  assert sentence in text
  assert "1,478" in text


def test_a_chain_of_which_little_is_left_gives_a_page(chain):
  for number in range(2):
    for name in ("metrics.csv", "gammas.npz", "evaluations.jsonl"):
      cut(directory(chain, number) / name)
    remove_stage(directory(chain, number))
  (directory(chain, 2) / "evaluations.jsonl").unlink()
  _, shown = written(chain)
  assert len([text for text in shown.texts if text.startswith("Version ")]) >= 7
  assert "1,478" in shown.texts


def test_a_version_missing_in_the_middle_is_said(chain):
  shutil.rmtree(directory(chain, 1))
  text = said(chain)
  assert "Version 1 is missing." in text
  assert "1,478" in text


def test_a_far_version_leaves_one_sentence(chain):
  directory(chain, 20231124).mkdir()  # Has too many digits: something else than a version.
  directory(chain, 2000000).mkdir()
  text = said(chain)
  assert "Versions 3 to 1999999 are missing." in text
  assert "20231124" not in text


def test_an_interrupted_stage_is_said(chain):
  rewrite_stage(chain, 1, lambda stage: stage.update(finished=None))
  assert "Version 1: The stage stands at step 20 and is not squeezed." in said(chain)


JUNK = [None, [], HOSTILE, 1e999, float("nan"), -5, True, 10**400, {"conv1": None}, {"conv1": {"channels": 4}}]


@pytest.mark.parametrize("field", ["layers", "parameters_after"])
def test_a_squeeze_report_with_other_fields_gives_a_page(chain, field):
  for junk in JUNK:
    rewrite_stage(chain, 1, lambda stage, junk=junk: stage["finished"]["report"].update({field: junk}))
    assert "1,478" in said(chain)


@pytest.mark.parametrize(
  "field",
  [
    "precision",
    "loss",
    "parameters",
    "multiply_adds",
    "checkpoint_iter",
    "eval_data",
    "confusion",
    "examples",
    "time",
    "dataset",
  ],
)
def test_an_evaluation_with_other_fields_gives_a_page(chain, field):
  path = directory(chain, 2) / "evaluations.jsonl"
  record = json.loads(path.read_text())
  for junk in JUNK:
    path.write_text(json.dumps({**record, field: junk}) + "\n")
    assert "2,916" in said(chain)


def test_costs_come_from_the_squeeze_before_or_the_network_itself(chain):
  (directory(chain, 2) / "evaluations.jsonl").unlink()
  assert [v.parameters for v in read_chain(chain, "run").versions] == [2916, 2916, 1478]
  shutil.rmtree(directory(chain, 1))
  shutil.rmtree(directory(chain, 0))
  (only,) = read_chain(chain, "run").versions
  assert (only.parameters, only.multiply_adds) == (1478, 10880)


def test_the_newest_evaluation_on_test_images_of_the_squeezed_network_counts(chain):
  path = directory(chain, 2) / "evaluations.jsonl"
  record = json.loads(path.read_text())
  append(path, {**record, "precision": 0.25})
  append(path, {**record, "precision": 0.5, "eval_data": "train_eval"})
  append(path, {**record, "precision": 0.75, "checkpoint_iter": 10})
  assert read_chain(chain, "run").versions[2].evaluation["precision"] == 0.25


def test_evaluations_of_training_checkpoints_do_not_stand_for_a_version(chain):
  path = directory(chain, 2) / "evaluations.jsonl"
  path.write_text(json.dumps({**json.loads(path.read_text()), "checkpoint_iter": 10}) + "\n")
  assert read_chain(chain, "run").versions[2].evaluation is None
  assert f"{path} tells of training checkpoints alone" in said(chain)


def test_a_sentence_keeps_the_path_that_it_begins_with(chain, monkeypatch):
  monkeypatch.chdir(chain.parent)
  shutil.copytree(directory("run", 1), "my chains/run_1")
  for train_dir in ("run", "my chains/run"):
    (directory(train_dir, 1) / "gammas.npz").write_bytes(b"junk")
    (sentence,) = [text for each in read_chain(train_dir, "run").versions for text in each.missing if "damaged" in text]
    assert sentence.startswith(f"{train_dir}_1/gammas.npz is damaged")
