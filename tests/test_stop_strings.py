"""Tests StopStrings: where a text ends, and that no part of a stop string is handed out."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pygpt.stop_strings import StopStrings


def ended(text, strings):
    """Return (text, stop string) by definition: the string that is complete first, the longest of
    those that end there, is cut off with all after it."""
    for end in range(len(text) + 1):
        found = [string for string in strings if text[:end].endswith(string)]
        if found:
            longest = max(found, key=len)
            return text[:end - len(longest)], longest
    return text, None


@pytest.mark.parametrize("strings, pieces, given_out, found", [
    ([], ["a", "b"], ["a", "b"], None),
    (["b"], ["abc", "d"], ["a"], "b"),
    (["User:"], ["Hi.\nU", "se", "r: x"], ["Hi.\n"], "User:"),
    (["User:"], ["Hi.\nU", "s", "ual"], ["Hi.\n", "Usual"], None),
    (["User:"], ["Us"], ["Us"], None),                     # held back until the end
    (["aab"], ["a", "a", "a", "b"], ["a"], "aab"),         # begins anew within itself
    (["abc", "b"], ["ab", "c"], ["a"], "b"),               # the one that is complete first
    (["abc", "b"], ["abc"], ["a"], "b"),                   # also in one piece
    (["bc", "abc"], ["xabcd"], ["x"], "abc"),              # the longest of those that end there
    (["\n\n"], ["a\n", "b\n", "\nc"], ["a", "\nb"], "\n\n"),
    (["é"], ["caf", "é", "x"], ["caf"], "é"),
])
def test_a_text_in_pieces(strings, pieces, given_out, found):
    stop = StopStrings(strings)
    assert list(stop.until(pieces)) == given_out
    assert stop.found == found


@given(text=st.text("ab", max_size=30), cuts=st.lists(st.integers(0, 30), max_size=8),
       strings=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
@example(text="abab", cuts=[1, 2, 3], strings=["abb", "ba"])
def test_it_ends_where_the_definition_says_however_it_is_cut(text, cuts, strings):
    stop, places = StopStrings(strings), [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in zip(places, places[1:])]
    assert ("".join(stop.until(pieces)), stop.found) == ended(text, strings)


@given(text=st.text("ab", max_size=30),
       strings=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_as_much_is_handed_out_as_is_certain(text, strings):
    """What is held back begins a stop string; so it is shorter than the longest of them."""
    stop, out = StopStrings(strings), ""
    for end, character in enumerate(text, 1):
        out += stop.feed(character)
        if stop.found is not None:
            break
        held = text[len(out):end]
        assert out + held == text[:end]
        assert not held or any(string.startswith(held) and string != held for string in strings)


def test_no_piece_is_taken_after_the_end():
    def pieces():
        yield "ab"
        raise AssertionError("a piece too many")

    stop = StopStrings(["b"])
    assert list(stop.until(pieces())) == ["a"]
    assert stop.feed("more") == stop.finish() == ""


def test_what_is_held_back_is_handed_out_once():
    stop = StopStrings(["ab"])
    assert [stop.feed("xa"), stop.finish(), stop.finish(), stop.feed("b")] == ["x", "a", "", "b"]
