"""Tests the files of byte-level BPE: their meaning, their agreement, and the errors in them.

PYGPT_GPT2_DIR names a directory with GPT-2's vocab.json and merges.txt; without it, the tests of
GPT-2's own vocabulary are skipped.
"""

import base64
import hashlib
import json
import os
import sys
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygpt import BPETokenizer, Tokenizer
from pygpt.tokenizer import vocabulary

TEXT = """It's the theme of these: 'thé' — the 5th, the 12th!  Then, where the weather
wears the whole, there "withers" what was worn; 1000 others wander
	wonder, or whether another...""" * 3
SPECIAL = ["<|endoftext|>", "<pad>"]


@pytest.fixture(scope="module")
def trained():
    return BPETokenizer.train(TEXT, 300, SPECIAL)


@pytest.fixture
def saved(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    return tmp_path


def ranks(tokenizer):
    """Return the bytes of a rank file."""
    tokens = sorted(tokenizer._vocab.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in tokens)


def test_bytes_are_spelled_as_gpt2_spells_them():
    assert vocabulary.spell(b" \n\0!~\x7f\xa0\xa1\xad\xae\xff") == "ĠĊĀ!~ġł¡Ń®ÿ"
    assert len(set(vocabulary.BYTE_TO_CHAR)) == 256 and vocabulary.BYTE_TO_CHAR.isprintable()
    for data in (bytes(range(256)), b""):
        assert vocabulary.unspell(vocabulary.spell(data)) == data
    for word in (" ", "\n", "a\x00", "\u0144", "中", "\ud800"):
        assert vocabulary.unspell(word) is None


def test_what_the_files_say(saved):
    assert sorted(os.listdir(saved)) == ["merges.txt", "tokenizer.json", "tokenizer_config.json",
                                         "vocab.json"]
    vocab = json.loads((saved / "vocab.json").read_bytes())
    lines = (saved / "merges.txt").read_text("utf-8").splitlines()
    assert lines[0] == "#version: 0.2" and len(lines) == 1 + 300 - 256 - 2
    assert vocab["Ā"] == 0 and vocab["Ġthe"] in range(256, 298) and vocab["<pad>"] == 299
    assert sorted(vocab.values()) == list(range(300))
    document = json.loads((saved / "tokenizer.json").read_bytes())
    assert document["model"]["vocab"] == vocab and document["model"]["merges"] == lines[1:]
    assert [(token["id"], token["content"]) for token in document["added_tokens"]] == [
        (298, "<|endoftext|>"), (299, "<pad>")]
    config = json.loads((saved / "tokenizer_config.json").read_bytes())
    assert config["eos_token"] == "<|endoftext|>"


def test_every_file_gives_the_same_tokenizer(saved, trained):
    opened = [Tokenizer.from_pretrained(saved)]
    (saved / "tokenizer.json").unlink()
    opened.append(Tokenizer.from_pretrained(saved))
    for name in ("vocab.json", "merges.txt"):
        (saved / name).unlink()
    (saved / "some.tiktoken").write_bytes(ranks(trained))
    opened.append(BPETokenizer.from_tiktoken(saved / "some.tiktoken", SPECIAL))
    for tokenizer in opened:
        assert tokenizer._vocab == trained._vocab and tokenizer._merges == trained._merges
        assert tokenizer.special_tokens == trained.special_tokens
    assert Tokenizer.from_pretrained(saved).vocab_size == 298  # a rank file names no special token


def test_older_and_other_spellings_of_tokenizer_json_are_read(saved, trained):
    path = saved / "tokenizer.json"
    document = json.loads(path.read_bytes())
    model = document["model"]
    model["merges"] = [merge.split(" ") for merge in model["merges"]]
    for key in ("type", "dropout", "unk_token", "continuing_subword_prefix", "byte_fallback"):
        del model[key]
    for key in ("version", "truncation", "normalizer"):
        del document[key]
    del document["pre_tokenizer"]["use_regex"]
    document["post_processor"] = {"type": "ByteLevel", "trim_offsets": True}
    for token in SPECIAL:
        del model["vocab"][token]  # it may be named among the added tokens alone
    path.write_text(json.dumps(document))
    opened = Tokenizer.from_pretrained(saved)
    assert opened._vocab == trained._vocab and opened.special_tokens == trained.special_tokens


# ------------------------------------------------------------------------------ what is refused ---

def edit(document, path, value):
    *parents, last = path
    for key in parents:
        document = document[key]
    document[last] = value


@pytest.mark.parametrize("path, value, complaint", [
    (("normalizer",), {"type": "NFC"}, "normalizer: "),
    (("pre_tokenizer", "add_prefix_space"), True, "pre_tokenizer.add_prefix_space: True"),
    (("pre_tokenizer", "use_regex"), False, "pre_tokenizer.use_regex: False is not supported"),
    (("post_processor",), {"type": "TemplateProcessing"}, "post_processor.type: 'Templ"),
    (("decoder", "type"), "WordPiece", "decoder.type: 'WordPiece' is not supported"),
    (("model", "dropout"), 0.1, "model.dropout: 0.1 is not supported"),
    (("model", "byte_fallback"), True, "model.byte_fallback"),
    (("model", "vocab"), [1], "model.vocab: is not an object"),
    (("model", "vocab", "a"), 1.5, "vocab: the id 1.5 of 'a' is not in 0..299"),
    (("model", "vocab", "a"), 98, "vocab: the id 98 belongs to both"),
    (("model", "vocab", "a"), 1 << 70, "vocab: the id 1180591620717411303424 of 'a'"),
    (("model", "vocab", "zz"), 301, "vocab: the id 301 of 'zz' is not in 0..300"),
    (("model", "vocab", "z z"), 300, r"the token 'z z' \(id 300\) holds a character that"),
    (("model", "vocab", "<pad>"), 5, r"the id 5 of '<pad>' is not its id as a special token, 299"),
    (("model", "merges"), {}, "model.merges: is not a list"),
    (("model", "merges", 3), "a b c", r"model.merges\[3\]: 'a b c' is not two tokens"),
    (("model", "merges", 3), ["a", 1], r"model.merges\[3\]: \['a', 1\] is not two tokens"),
    (("model", "merges", 3), "a é中", r"model.merges\[3\]: 'a é中' holds a character"),
    (("model", "merges", 3), "a qq", r"merges\[3\]: 'qq' is not a token"),
    (("model", "merges", 3), "q q", r"merges\[3\]: 'qq' is not a token"),
    (("added_tokens",), {}, "added_tokens: is not a list"),
    (("added_tokens", 0), 7, r"added_tokens\[0\]: is not an object with a content"),
    (("added_tokens", 0, "special"), 7, r"added_tokens\[0\].special: 7 is not true or false"),
    (("added_tokens", 0, "lstrip"), True, r"added_tokens\[0\].lstrip"),
    (("added_tokens", 0, "id"), -1, "is not its id as a special token, -1"),
    (("added_tokens", 0, "content"), "<pad>", r"added_tokens\[1\]: '<pad>' comes twice"),
])
def test_a_wrong_tokenizer_json_is_refused_by_file_and_field(saved, path, value, complaint):
    file = saved / "tokenizer.json"
    document = json.loads(file.read_bytes())
    edit(document, path, value)
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{complaint}"):
        Tokenizer.from_pretrained(saved)


def test_a_merge_that_comes_twice_is_refused(saved):
    file = saved / "tokenizer.json"
    document = json.loads(file.read_bytes())
    document["model"]["merges"].append(document["model"]["merges"][0])
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"merges\[42\]: the pair '.*' '.*' comes twice"):
        Tokenizer.from_pretrained(saved)


@pytest.mark.parametrize("name, old, new, complaint", [
    ("vocab.json", b'"a": 97', b'"a": "x"', "vocab: the id 'x' of 'a'"),
    ("vocab.json", b'"a": 97', b'"a": 300', r"vocab: the id 300 of 'a' is not in 0\.\.299"),
    ("vocab.json", b'"a": 97', b'"a": 98', "vocab: the id 98 belongs to both"),
    ("vocab.json", b'"a": 97', b'"qq": 97', "vocab: the byte 0x61 has no token"),
    ("vocab.json", b'"a": 97', b'"a": 97, "a": 97', "holds the key 'a' twice"),
    ("vocab.json", b"\n}", b"", "is not JSON"),
    ("merges.txt", b"t h\n", b"t h\nq q\n", r"merges\[1\]: 'qq' is not a token"),
    ("merges.txt", b"t h\n", b"t\n", "line 2: 't' is not two tokens"),
    ("merges.txt", b"t h\n", b"t h\nt h\n", r"merges\[1\]: the pair 't' 'h' comes twice"),
    ("merges.txt", b"t h\n", b"t h \n", "line 2: 't h ' is not two tokens"),
    ("merges.txt", b"t h\n", b"t \xff\n", "is not UTF-8 at byte 16"),
])
def test_a_wrong_pair_of_files_is_refused_by_file_and_field(saved, name, old, new, complaint):
    (saved / "tokenizer.json").unlink()
    data = (saved / name).read_bytes()
    assert data.count(old) == 1
    (saved / name).write_bytes(data.replace(old, new))
    with pytest.raises(ValueError, match=rf"{name}: .*{complaint}"):
        Tokenizer.from_pretrained(saved)


@pytest.mark.parametrize("line, complaint", [
    (b"dGhlbQ= 298", "line 299: 'dGhlbQ=' is not base64"),
    (b"dGhl\xc3\xa9 298", "line 299: 'dGhlé' is not base64"),
    (b"dGhlbQ==", "line 299: '' is not a rank"),
    (b"dGhlbQ== -1", "line 299: '-1' is not a rank"),
    (b"dGhlbQ== 97", "line 299: the token or its rank 97 comes twice"),
    (b"YQ== 298", "line 299: the token or its rank 298 comes twice"),
    (b" 298", r"line 299: a token of 0 bytes is not in 1\.\.128"),
    (b"cXpxeg== 298", "line 299: no two tokens of lower rank make b'qzqz'"),
    (b"cXo= 299", r"vocab: the id 299 of 'qz' is not in 0\.\.298"),
])
def test_a_wrong_rank_file_is_refused_by_line(trained, tmp_path, line, complaint):
    path = tmp_path / "some.tiktoken"
    path.write_bytes(ranks(trained) + line + b"\n")
    with pytest.raises(ValueError, match=rf"some\.tiktoken: {complaint}"):
        BPETokenizer.from_tiktoken(path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt", "some.tiktoken"])
@given(data=st.data())
def test_a_damaged_file_opens_or_is_refused_in_one_sentence(trained, tmp_path_factory, name, data):
    directory = tmp_path_factory.mktemp("damaged")
    trained.save_pretrained(directory)
    (directory / "some.tiktoken").write_bytes(ranks(trained))
    for other in {"tokenizer.json": (), "some.tiktoken": ("tokenizer.json", "vocab.json")}.get(
            name, ("tokenizer.json",)):
        (directory / other).unlink()
    content = bytearray((directory / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.just(len(content)) | st.integers(0, len(content))):]
    (directory / name).write_bytes(content)
    try:
        tokenizer = Tokenizer.from_pretrained(directory)
        assert tokenizer.decode(tokenizer.encode(TEXT, (), ())) == TEXT
    except ValueError as error:
        assert str(directory) in str(error) and "\n" not in str(error) and len(str(error)) < 400


LINES = st.lists(st.sampled_from(["t h", "th e", "Ġ the", "h t", "t", "", " ", "t  h", "\u00a0",
                                  "é 中", "#version: 0.2", "YQ== 97", "dGg= 298", "dGg= 256", "= 1",
                                  "YQ==", "YQ== 9999999999", "dGhl 299", "\r", "\x85", "\ud800",
                                  "\0"])
                 | st.text(max_size=6), max_size=5)


@pytest.mark.parametrize("name", ["merges.txt", "some.tiktoken"])
@given(added=LINES, place=st.integers(0, 50), removed=st.integers(0, 2))
def test_any_lines_open_or_are_refused_in_one_sentence(trained, tmp_path_factory, name, added,
                                                       place, removed):
    directory = tmp_path_factory.mktemp("lines")
    trained.save_pretrained(directory)
    (directory / "some.tiktoken").write_bytes(ranks(trained))
    (directory / "tokenizer.json").unlink()
    if name == "some.tiktoken":
        (directory / "vocab.json").unlink()
    lines = (directory / name).read_bytes().split(b"\n")
    lines[place:place + removed] = [line.encode("utf-8", "surrogatepass") for line in added]
    (directory / name).write_bytes(b"\n".join(lines))
    try:
        tokenizer = Tokenizer.from_pretrained(directory)
        assert tokenizer.decode(tokenizer.encode(TEXT, (), ())) == TEXT
    except ValueError as error:
        message = str(error)
        assert message.startswith((f"{directory / name}: ", f"{directory / 'vocab.json'}: "))
        assert "\n" not in message and len(message) < 400


# ----------------------------------------------------------------------- GPT-2's own vocabulary ---

@pytest.fixture(scope="module")
def gpt2():
    directory = os.environ.get("PYGPT_GPT2_DIR")
    if not directory:
        pytest.skip("PYGPT_GPT2_DIR is not set")
    return Tokenizer.from_pretrained(directory)


@pytest.mark.parametrize("text, ids", [
    ("Hello world!  It's 2 o'clock.\n\n\tdef f(x): return x ** 2\n",
     [15496, 995, 0, 220, 632, 338, 362, 267, 6, 15750, 13, 628, 197, 4299, 277, 7, 87, 2599, 1441,
      2124, 12429, 362, 198]),
    ("naïve café — Ωμέγα, привет, 你好世界, ٣٤, 😀👍🏽",
     [2616, 38776, 40304, 851, 7377, 102, 34703, 138, 255, 42063, 17394, 11, 12466, 123, 21169,
      18849, 38857, 16843, 20375, 11, 220, 19526, 254, 25001, 121, 10310, 244, 45911, 234, 11,
      18923, 96, 149, 97, 11, 30325, 222, 41840, 235, 8582, 237, 121]),
    ("   leading, trailing   \u3000 ", [220, 220, 3756, 11, 25462, 220, 220, 220, 5099, 222, 220]),
    ("'ll'LL's's're 're'd I'm\r\n",
     [1183, 6, 3069, 338, 338, 821, 705, 260, 1549, 314, 1101, 201, 198]),
])
def test_gpt2_ids(gpt2, text, ids):
    assert gpt2.encode(text) == ids
    assert gpt2.decode(ids) == text


def test_gpt2_ids_of_every_character(gpt2):
    """Encode each after a letter and before a number: the hash of 6.6 million ids is tiktoken's."""
    every = "".join(f"a{chr(code)}1" for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    ids = array("i", gpt2.encode(every))
    if sys.byteorder == "big":
        ids.byteswap()
    assert len(ids) == 6576112
    assert hashlib.sha256(ids.tobytes()).hexdigest() == (
        "984f932484341223ef948719b7673aa7a3e2285a2d362a2e45b6f6093694549a")


def test_gpt2_has_its_special_token_and_comes_back_from_every_file(gpt2, tmp_path):
    assert gpt2.vocab_size == 50257 and gpt2.special_tokens == {"<|endoftext|>": 50256}
    assert gpt2.encode("a<|endoftext|>", allowed_special="all") == [64, 50256]
    gpt2.save_pretrained(tmp_path)
    path = tmp_path / "gpt2.tiktoken"
    path.write_bytes(ranks(gpt2))
    for opened in (Tokenizer.from_pretrained(tmp_path), BPETokenizer.from_gpt2(tmp_path),
                   BPETokenizer.from_tiktoken(path, ["<|endoftext|>"])):
        assert opened._vocab == gpt2._vocab and opened._merges == gpt2._merges
