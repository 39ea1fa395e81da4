"""Tokens to batches: holds a part out for validation and cuts windows of tokens.

A window is n_positions + 1 consecutive tokens: all but the last are the input, all but the first
the targets. Tokens may be a mapped file of any size; only the windows of a batch are touched.
Imports corpus; used by train.
"""

import random
from array import array

from pygpt.data.corpus import DataError


def split(tokens, val_fraction, n_positions):
    """Part the tokens of a text into those to learn from and those held out, at the end.

    Args:
        tokens: memoryview of token ids.
        val_fraction: share of the tokens that is held out, in (0, 1).
        n_positions: the context, in tokens.
    Returns:
        (train, val): parts of it, each with a window's n_positions + 1 tokens or more.
    Raises:
        DataError: the text is too short for that.
    """
    n_train = len(tokens) - int(len(tokens) * val_fraction)
    train, val = tokens[:n_train], tokens[n_train:]
    for part, name in ((train, "to learn from"), (val, "held out")):
        if len(part) <= n_positions:
            raise DataError(f"the text is too short: {len(part)} of its {len(tokens)} tokens are "
                            f"{name} (val_fraction={val_fraction}), and a context of "
                            f"n_positions={n_positions} takes {n_positions + 1}")
    return train, val


def check_length(tokens, n_positions, name):
    """Hold tokens to the length of a window.

    Raises:
        DataError: naming the setting they come from.
    """
    if len(tokens) <= n_positions:
        raise DataError(f"{name}: the text is too short: it has {len(tokens)} tokens, and a "
                        f"context of n_positions={n_positions} takes {n_positions + 1}")


class TrainingBatches:
    """The endless sequence of training batches; each is a function of the seed and its index.

    The tokens are gone through in epochs. An epoch cuts them into windows at a random phase and
    takes every window once, in random order.
    """

    def __init__(self, tokens, batch_size, n_positions, seed):
        """Prepare to draw from tokens.

        Args:
            tokens: memoryview of n_positions + 1 tokens or more.
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
        tokens: memoryview of n_positions + 1 tokens or more.
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
    ids, targets = array("i"), array("i")
    for start in starts:
        window = array("i", tokens[start : start + T + 1].tolist())
        ids += window[:-1]
        targets += window[1:]
    return (memoryview(ids).cast("B").cast("i", shape),
            memoryview(targets).cast("B").cast("i", shape))
