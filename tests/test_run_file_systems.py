"""Tests a run's directory that is shared or read-only, or has no links, locks or syncing.

In each case a run works, falls back with a warning, or is refused before its first step.
"""

import builtins
import errno
import os
import stat

import pytest
from runs import contents, numbers, records_of, stop_after, warnings_of, weights

from pygpt import files
from pygpt.cli.main import main
from pygpt.training import preparation, trainer_state
from pygpt.training.run_directory import RunDirectory
from pygpt.training.run_log import read_log
from pygpt.training.settings import write_settings
from pygpt.training.trainer import train


@pytest.fixture(params=[OSError(errno.EPERM, "Operation not permitted"),
                        OSError(errno.EOPNOTSUPP, "Operation not supported"),
                        NotImplementedError("no links"), AttributeError("symlink")],
                ids=lambda error: f"{type(error).__name__}-{getattr(error, 'errno', '')}")
def no_links(request, monkeypatch):
    """Make every call for a link fail, as on a file system without links."""
    def refuse(*args, **kwargs):
        raise request.param

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)


def test_without_links_files_name_the_checkpoints(tiny, tmp_path, whole, no_links, capsys):
    out = tmp_path / "out"
    records = records_of(tiny(), stop_after(9))
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


def test_a_directory_in_which_no_link_can_be_removed_is_refused(tiny, tmp_path, monkeypatch):
    """It has links; the one that was tried would else be left, and be taken for a file."""
    def refuse(path, *args, **kwargs):
        if os.path.islink(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        unlink(path, *args, **kwargs)

    unlink = os.unlink
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(PermissionError) as error:
            train(tiny())
    assert error.value.filename == str(tmp_path / "out")
    train(tiny(max_steps=1))
    assert os.readlink(tmp_path / "out" / "last") == "step-00000001"


def test_a_link_in_place_of_a_temporary_file_is_not_followed(tmp_path):
    path, elsewhere = tmp_path / "file", tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    os.symlink(elsewhere, files.temporary_path(path))
    with files.replacing(path) as file:
        file.write(b"new")
    assert elsewhere.read_text() == "kept" and not path.is_symlink()
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 2


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
        monkeypatch.setattr(files, "fcntl", None)
    else:
        monkeypatch.setattr(files.fcntl, "flock", refuse)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log.jsonl.5.tmp").write_text("perhaps of a run that is still going")
    records = records_of(tiny())
    assert records[-1]["step"] == 10
    (text,) = warnings_of(records)
    assert "no locks" in text and text.startswith(f"{tmp_path / 'out'}: ")
    assert (tmp_path / "out" / "log.jsonl.5.tmp").exists()
    assert warnings_of(read_log(tmp_path / "out" / "log.jsonl")) == [text]


def test_a_warning_is_printed(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(files, "fcntl", None)
    write_settings(tmp_path / "c.json", tiny(max_steps=1))
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


def test_a_refused_run_leaves_the_directory_that_another_has_just_locked(tmp_path, monkeypatch):
    out, make, others = tmp_path / "new" / "out", RunDirectory._make, []

    def other_is_faster(self, made):
        if not others:
            others.append(None)
            others[0] = RunDirectory(out)
        make(self, made)

    monkeypatch.setattr(RunDirectory, "_make", other_is_faster)
    with pytest.raises(BlockingIOError):
        RunDirectory(out)
    assert out.is_dir()
    others[0].close()
    assert not out.parent.exists()


def test_a_directory_that_another_makes_just_after_its_parent_is_no_file(tmp_path, monkeypatch):
    out, real = tmp_path / "new" / "out", os.mkdir

    def other_is_faster(path, *args):
        real(path, *args)
        if path == str(out.parent):
            real(out)

    monkeypatch.setattr(os, "mkdir", other_is_faster)
    RunDirectory(out).close()
    assert out.is_dir()  # the other's


def test_a_directory_that_another_has_made_and_removed_is_made(tmp_path, monkeypatch):
    out, real, calls = tmp_path / "out", os.mkdir, []

    def too_late(path, *args):
        calls.append(path)
        if len(calls) == 1:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        real(path, *args)

    monkeypatch.setattr(os, "mkdir", too_late)
    RunDirectory(out).close()
    assert calls == [str(out)] * 2 and not out.exists()


@pytest.mark.parametrize("step", ["_make", "_lock"])
def test_a_directory_that_another_removes_at_the_start_is_made_again(tmp_path, monkeypatch, step):
    out, real, calls = tmp_path / "new" / "out", getattr(RunDirectory, step), []

    def then_removed(self, *args):
        real(self, *args)
        calls.append(self)
        if len(calls) == 1:
            os.removedirs(out)

    monkeypatch.setattr(RunDirectory, step, then_removed)
    RunDirectory(out).close()
    assert len(calls) == 2 and not out.parent.exists()


def test_a_directory_that_cannot_stay_is_an_error(tmp_path, monkeypatch):
    make = RunDirectory._make

    def removed(self, made):
        make(self, made)
        os.rmdir(self.path)

    monkeypatch.setattr(RunDirectory, "_make", removed)
    with pytest.raises(FileNotFoundError):
        RunDirectory(tmp_path / "out")


def test_a_run_that_another_has_gone_on_with_meanwhile_is_not_taken_back(tiny, tmp_path, stopped,
                                                                        monkeypatch):
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

    real, before = open, contents(stopped)
    monkeypatch.setattr(builtins, "open", refuse)
    for resume in (False, True):
        with pytest.raises(OSError) as error:
            train(tiny(keep=2), [lambda record: pytest.fail("it began")], resume=resume)
        assert error.value.errno == errno.EROFS and error.value.filename == str(stopped)
    assert contents(stopped) == before
