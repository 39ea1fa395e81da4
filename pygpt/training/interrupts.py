"""Lets a signal end a run in good order.

The first signal is only noted, so that the run can save a checkpoint. A second one has its usual
effect.
"""

import signal
import threading
from contextlib import contextmanager

# Ctrl-C sends SIGINT, `kill` and a shutdown send SIGTERM, and a closed terminal sends SIGHUP.
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")
          if hasattr(signal, name)]


@contextmanager
def first_signal_is_noted():
    """Yield a list to which the first of the ENDING signals is appended, as its number.

    After that the former handlers are restored, so a second signal ends the process at once. A
    signal that the process ignores (nohup) stays ignored. Outside the main thread nothing is noted,
    because signals reach only the main thread.
    """
    noted = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    handlers = {number: handler for number in ENDING
                if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)}

    def restore():
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def note(number, frame):
        noted.append(number)
        restore()

    for number in handlers:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()
