"""Chooses a token from a model's logits, and tells the logarithms of probabilities.

A sampler is any object with a method choose(logits, ids), as Sampler has it; generate.stream takes
one. It serves one sequence:

    class Likeliest:
        def choose(self, logits, ids):
            return max(range(len(logits)), key=logits.__getitem__)

The kernels sample_* do the work (csrc/sample.c), and with PYGPT_BACKEND=reference their loops.
"""

import random
from array import array
from collections import namedtuple

from pygpt.backend.kernels import Memory, check_status, lib

# A token, the logarithm of its probability, and [(token, logarithm)] of the likeliest ones.
Choice = namedtuple("Choice", "token logprob best")


class Sampler:
    """Draws the tokens of one sequence as a SampleConfig says, which documents the rules.

    A draw is a function of the logits, the ids, the settings and the number of draws before.

    Args:
        settings: a SampleConfig.
    """

    def __init__(self, settings):
        self.settings = settings
        self._random = random.Random(settings.seed)
        self._seen = _Occurrences()
        self._adjusted = array("f")

    def choose(self, logits, ids):
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
        s, V = self.settings, len(logits)
        if len(self._adjusted) != V:
            self._adjusted = array("f", bytes(4 * V))
        penalties = s.repetition_penalty, s.presence_penalty, s.frequency_penalty
        if penalties != (1.0, 0.0, 0.0):
            self._seen.update(ids, V)
        seen, counts = self._seen.ids, self._seen.counts
        biased = array("i", [token for token, _ in s.logit_bias if token < V])
        biases = array("d", [bias for token, bias in s.logit_bias if token < V])
        _call(lib.sample_adjust, self._adjusted, logits, biased, biases, seen, counts,
              V, len(biased), len(seen), *penalties)
        token, u = array("i", [0]), self._random.random() if s.temperature else 0.0
        _call(lib.sample_token, token, self._adjusted, V, s.temperature, min(s.top_k, V), s.top_p,
              s.min_p, u)
        return token[0]


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
        known, self._length = self._length, len(ids)
        if known is not None and len(ids) < known:
            raise ValueError(f"a Sampler serves one sequence: {len(ids)} ids follow {known}")
        for token in ids[known or 0:]:
            if token < V:
                place = self._places.setdefault(token, len(self.ids))
                if place == len(self.ids):
                    self.ids.append(token)
                    self.counts.append(0)
                self.counts[place] += known is not None


def choice_of(token, logits, n):
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
    n = min(n, len(logits))
    best, lse = array("i", bytes(4 * n)), array("d", [0.0])
    _call(lib.sample_best, best, lse, logits, len(logits), n)
    return Choice(token, logits[token] - lse[0], [(id, logits[id] - lse[0]) for id in best])


def _call(kernel, *arguments):
    """Call a kernel. Its arguments are numbers, and buffers of the types that it takes."""
    def passed(argument):
        if isinstance(argument, (int, float)):
            return argument
        view = memoryview(argument)
        held.append(Memory(view.nbytes, view))
        return held[-1].pointer(view.format)

    held = []  # keeps the addresses valid until the kernel returns
    status = kernel(*map(passed, arguments))
    if status == lib.PYGPT_ENOTFINITE:
        raise ValueError("the model's logits are not finite")
    if status == lib.PYGPT_ENOTOKEN:
        raise ValueError("logit_bias bans all tokens that could be drawn")
    check_status(status)
