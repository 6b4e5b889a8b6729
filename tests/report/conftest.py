import shutil

import pytest
from helpers import build_tiny_network, change, short_stage, version
from reader import written

from cifar10 import input_pipeline
from cifar10.config import EvalConfig
from cifar10.evaluate import evaluate
from cifar10.models import MODELS
from cifar10.train import train


@pytest.fixture(scope="session")
def trained(tmp_path_factory, synthetic):
  """A chain of three versions; two of the four gammas of version 1 are 0, so that version 2 is smaller."""
  directory = tmp_path_factory.mktemp("chain")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(MODELS, "cnn4", build_tiny_network)
    patch.setattr(input_pipeline, "load", lambda dataset, split, data_dir: synthetic[split])
    config = short_stage(directory / "run", log_frequency=2, exact_squeeze=False)
    train(config)
    network = version(config, 1).network()
    network.get_layer("conv1_bn").gamma.assign([1.0, 0.0, 0.8, 0.0])
    version(config, 1).replace(network)
    train(change(config, checkpoint_version=1, l1_penalty=2.0))
    evaluation = EvalConfig(
      checkpoint_dir=config.train_dir, dataset="synthetic", num_examples=100, eval_dir=str(directory / "eval")
    )
    for number, iteration in enumerate((20, 0, 0)):
      evaluate(change(evaluation, checkpoint_version=number, checkpoint_iter=iteration))
  return directory


@pytest.fixture
def chain(trained, tmp_path):
  """The `--train_dir` of a copy of the chain."""
  shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
  return tmp_path / "run"


@pytest.fixture(scope="session")
def reported(trained):
  """The directory of the report on the whole chain, and its page."""
  return written(trained / "run", output_dir=trained / "report")
