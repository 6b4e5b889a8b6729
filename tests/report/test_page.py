"""What the page shows of a chain, and of several."""

import json
import shlex
import shutil

import numpy as np
from helpers import directory
from matplotlib import image
from reader import Page, said, written

from cifar10.cli.command import parse
from cifar10.config import TrainConfig
from cifar10.datasets.examples import SYNTHETIC_CLASS_NAMES
from cifar10.report.facts import read_chain
from cifar10.report.page import page
from cifar10.report.pictures import comparison, of_chain
from cifar10.report.words import MINUS


def test_the_page_has_the_figures_of_the_chain(reported, trained):
  made, shown = reported
  evaluations = [
    json.loads((directory(trained / "run", number) / "evaluations.jsonl").read_text()) for number in range(3)
  ]
  names = ("0 as trained", "1 warmed up", "2 pruned")
  for number, (name, parameters) in enumerate(zip(names, ("2,916", "2,916", "1,478"))):
    figures = [parameters, "21,760" if number < 2 else "10,880"]
    figures += [f"{evaluations[number][name]:.4f}" for name in ("precision", "loss")]
    assert [cell[0] for cell in shown.row(name)[1:6]] == [*figures, "100"]
  assert [cell[1] for cell in shown.row("2 pruned")[1:3]] == [f"{MINUS}49.3%", f"{MINUS}50.0%"]
  assert "2 of 4" in shown.texts
  assert "conv1_bn: 2 of 4 at 0" in shown.texts
  before, after = (f"{evaluations[number]['precision']:.4f}" for number in (0, 2))
  assert (
    f"49.3% fewer parameters and 50.0% fewer multiply-adds; precision from {before} to {after} on 100 test images of "
    "synthetic." in shown.texts
  )
  assert "Version 2 (pruned) against version 0 (as trained)." in shown.texts
  assert [cell[0] for cell in shown.row("conv1")] == ["conv1", "4", "2", f"{MINUS}50.0%"]
  assert "What is missing" not in shown.texts
  names = {"precision_parameters", "precision_multiply_adds", "channels", "classes", "training", "gammas_0", "gammas_1"}
  assert {path.name for path in made.iterdir()} == {"index.html", *(f"{name}.png" for name in names)}
  assert shown.tags.count("svg") == len(names)


def test_the_pictures_show_something(reported):
  directory, _ = reported
  assert len(list(directory.glob("*.png"))) == 7
  for path in directory.glob("*.png"):
    pixels = image.imread(path)
    assert min(pixels.shape[:2]) > 60, path
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20, path


def test_exports_are_listed(chain):
  exports = [
    {
      "format": "keras",
      "path": None,
      "bytes": 2**20,
      "largest_difference": 0.0,
      "agreement": 1.0,
      "precision": 0.5,
      "latency_ms": 3.0,
    },
    {
      "format": "litert",
      "path": "model.tflite",
      "bytes": 2**19,
      "largest_difference": 1.2e-6,
      "agreement": 0.99,
      "precision": 0.51,
      "latency_ms": 1.5,
    },
  ]
  (directory(chain, 2) / "export.json").write_text(json.dumps({"exports": exports}))
  _, shown = written(chain)
  assert "1.50 ms (litert)" in shown.texts
  start = shown.texts.index("model.tflite")
  assert shown.texts[start : start + 6] == ["model.tflite", "0.50 MiB", "1.2e-06", "0.9900", "0.5100", "1.50 ms"]


def test_several_chains_are_compared(chain):
  for number in range(2):
    shutil.copytree(directory(chain, number), directory(chain.with_name("other"), number))
  made, shown = written(chain, chain.with_name("other"))
  assert made.name == "run_comparison"
  assert shown.texts[0] == "2 chains compared"
  header = next(at for at, row in enumerate(shown.rows) if row[-1] == ["latency"])
  assert shown.rows[header][0] == ["chain"]
  table = [row[0] for row in shown.rows[header + 1 : header + 6]]
  assert table.count(["run"]) == 3
  assert table.count(["other"]) == 2
  assert shown.texts.count("run") == 2 + 1 + 3 + 1  # In the legends, in two tables, and as a heading.
  names = {path.name for path in made.glob("*.png")}
  assert {"chain_1_training.png", "chain_2_training.png", "chain_1_channels.png", "precision_parameters.png"} <= names


def test_chains_of_one_name_are_told_apart_by_their_paths(chain, tmp_path):
  other = tmp_path / "elsewhere" / "run"
  shutil.copytree(directory(chain, 0), directory(other, 0))
  _, shown = written(chain, other, output_dir=tmp_path / "out")
  assert {str(chain), str(other)} <= set(shown.texts)


def test_of_compared_chains_the_best_is_marked_and_one_without_evaluations_is_listed(chain):
  others = [chain.with_name(name) for name in ("other", "unevaluated")]
  for other in others:
    for number in range(2):
      shutil.copytree(directory(chain, number), directory(other, number))
  for path in chain.parent.glob("unevaluated_*/evaluations.jsonl"):
    path.unlink()
  for path in chain.parent.glob("other_*/evaluations.jsonl"):
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "precision": 0.99}) + "\n")
  chains = [read_chain(path, path.name) for path in (chain, *others)]
  shown = Page(page(chains, [], [[], [], []]))
  assert shown.row("run", "2 pruned")[3:5] == [["1,478", "best"], ["10,880", "best"]]
  assert shown.row("other", "1 warmed up")[3:6] == [["2,916"], ["21,760"], ["0.9900", "best"]]
  assert shown.row("unevaluated")[1:6] == [["1 warmed up"], ["not evaluated"], ["2,916"], ["21,760"], ["-"]]
  assert "other has the highest precision, 0.9900; run has the fewest parameters, 1,478." in shown.texts
  chains[1].versions[1].evaluation["examples"] = 10
  shown = Page(page(chains, [], [[], [], []]))
  assert shown.row("other", "1 warmed up")[5] == ["0.9900"]
  assert "Precisions are on different images" in " ".join(shown.texts)
  (picture, _) = comparison(chains)
  assert "unevaluated (not evaluated)" in picture.svg


def test_stages_are_told_with_the_commands_that_repeat_them(reported, trained):
  _, shown = reported
  (commands,) = [text for text in shown.texts if text.startswith("cifar10-train")]
  starts = [
    f"--checkpoint_version 0 --train_dir {trained / 'run'} --model cnn4 --dataset synthetic",
    f"--checkpoint_version 1 --train_dir {trained / 'run'}",
  ]
  each = commands.replace("\\ ", "").split("cifar10-train ")[1:]
  for command_line, start, l1_penalty in zip(each, starts, (0.0, 2.0)):
    settings = f"--l1_penalty {l1_penalty} --max_steps 20 --learning_rate 0.01 --noexact_squeeze --log_frequency 2"
    assert command_line.strip() == f"{start} --batch_size 8 --seed 3 {settings}"
    assert list(parse(TrainConfig, "", ["cifar10-train", *shlex.split(command_line)]))


def test_classes_and_predictions_are_shown(reported, trained):
  _, shown = reported
  numbers = [read_chain(trained / "run", "run").versions[number] for number in (0, 2)]
  before, after = (np.array(version.evaluation["confusion"]) for version in numbers)
  for label, name in enumerate(SYNTHETIC_CLASS_NAMES):
    row = shown.row(name)
    assert (row[1], row[2], row[3][0]) == (
      ["10"],
      [f"{before[label, label] / 10:.4f}"],
      f"{after[label, label] / 10:.4f}",
    )
  images = [attributes for tag, attributes in shown.elements if tag == "img"]
  assert [image["alt"] for image in images[:10]] == [f"Test image of {name}" for name in SYNTHETIC_CLASS_NAMES]
  assert len(images) == 16
  assert all(image["src"].startswith("data:image/png;base64,") for image in images)
  predictions = numbers[1].predictions
  first = shown.texts.index("The first test image of each class")
  assert shown.texts[first + 1] == SYNTHETIC_CLASS_NAMES[predictions.classes[0]]
  assert shown.texts[first + 2] == f"{predictions.probabilities[0]:.2f}"


def test_a_chain_that_lost_nothing_and_one_without_evaluations_have_a_headline(chain):
  shutil.rmtree(directory(chain, 2))
  records = [directory(chain, number) / "evaluations.jsonl" for number in range(2)]
  for path in records:
    path.write_text(json.dumps({**json.loads(path.read_text()), "precision": 0.5}) + "\n")
  assert "Nothing removed so far of 2,916 parameters and 21,760 multiply-adds; precision 0.5000 on 100" in said(chain)
  for path in records:
    path.unlink()
  assert "2,916 parameters and 21,760 multiply-adds; precision unknown, since no version was" in said(chain)


def test_a_panel_of_gammas_is_for_layers_that_have_some_at_0(chain):
  arrays = {"dying/gamma": [[1, 1], [1, 0]], "alive/gamma": [[1, 1], [0.5, 1]]}
  np.savez(directory(chain, 1) / "gammas.npz", step=[0, 5], **{name: np.float32(a) for name, a in arrays.items()})
  first, second = [picture for picture in of_chain(read_chain(chain, "run")) if picture.section == "gammas"]
  assert "all layers: 0 of 4 at 0" in first.svg
  assert "dying: 1 of 2 at 0" in second.svg
  assert "alive" not in second.svg
  assert "1 of 2 layers, which have none at 0, are not drawn." in second.caption
