"""Texts as people have them: pipes, directories with pictures in them, marks, damage, failed runs.

Each run is that of a user: pygpt.train, or the command line in a process of its own.
"""

import errno
import io
import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygpt import BPETokenizer, Tokenizer
from pygpt.data import corpus, token_file
from pygpt.config import ConfigError
from pygpt.data.corpus import Corpus, DataError
from pygpt.tokenizer.reading import decode_text
from pygpt.training.trainer import train

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
TINY = ("--n-layer 1 --n-head 2 --n-embd 16 --n-positions 8 --batch-size 4 --max-steps 4 "
        "--warmup-steps 2 --eval-interval 4 --eval-batches 2 --sample-interval 0").split()
TEXT = "".join(f"{a} and {b} make {a + b}.\n" for a in range(9) for b in range(9))
OTHER = TEXT.replace("make", "are")
PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0" + bytes(range(256)) * 4


def pygpt(command, cwd, input=None):
    """Run a shell's command line in which pygpt is the program."""
    script = f'pygpt() {{ "{sys.executable}" -m pygpt "$@"; }}\n{command}'
    return subprocess.run(["bash", "-c", script], cwd=cwd, input=input, capture_output=True,
                          env=ENVIRONMENT, timeout=120)


def refusal(result):
    """The line on standard error of a command that failed."""
    error = result.stderr.decode()
    assert result.returncode in (1, 2), (result.stdout, error)
    assert error.startswith("pygpt: error: ") and error.count("\n") == 1, error
    return error.strip()


def text_of(*paths, **options):
    return "".join(Corpus([str(path) for path in paths], **options).joined())


def tree(path):
    """Every file below a directory with its bytes, and every link."""
    return {os.path.relpath(name, path): os.readlink(name) if os.path.islink(name) else
            None if os.path.isdir(name) else pathlib.Path(name).read_bytes()
            for name in map(str, pathlib.Path(path).rglob("*"))}


@pytest.fixture
def run(tiny):
    """Trains a step of a tiny run, which is far from its end, and returns its records."""
    def run(resume=False, force=False, **changes):
        records = []
        settings = dict(n_layer=1, n_head=1, n_embd=8, max_steps=1000, eval_interval=1)
        callbacks = [records.append, lambda record: record["event"] == "step"]
        train(tiny(**settings | changes), callbacks, resume=resume, force=force)
        return records
    return run


def loss_of(records):
    """The loss of the only step."""
    (loss,) = [record["loss"] for record in records if record["event"] == "step"]
    return loss


@pytest.fixture
def stdin(monkeypatch):
    """Puts bytes in place of standard input."""
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.fixture
def fifo(tmp_path):
    """Makes a FIFO that is written to once, and returns its path."""
    def fifo(name, data):
        path = tmp_path / name
        os.mkfifo(path)

        def write():
            try:
                path.write_bytes(data)
            except OSError:  # its reader had seen enough
                pass
        threading.Thread(target=write, daemon=True).start()
        return path
    return fifo


@pytest.fixture
def long_texts(monkeypatch):
    """Every text counts as long, so its tokens go to a file."""
    monkeypatch.setattr("pygpt.data.token_file.IN_MEMORY", 100)
    monkeypatch.setattr("pygpt.data.dataset.IN_MEMORY", 100)


def warnings(records):
    return [record["text"] for record in records if record["event"] == "warning"]


# -------------------------------------------------------------- a run that fails harms nothing ---

FAILURES = {
    "too short": (b"hi", {}),
    "not UTF-8": (TEXT.encode() + b"\xff", {}),
    "empty": (b"", {}),
    "a prompt that has no tokens": (OTHER.encode(), {"sample_prompts": "\u20ac"}),
    "no tokenizer there": (OTHER.encode(), {"tokenizer": "none"}),
    "no file for validation": (OTHER.encode(), {"val_data": "none.txt"}),
    "a width that heads do not divide": (OTHER.encode(), {"n_embd": 9, "n_head": 2}),
    "no model there": (OTHER.encode(), {"init": "none"}),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_run_that_fails_leaves_an_earlier_one_as_it_was(run, stdin, tmp_path, name, long_texts):
    stdin(TEXT.encode())
    run(data="-")
    before = tree(tmp_path / "out")
    assert before["stdin.txt"] == TEXT.encode()
    data, settings = FAILURES[name]
    stdin(data)
    with pytest.raises((ValueError, OSError)):
        run(data="-", **settings)
    assert tree(tmp_path / "out") == before
    stdin(b"")
    assert run(data="-", resume=True, max_steps=2)[-1]["event"] == "end"


@pytest.mark.parametrize("name", FAILURES)
def test_a_run_that_fails_leaves_nothing(run, stdin, tmp_path, name, long_texts):
    data, settings = FAILURES[name]
    stdin(data)
    with pytest.raises((ValueError, OSError)):
        run(data="-", out=tmp_path / "new" / "out", **settings)
    assert os.listdir(tmp_path) == ["text"]


def test_too_little_memory_leaves_an_earlier_run_as_it_was(run, stdin, tmp_path, monkeypatch):
    stdin(TEXT.encode())
    run(data="-")
    before = tree(tmp_path / "out")
    monkeypatch.setattr("pygpt.training.cost.memory_limits", lambda: (1, 1))
    stdin(OTHER.encode())
    with pytest.raises(MemoryError):
        run(data="-")
    assert tree(tmp_path / "out") == before


def test_a_run_set_aside_goes_on_from_its_own_copies(run, stdin, fifo, tmp_path):
    stdin(TEXT.encode())
    run(data=["-", fifo("f", b"a pipe.")])
    stdin(OTHER.encode())
    run(data="-")
    earlier = tmp_path / "out" / "earlier-1"
    assert (earlier / "stdin.txt").read_text() == TEXT
    assert (earlier / "pipe-2.txt").read_text() == "a pipe."
    assert (tmp_path / "out" / "stdin.txt").read_text() == OTHER
    assert not (tmp_path / "out" / "pipe-2.txt").exists()
    last = run(data=["-", tmp_path / "f"], out=earlier, resume=True, max_steps=2)[-1]
    assert last["event"] == "end"


def test_standard_input_at_the_command_line(tmp_path):
    options = " ".join(TINY)
    assert pygpt(f"pygpt train --data - --out run {options}", tmp_path,
                 TEXT.encode()).returncode == 0
    before = tree(tmp_path)
    assert "too short" in refusal(pygpt(f"echo hi | pygpt train --data - --out run {options}",
                                        tmp_path))
    assert "standard input: is empty" in refusal(
        pygpt(f"pygpt train --data - --out run {options} </dev/null", tmp_path))
    assert "standard input: is not text: byte 0x00 at offset 0" in refusal(
        pygpt(f"pygpt train --data - --out run {options} </dev/zero", tmp_path))
    assert tree(tmp_path) == before
    assert pygpt(f"pygpt train --data - --out run {options} --resume </dev/null",
                 tmp_path).returncode == 0


def test_standard_input_that_cannot_be_read(tmp_path):
    for command in "train --out out", "tokenizer train --out out":
        assert "standard input is closed" in refusal(pygpt(f"pygpt {command} --data - <&-",
                                                            tmp_path))
    assert "standard input is closed" in refusal(
        pygpt("pygpt train --data - --out out 0>/dev/null", tmp_path))
    assert os.listdir(tmp_path) == []
    assert pygpt("pygpt tokenizer train --vocab-size 290 --out tok", tmp_path).returncode == 0
    for command in "encode", "decode":
        assert "standard input is closed" in refusal(pygpt(f"pygpt tokenizer {command} tok <&-",
                                                            tmp_path))


# ---------------------------------------------------------------------------------------- pipes ---

def test_pipes_are_read_once_and_kept(tmp_path):
    (tmp_path / "t").write_text(TEXT)
    (tmp_path / "o").write_text(OTHER)
    options = " ".join(TINY)
    result = pygpt(f"pygpt train --data <(cat t) o <(cat o) --val-data <(cat t) {options} "
                   "--max-steps 2 --out piped", tmp_path)
    assert result.returncode == 0, result.stderr
    copies = {name: text for name, text in tree(tmp_path / "piped").items() if "pipe-" in name}
    assert copies == {"pipe-1.txt": TEXT.encode(), "pipe-3.txt": OTHER.encode(),
                      "pipe-4.txt": TEXT.encode()}
    again = pygpt("pygpt train --config piped/train.json --data t o o --val-data t --out files",
                  tmp_path)
    assert again.returncode == 0, again.stderr
    weights = [(tmp_path / out / "last" / "model.safetensors").read_bytes()
               for out in ("piped", "files")]
    assert weights[0] == weights[1]


def test_a_run_on_pipes_goes_on_without_them(run, fifo, tmp_path):
    paths = dict(data=[fifo("a", TEXT.encode()), tmp_path / "text"],
                 val_data=fifo("b", TEXT.encode()))
    run(**paths)
    for gone in "ab":
        assert run(**paths, resume=True)[-1]["event"] == "end"  # nobody writes to it any more
        os.unlink(tmp_path / gone)
    assert run(**paths, resume=True)[-1]["event"] == "end"


def test_a_pipe_is_named_once(fifo, run, tmp_path, stdin):
    pipe = fifo("p", TEXT.encode())
    os.symlink(pipe, tmp_path / "link")
    stdin(TEXT.encode())
    for settings in (dict(data=[pipe, pipe]), dict(data=pipe, val_data=pipe),
                     dict(data=[pipe, tmp_path / "link"]), dict(data="-", val_data="-")):
        with pytest.raises(ConfigError, match="more than once"):
            run(**settings)
    assert "more than once" in refusal(pygpt(f"cat text | pygpt train --data - /dev/stdin "
                                             f"{' '.join(TINY)}", tmp_path))
    assert not (tmp_path / "out").exists()


def test_an_empty_pipe_and_one_that_is_no_text_are_named(run, fifo, tmp_path):
    for name, data, part in (("e", b"", "is empty"), ("m", b"\xef\xbb\xbf", "is empty"),
                             ("z", bytes(1 << 22), "is not text: byte 0x00 at offset 0"),
                             ("u", "x".encode("utf-16"), "is UTF-16 text"),
                             ("l", b"caf\xe9 " * 9, "byte 0xe9 at offset 3 (errors=replace")):
        path = fifo(name, data)
        with pytest.raises(DataError) as error:
            run(data=path)
        assert str(error.value).startswith(f"{path}: ") and part in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_has_no_text_that_ends_is_refused(run, tmp_path):
    for device in "/dev/zero", "/dev/full", "/dev/urandom":
        for settings in dict(data=device), dict(val_data=device), dict(data=["text", device]):
            with pytest.raises((DataError, FileNotFoundError), match="is a device|text"):
                run(**settings)
        with pytest.raises(DataError, match=f"{device}: is a device, whose text may never end"):
            run(data=device, errors="replace")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(DataError, match="socket: is a socket, whose text may never end"):
            run(data=tmp_path / "socket")
    with pytest.raises(DataError, match="/dev/null: is empty"):
        run(data="/dev/null")
    assert not (tmp_path / "out").exists()


def test_a_terminal_is_read_to_its_end(run, tmp_path):
    master, slave = os.openpty()
    os.write(master, TEXT.encode()[:1000] + b"\n\x04\x04")
    run(data=os.ttyname(slave))
    os.close(master), os.close(slave)
    assert (tmp_path / "out" / "pipe-1.txt").read_bytes() == TEXT.encode()[:1000] + b"\n"


def test_pipes_in_place_of_token_files_are_not_waited_for(run, tmp_path):
    os.mkfifo(tmp_path / "x.bin")
    with pytest.raises(DataError, match="x.bin: is a pipe; a file of tokens must be a regular"):
        run(data=tmp_path / "x.bin")
    with pytest.raises(DataError, match="x.bin: is a pipe"):
        run(val_data=tmp_path / "x.bin")
    (tmp_path / "y.bin").write_bytes(bytes(1000))
    os.mkfifo(tmp_path / "meta.pkl")
    with pytest.raises(DataError, match="meta.pkl: is not a regular file"):
        run(data=tmp_path / "y.bin")


# ------------------------------------------------------- directories and patterns: what is skipped

def library(path):
    """Fill a directory with two texts and one of everything that is none: {name: reason}."""
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
    (text,) = warnings(records)
    assert text.startswith(f"data: 34 files are skipped: {tmp_path}/lib/a00.jpg (is not text: ")
    assert text.count(".jpg (") == 3 and text.endswith(", and 31 more")
    assert '"event": "warning"' in (tmp_path / "out" / "log.jsonl").read_text()
    assert warnings(run(data=tmp_path / "lib", resume=True)) == [text]
    (text,) = warnings(run(val_data=tmp_path / "lib", data=tmp_path / "lib" / "c.txt",
                           tokenizer="byte"))
    assert text.startswith("val_data: 34 files are skipped: ")


def test_one_picture_at_the_command_line(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "cover.png").write_bytes(PICTURE)
    assert refusal(pygpt("pygpt train --data d", tmp_path)).startswith(
        "pygpt: error: d: the directory holds no text that is not empty; 1 file is skipped: "
        "d/cover.png (is not text: byte 0x00 at offset 8")
    assert refusal(pygpt("pygpt train --data 'd/*.png'", tmp_path)).startswith(
        "pygpt: error: d/*.png: the pattern fits no text that is not empty; 1 file is skipped: ")
    assert os.listdir(tmp_path) == ["d"]
    (tmp_path / "d" / "t.txt").write_text(TEXT)
    result = pygpt(f"pygpt train --data d {' '.join(TINY)} --out out", tmp_path)
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
        assert not warnings(first)
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
    assert found.describe_skipped() == (f"2 files are skipped: {tmp_path}/closed (Permission denied), "
                                f"{tmp_path}/ok/c.txt (Permission denied)")


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
        result = pygpt(f"{train} {paths}", tmp_path, MARKED + TEXT.encode())
        assert result.returncode == 0, result.stderr
        assert Tokenizer.from_pretrained(tmp_path / "tok").encode(TEXT) == learned.encode(TEXT)
        assert (b"warning: 1 file is skipped: lib/cover.png" in result.stderr) == ("lib" in paths)
    assert BPETokenizer.train(tmp_path / "marked", 290).encode(TEXT) == learned.encode(TEXT)
    assert "lib/cover.png: is not text" in refusal(pygpt(f"{train} lib/cover.png", tmp_path))
    assert "more than once" in refusal(pygpt(f"{train} - -", tmp_path, b"x"))


def test_encode_and_decode_give_every_byte_back(tmp_path):
    assert pygpt("pygpt tokenizer train --vocab-size 290 --out tok", tmp_path).returncode == 0
    content = MARKED + "text \0 with all\r\n\ufeff sorts\x7f".encode()
    (tmp_path / "file").write_bytes(content)
    result = pygpt("pygpt tokenizer encode tok file | pygpt tokenizer decode tok", tmp_path)
    assert result.stdout == content and result.stderr == b""
    (tmp_path / "file").write_bytes("x".encode("utf-16"))
    assert refusal(pygpt("pygpt tokenizer encode tok file", tmp_path)) == (
        "pygpt: error: file: is UTF-16 text; convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)")
    (tmp_path / "file").write_bytes(b"caf\xe9 ol\xe9")
    assert "errors" not in refusal(pygpt("pygpt tokenizer encode tok file", tmp_path))


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


# ----------------------------------------------------------------- fingerprints and files of tokens

@given(data=st.data(), n=st.sampled_from([1, 100, 3 << 15, (1 << 24) + 5]))
def test_every_token_counts_in_a_fingerprint(data, n):
    view = memoryview(bytearray(2 * n)).cast("H")
    before = token_file.fingerprint(view)
    place = data.draw(st.integers(0, n - 1))
    view[place] = 1
    assert token_file.fingerprint(view) != before
    view[place] = 0
    assert token_file.fingerprint(view) == before


def test_a_fingerprint_of_many_tokens_tells_how_far_it_is():
    told = []
    size = 2 * token_file.REPORTED_EVERY * token_file.PIECE + 100
    token_file.fingerprint(memoryview(bytearray(size)), lambda *args: told.append(args))
    assert [purpose for purpose, *_ in told] == ["fingerprint"] * 2
    assert told[0][1] < told[1][1] <= size and told[0][2] == told[1][2] == size


def encoded_anew(monkeypatch):
    """A list that grows by one whenever a text is encoded."""
    calls, original = [], token_file._parts
    monkeypatch.setattr(token_file, "_parts", lambda *args: calls.append(1) or original(*args))
    return calls


def files_of_tokens(out):
    return sorted((out / "tokens").glob("*"))


def test_a_damaged_file_of_tokens_is_made_again(run, tmp_path, long_texts, monkeypatch):
    run()
    calls = encoded_anew(monkeypatch)
    (path,) = files_of_tokens(tmp_path / "out")
    good = path.read_bytes()
    run(resume=True)
    assert not calls
    for damage in (good[:-2], good[:-1], b"", good + b"\0\0", b"\1" + good[1:], good[:-1] + b"\7"):
        path.write_bytes(damage)
        calls.clear()
        assert run(resume=True)[-1]["event"] == "end"
        assert len(calls) == 1 and path.read_bytes() == good
    os.unlink(path)
    run(resume=True)
    assert path.read_bytes() == good


def test_a_text_that_changed_unseen_is_read_again(run, tmp_path, long_texts):
    text = tmp_path / "text"
    first = run()
    status = text.stat()
    text.write_text(text.read_text().replace("times", "semit"))
    os.utime(text, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert text.stat().st_size == status.st_size
    with pytest.raises(DataError, match="data: the text is no longer the one"):
        run(resume=True)
    assert loss_of(run()) != loss_of(first)


def test_a_bad_byte_at_the_end_is_found_before_the_text_is_encoded(run, tmp_path, long_texts,
                                                                   monkeypatch):
    calls = encoded_anew(monkeypatch)
    (tmp_path / "text").write_bytes(TEXT.encode() + b"\xff")
    for tokenizer in None, "byte", "bpe:300":
        with pytest.raises(DataError, match=f"text: is not UTF-8 .* at offset {len(TEXT)} "):
            run(tokenizer=tokenizer)
    assert not calls


def test_a_text_that_moved_is_found_again(run, tmp_path, long_texts, monkeypatch):
    run()
    os.rename(tmp_path / "text", tmp_path / "moved")
    calls = encoded_anew(monkeypatch)
    run(data=tmp_path / "moved")
    assert not calls and len(files_of_tokens(tmp_path / "out")) == 1


@pytest.mark.parametrize("place", ["pygpt.data.token_file.ENCODING", "pygpt.__version__"])
def test_another_encoder_encodes_anew(run, tmp_path, long_texts, monkeypatch, place):
    run()
    calls = encoded_anew(monkeypatch)
    monkeypatch.setattr(place, "other")
    run()
    assert len(calls) == 1


def test_tokens_that_are_no_longer_used_go(run, tmp_path, long_texts):
    run()
    (first,) = files_of_tokens(tmp_path / "out")
    foreign = ["mine.bin", "notes.txt", "tokens-x.bin", f"{first.name}.old", f"x{first.name}",
               "0123456789abcdef.bin", "a.tmp", first.name.upper()]
    for name in foreign:
        (tmp_path / "out" / "tokens" / name).write_text("mine")
    (tmp_path / "out" / "tokens" / first.name.replace("-", "-a")[:80]).mkdir()
    (tmp_path / "other").write_text(OTHER)
    with pytest.raises(DataError):
        run(data=tmp_path / "other", sample_prompts="\u20ac")
    assert first.exists()
    run(data=tmp_path / "other", val_data=tmp_path / "text", tokenizer="byte")
    assert not first.exists()
    for name in foreign:
        assert (tmp_path / "out" / "tokens" / name).exists() or name == "a.tmp"
    ours = [path for path in files_of_tokens(tmp_path / "out") if path.name not in foreign
            and path.is_file()]
    assert len(ours) == 2
    run(data=tmp_path / "other", val_data=tmp_path / "text", tokenizer="byte", resume=True)
    assert all(path.exists() for path in ours)


def test_a_full_disk_leaves_nothing(run, tmp_path, long_texts, monkeypatch):
    run()
    before = tree(tmp_path / "out")
    (tmp_path / "other").write_text(OTHER)

    def full(descriptor):
        if "tokens-new" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for out in tmp_path / "out", tmp_path / "new":
        with pytest.raises(OSError, match="No space left on device: .*/tokens/"):
            run(data=tmp_path / "other", out=out)
    assert tree(tmp_path / "out") == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("kilobytes", [0, 2])
def test_a_copy_that_finds_the_disk_full_leaves_nothing(tmp_path, kilobytes):
    (tmp_path / "text").write_text(TEXT * 4)
    result = pygpt(f"cat text | (ulimit -f {kilobytes}; pygpt train --data - --out out "
                   f"{' '.join(TINY)})", tmp_path)
    assert "File too large" in refusal(result)
    assert os.listdir(tmp_path) == ["text"]
