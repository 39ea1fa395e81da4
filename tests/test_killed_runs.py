"""Tests that a run that is killed or finds the disk full leaves a whole checkpoint to resume."""

import contextlib
import errno
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time

import pytest
from commands import COMMAND, ENVIRONMENT
from runs import checkpoint_files, copy_checkpoints_only, copy_links_followed, stop_after, weights

from pygpt.backend import kernels
from pygpt.checkpoint import model_files, safetensors, saved
from pygpt.model import GPT
from pygpt.tokenizer import Tokenizer
from pygpt.training import trainer_state
from pygpt.training.run_directory import RunDirectory
from pygpt.training.settings import write_settings
from pygpt.training.trainer import train

ONE_THREAD = ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
KILLS = int(os.environ.get("PYGPT_TEST_KILLS", 6))
# Of the instants at which a run is killed, every third is tried, from another one on in each test;
# `make test-long` tries each (PYGPT_TEST_INSTANTS=1). `make kill-drill` kills at random ones.
SPACING = int(os.environ.get("PYGPT_TEST_INSTANTS", 3))


# --------------------------------------------------------------------------- killed at any instant

CALLS = ("rename", "replace", "unlink", "symlink", "link", "mkdir")


def killed_at(call, function):
    """Run a function in a process that ends itself right before its call-th change of a name.

    Returns:
        Whether the function made that many changes.
    """
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


def instants(first):
    """Return the numbers of the changes of a name at which to kill, more than any run makes."""
    return range(first if SPACING > 1 else 1, 200, SPACING)


def layout(out):
    """List the entries of a run's directory, without process ids: equal layouts are tried once."""
    return tuple(re.sub(r"[.][0-9]+[.]tmp", ".tmp", name) for directory in (out, out / "earlier-1")
                 if directory.exists() for name in sorted(os.listdir(directory)))


@pytest.mark.parametrize("copy, first", [
    (None, 5), (copy_links_followed, 2), (copy_checkpoints_only, 8)])
def test_a_new_run_killed_at_any_instant_has_not_harmed_the_earlier(tiny, tmp_path, whole, stopped,
                                                                   copy, first):
    seen = set()
    for call in instants(first):
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


@pytest.mark.parametrize("has_links", [True, False])
def test_a_move_that_was_killed_at_any_instant_is_completed(tmp_path, stopped, monkeypatch,
                                                            has_links):
    def move():
        with contextlib.closing(RunDirectory(out)) as directory:
            directory.set_aside()

    def refuse(*args, **kwargs):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def copy_stopped(target):
        shutil.copytree(stopped, target, symlinks=has_links, ignore=None if has_links else
                        shutil.ignore_patterns("last", "best"))
        if not has_links:
            for name in ("last", "best"):
                (target / name).write_text(os.readlink(stopped / name) + "\n")

    if not has_links:
        monkeypatch.setattr(os, "symlink", refuse)
        monkeypatch.setattr(os, "link", refuse)
    names = sorted(os.listdir(stopped))
    for call in range(1, 200):
        out = tmp_path / f"killed-{call}"
        copy_stopped(out)
        copy_stopped(out / "earlier-1")  # of another run, with the same names
        (out / "earlier-1" / "log.jsonl").write_text("")
        is_over = not killed_at(call, move)
        move()
        assert os.listdir(out / "earlier-1") and sorted(os.listdir(out)) == [
            "earlier-1", "earlier-2"], (call, os.listdir(out))
        assert sorted(os.listdir(out / "earlier-2")) == names, call
        assert saved.step_of(saved.named(out / "earlier-2", "last")) == 9
        shutil.rmtree(out)
        if is_over:
            break
    assert call > 10


def forget_files_and_links(out):
    for name in ("log.jsonl", "train.json", "last", "best"):
        (out / name).unlink(missing_ok=True)


def link_elsewhere(out):
    (out / "earlier-1" / "last").unlink()
    (out / "earlier-1" / "last").symlink_to("step-00000001")


@pytest.mark.parametrize("change, moved_to", [
    (lambda out: None, "earlier-1"),
    (lambda out: (out / "earlier-1" / "log.jsonl").write_text(""), "earlier-2"),
    (lambda out: (out / "earlier-1" / "log.jsonl").unlink(), "earlier-2"),
    (lambda out: (out / "earlier-1" / os.readlink(out / "last")).mkdir(), "earlier-2"),
    (link_elsewhere, "earlier-2"), (forget_files_and_links, "earlier-2")])
def test_a_run_is_put_only_where_its_own_move_had_begun(stopped, change, moved_to):
    shutil.copytree(stopped, stopped / "earlier-1", symlinks=True,
                    ignore=shutil.ignore_patterns("step-*"))
    change(stopped)
    with contextlib.closing(RunDirectory(stopped)) as directory:
        assert directory.set_aside() == str(stopped / moved_to)


@pytest.mark.parametrize("copy, first", [(None, 3), (copy_links_followed, 6)])
def test_a_resumed_run_killed_at_any_instant_goes_on(tiny, tmp_path, whole, stopped, copy, first):
    seen = set()
    for call in instants(first):
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


@pytest.mark.parametrize("call", range(1, 12, 3 if SPACING > 1 else 1))
def test_a_failed_call_while_an_earlier_run_is_moved_loses_nothing(tiny, tmp_path, stopped, whole,
                                                                  monkeypatch, call):
    """Fail one call, as a full disk or a lost share does, in a process that then cleans up."""
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
        raise OSError  # the run made fewer calls
    monkeypatch.undo()
    home = next(home for home in (stopped, stopped / "earlier-1")
                if os.path.exists(os.path.join(trainer_state.find_last(home), "trainer.json"))
                and trainer_state.load(trainer_state.find_last(home)).step == 9)
    train(tiny(out=home), resume=True)
    assert weights(home / "last") == weights(whole / "last")


# ------------------------------------------------------------------------------ killed, disk full

def loadable(directory):
    """Check that the parts of a checkpoint fit together; return its step."""
    model = GPT.from_pretrained(directory)
    assert Tokenizer.from_pretrained(directory).vocab_size == model.config.vocab_size
    state = trainer_state.load(directory)
    tensors, _ = safetensors.read(directory / "optimizer.safetensors")
    assert len(tensors) == 2 * sum(1 for _ in model.named_parameters())
    return state.step


def command(config, *flags):
    return [*COMMAND, "train", "--config", str(config), *flags]


def test_a_killed_run_leaves_a_whole_checkpoint(tiny, tmp_path):
    """Send SIGKILL at random moments of a run that mostly saves, and resume it each time."""
    out, rng, inside_a_save, resumed = tmp_path / "out", random.Random(4), 0, 0
    write_settings(tmp_path / "config.json", tiny(
        max_steps=100_000, eval_interval=1, eval_batches=1, n_embd=64, keep=1))
    for kill in range(KILLS):
        flags = ["--resume"] if (out / "last").exists() else []
        resumed += bool(flags)
        process = subprocess.Popen(command(tmp_path / "config.json", *flags), env=ONE_THREAD,
                                   stdout=subprocess.DEVNULL)
        began = time.monotonic()
        while not any(out.glob("step-*")) and time.monotonic() < began + 20:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.2, 0.6))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        inside_a_save += any(out.glob(".step-*.tmp"))
        step = loadable(out / "last")
        assert loadable(out / "best") <= step
    print(f"{KILLS} kills, {inside_a_save} inside a save, {resumed} resumed, {step} steps")
    directory = RunDirectory(out)  # removes the files that the last one left
    assert not [name for name in os.listdir(out) if name.endswith(".tmp")]
    directory.close()


def test_a_file_size_limit_leaves_the_checkpoint_whole(tiny, tmp_path):
    """Leave no room for the weights: the error names the checkpoint, and the previous one stays."""
    train(tiny(n_embd=64), [stop_after(5)])
    before = checkpoint_files(tmp_path / "out" / "last")
    write_settings(tmp_path / "config.json", tiny(n_embd=64))
    result = subprocess.run(
        command(tmp_path / "config.json", "--resume"), env=ONE_THREAD, capture_output=True,
        text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (99_999, 99_999)))
    assert result.returncode == 1
    assert result.stderr == (f"pygpt: error: {tmp_path}/out/step-00000008: "
                             f"{os.strerror(errno.EFBIG)}\n")
    assert checkpoint_files(tmp_path / "out" / "last") == before
    assert [name for name in os.listdir(tmp_path / "out") if name.endswith(".tmp")] == []


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_leaves_the_checkpoint_whole(tiny, small_disk):
    out = small_disk / "out"
    config = tiny(out=out, n_embd=64, keep=9, eval_interval=1)  # each takes 1.2 MB
    with pytest.raises(OSError) as error:
        train(config)
    assert error.value.errno == errno.ENOSPC and error.value.filename.startswith(f"{out}/step-")
    assert loadable(out / "last") == 2 and loadable(out / "best") in (1, 2)
    assert [name for name in os.listdir(out) if name.endswith(".tmp")] == []
