"""Tests of what killed processes leave of the files they wrote, and of two that write at once."""

import errno
import fcntl
import io
import os
import subprocess
import sys
import threading

import pytest
from commands import ENVIRONMENT, assert_refused, here
from models import tiny

from pygpt import files
from pygpt.cli import export
from pygpt.model import GPT
from pygpt.tokenizer import BPETokenizer
from pygpt.tokenizer.base import SAVED_FILES

WRITE = """
import os, sys, time
from pygpt.files import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """Start a process that is writing a file; return it and the path."""
    path = tmp_path / "file"
    process = subprocess.Popen([sys.executable, "-c", WRITE, path], env=ENVIRONMENT,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    yield process, path
    process.kill()
    process.communicate()


def write(path, data):
    with files.replacing(path) as file:
        file.write(data)


def test_the_next_write_removes_what_a_killed_process_left(writer, tmp_path):
    process, path = writer
    process.kill()
    process.wait()
    (tmp_path / "file2.5.tmp").write_bytes(b"of another file")
    (tmp_path / "file.x.tmp").write_bytes(b"of another program")
    (tmp_path / "file.6.tmp").mkdir()
    (tmp_path / "file.7.tmp").symlink_to("nowhere")
    assert f"file.{process.pid}.tmp" in os.listdir(tmp_path)
    write(path, b"new")
    assert sorted(os.listdir(tmp_path)) == ["file", "file.6.tmp", "file.7.tmp", "file.x.tmp",
                                            "file2.5.tmp"]
    assert path.read_bytes() == b"new"


def test_what_another_process_is_writing_stays(writer):
    process, path = writer
    write(path, b"new")
    assert path.read_bytes() == b"new"
    process.communicate()
    assert process.returncode == 0
    assert path.read_bytes() == b"half"


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    monkeypatch.delattr(fcntl, "flock")
    (tmp_path / "file.5.tmp").write_bytes(b"perhaps of a process that is still writing")
    write(tmp_path / "file", b"new")
    assert sorted(os.listdir(tmp_path)) == ["file", "file.5.tmp"]


def test_a_directory_that_cannot_be_listed_can_be_written(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_threads_that_write_one_file_take_turns(tmp_path):
    path, failures = tmp_path / "file", []
    start = threading.Barrier(4)

    def work(number):
        try:
            start.wait()
            for _ in range(20):
                with files.replacing(path) as file:
                    for _ in range(10):
                        file.write(bytes([number]) * 3)
                        file.flush()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and os.listdir(tmp_path) == ["file"]
    data = path.read_bytes()
    assert len(data) == 30 and len(set(data)) == 1


def test_an_interrupt_after_the_rename_spares_another_threads_file(tmp_path, monkeypatch):
    """As soon as one thread has renamed its temporary file, the next may open one of its name."""
    path, replace = tmp_path / "file", os.replace
    aside = files.temporary_path(path)

    def interrupted(source, target):
        replace(source, target)
        with open(aside, "wb") as file:
            file.write(b"of another thread")
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, b"new")
    assert path.read_bytes() == b"new"
    with open(aside, "rb") as file:
        assert file.read() == b"of another thread"


@pytest.mark.parametrize("make, words", [
    (os.mkfifo, "a pipe"), (lambda path: os.symlink("/dev/null", path), "a device"),
    (os.mkdir, "Is a directory")])
def test_only_a_file_is_replaced(tmp_path, make, words):
    path = tmp_path / "out"
    make(path)
    before = os.lstat(path)
    with pytest.raises(OSError, match=words) as error:
        write(path, b"new")
    assert error.value.filename == str(path) and os.listdir(tmp_path) == ["out"]
    assert os.path.samestat(os.lstat(path), before)


def test_no_temporary_file_is_written_through_a_link(tmp_path):
    path, elsewhere = tmp_path / "x.1.tmp", tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    path.symlink_to(elsewhere)
    for text in b"longer", b"new":
        with files.open_temporary(path) as file:
            file.write(text)
    assert (elsewhere.read_text(), path.read_bytes()) == ("kept", b"new")


def test_a_temporary_file_that_cannot_be_emptied_is_closed_and_removed(tmp_path, monkeypatch):
    class Fixed(io.FileIO):
        def truncate(self, size=None):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(files, "open", lambda path, mode, opener: Fixed(path, "w", opener=opener),
                        raising=False)
    path = tmp_path / "file"
    before = os.listdir("/dev/fd")
    with pytest.raises(OSError) as error:
        write(path, b"new")
    assert os.listdir("/dev/fd") == before and os.listdir(tmp_path) == []
    assert error.value.filename == str(path)


def test_a_write_whose_temporary_file_another_computer_removed_fails(tmp_path):
    path = tmp_path / "file"
    write(path, b"old")
    with pytest.raises(FileNotFoundError) as error, files.replacing(path) as file:
        file.write(b"new")
        os.unlink(files.temporary_path(path))
    assert error.value.filename == str(path) and path.read_bytes() == b"old"


# -------------------------------------------------------------------------------------- export

@pytest.fixture
def source(tmp_path):
    """Save a model, without a tokenizer; return its directory."""
    tiny().save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def test_an_export_writes_over_what_a_killed_one_left(source, tmp_path, monkeypatch):
    out = tmp_path / "out"

    class Killed(BaseException):
        pass

    def kill(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pygpt.checkpoint.model_files.write_json_object", kill)
        with pytest.raises(Killed):
            here("export", source, out)
    assert sorted(os.listdir(out)) == [export.MARK, "model.safetensors"]
    assert here("export", source, out).returncode == 0
    assert sorted(os.listdir(out)) == ["config.json", "model.safetensors"]
    assert_refused(here("export", source, out), 1, "there is a model or a run already: config.json")


def test_an_export_of_weights_alone_removes_the_tokenizer_of_a_killed_one(source, tmp_path,
                                                                          monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*args, **kwargs):
        raise Killed

    other, out = tmp_path / "other", tmp_path / "out"
    tokenizer = BPETokenizer.train("a text of some words", vocab_size=258)
    tiny(vocab_size=258).save_pretrained(other)
    tokenizer.save_pretrained(other)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(GPT, "save_pretrained", kill)
        here("export", other, out)
    assert sorted(os.listdir(out)) == sorted([export.MARK, *SAVED_FILES])
    (out / "tokenizer.json.5.tmp").write_bytes(b"half")
    assert here("export", source, out).returncode == 0
    assert sorted(os.listdir(out)) == ["config.json", "model.safetensors"]


def test_a_second_export_into_a_directory_is_refused_meanwhile(source, tmp_path):
    out = tmp_path / "out"
    with export._only_writer(out):
        assert_refused(here("export", source, out), 1,
                       f"{out}: another process is writing to this directory")
    assert os.listdir(out) == []


def test_an_export_that_another_was_faster_than_is_refused(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    from_pretrained = GPT.from_pretrained

    def slow(directory):
        monkeypatch.undo()
        assert here("export", source, out).returncode == 0
        return from_pretrained(directory)

    monkeypatch.setattr(GPT, "from_pretrained", slow)
    assert_refused(here("export", source, out), 1, "there is a model or a run already: ")
