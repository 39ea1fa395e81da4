"""Signals that end a run in good order: the first is noted, a second does what it always did.

Standard library only; used by train.
"""

import signal
import threading
from contextlib import contextmanager

# Ctrl-C, what `kill` and a machine that shuts down send, and a terminal that is closed.
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")
          if hasattr(signal, name)]


@contextmanager
def first_signal_is_noted():
    """Yield a list that the first of the ENDING signals is put into.

    From then on each does again what it did before, so a second one leaves at once. A signal that
    the process ignores (nohup) stays ignored. In other threads than the main one nothing is noted,
    for signals reach only that.
    """
    noted = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in before.items()
              if handler not in (signal.SIG_IGN, None)}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number, frame):
        noted.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()
