"""Tests corpus and dataset: texts as people have them become tokens, and a bad byte is named."""

import io
import os
import pickle
from array import array

import pytest
from runs import records_of, text_of

from pygpt.data import token_file
from pygpt.config import ConfigError, TrainConfig
from pygpt.data.corpus import Corpus, DataError, python_reference
from pygpt.data.dataset import Dataset
from pygpt.cli.terminal import Reporter
from pygpt.tokenizer import CharTokenizer


def dataset(tmp_path, **settings):
    config = TrainConfig(**dict(n_positions=4, out=tmp_path / "out") | settings)
    return Dataset(config, None, None, lambda: os.makedirs(config.out, exist_ok=True))


def test_files_are_read_as_they_are_and_joined(tmp_path):
    (tmp_path / "a").write_bytes("eins\r\nä".encode())
    (tmp_path / "b").write_bytes(b"two\n")
    assert text_of(tmp_path / "a", tmp_path / "b") == "eins\r\nä\ntwo\n"


def test_without_files_there_is_pythons_reference():
    assert text_of() == python_reference()
    assert len(python_reference()) > 300_000 and "assert" in python_reference()


def test_directories_and_patterns(tmp_path):
    for name in ("b.txt", "a.txt", "deep/c.txt", ".git/d.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name[0] if name[0] != "d" else "c")
    (tmp_path / "empty.txt").touch()
    assert text_of(tmp_path) == "a\nb\nc"
    assert text_of(tmp_path / "*.txt") == "a\nb"
    assert text_of(tmp_path / "**" / "*.txt") == "a\nb\nc"
    (tmp_path / "[1].txt").write_text("one")  # a file is a file, whatever its name
    assert text_of(tmp_path / "[1].txt") == "one"
    (tmp_path / "none").mkdir()
    for path, what in (("none", "directory holds no file"), ("*.md", "pattern fits no file")):
        with pytest.raises(DataError, match=what):
            text_of(tmp_path / path)
    with pytest.raises(FileNotFoundError):
        text_of(tmp_path / "missing.txt")


@pytest.mark.parametrize("content, message", [
    (b"", "the file is empty"),
    (b"abc\xff\xfe", "is not UTF-8 text: byte 0xff at offset 3 (errors=replace goes on)"),
    (b"abc\xe2\x82", "is not UTF-8 text: byte 0xe2 at offset 3 (errors=replace goes on)"),
    (b"x" * ((1 << 20) - 1) + b"\xe2\x82z", "is not UTF-8 text: byte 0xe2 at offset 1048575 "
     "(errors=replace goes on)"),
])
def test_an_unusable_file_is_named(tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(DataError) as error:
        text_of(tmp_path / "bad.txt")
    assert str(error.value) == f"{tmp_path / 'bad.txt'}: {message}"
    if content:
        assert text_of(tmp_path / "bad.txt", errors="replace") == content.decode(errors="replace")


def test_a_character_across_two_parts(tmp_path):
    content = "x" * ((1 << 20) - 1) + "€" * 5
    (tmp_path / "a").write_bytes(content.encode())
    assert text_of(tmp_path / "a") == content


def test_standard_input_is_kept(tmp_path, stdin):
    stdin(b"abcabc" * 20)
    data = dataset(tmp_path, data="-")
    assert data.tokenizer.decode(data.train) == ("abcabc" * 20)[:108]
    assert not (tmp_path / "out" / "stdin.txt").exists()
    data.keep()
    assert os.listdir(tmp_path / "out") == ["stdin.txt"]
    assert (tmp_path / "out" / "stdin.txt").read_text() == "abcabc" * 20
    with pytest.raises(ConfigError, match="more than once"):
        dataset(tmp_path, data="-", val_data="-")


def test_long_texts_go_to_a_mapped_file_once(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("some text\n" * 500)
    short = dataset(tmp_path, data=tmp_path / "a")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("pygpt.data.token_file.IN_MEMORY", 1000)
    monkeypatch.setattr("pygpt.data.dataset.IN_MEMORY", 1000)
    monkeypatch.setattr("pygpt.data.corpus.PART_BYTES", 300)
    long = dataset(tmp_path, data=tmp_path / "a")
    assert long.train == short.train and long.val == short.val
    assert long.train_fingerprint == short.train_fingerprint
    (file,) = (tmp_path / "out" / "tokens").iterdir()
    assert file.stat().st_size == 2 * 5000
    monkeypatch.setattr(CharTokenizer, "encode_parts", None)  # the second time it is found
    assert dataset(tmp_path, data=tmp_path / "a").train == short.train
    monkeypatch.undo()
    (tmp_path / "a").write_text("another text\n" * 500)
    assert dataset(tmp_path, data=tmp_path / "a").train != short.train


def test_progress_with_a_long_text_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("pygpt.data.dataset.IN_MEMORY", 1000)
    monkeypatch.setattr("pygpt.data.corpus.PART_BYTES", 400)
    for name in "ab":
        (tmp_path / name).write_text("ä" * 500)
    (tmp_path / "short").write_text("ä" * 500)
    config = TrainConfig(data=[tmp_path / "a", tmp_path / "b"], val_data=tmp_path / "short",
                         out=tmp_path / "out", n_layer=1, n_head=1, n_embd=8, n_positions=8,
                         max_steps=1, sample_interval=0)
    records = records_of(config)
    told = [record for record in records if record["event"] == "prepare"]
    assert told == records[: len(told)]
    for purpose in ("vocabulary", "tokens"):
        taken = [record["bytes_read"] for record in told if record["purpose"] == purpose]
        assert taken == [400, 800, 1000, 1000, 1400, 1800, 2000, 2000]
    assert all(record["bytes"] == 2000 and record["step"] == 0 for record in told)
    screen = io.StringIO()
    reporter = Reporter(screen)
    for record in told:
        reporter(record)
    assert screen.getvalue() == "reading the text for its vocabulary: 0 MB of 0 MB, 0:00 left\n"


def test_wide_vocabularies_take_four_bytes():
    assert token_file.code_for(1 << 16) == "H" and token_file.code_for((1 << 16) + 1) == "I"


class WithEnd(CharTokenizer):
    """Stands in for a tokenizer with an end-of-text token; it can only encode."""

    special_tokens = {"<|endoftext|>": 9}
    vocab_size = 10

    def encode_parts(self, chunks, allowed_special):
        assert allowed_special == "all"
        yield self.encode("".join(chunks))


def test_an_end_of_text_token_keeps_documents_apart(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name * 2)
    corpus = Corpus([str(tmp_path / "a"), str(tmp_path / "b")])
    files = token_file.TokenFiles(tmp_path)
    assert files.encode(corpus, WithEnd("ab")).tolist() == [0, 0, 9, 1, 1, 9]
    assert files.encode(corpus, CharTokenizer("ab\n")).tolist() == [0, 0, 2, 1, 1]


def test_a_nanogpt_directory_is_taken_as_it_is(tmp_path):
    array("H", [0, 1, 2, 1] * 10).tofile(open(tmp_path / "train.bin", "wb"))
    array("H", [2, 1, 0] * 5).tofile(open(tmp_path / "val.bin", "wb"))
    files = dict(data=tmp_path / "train.bin", val_data=tmp_path / "val.bin")
    with pytest.raises(DataError, match="no meta.pkl beside it, and no tokenizer was named"):
        dataset(tmp_path, **files)
    meta = {"vocab_size": 3, "itos": dict(enumerate("xyz")), "stoi": {"x": 0, "y": 1, "z": 2}}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    data = dataset(tmp_path, **files)
    assert data.train.tolist() == [0, 1, 2, 1] * 10 and data.val.tolist() == [2, 1, 0] * 5
    assert data.tokenizer.encode("zx") == [2, 0]
    CharTokenizer("abc").save_pretrained(tmp_path / "tok")
    data = dataset(tmp_path, **files, tokenizer=tmp_path / "tok")
    assert data.tokenizer.decode(data.val[:3]) == "cba"
    CharTokenizer("ab").save_pretrained(tmp_path / "tok")
    with pytest.raises(DataError, match=r"train.bin: token 2 at offset 4 is not in 0\.\.1"):
        dataset(tmp_path, **files, tokenizer=tmp_path / "tok")


@pytest.mark.parametrize("code", "HI")
@pytest.mark.parametrize("place", [0, token_file.CHECKED_AT_ONCE - 1, token_file.CHECKED_AT_ONCE,
                                   token_file.CHECKED_AT_ONCE + 6])
def test_a_token_out_of_range_is_found_wherever_it_is(tmp_path, code, place):
    ids = array(code, bytes((token_file.CHECKED_AT_ONCE + 7) * array(code).itemsize))
    ids[place] = 512
    path = tmp_path / "x.bin"
    path.write_bytes(ids.tobytes())
    with pytest.raises(DataError, match=rf"token 512 at offset {place * ids.itemsize} is not in "
                                        r"0\.\.511"):
        token_file.map_tokens(path, code, 512)
    assert token_file.map_tokens(path, code, 513)[place] == 512


class Malicious:
    def __reduce__(self):
        return os.system, ("touch /tmp/pygpt-was-here",)


@pytest.mark.parametrize("content", [b"", b"\x80junk", pickle.dumps({"itos": Malicious()}),
                                     pickle.dumps([1]), pickle.dumps({"itos": {1: "a"}})])
def test_a_foreign_meta_file_is_data_only(tmp_path, content):
    array("H", range(20)).tofile(open(tmp_path / "train.bin", "wb"))
    (tmp_path / "meta.pkl").write_bytes(content)
    with pytest.raises(DataError, match="meta.pkl: is not a vocabulary of characters"):
        dataset(tmp_path, data=tmp_path / "train.bin")


def test_bad_token_files(tmp_path):
    for content, part in ((b"", "0 bytes"), (b"abc", "3 bytes are not one or more tokens")):
        (tmp_path / "x.bin").write_bytes(content)
        with pytest.raises(DataError, match=part):
            token_file.map_tokens(tmp_path / "x.bin", "H")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="cannot be joined"):
        Corpus([str(tmp_path / "x.bin"), str(tmp_path / "a.txt")])


def test_a_file_for_validation(tmp_path):
    (tmp_path / "a").write_text("abcdefgh" * 3)
    (tmp_path / "b").write_text("hgfedcba")
    data = dataset(tmp_path, data=tmp_path / "a", val_data=tmp_path / "b")
    assert len(data.train) == 24 and data.tokenizer.decode(data.val) == "hgfedcba"
    (tmp_path / "b").write_text("abc")
    with pytest.raises(DataError, match="val_data: the text is too short: it has 3 tokens"):
        dataset(tmp_path, data=tmp_path / "a", val_data=tmp_path / "b")


def test_prompts_are_looked_at_before_training(tmp_path):
    (tmp_path / "a").write_text("abcdefgh" * 10)
    assert dataset(tmp_path, data=tmp_path / "a", sample_prompts=["ab", "c"]).prompts == [
        ("ab", [0, 1]), ("c", [2])]
    for prompt, part in (("aX", "'X'"), ("abcde", "5 tokens, more than n_positions=4")):
        with pytest.raises(DataError, match=part):
            dataset(tmp_path, data=tmp_path / "a", sample_prompts=prompt)
