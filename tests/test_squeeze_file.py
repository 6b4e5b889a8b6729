import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from cifar10.cli import squeeze as command
from cifar10.pruning import multiply_adds


def build():
  keras.utils.set_random_seed(0)
  images = x = keras.Input((8, 8, 3), name="images")
  for name, filters in (("a", 8), ("b", 16)):
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
    x = layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))
  model = keras.Model(
    images, layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D(name="mean")(x)), name="small"
  )
  for layer in ("a_bn", "b_bn"):
    gamma = model.get_layer(layer).gamma
    gamma.assign(np.arange(gamma.shape[0]) % 4 / 4)
  return model


@pytest.fixture
def saved(tmp_path, monkeypatch):
  """Writes the model as `model.keras` into the directory of the test, where commands run; returns it."""
  monkeypatch.chdir(tmp_path)
  model = build()
  model.save("model.keras")
  return model


def run(*arguments):
  return command.main(["keras-squeeze", *arguments])


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_what_is_dead_goes_and_the_function_stays(saved, capsys, name):
  saved.save(name)
  assert run(name, "smaller.keras") == 0
  smaller = keras.models.load_model("smaller.keras")
  assert (smaller.get_layer("a").filters, smaller.get_layer("b").filters) == (6, 12)
  images = np.random.default_rng(0).normal(size=(5, 8, 8, 3))
  np.testing.assert_allclose(smaller(images), saved(images), atol=1e-6)
  output = capsys.readouterr().out
  assert f"parameters {saved.count_params():,} -> {smaller.count_params():,}" in output
  assert "on noise outputs differ by " in output
  assert "smaller.keras is written: " in output


def test_a_budget_is_kept(saved, capsys):
  assert run("model.keras", "half.keras", "--multiply_adds", "0.5", "--importance=l1", "--multiple_of=2") == 0
  smaller = keras.models.load_model("half.keras")
  assert multiply_adds(smaller) <= multiply_adds(saved) / 2
  assert smaller.get_layer("a").filters % 2 == 0
  assert run("model.keras", "few.keras", "--parameters=600") == 0
  assert keras.models.load_model("few.keras").count_params() <= 600


def test_layers_to_keep_lose_nothing(saved):
  assert run("model.keras", "smaller.keras", "--keep=a,logits") == 0
  smaller = keras.models.load_model("smaller.keras")
  assert (smaller.get_layer("a").filters, smaller.get_layer("b").filters) == (8, 12)


@pytest.mark.parametrize("budget", [(), ("--parameters=0.5",)])
def test_a_plan_says_what_comes_and_writes_nothing(saved, capsys, tmp_path, budget):
  assert run("model.keras", "--plan", *budget) == 0
  planned = capsys.readouterr().out
  assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
  assert run("model.keras", "smaller.keras", *budget) == 0
  assert capsys.readouterr().out.startswith(planned.strip())


@pytest.mark.parametrize(
  ("arguments", "code", "sentence"),
  [
    (["model.keras"], 1, "files are model.keras; expected two files, MODEL.keras SMALLER.keras"),
    (["model.keras", "b.keras", "--plan"], 1, "expected one file, MODEL.keras, with --plan"),
    (["model.txt", "b.keras"], 1, "model.txt does not end with .keras"),
    (["model.keras", "b.h5"], 1, "b.h5 does not end with .keras"),
    (["no.keras", "b.keras"], 1, "no.keras cannot be read (No such file"),
    (["model.keras", "no/b.keras"], 1, "there is no directory no to write b.keras into"),
    (["model.keras", "model.keras", "--overwrite"], 1, "model.keras is there already; give another name."),
    (["model.keras", "there.keras"], 1, "there.keras is there already; give another name, or pass --overwrite."),
    (["damaged.keras", "b.keras"], 1, "damaged.keras cannot be loaded ("),
    (["model.keras", "b.keras", "--keep=nosuch"], 1, "keep names 'nosuch', but small has no such layer"),
    (["model.keras", "b.keras", "--parameters=0.001"], 1, "small cannot be pruned to parameters=0.001"),
    (["model.keras", "b.keras", "--parameters=0"], 2, "expected a number above 0"),
    (["model.keras", "b.keras", "--parameters=0.5", "--multiply_adds=0.5"], 2, "are two budgets; pass one of them"),
    (["model.keras", "b.keras", "--importance=l1"], 2, "--importance is for a budget"),
    (["model.keras", "b.keras", "--noexact", "--parameters=0.5"], 2, "--noexact goes without a budget"),
    (["model.keras", "--plan", "--overwrite"], 2, "--plan writes nothing, and goes without --overwrite"),
    ([], 2, "no files are given"),
  ],
)
def test_what_does_not_fit_costs_a_sentence_and_nothing_is_written(saved, tmp_path, capsys, arguments, code, sentence):
  (tmp_path / "there.keras").write_text("there")
  (tmp_path / "damaged.keras").write_bytes((tmp_path / "model.keras").read_bytes()[:2000])
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  try:
    got = run(*arguments)
  except SystemExit as ended:
    got = ended.code
  assert got == code
  error = capsys.readouterr().err
  assert sentence in error
  assert error.count("\n") == 1
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class Own(layers.Layer):
  def call(self, x):
    return x


@pytest.mark.parametrize("layer", [lambda: layers.Lambda(lambda x: 2 * x), Own], ids=["lambda", "own class"])
def test_no_code_of_a_file_runs(tmp_path, monkeypatch, capsys, layer):
  monkeypatch.chdir(tmp_path)
  keras.Sequential([keras.Input((4,)), layers.Dense(4), layer()]).save("foreign.keras")
  assert run("foreign.keras", "smaller.keras") == 1
  assert "expected a model of Keras' own layers, without code of its own" in capsys.readouterr().err
  assert not (tmp_path / "smaller.keras").exists()


def test_a_file_that_names_a_module_does_not_import_it(saved, tmp_path, monkeypatch, capsys):
  (tmp_path / "foreign_module.py").write_text("open('ran', 'w')\nclass Layer: pass\n")
  monkeypatch.syspath_prepend(tmp_path)
  with zipfile.ZipFile("model.keras") as archive:
    contents = {name: archive.read(name) for name in archive.namelist()}
  config = json.loads(contents["config.json"])
  config["config"]["layers"][1] |= {"module": "foreign_module", "class_name": "Layer", "registered_name": None}
  contents["config.json"] = json.dumps(config).encode()
  with zipfile.ZipFile("foreign.keras", "w") as archive:
    for name, content in contents.items():
      archive.writestr(name, content)
  assert run("foreign.keras", "smaller.keras") == 1
  assert "foreign.keras cannot be loaded (" in capsys.readouterr().err
  assert not (tmp_path / "ran").exists()
