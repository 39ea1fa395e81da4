"""Tests the interface of all tokenizers, and the two simple ones: by hand, on any text, on disk."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygpt import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer
from pygpt.tokenizer import StreamDecoder

TEXT = st.text()  # every character but lone surrogates
SURROGATES = st.text(st.sampled_from("a\ud83d\ude00é\udc80\ud800"))
SAMPLE = "Ein Hund, zwei Hündchen, drei 狗。\n" * 9

MAKERS = {
    "char": CharTokenizer.train,
    "byte": lambda text: ByteTokenizer(),
    "bpe": lambda text: BPETokenizer.train(text, 300, ["<|endoftext|>"]),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


# ------------------------------------------------------------------------------------ all kinds ---

@given(TEXT)
def test_any_text_survives_the_round_trip(text):
    for make in MAKERS.values():
        tokenizer = make(text)
        ids = tokenizer.encode(text)
        assert all(0 <= index < tokenizer.vocab_size for index in ids)
        assert tokenizer.decode(iter(ids)) == text
        assert "".join(tokenizer.decode_iterable(iter(ids))) == text


def test_nothing_is_no_ids(make):
    tokenizer = make(SAMPLE)
    assert tokenizer.encode("") == list(tokenizer.encode_iterable([])) == []
    assert tokenizer.decode([]) == "" and list(tokenizer.decode_iterable([])) == []


@given(st.lists(TEXT))
def test_a_stream_has_the_ids_of_the_whole(chunks):
    for make in MAKERS.values():
        tokenizer = make(SAMPLE + "".join(chunks))
        assert list(tokenizer.encode_iterable(chunks)) == tokenizer.encode("".join(chunks))


@given(st.lists(SURROGATES))
def test_surrogates_pair_up_across_chunks_and_alone_become_the_replacement_character(chunks):
    text = "".join(chunks)
    repaired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    for kind in ("byte", "bpe"):
        tokenizer = MAKERS[kind](SAMPLE)
        assert tokenizer.decode(tokenizer.encode(text)) == repaired
        assert list(tokenizer.encode_iterable(chunks)) == tokenizer.encode(text)


@pytest.mark.parametrize("index", [-1, 1 << 40])
def test_an_id_out_of_range_is_named(make, index):
    tokenizer = make(SAMPLE)
    last = tokenizer.vocab_size - 1
    for decode in (tokenizer.decode, lambda ids: list(tokenizer.decode_iterable(ids))):
        with pytest.raises(ValueError, match=rf"the id {index} is not in 0\.\.{last}$"):
            decode([0, index])


def test_a_streamed_character_waits_for_its_last_byte():
    decoder = StreamDecoder(ByteTokenizer())
    assert [decoder.feed(byte) for byte in "é😀!".encode()] == ["", "é", "", "", "", "😀", "!"]
    assert [decoder.feed(byte) for byte in (0xF0, 0x9F, 0x21, 0xE2)] == ["", "", "\ufffd!", ""]
    assert decoder.finish() == "\ufffd" and decoder.finish() == ""
    assert decoder.feed(0x61) == "a"


@given(st.binary())
def test_bytes_that_are_no_text_decode_to_the_replacement_character(data):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(data) == data.decode("utf-8", "replace")
    assert "".join(tokenizer.decode_iterable(data)) == data.decode("utf-8", "replace")
    assert tokenizer.decode_bytes(data) == data


# ----------------------------------------------------------------------------------- characters ---

def test_ids_are_the_ranks_of_the_sorted_characters():
    tokenizer = CharTokenizer.train("banana\n")
    assert tokenizer.vocab_size == 4
    assert tokenizer.encode("nab\n") == [3, 1, 2, 0]
    assert tokenizer.decode([3, 1, 2, 0]) == "nab\n"


def test_an_unknown_character_is_named_with_its_position():
    with pytest.raises(ValueError, match=r"'x' \(U\+0078\) at position 2 .* vocabulary of 2"):
        CharTokenizer.train("ab").encode("abxax")
    with pytest.raises(ValueError, match="position 3 .* vocabulary of 2"):
        list(CharTokenizer.train("ab").encode_iterable(["ab", "ax"]))
    with pytest.raises(ValueError, match="position 6 .* vocabulary of 2"):
        list(CharTokenizer.train("ab").encode_iterable(["ab", "aba", "ax"]))
    with pytest.raises(ValueError, match="position 0 .* vocabulary of 0"):
        CharTokenizer.train("").encode("a")


def test_an_unknown_character_is_skipped_or_replaced_if_asked(tmp_path):
    skipping = CharTokenizer.train("abc", unknown="skip")
    assert skipping.encode("xaxbx") == [0, 1]
    replacing = CharTokenizer.train("abc", unknown="\ufffd")
    assert replacing.vocab_size == 4
    assert replacing.decode(replacing.encode("axb")) == "a\ufffdb"
    assert CharTokenizer("abc", unknown="b").encode("axb") == [0, 1, 1]
    for tokenizer in (skipping, replacing):
        tokenizer.save_pretrained(tmp_path)
        opened = Tokenizer.from_pretrained(tmp_path)
        assert opened.unknown == tokenizer.unknown
        assert opened.encode("xaxbx") == tokenizer.encode("xaxbx")


@pytest.mark.parametrize("unknown", ["ignore", "", None, "xy"])
def test_another_policy_is_refused(unknown):
    with pytest.raises(ValueError, match="unknown=.* is not 'error', 'skip' or a character"):
        CharTokenizer("abc", unknown)


def test_a_lone_surrogate_cannot_be_a_character():
    with pytest.raises(ValueError, match="lone surrogate"):
        CharTokenizer.train(b"\xff".decode("utf-8", "surrogateescape"))


# -------------------------------------------------------------------------------------- on disk ---

@given(TEXT)
def test_a_saved_tokenizer_opens_again(tmp_path_factory, text):
    directory = tmp_path_factory.mktemp("saved") / "made" / "on the way"
    for make in MAKERS.values():
        saved = make(text)
        saved.save_pretrained(directory)
        for kind in (Tokenizer, type(saved)):
            opened = kind.from_pretrained(directory)
            assert type(opened) is type(saved)
            assert opened.vocab_size == saved.vocab_size
            assert opened.special_tokens == saved.special_tokens
            assert opened.encode(text) == saved.encode(text)


def test_the_wrong_class_refuses_to_open_it(tmp_path):
    ByteTokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a ByteTokenizer, not a CharTokenizer"):
        CharTokenizer.from_pretrained(tmp_path)


def test_a_failed_save_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    CharTokenizer.train("old").save_pretrained(tmp_path)
    before = sorted(os.listdir(tmp_path))

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        CharTokenizer.train("new").save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before
    assert Tokenizer.from_pretrained(tmp_path).encode("old") == [2, 1, 0]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        Tokenizer.from_pretrained(tmp_path)


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
def test_a_wrong_vocabulary_of_characters_is_refused_by_file_and_field(tmp_path, vocab, complaint):
    CharTokenizer.train("abc").save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_bytes())
    document["model"]["vocab"] = vocab
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{complaint}"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("content, complaint", [
    (b"", "is not JSON"),
    (b"\xff\xfe", "is not UTF-8"),
    (b"[" * 100_000, "nested too deeply"),
    (b"[]", "is not a JSON object"),
    (b"{}", "a kind of tokenizer that pygpt does not know"),
    (b'{"model": 1}', "a kind of tokenizer that pygpt does not know"),
    (b'{"model": {"type": "Unigram"}}', "a kind of tokenizer that pygpt does not know"),
    (b'{"a": 1, "a": 2}', "the key 'a' twice"),
])
def test_a_foreign_file_is_refused(tmp_path, content, complaint):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        Tokenizer.from_pretrained(tmp_path)


def test_a_new_kind_of_tokenizer_is_opened_too(tmp_path, monkeypatch):
    monkeypatch.setattr(Tokenizer, "_kinds", list(Tokenizer._kinds))

    class Constant(ByteTokenizer):
        def _document(self):
            return {"model": {"type": "Constant"}}

        @classmethod
        def _from_document(cls, document, roles):
            return cls() if document["model"]["type"] == "Constant" else None

    Constant().save_pretrained(tmp_path)
    assert type(Tokenizer.from_pretrained(tmp_path)) is Constant
    ByteTokenizer().save_pretrained(tmp_path)
    assert type(Tokenizer.from_pretrained(tmp_path)) is ByteTokenizer
