"""Tests the special tokens of byte-level BPE: where they are found, in texts and in streams."""

import time
import tracemalloc
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygpt import BPETokenizer
from pygpt.tokenizer import bpe_c
from pygpt.tokenizer.text import SpecialTokens, parts

SPECIAL = ["<|end|>", "<|e", "<|end|><|end|>", "|>", "😀x"]


@pytest.fixture(scope="module")
def special():
    return BPETokenizer.train("the end of the text is the end " * 3, 300, SPECIAL)


def test_special_tokens_count_when_they_are_allowed(special):
    end = special.special_tokens["<|end|>"]
    assert special.encode("a<|end|>b", allowed_special={"<|end|>"}) == [97, end, 98]
    assert special.encode("a<|end|>b", allowed_special="all") == [97, end, 98]
    assert special.encode("<|end|>", disallowed_special=()) != [end]
    assert special.decode([97, end]) == "a<|end|>"
    with pytest.raises(ValueError, match=r"'<\|end\|>' at position 5, .* allowed_special="):
        special.encode("text <|end|>")
    with pytest.raises(ValueError, match="position 70004"):
        list(special.encode_iterable(["aaaa" + " a" * 35_000, "<|end", "|>"]))
    assert special.encode("a< |end|", disallowed_special="all") == special.encode("a< |end|")
    with pytest.raises(ValueError, match="'end'"):
        special.encode("the end", disallowed_special={"end"})


def test_of_special_tokens_at_one_place_the_longest_counts(special):
    ids = special.special_tokens
    assert special.encode("<|end|><|end|><|end|><|e", allowed_special="all") == [
        ids["<|end|><|end|>"], ids["<|end|>"], ids["<|e"]]
    assert special.encode("<|end|>", allowed_special={"<|e", "|>"}, disallowed_special=()) == [
        ids["<|e"], *special.encode("nd"), ids["|>"]]


@given(st.lists(st.sampled_from(["<|end|>", "<|e", "<|", "|>", "n", "d", " ", "\ud83d", "\ude00",
                                 "x", "end of", "\n "])), st.sets(st.sampled_from(SPECIAL)))
def test_a_stream_finds_the_same_special_tokens(special, chunks, allowed):
    whole = special.encode("".join(chunks), allowed, ())
    assert list(special.encode_iterable(chunks, allowed, ())) == whole
    for block in (1, 4, 9):  # as if parts of this many bytes were long
        found = []
        for part in parts(chunks, SpecialTokens(allowed), bpe_c.last_boundary, block):
            found += ([special.special_tokens[part]] if isinstance(part, str)
                      else special.encode(part.decode(), (), ()))
        assert found == whole


def tokens_by_definition(text, names):
    """Return the places and names of the special tokens, found by trying each at every place."""
    found, place = [], 0
    while place < len(text):
        name = max((name for name in names if text.startswith(name, place)), key=len, default="")
        if name:
            found.append((place, name))
        place += len(name) or 1
    return found


PIECES = st.text("ab<|", min_size=1, max_size=5)


@given(st.sets(PIECES, max_size=12), st.lists(PIECES, max_size=30))
def test_special_tokens_are_found_where_the_definition_finds_them(names, chunks):
    text = "".join(chunks)
    expected = tokens_by_definition(text, names)
    assert list(SpecialTokens(names).matches(text)) == expected
    for block in (1, 7, 1 << 16):
        found, place = [], 0
        for part in parts(iter(chunks), SpecialTokens(names), bpe_c.last_boundary, block):
            found += [(place, part)] if isinstance(part, str) else []
            place += len(part)
        assert (found, place) == (expected, len(text))


@pytest.mark.parametrize("names", [
    [f"<|{i}|>" for i in range(500)],
    [chr(0x4e00 + i) + "x" for i in range(500)],
    [" " * i for i in range(1, 500)],
    ["ab" * i + end for i in range(1, 200) for end in ("", "c", "-d", ".")],
    ["x" * 100_000, "x"],
], ids=["one beginning", "many beginnings", "runs", "nested", "long"])
def test_any_number_of_special_tokens_is_found(names):
    text = "ab" * 150 + "c 7 <|7|>" + "".join(names[::7]) + " " * 700 + "<|499|>"
    assert list(SpecialTokens(names).matches(text)) == tokens_by_definition(text, names)


def process_time(work):
    """Return the processor time of a call in seconds, the least of five."""
    seconds = []
    for _ in range(5):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


FOUND, ABSENT = ["<s>"], ["<pad>", "[", "é", *(f"<|{i}|>" for i in range(100))]


@pytest.mark.parametrize("names, text, size", [
    (FOUND + ABSENT, "a<s>", 1),
    (FOUND + ABSENT, "<s>", 1 << 30),
    (["<s>", "<s><s>", "<s>a"], "<s>a <s><s>", 64),
    (["<s>", "x" * 20_000], "a<s>", 4),
    (["x" * 1000 + "y", "x" * 1000 + "z"], "x", 1 << 30),
], ids=["absent, tiny chunks", "absent, one chunk", "overlapping", "long", "near misses"])
def test_the_work_of_a_search_grows_as_the_text_does(names, text, size):
    """Expect about 8 times the work for 8 times the text; quadratic work would be 64 times."""
    special = SpecialTokens(names)

    def search(times):
        whole = text * times
        chunks = [whole[i:i + size] for i in range(0, len(whole), size)]
        return lambda: sum(1 for _ in parts(chunks, special, bpe_c.last_boundary))

    n = 1000
    assert process_time(search(8 * n)) < 24 * process_time(search(n))


def test_a_stream_takes_little_memory():
    tokenizer = BPETokenizer.train("some words to stream ", 280)
    chunk = "some words to stream, " * 4000
    each = len(tokenizer.encode(chunk))
    tracemalloc.start()
    count = sum(1 for _ in tokenizer.encode_iterable(repeat(chunk, 60)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60 * each
    assert peak < 30 * len(chunk)  # the ids alone would take more than that, were they kept
