"""Keeps a terminal from showing ^C for Ctrl-C, which would be in the middle of a text."""

import contextlib
import sys

try:
    import termios
except ImportError:  # not every system has it
    termios = None


@contextlib.contextmanager
def without_echo_of_ctrl_c(edits_lines=False):
    """Within the block, the terminal of standard input does not show ^C. Elsewhere do nothing.

    With edits_lines Ctrl-C does not discard the keys that were typed before it either. CPython asks
    readline for a key when the terminal has one; if Ctrl-C discarded it in between, readline would
    wait for another, deaf to every further Ctrl-C.
    """
    if termios is None or not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    local = before[3] & ~termios.ECHOCTL
    if edits_lines:
        local |= termios.NOFLSH
    try:
        termios.tcsetattr(descriptor, termios.TCSANOW, [*before[:3], local, *before[4:]])
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(descriptor, termios.TCSANOW, before)
