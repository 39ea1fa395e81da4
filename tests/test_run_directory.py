"""Tests a run's directory that holds other people's files, and a new run that fails in it.

In each case a run works, falls back with a warning, or is refused before its first step.
"""

import json
import os
import shutil

import pytest
from conftest import TEXT
from runs import contents, numbers, stop_after

from pygpt.checkpoint import model_files
from pygpt.training import trainer_state
from pygpt.training.trainer import train
from pygpt.training.trainer_state import last_settings

# --------------------------------------------------------------------------- other people's files

NOT_OURS = ["thesis.tmp", "last.tmp", "best.tmp", "step-00000001.tmp", ".step-1.tmp", ".writable",
            "train.json.tmp", "train.json.12a.tmp", "xtrain.json.12.tmp", "notes.12.tmp",
            "tokens/x.tmp", "tokens/0123.bin.tmp", "tokens/0123456789ABCDEF.bin.7.tmp",
            "tokens/words.bin.7.tmp"]


def test_only_what_a_run_wrote_aside_is_cleared(tiny, tmp_path):
    out = tmp_path / "out"
    for name in NOT_OURS:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    for name in ("thesis-dir.tmp", "train.json.77.tmp", "tokens/0123456789abcdef.bin.77.tmp"):
        (out / name).mkdir()
        (out / name / "chapter").write_text("years of work")
    (out / ".step-00000009.tmp").symlink_to(out / "thesis-dir.tmp")
    before = contents(out)
    ours = ["train.json.12.tmp", "log.jsonl.1.tmp", "stdin.txt.1.tmp", "last.123.tmp",
            "best.9.tmp", ".writable.5.tmp", "pipe-1.txt.3.tmp",
            "tokens/tokens-new.bin.8.tmp"]
    for name in ours:
        (out / name).write_text("half")
    (out / ".step-00000004-2.tmp").mkdir()
    (out / ".step-00000004-2.tmp" / "model.safetensors").write_text("half")
    train(tiny(max_steps=1))
    after = contents(out)
    times = {str(out / "tokens")}  # removing an entry changes a directory's time
    assert {path: after[path] for path in before.keys() - times} == {
        path: before[path] for path in before.keys() - times}
    assert not [name for name in ours if (out / name).exists()]
    assert not (out / ".step-00000004-2.tmp").exists()


def test_what_is_no_checkpoint_is_not_dropped(tiny, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("x")
    (out / "step-00000001").symlink_to(tmp_path / "elsewhere")
    (out / "step-00000002").write_text("a file")
    (out / "step-00000003-good").mkdir()
    train(tiny())
    assert (out / "step-00000001" / "precious").read_text() == "x"
    assert (out / "step-00000002").read_text() == "a file"
    assert (out / "step-00000003-good").is_dir()


def elsewhere(out):
    (out.parent / "other").mkdir()
    (out.parent / "other" / "config.json").write_text("{}")
    return out.parent / "other"


@pytest.mark.parametrize("name", ["last", "best"])
@pytest.mark.parametrize("put, part", [
    (lambda out, path: path.write_text("my notes"), "is a file that names no checkpoint"),
    (lambda out, path: path.write_text("step-1\n"), "is a file that names no checkpoint"),
    (lambda out, path: path.write_text("../step-00000001\n"), "is a file that names no checkpoint"),
    (lambda out, path: os.mkfifo(path), "is a file that names no checkpoint"),
    (lambda out, path: path.mkdir(), "is a directory that holds no checkpoint of a run"),
    (lambda out, path: path.symlink_to(elsewhere(out)), "is not a checkpoint in this directory"),
    (lambda out, path: path.symlink_to("../nowhere"), "is not a checkpoint in this directory"),
])
def test_another_thing_in_the_place_of_a_link_is_refused_before_anything_changes(
        tiny, stopped, name, put, part):
    shutil.rmtree(stopped / "earlier-1", ignore_errors=True)
    path = stopped / name
    path.unlink()
    put(stopped, path)
    before = contents(stopped)
    for resume in (False, True):
        with pytest.raises(OSError) as error:
            train(tiny(keep=2), [lambda record: pytest.fail("it began")], resume=resume)
        if not (resume and name == "last" and path.is_dir()):  # there is no trainer.json in it
            assert error.value.filename == str(path) and part in error.value.strerror
    assert contents(stopped) == before


@pytest.mark.parametrize("name", ["train.json", "log.jsonl", "stdin.txt"])
def test_a_directory_in_the_place_of_a_file_is_refused(tiny, tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(FileExistsError, match=f"out/{name}"):
        train(tiny(), [lambda record: pytest.fail("it began")])


def test_places_that_are_no_directory(tiny, tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, part in (("file", "is a file"), ("dangling", "leads nowhere")):
        with pytest.raises(FileExistsError, match=part):
            train(tiny(out=tmp_path / name))
    assert (tmp_path / "file").read_text() == "kept"


def test_a_directory_behind_a_link(tiny, tmp_path, whole):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    train(tiny(), [stop_after(5)])
    train(tiny(), resume=True)
    assert (tmp_path / "out").is_symlink() and numbers(tmp_path / "real") == numbers(whole)


# ------------------------------------------------------------------------- a new run that fails

@pytest.mark.parametrize("bad", [dict(n_head=3, n_embd=32), dict(n_positions=5000),
                                 dict(data="none"), dict(tokenizer="none"),
                                 dict(val_data="none"), dict(sample_prompts=["\u2603"]),
                                 dict(init="none"), dict(n_embd=10 ** 7)])
@pytest.mark.parametrize("has_stdin", [False, True])
def test_a_new_run_that_fails_at_once_leaves_the_earlier_one(tiny, tmp_path, stopped, bad,
                                                             has_stdin, stdin):
    (stopped / "stdin.txt").write_text("of the earlier run")
    before = contents(stopped)
    if has_stdin:
        stdin(TEXT.encode())
        bad = dict(data="-") | bad
    with pytest.raises((OSError, ValueError, MemoryError)):
        train(tiny(**bad))
    assert contents(stopped) == before


def test_an_earlier_run_on_standard_input_goes_on_from_where_it_is_now(tiny, tmp_path, whole,
                                                                       stdin):
    out = tmp_path / "out"
    stdin(TEXT.encode())
    train(tiny(data="-"), [stop_after(6)])
    stdin(TEXT[::-1].encode())
    train(tiny(data="-", max_steps=2), [stop_after(1)])
    stdin(b"")
    assert (out / "stdin.txt").read_text() == TEXT[::-1]
    train(tiny(data="-", out=out / "earlier-1"), resume=True)
    assert numbers(out / "earlier-1") == numbers(whole)
    assert train(tiny(data="-", max_steps=2), resume=True).steps == 2


# ------------------------------------------------------------------------------ the pointer files

@pytest.mark.parametrize("text", [b"", b"step-00000009", b"step-00000009\n\n", b"\xff" * 9,
                                  b"step-00000009\n" * 30, b"../step-00000009\n", b"/etc\n",
                                  b"step-99999999\n", b"step-00000009/../..\n", b"\0"])
def test_any_pointer_file_is_followed_or_passed_over(tmp_path, stopped, text, tiny):
    (stopped / "best").unlink()
    (stopped / "last").unlink()
    (stopped / "last").write_bytes(text)
    found = model_files.find_model(stopped)
    assert os.path.dirname(found) == str(stopped) and trainer_state.load(found).step == 9
    assert trainer_state.find_last(stopped) in (f"{stopped}/step-00000009", f"{stopped}/last")
    with pytest.raises(OSError):
        model_files.find_model(stopped / "last" if text != b"step-00000009" else stopped / "none")


def test_settings_of_the_last_run_are_found_without_links(tiny, tmp_path, stopped):
    (stopped / "last").unlink()
    assert last_settings(stopped)["n_embd"] == 16
    assert json.loads((stopped / "train.json").read_text())["n_embd"] == 16
