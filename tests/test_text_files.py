"""Tests directories and patterns of texts with pictures among them, byte order marks, bad bytes.

Each run is one that a user starts: pygpt.train, or the command line in a process of its own.
"""

import errno
import io
import os
import socket

import pytest
from commands import refusal, shell
from hypothesis import given
from hypothesis import strategies as st
from runs import PICTURE, TEXT, TINY, loss_of, text_of, warnings_of

from pygpt import BPETokenizer, Tokenizer
from pygpt.data import corpus
from pygpt.data.corpus import Corpus, DataError
from pygpt.tokenizer.reading import decode_text


# ------------------------------------------------------- directories and patterns: what is skipped

def library(path):
    """Fill a directory with two texts and with each kind of other file; return {name: reason}."""
    (path / "deep").mkdir(parents=True)
    (path / "a.txt").write_text("a" * 99)
    (path / "deep" / "b.txt").write_text("b" * 99)
    (path / "empty").touch()
    (path / "mark").write_bytes(b"\xef\xbb\xbf")
    files = {
        "picture.png": (PICTURE, "is not text: byte 0x00 at offset 8"),
        "late": (b"x" * (5 << 20) + b"\xff", "is not UTF-8 text: byte 0xff at offset 5242880"),
        "late0": (b"x" * (3 << 20) + b"\0x", "is not text: byte 0x00 at offset 3145728"),
        "latin": (b"caf\xe9 " * 9, "is not UTF-8 text: byte 0xe9 at offset 3"),
        "utf16": ("text".encode("utf-16"), "is UTF-16 text"),
        "utf16le": ("some text\n".encode("utf-16-le"), "seems to be UTF-16LE text"),
        "utf16be": ("some text\n".encode("utf-16-be"), "seems to be UTF-16BE text"),
        "utf32": ("text".encode("utf-32"), "is UTF-32 text"),
        "train.bin": (bytes(100), "is a file of tokens"),
    }
    for name, (data, _) in files.items():
        (path / name).write_bytes(data)
    os.symlink("nowhere", path / "dangling")
    os.symlink("itself", path / "itself")
    os.symlink("..", path / "deep" / "up")
    os.mkfifo(path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path / "socket"))
    return {name: reason for name, (_, reason) in files.items()} | {
        "dangling": "No such file", "itself": "Too many levels", "fifo": "is a pipe",
        "socket": "is a socket"}


def test_files_of_a_directory_that_are_no_text_are_skipped_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("pygpt.data.sources.NAMES_SHOWN", 99)
    reasons = library(tmp_path / "lib") | {"deep/up": "is a link to a directory"}
    found = Corpus([str(tmp_path / "lib")])
    assert "".join(found.joined()) == "a" * 99 + "\n" + "b" * 99
    assert {os.path.relpath(name, tmp_path / "lib") for name, *_ in found.skipped} == {*reasons}
    sentence = found.describe_skipped()
    assert sentence.startswith(f"{len(reasons)} files are skipped: ")
    for name, reason in reasons.items():
        assert f"{tmp_path / 'lib' / name} ({reason}" in sentence


def test_files_that_a_pattern_fits_are_skipped_by_name(tmp_path):
    reasons = library(tmp_path / "lib")
    for pattern, text in (("*", "a" * 99), ("**", "a" * 99 + "\n" + "b" * 99),
                          ("**/*", "a" * 99 + "\n" + "b" * 99)):
        found = Corpus([str(tmp_path / "lib" / pattern)])
        assert "".join(found.joined()) == text, pattern
        names = {os.path.relpath(name, tmp_path / "lib") for name, *_ in found.skipped}
        assert names == {*reasons} | ({"deep/up"} if "**" in pattern else set())


def test_links_to_directories_above_do_not_multiply_the_text(tmp_path):
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "a.txt").write_text("a")
    (tmp_path / "d" / "e" / "b.txt").write_text("b")
    for name in "xyz":  # a walk along them would take 3^40 steps
        os.symlink("..", tmp_path / "d" / name)
    os.symlink("a.txt", tmp_path / "d" / "again.txt")
    for path in ("d", "d/**", "d/**/*.txt", "**/*.txt", "**/d/**/*.txt", "*/**"):
        assert text_of(tmp_path / path) == "a\nb", path
    assert text_of(tmp_path / "**" / "e" / "*.txt") == "b"
    assert text_of(tmp_path / "**" / "[a-z].txt") == "a\nb"


def test_patterns_below_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "b.txt").write_text("b")
    monkeypatch.chdir(tmp_path)
    for pattern in "**", "**/*.txt", "d/**", "*/*/*", "./**/b*", "d//**":
        assert text_of(pattern) == "b", pattern
    assert [source.path for source in Corpus(["**"]).sources] == ["d/e/b.txt"]


def test_skipped_files_are_told_and_logged(run, tmp_path):
    library(tmp_path / "lib")
    for number in range(20):
        (tmp_path / "lib" / f"a{number:02}.jpg").write_bytes(PICTURE)
    (tmp_path / "lib" / "c.txt").write_text(TEXT)
    records = run(data=tmp_path / "lib")
    (text,) = warnings_of(records)
    assert text.startswith(f"data: 34 files are skipped: {tmp_path}/lib/a00.jpg (is not text: ")
    assert text.count(".jpg (") == 3 and text.endswith(", and 31 more")
    assert '"event": "warning"' in (tmp_path / "out" / "log.jsonl").read_text()
    assert warnings_of(run(data=tmp_path / "lib", resume=True)) == [text]
    (text,) = warnings_of(run(val_data=tmp_path / "lib", data=tmp_path / "lib" / "c.txt",
                           tokenizer="byte"))
    assert text.startswith("val_data: 34 files are skipped: ")


def test_one_picture_at_the_command_line(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "cover.png").write_bytes(PICTURE)
    assert refusal(shell("pygpt train --data d", tmp_path)).startswith(
        "pygpt: error: d: the directory holds no text that is not empty; 1 file is skipped: "
        "d/cover.png (is not text: byte 0x00 at offset 8")
    assert refusal(shell("pygpt train --data 'd/*.png'", tmp_path)).startswith(
        "pygpt: error: d/*.png: the pattern fits no text that is not empty; 1 file is skipped: ")
    assert os.listdir(tmp_path) == ["d"]
    (tmp_path / "d" / "t.txt").write_text(TEXT)
    result = shell(f"pygpt train --data d {' '.join(TINY)} --out out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert b"warning: --data: 1 file is skipped: d/cover.png (is not text" in result.stdout


@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_a_file_named_itself_is_refused_with_advice_that_fits(tmp_path, errors):
    cases = [
        (PICTURE, "is not text: byte 0x00 at offset 8"),
        (b"\xff\xd8\xff\xe0\x10JFIF\1\1\1\x02\x10" * 30, "is not text: byte 0xff at offset 0"),
        (b"a text with \0 in it" + b"x" * 9999,
         "is not text: byte 0x00 at offset 12 (tr -d '\\000' takes such bytes out)"),
    ] + [("grüße\n".encode(encoding),
          f"is {encoding[:6].upper()} text; convert it to UTF-8 first "
          f"(iconv -f {encoding[:6].upper()} -t UTF-8)") for encoding in ("utf-16", "utf-32")
         ] + [("grüße\n".encode(encoding), f"seems to be {encoding.upper()} text without a byte "
               f"order mark; convert it to UTF-8 first (iconv -f {encoding.upper()} -t UTF-8)")
              for encoding in ("utf-16le", "utf-16be")]
    for content, message in cases:
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(DataError) as error:
            text_of(tmp_path / "file", errors=errors)
        assert str(error.value) == f"{tmp_path / 'file'}: {message}"


def test_replacing_is_no_advice_for_a_text_of_which_little_would_be_left(tmp_path):
    for encoding, text in (("koi8-r", "Война и мир. "), ("cp932", "ゆきぐに。")):
        (tmp_path / "file").write_bytes(20 * text.encode(encoding))
        with pytest.raises(DataError, match="is not UTF-8 text: byte .* at offset 0 .*iconv"):
            text_of(tmp_path / "file")


def test_the_run_s_own_directory_is_no_text(run, tmp_path):
    (tmp_path / "lib" / "deep").mkdir(parents=True)
    (tmp_path / "lib" / "a.txt").write_text(TEXT)
    for name, data in (("d", tmp_path / "lib"), ("p", str(tmp_path / "lib" / "**"))):
        settings = dict(data=data, out=tmp_path / "lib" / "deep" / name)
        first = run(**settings)
        assert run(**settings, resume=True)[-1]["event"] == "end"
        assert loss_of(run(**settings)) == loss_of(first)
        assert not warnings_of(first)
        os.rename(tmp_path / "lib" / "deep" / name, tmp_path / name)
    with pytest.raises(DataError, match="lib: is the directory that the run writes to"):
        run(data=tmp_path / "lib", out=tmp_path / "lib")


def test_directories_and_files_that_cannot_be_read_are_skipped(tmp_path, monkeypatch):
    for name in "ok/a.txt", "closed/b.txt", "ok/c.txt":
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name[-5])
    scandir, read_text = os.scandir, corpus.read_text

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", lambda path: (
        refuse(path) if str(path).endswith("closed") else scandir(path)))
    monkeypatch.setattr(corpus, "read_text", lambda path, *rest, **options: (
        refuse(path) if str(path).endswith("c.txt") else read_text(path, *rest, **options)))
    found = Corpus([str(tmp_path)])
    assert "".join(found.joined()) == "a"
    assert found.describe_skipped() == (
        f"2 files are skipped: {tmp_path}/closed (Permission denied), {tmp_path}/ok/c.txt "
        "(Permission denied)")


# -------------------------------------------------------------------- marks, and one reader of text

MARKED = b"\xef\xbb\xbf"


def test_a_byte_order_mark_is_no_text(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(MARKED + name.encode() * 50)
    assert text_of(tmp_path / "a", tmp_path / "b") == "a" * 50 + "\n" + "b" * 50
    assert text_of(tmp_path / "[ab]") == "a" * 50 + "\n" + "b" * 50
    for errors in "strict", "replace":
        assert text_of(tmp_path / "a", errors=errors) == "a" * 50
    (tmp_path / "c").write_bytes(MARKED + b"ab" * 50 + MARKED)
    assert text_of(tmp_path / "c") == "ab" * 50 + "\ufeff"  # elsewhere it is a character
    (tmp_path / "c").write_bytes(MARKED)
    with pytest.raises(DataError, match="c: the file is empty"):
        text_of(tmp_path / "c")


@pytest.mark.parametrize("source", ["file", "standard input", "pipe", "val_data"])
def test_a_marked_text_trains_as_one_without(run, fifo, stdin, tmp_path, source):
    marked = MARKED + TEXT.encode()
    (tmp_path / "text").write_text(TEXT)
    (tmp_path / "marked").write_bytes(marked)
    stdin(marked)
    paths = {"file": dict(data=tmp_path / "marked"), "standard input": dict(data="-"),
             "pipe": dict(data=tmp_path / "p"), "val_data": dict(val_data=tmp_path / "marked")}
    if source == "pipe":
        fifo("p", marked)
    plain, marked_run = run(), run(**paths[source])
    if source == "val_data":
        assert Tokenizer.from_pretrained(tmp_path / "out" / "last").vocab_size == len(set(TEXT))
    else:
        assert loss_of(marked_run) == loss_of(plain)


def test_tokenizer_train_reads_text_as_training_does(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "t").write_text(TEXT)
    (tmp_path / "lib" / "cover.png").write_bytes(PICTURE)
    (tmp_path / "marked").write_bytes(MARKED + TEXT.encode())
    train = "pygpt tokenizer train --vocab-size 290 --out tok --data"
    learned = BPETokenizer.train(TEXT, 290, ["<|endoftext|>"])
    for paths in ("marked", "lib", "'lib/*'", "<(cat marked)", "-"):
        result = shell(f"{train} {paths}", tmp_path, MARKED + TEXT.encode())
        assert result.returncode == 0, result.stderr
        assert Tokenizer.from_pretrained(tmp_path / "tok").encode(TEXT) == learned.encode(TEXT)
        assert (b"warning: 1 file is skipped: lib/cover.png" in result.stderr) == ("lib" in paths)
    assert BPETokenizer.train(tmp_path / "marked", 290).encode(TEXT) == learned.encode(TEXT)
    assert "lib/cover.png: is not text" in refusal(shell(f"{train} lib/cover.png", tmp_path))
    assert "more than once" in refusal(shell(f"{train} - -", tmp_path, b"x"))


def test_encode_and_decode_give_every_byte_back(tmp_path):
    assert shell("pygpt tokenizer train --vocab-size 290 --out tok", tmp_path).returncode == 0
    content = MARKED + "text \0 with all\r\n\ufeff sorts\x7f".encode()
    (tmp_path / "file").write_bytes(content)
    result = shell("pygpt tokenizer encode tok file | pygpt tokenizer decode tok", tmp_path)
    assert result.stdout == content and result.stderr == b""
    (tmp_path / "file").write_bytes("x".encode("utf-16"))
    assert refusal(shell("pygpt tokenizer encode tok file", tmp_path)) == (
        "pygpt: error: file: is UTF-16 text; convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)"
        "\n")
    (tmp_path / "file").write_bytes(b"caf\xe9 ol\xe9")
    assert "errors" not in refusal(shell("pygpt tokenizer encode tok file", tmp_path))


@given(text=st.text(max_size=40), is_marked=st.booleans(), part=st.integers(1, 9))
def test_any_text_comes_through_however_it_is_cut(text, is_marked, part):
    data = (MARKED if is_marked else b"") + text.encode("utf-8", "replace")
    plain = data.decode().removeprefix("\ufeff")
    assert "".join(decode_text(io.BytesIO(data), "x", is_exact=True,
                               part_bytes=part)) == data.decode()
    if "\0" not in text:
        assert "".join(decode_text(io.BytesIO(data), "x", part_bytes=part)) == plain


@given(data=st.binary(max_size=300), errors=st.sampled_from(["strict", "replace"]),
       part=st.sampled_from([3, 64, 1 << 20]))
def test_any_bytes_are_text_or_named(data, errors, part):
    try:
        text = "".join(decode_text(io.BytesIO(data), "x", errors, part_bytes=part))
    except DataError as error:
        assert str(error).startswith("x: ") and "\n" not in str(error)
    else:
        assert text == data.decode("utf-8", errors).removeprefix("\ufeff") and "\0" not in text


@pytest.mark.parametrize("place", [0, 5, 8, 11, 12, 13])
@pytest.mark.parametrize("bad", [b"\xff", b"\xe2\x82", b"\xc3"])
def test_the_offset_is_that_of_the_byte(bad, place):
    data = bytearray("abcdé→xyzabcdefghijklm".encode())
    data[place:place] = bad
    for part in (1, 2, 3, 4, 7, 100):
        try:
            bytes(data).decode()
            continue
        except UnicodeDecodeError as error:
            with pytest.raises(DataError, match=f"at offset {error.start} "):
                list(decode_text(io.BytesIO(bytes(data)), "x", part_bytes=part,
                                 may_suggest_replace=True))
