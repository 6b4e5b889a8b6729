"""What the commands share: flags of the settings that a config declares, parsing, and errors as one sentence."""

import contextlib
import dataclasses
import importlib.metadata
import os
import re
import signal
import sys

from absl import flags

from cifar10 import config as settings

BAD_INPUT = 1
BAD_FLAGS = 2
HELP = ("--help", "-help", "-h", "--h", "--help=true", "--helpfull", "-helpfull")
VERSION = ("--version", "-version")
DISTRIBUTION = "cifar10-channel-pruning"
COMMON = "All commands"
OWN = ("help", "h", "version")
FLAGFILE = """  --flagfile: Read further flags from a file, one a line, as --name=value.
    A line that begins with # is a comment. Of the same flag the last one counts.
"""


def main(config_class, usage, function, argv=None):
  """Runs a command: parses its command line and calls `function` with the config; returns the exit code.

  Args:
    config_class: the class of its settings, of `cifar10.config`.
    usage: what --help says before it lists the flags.
    function: what the command does.
    argv: the command line, the program's name first; by default the process's own.
  """
  argv = sys.argv if argv is None else argv
  code = run(argv[0], function, config_class(**parse(config_class, usage, argv)))
  return _written(argv[0], "", code)


def flag_values(config_class):
  """The flags of a config's settings, an `absl.flags.FlagValues`."""
  values = flags.FlagValues()
  flags.DEFINE_bool("help", False, "Print this help and exit.", values, COMMON, short_name="h")
  flags.DEFINE_bool("version", False, "Print the version and exit.", values, COMMON)
  declared = settings.declarations(config_class)
  for field in dataclasses.fields(config_class):
    if not declared[field.name].positional:
      _define(values, field.name, field.default, declared[field.name])
  for rule in getattr(config_class, "RULES", ()):
    flags.register_multi_flags_validator(rule.names, rule.is_met, rule.sentence, flag_values=values)
  return values


def parse(config_class, usage, argv):
  """Parses the command line into a dict of settings; ends the program with 0 after --help, 2 on bad flags."""
  values = flag_values(config_class)
  positional = [name for name, declared in settings.declarations(config_class).items() if declared.positional]
  values.set_gnu_getopt(bool(positional))  # Flags may stand behind such arguments too.
  program = name(argv[0])
  if any(argument in HELP for argument in argv[1:]):
    sys.exit(_written(program, _help(config_class, usage, values), 0))
  if any(argument in VERSION for argument in argv[1:]):
    sys.exit(_written(program, version() + "\n", 0))
  try:
    arguments = values(argv)[1:]
  except UnicodeDecodeError:
    sys.exit(_complain(program, f"the --flagfile is no text in UTF-8; {program} --help says what one is", BAD_FLAGS))
  except flags.Error as error:
    sys.exit(_complain(program, f"{_one_line(error)}; {program} --help lists the flags", BAD_FLAGS))
  if arguments and not positional:
    sys.exit(_complain(program, f"stray argument {arguments[0]!r}; {program} --help lists the flags", BAD_FLAGS))
  if positional and not arguments:
    sys.exit(_complain(program, f"no {positional[0]} are given; {program} --help says what is expected", BAD_FLAGS))
  given = {name: value for name, value in values.flag_values_dict().items() if name not in OWN}
  return given | {name: tuple(arguments) for name in positional}


def version():
  """The name and version of the package, a line."""
  return f"{DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}"


def name(program):
  """What a program is called in its messages."""
  return os.path.basename(program)


def _help(config_class, usage, values):
  groups = (values.module_help(group) for group in [*settings.groups(config_class), COMMON])
  return "\n".join([usage, *(group.strip("\n") + "\n" for group in groups)]) + FLAGFILE


def run(program, function, config):
  """Calls `function(config)` and returns the exit code; what the user can put right becomes a sentence."""
  from cifar10.errors import Interrupted, UserError, first_line

  try:
    function(config)
  except UserError as error:
    return _complain(program, "\n".join(map(_one_line, error.args)), BAD_INPUT)
  except Interrupted as interrupted:
    return _complain(program, _one_line(interrupted), 128 + interrupted.signum)
  except OSError as error:
    return _complain(program, _one_line(f"{error}."), BAD_INPUT)
  except Exception as error:
    if "tensorflow" in sys.modules and isinstance(error, sys.modules["tensorflow"].errors.OpError):
      return _complain(program, f"{first_line(error)}.", BAD_INPUT)
    raise
  except KeyboardInterrupt:
    return _complain(program, "interrupted.", 128 + signal.SIGINT)
  return 0


class _Parser(flags.ArgumentParser):
  """Takes from the command line what a declaration admits, and says what was expected instead of anything else."""

  syntactic_help = ""

  def __init__(self, declaration, convert):
    self.declaration = declaration
    self.convert = convert

  def parse(self, argument):
    try:
      value = self.convert(argument) if isinstance(argument, str) else argument
      admitted = self.declaration.admits(value)
    except ValueError:
      admitted = False
    if not admitted:
      raise ValueError(f"expected {self.declaration.expected}")
    return value


def _define(values, name, default, declared):
  where = {"flag_values": values, "module_name": declared.group}
  match declared:
    case settings.Number():
      text, convert = f"{declared.help} ({declared.expected})", _whole_number if declared.whole else _number
      flags.DEFINE(_Parser(declared, convert), name, default, text, **where)
    case settings.Choices():
      serializer = flags.CsvListSerializer(",")
      flags.DEFINE(_Parser(declared, _listed), name, default, declared.help, serializer=serializer, **where)
    case settings.Choice():
      flags.DEFINE_enum(name, default, declared.choices, declared.help, **where)
    case settings.Switch():
      flags.DEFINE_bool(name, default, declared.help, **where)
    case settings.Paths() | settings.Names():
      serializer = flags.ListSerializer(",")
      flags.DEFINE(_Parser(declared, _listed), name, default, declared.help, serializer=serializer, **where)
    case settings.Path():
      flags.DEFINE(_Parser(declared, str), name, default, declared.help, **where)
    case _:
      raise TypeError(f"{name} is declared by {declared!r}, of which no flag can be made")


def _whole_number(text):
  if not re.fullmatch(r"[+-]?[0-9]+", text):
    raise ValueError(text)
  return int(text)


def _number(text):
  if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
    raise ValueError(text)
  return float(text)


def _listed(text):
  return tuple(dict.fromkeys(text.split(",")))


def _one_line(text):
  """The text with escapes in the place of line breaks and all else that a console does not print."""
  return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))


def _complain(program, message, code):
  printable = f"{name(program)}: {message}".encode(errors="backslashreplace").decode()
  with contextlib.suppress(OSError):  # Where stderr is gone, the exit code is left.
    print(printable, file=sys.stderr, flush=True)
  return code


def _written(program, text, code):
  """The exit code once all output and a last text are written; where stdout does not take it, that is said."""
  try:
    sys.stdout.write(text)
    sys.stdout.flush()
  except OSError as error:
    # What is left in the buffer would fail again as Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
      return _complain(program, f"stdout cannot be written ({error.strerror}).", code or BAD_INPUT)
  return code
