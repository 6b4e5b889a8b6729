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
  """The flags of a command as a Markdown table, by what they are about: defaults, what they are, how long they hold."""
  declared = settings.declarations(config_class)
  scoped = any(declaration.scope for declaration in declared.values())
  defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
  groups, rows = settings.groups(config_class), []
  for group, names in groups.items():
    rows += [[f"**{group}**", "", "", *[""] * scoped]] * (len(groups) > 1)
    for name in names:
      row = [f"`--{name}`", _default(defaults[name]), _what(declared[name])]
      rows.append([*row, *[declared[name].scope] * scoped])
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
