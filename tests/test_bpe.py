"""Tests byte-level BPE: its pieces, its merges and how they are learned, in C and in Python."""

import random
import time
import unicodedata

import pytest
from commands import python
from hypothesis import given
from hypothesis import strategies as st

from pygpt import BPETokenizer
from pygpt.tokenizer import bpe_c, bpe_python, unicode
from pygpt.tokenizer.text import BLOCK

BOTH = pytest.mark.parametrize("work", [bpe_c, bpe_python], ids=["c", "python"])

# Text that meets every rule of the pattern, and bytes that are not UTF-8.
CHARACTERS = st.one_of(st.sampled_from("ab stmdvrel' '\n\t\u00a0\u3000.!1²Ⅷ٣é中😀\u0301\x1c\x85"),
                       st.characters(exclude_categories=["Cs"]))
PARTS = st.one_of(
    CHARACTERS.map(str.encode),
    st.sampled_from([b"\x80", b"\xc2", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\x80",
                     b"\xf4\x90\x80\x80", b"\xff", b"'re", b"'ll", b"   "]))
BYTES = st.lists(PARTS, max_size=30).map(b"".join)


def spelled(merges):
    """Return the bytes of each token that merges make."""
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


# --------------------------------------------------------------------------------------- pieces ---

@BOTH
@pytest.mark.parametrize("text, pieces", [
    ("It's  2 more", ["It", "'s", " ", " 2", " more"]),
    ("they'll've we'Re don'tx", ["they", "'ll", "'ve", " we", "'", "Re", " don", "'t", "x"]),
    ("I'm he'd she's we're 'l 'v", ["I", "'m", " he", "'d", " she", "'s", " we", "'re", " '", "l",
                                    " '", "v"]),
    (" 's ''s", [" '", "s", " ''", "s"]),
    ("a1²Ⅷ!?", ["a", "1²Ⅷ", "!?"]),
    ("a \n b\n\n  ", ["a", " \n", " b", "\n\n  "]),
    ("a\u3000b \u3000c", ["a", "\u3000", "b", " ", "\u3000", "c"]),
    ("e\u0301\u200d", ["e", "\u0301\u200d"]),
    ("x\x1cy\x85z", ["x", "\x1c", "y", "\x85", "z"]),  # \x1c is no space here, as it is to Python
    ("", []),
])
def test_pieces_by_hand(work, text, pieces):
    assert [piece.decode() for piece in work.split(text.encode())] == pieces


@BOTH
@pytest.mark.parametrize("other", [b"\xe0\x81\xa1", b"\xf0\x80\x81\xa1", b"\xc1\xa1",
                                   b"\xed\xbf\xbf", b"\xf4\x90\x80\x80"])
def test_bytes_that_are_no_character_are_no_letter(work, other):
    """An `a` in more bytes than it needs; a surrogate; a code point past the last."""
    assert work.split(b"a" + other + b"a") == [b"a", other, b"a"]


@given(BYTES)
def test_pieces_agree_with_the_definition(data):
    pieces = bpe_python.split(data)
    assert b"".join(pieces) == data
    assert bpe_c.split(data) == pieces
    assert bpe_c.count(data) == bpe_python.count(data)


@given(BYTES, BYTES)
def test_a_boundary_is_one_whatever_follows(data, rest):
    place = bpe_python.last_boundary(data)
    assert bpe_c.last_boundary(data) == place
    assert (bpe_python.split(data[:place]) + bpe_python.split(data[place:] + rest)
            == bpe_python.split(data + rest))


def test_nothing_past_the_end_is_read():
    data, n = b"x'll 12abcdefghijkl", bpe_c.ffi.new("int64_t *")
    ends = bpe_c.ffi.new("int64_t[]", len(data))
    for length, expected in ((3, [1, 2, 3]), (2, [1, 2]), (4, [1, 4]), (6, [1, 4, 6])):
        bpe_c.lib.bpe_split(ends, n, bpe_c._bytes(data), bpe_c._classes(), length)
        assert list(ends[0:n[0]]) == expected
        assert bpe_c.split(data[:length]) == bpe_python.split(data[:length])


@BOTH
def test_half_a_character_has_no_class_yet(work):
    for data in (b"a\xc3", b"a\xe4", b"a\xe4\xb8", b"a\xf0\x9f", b"a\xf0\x9f\x98"):
        assert work.last_boundary(data) == 0
        assert work.last_boundary(b"1" + data) == 1
    assert work.last_boundary(b"a\xf0\x9f\x98\x80") == work.last_boundary(b"a\x80") == 1


def test_text_has_boundaries():
    assert bpe_c.last_boundary(b"one two three") == len(b"one two")
    assert bpe_c.last_boundary(b"one,two") == len(b"one")
    assert bpe_c.last_boundary(b"one two " * 1000) == 8 * 1000 - 1
    assert {bpe_c.last_boundary(data) for data in (b"  ", b"onetwo", b"!!", b"")} == {0}


def test_the_classes_are_those_of_unicode():
    if tuple(map(int, unicodedata.unidata_version.split("."))) > (16, 0, 0):
        pytest.skip("this Python knows characters that the tables do not")
    expected = {"L": unicode.LETTER, "N": unicode.NUMBER}
    for code, found in enumerate(unicode.classes()):
        category = unicodedata.category(chr(code))
        if category != "Cn":  # not yet assigned when this Python was made
            want = expected.get(category[0], unicode.OTHER)
            if category[0] == "Z" or (category == "Cc" and chr(code) in "\t\n\v\f\r\x85"):
                want = unicode.SPACE
            assert found == want, f"U+{code:04X} {category}"


# -------------------------------------------------------------------------------------- merging ---

@BOTH
def test_the_example_in_bpe_python(work):
    counts = work.count(b"low lower lowest")
    assert counts == {b"low": 1, b" lower": 1, b" lowest": 1}
    learned = work.train(counts, 4)
    tokens = spelled(learned)
    assert tokens[256:] == [b"ow", b"low", b"lowe", b" lowe"]
    merges = [(left, right, 256 + i) for i, (left, right) in enumerate(learned)]
    assert work.Codec(tokens, merges).encode(b"slowest") == [115, 258, 115, 116]


@st.composite
def vocabularies(draw):
    """Draw (tokens, merges) with merges that a text calls for, in any order."""
    counts = draw(st.dictionaries(BYTES, st.integers(0, 9), max_size=6))
    learned = bpe_python.train(counts, draw(st.integers(0, 30)))
    tokens = [*spelled(learned), b""]
    merges = [(left, right, 256 + i) for i, (left, right) in enumerate(learned)]
    return tokens, draw(st.permutations(merges)), list(counts)


@given(vocabularies(), st.data())
def test_merging_agrees_with_the_definition(vocabulary, data):
    tokens, merges, words = vocabulary
    word = st.sampled_from(words) if words else BYTES
    text = b"".join(data.draw(st.lists(word, max_size=12)))
    assert bpe_c.Codec(tokens, merges).encode(text) == bpe_python.Codec(tokens, merges).encode(text)


@pytest.mark.parametrize("length", [63, 64, 65, 66, 200])
def test_short_and_long_pieces_merge_alike(length):
    """Merge pieces on both sides of the length at which a heap takes over."""
    rng = random.Random(length)
    learned = bpe_python.train({bytes(rng.choices(b"ab", k=80)): 1 for _ in range(9)}, 40)
    tokens, merges = spelled(learned), [(*pair, 256 + i) for i, pair in enumerate(learned)]
    mine, theirs = bpe_c.Codec(tokens, merges), bpe_python.Codec(tokens, merges)
    for _ in range(20):
        text = bytes(rng.choices(b"ab", k=length))
        assert mine.encode(text) == theirs.encode(text)
    assert mine.encode(b"a" * length) == theirs.encode(b"a" * length)


def test_a_token_that_merging_cannot_make_is_not_made():
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b"bc", b"abc"]
    merges = [(97, 98, 256), (98, 99, 257), (97, 257, 258)]  # abc is a + bc, but ab comes first
    for work in (bpe_c, bpe_python):
        assert work.Codec(tokens, merges).encode(b"abc bc") == [256, 99, 32, 257]


@pytest.mark.parametrize("text", [
    "a" * 400_000, " " * 400_000, "ab" * 200_000,
    "".join(random.Random(1).choices("etaoin", k=400_000)),
], ids=["one letter", "spaces", "two letters", "no spaces"])
def test_a_word_of_any_length_takes_linear_time(text):
    start = time.perf_counter()
    tokenizer = BPETokenizer.train(text, 1000)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert time.perf_counter() - start < 10  # half a second; quadratic: minutes


def test_text_longer_than_a_block_has_the_ids_of_its_pieces():
    rng = random.Random(2)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(1, 9))) for _ in range(200)]
    text = " ".join(rng.choices(words, k=150_000))
    tokenizer = BPETokenizer.train(text[:5000], 500)
    assert len(text) > BLOCK * 2
    expected = [index for piece in bpe_c.split(text.encode())
                for index in tokenizer.encode(piece.decode())]
    assert tokenizer.encode(text) == expected
    assert list(tokenizer.encode_iterable([text])) == expected


# ------------------------------------------------------------------------------------- learning ---

@BOTH
def test_merges_by_hand(work):
    """aaabdaaabac: aa comes 4 times. Then "aa a" and "a b" come twice, and aa is greater than a.

    Now it is aaa b d aaa b a c, and "aaa b" comes twice. Last, of pairs that come once, the
    greatest begins with d.
    """
    merges = work.train({b"aaabdaaabac": 1}, 4)
    tokens = spelled(merges)
    assert [(tokens[left], tokens[right]) for left, right in merges] == [
        (b"a", b"a"), (b"aa", b"a"), (b"aaa", b"b"), (b"d", b"aaab")]


@BOTH
def test_a_piece_counts_as_often_as_it_comes(work):
    assert work.train({b"ab": 3, b"cd": 2, b"xcd": 2, b"yz": 0}, 9) == [
        (ord("c"), ord("d")), (ord("a"), ord("b")), (ord("x"), 256)]


@given(st.dictionaries(BYTES, st.integers(0, 9), max_size=8), st.integers(0, 60))
def test_learning_agrees_with_the_definition(counts, n):
    assert bpe_c.train(counts, n) == bpe_python.train(counts, n)


@given(st.lists(st.text("ab", max_size=40), max_size=6), st.integers(0, 60))
def test_learning_agrees_where_pairs_overlap(words, n):
    counts = {word.encode(): i + 1 for i, word in enumerate(words)}
    merges = bpe_c.train(counts, n)
    assert merges == bpe_python.train(counts, n)
    assert len(set(spelled(merges))) == 256 + len(merges)  # no token is made in two ways


def test_a_trained_tokenizer_has_bytes_then_merges_then_special_tokens():
    tokenizer = BPETokenizer.train("hug hug hugs", 260, ["<s>", "</s>"])
    assert tokenizer.vocab_size == 260
    assert tokenizer.special_tokens == {"<s>": 258, "</s>": 259}
    assert tokenizer.encode("hug") == [257] and tokenizer.encode("ug") == [256]  # u g before h u
    assert tokenizer.encode("\0\xff") == [0, 0xC3, 0xBF]
    assert BPETokenizer.train("", 5000).vocab_size == 256
    assert BPETokenizer.train("abc", 5000).vocab_size == 258


def test_texts_and_files_are_documents_of_their_own(tmp_path):
    (tmp_path / "a").write_text("low low lower " * 70_000, newline="")
    (tmp_path / "b").write_text("newest widest\r\n" * 9, newline="")
    texts = [path.read_bytes().decode() for path in (tmp_path / "a", tmp_path / "b")]
    vocab = BPETokenizer.train(texts, 300)._vocab
    assert BPETokenizer.train([tmp_path / "a", tmp_path / "b"], 300)._vocab == vocab
    assert BPETokenizer.train(iter([texts[0], tmp_path / "b"]), 300)._vocab == vocab
    assert BPETokenizer.train(["x", "y"], 300).vocab_size == 256
    alone = BPETokenizer.train(texts[1], 300)._vocab
    assert BPETokenizer.train(tmp_path / "b", 300)._vocab == alone


def test_nothing_is_learned_from_special_tokens():
    parted = BPETokenizer.train("ab<|x|>cd<|x|>ab", 400, ["<|x|>"])
    assert parted._vocab == BPETokenizer.train(["ab", "cd", "ab"], 400)._vocab


@pytest.mark.parametrize("arguments, complaint", [
    ((255,), "vocab_size=255 is less than 256: 256 bytes and 0 special"),
    ((257, ["a b", "c d"]), "vocab_size=257 is less than 258"),
    ((300, ["<s>", "<s>"]), "holds a token twice"),
    ((300, "<s>"), "is not a sequence of strings"),
    ((300, [""]), "'' is not a text of one character"),
    ((300, ["\ud800"]), "is not a text"),
    ((300, ["x"]), "'x' is the files' spelling of another token"),
])
def test_bad_arguments_of_training_are_named(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        BPETokenizer.train("some text", *arguments)


def test_a_file_that_is_not_text_is_named_with_the_byte(tmp_path):
    path = tmp_path / "latin1"
    path.write_bytes(b"x" * (1 << 20) + "naïve".encode("latin-1"))
    with pytest.raises(ValueError, match=f"latin1: is not UTF-8 .* 0xef at offset {(1 << 20) + 2}"):
        BPETokenizer.train(path, 300)
    with pytest.raises(FileNotFoundError):
        BPETokenizer.train(tmp_path / "none", 300)


# ----------------------------------------------------------------------------- the slow backend ---

def test_the_reference_backend_gives_the_same_ids():
    code = ("from pygpt import BPETokenizer\n"
            "t = BPETokenizer.train('the theme of these', 270, ['<s>'])\n"
            "print(t._algorithm.__name__, t.encode('these themes <s>', 'all'))\n")
    outputs = {}
    for backend in ("c", "reference"):
        result = python(code, PYGPT_BACKEND=backend)
        assert result.returncode == 0, result.stderr
        work, outputs[backend] = result.stdout.split(" ", 1)
        assert work == "pygpt.tokenizer." + {"c": "bpe_c"}.get(backend, "bpe_python")
    assert outputs["c"] == outputs["reference"]
