"""Byte-level BPE by its definition: what the C functions of the same names must give.

Text becomes pieces, a piece becomes its bytes, and the bytes are merged, pair by pair, into tokens.
Everything works on bytes; bytes that are not UTF-8 count as characters of no class, one each.

Standard library only. Used by the tests, and by bpe.py when PYGPT_BACKEND is `reference`.
"""

import re
from collections import Counter
from functools import cache

from pygpt.tokenizer import unicode


@cache
def pattern() -> re.Pattern:
    """GPT-2's: contractions, or letters, numbers or others after at most one ' ', or spaces.

    A run of spaces leaves its last one to what follows. The classes are written out as ranges.
    """
    def members(*tables):
        return "".join(f"\\U{first:08x}-\\U{last:08x}"
                       for table in tables for first, last in unicode.ranges(table))

    letter, number, space = unicode.LETTERS, unicode.NUMBERS, unicode.SPACES
    return re.compile(rf"'(?:[stmd]|re|ve|ll)| ?[{members(letter)}]+| ?[{members(number)}]+"
                      rf"| ?[^{members(letter, number, space)}]+"
                      rf"|[{members(space)}]+(?![^{members(space)}])|[{members(space)}]+")


def split(data: bytes) -> list[bytes]:
    """The pieces of a text, in order; joined they are the text.

    Example: split(b"It's  2 more") == [b"It", b"'s", b" ", b" 2", b" more"]
    """
    text = data.decode("utf-8", "surrogateescape")
    return [piece.encode("utf-8", "surrogateescape") for piece in pattern().findall(text)]


def cut(data: bytes) -> int:
    """A place, 0..len(data), where a text may be cut whatever follows: see bpe_cut in pygpt.h."""
    text = data.decode("utf-8", "surrogateescape")
    classes = [unicode.classes()[ord(character)] for character in text]
    unfinished = re.search(
        rb"([\xc0-\xff]|[\xe0-\xff][\x80-\xbf]|[\xf0-\xff][\x80-\xbf][\x80-\xbf])\Z", data)
    if unfinished:  # a character whose class is not known yet
        del classes[-len(unfinished[0]):]
    for i in range(len(classes) - 1, 0, -1):
        left, right = classes[i - 1], classes[i]
        if left != right and (left in (unicode.LETTER, unicode.NUMBER) or right == unicode.SPACE):
            return len(text[:i].encode("utf-8", "surrogateescape"))
    return 0


class Codec:
    """Pieces to ids, by a vocabulary.

    Args:
        tokens: list of bytes, the token of each id; empty where no text may become it.
        merges: list of (left, right, result) ids, the first merged first.
    """

    def __init__(self, tokens, merges):
        self._byte_ids = {token[0]: index for index, token in enumerate(tokens) if len(token) == 1}
        self._merges = {(left, right): (rank, result)
                        for rank, (left, right, result) in reversed(list(enumerate(merges)))}

    def encode(self, data: bytes) -> list[int]:
        """The ids of a text."""
        ids = []
        for piece in split(data):
            ids += self._merge([self._byte_ids[byte] for byte in piece])
        return ids

    def _merge(self, ids):
        """Merge the neighbours of the lowest rank, of those the leftmost, until none are left."""
        nothing = (len(self._merges), None)
        while len(ids) > 1:
            ranked = [self._merges.get(pair, nothing) for pair in zip(ids, ids[1:])]
            rank, result = best = min(ranked)
            if result is None:
                break
            at = ranked.index(best)
            ids[at:at + 2] = [result]
        return ids


def count(data: bytes) -> dict[bytes, int]:
    """How often each piece of a text comes, in the order they first appear."""
    return dict(Counter(split(data)))


def train(counts: dict[bytes, int], n: int) -> list[tuple[int, int]]:
    """Learn up to n merges from pieces and their counts.

    The pair that comes most often becomes a token, then the next in the text so merged, and so on;
    of pairs as frequent, the one whose (left bytes, right bytes) is greater.

    Returns:
        (left, right) for each merge, 0..255 being the bytes and 256 + i what the i-th makes.
    """
    words = [(list(piece), weight) for piece, weight in counts.items() if weight]
    tokens = [bytes([byte]) for byte in range(256)]
    merges = []
    while len(merges) < n:
        pairs = Counter()
        for word, weight in words:
            for pair in zip(word, word[1:]):
                pairs[pair] += weight
        if not pairs:
            break
        left, right = max(pairs, key=lambda pair: (pairs[pair], *(tokens[i] for i in pair)))
        for word, _ in words:
            i = 0
            while i + 1 < len(word):
                if word[i] == left and word[i + 1] == right:
                    word[i:i + 2] = [len(tokens)]
                i += 1
        tokens.append(tokens[left] + tokens[right])
        merges.append((left, right))
    return merges
