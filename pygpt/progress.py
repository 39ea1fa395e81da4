"""Tells how far some texts are, in a line on standard error that is rewritten and leaves nothing.
"""

import shutil
import sys
import time

FIRST_SECONDS = 1.0  # a call that takes less shows nothing
PAUSE_SECONDS = 0.3  # between two states of the line


class ProgressLine:
    """Shows the Progress of a stream; a context manager, whose end removes the line.

    Args:
        is_shown: whether there is a line; None: where IPython runs in this process.
    """

    def __init__(self, is_shown=None):
        self._is_shown = runs_ipython() if is_shown is None else is_shown
        self._due, self._width = time.monotonic() + FIRST_SECONDS, 0

    def update(self, progress):
        """Show a continuation.Progress, unless the line was rewritten a moment ago."""
        if not self._is_shown or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + PAUSE_SECONDS
        of_texts = f"{progress.ended} of {progress.texts} texts, " if progress.texts > 1 else ""
        line = (f"{of_texts}{progress.tokens:,} tokens of at most {progress.most:,}, "
                f"{progress.tokens / max(progress.seconds, 1e-9):,.0f} tokens/s")
        line = line[:shutil.get_terminal_size().columns - 1]
        self._write("\r" + line.ljust(self._width))
        self._width = len(line)

    def clear(self):
        """Remove the line; it comes back with the next update."""
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


def runs_ipython():
    """Tell whether this is a process of IPython, such as a notebook's."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and get_ipython() is not None
