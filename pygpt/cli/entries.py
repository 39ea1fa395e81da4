"""Reads what a user types: lines, with editing and a history where the terminal allows it, and
texts of several lines.

A text of several lines is pasted (where the terminal brackets what is pasted, as GNU readline asks
it to), or typed between two lines with \"\"\":

    > \"\"\"First line,
    ... second line\"\"\"

The history is a file of JSON strings, one on a line, so that an entry of several lines stays one.
"""

import contextlib
import json
import os
import sys

from pygpt.files import replacing

try:
    import termios
except ImportError:  # not every system has it
    termios = None

FENCE = '"""'
MOST_ENTRIES = 1000
PROMPT, MORE_PROMPT = "> ", "... "


class Entries:
    """Reads entries from standard input.

    Attributes:
        is_terminal: whether a user types them at a terminal and sees the output there. Only then
            are there prompts, editing and a history.
    """

    def __init__(self):
        self.is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._readline, self._path, self._ends_line = None, None, False
        if self.is_terminal:
            with contextlib.suppress(ImportError):  # not every Python has it
                import readline

                self._readline, self._path = readline, history_path()
                self._prepare()

    def _prepare(self):
        self._readline.set_auto_history(False)
        if "libedit" not in (self._readline.__doc__ or ""):
            # These let bytes above 127 be characters in every locale, where readline might take
            # them for keys with Alt. Python turns bracketed paste off.
            settings = ["convert-meta off", "input-meta on", "output-meta on"]
            if os.environ.get("TERM", "dumb") != "dumb":
                settings.append("enable-bracketed-paste on")
                # From 8.1 on it then prints a newline itself when the input ends.
                self._ends_line = getattr(self._readline, "_READLINE_VERSION", 0) >= 0x801
            for setting in settings:
                self._readline.parse_and_bind(f"set {setting}")
        for entry in read_history(self._path):
            self._add(entry)

    def _add(self, entry):
        """Add an entry to those that the arrows find; say whether it is another than the last."""
        with contextlib.suppress(ValueError):  # the locale's encoding lacks a character
            # Readline holds bytes, which Python converts by the locale's encoding.
            entry = os.fsdecode(entry.encode("utf-8", "surrogateescape"))
            count = self._readline.get_current_history_length()
            if count and self._readline.get_history_item(count) == entry:
                return False
            self._readline.add_history(entry)
        return True

    def read(self):
        """Return the next entry, without the newline at its end.

        Raises:
            EOFError: there is none; on a terminal the cursor is in a new line.
            KeyboardInterrupt: the user typed Ctrl-C.
        """
        try:
            entry = self._line(PROMPT)
        except EOFError:
            if self.is_terminal and not self._ends_line:
                print()
            raise
        if entry.startswith(FENCE):
            entry = self._block(entry.removeprefix(FENCE))
            if entry.startswith("/") and "\n" not in entry:
                entry = "/" + entry  # it is a text, not a command
        self._remember(entry)
        return entry

    def _block(self, line):
        """Read to the line that ends with a fence; return the lines between the fences."""
        lines = []
        while not line.endswith(FENCE):
            lines.append(line)
            try:
                line = self._line(MORE_PROMPT)
            except EOFError:  # the block ends with the input
                break
        else:
            lines.append(line.removesuffix(FENCE))
        if lines and not lines[0]:
            del lines[0]
        if lines and not lines[-1]:
            del lines[-1]
        return "\n".join(lines)

    def _line(self, prompt):
        line = input(prompt if self.is_terminal else "")
        # a terminal sends a pasted newline as \r, and what is pasted often ends with one
        line = line.removesuffix("\r")
        return line.replace("\r", "\n").removesuffix("\n") if self.is_terminal else line

    def _remember(self, entry):
        if self._readline is not None and entry.strip() and self._add(entry):
            append_history(self._path, entry)


@contextlib.contextmanager
def unseen_interrupts():
    """Within the block, the terminal of standard input does not show ^C where Ctrl-C is typed,
    which would be in the middle of a text. Elsewhere do nothing."""
    if termios is None or not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    local = before[3]
    termios.tcsetattr(descriptor, termios.TCSANOW,
                      [*before[:3], local & ~termios.ECHOCTL, *before[4:]])
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


def history_path():
    """Return the path of the history, in the user's directory for state; None if there is no home.

    Source: the XDG Base Directory Specification, $XDG_STATE_HOME, which must be absolute.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        state = os.path.join(home, ".local", "state")
    return os.path.join(state, "pygpt", "history")


def read_history(path):
    """Return the entries of a history, at most MOST_ENTRIES; what is damaged is left out.

    A file that has grown to twice as many is cut. A file that cannot be read counts as empty.
    """
    lines, entries = [], []
    with contextlib.suppress(OSError, TypeError):  # TypeError: there is no path
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    for line in lines[-MOST_ENTRIES:]:
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, str) and "\0" not in entry:
                entries.append(entry)
    if len(lines) > 2 * MOST_ENTRIES:
        with contextlib.suppress(OSError), replacing(path) as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in entries).encode())
    return entries


def append_history(path, entry):
    """Add an entry to a history, which only its user can read; do nothing if it cannot be written.

    One write adds the whole line, so several programs may add entries at once.
    """
    with contextlib.suppress(OSError, TypeError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, json.dumps(entry).encode() + b"\n")
        finally:
            os.close(descriptor)
