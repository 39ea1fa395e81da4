"""Computes byte-level BPE (byte pair encoding) by its definition; bpe_c.py gives the same results.

    split    a text into pieces, which no token crosses
    train    learn merges: join the most frequent pair of neighbours, again and again
    Codec    encode: join the pairs of a text in the order in which they were learned

An example by hand: learn four merges from "low lower lowest".

    pieces     l o w     ␣ l o w e r     ␣ l o w e s t            (␣ is a space)
    round 1    o w and l o both come 3 times. Of equals, the greater pair in byte order is
               joined, and o > l:        256 = "ow"
    round 2    l ow comes 3 times:       257 = "low"
    round 3    low e and ␣ low come twice, and l > ␣:    258 = "lowe"
    round 4    ␣ lowe comes twice:       259 = " lowe"

    encode "slowest"    s l o w e s t    one id a byte
                        s l ow e s t     256 was learned first, so it is joined first
                        s low e s t      257
                        s lowe s t       258; 259 needs a space, so nothing is left to join
    gives the ids 115, 258, 115, 116.

Everything works on bytes. A byte that is not part of valid UTF-8 counts as one character, which
is neither a letter nor a number nor a space.
"""

import re
from collections import Counter
from functools import cache

from pygpt.tokenizer import unicode


@cache
def pattern() -> re.Pattern:
    """Return the pattern of a piece, which is GPT-2's.

    A piece is the end of a contraction ('s, 'll), or a run of letters, of numbers or of other
    characters with at most one ' ' before it, or a run of spaces. A run of spaces leaves its last
    one to the piece that follows. The classes are written out as ranges.
    """
    def members(*tables):
        return "".join(f"\\U{first:08x}-\\U{last:08x}"
                       for table in tables for first, last in unicode.ranges(table))

    letter, number, space = unicode.LETTERS, unicode.NUMBERS, unicode.SPACES
    return re.compile(rf"'(?:[stmd]|re|ve|ll)| ?[{members(letter)}]+| ?[{members(number)}]+"
                      rf"| ?[^{members(letter, number, space)}]+"
                      rf"|[{members(space)}]+(?![^{members(space)}])|[{members(space)}]+")


def split(data: bytes) -> list[bytes]:
    """Cut a text into its pieces; joined they are the text.

    Example: split(b"It's  2 more") == [b"It", b"'s", b" ", b" 2", b" more"]
    """
    text = data.decode("utf-8", "surrogateescape")
    return [piece.encode("utf-8", "surrogateescape") for piece in pattern().findall(text)]


def last_boundary(data: bytes) -> int:
    """Return the last offset at which data can be divided so that each part is split by itself.

    The pieces of data[:offset] and those of the rest, with any text added at its end, are together
    the pieces of the whole. The offset is 0 when the classes of two neighbours show no such place.

    Example: last_boundary(b"one two three") == len(b"one two"); "three" may go on.
    """
    text = data.decode("utf-8", "surrogateescape")
    classes = [unicode.classes()[ord(character)] for character in text]
    incomplete = re.search(
        rb"([\xc0-\xff]|[\xe0-\xff][\x80-\xbf]|[\xf0-\xff][\x80-\xbf][\x80-\xbf])\Z", data)
    if incomplete:  # a character whose class is not known until its other bytes arrive
        del classes[-len(incomplete[0]):]
    for i in range(len(classes) - 1, 0, -1):
        left, right = classes[i - 1], classes[i]
        if left != right and (left in (unicode.LETTER, unicode.NUMBER) or right == unicode.SPACE):
            return len(text[:i].encode("utf-8", "surrogateescape"))
    return 0


class Codec:
    """Encodes text with a vocabulary.

    Args:
        tokens: list of bytes, the token of each id; empty for an id that no text is encoded to.
        merges: list of (left, right, result) ids, in the order in which they were learned.
    """

    def __init__(self, tokens, merges):
        self._byte_ids = {token[0]: index for index, token in enumerate(tokens) if len(token) == 1}
        self._merges = {(left, right): (rank, result)
                        for rank, (left, right, result) in reversed(list(enumerate(merges)))}

    def encode(self, data: bytes) -> list[int]:
        """Return the ids of a text."""
        ids = []
        for piece in split(data):
            ids += self._merge([self._byte_ids[byte] for byte in piece])
        return ids

    def _merge(self, ids):
        """Join the pair that was learned first, at its leftmost place, until no pair is known."""
        unknown = (len(self._merges), None)  # ranks behind every merge
        while len(ids) > 1:
            ranked = [self._merges.get(pair, unknown) for pair in zip(ids, ids[1:])]
            rank, result = best = min(ranked)
            if result is None:
                break
            at = ranked.index(best)
            ids[at:at + 2] = [result]
        return ids


def count(data: bytes) -> dict[bytes, int]:
    """Count the pieces of a text; the dict has them in the order of their first appearance."""
    return dict(Counter(split(data)))


def train(counts: dict[bytes, int], n: int) -> list[tuple[int, int]]:
    """Learn up to n merges from pieces and their counts.

    Each round joins the most frequent pair of neighbours everywhere; of equally frequent pairs, the
    one whose (left bytes, right bytes) is greater. It ends early when no pair is left.

    Returns:
        The (left, right) ids of each merge; 0..255 are the bytes, and merge i makes the id 256 + i.
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
