"""Tests byte-level BPE in C where it is rarely used: full tables, long pieces, damaged characters,
and what its functions refuse (csrc/pygpt.h)."""

import itertools
import random

import pytest

from pygpt.backend.kernels import ffi, lib
from pygpt.tokenizer import bpe_c, bpe_python

OK, ERANGE = 0, lib.PYGPT_ERANGE
BYTES = [bytes([byte]) for byte in range(256)]


def filled_table(tokens, merges):
    """Make a table; return the status of bpe_table_init."""
    ends, flat, at = [], [index for merge in merges for index in merge], 0
    for token in tokens:
        ends.append(at := at + len(token))
    size = lib.bpe_table_size(len(tokens), len(merges), at)
    table = ffi.new("uint64_t[]", (size + 7) // 8)
    return lib.bpe_table_init(table, b"".join(tokens), ends, flat, len(tokens), len(merges))


def test_more_different_pieces_than_a_table_holds_are_counted():
    """A table is at most half full: it grows for piece 2049 and for piece 8193."""
    words = [" " + "".join(letters)
             for letters in itertools.islice(itertools.product("abcdefghij", repeat=4), 9000)]
    counts = bpe_c.count("".join([*words, *reversed(words)]).encode())
    assert counts == dict.fromkeys(map(str.encode, words), 2)
    assert list(counts) == [word.encode() for word in words]


@pytest.mark.parametrize("words", [
    [b"abcdefgh", b"abcdefg", b"abcdefghi", b"abcdefghij"],     # one is the beginning of another
    [b"aaaaaaaaa", b"aaaaaaaaaa", b"aaaaaaaaaaaaaaaa", b"aaaaaaaa"],
    [b"\0" * n for n in range(1, 9)]])                          # whose keys are all 0
def test_tokens_that_begin_alike_are_told_apart(words):
    learned = bpe_python.train(dict.fromkeys(words, 1), 60)
    tokens = list(BYTES)
    for left, right in learned:
        tokens.append(tokens[left] + tokens[right])
    merges = [(*pair, 256 + i) for i, pair in enumerate(learned)]
    codec = bpe_c.Codec(tokens, merges)
    for word in words:
        for piece in (word, word + b"x", word[1:]):
            assert codec.encode(piece) == bpe_python.Codec(tokens, merges).encode(piece)


def test_a_pair_that_is_listed_again_is_ignored():
    tokens = [*BYTES, b"ab", b"AB"]
    assert bpe_c.Codec(tokens, [(97, 98, 256), (97, 98, 257)]).encode(b"ab") == [256]


@pytest.mark.parametrize("merge", [(-1, 0, 0), (0, 257, 0), (0, 0, 258), (0, -5, 1)])
def test_a_merge_of_an_unknown_id_is_refused(merge):
    tokens = [*BYTES, b"ab"]
    assert filled_table(tokens, [(97, 98, 256)]) == OK
    assert filled_table(tokens, [(97, 98, 256), merge]) == ERANGE


@pytest.mark.parametrize("missing", [0, 97, 255])
def test_a_vocabulary_without_one_of_the_bytes_is_refused(missing):
    tokens = [token if i != missing else b"xx" for i, token in enumerate(BYTES)]
    assert filled_table(tokens, []) == ERANGE
    assert filled_table([], []) == ERANGE


@pytest.mark.parametrize("sizes", [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (1 << 31, 0, 0),
                                   (0, 1 << 31, 0), (0, 0, (1 << 63) - 1)])
def test_a_table_that_is_too_large_has_no_size(sizes):
    assert lib.bpe_table_size(*sizes) == -1
    assert lib.bpe_table_size(256, 0, 256) > 0


def test_half_a_gigabyte_of_pieces_is_refused_before_any_is_read():
    done = ffi.new("int64_t *", 7)
    assert lib.bpe_train(ffi.NULL, done, ffi.NULL, [1 << 29], [1], 1, 0) == ERANGE
    assert done[0] == 0


@pytest.mark.parametrize("pieces, M", [([], 5), ([b"ab"], -1000)])
def test_nothing_is_learned_from_nothing(pieces, M):
    done, merges = ffi.new("int64_t *", 7), ffi.new("int32_t[]", 4)
    ends = [len(piece) for piece in pieces]
    assert lib.bpe_train(merges, done, b"".join(pieces), ends, [1] * len(ends), len(ends), M) == OK
    assert done[0] == 0


@pytest.mark.parametrize("text", [
    b"x'lx", b"x'l", b"x'll", b"x'v!", b"x're", b"x'rx", b"x'vx", b"x'", b"x's"])
def test_an_apostrophe_without_an_ending_begins_a_piece_of_its_own(text):
    assert bpe_c.split(text) == bpe_python.split(text)


@pytest.mark.parametrize("text", [
    b"\xe0\x81\xa1", b"\xf0\x80\x81\xa1", b"\xf0\x8f\xbf\xbf",  # overlong forms, of a letter first
    b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\xc1\xa1", b"\xf5\x80\x80\x80",
    b"\xe0\xa0\x80", b"\xf0\x90\x80\x80", b"\xed\x9f\xbb", b"\xee\x80\x80"])  # the nearest valid
def test_bytes_at_the_bounds_of_utf8_have_the_class_of_the_definition(text):
    for beside in (text + b"!", b"a" + text + b"b", text[:-1] + b"a"):
        assert bpe_c.split(beside) == bpe_python.split(beside)


@pytest.mark.parametrize("lengths", [(100, 300, 70), (300, 100), (70, 71, 72, 5000)])
def test_long_pieces_share_scratch_memory(lengths):
    rng = random.Random(sum(lengths))
    learned = bpe_python.train({bytes(rng.choices(b"ab", k=80)): 1 for _ in range(9)}, 40)
    tokens = list(BYTES)
    for left, right in learned:
        tokens.append(tokens[left] + tokens[right])
    merges = [(*pair, 256 + i) for i, pair in enumerate(learned)]
    text = b" ".join(bytes(rng.choices(b"ab", k=length)) for length in lengths)
    ids = bpe_c.Codec(tokens, merges).encode(text)
    assert ids == bpe_python.Codec(tokens, merges).encode(text)


@pytest.mark.parametrize("words, pair", [
    ([b"ab", b"cd"], b"cd"), ([b"ab", b"ac"], b"ac"), ([b"ba", b"ca"], b"ca"),
    ([b"\xff\x00", b"\x00\xff"], b"\xff\x00")])
def test_of_equal_pairs_the_greatest_is_merged(words, pair):
    for order in (words, words[::-1]):
        assert bpe_c.train(dict.fromkeys(order, 1), 1) == [tuple(pair)]
