"""Finds how this program was started, so that a proposed command can be typed as printed."""

import os
import shlex
import shutil
import sys


def command_line(*arguments):
    """Return a shell command that runs pygpt with these arguments from the working directory."""
    return shlex.join([*_program(), *map(str, arguments)])


def _program():
    """Return `pygpt` if the user typed that, else the running interpreter and `-m pygpt`."""
    script, found = sys.argv[0] if sys.argv else "", shutil.which("pygpt")
    is_pygpt = os.path.basename(script) == "pygpt" and os.path.exists(script)
    if is_pygpt and found and os.path.samefile(found, script):
        return ["pygpt"]
    return [_interpreter(), "-m", "pygpt"]


def _interpreter():
    """Return the shortest name of the interpreter: a path below the working directory, its name
    on PATH, or the full path.

    Links are not followed, because a virtual environment's interpreter is a link to an interpreter
    without the packages.
    """
    path = sys.executable or "python3"
    try:
        below = os.path.relpath(path)
    except (OSError, ValueError):  # the directory is gone, or is on another drive
        return path
    if not below.startswith(os.pardir + os.sep):
        return below if os.sep in below else os.path.join(os.curdir, below)
    found = shutil.which(os.path.basename(path))
    return os.path.basename(path) if found and os.path.abspath(found) == path else path
