"""How this program was started, so that a command it proposes can be typed as it is printed."""

import os
import shlex
import shutil
import sys


def command_line(*arguments):
    """A shell command that runs pygpt with these arguments, from the present working directory."""
    return shlex.join([*_program(), *map(str, arguments)])


def _program():
    """`pygpt` if the user typed that, else the running interpreter and `-m pygpt`."""
    script = sys.argv[0] if sys.argv else ""
    if os.path.basename(script) == "pygpt" and _is_same(shutil.which("pygpt"), script):
        return ["pygpt"]
    return [_interpreter(), "-m", "pygpt"]


def _interpreter():
    """The shortest name of the interpreter: below the working directory, on PATH, or in full.

    Links are not followed: a virtual environment's interpreter is a link to one without packages.
    """
    path = sys.executable or "python3"
    try:
        below = os.path.relpath(path)
    except (OSError, ValueError):  # the directory is gone; another drive
        return path
    if not below.startswith(os.pardir + os.sep):
        return below if os.sep in below else os.path.join(os.curdir, below)
    found = shutil.which(os.path.basename(path))
    return os.path.basename(path) if found and os.path.abspath(found) == path else path


def _is_same(found, script):
    return bool(found) and os.path.exists(script) and os.path.samefile(found, script)
