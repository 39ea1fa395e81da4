"""Computes byte-level BPE in the C library: the functions of bpe_python.py, with the same results.

bpe_python.py defines them; the contracts of the C functions are in csrc/pygpt.h.
"""

from array import array
from itertools import accumulate

from pygpt.backend.kernels import check_status, ffi, lib
from pygpt.tokenizer import unicode

# Memory for C to fill. It is not cleared, so pages that C does not write take no physical memory.
_new = ffi.new_allocator(should_clear_after_alloc=False)


def _bytes(data):
    return ffi.from_buffer("uint8_t[]", data)


def _classes():
    return _bytes(unicode.classes())


def split(data: bytes) -> list[bytes]:
    """Cut a text into its pieces, as bpe_python.split."""
    ends, n = _new("int64_t[]", len(data)), ffi.new("int64_t *")
    check_status(lib.bpe_split(ends, n, _bytes(data), _classes(), len(data)))
    ends = ffi.unpack(ends, n[0])
    return [data[start:end] for start, end in zip([0, *ends], ends)]


def last_boundary(data: bytes) -> int:
    """Return the last offset at which data can be divided, as bpe_python.last_boundary."""
    place = ffi.new("int64_t *")
    check_status(lib.bpe_last_boundary(place, _bytes(data), _classes(), len(data)))
    return place[0]


class Codec:
    """Encodes text with a vocabulary, as bpe_python.Codec."""

    def __init__(self, tokens, merges):
        data = b"".join(tokens)
        ends = array("q", accumulate(map(len, tokens)))
        flat = array("i", (index for merge in merges for index in merge))
        size = lib.bpe_table_size(len(tokens), len(merges), len(data))
        self._table = _new("uint64_t[]", (size + 7) // 8)
        self._classes = _classes()
        check_status(lib.bpe_table_init(
            self._table, _bytes(data), ffi.from_buffer("int64_t[]", ends),
            ffi.from_buffer("int32_t[]", flat), len(tokens), len(merges)))

    def encode(self, data: bytes) -> list[int]:
        """Return the ids of a text in one call of C; text.parts divides a long text before."""
        ids, n = _new("int32_t[]", len(data)), ffi.new("int64_t *")
        check_status(lib.bpe_encode(ids, n, _bytes(data), self._classes, self._table, len(data)))
        return ffi.unpack(ids, n[0])


def count(data: bytes) -> dict[bytes, int]:
    """Count the pieces of a text, as bpe_python.count."""
    starts, ends, counts = (_new("int64_t[]", len(data)) for _ in range(3))
    n = ffi.new("int64_t *")
    check_status(lib.bpe_count(starts, ends, counts, n, _bytes(data), _classes(), len(data)))
    return {data[start:end]: times for start, end, times in
            zip(ffi.unpack(starts, n[0]), ffi.unpack(ends, n[0]), ffi.unpack(counts, n[0]))}


def train(counts: dict[bytes, int], n: int) -> list[tuple[int, int]]:
    """Learn up to n merges from pieces and their counts, as bpe_python.train."""
    data = b"".join(counts)
    if len(data) >= 1 << 29:
        raise ValueError(f"the different words of the text have {len(data)} bytes; at most half a "
                         "gigabyte can be learned from")
    n = min(n, len(data))
    ends, weights = array("q", accumulate(map(len, counts))), array("q", counts.values())
    merges, done = _new("int32_t[]", 2 * n), ffi.new("int64_t *")
    check_status(lib.bpe_train(
        merges, done, _bytes(data), ffi.from_buffer("int64_t[]", ends),
        ffi.from_buffer("int64_t[]", weights), len(counts), n))
    flat = ffi.unpack(merges, 2 * done[0])
    return list(zip(flat[::2], flat[1::2]))
