"""A chain knows its data set: commands take it by default, and nothing that another one gave stands for the chain."""

import dataclasses
import json

import pytest
import tensorflow as tf
from helpers import change, directory, short_stage, version

from cifar10.config import EvalConfig, ExportConfig, PredictConfig
from cifar10.errors import UserError
from cifar10.evaluate import evaluate
from cifar10.export import export
from cifar10.predict import predict
from cifar10.report.facts import read_chain
from cifar10.train import train
from cifar10.version.evaluations import newest_evaluation

pytestmark = pytest.mark.usefixtures("tiny_world")


@pytest.fixture
def chain(tmp_path):
  """The settings of a finished stage 0, on the built-in data."""
  config = short_stage(tmp_path / "run")
  train(config)
  return config


def test_a_later_stage_trains_on_the_data_of_the_one_before_and_on_no_other(chain, capsys):
  following = change(chain, checkpoint_version=1, dataset=None)
  with pytest.raises(UserError, match="--dataset is cifar10, but .*run_1 was made with synthetic"):
    train(change(following, dataset="cifar10"))
  assert [path.name for path in directory(chain, 1).iterdir()] == ["model.keras"]
  train(following)
  assert "run_1: cnn4 on synthetic, seed 3." in capsys.readouterr().out
  assert version(chain, 1).read_stage()[0].flags.dataset == "synthetic"
  assert version(chain, 2).dataset() == "synthetic"


def test_a_new_chain_is_trained_on_cifar10_by_default(tmp_path):
  train(short_stage(tmp_path / "run", dataset=None, max_steps=1))
  assert version(tmp_path / "run").dataset() == "cifar10"


def test_a_version_that_stands_alone_does_not_know(chain, tmp_path):
  directory(chain, 1).rename(tmp_path / "moved_7")
  assert version(tmp_path / "moved", 7).dataset() is None


def test_the_figures_on_other_data_are_recorded_and_do_not_stand_for_the_chain(chain, tmp_path, capsys):
  config = EvalConfig(checkpoint_dir=chain.train_dir, num_examples=50, eval_dir=str(tmp_path / "eval"))
  evaluate(config)
  assert "was trained on" not in capsys.readouterr().out
  evaluate(change(config, dataset="cifar10", num_examples=60))
  sentence = (
    f"{directory(chain, 1)} was trained on synthetic: the figures on cifar10 are recorded, and do not stand for it."
  )
  assert sentence in capsys.readouterr().out
  lines = (directory(chain, 1) / "evaluations.jsonl").read_text().splitlines()
  assert [(record["dataset"], record["examples"]) for record in map(json.loads, lines)] == [
    ("synthetic", 50),
    ("cifar10", 60),
  ]
  assert newest_evaluation(chain.train_dir, 1)["examples"] == 50
  assert read_chain(chain.train_dir, "run").versions[1].evaluation["examples"] == 50


def test_predictions_and_exports_are_those_of_the_chain_s_data(chain, tmp_path, capsys):
  image = str(tmp_path / "image.png")
  tf.io.write_file(image, tf.io.encode_png(tf.zeros((32, 32, 3), tf.uint8)))
  config = PredictConfig(images=(image,), checkpoint_dir=chain.train_dir)
  predict(config)
  assert "stripes" in capsys.readouterr().out
  for command, settings in ((predict, config), (export, ExportConfig(checkpoint_dir=chain.train_dir, formats=()))):
    with pytest.raises(
      UserError, match="--dataset is cifar10, but .*run_1 was trained on synthetic; leave --dataset out"
    ):
      command(dataclasses.replace(settings, dataset="cifar10"))
  export(ExportConfig(checkpoint_dir=chain.train_dir, formats=()))
  assert json.loads((directory(chain, 1) / "export.json").read_text())["dataset"] == "synthetic"
