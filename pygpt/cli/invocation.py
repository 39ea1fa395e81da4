"""How this program was started, so that the command it proposes works as it is typed.

Standard library only; used by report.
"""

import os
import shlex
import shutil
import sys


def command_line(*arguments):
    """A shell command that runs pygpt with these arguments, from the working directory of now."""
    return shlex.join([*_program(), *map(str, arguments)])


def _program():
    """`pygpt` where that is what was typed, else the interpreter that runs now and the module."""
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
