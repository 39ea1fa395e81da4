"""Draws the losses of a run as text, for a terminal.

    loss  . training   o validation
    4.59 |.
         | .
    2.83 |  ..o....
         |         ...o.....o...
    1.07 |                      ...o
         +--------------------------
          step 0              2,000

Braille characters have 2 x 4 dots each, so that eight lines show 32 heights. A terminal without
them gets the characters above.
"""

import math
import os
import sys

from pygpt.training.plot import span
from pygpt.training.run_log import LARGEST

LEAST_WIDTH = 20  # characters; in fewer a curve shows nothing
LABELS = 3        # losses beside the axis
# The bit of each dot of a braille character, by column and row, from U+2800 on (Unicode,
# "Braille Patterns").
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
FINE = {"train": "⠒", "val": "●", "axis": "│", "corner": "└", "line": "─"}
PLAIN = {"train": ".", "val": "o", "axis": "|", "corner": "+", "line": "-"}


def is_fine(stream):
    """Tell whether a terminal shows braille: its encoding has it, and TERM names no terminal whose
    font lacks it. The text console of Linux is one."""
    try:
        "".join(FINE.values()).encode(stream.encoding or "ascii")
    except (LookupError, UnicodeError):
        return False
    return sys.platform == "win32" or os.environ.get("TERM", "dumb") not in ("", "dumb", "linux")


def curve(train, val, width=60, height=8, is_fine=True):
    """Draw the losses over the steps.

    Args:
        train, val: lists of (step, loss in nats) in the order of the steps; losses that are not
            finite are left out.
        width: columns of the whole picture, with its labels.
        height: lines above the axis, at least LABELS.
        is_fine: whether to draw with braille.
    Returns:
        A text of height + 3 lines without a last newline; "" if there are fewer than two points of
        training, or the width is too small.
    """
    train, val = _finite(train), _finite(val)
    if len(train) < 2:
        return ""
    last = max(train[-1][0], val[-1][0] if val else 0)
    columns = width * (2 if is_fine else 1)  # a few more than are left beside the labels
    losses = [loss for _, loss in _by_column(train, last, columns)]
    low, high = span(losses + [loss for _, loss in val], from_zero=False)
    labels = _labels(low, high, height)
    margin = max(map(len, labels.values())) + 1
    width -= margin + 1
    if width < LEAST_WIDTH:
        return ""
    look = FINE if is_fine else PLAIN
    grid = _line(train, last, low, high, width, height, is_fine)
    for step, loss in val:
        x, y = _place(step, loss, last, low, high, width, height)
        grid[y][x] = look["val"]
    legend = f"{look['train']} training" + f"   {look['val']} validation" * bool(val)
    return "\n".join([
        f"{'loss':>{margin}}  {legend}",
        *(f"{labels.get(row, ''):>{margin - 1}} {look['axis']}{''.join(cells).rstrip()}"
          for row, cells in enumerate(grid)),
        f"{'':{margin}}{look['corner']}{look['line'] * width}",
        f"{'':{margin + 1}}step 0{last:>{width - 6},}"])


def _finite(points):
    return [(step, loss) for step, loss in points if abs(loss) <= LARGEST]  # false for a NaN


def _labels(low, high, height):
    """Return {row: loss}, of LABELS rows."""
    rows = [round(i * (height - 1) / (LABELS - 1)) for i in range(LABELS)]
    digits = max(0, min(6, 1 - math.floor(math.log10(high - low))))
    return {row: f"{high - (high - low) * row / (height - 1):.{digits}f}" for row in rows}


def _place(step, loss, last, low, high, columns, rows):
    """Return the column and the row of a point; losses above `high` are in the first row."""
    x = min(columns - 1, int(step / max(1, last) * columns))
    y = round((high - min(max(loss, low), high)) / (high - low) * (rows - 1))
    return x, y


def _line(points, last, low, high, width, height, is_fine):
    """Draw connected points into a grid of characters [height][width]."""
    across, down = (2, 4) if is_fine else (1, 1)
    columns, rows = width * across, height * down
    dots, before = set(), None
    for x, loss in _by_column(points, last, columns):
        _, y = _place(0, loss, last, low, high, columns, rows)
        dots |= _between(before or (x, y), (x, y))
        before = x, y
    if not is_fine:
        return [[PLAIN["train"] if (x, y) in dots else " " for x in range(width)]
                for y in range(height)]
    return [[_braille(dots, 2 * x, 4 * y) for x in range(width)] for y in range(height)]


def _by_column(points, last, columns):
    """List (column, mean loss) of the columns that have points."""
    found = {}
    for step, loss in points:
        found.setdefault(min(columns - 1, int(step / max(1, last) * columns)), []).append(loss)
    return [(x, math.fsum(losses) / len(losses)) for x, losses in sorted(found.items())]


def _between(start, end):
    """Return the dots of a straight line from start to end, (column, row) each, without gaps."""
    (x0, y0), (x1, y1) = start, end
    n = max(x1 - x0, abs(y1 - y0), 1)
    return {(round(x0 + (x1 - x0) * i / n), round(y0 + (y1 - y0) * i / n)) for i in range(n + 1)}


def _braille(dots, x, y):
    bits = sum(DOTS[i][j] for i in range(2) for j in range(4) if (x + i, y + j) in dots)
    return chr(0x2800 + bits) if bits else " "
