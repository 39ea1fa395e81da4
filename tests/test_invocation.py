"""Tests that the commands which a run proposes work as they are typed."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from commands import ENVIRONMENT, ROOT

from pygpt.cli import invocation
from pygpt.cli.invocation import command_line

SMALL = ("--n-layer 1 --n-head 1 --n-embd 8 --n-positions 8 --eval-batches 1 --sample-interval 0 "
         "--sample-length 3 --batch-size 2").split()


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Return a function that sets how the program seems to have been started, in an empty place."""
    def set_up(executable, argv0="/somewhere/pygpt/__main__.py", path=""):
        monkeypatch.setattr(sys, "executable", str(executable))
        monkeypatch.setattr(sys, "argv", [str(argv0)])
        monkeypatch.setenv("PATH", str(path))

    monkeypatch.chdir(tmp_path)
    return set_up


def program(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_an_interpreter_below_the_working_directory(started, tmp_path):
    started(tmp_path / ".venv" / "bin" / "python", path=tmp_path / ".venv" / "bin")
    assert command_line("sample", "out") == ".venv/bin/python -m pygpt sample out"
    started(tmp_path / "my venv" / "bin" / "python3")
    assert command_line("sample", "out") == "'my venv/bin/python3' -m pygpt sample out"
    started(tmp_path / "python")
    assert command_line("info") == "./python -m pygpt info"


def test_an_interpreter_elsewhere(started, tmp_path, tmp_path_factory):
    python = program(tmp_path_factory.mktemp("elsewhere") / "bin" / "python")
    started(python, path=python.parent)
    assert command_line("info") == "python -m pygpt info"
    other = program(tmp_path_factory.mktemp("other") / "bin" / "python")
    started(python, path=f"{other.parent}:{python.parent}")  # `python` would be another one
    assert command_line("info") == f"{python} -m pygpt info"
    started(python)
    assert command_line("info") == f"{python} -m pygpt info"


def test_the_installed_script(started, tmp_path, tmp_path_factory):
    script = program(tmp_path_factory.mktemp("scripts") / "pygpt")
    started("/no/bin/python", script, script.parent)
    assert command_line("sample", "a b") == "pygpt sample 'a b'"
    started("/no/bin/python", script)  # typed with its path
    assert command_line("info") == "/no/bin/python -m pygpt info"
    other = program(tmp_path_factory.mktemp("others") / "pygpt")
    started("/no/bin/python", script, other.parent)
    assert command_line("info") == "/no/bin/python -m pygpt info"


def test_a_working_directory_that_is_gone(started, monkeypatch):
    started("/no/bin/python")

    def gone():
        raise FileNotFoundError

    monkeypatch.setattr(os, "getcwd", gone)
    assert invocation.command_line("info") == "/no/bin/python -m pygpt info"


@pytest.mark.parametrize("out", ["my out's", "-out", "$HOME/a;b", "ö"])
def test_the_proposals_work_as_they_are_typed(out, tmp_path):
    """Run in a checkout with a virtual environment, which `make train` uses: see the Makefile."""
    checkout = tmp_path / "check out"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    home = os.path.join(sys.prefix, "pyvenv.cfg")
    if os.path.exists(home):  # the environment that the tests run in, under another name
        shutil.copy(home, checkout / ".venv")
        os.symlink(os.path.join(sys.prefix, "lib"), checkout / ".venv" / "lib")
    os.symlink(ROOT / "pygpt", checkout / "pygpt")
    (checkout / "text").write_text("hello there " * 40)

    def run(command, **more):
        environment = {k: v for k, v in ENVIRONMENT.items() if k != "PYTHONPATH"}
        return subprocess.run(command, cwd=checkout, env=environment | {"PATH": "/usr/bin:/bin"},
                              capture_output=True, text=True, timeout=60, **more)

    flags = ["--data", "text", *SMALL, f"--out={out}"]
    result = run([".venv/bin/python", "-m", "pygpt", "train", *flags, "--max-steps", "1"])
    assert result.returncode == 0, result.stderr
    command = re.search("; try: (.*)\n", result.stdout)[1]
    assert command.startswith(".venv/bin/python -m pygpt sample ")
    result = run(["sh", "-c", command + " --max-new-tokens 3"])
    assert result.returncode == 0 and result.stdout, result.stderr


@pytest.mark.parametrize("out", ["o", "my out", "-o"])
def test_the_proposal_to_resume_works_as_it_is_typed(out, tmp_path):
    (tmp_path / "text").write_text("hello there " * 40)
    process = subprocess.Popen(
        [sys.executable, "-m", "pygpt", "train", "--data", "text", *SMALL, f"--out={out}",
         "--max-steps", "1000000", "--eval-interval", "1000000"], cwd=tmp_path, env=ENVIRONMENT,
        stdout=subprocess.PIPE, text=True)
    while not process.stdout.readline().startswith("step 1/"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    command = shlex.split(re.search("to go on: (.*)\n", said)[1])
    assert command[1:5] == ["-m", "pygpt", "train", "--resume"]
    assert os.path.normpath(command[-1]) == out
    process = subprocess.Popen(["sh", "-c", shlex.join(["exec", *command])], cwd=tmp_path,
                               env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert re.fullmatch(r"continuing from step \d+ of .*/last\n", line)
