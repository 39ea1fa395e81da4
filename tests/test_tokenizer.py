"""The tokenizers: ids by hand, round trips over any text, and files that lie."""

import json
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygpt.tokenizer import CharTokenizer, Tokenizer

TEXT = st.text()  # every character but lone surrogates


def test_ids_are_the_ranks_of_the_sorted_characters():
    tokenizer = CharTokenizer.train("banana\n")
    assert tokenizer.vocab_size == 4
    assert tokenizer.encode("nab\n") == [3, 1, 2, 0]
    assert tokenizer.decode([3, 1, 2, 0]) == "nab\n"
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


@given(TEXT)
def test_any_text_survives_the_round_trip(text):
    tokenizer = CharTokenizer.train(text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert all(0 <= index < tokenizer.vocab_size for index in ids)
    assert tokenizer.decode(iter(ids)) == text


def test_an_unknown_character_is_named_with_its_position():
    with pytest.raises(ValueError, match=r"'x' \(U\+0078\) at position 2 .* vocabulary of 2"):
        CharTokenizer.train("ab").encode("abxax")
    with pytest.raises(ValueError, match="position 0 .* vocabulary of 0"):
        CharTokenizer.train("").encode("a")


@pytest.mark.parametrize("index", [-1, 3, 1 << 40])
def test_an_id_out_of_range_is_named(index):
    with pytest.raises(ValueError, match=rf"the id {index} is not in 0\.\.2"):
        CharTokenizer.train("abc").decode([0, index])


def test_a_lone_surrogate_cannot_be_a_token():
    with pytest.raises(ValueError, match="lone surrogate"):
        CharTokenizer.train(b"\xff".decode("utf-8", "surrogateescape"))


@given(TEXT)
def test_a_saved_tokenizer_opens_again(tmp_path_factory, text):
    directory = tmp_path_factory.mktemp("saved") / "made" / "on the way"
    saved = CharTokenizer.train(text)
    saved.save_pretrained(directory)
    assert os.listdir(directory) == ["tokenizer.json"]
    for kind in (Tokenizer, CharTokenizer):
        opened = kind.from_pretrained(directory)
        assert type(opened) is CharTokenizer
        assert opened.vocab_size == saved.vocab_size
        assert opened.encode(text) == saved.encode(text)


def test_a_failed_save_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    CharTokenizer.train("old").save_pretrained(tmp_path)

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        CharTokenizer.train("new").save_pretrained(tmp_path)
    assert os.listdir(tmp_path) == ["tokenizer.json"]
    assert Tokenizer.from_pretrained(tmp_path).encode("old") == [2, 1, 0]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        Tokenizer.from_pretrained(tmp_path)


def saved_document(tmp_path):
    CharTokenizer.train("abc").save_pretrained(tmp_path)
    return json.loads((tmp_path / "tokenizer.json").read_bytes())


@pytest.mark.parametrize("vocab, complaint", [
    ({"a": 0, "b": 2}, r"the id 2 of 'b' is not in 0\.\.1"),
    ({"a": 0, "b": -1}, r"the id -1 of 'b'"),
    ({"a": 0, "b": True}, r"the id True of 'b'"),
    ({"a": 0, "b": 1.0}, r"the id 1\.0 of 'b'"),
    ({"a": 0, "b": 0}, r"'a' and 'b' share id 0"),
    ({"a": 0, "bc": 1}, r"'bc' \(id 1\) is not a single character"),
    ({"": 0}, "is not a single character"),
    ({"\ud800": 0}, "lone surrogate"),
    (["a", "b"], r"model\.vocab: is not an object"),
])
def test_a_wrong_vocabulary_is_refused_by_file_and_field(tmp_path, vocab, complaint):
    document = saved_document(tmp_path)
    document["model"]["vocab"] = vocab
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{complaint}"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("content, complaint", [
    (b"", "is not JSON"),
    (b"\xff\xfe", "is not JSON"),
    (b"[" * 100_000, "nested too deeply"),
    (b"[]", "is not a JSON object"),
    (b"{}", "a kind of tokenizer that pygpt does not know"),
    (b'{"model": 1}', "a kind of tokenizer that pygpt does not know"),
    (b'{"model": {"type": "Unigram"}}', "a kind of tokenizer that pygpt does not know"),
    (b'{"a": 1, "a": 2}', "the key 'a' comes twice"),
])
def test_a_foreign_file_is_refused(tmp_path, content, complaint):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        Tokenizer.from_pretrained(tmp_path)


def test_a_damaged_file_opens_or_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "tokenizer.json"
    saved_document(tmp_path)
    good = path.read_bytes()
    chooser = random.Random(1)
    for _ in range(500):
        damaged = bytearray(good)
        for _ in range(chooser.randint(1, 3)):
            damaged[chooser.randrange(len(damaged))] = chooser.randrange(256)
        path.write_bytes(damaged[:chooser.choice([len(damaged), chooser.randrange(len(damaged))])])
        try:
            Tokenizer.from_pretrained(tmp_path).decode([])
        except ValueError as error:
            assert "tokenizer.json: " in str(error) and "\n" not in str(error)
