"""Text on its way to a tokenizer: into bytes, past special tokens, in parts when it is long.

Standard library only. Used by bpe.py and simple.py.
"""

import os
import re
from functools import lru_cache
from heapq import heapify, heappop, heapreplace
from itertools import groupby

BLOCK = 1 << 16  # characters or bytes that are worth a call
_MOST_NESTED = 20  # groups in a pattern of special tokens; some hundred end Python's recursion


def utf8(text: str) -> bytes:
    """The bytes of a text; two surrogates that make a character do so, a lone one is U+FFFD."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        repaired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return repaired.encode("utf-8")


class SpecialTokenError(ValueError):
    """A text holds a special token that it must not hold.

    Attributes:
        token, position: the token, and where it begins, in characters.
    """

    def __init__(self, token, position):
        super().__init__(
            f"the text holds the special token {token!r} at position {position}, which is not "
            f"allowed: pass allowed_special={{{token!r}}} to encode it as that token, "
            "disallowed_special=() to encode it as ordinary text, or take it out of the text")
        self.token, self.position = token, position


class SpecialTokens:
    """Finds the special tokens in a text: of those that begin at one place, the longest.

    Args:
        allowed: the strings that are tokens.
        forbidden: the strings that must not occur, unless inside a longer one that is allowed.
    """

    def __init__(self, allowed, forbidden=()):
        self._forbidden = frozenset(forbidden)
        names = self._forbidden.union(allowed)
        self._patterns = _patterns(names)
        self.longest = max(map(len, names), default=1)  # in characters

    def matches(self, text: str):
        """Find the tokens in a text, each after the end of the one before it.

        No character is looked at twice for the tokens that begin with one character, save those
        of a beginning that is no token, so the time grows with the length of the text alone.

        Yields:
            (start, token), in order.
        """
        ends = 0  # of the last token
        nearest = [(match.start(), i, match[0]) for i, pattern in enumerate(self._patterns)
                   if (match := pattern.search(text))]
        heapify(nearest)
        while nearest:
            start, i, token = nearest[0]
            if start >= ends:
                yield start, token
                ends = start + len(token)
            if match := self._patterns[i].search(text, ends):
                heapreplace(nearest, (match.start(), i, match[0]))
            else:
                heappop(nearest)

    def require_allowed(self, token: str, position: int):
        """Refuse a forbidden token, found at a position in characters.

        Raises:
            SpecialTokenError: with the three ways out.
        """
        if token in self._forbidden:
            raise SpecialTokenError(token, position)


@lru_cache(maxsize=64)
def _patterns(names):
    """A pattern for each character that names begin with: a literal beginning is found fastest."""
    return tuple(re.compile(_longest_of(list(group), _MOST_NESTED))
                 for _, group in groupby(sorted(names), key=lambda name: name[:1]))


def _longest_of(names, nested):
    """A regular expression of sorted names that begin alike; the longest one counts.

    It is a tree of common beginnings, so that hundreds of names cost little more than one.
    """
    prefix = os.path.commonprefix([names[0], names[-1]])
    rests = [name[len(prefix):] for name in names]
    if not nested or len(names) == 1:
        branches = map(re.escape, sorted(rests, key=len, reverse=True))
    else:
        branches = [_longest_of(list(group), nested - 1)
                    for first, group in groupby(rests, key=lambda rest: rest[:1]) if first]
        branches += [""] * ("" in rests)  # the last one, for it is the shortest
    return f"{re.escape(prefix)}(?:{'|'.join(branches)})"


def parts(chunks, special: SpecialTokens, cut, block: int = BLOCK):
    """Part a text at its special tokens, and where it may be cut, in bounded memory.

    Args:
        chunks: iterable of str, which are the text when joined.
        special: what to look for.
        cut: a function of bytes, see bpe_cut in pygpt.h.
        block: the number of bytes that a part of ordinary text should have at least.
    Yields:
        bytes for ordinary text and str for a special token, in order. Memory grows with a chunk,
        and with the longest stretch of text that has no place to be cut.
    Raises:
        ValueError: a forbidden token was found.
    """
    held, position = "", 0  # text that was not searched to its end, and where it begins
    ordinary, size, wanted = [], 0, block
    for text, is_last in _joined(chunks, max(block, special.longest)):
        held += text
        # From here on, the beginning of a special token may be waiting for its end.
        certain = len(held) if is_last else max(0, len(held) - special.longest + 1)
        start = 0
        for place, token in special.matches(held):
            if place >= certain and not is_last:
                break
            special.require_allowed(token, position + place)
            ordinary.append(utf8(held[start:place]))
            yield from filter(None, [b"".join(ordinary)])
            yield token
            ordinary, size, wanted, start = [], 0, block, place + len(token)
        end = max(start, certain)
        if not is_last and end > start and "\ud800" <= held[end - 1] <= "\udbff":
            end -= 1  # half a character
        data = utf8(held[start:end])
        ordinary.append(data)
        size += len(data)
        held, position = held[end:], position + end
        if is_last or size >= wanted:
            data = b"".join(ordinary)
            place = len(data) if is_last else cut(data)
            yield from filter(None, [data[:place]])
            ordinary, size = [data[place:]], len(data) - place
            wanted = max(block, 2 * size)  # a cut that was not found is not looked for at once


def _joined(chunks, size):
    """(text, is_last): chunks put together to `size` characters or more, but for the last."""
    waiting, length = [], 0
    for chunk in chunks:
        waiting.append(chunk)
        length += len(chunk)
        if length >= size:
            yield "".join(waiting), False
            waiting, length = [], 0
    yield "".join(waiting), True
