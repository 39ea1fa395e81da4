"""Finds the checkpoints in a run's output directory, and the two that `last` and `best` name.

    OUT/step-00000500/, OUT/step-00000500-2/   checkpoints; -2: the same step, saved again
    OUT/last, OUT/best                         one of three kinds:
        a symbolic link to one of them
        a file of one line, such as "step-00000500": on file systems without links
        a checkpoint itself: a copy of a run that was made with its links followed
"""

import errno
import os
import re

from pygpt.files import read_bytes, read_json_object

NAMES = "last", "best"
STEP = re.compile(r"step-([0-9]{8,})(?:-([0-9]+))?")  # group 1: the steps taken
STATE_FILE = "trainer.json"


def steps(out):
    """Return the names of the checkpoints in a directory, oldest first.

    Raises:
        OSError: the directory cannot be read.
    """
    found = [(int(match[1]), int(match[2] or 1), name) for name in os.listdir(out)
             if (match := STEP.fullmatch(name)) and is_directory(os.path.join(out, name))]
    return [name for *_, name in sorted(found)]


def is_directory(path):
    """Return whether a path is a directory and not a link to one."""
    return os.path.isdir(path) and not os.path.islink(path)


def newest(out, is_complete):
    """Return the path of the newest complete checkpoint, or None.

    Args:
        out: the path of the run's directory, which may be missing.
        is_complete: a function of a checkpoint's path that returns whether it is complete.
    """
    try:
        names = steps(out)
    except OSError:
        return None
    paths = (os.path.join(out, name) for name in reversed(names))
    return next(filter(is_complete, paths), None)


def read_pointer(path):
    """Return the name in a file that stands for a link; None: there is no such file at path."""
    try:
        text = read_bytes(path, 256).decode("ascii")
    except (OSError, ValueError):  # there is no file, or no text in it
        return None
    name = text.removesuffix("\n")
    return name if STEP.fullmatch(name) else None


def resolved(path):
    """Return a checkpoint's directory: path itself, or the one that the file at path names."""
    name = read_pointer(path)
    return path if name is None else os.path.join(os.path.dirname(path), name)


def named(out, name):
    """Return the path of the checkpoint that `last` or `best` names; it may not exist."""
    return resolved(os.path.join(out, name))


def step_of(path):
    """Return the number of steps in a checkpoint's trainer.json; None if the file has none."""
    try:
        step = read_json_object(os.path.join(path, STATE_FILE)).get("step")
    except (OSError, ValueError):
        return None
    return step if type(step) is int and 0 <= step < 1 << 63 else None


def target(out, name):
    """Return the name of the checkpoint in out that the entry `last` or `best` names.

    Returns:
        The name; None if there is no such entry, or if it is a checkpoint itself.
    Raises:
        FileExistsError: no run made the entry, so no run may replace it.
    """
    path = os.path.join(out, name)
    if not os.path.lexists(path):
        return None
    if os.path.islink(path):
        directory, link = os.path.split(os.readlink(path))
        # a link is broken when the run or the checkpoint was moved
        if STEP.fullmatch(link) and (not os.path.exists(path) or os.path.samefile(
                os.path.join(out, directory), out)):
            return link
        found = f"is a link to {os.readlink(path)}, which is not a checkpoint in this directory"
    elif is_directory(path):
        if step_of(path) is not None:
            return None
        found = "is a directory that holds no checkpoint of a run"
    else:
        if (link := read_pointer(path)) is not None:
            return link
        found = "is a file that names no checkpoint"
    raise FileExistsError(errno.EEXIST, f"{found}; move it away, or choose another output "
                          "directory", path)
