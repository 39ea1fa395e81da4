"""Tests texts from standard input and pipes, and that a run which fails changes nothing.

Each run is one that a user starts: pygpt.train, or the command line in a process of its own.
"""

import os
import socket

import pytest
from commands import refusal, shell
from runs import OTHER, TEXT, TINY, tree

from pygpt.config import ConfigError
from pygpt.data.corpus import DataError


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
    assert shell(f"pygpt train --data - --out run {options}", tmp_path,
                 TEXT.encode()).returncode == 0
    before = tree(tmp_path)
    assert "too short" in refusal(shell(f"echo hi | pygpt train --data - --out run {options}",
                                        tmp_path))
    assert "standard input: is empty" in refusal(
        shell(f"pygpt train --data - --out run {options} </dev/null", tmp_path))
    assert "standard input: is not text: byte 0x00 at offset 0" in refusal(
        shell(f"pygpt train --data - --out run {options} </dev/zero", tmp_path))
    assert tree(tmp_path) == before
    assert shell(f"pygpt train --data - --out run {options} --resume </dev/null",
                 tmp_path).returncode == 0


def test_standard_input_that_cannot_be_read(tmp_path):
    for command in "train --out out", "tokenizer train --out out":
        assert "standard input is closed" in refusal(shell(f"pygpt {command} --data - <&-",
                                                            tmp_path))
    assert "standard input is closed" in refusal(
        shell("pygpt train --data - --out out 0>/dev/null", tmp_path))
    assert os.listdir(tmp_path) == []
    assert shell("pygpt tokenizer train --vocab-size 290 --out tok", tmp_path).returncode == 0
    for command in "encode", "decode":
        assert "standard input is closed" in refusal(shell(f"pygpt tokenizer {command} tok <&-",
                                                            tmp_path))


# ---------------------------------------------------------------------------------------- pipes ---

def test_pipes_are_read_once_and_kept(tmp_path):
    (tmp_path / "t").write_text(TEXT)
    (tmp_path / "o").write_text(OTHER)
    options = " ".join(TINY)
    result = shell(f"pygpt train --data <(cat t) o <(cat o) --val-data <(cat t) {options} "
                   "--max-steps 2 --out piped", tmp_path)
    assert result.returncode == 0, result.stderr
    copies = {name: text for name, text in tree(tmp_path / "piped").items() if "pipe-" in name}
    assert copies == {"pipe-1.txt": TEXT.encode(), "pipe-3.txt": OTHER.encode(),
                      "pipe-4.txt": TEXT.encode()}
    again = shell("pygpt train --config piped/train.json --data t o o --val-data t --out files",
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
        assert run(**paths, resume=True)[-1]["event"] == "end"  # the pipe has no writer any more
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
    assert "more than once" in refusal(shell(f"cat text | pygpt train --data - /dev/stdin "
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
