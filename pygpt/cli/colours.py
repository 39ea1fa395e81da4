"""Decides whether a stream gets colours, and paints text: ANSI's sequences for terminals.

Text goes to a terminal in colour unless the variable NO_COLOR is set and not empty
(https://no-color.org) or TERM says that the terminal has no such sequences.
"""

import os

RESET = "\033[0m"
DIM = "\033[2m"


def has_colours(stream):
    """Tell whether text for a stream may be painted."""
    return (stream.isatty() and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM", "dumb") != "dumb")


def painted(text, style):
    """Return a text of one line between a style, such as DIM, and the sequence that ends it."""
    return f"{style}{text}{RESET}" if text else ""


def visible(text):
    """Replace control characters, which a terminal would obey, by their pictures; keep newlines
    and tabs."""
    return text.translate(_PICTURES)


_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
