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
    """The names of the checkpoints in a directory, oldest first.

    Raises:
        OSError: the directory cannot be read.
    """
    found = [(int(match[1]), int(match[2] or 1), name) for name in os.listdir(out)
             if (match := STEP.fullmatch(name)) and is_directory(os.path.join(out, name))]
    return [name for *_, name in sorted(found)]


def is_directory(path):
    """Whether a path is a directory and no link to one."""
    return os.path.isdir(path) and not os.path.islink(path)


def newest(out, is_whole):
    """The path of the newest checkpoint that is whole, or None.

    Args:
        out: of the directory, which may be missing.
        is_whole: called with the path of a checkpoint.
    """
    try:
        names = steps(out)
    except OSError:
        return None
    paths = (os.path.join(out, name) for name in reversed(names))
    return next(filter(is_whole, paths), None)


def read_pointer(path):
    """The checkpoint's name in a file that stands in for a link; None: path is no such file."""
    try:
        text = read_bytes(path, 256).decode("ascii")
    except (OSError, ValueError):  # there is no file, or no text in it
        return None
    name = text.removesuffix("\n")
    return name if STEP.fullmatch(name) else None


def resolved(path):
    """The directory of a checkpoint: path itself, or the one that the file at path names."""
    name = read_pointer(path)
    return path if name is None else os.path.join(os.path.dirname(path), name)


def named(out, name):
    """The path of the checkpoint that `last` or `best` names; it may not exist."""
    return resolved(os.path.join(out, name))


def step_of(path):
    """The number of steps in a checkpoint's trainer.json; None when the file has none."""
    try:
        step = read_json_object(os.path.join(path, STATE_FILE)).get("step")
    except (OSError, ValueError):
        return None
    return step if type(step) is int and 0 <= step < 1 << 63 else None


def target(out, name):
    """The name of the checkpoint in out that `last` or `best` names.

    Returns:
        The name; None when there is no entry of that name, or it is a checkpoint itself.
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
        what = f"is a link to {os.readlink(path)}, which is no checkpoint in this directory"
    elif is_directory(path):
        if step_of(path) is not None:
            return None
        what = "is a directory that holds no checkpoint of a run"
    else:
        if (link := read_pointer(path)) is not None:
            return link
        what = "is a file that names no checkpoint"
    raise FileExistsError(errno.EEXIST, f"{what}; move it away, or choose another output "
                          "directory", path)
