"""Prepares text for a tokenizer: encodes it as UTF-8, finds its special tokens, divides long text.

    parts(["one two<|endof", "text|>three"], ...)   gives   b"one two", "<|endoftext|>", b"three"
"""

import os
import re
from functools import lru_cache
from itertools import groupby

from pygpt.backend.arguments import shown

BLOCK = 1 << 16  # characters or bytes of a part: enough for the cost of a call not to matter
_MOST_NESTED = 20  # groups in a pattern of special tokens; a few hundred exceed Python's recursion


def utf8(text: str) -> bytes:
    """Encode a text as UTF-8: a pair of surrogates is one character, a lone one becomes U+FFFD."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        repaired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return repaired.encode("utf-8")


class SpecialTokenError(ValueError):
    """Says that a text holds a special token that is not allowed in it.

    Attributes:
        token, position: the token, and the position in characters at which it begins.
    """

    def __init__(self, token, position):
        super().__init__(
            f"the text holds the special token {shown(token)} at position {position}, which is not "
            f"allowed: pass allowed_special={{{shown(token)}}} to encode it as that token, "
            "disallowed_special=() to encode it as ordinary text, or take it out of the text")
        self.token, self.position = token, position


class SpecialTokens:
    """Finds the special tokens in a text: where several begin at one position, the longest.

    Args:
        allowed: the strings that are tokens.
        forbidden: the strings that must not occur, unless inside a longer one that is allowed.

    Attributes:
        forbidden: as given.
        longest: the length of the longest of all these strings, in characters.
    """

    def __init__(self, allowed, forbidden=()):
        self.forbidden = frozenset(forbidden)
        names = self.forbidden.union(allowed)
        self._pattern = _pattern(names)
        self.longest = max(map(len, names), default=1)

    def matches(self, text: str):
        """Find the tokens in a text; each begins after the end of the one before it.

        Yields:
            (start, token), in order.
        """
        for match in self._pattern.finditer(text):
            yield match.start(), match[0]


@lru_cache(maxsize=64)
def _pattern(names):
    """Return the pattern of a set of names; without a name, the pattern that never matches."""
    return re.compile(_longest_of(sorted(names), _MOST_NESTED) if names else "(?!)")


def _longest_of(names, nested):
    """Return a regular expression that matches the longest of sorted names.

    It is a tree of common prefixes, so that hundreds of names cost little more than one.
    """
    prefix = os.path.commonprefix([names[0], names[-1]])
    rests = [name[len(prefix):] for name in names]
    if not nested or len(names) == 1:
        branches = map(re.escape, sorted(rests, key=len, reverse=True))
    else:
        branches = [_longest_of(list(group), nested - 1)
                    for first, group in groupby(rests, key=lambda rest: rest[:1]) if first]
        branches += [""] * ("" in rests)  # last, because it is the shortest
    return f"{re.escape(prefix)}(?:{'|'.join(branches)})"


def parts(chunks, special: SpecialTokens, last_boundary, block: int = BLOCK):
    """Divide a text at its special tokens and, where it is long, at boundaries between pieces.

    Args:
        chunks: iterable of str; joined, they are the text.
        special: the tokens to find.
        last_boundary: bpe_python.last_boundary or bpe_c.last_boundary.
        block: the least number of bytes in a part of ordinary text, if the text has that many.
    Yields:
        bytes for ordinary text and str for a special token, in order. The memory in use grows with
        the length of a chunk, and of the longest stretch of text without a boundary.
    Raises:
        SpecialTokenError: the text holds a forbidden token.
    """
    held, position = "", 0  # text that was not searched to its end, and its position
    ordinary, wanted = bytearray(), block  # a boundary is searched for in `wanted` bytes or more
    for text, is_last in _joined(chunks, max(block, special.longest)):
        held += text
        # A special token that begins after this may be incomplete.
        certain = len(held) if is_last else max(0, len(held) - special.longest + 1)
        start = 0
        for place, token in special.matches(held):
            if place >= certain and not is_last:
                break
            if token in special.forbidden:
                raise SpecialTokenError(token, position + place)
            ordinary += utf8(held[start:place])
            yield from filter(None, [bytes(ordinary)])
            yield token
            ordinary, wanted, start = bytearray(), block, place + len(token)
        end = max(start, certain)
        if not is_last and end > start and "\ud800" <= held[end - 1] <= "\udbff":
            end -= 1  # half a character, whose other half follows
        ordinary += utf8(held[start:end])
        held, position = held[end:], position + end
        if is_last or len(ordinary) >= wanted:
            data = bytes(ordinary)
            place = len(data) if is_last else last_boundary(data)
            yield from filter(None, [data[:place]])
            ordinary = bytearray(data[place:])
            wanted = max(block, 2 * len(ordinary))  # without a boundary, wait for twice the text


def _joined(chunks, size):
    """Yield (text, is_last): the chunks, joined to `size` characters or more except the last."""
    waiting, length = [], 0
    for chunk in chunks:
        waiting.append(chunk)
        length += len(chunk)
        if length >= size:
            yield "".join(waiting), False
            waiting, length = [], 0
    yield "".join(waiting), True
