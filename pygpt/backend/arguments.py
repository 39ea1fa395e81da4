"""Checks what callers give to public functions, and shows it in messages.

A message is one line and names the argument. A value may be of any type and size, and its own repr
may fail, so every message shows it by shown().
"""

import os
import reprlib
from array import array

LONGEST_SHOWN = 4096  # bits of an integer: Python itself refuses to write 4300 digits or more
MOST_CHARACTERS = 80
SEQUENCES = list, tuple, range, array  # in which ids are taken


class _Short(reprlib.Repr):
    """Shortens the repr of a value, and shows a very large integer by its size: the steps that
    Python takes to write n digits grow with n^2."""

    def repr_int(self, number, level):
        if number.bit_length() > LONGEST_SHOWN:
            return f"(an integer of {number.bit_length()} bits)"
        return super().repr_int(number, level)

    def repr_instance(self, value, level):
        try:
            lines = repr(value).splitlines() or [""]
        except Exception:
            return f"<{type(value).__name__} object>"
        text = lines[0].strip() + "..." * (len(lines) > 1)
        return text if len(text) <= self.maxother else text[:self.maxother - 3] + "..."


_short = _Short()
_short.maxstring = _short.maxother = _short.maxlong = MOST_CHARACTERS
_short.maxlevel = 3


def shown(value):
    """Return the repr of a value in one line, shortened for a message. It never fails."""
    try:
        text = _short.repr(value)
    except Exception:  # a subclass of list, such as one whose length cannot be asked for
        text = f"<{type(value).__name__} object>"
    return text if len(text) <= 2 * MOST_CHARACTERS else text[:2 * MOST_CHARACTERS - 3] + "..."


def is_integer(value):
    """Return whether a value is an int, of whichever class but bool, which is one to Python."""
    return isinstance(value, int) and not isinstance(value, bool)


def checked_type(name, value, kind):
    """Return value; raise TypeError, which names it, if it is not an instance of the class `kind`.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name}={shown(value)} is not a {kind.__name__}")
    return value


def checked_parts(name, value, what, *attributes):
    """Return value; raise TypeError, which names it, if it lacks one of the attributes that `what`
    has."""
    for attribute in attributes:
        if isinstance(value, type) or not hasattr(value, attribute):
            raise TypeError(f"{name}={shown(value)} is not {what}: it has no {attribute}")
    return value


def checked_flag(name, value):
    """Return value; raise TypeError, which names it, if it is not True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={shown(value)} is not True or False")
    return value


def checked_function(name, value):
    """Return value; raise TypeError, which names it, if it cannot be called."""
    if not callable(value):
        raise TypeError(f"{name}={shown(value)} is not a function")
    return value


def checked_path(name, value):
    """Return a path as a str.

    A number is refused: Python's own functions take it for an open file, read that and close it.

    Raises:
        TypeError: value is neither a str nor an os.PathLike of one; the message names it.
        ValueError: no file can have this name; the message names it.
    """
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str):
        raise TypeError(f"{name}={shown(value)} is not a path, a str or a pathlib.Path")
    if not is_path(path):
        raise ValueError(f"{name}={shown(path)} is not a path: no file has such a name")
    return path


def is_path(path):
    """Return whether a file can have this path, a str: without a zero byte, and with bytes for
    each of its characters."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False
