"""Text to batches: reads the text, holds a part out for validation, cuts windows of tokens.

A window is n_positions + 1 consecutive tokens: all but the last are the input, all but the first
the targets. Tokens are int32 in one array, so that a window is copied by one slice. Standard
library only; used by train.
"""

import os
import random
from array import array


class DataError(ValueError):
    """The text cannot be used; the message names the file or the number that is wrong."""


def load_text(paths):
    """The text of the files, joined by newlines; of Python's own reference when there are none.

    Args:
        paths: of UTF-8 files; line ends are kept as they are.
    Raises:
        OSError: a file cannot be read.
        DataError: a file is not UTF-8 or is empty.
    """
    return "\n".join(map(_read_file, paths)) if paths else python_reference()


def python_reference():
    """The Python language reference, which every CPython carries: half a megabyte of text.

    Its tables, drawn with dashes and bars, are left out: a small model would learn to draw them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError("this Python comes without its reference (the module pydoc_data); "
                        "name a text file with --data") from None
    lines = "\n".join(topics[name] for name in sorted(topics)).splitlines(keepends=True)
    return "".join(line for line in lines if not line.lstrip().startswith(("|", "+-", "+=")))


def _read_file(path):
    with open(path, "rb") as file:
        data = file.read()
    if not data:
        raise DataError(f"{path}: the file is empty")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: byte 0x{data[error.start]:02x} at offset "
                        f"{error.start}") from None


def split(ids, val_fraction, n_positions):
    """Part the tokens of a text into those to learn from and those held out, at the end.

    Args:
        ids: iterable of token ids.
        val_fraction: share of the tokens that is held out, in (0, 1).
        n_positions: the context, in tokens.
    Returns:
        (train, val): int32 memoryviews, each with a window's n_positions + 1 tokens or more.
    Raises:
        DataError: the text is too short for that.
    """
    tokens = memoryview(array("i", ids))
    n_train = len(tokens) - int(len(tokens) * val_fraction)
    train, val = tokens[:n_train], tokens[n_train:]
    for part, name in ((train, "to learn from"), (val, "held out")):
        if len(part) <= n_positions:
            raise DataError(f"the text is too short: {len(part)} of its {len(tokens)} tokens are "
                            f"{name} (val_fraction={val_fraction}), and a context of "
                            f"n_positions={n_positions} takes {n_positions + 1}")
    return train, val


class TrainingBatches:
    """The endless sequence of training batches; each is a function of the seed and its index.

    The tokens are gone through in epochs. An epoch cuts them into windows at a random phase and
    takes every window once, in random order.
    """

    def __init__(self, tokens, batch_size, n_positions, seed):
        """Prepare to draw from tokens.

        Args:
            tokens: int32 memoryview of n_positions + 1 tokens or more.
            batch_size: B.
            n_positions: T.
            seed: int.
        """
        self._tokens, self._shape, self._seed = tokens, (batch_size, n_positions), seed
        # one window fewer than fit, so that any phase leaves the same number
        self._windows = max(1, (len(tokens) - n_positions) // n_positions)
        self._epoch = None, None

    def __getitem__(self, index):
        """Batch number `index`, from 0: (ids, targets), int32 memoryviews of shape (B, T)."""
        B = self._shape[0]
        first = index * B
        return _batch(self._tokens, map(self._start, range(first, first + B)), self._shape)

    def _start(self, position):
        """Where in the tokens the window at a position of the endless sequence starts."""
        epoch, place = divmod(position, self._windows)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._order(epoch)
        return self._epoch[1][place]

    def _order(self, epoch):
        T = self._shape[1]
        rng = random.Random(f"{self._seed}/{epoch}")  # a text seed is hashed the same everywhere
        phase = rng.randrange(len(self._tokens) - self._windows * T)
        starts = array("q", range(phase, phase + self._windows * T, T))
        rng.shuffle(starts)
        return starts


def validation_batches(tokens, batch_size, n_positions, most):
    """The batches to validate on: windows spread evenly over the tokens, the same each time.

    Args:
        tokens: int32 memoryview of n_positions + 1 tokens or more.
        batch_size: B.
        n_positions: T.
        most: the number of batches, unless the tokens hold fewer.
    Returns:
        A list of (ids, targets), int32 memoryviews of shape (B, T). There is at least one batch;
        if the tokens do not fill it, its windows overlap.
    """
    last_start = len(tokens) - n_positions - 1
    n_batches = min(most, max(1, (last_start // n_positions + 1) // batch_size))
    n = n_batches * batch_size
    starts = [i * last_start // max(1, n - 1) for i in range(n)]
    shape = batch_size, n_positions
    return [_batch(tokens, starts[i : i + batch_size], shape) for i in range(0, n, batch_size)]


def _batch(tokens, starts, shape):
    B, T = shape
    ids, targets = (memoryview(array("i", bytes(4 * B * T))) for _ in range(2))
    for row, start in zip(range(0, B * T, T), starts):
        ids[row : row + T] = tokens[start : start + T]
        targets[row : row + T] = tokens[start + 1 : start + 1 + T]
    return ids.cast("B").cast("i", shape), targets.cast("B").cast("i", shape)
