"""The command line in a process of its own, for the tests that look at it as a user does."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"COLUMNS": "200", "PYTHONUTF8": "1"}  # conftest.py sets the rest
COMMAND = [sys.executable, "-m", "pygpt"]


def finished(*command, cwd=None, input=None, **environment):
    """The finished process of a command; input and output are str, or bytes if input is."""
    words = [os.fspath(word) if isinstance(word, (bytes, os.PathLike)) else str(word)
             for word in command]
    return subprocess.run(words, cwd=cwd, text=not isinstance(input, bytes), input=input,
                          capture_output=True, env=ENVIRONMENT | environment, timeout=120)


def pygpt(*arguments, **options):
    """The finished process of pygpt with these arguments; the options are those of finished()."""
    return finished(*COMMAND, *arguments, **options)


def python(code, *arguments, **options):
    """The finished process of Python code with these arguments."""
    return finished(sys.executable, "-c", code, *arguments, **options)


def shell(command, cwd, input=b""):
    """The finished process of a shell's command line in which pygpt is the program."""
    script = f'pygpt() {{ "{sys.executable}" -m pygpt "$@"; }}\n{command}'
    return finished("bash", "-c", script, cwd=cwd, input=input)


def refusal(result, *statuses):
    """The one line on standard error of a command that failed with one of these statuses."""
    error = result.stderr if isinstance(result.stderr, str) else result.stderr.decode()
    assert result.returncode in (statuses or (1, 2)), (result.stdout, error)
    assert error.startswith("pygpt: error: ") and error.count("\n") == 1, error
    return error


def assert_refused(result, status, *parts):
    """One clear line on standard error, the exit status, and no traceback."""
    error = refusal(result, status)
    for part in parts:
        assert part in error


def rest_of_terminal(controller):
    """What is still written to a terminal until its other end is closed; closes this one."""
    output = b""
    try:
        while part := os.read(controller, 4096):
            output += part
    except OSError:  # how a terminal says that its other end is closed
        pass
    os.close(controller)
    return output
