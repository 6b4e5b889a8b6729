"""Signals that end a training run once it has saved."""

import contextlib
import signal


@contextlib.contextmanager
def caught_signals():
  """Puts the number of a first SIGINT or SIGTERM into the list that it yields; a second one acts as usual."""
  caught, handlers = [], {}

  def restore_handlers():
    for signum, handler in handlers.items():
      signal.signal(signum, handler)

  def catch(signum, _):
    caught.append(signum)
    restore_handlers()

  with contextlib.suppress(ValueError):  # Only the main thread can catch signals.
    for signum in (signal.SIGINT, signal.SIGTERM):
      handlers[signum] = signal.signal(signum, catch)
  try:
    yield caught
  finally:
    restore_handlers()


def first_of(caught):
  """The signal that this worker caught, or SIGTERM where another one caught one."""
  return caught[0] if caught else signal.SIGTERM
