"""Signals that end a training run once it has saved."""

import contextlib
import signal


@contextlib.contextmanager
def caught_signals():
  """Puts the number of a first SIGINT, SIGTERM or SIGHUP into the list that it yields; a second one acts as usual.

  What was ignored when the process started, like SIGHUP under nohup, or SIGINT in the background of a script, stays so.
  """
  caught, handlers = [], {}

  def restore_handlers():
    for signum, handler in handlers.items():
      signal.signal(signum, handler)

  def catch(signum, _):
    caught.append(signum)
    restore_handlers()

  with contextlib.suppress(ValueError):  # Only the main thread can catch signals.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      if signal.getsignal(signum) != signal.SIG_IGN:
        handlers[signum] = signal.signal(signum, catch)
  try:
    yield caught
  finally:
    restore_handlers()


def first_of(caught):
  """The signal that this worker caught, or SIGTERM where another one caught one."""
  return caught[0] if caught else signal.SIGTERM
