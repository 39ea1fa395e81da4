"""Tests what the reader of pickled vocabularies refuses, each pickle written opcode by opcode."""

import pickle

import pytest

from pygpt.data import plain_pickle


@pytest.mark.parametrize("data, complaint", [
    (b"", "STOP"),
    (b"}", "STOP"),                       # a dict, and no end
    (b".", "pops from an empty stack"),
    (b"(.", "pops from an empty stack"),  # a mark alone
    (b"l.", "pops from an empty stack"),  # a list from a mark that is not there
    (b"}K\x01a.", "appends to an object that is not a list"),
    (b"}(K\x01e.", "appends to an object that is not a list"),
    (b"h\x05.", "memo entry that it did not store"),
    (b"]K\x01K\x02s.", "not a dict"),
    (b"}(K\x01u.", "lone key"),
    (b"}]K\x02s.", "is the key of a dict"),
    (b"}}K\x02s.", "is the key of a dict"),
    (b"}0.", "more than dicts, lists, texts and numbers: POP"),
    (b"cos\nsystem\n.", "more than dicts, lists, texts and numbers: GLOBAL"),
    (b"(K\x01K\x02t.", "more than dicts, lists, texts and numbers: TUPLE")])
def test_what_is_no_plain_pickle_is_refused(data, complaint):
    with pytest.raises(plain_pickle.PickleError, match=complaint):
        plain_pickle.loads(data)


@pytest.mark.parametrize("data, value", [
    (b"K\x01.", 1), (b"}.", {}), (b"]K\x07a.", [7]), (b"](K\x07K\x08e.", [7, 8]),
    (b"(K\x01K\x02d.", {1: 2}), (b"(K\x01K\x02l.", [1, 2]),
    (b"}(K\x01K\x02K\x03Nu.", {1: 2, 3: None})])
def test_a_plain_pickle_is_what_pickle_makes_of_it(data, value):
    assert plain_pickle.loads(data) == value == pickle.loads(data)


def test_what_follows_the_end_is_not_read():
    assert plain_pickle.loads(b"K\x01.garbage") == 1
