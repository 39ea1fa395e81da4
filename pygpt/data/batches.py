"""Turns tokens into batches: holds a part out for validation and cuts windows of tokens.

    window    t0 t1 t2 ... tT                 T + 1 consecutive tokens, where T is n_positions
    input     t0 t1 ... t(T-1)                all but the last
    targets      t1 t2 ... tT                 all but the first

The tokens may be a mapped file of any size; a batch reads only its own windows.
"""

import random
from array import array

from pygpt.data.corpus import DataError


def split(tokens, val_fraction, n_positions):
    """Split the tokens of a text: the end is held out, the rest is learned from.

    Args:
        tokens: memoryview of token ids.
        val_fraction: the share of the tokens that is held out, in (0, 1).
        n_positions: the context, in tokens.
    Returns:
        (train, val): views of tokens; each holds at least one window, n_positions + 1 tokens.
    Raises:
        DataError: the text is too short for two such parts.
    """
    n_train = len(tokens) - int(len(tokens) * val_fraction)
    train, val = tokens[:n_train], tokens[n_train:]
    for part, name in ((train, "to learn from"), (val, "held out")):
        check_length(part, n_positions, f"the text is too short: {len(part)} of its {len(tokens)} "
                     f"tokens are {name} (val_fraction={val_fraction})")
    return train, val


def check_length(tokens, n_positions, sentence):
    """Refuse tokens that are fewer than one window.

    Raises:
        DataError: there are too few; the message begins with `sentence`.
    """
    if len(tokens) <= n_positions:
        raise DataError(f"{sentence}, and a context of n_positions={n_positions} takes "
                        f"{n_positions + 1}")


class TrainingBatches:
    """Gives an endless sequence of training batches; each depends only on the seed and its index.

    One epoch is one pass over the tokens: it cuts them into windows that begin at a random phase,
    and takes every window once, in random order.
    """

    def __init__(self, tokens, batch_size, n_positions, seed):
        """Prepare to draw batches from tokens.

        Args:
            tokens: memoryview of at least n_positions + 1 token ids.
            batch_size: B, the windows of a batch.
            n_positions: T, the input tokens of a window.
            seed: int.
        """
        self._tokens, self._shape, self._seed = tokens, (batch_size, n_positions), seed
        # one window fewer than would fit, so that every phase leaves the same number of windows
        self._n_windows = max(1, (len(tokens) - n_positions) // n_positions)
        self._epoch = None, None

    def __getitem__(self, index):
        """Return batch `index`, from 0: (ids, targets), int32 memoryviews of shape (B, T)."""
        B = self._shape[0]
        first = index * B
        return _batch(self._tokens, map(self._start, range(first, first + B)), self._shape)

    def _start(self, position):
        """Return the index of a window's first token; position counts windows of all epochs."""
        epoch, place = divmod(position, self._n_windows)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._shuffled_starts(epoch)
        return self._epoch[1][place]

    def _shuffled_starts(self, epoch):
        """Return the index of each window's first token, in the order of use in an epoch."""
        T = self._shape[1]
        rng = random.Random(f"{self._seed}/{epoch}")  # a str seeds alike on every machine
        phase = rng.randrange(len(self._tokens) - self._n_windows * T)
        starts = array("q", range(phase, phase + self._n_windows * T, T))
        rng.shuffle(starts)
        return starts


def validation_batches(tokens, batch_size, n_positions, max_batches):
    """Return the batches to validate on: windows spread evenly over the tokens, always the same.

    Args:
        tokens: memoryview of at least n_positions + 1 token ids.
        batch_size: B.
        n_positions: T.
        max_batches: the number of batches, unless the tokens hold fewer.
    Returns:
        A list of (ids, targets), int32 memoryviews of shape (B, T). There is at least one batch;
        its windows overlap when the tokens are too few to fill it.
    """
    last_start = len(tokens) - n_positions - 1
    n_batches = min(max_batches, max(1, (last_start // n_positions + 1) // batch_size))
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
