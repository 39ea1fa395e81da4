"""Says what Ctrl-C does in a conversation: it is noted, and interrupts only the wait for a line.

A KeyboardInterrupt anywhere else could leave a terminal half restored, or end the program between
two statements that catch it.
"""

import signal
import threading

TICK = 0.25  # seconds


class Interrupts:
    """Within a `with` block, takes each Ctrl-C.

    It takes none outside the main thread, which signals do not reach, and where Ctrl-C is ignored.

    Attributes:
        noted: a list with an item for each Ctrl-C since the last wait.
    """

    def __init__(self):
        self.noted, self._before, self._is_waiting = [], {}, False

    def __enter__(self):
        if (threading.current_thread() is threading.main_thread()
                and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None)):
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._take)
            if hasattr(signal, "setitimer"):
                self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda *_: None)
        return self

    def __exit__(self, *_):
        self._tick(0)
        for number in reversed(list(self._before)):  # that of Ctrl-C last
            signal.signal(number, self._before.pop(number))

    def waiting(self, wait):
        """Return wait(); Ctrl-C meanwhile raises one KeyboardInterrupt, here and nowhere else."""
        self.noted.clear()
        try:
            self._is_waiting = True
            self._tick(TICK)
            return wait()
        finally:
            self._is_waiting = False
            self._tick(0)

    def _take(self, *_):
        if self._is_waiting:
            self._is_waiting = False  # a second one must not interrupt what the first one leads to
            raise KeyboardInterrupt
        self.noted.append(True)

    def _tick(self, seconds):
        """Interrupt system calls at this interval; never if it is 0.

        CPython's readline looks for signals only when one interrupts its wait for a key. It would
        not see a Ctrl-C that came just before that wait until the next one.
        """
        if getattr(signal, "SIGALRM", None) in self._before:
            signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
