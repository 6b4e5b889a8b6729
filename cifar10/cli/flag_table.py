"""The flags of all commands as Markdown, for the manual in `README.md` beside this file.

python -m cifar10.cli.flag_table
"""

import dataclasses

from cifar10 import config as settings
from cifar10.console import table

COMMANDS = {
  "cifar10-train": settings.TrainConfig,
  "cifar10-eval": settings.EvalConfig,
  "cifar10-export": settings.ExportConfig,
  "cifar10-predict": settings.PredictConfig,
  "cifar10-report": settings.ReportConfig,
  "keras-squeeze": settings.SqueezeConfig,
}


def flag_table(config_class):
  """The flags of a command as a Markdown table: defaults, what they are, and, for a stage, how long they hold."""
  declared = settings.declarations(config_class)
  scoped = any(declaration.scope for declaration in declared.values())
  rows = [
    [f"`--{field.name}`", _default(field.default), _what(declared[field.name]), *[declared[field.name].scope] * scoped]
    for field in dataclasses.fields(config_class)
    if not declared[field.name].positional
  ]
  return table(["flag", "default", "what it is", *["within a stage"] * scoped], rows)


def _default(value):
  if value is None:
    return ""
  if isinstance(value, tuple):
    value = ",".join(value)
  return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _what(declared):
  values = {settings.Switch: "", settings.Path: "", settings.Paths: ""}.get(type(declared), f" ({declared.expected})")
  return f"{declared.help}{values}".replace("|", "\\|").replace("<", "\\<").replace("_", "\\_")


def main():
  """Prints a table for each command."""
  print("\n\n".join(f"### {name}\n\n{flag_table(config_class)}" for name, config_class in COMMANDS.items()))


if __name__ == "__main__":
  main()
