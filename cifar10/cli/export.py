"""`cifar10-export`: writes a version's network in other formats."""

import os
import sys

from absl import flags

from cifar10.cli import command
from cifar10.config import ExportConfig

USAGE = """cifar10-export writes the network of --checkpoint_version V for other runtimes, batch norms folded into the
convolutions: as SavedModel, LiteRT in float32 and in int8, and ONNX. Each file is loaded again and compared with the
Keras model on 1,000 test images; a table says what came out, and export.json in the version's directory keeps it.
"""


def flag_values():
  """The flags of the command."""
  values, defaults = flags.FlagValues(), ExportConfig()

  def path(name, text):
    command.define_path(values, name, getattr(defaults, name), text)

  def choice(name, choices, text):
    flags.DEFINE_enum(name, getattr(defaults, name), choices, text, flag_values=values)

  command.define_version(values, defaults, "export")
  command.define_choices(values, "formats", defaults.formats, defaults.formats, "Formats to write, of these four.")
  choice(
    "input",
    ["standardized", "uint8"],
    "What the exported networks take: images standardised as in training, float32; or images as they are, 0 to 255, "
    "which they standardise themselves.",
  )
  flags.DEFINE_bool(
    "softmax", defaults.softmax, "Append a softmax: probabilities come out, not logits.", flag_values=values
  )
  choice("dataset", ["cifar10", "synthetic"], "Data set to compare on; synthetic is built in and needs no files.")
  path("data_dir", "Directory of CIFAR-10, as for cifar10-train.")
  path("output_dir", "Directory of the files. By default export in the version's directory.")
  return values


def main(argv=None):
  """Runs the command; returns its exit code."""
  argv = sys.argv if argv is None else argv
  config = ExportConfig(**command.parse(flag_values(), USAGE, argv))
  return command.run(argv[0], _export, config)


def _export(config):
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from cifar10.export import export

  export(config)


if __name__ == "__main__":
  sys.exit(main())
