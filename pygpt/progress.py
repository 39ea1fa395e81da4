"""Tells on standard error how far a long computation is, in a line that is rewritten and leaves
nothing. Where such a line cannot be, off a terminal, it can be printed from time to time."""

import shutil
import sys
import time

FIRST_SECONDS = 1.0  # a call that takes less shows nothing
PAUSE_SECONDS = 0.3  # between two states of the line
PLAIN_SECONDS = 10.0  # between two lines that stay


class RewrittenLine:
    """A line that says how far something is; a context manager, whose end removes the line.

    Args:
        is_shown: whether there is a line.
        stays: whether each state is a line of its own, which stays: for a file.
    """

    def __init__(self, is_shown=True, stays=False):
        self._is_shown, self._stays, self._width = is_shown, stays, 0
        self._due = time.monotonic() + (PLAIN_SECONDS if stays else FIRST_SECONDS)

    def show(self, describe):
        """Show the text that describe() returns, unless the last was shown a moment ago."""
        if not self._is_shown or (now := time.monotonic()) < self._due:
            return
        if self._stays:
            self._due = now + PLAIN_SECONDS
            self._write(describe() + "\n")
            return
        self._due = now + PAUSE_SECONDS
        line = describe()[:shutil.get_terminal_size().columns - 1]
        self._write("\r" + line.ljust(self._width))
        self._width = len(line)

    def clear(self):
        """Remove the line; it comes back with the next state."""
        if self._width:
            self._write("\r" + " " * self._width + "\r")  # a notebook knows no other sequence
            self._width = 0

    def _write(self, text):
        if sys.stderr is not None:
            print(text, end="", file=sys.stderr, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.clear()


class ProgressLine(RewrittenLine):
    """Shows the Progress of a stream.

    Args:
        is_shown: whether there is a line; None: where IPython runs in this process.
    """

    def __init__(self, is_shown=None):
        super().__init__(runs_ipython() if is_shown is None else is_shown)

    def update(self, progress):
        """Show a continuation.Progress, unless the line was rewritten a moment ago."""
        self.show(lambda: (
            (f"{progress.ended} of {progress.texts} texts, " if progress.texts > 1 else "")
            + f"{progress.tokens:,} tokens of at most {progress.most:,}, "
            + f"{progress.tokens / max(progress.seconds, 1e-9):,.0f} tokens/s"))


def runs_ipython():
    """Tell whether this is a process of IPython, such as a notebook's."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and get_ipython() is not None
