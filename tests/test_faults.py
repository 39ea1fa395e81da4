"""Tests what is left after a call of the system has failed: memory, files, and mapped files.

The whole drill is `make faults` (tests/checks/faults.py). Here are a small part of it, and a test
for each defect that it found.
"""

import contextlib
import errno
import inspect
import os
import shutil
import signal
import stat
import subprocess
import sys

import pytest
from commands import COMMAND, ENVIRONMENT, ROOT, here, python, refusal
from models import bits, tiny as tiny_model

import pygpt
from pygpt import nn
from pygpt.autograd import launch, replay
from pygpt.autograd.ops import sum as sum_of
from pygpt.backend import kernels
from pygpt.cli import main as main_module
from pygpt.training.run_directory import RunDirectory
from pygpt.training.trainer import train

IDS, TARGETS = [[1, 5, 2, 7], [3, 3, 0, 6]], [[5, 2, 7, 1], [3, 0, 6, 2]]
NEEDS_GLIBC = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None
    or not getattr(os, "confstr", lambda _: "")("CS_GNU_LIBC_VERSION")
    or kernels.ffi is None or sys.implementation.name != "cpython",
    reason="faults.c stands in for functions of glibc")


@contextlib.contextmanager
def failing(owner, name, after=0):
    """Within the block, let owner.name raise MemoryError once, after some calls that work."""
    real, calls = getattr(owner, name), [0]

    def fail(*args, **kwargs):
        calls[0] += 1
        if calls[0] == after + 1:
            raise MemoryError
        return real(*args, **kwargs)

    setattr(owner, name, fail)
    try:
        with pytest.raises(MemoryError):
            yield
    finally:
        setattr(owner, name, real)


def gradients(model):
    return {name: bits(p.grad) for name, p in model.named_parameters()}


# ------------------------------------------------------------------------------- part of the drill

@NEEDS_GLIBC
@pytest.mark.parametrize("part, options", [
    ("kernels", "--every 16"), ("api", "--every 12 --samples 1"), ("memory", "--samples 1")])
def test_a_part_of_the_drill_finds_nothing(part, options, tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests/checks/faults.py"), *options.split(), part],
        env=ENVIRONMENT | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("faults: 0 problems\n")


# --------------------------------------------------------------------------------------- training

def by_operations(model):
    """Run a pass whose nodes run one by one."""
    logits = model(IDS)
    sum_of(logits * logits).backward()


def by_replay(model):
    model.loss_and_grad(IDS, TARGETS)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_backward_pass_that_fails_leaves_no_gradient(is_first):
    model, twin = tiny_model(), tiny_model()
    model.gradients(), twin.gradients()
    if not is_first:
        by_operations(model)
    real, calls = launch._call, [0]

    def fail(kernel, args):
        calls[0] += 1
        if calls[0] == 40:
            raise MemoryError
        real(kernel, args)

    with pytest.raises(MemoryError), launch.calling(fail):
        by_operations(model)
    assert set(gradients(model).values()) == {None}
    by_operations(model)
    by_operations(twin)
    assert gradients(model) == gradients(twin)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_replayed_step_that_fails_leaves_no_gradient(is_first, monkeypatch):
    model, twin = tiny_model(), tiny_model()
    pygpt.AdamW(model), pygpt.AdamW(twin)
    by_replay(model)
    if is_first:
        for _, parameter in model.named_parameters():
            parameter.leaf.valid = False
    with failing(replay, "check_status"), monkeypatch.context() as patch:
        run, runs = replay.run, []

        def run_in_part(calls):  # the forward pass, which recorded_step calls, is left alone
            runs.append(calls)
            run(calls[: len(calls) // 2])
            replay.check_status(kernels.ENOMEM)

        patch.setattr(replay, "run", run_in_part)
        by_replay(model)
    assert runs and set(gradients(model).values()) == {None}
    by_replay(model)
    by_replay(twin)
    assert gradients(model) == gradients(twin)


def test_dropout_is_not_lost_when_memory_runs_out_before_the_first_step(monkeypatch):
    model, twin = (tiny_model(embd_pdrop=0.5).train() for _ in range(2))
    pygpt.AdamW(model), pygpt.AdamW(twin)  # all flat buffers are there
    walk = nn._walk

    def fail_in_dropouts(*args):
        if any(call.function == "dropouts" for call in inspect.stack(0)):
            raise MemoryError
        return walk(*args)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(nn, "_walk", fail_in_dropouts)
        model.loss_and_grad(IDS, TARGETS)
    losses = [[m.loss_and_grad(IDS, TARGETS) for _ in range(3)] for m in (model, twin)]
    assert losses[0] == losses[1] and len(set(losses[0])) == 3


@pytest.mark.parametrize("owner, name, after", [
    ("pygpt.optim", "Memory", 0), ("pygpt.optim", "partial", 0), ("pygpt.optim", "partial", 1),
    ("pygpt.parameters", "next_serial", 0)])
def test_a_step_that_fails_has_changed_nothing(owner, name, after):
    model, twin = tiny_model(), tiny_model()
    frozen = model.transformer.wpe.weight, twin.transformer.wpe.weight
    for parameter in frozen:
        parameter.requires_grad = False  # so that a step has two stretches
    optimizers = [pygpt.AdamW(m, lr=0.1) for m in (model, twin)]
    for m in (model, twin):
        m.loss_and_grad(IDS, TARGETS)
    before = [bits(p) for _, p in twin.named_parameters()]
    with failing(sys.modules[owner], name, after):
        optimizers[0].step()
    assert optimizers[0].steps == 0
    assert [bits(p) for _, p in model.named_parameters()] == before
    for optimizer in optimizers:
        optimizer.step()
    assert [bits(p) for _, p in model.named_parameters()] == [
        bits(p) for _, p in twin.named_parameters()]


class Larger(nn.Module):
    """Holds a model, and a parameter that lies before those of the model."""

    def __init__(self, model):
        self.first, self.model = nn.Linear(3, 5).initialise(1), model


def test_a_decoding_step_that_cannot_be_recorded_anew_is_not_replayed_on_old_memory():
    from pygpt.decoding import Cache

    model, twin = tiny_model().eval(), tiny_model().eval()
    caches = [m.new_cache() for m in (model, twin)]
    for m, cache in zip((model, twin), caches):
        m.decode([1, 2], cache)
        m.decode([3], cache)
    for m in (model, twin):
        Larger(m).layout()  # the parameters move to other memory
        m.transformer.wte.weight.flat()[5] += 1.0
    with failing(Cache, "_compute"):
        caches[0].step([4])
    assert bits(caches[0].step([4])[0]) == bits(caches[1].step([4])[0])


# ------------------------------------------------------------------------------------------ files

@pytest.mark.parametrize("name", ["symlink", "replace"])
def test_a_link_that_cannot_be_made_is_named_and_leaves_nothing(name, tiny, tmp_path, monkeypatch):
    real = getattr(os, name)

    def refuse(source, target, **kwargs):
        is_of_last = str(target).startswith(str(tmp_path / "out" / "last"))
        if not is_of_last or source == "nothing":  # nothing: the probe for links works
            return real(source, target, **kwargs)
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), source, None, target)

    monkeypatch.setattr(os, name, refuse)
    with pytest.raises(PermissionError) as error:
        train(tiny())
    assert error.value.filename == str(tmp_path / "out" / "last")
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_a_run_goes_on_if_an_old_checkpoint_cannot_be_removed(tiny, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(shutil, "rmtree", fail)
    assert train(tiny(eval_interval=2)).steps == 10


def test_a_run_that_fails_removes_no_directory_that_it_has_not_made(tmp_path, monkeypatch):
    """Another process may make a directory just after this one has looked for it."""
    (tmp_path / "mine").mkdir()
    out = tmp_path / "mine" / "a" / "b"
    monkeypatch.setattr(os.path, "lexists", lambda path: str(path) == str(tmp_path))
    RunDirectory(out).close()
    assert (tmp_path / "mine").exists() and not (tmp_path / "mine" / "a").exists()
    RunDirectory(tmp_path / "mine").close()
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize("call", range(1, 40, 6))
def test_what_cannot_be_synced_is_named(call, tiny, tmp_path, monkeypatch):
    calls = []

    def fail(descriptor):
        calls.append(descriptor)
        if len(calls) == call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError) as error:
        train(tiny())
    assert error.value.filename.startswith(str(tmp_path / "out"))


def test_an_error_in_closing_a_directory_ends_no_run(tiny, monkeypatch):
    close = os.close

    def fail(descriptor):
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        close(descriptor)
        if is_directory:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", fail)
    assert train(tiny(keep=9)).steps == 10


# ----------------------------------------------------------------------------------- the messages

@pytest.mark.parametrize("place", ["parse", "as_typed", "complain", "standard_streams"])
def test_without_memory_for_its_report_a_command_says_so_in_one_line(place, monkeypatch, capfd):
    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(main_module, "parse", fail)
    monkeypatch.setattr(main_module, place, fail)
    assert main_module.main(["info"]) == 1
    assert capfd.readouterr().err == "pygpt: error: there is not enough memory\n"


# ----------------------------------------------------------------------------------- mapped files

CUT = """
import mmap, os, signal, sys, threading
{before}
from pygpt.cli.bus_errors import bus_errors_explained
from pygpt.files import map_bytes
path = sys.argv[1]
with open(path, "wb") as file:
    file.write(bytes(1 << 20))
with {block}, open(path, "rb") as file:
    data = map_bytes(file, mmap.ACCESS_READ)
    os.truncate(path, 10)
    {action}
"""
EXPLAINED = "pygpt: error: {}: became shorter while it was read, or its disk failed (SIGBUS)\n"
READ = "bytes(data[500_000:600_000])"


def cut(path, action=READ, before="", block="bus_errors_explained()"):
    return python(CUT.format(action=action, before=before, block=block), path)


@pytest.mark.skipif(kernels.ffi is None, reason="the reference backend has no C")
def test_a_mapped_file_that_becomes_shorter_is_named(tmp_path):
    path = tmp_path / "a file"
    result = cut(path)
    assert (result.returncode, result.stderr) == (-signal.SIGBUS, EXPLAINED.format(path))
    in_threads = ("threads = [threading.Thread(target=lambda: bytes(data[5000:])) for _ in 'ab']\n"
                  "    for thread in threads: thread.start()\n"
                  "    for thread in threads: thread.join()")
    result = cut(path, in_threads)
    assert (result.returncode, result.stderr) == (-signal.SIGBUS, EXPLAINED.format(path))


@pytest.mark.skipif(kernels.ffi is None, reason="the reference backend has no C")
def test_the_former_handler_of_sigbus_gets_the_signal_too(tmp_path):
    result = cut(tmp_path / "a", before="import faulthandler; faulthandler.enable()")
    assert result.returncode == -signal.SIGBUS
    assert result.stderr.startswith(EXPLAINED.format(tmp_path / "a") + "Fatal Python error")
    result = cut(tmp_path / "a", "os.kill(os.getpid(), signal.SIGBUS)")
    assert (result.returncode, result.stderr) == (-signal.SIGBUS, "")
    result = cut(tmp_path / "a", READ, block="__import__('contextlib').nullcontext()")
    assert (result.returncode, result.stderr) == (-signal.SIGBUS, "")
    result = cut(tmp_path / "a", f"pass\n{READ}")  # the block has ended
    assert (result.returncode, result.stderr) == (-signal.SIGBUS, "")


@pytest.mark.skipif(kernels.ffi is None, reason="the reference backend has no C")
def test_a_process_that_ignores_sigbus_goes_on_each_time(tmp_path):
    """A second signal would wait for ever for an explanation that is over."""
    send = "os.kill(os.getpid(), signal.SIGBUS)"
    result = cut(tmp_path / "a", f"signal.alarm(20); {send}; lib.pygpt_explain_bus_errors(0); "
                 f"lib.pygpt_explain_bus_errors(1); {send}; print('goes on')",
                 before="from pygpt.backend.kernels import lib\n"
                 "signal.signal(signal.SIGBUS, signal.SIG_IGN)")
    assert (result.returncode, result.stdout, result.stderr) == (0, "goes on\n", "")


@pytest.mark.skipif(kernels.ffi is None, reason="the reference backend has no C")
@pytest.mark.parametrize("words", [
    ["train", "--init", "out", "--data", "text", "--out", "new"], ["sample", "out"],
    ["eval", "out", "text"], ["export", "out", "new"]], ids=lambda words: words[0])
def test_commands_that_map_files_name_them(words, whole, tmp_path, monkeypatch):
    shutil.move(whole, tmp_path / "out")
    seen = []

    def opened(*args, **kwargs):
        seen.append(kernels.lib.pygpt_explain_bus_errors(1))  # 0: it is on already
        raise ValueError("seen")

    monkeypatch.setattr(pygpt.GPT, "from_pretrained", opened)
    assert refusal(here(*words, cwd=tmp_path)) == "pygpt: error: seen\n"
    assert seen == [0] and kernels.lib.pygpt_explain_bus_errors(0) == 0


@pytest.mark.skipif(kernels.ffi is None, reason="the reference backend has no C")
def test_a_model_that_becomes_shorter_while_it_writes_is_named(whole, tmp_path):
    path = (whole / "best").resolve() / "model.safetensors"
    with subprocess.Popen([*COMMAND, "sample", str(whole), "--interactive"], env=ENVIRONMENT,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        process.stdin.write("1\n")
        process.stdin.flush()
        while "\n" not in process.stdout.read(1):  # the model is open, and has begun to write
            pass
        os.truncate(path, 100)
        process.stdin.write("2\n" * 3)
        _, error = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGBUS
    assert error.endswith(EXPLAINED.format(path).replace(str(whole / "best"), str(path.parent)))
