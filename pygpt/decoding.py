"""Computes the next tokens' logits of texts that grow: the part of generation that the model does.

A text's keys and values are kept in a Cache, so that each new token costs the work of one position.
Several texts are rows of one cache. A step computes one token of each at once, in the time that it
takes to read the weights, and each as if it were alone:

    cache     row 0  | a b c d e |         read(row, ids)   the new ids of one text, any number
              row 1  | x y |               step(ids)        one new id of each text
              row 2  | p q r |

The kernel calls of a step are recorded the first time, and replayed from then on (replay.py). What
differs between steps, the ids and the numbers of past positions, lies in memory that they read.
"""

from __future__ import annotations

import itertools
import reprlib
from typing import TYPE_CHECKING, Any

from pygpt.autograd.forward_pass import PassSettings
from pygpt.autograd.ids import as_int32, named_bad_ids
from pygpt.autograd.launch import one_at_a_time
from pygpt.autograd.replay import Program, run
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor
from pygpt.backend.arguments import SEQUENCES, checked_parts, is_integer, shown
from pygpt.backend.kernels import IdRangeError, Memory, lib
from pygpt.parameters import last_placed

if TYPE_CHECKING:
    from collections.abc import Sequence

# The most texts of one pass. A row's products have the same bits for up to this many rows, and from
# about this many on, computing takes most of the time, not reading the weights.
MOST_TOGETHER = lib.PYGPT_FEW_ROWS


class Cache:
    """Holds the keys and values of the earlier positions of some texts.

    Between two calls the model's weights may change and move, but not its modules and settings:
    the steps would go on as they were recorded, unless forget_outdated_steps() is called in
    between.

    Args:
        model: a GPT.
        rows: the number of texts, at least 1.
        length: the most positions of a text, 1..n_positions; None: n_positions.

    Attributes:
        rows, length: the same.
        pasts: the number of positions of each text, 0..length, a memoryview.
    """

    def __init__(self, model: Any, rows: int = 1, length: int | None = None) -> None:
        most = checked_parts("model", model, "a model", "config").config.n_positions
        length = most if length is None else length
        if not (is_integer(rows) and is_integer(length) and 1 <= length <= most and rows >= 1):
            raise ValueError(f"rows={shown(rows)}, length={shown(length)}: a cache has at least "
                             f"one text and one position, and at most n_positions={most}")
        self.rows, self.length = rows, length
        self._model, self._layers = model, []
        self._steps, self._dependencies = {}, model.step_dependencies()
        self._past = Tensor.empty((rows,), "i", memory=Memory(4 * rows))
        self.pasts = self._past.flat()
        for row in range(rows):
            self.pasts[row] = 0

    def __repr__(self) -> str:
        return (f"Cache(rows={self.rows}, length={self.length}, "
                f"pasts={reprlib.repr(list(self.pasts))})")

    @property
    def model(self) -> Any:
        """The model whose keys and values it holds."""
        return self._model

    @property
    def past(self) -> int:
        """The number of positions of the first text, 0..length."""
        return self.pasts[0]

    def read(self, row: int, ids: Sequence[int]) -> Tensor:
        """Continue a text with new ids; return the logits (V,) after the last of them.

        Args:
            row: the text's number, 0..rows-1.
            ids: a list, tuple, range or array of ints.
        Raises:
            ValueError: ids is empty, an id is out of range, or they do not fit into the cache.
        """
        self._check_row(row)
        ids = checked_ids(ids)
        if self.rows == 1 and len(ids) == 1:
            return self.step(ids)[0]
        _, T, data = as_int32("ids", [ids], self._model.config.n_positions)
        self._refuse_if_full(self.pasts[row:row + 1], T)
        tensor = Tensor.empty((1, T), "i", memory=Memory(4 * T))
        tensor.memory.view[:] = data
        logits = self._compute(tensor, CacheRows(self, row, 1))
        self.pasts[row] += T
        return logits.row(0)

    def step(self, ids: Sequence[int]) -> list[Tensor]:
        """Continue each of the first texts with one new id.

        Args:
            ids: as for read, one for each text, at most `rows`.
        Returns:
            The logits of each, a list of tensors (V,), in memory that the next step overwrites.
        Raises:
            ValueError: as of read.
        """
        ids = checked_ids(ids)
        if not 1 <= len(ids) <= self.rows:
            raise ValueError(f"{len(ids)} ids for a cache of {self.rows} texts")
        self._refuse_if_full(self.pasts[:len(ids)], 1)
        logits = []
        for first in range(0, len(ids), MOST_TOGETHER):
            part = ids[first:first + MOST_TOGETHER]
            key = first, len(part)
            if key not in self._steps:
                if len(self._steps) == MOST_TOGETHER + self.rows // MOST_TOGETHER:
                    self._steps.pop(next(iter(self._steps)))  # the one that was made first
                self._steps[key] = _Step(*key, self._dependencies is not None)
            logits += self._steps[key].run(self, part)
        for row in range(len(ids)):
            self.pasts[row] += 1
        return logits

    def forget_outdated_steps(self) -> None:
        """Forget the recorded steps if the model's modules or settings have changed."""
        found = self._model.step_dependencies()
        if found is None or found != self._dependencies:
            self._steps, self._dependencies = {}, found

    def forget(self, row: int) -> None:
        """Begin the text of a row anew."""
        self._check_row(row)
        self.pasts[row] = 0

    def move(self, source: int, target: int, past: int | None = None) -> None:
        """Put a copy of the text of row `source` into row `target`.

        Args:
            past: the number of its first positions to copy, 0..length; None: all it has. A row
                keeps the positions of a text that it held until others take their place, so they
                may be more than it has.
        """
        self._check_row(source)
        self._check_row(target)
        past, (_, P, C) = self.pasts[source] if past is None else past, self._shape()
        if not is_integer(past) or not 0 <= past <= self.length:
            raise ValueError(f"past={shown(past)} is not in 0..{self.length}, the cache's length")
        for tensor in itertools.chain(*self._layers) if source != target else ():
            values = tensor.flat().cast("B")
            start, end = (4 * row * P * C for row in (source, target))
            values[end:end + 4 * past * C] = values[start:start + 4 * past * C]
        self.pasts[target] = past

    def _shape(self):
        return self.rows, self.length, self._model.config.n_embd

    def layer(self, i: int) -> tuple[Tensor, ...]:
        """Return (keys, values) of layer i, each (rows, length, C)."""
        if i == len(self._layers):
            self._layers.append(tuple(
                Tensor.empty(self._shape(), memory=Memory(4 * self.rows * self.length
                                                          * self._model.config.n_embd))
                for _ in ("keys", "values")))
        return self._layers[i]

    def _check_row(self, row):
        if not (is_integer(row) and 0 <= row < self.rows):
            raise ValueError(f"row={shown(row)} is not a text of a cache of {self.rows} texts, "
                             f"0..{self.rows - 1}")

    def _refuse_if_full(self, pasts, new):
        for past in pasts:
            if past + new > self.length:
                limit = ("n_positions" if self.length == self._model.config.n_positions
                         else "the cache's length")
                raise ValueError(f"{past} + {new} positions are more than {limit}={self.length}")

    @one_at_a_time
    def _compute(self, ids, rows):
        """Return the logits (B, V) after the last of ids (B, T)."""
        model = self._model
        with (no_grad(), named_bad_ids(model.config.vocab_size, ids),
              PassSettings(cache=rows, compute_dtype=model.compute_dtype)):
            return model.last_logits(ids)


def checked_ids(ids):
    """Return a list of the ids of a text; raise ValueError if they are no list."""
    if not isinstance(ids, SEQUENCES) or bool in set(map(type, ids)):
        raise ValueError(f"ids={shown(ids)} is not a list of ids")
    return [*ids]


class CacheRows:
    """Some consecutive rows of a Cache, for one forward pass.

    Attributes:
        past: the numbers of past positions, an int32 tensor (count,).
    """

    def __init__(self, cache, first, count):
        self._cache, self._first, self._count, self._next = cache, first, count, 0
        self.past = Tensor.empty((count,), "i", cache._past.memory, 4 * first)

    def next_layer(self):
        """Return (keys, values, past) of the next layer in this pass, of these rows."""
        tensors, self._next = self._cache.layer(self._next), self._next + 1
        _, P, C = tensors[0].shape
        return (*(Tensor.empty((self._count, P, C), memory=t.memory,
                               offset=4 * self._first * P * C) for t in tensors), self.past)


class _Step:
    """One step of n texts of a cache, from row `first` on, whose kernel calls are recorded once if
    is_recorded is true. It does not hold the cache, which holds it."""

    def __init__(self, first, n, is_recorded):
        self._first, self._n, self._is_recorded = first, n, is_recorded
        self._ids = Tensor.empty((n, 1), "i", memory=Memory(4 * n))
        self._flat_ids = self._ids.flat()
        self._program = self._logits = self._placed = None

    @one_at_a_time
    def run(self, cache, ids):
        """Return the logits after one new id of each text, a list of n tensors (V,)."""
        try:
            for i, token in enumerate(ids):
                self._flat_ids[i] = token
        except (TypeError, ValueError):
            as_int32("ids", [[token] for token in ids], 1)  # raises the error that names the id
            raise
        if (self._program is None or self._program.pool.is_touched
                or self._placed != last_placed()):
            placed, self._program = last_placed(), None  # an outdated program is never run again
            program = Program() if self._is_recorded else None
            with program.record_forward() if program else no_grad():
                logits = cache._compute(self._ids, CacheRows(cache, self._first, self._n))
            self._logits = [logits.row(i) for i in range(self._n)]
            self._program, self._placed = program, placed
            return self._logits
        try:
            run(self._program.forward)
        except IdRangeError:
            with named_bad_ids(cache._model.config.vocab_size, self._ids):
                raise
        return self._logits
