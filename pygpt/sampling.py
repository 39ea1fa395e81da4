"""Chooses a token from a model's logits, and tells the logarithms of probabilities.

A sampler is any object with a method choose(logits, ids), as Sampler has it; generate.stream takes
one. It serves one sequence:

    class Likeliest:
        def choose(self, logits, ids):
            return max(range(len(logits)), key=logits.__getitem__)

The kernels sample_* do the work (csrc/sample.c), and with PYGPT_BACKEND=reference their loops.
"""

from __future__ import annotations

import random
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from pygpt.backend.arguments import SEQUENCES, checked_parts, is_integer, shown
from pygpt.backend.kernels import ERANGE, Memory, check_status, lib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer


class Choice(NamedTuple):
    """A token, the logarithm of its probability, and [(token, logarithm)] of the likeliest ones."""

    token: int
    logprob: float
    best: list[tuple[int, float]]


class Sampler:
    """Draws the tokens of one sequence as a SampleConfig says, which documents the rules.

    A draw is a function of the logits, the ids, the settings and the number of draws before.

    Args:
        settings: a SampleConfig.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = s = checked_parts("settings", settings, "a SampleConfig", "seed",
                                          "repetition_penalty", "logit_bias", "temperature")
        self._random = random.Random(s.seed)
        self._seen = _Occurrences()
        self._penalties = s.repetition_penalty, s.presence_penalty, s.frequency_penalty
        self._buffers = None
        self._unused = None  # the random number of a draw that was refused

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_buffers": None}

    def choose(self, logits: Buffer, ids: Sequence[int]) -> int:
        """Choose the next token.

        Args:
            logits: a buffer of V float32, such as a memoryview; it is not changed. One of the ids
                0..V-1 is chosen.
            ids: the list of the ids before it: at the first call the prompt; at each further call
                the same, and after it the new ones.
        Returns:
            The token's id.
        Raises:
            ValueError: a logit is NaN or infinite, all tokens are banned, or there are fewer ids
                than at the last call.
        """
        logits = _numbers(logits)
        s, V, b = self.settings, len(logits), self._buffers
        if b is None or b.V != V:
            b = self._buffers = _Buffers(V, s.logit_bias, s.temperature, s.top_k, s.top_p, s.min_p)
        seen_at, counts_at, NS = b.nothing_at
        if self._penalties != (1.0, 0.0, 0.0):
            self._seen.update(ids, V)
            seen, counts, NS = self._seen.memories()
            seen_at, counts_at = seen.pointer("i"), counts.pointer("i")
        memory = Memory(logits.nbytes, logits)
        if self._unused is None and s.temperature:
            self._unused = self._random.random()
        status = (lib.sample_adjust(b.adjusted_at, memory.pointer("f"), *b.biases_at, seen_at,
                                    counts_at, V, b.NB, NS, *self._penalties)
                  or lib.sample_token(b.token_at, b.adjusted_at, V, *b.rules,
                                      self._unused if s.temperature else 0.0))
        if status == ERANGE:
            raise ValueError(f"logits: {V} numbers are fewer than at the calls before: a Sampler "
                             "serves one sequence")
        if status:
            _refuse(status)
        self._unused = None
        return b.token[0]


class _Buffers:
    """The arguments of a Sampler's kernels that are the same for all tokens.

    Args:
        V: the number of logits.
        logit_bias, temperature, top_k, top_p, min_p: as in a SampleConfig.
    Attributes:
        adjusted, token: memoryviews of what the kernels write.
        adjusted_at, token_at, biases_at: their addresses, and those of the NB biases and their ids.
        nothing_at: the addresses of no tokens that were seen and of their counts, and their number.
        rules: temperature, top_k, top_p and min_p.
    """

    def __init__(self, V, logit_bias, temperature, top_k, top_p, min_p):
        biases = [(token, bias) for token, bias in logit_bias if token < V]
        self.V, self.NB = V, len(biases)
        self._held = adjusted, token, nothing, ids, values = [
            Memory(4 * V), Memory(4), Memory(4), Memory(4 * self.NB + 4), Memory(8 * self.NB + 8)]
        for i, (id, bias) in enumerate(biases):
            ids.view.cast("i")[i], values.view.cast("d")[i] = id, bias
        self.adjusted, self.token = adjusted.view.cast("f"), token.view.cast("i")
        self.adjusted_at, self.token_at = adjusted.pointer("f"), token.pointer("i")
        self.biases_at = ids.pointer("i"), values.pointer("d")
        self.nothing_at = nothing.pointer("i"), nothing.pointer("i"), 0
        self.rules = temperature, min(top_k, V), top_p, min_p


class _Occurrences:
    """Counts how often each token of a sequence occurs after the prompt.

    Attributes:
        ids, counts: arrays of the different tokens of prompt and new text, and of their counts in
            the new text.
    """

    def __init__(self):
        self.ids, self.counts, self._places, self._length = array("i"), array("i"), {}, None

    def update(self, ids, V):
        """Count the ids that are new since the last call; the first call gives the prompt. Those
        that are not below V cannot be chosen and do not count."""
        if not isinstance(ids, SEQUENCES):
            raise TypeError(f"ids={shown(ids)} is not a list of ids")
        known, count = self._length, len(ids)
        if known is not None and count < known:
            raise ValueError(f"a Sampler serves one sequence: {count} ids follow {known}")
        new = [*ids[known or 0:]]
        for token in new:
            if not is_integer(token) or token < 0:
                raise ValueError(f"ids: {shown(token)} is not a token id")
        self._length = count
        for token in new:
            if token < V:
                place = self._places.setdefault(token, len(self.ids))
                if place == len(self.ids):
                    self.ids.append(token)
                    self.counts.append(0)
                self.counts[place] += known is not None

    def memories(self):
        """Return (ids, counts, their number) as memory of kernels, to be dropped before more tokens
        are counted."""
        return Memory(4 * len(self.ids), self.ids), Memory(4 * len(self.ids), self.counts), len(
            self.ids)


def choice_of(token: int, logits: memoryview, n: int) -> Choice:
    """Return a Choice: a token, and what the model itself said of it and of the likeliest ones.

    Probabilities are the softmax of the logits, before biases, penalties, temperature and all other
    rules, as OpenAI's API gives them.

    Args:
        token: an id below V.
        logits: a buffer of V float32.
        n: how many of the likeliest tokens to list, at least 0; likeliest first.
    Raises:
        ValueError: a logit is NaN or infinite.
    """
    logits = _numbers(logits)
    if not is_integer(token) or not 0 <= token < len(logits):
        raise ValueError(f"token={shown(token)} is not in 0..{len(logits) - 1}")
    if not is_integer(n) or n < 0:
        raise ValueError(f"n={shown(n)} is not a whole number of 0 or more")
    n = min(n, len(logits))
    best, lse = array("i", bytes(4 * n)), array("d", [0.0])
    _call(lib.sample_best, best, lse, logits, len(logits), n)
    return Choice(token, logits[token] - lse[0], [(id, logits[id] - lse[0]) for id in best])


def _numbers(logits):
    """Return the memoryview of a buffer of one or more float32 in one dimension."""
    try:
        view = memoryview(logits)
    except (TypeError, ValueError):  # a ValueError: a view that was released
        raise TypeError(f"logits={shown(logits)} is not a buffer of float32") from None
    if view.format != "f":
        raise TypeError(f"logits: a buffer of format {view.format!r} is not float32")
    if view.ndim != 1 or not view.c_contiguous or not len(view):
        raise ValueError(f"logits: a buffer of shape {view.shape} is not a row of one or more "
                         "numbers side by side")
    return view


def _call(kernel, *arguments):
    """Call a kernel. Its arguments are numbers, and buffers of the types that it takes."""
    def passed(argument):
        if isinstance(argument, (int, float)):
            return argument
        view = memoryview(argument)
        held.append(Memory(view.nbytes, view))
        return held[-1].pointer(view.format)

    held = []  # keeps the addresses valid until the kernel returns
    _refuse(kernel(*map(passed, arguments)))


def _refuse(status):
    """Raise the error that a kernel's status stands for; PYGPT_OK passes."""
    if status == lib.PYGPT_ENOTFINITE:
        raise ValueError("the model's logits are not finite")
    if status == lib.PYGPT_ENOTOKEN:
        raise ValueError("logit_bias bans all tokens that could be drawn")
    check_status(status)
