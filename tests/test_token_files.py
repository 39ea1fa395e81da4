"""Tests other programs' files of tokens, and their meta.pkl: it is read as data, never as code."""

import os
import pickle
from array import array

import pytest
from commands import assert_refused, pygpt
from hypothesis import given
from hypothesis import strategies as st
from runs import records_of

from pygpt.config import TrainConfig
from pygpt.data import plain_pickle, token_file
from pygpt.data.corpus import DataError
from pygpt.data.plain_pickle import PickleError
from pygpt.tokenizer import CharTokenizer

META = {"vocab_size": 3, "itos": dict(enumerate("xyz")), "stoi": {"x": 0, "y": 1, "z": 2}}
WORDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.integers() | st.text(), inner), max_leaves=9)


def run(tmp_path, **settings):
    """Train one step on train.bin and return the records."""
    return records_of(TrainConfig(**dict(
        data=tmp_path / "train.bin", out=tmp_path / "out", n_layer=1, n_head=1, n_embd=8,
        n_positions=8, batch_size=2, max_steps=1, sample_interval=0) | settings))


@pytest.fixture
def nanogpt(tmp_path):
    """Return a directory as nanoGPT's character scripts leave it."""
    (tmp_path / "train.bin").write_bytes(array("H", [0, 1, 2, 1] * 50).tobytes())
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(META))
    return tmp_path


# ----------------------------------------------------------------------------------- .bin files ---

@pytest.mark.parametrize("content, message", [
    (b"", "0 bytes are not one or more tokens of 2 bytes each"),
    (b"\0", "1 bytes are not one or more tokens of 2 bytes each"),
    (b"\0" * 401, "401 bytes are not one or more tokens of 2 bytes each"),
    (array("H", [0] * 99 + [3]).tobytes(), r"token 3 at offset 198 is not in 0\.\.2"),
    (array("H", [65535] * 99).tobytes(), r"token 65535 at offset 0 is not in 0\.\.2"),
    (array("H", [1] * 7).tobytes(), "the text is too short"),
])
@pytest.mark.parametrize("place", ["data", "val_data"])
def test_a_bad_file_of_tokens_is_named_and_leaves_nothing(nanogpt, content, message, place):
    (nanogpt / "bad.bin").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        run(nanogpt, **{place: nanogpt / "bad.bin"})
    assert "bad.bin: " in str(error.value) or "too short" in str(error.value)
    assert not (nanogpt / "out").exists()


def test_a_wide_vocabulary_takes_four_bytes_a_token(nanogpt, monkeypatch):
    monkeypatch.setattr(token_file, "code_for", lambda vocab_size: "I")
    (nanogpt / "train.bin").write_bytes(bytes(402))
    with pytest.raises(DataError, match="402 bytes are not one or more tokens of 4 bytes each"):
        run(nanogpt)
    (nanogpt / "train.bin").write_bytes(bytes(400))
    assert run(nanogpt)[-1]["event"] == "end"


def test_what_is_no_file_of_tokens(nanogpt):
    with pytest.raises(FileNotFoundError, match="none.bin"):
        run(nanogpt, data=nanogpt / "none.bin")
    os.symlink("loop.bin", nanogpt / "loop.bin")
    with pytest.raises(OSError, match="loop.bin"):
        run(nanogpt, data=nanogpt / "loop.bin")
    (nanogpt / "dir.bin").mkdir()
    with pytest.raises(DataError, match="dir.bin: the directory holds no file"):
        run(nanogpt, data=nanogpt / "dir.bin")
    for others in ([nanogpt / "train.bin"], ["-"], [nanogpt / "meta.pkl"]):
        with pytest.raises(DataError, match="a file of tokens cannot be joined"):
            run(nanogpt, data=[nanogpt / "train.bin", *others])
    for pattern in ("*.bin", "**"):
        with pytest.raises(DataError, match="train.bin .is a file of tokens, which has to be nam"):
            os.path.exists(nanogpt / "meta.pkl") and os.unlink(nanogpt / "meta.pkl")
            run(nanogpt, data=str(nanogpt / pattern))
    with pytest.raises(DataError, match="no meta.pkl beside it"):
        run(nanogpt)


# ------------------------------------------------------------------------------------- meta.pkl ---

@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@given(value=WORDS)
def test_plain_values_come_back(protocol, value):
    assert plain_pickle.loads(pickle.dumps(value, protocol)) == value


def test_a_value_that_occurs_twice_is_one():
    inner = ["x"]
    value = plain_pickle.loads(pickle.dumps({"a": inner, "b": inner}))
    assert value == {"a": ["x"], "b": ["x"]} and value["a"] is value["b"]


@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_value_or_refused(data):
    for start in b"", b"\x80\x04", b"\x80\x04]", b"\x80\x04}(":
        try:
            plain_pickle.loads(start + data)
        except PickleError:
            pass


@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), protocol=st.integers(0, 5),
       cut=st.booleans())
def test_a_damaged_pickle_is_a_value_or_refused(place, byte, protocol, cut):
    data = bytearray(pickle.dumps(META, protocol))
    place %= len(data)
    data[place] = byte
    try:
        token_file._tokenizer_of(plain_pickle.loads(bytes(data[:place] if cut else data)))
    except ValueError:  # PickleError is one
        pass


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    "a call": pickle.dumps(Call(exec, "raise SystemExit('it was run')")),
    "a call as value": pickle.dumps({"itos": {0: Call(exec, "raise SystemExit('it was run')")}}),
    "a call, protocol 0": pickle.dumps(Call(exec, "raise SystemExit('it was run')"), 0),
    "a class": b"cos\nsystem\n.",
    "an instance": b"(ios\nsystem\n.",
    "an extension": b"\x82\x01.",
    "a persistent id": b"Px\n.",
    "an object built": b"\x80\x02}}b.",
    "a huge memo": b"\x80\x02}r\xff\xff\xff\xff.",  # pickle makes a table of 64 GB
    "a huge text": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x00.",
    "a huge frame": b"\x80\x04\x95" + b"\xff" * 7 + b"\x00.",
    "a number of many digits": b"I" + b"1" * 10**6 + b"\n.",
    "a list in itself": b"\x80\x04]\x94h\x00a.",
    "deep lists": b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    "deep tuples": b")" + b"\x85" * 10**5 + b".",
    "a list as key": b"\x80\x04}]K\x01s.",
    "no end": b"\x80\x04}",
    "nothing": b"",
    "no pickle": b"\xff\xfe junk",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_meta_file_is_refused_by_name(nanogpt, name):
    (nanogpt / "meta.pkl").write_bytes(HOSTILE[name])
    with pytest.raises(DataError) as error:
        run(nanogpt)
    message = str(error.value)
    assert message.startswith(f"{nanogpt / 'meta.pkl'}: is not a vocabulary of characters (")
    assert "\n" not in message and len(message) < 400
    assert not (nanogpt / "out").exists()


@pytest.mark.parametrize("itos", [
    None, 5, "xyz", [], {}, {1: "a"}, {0: "a", 2: "b"}, {0: "ab"}, {0: ""}, {0: 5}, {0: None},
    {0: "a", 1: "a"}, {"0": "a"}, {0: "\ud800"}, ["ab"], [["a"]], {0: {}}])
def test_a_meta_file_that_names_no_characters_is_refused_by_name(nanogpt, itos):
    (nanogpt / "meta.pkl").write_bytes(pickle.dumps({"itos": itos}))
    with pytest.raises(DataError, match="meta.pkl: is not a vocabulary of characters"):
        run(nanogpt)


@pytest.mark.parametrize("meta", [None, [], "x", 5, {}, {"stoi": {}}, {"itos": None}])
def test_a_meta_file_without_a_vocabulary_is_refused_by_name(nanogpt, meta):
    (nanogpt / "meta.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(DataError, match="meta.pkl: is not a vocabulary of characters"):
        run(nanogpt)


@given(value=st.fixed_dictionaries({"itos": WORDS}) | WORDS)
def test_any_meta_file_is_a_vocabulary_or_refused(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("meta")
    (path / "meta.pkl").write_bytes(pickle.dumps(value))
    try:
        tokenizer = token_file.tokenizer_beside(str(path / "train.bin"))
    except DataError as error:
        assert str(error).startswith(f"{path / 'meta.pkl'}: ")
    else:
        assert isinstance(tokenizer, CharTokenizer) and tokenizer.vocab_size > 0


def test_a_meta_file_that_is_no_file(nanogpt, monkeypatch):
    monkeypatch.setattr(token_file, "MOST_META_BYTES", 10)
    with pytest.raises(DataError, match="characters .it has more than 10 bytes"):
        run(nanogpt)
    os.unlink(nanogpt / "meta.pkl")
    os.symlink("nowhere", nanogpt / "meta.pkl")
    with pytest.raises(FileNotFoundError, match="meta.pkl"):
        run(nanogpt)
    os.unlink(nanogpt / "meta.pkl")
    (nanogpt / "meta.pkl").mkdir()
    with pytest.raises(OSError, match="meta.pkl"):
        run(nanogpt)


def test_the_command_line_says_it_in_one_line(nanogpt):
    (nanogpt / "meta.pkl").write_bytes(HOSTILE["a call"])
    result = pygpt("train", "--data", nanogpt / "train.bin", "--out", nanogpt / "out")
    assert_refused(result, 1, "meta.pkl: is not a vocabulary of characters")
