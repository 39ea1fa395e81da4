"""A run's directory on any file system, copied in any way, with anything of other people's in it.

Whatever is there, a run works, falls back with a warning, or is refused before its first step.
"""

import errno
import json
import os
import pathlib
import re
import shutil

import pytest

from pygpt.checkpoint import model_files
from pygpt.training import run_directory, trainer_state
from pygpt.cli.main import main
from pygpt.training.run_log import read_log
from pygpt.model import GPT
from pygpt.training.run_directory import RunDirectory
from pygpt.training.trainer import train


def stop_after(step):
    """A callback that ends a run as Ctrl-C does."""
    return lambda record: record["event"] == "step" and record["step"] == step


def contents(directory):
    """{path: (kind, bytes or target, time of the last change)} of all that is below a directory."""
    found = {}
    for path in sorted(pathlib.Path(directory).rglob("*")):
        status = path.lstat()
        data = (os.readlink(path) if path.is_symlink()
                else path.read_bytes() if path.is_file() else None)  # not a pipe's
        found[str(path)] = path.is_dir(), data, status.st_mtime_ns
    return found


def numbers(out):
    """The loss of every step and validation, in order."""
    return [(r["step"], r.get("loss"), r.get("val_loss")) for r in read_log(out / "log.jsonl")
            if r["event"] in ("step", "eval")]


def weights(directory):
    return pathlib.Path(model_files.find_model(directory), "model.safetensors").read_bytes()


def warnings_of(records):
    return [record["text"] for record in records if record["event"] == "warning"]


@pytest.fixture
def whole(tiny, tmp_path):
    """The directory of a run of ten steps that was never stopped."""
    train(tiny(out=tmp_path / "whole"))
    return tmp_path / "whole"


@pytest.fixture
def stopped(tiny, tmp_path):
    """The directory of the same run, stopped after nine steps; best is not last."""
    train(tiny(keep=2), [stop_after(9)])
    return tmp_path / "out"


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
    times = {str(out / "tokens")}  # a directory's own time moves when an entry goes
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


# -------------------------------------------------------------------------------- copied in any way

def copy_links_followed(source, target):
    shutil.copytree(source, target)


def copy_last_only(source, target):
    target.mkdir()
    shutil.copytree(source / "last", target / "last")


def copy_checkpoints_only(source, target):
    target.mkdir()
    for path in source.glob("step-*"):
        shutil.copytree(path, target / path.name)


def copy_with_the_newest_cut_off(source, target):
    """An scp that broke off: an older checkpoint is the newest that is whole."""
    copy_checkpoints_only(source, target)
    torn = target / "step-00000099"
    shutil.copytree(target / "step-00000009", torn)
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:-1])


def copy_with_links_to_the_old_place(source, target):
    shutil.copytree(source, target, symlinks=True)
    for name in ("last", "best"):
        link = os.readlink(target / name)
        (target / name).unlink()
        (target / name).symlink_to(source / link)


COPIES = [copy_links_followed, copy_last_only, copy_checkpoints_only, copy_with_the_newest_cut_off,
          copy_with_links_to_the_old_place]


@pytest.mark.parametrize("copy", COPIES)
def test_a_copied_run_goes_on(tiny, tmp_path, whole, stopped, copy):
    out = tmp_path / "copy"
    copy(stopped, out)
    if copy is copy_with_links_to_the_old_place:
        shutil.rmtree(stopped)
    state = trainer_state.load(trainer_state.find_last(out))
    assert state.step == 9
    records = []
    train(tiny(out=out), [records.append], resume=True)
    assert weights(out / "last") == weights(whole / "last")
    assert os.path.islink(out / "last") and trainer_state.load(out / "last").step == 10
    assert [r["loss"] for r in records if r["event"] == "step"] == [numbers(whole)[-2][1]]
    assert bool(warnings_of(records)) is (copy not in (copy_links_followed, copy_last_only))


@pytest.mark.parametrize("copy", COPIES)
def test_a_copied_run_samples_exports_and_begins_others(tiny, tmp_path, stopped, copy, capsys):
    out = tmp_path / "copy"
    copy(stopped, out)
    if copy is copy_with_links_to_the_old_place:
        shutil.rmtree(stopped)
    assert main(["sample", str(out), "--max-new-tokens", "3"]) == 0
    assert main(["export", str(out), str(tmp_path / "exported")]) == 0
    shape = dict(n_layer=None, n_head=None, n_embd=None, n_positions=None)
    train(tiny(init=out, out=tmp_path / "tuned", max_steps=1, **shape))
    assert GPT.from_pretrained(out).config == GPT.from_pretrained(tmp_path / "exported").config
    # a new run there: the earlier one goes on where it is then
    config = trainer_state.load(trainer_state.find_last(out)).config
    train(tiny(out=out, seed=5, max_steps=2))
    assert trainer_state.load(out / "last").step == 2
    earlier = out / "earlier-1"
    assert trainer_state.load(trainer_state.find_last(earlier)).config == config
    assert train(tiny(out=earlier, keep=2), resume=True).steps == 10


def test_a_copy_with_links_followed_goes_on_twice_and_keeps_its_best(tiny, tmp_path, stopped):
    out = tmp_path / "copy"
    best = trainer_state.load(stopped / "best")
    assert best.step == 8
    copy_links_followed(stopped, out)
    for step in (10, 11, 12):
        train(tiny(out=out, max_steps=12, eval_interval=99), [stop_after(step)], resume=True)
        assert trainer_state.load(out / "last").step == step
        assert (out / "best").is_dir()
    assert not [path for path in out.glob("step-*") if path.name not in
                (os.readlink(out / "last"), os.path.basename(os.path.realpath(out / "best")))]


def test_nothing_to_go_on_from_is_said_of_last(tmp_path, tiny):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError, match="out/last/trainer.json"):
        train(tiny(), resume=True)
    with pytest.raises(FileNotFoundError, match="no config.json in it"):
        model_files.find_model(tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


# ----------------------------------------------------------------- what file systems may not have

@pytest.fixture(params=[OSError(errno.EPERM, "Operation not permitted"),
                        OSError(errno.EOPNOTSUPP, "Operation not supported"),
                        NotImplementedError("no links"), AttributeError("symlink")],
                ids=lambda error: f"{type(error).__name__}-{getattr(error, 'errno', '')}")
def no_links(request, monkeypatch):
    """A file system without links of either kind."""
    def refuse(*args, **kwargs):
        raise request.param

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)


def test_without_links_files_name_the_checkpoints(tiny, tmp_path, whole, no_links, capsys):
    out, records = tmp_path / "out", []
    train(tiny(), [records.append, stop_after(9)])
    assert len([text for text in warnings_of(records) if "no symbolic links" in text]) == 1
    assert (out / "last").read_text() == "step-00000009\n"
    assert trainer_state.load(trainer_state.find_last(out)).step == 9
    for directory in (out, out / "last", out / "best"):
        assert main(["sample", str(directory), "--max-new-tokens", "3"]) == 0
    train(tiny(), resume=True)
    assert numbers(out) == numbers(whole) and weights(out / "last") == weights(whole / "last")
    assert len(list(out.glob("step-*"))) <= 2
    train(tiny(seed=3, max_steps=3), [stop_after(2)])
    earlier = out / "earlier-1"
    assert weights(earlier / "last") == weights(whole / "last")
    assert not (out / "last").is_symlink() and trainer_state.load(
        trainer_state.find_last(out)).step == 2


def test_a_run_moved_to_a_file_system_with_links_goes_on_with_them(tiny, tmp_path, whole,
                                                                  monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", lambda *_: (_ for _ in ()).throw(NotImplementedError))
        train(tiny(), [stop_after(9)])
    train(tiny(), resume=True)
    assert os.readlink(tmp_path / "out" / "last") == "step-00000010"
    assert numbers(tmp_path / "out") == numbers(whole)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL,
                                    errno.EBADF, None])
def test_without_locks_a_run_warns_and_works(tiny, tmp_path, monkeypatch, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    if number is None:
        monkeypatch.setattr(run_directory, "fcntl", None)
    else:
        monkeypatch.setattr(run_directory.fcntl, "flock", refuse)
    records = []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log.jsonl.5.tmp").write_text("perhaps of a run that is still going")
    assert train(tiny(), [records.append]).steps == 10
    (text,) = warnings_of(records)
    assert "no locks" in text and text.startswith(f"{tmp_path / 'out'}: ")
    assert (tmp_path / "out" / "log.jsonl.5.tmp").exists()
    logged = [r for r in read_log(tmp_path / "out" / "log.jsonl") if r["event"] == "warning"]
    assert [r["text"] for r in logged] == [text]


def test_a_warning_is_printed(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run_directory, "fcntl", None)
    trainer_state.write_settings(tmp_path / "c.json", tiny(max_steps=1))
    assert main(["train", "--config", str(tmp_path / "c.json")]) == 0
    assert "warning: " in capsys.readouterr().out


def test_a_second_run_is_refused_and_changes_nothing(tiny, tmp_path, stopped):
    holder = RunDirectory(stopped)
    before = contents(stopped)
    for resume in (False, True):
        with pytest.raises(BlockingIOError, match="another run is writing"):
            train(tiny(keep=2), resume=resume)
    holder.close()
    assert contents(stopped) == before


def test_a_run_that_another_has_gone_on_with_meanwhile_is_not_taken_back(tiny, tmp_path, stopped,
                                                                        monkeypatch):
    from pygpt.training import preparation

    def open_late(*args):
        monkeypatch.undo()
        train(tiny(keep=2), resume=True)
        return RunDirectory(*args)

    monkeypatch.setattr(preparation, "RunDirectory", open_late)
    with pytest.raises(BlockingIOError, match="another run has just saved"):
        train(tiny(keep=2), resume=True)
    assert trainer_state.load(stopped / "last").step == 10
    assert not list(stopped.glob("step-*-2"))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_directories_that_cannot_be_synced(tiny, tmp_path, monkeypatch, number):
    import stat
    fsync = os.fsync

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    assert train(tiny()).steps == 10


def test_a_read_only_directory_is_refused_before_it_begins(tiny, stopped, monkeypatch):
    def refuse(path, mode="r", *args, **kwargs):
        if "w" in mode or "a" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, mode, *args, **kwargs)

    import builtins
    real, before = open, contents(stopped)
    monkeypatch.setattr(builtins, "open", refuse)
    for resume in (False, True):
        with pytest.raises(OSError) as error:
            train(tiny(keep=2), [lambda record: pytest.fail("it began")], resume=resume)
        assert error.value.errno == errno.EROFS and error.value.filename == str(stopped)
    assert contents(stopped) == before


# --------------------------------------------------------------------------- killed at any instant

CALLS = ("rename", "replace", "unlink", "symlink", "link", "mkdir")


def killed_at(call, function):
    """Run a function in a process that is gone right before its call-th change of a name.

    Returns:
        Whether it came that far.
    """
    from pygpt.backend import kernels
    child = os.fork()
    if child == 0:
        count = 0

        def counted(real):
            def change(*args, **kwargs):
                nonlocal count
                count += 1
                if count == call:
                    os._exit(9)
                return real(*args, **kwargs)
            return change

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            kernels.set_num_threads(1)
            function()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def layout(out):
    """The entries of a run's directory, whichever process wrote them; the same is tried once."""
    return tuple(re.sub(r"[.][0-9]+[.]tmp", ".tmp", name) for directory in (out, out / "earlier-1")
                 if directory.exists() for name in sorted(os.listdir(directory)))


@pytest.mark.parametrize("copy", [None, copy_links_followed, copy_checkpoints_only])
def test_a_new_run_killed_at_any_instant_has_not_harmed_the_earlier(tiny, tmp_path, whole, stopped,
                                                                   copy):
    seen = set()
    for call in range(1, 200):
        out = tmp_path / f"killed-{call}"
        (copy or (lambda a, b: shutil.copytree(a, b, symlinks=True)))(stopped, out)
        (out / "stdin.txt").write_text("what standard input held")
        if not killed_at(call, lambda: train(tiny(out=out, seed=4, max_steps=1))):
            break
        homes = [home for home in (out, out / "earlier-1")
                 if os.path.exists(os.path.join(trainer_state.find_last(home), "trainer.json"))
                 and trainer_state.load(trainer_state.find_last(home)).step == 9]
        assert homes, (call, sorted(os.listdir(out)))
        home = homes[0]
        if copy is not copy_checkpoints_only:
            assert (home / "log.jsonl").exists() and (home / "train.json").exists()
        assert (home / "stdin.txt").read_text() == "what standard input held"
        if layout(out) not in seen:
            seen.add(layout(out))
            assert train(tiny(out=home, threads=1), resume=True).steps == 10
            assert weights(home / "last") == weights(whole / "last")
        shutil.rmtree(out)
    assert call > 15
    assert trainer_state.load(out / "last").step == 1


@pytest.mark.parametrize("copy", [None, copy_links_followed])
def test_a_resumed_run_killed_at_any_instant_goes_on(tiny, tmp_path, whole, stopped, copy):
    seen = set()
    for call in range(1, 200):
        out = tmp_path / f"killed-{call}"
        (copy or (lambda a, b: shutil.copytree(a, b, symlinks=True)))(stopped, out)
        if not killed_at(call, lambda: train(tiny(out=out), resume=True)):
            break
        assert os.path.exists(os.path.join(model_files.find_model(out), "model.safetensors"))
        if layout(out) not in seen:
            seen.add(layout(out))
            train(tiny(out=out, threads=1), resume=True)
            assert weights(out / "last") == weights(whole / "last")
        shutil.rmtree(out)
    assert call > 8 and (out / "last").is_symlink()


@pytest.mark.parametrize("call", range(1, 12))
def test_a_failed_call_while_an_earlier_run_is_moved_loses_nothing(tiny, tmp_path, stopped, whole,
                                                                  monkeypatch, call):
    """As a full disk or a lost share would, in a process that goes on to clean up."""
    count = 0
    for name in ("rename", "symlink", "mkdir", "unlink"):
        def fail(*args, real=getattr(os, name), **kwargs):
            nonlocal count
            count += 1
            if count == call:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(args[0]))
            return real(*args, **kwargs)
        monkeypatch.setattr(os, name, fail)
    set_aside = RunDirectory.set_aside

    def from_there_on(self):
        nonlocal count
        count = 0
        return set_aside(self)

    monkeypatch.setattr(RunDirectory, "set_aside", from_there_on)
    count = -10 ** 9
    with pytest.raises(OSError):
        train(tiny(seed=4))
        raise OSError  # there are no more such calls
    monkeypatch.undo()
    home = next(home for home in (stopped, stopped / "earlier-1")
                if os.path.exists(os.path.join(trainer_state.find_last(home), "trainer.json"))
                and trainer_state.load(trainer_state.find_last(home)).step == 9)
    train(tiny(out=home), resume=True)
    assert weights(home / "last") == weights(whole / "last")


# ------------------------------------------------------------------------- a new run that fails

@pytest.mark.parametrize("bad", [dict(n_head=3, n_embd=32), dict(n_positions=5000),
                                 dict(data="none"), dict(tokenizer="none"),
                                 dict(val_data="none"), dict(sample_prompts=["\u2603"]),
                                 dict(init="none"), dict(n_embd=10 ** 7)])
@pytest.mark.parametrize("has_stdin", [False, True])
def test_a_new_run_that_fails_at_once_leaves_the_earlier_one(tiny, tmp_path, stopped, bad,
                                                             has_stdin, monkeypatch):
    from conftest import TEXT
    (stopped / "stdin.txt").write_text("of the earlier run")
    before = contents(stopped)
    if has_stdin:
        give_stdin(monkeypatch, TEXT)
        bad = dict(data="-") | bad
    with pytest.raises((OSError, ValueError, MemoryError)):
        train(tiny(**bad))
    assert contents(stopped) == before


def give_stdin(monkeypatch, text):
    import io
    import sys
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_an_earlier_run_on_standard_input_goes_on_from_where_it_is_now(tiny, tmp_path, whole,
                                                                      monkeypatch):
    from conftest import TEXT
    out = tmp_path / "out"
    give_stdin(monkeypatch, TEXT)
    train(tiny(data="-"), [stop_after(6)])
    give_stdin(monkeypatch, TEXT[::-1])
    train(tiny(data="-", max_steps=2), [stop_after(1)])
    give_stdin(monkeypatch, "")
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
    from pygpt.training.trainer_state import last_settings
    (stopped / "last").unlink()
    assert last_settings(stopped)["n_embd"] == 16
    assert json.loads((stopped / "train.json").read_text())["n_embd"] == 16
