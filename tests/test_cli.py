import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from cifar10 import config
from cifar10.cli import command, evaluate, export, flag_table, predict, report, train
from cifar10.config import DATASETS, EvalConfig, ExportConfig, PredictConfig, ReportConfig, TrainConfig
from cifar10.errors import Interrupted, UserError
from cifar10.models import MODELS
from cifar10.training import settling
from cifar10.version import stage
from cifar10.version.directory import Version

COMMANDS = [
  (train, "cifar10-train", TrainConfig),
  (evaluate, "cifar10-eval", EvalConfig),
  (export, "cifar10-export", ExportConfig),
  (predict, "cifar10-predict", PredictConfig),
  (report, "cifar10-report", ReportConfig),
]
POSITIONAL = {predict: "images"}


def flag_fields(module, config):
  """The settings of a command that are flags."""
  return [field for field in dataclasses.fields(config) if field.name != POSITIONAL.get(module)]


def run(*arguments):
  program = [sys.executable, "-m", *arguments]
  return subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(("module", "name", "config"), COMMANDS)
@pytest.mark.parametrize("help_flag", ["--help", "-h", "--help=true"])
def test_help_lists_every_flag_with_its_default(module, name, config, help_flag, capsys):
  with pytest.raises(SystemExit) as end:
    module.main([name, help_flag])
  assert end.value.code == 0
  text = " ".join(capsys.readouterr().out.split())
  for field in flag_fields(module, config):
    listed = text.partition(f"--{field.name}:")[2] or text.partition(f"--[no]{field.name}:")[2]
    assert listed, field.name
    if field.default is not None:
      shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
      shown = str(shown).lower() if isinstance(shown, bool) else shown
      number = f"'{float(shown)}'" if isinstance(shown, (int, float)) else None
      default = listed.partition(" (default: ")[2].partition(")")[0]
      assert default in (f"'{shown}'", number), field.name


@pytest.mark.parametrize("module", [module.__name__ for module, _, _ in COMMANDS])
def test_help_needs_no_tensorflow(module):
  check = (
    f"import sys, {module} as m\n"
    "try: m.main(['program', '--help'])\n"
    "except SystemExit as end: assert not end.code\n"
    "sys.exit(any(name.startswith(('tensorflow', 'keras', 'numpy', 'matplotlib')) for name in sys.modules))"
  )
  assert subprocess.run([sys.executable, "-c", check], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("module", "name", "config"), COMMANDS)
def test_flags_and_settings_are_the_same(module, name, config):
  flags = set(command.flag_values(config)) - {"help", "h", "version"}
  assert flags == {field.name for field in flag_fields(module, config)}


@pytest.mark.parametrize("config", [TrainConfig, EvalConfig])
def test_models_are_those_of_the_program(config):
  assert command.flag_values(config)["model"].parser.enum_values == list(MODELS)


@pytest.mark.parametrize("config", [TrainConfig, EvalConfig, ExportConfig, PredictConfig])
def test_data_sets_are_those_of_the_program(config):
  assert command.flag_values(config)["dataset"].parser.enum_values == list(DATASETS)


def test_formats_are_those_of_the_program():
  from cifar10.export import FILES, MODULES

  assert ExportConfig().formats == tuple(FILES) == tuple(MODULES)


@pytest.mark.parametrize(
  ("module", "argument", "sentence"),
  [
    (train, "stray", "stray argument 'stray'"),
    (train, "--no_such_flag=1", "Unknown command line flag 'no_such_flag'"),
    (train, "--learning_rate=nan", "--learning_rate=nan: expected a number above 0 to 1000000"),
    (train, "--learning_rate=0", "--learning_rate=0: expected a number above 0 to 1000000"),
    (train, "--l1_penalty=-1", "--l1_penalty=-1: expected a number from 0"),
    (train, "--l1_penalty=inf", "--l1_penalty=inf: expected a number from 0"),
    (train, "--max_steps=0", "--max_steps=0: expected a whole number from 1"),
    (train, "--max_steps=two", "--max_steps=two"),
    (train, "--batch_size=0", "--batch_size=0: expected a whole number from 1"),
    (train, f"--seed={10**400}", "expected a whole number from 0 to 2147483647"),
    (train, "--seed=-1", "--seed=-1: expected a whole number from 0 to 2147483647"),
    (train, "--target_sparsity=0", "--target_sparsity=0: expected a number above 0 to 0.99"),
    (train, "--target_sparsity=1", "--target_sparsity=1: expected a number above 0 to 0.99"),
    (train, "--penalty_doubling_steps=0", "--penalty_doubling_steps=0: expected a whole number from 1"),
    (train, "--model=vgg", "should be one of <resnet20|cnn4>"),
    (train, "--checkpoint_version=-1", "--checkpoint_version=-1: expected"),
    (evaluate, "stray", "stray argument 'stray'"),
    (report, "--train_dir=a,,b", "--train_dir=a,,b: expected the path of a directory, in UTF-8"),
    (evaluate, "--eval_data=both", "should be one of <test|train_eval>"),
    (evaluate, "--checkpoint_iter=-2", "--checkpoint_iter=-2: expected a whole number from -1"),
    (evaluate, "--num_examples=0", "--num_examples=0: expected a whole number from 1"),
    (export, "stray", "stray argument 'stray'"),
    (export, "--formats=onnx,tflite", "--formats=onnx,tflite: expected some of saved_model, litert, litert_int8, onnx"),
    (export, "--formats=", "--formats=: expected some of saved_model, litert, litert_int8, onnx, separated by commas"),
    (export, "--input=float", "should be one of <standardized|uint8>"),
    (export, "--softmax=maybe", "--softmax=maybe"),
    (predict, "--top=11", "--top=11: expected a whole number from 1 to 10"),
    (predict, "--checkpoint_version=3", "no images are given"),
  ],
)
def test_bad_flags_are_one_sentence(module, argument, sentence, capsys):
  with pytest.raises(SystemExit) as end:
    module.main(["program", argument])
  assert end.value.code == 2
  output = capsys.readouterr()
  assert sentence in output.err
  assert output.err.startswith("program: ")
  assert len(output.err.splitlines()) == 1
  assert not output.out


@pytest.mark.parametrize(
  ("module", "name"),
  [
    (train, "train_dir"),
    (train, "data_dir"),
    (evaluate, "checkpoint_dir"),
    (evaluate, "eval_dir"),
    (export, "output_dir"),
    (export, "checkpoint_dir"),
    (predict, "checkpoint_dir"),
    (report, "train_dir"),
    (report, "output_dir"),
  ],
)
def test_what_cannot_be_a_path_is_one_sentence(module, name, capsys):
  for value in ("", "a\0b", os.fsdecode(b"\xff")):
    with pytest.raises(SystemExit) as end:
      module.main(["program", f"--{name}={value}"])
    assert end.value.code == 2
    assert f"--{name}" in (error := capsys.readouterr().err)
    assert "expected the path of a directory, in UTF-8" in error


@pytest.mark.parametrize("other", ["--stop_at_plateau", "--l1_penalty=0"])
def test_a_target_needs_a_penalty_and_no_plateau(other, capsys):
  with pytest.raises(SystemExit) as end:
    train.main(["program", "--target_sparsity=0.5", other])
  assert end.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "--target_sparsity needs an --l1_penalty above 0 to start with, and goes without --stop_at_plateau" in line


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (["--use_fp16", "--precision=float32"], "--use_fp16 chooses a --precision; pass one of the two"),
    (["--num_replicas=2"], "--num_replicas is for --distribution_strategy mirrored"),
    (["--num_replicas=2", "--distribution_strategy=multi_worker"], "--num_replicas is for --distribution_strategy"),
  ],
)
def test_flags_that_exclude_each_other_are_one_sentence(flags, sentence, capsys):
  with pytest.raises(SystemExit) as end:
    train.main(["program", *flags])
  assert end.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert sentence in line


def numbers(config):
  """The flags of a command that take numbers."""
  values = command.flag_values(config)
  return [name for name in values if isinstance(values[name].default, (int, float)) and not values[name].boolean] + (
    ["seed", "weight_decay", "target_sparsity", "num_replicas"] if config is TrainConfig else []
  )


@pytest.mark.parametrize(("module", "name"), [(m, name) for m, _, config in COMMANDS for name in numbers(config)])
@pytest.mark.parametrize("value", ["", "text", "nan", "inf", "-inf", "-5", "1e400", f"{10**30}", "1;2", "zwölf"])
def test_every_number_has_a_range_that_the_sentence_names(module, name, value, capsys):
  with pytest.raises(SystemExit) as end:
    module.main(["program", f"--{name}={value}"])
  assert end.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"--{name}=" in line
  assert "expected a " in line
  assert " from " in line or " above " in line


@dataclasses.dataclass(frozen=True)
class OneMore(TrainConfig):
  """The settings of a stage, and one more: all that it takes to add a flag is its field."""

  dropout: float = config.number(0.9, "Share of activations that are dropped.", high=1, scope=config.FIXED)


def test_a_field_is_all_that_a_flag_takes(tmp_path, monkeypatch, capsys):
  assert command.parse(OneMore, "", ["p", "--dropout=0.5"])["dropout"] == 0.5
  with pytest.raises(SystemExit):
    command.parse(OneMore, "", ["p", "--dropout=2"])
  assert "--dropout=2: expected a number from 0 to 1" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    command.parse(OneMore, "usage", ["p", "--help"])
  assert "--dropout: Share of activations that are dropped." in capsys.readouterr().out
  assert (
    "| `--dropout` | `0.9` | Share of activations that are dropped. (a number from 0 to 1) | fixed for the stage |"
    in (flag_table.flag_table(OneMore))
  )
  monkeypatch.setattr(stage, "TrainConfig", OneMore)
  monkeypatch.setattr(settling, "TrainConfig", OneMore)
  given = OneMore(model="cnn4", dataset="synthetic", weight_decay=0.0, seed=1, dropout=0.5, **config.left_open())
  stage.write_stage(tmp_path, stage.Stage(given))
  read, _ = stage.read_stage(tmp_path)
  assert read.flags == given
  version = Version(tmp_path / "run", 0)
  assert settling.settled(given, read, version, None) == given
  with pytest.raises(UserError, match="--dropout is 0.25, but .* was made with 0.5"):
    settling.settled(dataclasses.replace(given, dropout=0.25), read, version, None)
  with pytest.raises(UserError, match="--dropout is 7; expected a number from 0 to 1"):
    config.check(dataclasses.replace(given, dropout=7))


@pytest.mark.parametrize(
  ("settings", "sentence"),
  [
    (TrainConfig(max_steps=0), "--max_steps is 0; expected a whole number from 1"),
    (TrainConfig(model="vgg"), "--model is 'vgg'; expected one of resnet20, cnn4"),
    (TrainConfig(use_fp16=True, precision="float32"), "--use_fp16 chooses a --precision; pass one of the two"),
    (EvalConfig(num_examples=1.5), "--num_examples is 1.5; expected a whole number"),
    (ExportConfig(formats=("zip",)), "--formats is .'zip',.; expected some of saved_model"),
    (ReportConfig(train_dir=("",)), "--train_dir is .'',.; expected the path of a directory"),
  ],
)
def test_settings_from_python_are_checked_as_flags_are(settings, sentence):
  with pytest.raises(UserError, match=f"^{sentence}"):
    config.check(settings)


def test_flags_become_settings(monkeypatch):
  seen = []
  monkeypatch.setattr("cifar10.train.train", seen.append)
  code = train.main(["cifar10-train", "--l1_penalty", "0.005", "--checkpoint_version=1", "--nosqueeze_model"])
  assert code == 0
  assert seen == [TrainConfig(l1_penalty=0.005, checkpoint_version=1, squeeze_model=False)]


def test_images_and_flags_may_be_mixed(monkeypatch):
  seen = []
  monkeypatch.setattr("cifar10.predict.predict", seen.append)
  assert predict.main(["cifar10-predict", "a.png", "--top", "1", "--", "--odd.png"]) == 0
  assert seen == [PredictConfig(images=("a.png", "--odd.png"), top=1)]


def test_formats_are_a_list(monkeypatch):
  seen = []
  monkeypatch.setattr("cifar10.export.export", seen.append)
  assert export.main(["cifar10-export", "--formats", "onnx,litert,onnx", "--softmax"]) == 0
  assert seen == [ExportConfig(formats=("onnx", "litert"), softmax=True)]


def test_directories_with_commas_between_them_become_several(monkeypatch):
  seen = []
  monkeypatch.setattr("cifar10.report.report", seen.append)
  assert report.main(["cifar10-report", "--train_dir", "a,b c"]) == 0
  assert report.main(["cifar10-report"]) == 0
  assert seen == [ReportConfig(train_dir=("a", "b c")), ReportConfig()]


@pytest.mark.parametrize(
  ("error", "code", "sentence"),
  [
    (UserError("It is wrong."), 1, "p: It is wrong."),
    (Interrupted(signal.SIGTERM, "saved"), 143, "p: SIGTERM: saved."),
    (Interrupted(signal.SIGINT, "saved"), 130, "p: SIGINT: saved."),
    (KeyboardInterrupt(), 130, "p: interrupted."),
    (PermissionError(13, "Permission denied", "/x/y"), 1, "p: [Errno 13] Permission denied: '/x/y'."),
  ],
)
def test_errors_become_a_sentence_and_an_exit_code(error, code, sentence, capsys):
  def fail(_):
    raise error

  assert command.run("/bin/p", fail, None) == code
  assert capsys.readouterr().err == sentence + "\n"


def test_a_missing_version_ends_with_one_sentence(tmp_path):
  result = run("cifar10.cli.evaluate", "--checkpoint_dir", str(tmp_path / "none"), "--dataset=synthetic")
  assert result.returncode == 1
  assert "none_1: train --checkpoint_version 0 first" in result.stderr.splitlines()[-1]
  assert "Traceback" not in result.stderr
  assert len(result.stderr.splitlines()) == 1, "TensorFlow starts without a word"
