"""Tests the file that keeps the tokens of a long text beside the run while the text is the same."""

import errno
import os

import pytest
from commands import refusal, shell
from hypothesis import given
from hypothesis import strategies as st
from runs import OTHER, TEXT, TINY, loss_of, tree

from pygpt.data import token_file
from pygpt.data.corpus import DataError


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
    """Return a list that grows by one whenever a text is encoded."""
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
    result = shell(f"cat text | (ulimit -f {kilobytes}; pygpt train --data - --out out "
                   f"{' '.join(TINY)})", tmp_path)
    assert "File too large" in refusal(result)
    assert os.listdir(tmp_path) == ["text"]
