"""What the commands share: ranges of flags, parsing, and errors as one sentence."""

import contextlib
import math
import os
import signal
import sys

from absl import flags

BAD_INPUT = 1
BAD_FLAGS = 2


def define_number(flag_values, name, default, text, integer=False, low=0, above=False, high=math.inf):
  """Defines a flag for a finite number from `low` (or, with `above`, greater than it) to `high`."""
  expected = f"a {'whole ' * integer}number {'above' if above else 'from'} {low}"
  expected += f" to {high}" if high < math.inf else "" if above else " up"

  class Number(flags.IntegerParser if integer else flags.FloatParser):
    """Says what was expected, of text too."""

    syntactic_help = ""

    def parse(self, argument):
      with contextlib.suppress(TypeError, ValueError):
        value = super().parse(argument)
        if low <= value <= high and value != math.inf and not (above and value == low):
          return value
      raise ValueError(f"expected {expected}")

  flags.DEFINE(Number(), name, default, f"{text} ({expected})", flag_values=flag_values)


def define_path(flag_values, name, default, text):
  """Defines a flag for the path of a directory."""

  class Path(flags.ArgumentParser):
    """Refuses what cannot be one."""

    def parse(self, argument):
      return _path(argument)

  flags.DEFINE(Path(), name, default, text, flag_values=flag_values)


def define_version(flag_values, defaults, verb):
  """Defines the flags that say which network of which version a command is to `verb`."""
  version, directory, iteration = (getattr(defaults, f"checkpoint_{name}") for name in ("version", "dir", "iter"))
  define_number(flag_values, "checkpoint_version", version, f"Version to {verb}.", integer=True, high=10**6)
  text = "Directory of a version, without _<version>: cifar10-train's --train_dir."
  define_path(flag_values, "checkpoint_dir", directory, text)
  text = f"Step of the training checkpoint to {verb}; 0: the network that the version starts from; -1: the newest."
  define_number(flag_values, "checkpoint_iter", iteration, text, integer=True, low=-1, high=2**31 - 1)


def define_choices(flag_values, name, default, choices, text):
  """Defines a flag for some of `choices`, separated by commas; its value is a tuple."""

  class Choices(flags.ArgumentParser):
    """Says what was expected."""

    def parse(self, argument):
      chosen = argument.split(",") if isinstance(argument, str) else argument
      if not set(chosen) <= set(choices):
        raise ValueError(f"expected some of {', '.join(choices)}, separated by commas")
      return tuple(dict.fromkeys(chosen))

  flags.DEFINE(Choices(), name, default, text, flag_values, flags.CsvListSerializer(","))


def define_paths(flag_values, name, default, text):
  """Defines a flag for a tuple of paths of directories, given with commas between them."""

  class Paths(flags.ArgumentParser):
    """Refuses a list that holds what cannot be one."""

    def parse(self, argument):
      return tuple(map(_path, argument.split(",") if isinstance(argument, str) else argument))

  flags.DEFINE(Paths(), name, default, text, serializer=flags.ListSerializer(","), flag_values=flag_values)


def parse(flag_values, usage, argv, positional=None):
  """Parses the command line into a dict of flags; ends the program with 0 after --help, 2 on bad flags.

  Args:
    flag_values: the flags of the command.
    usage: what --help says before it lists them.
    argv: the command line, the program's name first.
    positional: name under which the dict has the tuple of arguments that are no flags, one or more; by default
      there may be none.
  """
  flags.DEFINE_bool("help", False, "Print this help and exit.", short_name="h", flag_values=flag_values)
  flag_values.set_gnu_getopt(positional is not None)  # Flags may stand behind such arguments too.
  program = os.path.basename(argv[0])
  if any(argument in ("--help", "-help", "-h", "--h", "--help=true") for argument in argv[1:]):
    print(f"{usage}\n{flag_values.get_help(include_special_flags=False)}")
    sys.exit(0)
  try:
    arguments = flag_values(argv)[1:]
  except flags.Error as error:
    sys.exit(_complain(program, f"{error}; {program} --help lists the flags", BAD_FLAGS))
  if arguments and not positional:
    sys.exit(_complain(program, f"stray argument {arguments[0]!r}; {program} --help lists the flags", BAD_FLAGS))
  if positional and not arguments:
    sys.exit(_complain(program, f"no {positional} are given; {program} --help says what is expected", BAD_FLAGS))
  values = flag_values.flag_values_dict() | ({positional: tuple(arguments)} if positional else {})
  return {name: value for name, value in values.items() if name not in ("help", "h")}


def run(program, function, config):
  """Calls `function(config)` and returns the exit code; what the user can put right becomes a sentence."""
  from cifar10.errors import Interrupted, UserError, first_line

  try:
    function(config)
  except UserError as error:
    return _complain(program, error, BAD_INPUT)
  except Interrupted as interrupted:
    return _complain(program, interrupted, 128 + interrupted.signum)
  except OSError as error:
    return _complain(program, f"{error}.", BAD_INPUT)
  except Exception as error:
    if "tensorflow" in sys.modules and isinstance(error, sys.modules["tensorflow"].errors.OpError):
      return _complain(program, f"{first_line(error)}.", BAD_INPUT)
    raise
  except KeyboardInterrupt:
    return _complain(program, "interrupted.", 128 + signal.SIGINT)
  return 0


def _path(argument):
  if not argument or "\0" in argument or any("\ud800" <= character <= "\udfff" for character in argument):
    raise ValueError("expected the path of a directory, in UTF-8")
  return argument


def _complain(program, message, code):
  printable = f"{os.path.basename(program)}: {message}".encode(errors="backslashreplace").decode()
  print(printable, file=sys.stderr)
  return code
