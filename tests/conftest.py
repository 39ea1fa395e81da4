"""Prepares the tests: the state that they run in, how hypothesis searches, and shared fixtures.

A process inherits more than its arguments: nohup ignores SIGHUP, a shell's background job ignores
Ctrl-C, a scheduler blocks signals, CI sets OMP_NUM_THREADS. The state that the tests and their
child processes rely on is set here, before anything of pygpt is imported. PYGPT_* variables are
left as they are: they say which library is tested.

Examples are derived from the test itself, so every run tries the same ones and none is stored.
"""

import io
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
# Variables that change what Python, OpenMP, a terminal, the C library or a build does.
UNSET = ("OMP_", "GOMP_", "KMP_", "LC_", "MAKE", "CLICOLOR")
UNSET_NAMES = {
    "PYTHONDEVMODE", "PYTHONHASHSEED", "PYTHONINSPECT", "PYTHONIOENCODING", "PYTHONOPTIMIZE",
    "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "PYTHONUTF8", "PYTHONWARNDEFAULTENCODING",
    "PYTHONWARNINGS", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "LANG", "LANGUAGE", "CFLAGS",
    "CPPFLAGS", "LDFLAGS", "LDSHARED"}
ASKED_FOR_WARNINGS = bool(sys.warnoptions)
SET = {"LC_ALL": "C.UTF-8", "TERM": "dumb", "TZ": "UTC"}


def set_state():
    """Give this process, and so its children, the state that the tests rely on."""
    for number in signal.valid_signals():
        # Python itself ignores these two, and gives its children the default.
        if signal.getsignal(number) == signal.SIG_IGN and number not in (signal.SIGPIPE,
                                                                         signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for name in list(os.environ):
        if name.startswith(UNSET) or name in UNSET_NAMES:
            del os.environ[name]
    # So that children find pygpt and the tests' modules from any directory.
    paths = [str(ROOT), str(ROOT / "tests"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ.update(SET, PYTHONPATH=os.pathsep.join(path for path in paths if path))
    time.tzset()
    os.umask(0o022)
    forget_warning_filters()


def forget_warning_filters():
    """Restore the filters that Python begins with, if -W or PYTHONWARNINGS asked for others."""
    if ASKED_FOR_WARNINGS:
        sys.warnoptions.clear()
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning,
                         ResourceWarning):
            warnings.simplefilter("ignore", category)


def pytest_configure(config):
    """Forget the filters again: pytest restores those that it found before it read this file."""
    forget_warning_filters()


def not_waiting(descriptor):
    """Stand in for os.fsync: what tests write need not outlast a power cut. A training run of ten
    steps calls it fifty times; where the disk is busy, that takes longer than the run."""
    os.fstat(descriptor)  # a descriptor that is closed is still an error


set_state()
os.fsync = not_waiting

import tokenizerfiles  # noqa: E402
from runs import stop_after  # noqa: E402

from pygpt.backend import kernels as library  # noqa: E402
from pygpt.checkpoint import weights  # noqa: E402
from pygpt.config import TrainConfig  # noqa: E402
from pygpt.tokenizer import BPETokenizer  # noqa: E402
from pygpt.training.trainer import train  # noqa: E402

hypothesis.settings.register_profile(
    "pygpt", derandomize=True, database=None, deadline=None, max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
# For `make test-long`: tests whose examples are files or graphs of any kind.
hypothesis.settings.register_profile(
    "long", hypothesis.settings.get_profile("pygpt"), max_examples=500)
hypothesis.settings.load_profile("pygpt")

TEXT = "".join(f"{a} times {b} is {a * b}.\n" for a in range(12) for b in range(12))


@pytest.fixture
def tiny(tmp_path):
    """Return a function that makes the TrainConfig of a run of a fraction of a second."""
    (tmp_path / "text").write_text(TEXT)

    def config(**changes):
        return TrainConfig(**dict(
            data=tmp_path / "text", out=tmp_path / "out", n_layer=2, n_head=2, n_embd=16,
            n_positions=8, batch_size=4, max_steps=10, learning_rate=1e-2, warmup_steps=2,
            eval_interval=4, eval_batches=3, sample_interval=0, sample_length=5) | changes)

    return config


@pytest.fixture
def whole(tiny, tmp_path):
    """Train ten steps without a stop; return the run's directory."""
    train(tiny(out=tmp_path / "whole"))
    return tmp_path / "whole"


@pytest.fixture
def stopped(tiny, tmp_path):
    """Train the same run, stop after nine steps, so best is not last; return its directory."""
    train(tiny(keep=2), [stop_after(9)])
    return tmp_path / "out"


@pytest.fixture
def run(tiny):
    """Return a function that trains one step of a tiny run of 1000 and returns its records."""
    def run(resume=False, force=False, **changes):
        records = []
        settings = dict(n_layer=1, n_head=1, n_embd=8, max_steps=1000, eval_interval=1)
        callbacks = [records.append, lambda record: record["event"] == "step"]
        train(tiny(**settings | changes), callbacks, resume=resume, force=force)
        return records
    return run


@pytest.fixture
def stdin(monkeypatch):
    """Return a function that puts bytes in place of standard input."""
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.fixture
def fifo(tmp_path):
    """Return a function that makes a FIFO, writes to it once, and returns its path."""
    def fifo(name, data):
        path = tmp_path / name
        os.mkfifo(path)

        def write():
            try:
                path.write_bytes(data)
            except OSError:  # its reader closed it early
                pass
        threading.Thread(target=write, daemon=True).start()
        return path
    return fifo


@pytest.fixture
def long_texts(monkeypatch):
    """Count every text as long, so that its tokens go to a file."""
    monkeypatch.setattr("pygpt.data.token_file.IN_MEMORY", 100)
    monkeypatch.setattr("pygpt.data.dataset.IN_MEMORY", 100)


@pytest.fixture(scope="session")
def plain():
    """Learn a tokenizer of 261 ids; the id 260 is <|endoftext|>."""
    return BPETokenizer.train(tokenizerfiles.TEXT, 261, ["<|endoftext|>"])


@pytest.fixture
def older(plain, tmp_path):
    """Return a directory that holds vocab.json and merges.txt alone."""
    plain.save_pretrained(tmp_path)
    for name in (tokenizerfiles.MAIN, tokenizerfiles.CONFIG):
        (tmp_path / name).unlink()
    return tmp_path


@pytest.fixture
def newer(plain, tmp_path):
    """Return a directory that holds only a tokenizer.json, with [PAD] as an added token."""
    BPETokenizer(plain._vocab, plain._merges, plain.special_tokens,
                 {"[PAD]": 261}).save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt", tokenizerfiles.CONFIG):
        (tmp_path / name).unlink()
    return tmp_path


@pytest.fixture
def taken(monkeypatch):
    """Return a list that gets the size in bytes of each piece of memory taken to open a model."""
    sizes, Memory = [], weights.Memory

    def counted(nbytes, buffer=None):
        if buffer is None:
            sizes.append(nbytes)
        return Memory(nbytes, buffer)

    monkeypatch.setattr(weights, "Memory", counted)
    return sizes


@pytest.fixture
def kernels():
    """Return pygpt.backend.kernels, and restore its number of threads after the test."""
    with library.use_threads(library.get_num_threads()):
        yield library


@pytest.fixture
def frequent_switches():
    """Let Python change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True)
def no_process_left(monkeypatch):
    """End the processes that a test leaves behind when it fails half-way."""
    started, start = [], subprocess.Popen.__init__

    def noted(self, *args, **options):
        start(self, *args, **options)
        started.append(self)

    monkeypatch.setattr(subprocess.Popen, "__init__", noted)
    yield
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
