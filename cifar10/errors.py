"""The exceptions that the commands turn into a sentence and an exit code."""

import re
import signal


def first_line(error):
  """The first line of an exception's message, without a full stop or TensorFlow's marks, to stand in a sentence."""
  text = str(error).strip() or type(error).__name__
  return re.sub(r"\{\{.*?\}\} *| *\[Op:\w+\]", "", text.splitlines()[0]).rstrip(" .:")


def how_to_install(extra):
  """What installs an extra of this package, which is on no index, to stand in a sentence."""
  return f"pip install --editable '.[{extra}]' in the checkout, or pip install 'PATH_OF_THE_WHEEL[{extra}]'"


class UserError(Exception):
  """Something that the user can put right; exit code 1.

  The message is one sentence that names the bad value, what was expected and what to do; of several faults at once,
  each has a message, an argument of its own.
  """


class Interrupted(Exception):
  """A signal ended the training, whose state is saved; exit code 128 + the signal's number.

  Attributes:
    signum: number of the signal.
  """

  def __init__(self, signum, message):
    super().__init__(f"{signal.Signals(signum).name}: {message}.")
    self.signum = signum
