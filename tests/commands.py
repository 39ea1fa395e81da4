"""Runs commands in processes of their own, as a user does, and reads the errors they print.

A process takes a fifth of a second to start. Where only the words of an error matter, here() runs
the command in the process of the tests.
"""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
from unittest import mock

from pygpt.cli.main import main

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"COLUMNS": "200", "PYTHONUTF8": "1"}
COMMAND = [sys.executable, "-m", "pygpt"]


def finished(*command, cwd=None, input=None, **environment):
    """Run a command to its end; its input and output are str, or bytes if the input is."""
    words = [os.fspath(word) if isinstance(word, (bytes, os.PathLike)) else str(word)
             for word in command]
    return subprocess.run(words, cwd=cwd, text=not isinstance(input, bytes), input=input,
                          capture_output=True, env=ENVIRONMENT | environment, timeout=120)


def pygpt(*arguments, **options):
    """Run pygpt with these arguments to its end; the options are those of finished()."""
    return finished(*COMMAND, *arguments, **options)


def here(*arguments, cwd="."):
    """Run pygpt with these arguments in this process; return what pygpt() would."""
    output, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    before = os.getcwd()
    os.chdir(cwd)
    try:
        with (contextlib.redirect_stdout(output), contextlib.redirect_stderr(error),
              mock.patch.dict(os.environ, ENVIRONMENT)):
            status = main(arguments)
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(arguments, status, *(
        stream.buffer.getvalue().decode() for stream in (output, error)))


def python(code, *arguments, **options):
    """Run Python code with these arguments to its end; the options are those of finished()."""
    return finished(sys.executable, "-c", code, *arguments, **options)


def shell(command, cwd, input=b""):
    """Run a command line of bash, in which `pygpt` is this program, to its end."""
    script = f'pygpt() {{ "{sys.executable}" -m pygpt "$@"; }}\n{command}'
    return finished("bash", "-c", script, cwd=cwd, input=input)


def refusal(result, *statuses):
    """Check that a command failed with one of these statuses, or 1 or 2; return its error line."""
    error = result.stderr if isinstance(result.stderr, str) else result.stderr.decode()
    assert result.returncode in (statuses or (1, 2)), (result.stdout, error)
    assert error.startswith("pygpt: error: ") and error.count("\n") == 1, error
    return error


def assert_refused(result, status, *parts):
    """Check that a command failed with this status and that its one-line error has these parts."""
    error = refusal(result, status)
    for part in parts:
        assert part in error


def rest_of_terminal(controller):
    """Read a terminal until its other end is closed, then close this one; return the output."""
    output = b""
    try:
        while part := os.read(controller, 4096):
            output += part
    except OSError:  # a terminal whose other end is closed raises this
        pass
    os.close(controller)
    return output
