"""Tests added tokens: each is found wherever it occurs, whichever file lists it."""

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizerfiles import ADDED, CONFIG, LISTED, MAIN, ROLES, put, read

from pygpt import BPETokenizer, ByteTokenizer, Tokenizer


def test_an_added_token_is_a_token_wherever_it_occurs(older, plain):
    put(older, ADDED, {"<|user|>": 261, "[PAD]": 262})
    tokenizer = Tokenizer.from_pretrained(older)
    ids = [261, *plain.encode("hi"), 262]
    for options in ({}, {"allowed_special": "all"}, {"allowed_special": {"[PAD]"}},
                    {"disallowed_special": ()}):
        assert tokenizer.encode("<|user|>hi[PAD]", **options) == ids
        assert list(tokenizer.encode_iterable("<|user|>hi[PAD]", **options)) == ids
    assert tokenizer.decode(ids) == "<|user|>hi[PAD]" and tokenizer.vocab_size == 263
    assert tokenizer.added_tokens == {"<|user|>": 261, "[PAD]": 262}
    assert tokenizer.special_tokens == {"<|endoftext|>": 260}
    with pytest.raises(ValueError, match=r"'<\|endoftext\|>' at position 5"):
        tokenizer.encode("[PAD]<|endoftext|>")
    assert tokenizer.encode("[PAD]<|endoftext|>", "all") == [262, 260]
    with pytest.raises(ValueError, match=r"'\[PAD\]' at position 2"):
        tokenizer.encode("hi[PAD]", disallowed_special={"[PAD]"})
    assert plain.added_tokens == ByteTokenizer().added_tokens == {}


@pytest.mark.parametrize("name, document", [
    (ROLES, {"pad_token": "[PAD]"}),
    (ROLES, {"pad_token": {k: v for k, v in LISTED.items() if k != "special"}}),
    (ROLES, {"additional_special_tokens": ["<|endoftext|>", LISTED]}),
    (CONFIG, {"pad_token": {"__type": "AddedToken", **LISTED}}),
    (CONFIG, {"extra_special_tokens": {"padding": "[PAD]"}}),
    (CONFIG, {"image_token": "[PAD]"}),
    (CONFIG, {"added_tokens_decoder": {"261": LISTED | {"special": True}}}),
])
@pytest.mark.parametrize("layout", ["older", "newer"])
def test_a_token_that_has_a_role_is_special(request, layout, name, document):
    directory = request.getfixturevalue(layout)
    put(directory, ADDED, {"[PAD]": 261})
    if layout == "newer" and "added_tokens_decoder" in document:
        edited = read(directory / MAIN)
        edited["added_tokens"][1]["special"] = True
        put(directory, MAIN, edited)
    put(directory, name, document)
    tokenizer = Tokenizer.from_pretrained(directory)
    assert tokenizer.special_tokens == {"<|endoftext|>": 260, "[PAD]": 261}
    with pytest.raises(ValueError, match="at position 2"):
        tokenizer.encode("hi[PAD]")
    assert tokenizer.encode("[PAD]", {"[PAD]"}) == [261]


def test_a_word_of_the_vocabulary_may_be_an_added_token(older, plain):
    """A file gives it a role or lists it; a piece of text is then no longer merged across it."""
    (th,), (the,) = plain.encode("th"), plain.encode("the")
    put(older, ROLES, {"pad_token": "the"})
    tokenizer = Tokenizer.from_pretrained(older)
    assert tokenizer.vocab_size == 261 and tokenizer.special_tokens["the"] == the
    assert plain.encode(" the") != tokenizer.encode(" the", "all") == [ord(" "), the]
    put(older, ROLES, {})
    put(older, ADDED, {"h": ord("h")})
    tokenizer = Tokenizer.from_pretrained(older)
    assert plain.encode("th") == [th] and tokenizer.encode("th") == [ord("t"), ord("h")]
    tokenizer.save_pretrained(older / "again")
    assert Tokenizer.from_pretrained(older / "again").encode("th") == [ord("t"), ord("h")]
    words = read(older / "vocab.json") | {"[PAD]": 261}
    put(older, "vocab.json", words)
    put(older, ADDED, {"[PAD]": 261})
    assert Tokenizer.from_pretrained(older).encode("[PAD]") == [261]
    (older / ADDED).unlink()
    put(older, ROLES, {"pad_token": "[PAD]"})
    assert Tokenizer.from_pretrained(older).special_tokens["[PAD]"] == 261


def test_a_word_that_looks_special_may_be_listed_as_not_special(older):
    put(older, "vocab.json", read(older / "vocab.json") | {"<b>": 261})
    assert Tokenizer.from_pretrained(older).special_tokens["<b>"] == 261
    put(older, CONFIG, {"added_tokens_decoder": {"261": LISTED | {"content": "<b>"}}})
    assert Tokenizer.from_pretrained(older).added_tokens == {"<b>": 261}


def test_a_rank_file_takes_the_added_tokens_beside_it(older, plain):
    ranks = sorted(plain._vocab.items(), key=lambda item: item[1])
    (older / "x.tiktoken").write_bytes(b"".join(
        base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks))
    (older / "vocab.json").unlink()
    put(older, ADDED, {"[PAD]": 260})
    put(older, ROLES, {"eos_token": "<|endoftext|>"})
    tokenizer = Tokenizer.from_pretrained(older)
    assert tokenizer.encode("[PAD]") == [260] and tokenizer.vocab_size == 261
    tokenizer.save_pretrained(older / "again")
    assert Tokenizer.from_pretrained(older / "again").added_tokens == {"[PAD]": 260}


def test_what_changes_no_id_is_read_over_and_kept(older):
    put(older, ADDED, {"[PAD]": 261})
    put(older, ROLES, {"pad_token": "[PAD]", "unk_token": None})
    settings = {"model_max_length": 10 ** 30, "chat_template": "{{ x }}", "padding_side": "left"}
    put(older, CONFIG, settings | {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "add_bos_token": False,
        "errors": "replace", "clean_up_tokenization_spaces": True, "name_or_path": "gpt2",
        "local_files_only": True, "is_local": True, "processor_class": None})
    Tokenizer.from_pretrained(older).save_pretrained(older)
    assert not (older / ADDED).exists() and not (older / ROLES).exists()
    written = read(older / CONFIG)
    assert written | settings == written and written["pad_token"] == "[PAD]"
    (older / MAIN).unlink()
    assert Tokenizer.from_pretrained(older).special_tokens["[PAD]"] == 261


def test_half_a_character_in_a_setting_is_kept(older):
    settings = {"chat_template": "\ud800", "extra_special_tokens": {"\udfff": "<|endoftext|>"}}
    put(older, CONFIG, settings)
    Tokenizer.from_pretrained(older).save_pretrained(older)
    written = read(older / CONFIG)
    assert written | settings == written
    assert Tokenizer.from_pretrained(older).vocab_size == 261


NAMES = st.sampled_from(["[PAD]", "<|user|>", "<b>", "é", "  ", " the", "the", "h", "<|", "a b"])


@given(st.lists(NAMES, unique=True), st.data())
def test_added_tokens_survive_every_round_trip(plain, tmp_path_factory, names, data):
    directory = tmp_path_factory.mktemp("trip")
    own = [name for name in names if name not in ("the", "h")]
    ids = {name: 261 + i for i, name in enumerate(own)}
    ids |= {name: plain._vocab[name.encode()] for name in names if name in ("the", "h")}
    # the files spell the byte 0xe9 as é, so the token can't be é alone
    ids = {name + "é" * (name == "é"): index for name, index in ids.items()}
    special = data.draw(st.sets(st.sampled_from(sorted(ids)))) if ids else set()
    made = BPETokenizer(plain._vocab, plain._merges,
                        plain.special_tokens | {n: i for n, i in ids.items() if n in special},
                        {n: i for n, i in ids.items() if n not in special})
    text = "".join(data.draw(st.lists(NAMES | st.sampled_from(["éé", "x", " these"]))))
    expected = made.encode(text, "all")
    assert made.decode(expected) == text
    made.save_pretrained(directory)
    opened = [Tokenizer.from_pretrained(directory)]
    (directory / MAIN).unlink()
    opened.append(Tokenizer.from_pretrained(directory))
    opened[1].save_pretrained(directory)
    opened.append(Tokenizer.from_pretrained(directory))
    for tokenizer in opened:
        assert tokenizer.special_tokens == made.special_tokens
        assert tokenizer.added_tokens == made.added_tokens
        assert tokenizer.encode(text, "all") == expected


@pytest.mark.parametrize("special, added, complaint", [
    ({}, {"[PAD]": 260}, r"added_tokens: '\[Q\]' has the id 260, which '\[PAD\]' has too"),
    ({"<s>": 260}, {"<s>": 260}, "added_tokens: '<s>' is a special token too"),
    ({"<s>": 260}, {"": 261}, "added_tokens: '' is not a text"),
    ({"<s>": 260}, {"th": 261}, "added_tokens: 'th' is the files' spelling of another token"),
    ({"<s>": 260}, {"[P]": 262}, r"the id 262 of '\[P\]' is not in 0..261"),
])
def test_bad_added_tokens_of_a_constructor_are_named(plain, special, added, complaint):
    if not special:
        added = added | {"[Q]": 260}
    with pytest.raises(ValueError, match=complaint):
        BPETokenizer(plain._vocab, plain._merges, special, added)


def test_gpt2_with_added_tokens(tmp_path):
    source = os.environ.get("PYGPT_GPT2_DIR")
    if not source:
        pytest.skip("PYGPT_GPT2_DIR is not set")
    for name in ("vocab.json", "merges.txt"):
        os.symlink(os.path.join(source, name), tmp_path / name)
    put(tmp_path, ADDED, {"<|user|>": 50257, "[PAD]": 50258})
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    for allowed in ((), "all"):
        assert tokenizer.encode("<|user|>hi[PAD]", allowed) == [50257, 5303, 50258]
    assert tokenizer.decode([50257, 5303, 50258]) == "<|user|>hi[PAD]"
    assert tokenizer.vocab_size == 50259
