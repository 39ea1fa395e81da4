"""Moves the run in an output directory to OUT/earlier-N, from which it can be resumed.

At every instant one of the two directories has a complete `last` and all the files that a resume
needs: the files are put into the new directory before the checkpoint that `last` names, and they
are removed from the old one after it. A move that a killed process had begun is completed.

run_directory.py uses this file. A `directory` here is a RunDirectory, which is locked.
"""

import contextlib
import filecmp
import itertools
import os
import re
import shutil

from pygpt.checkpoint import saved
from pygpt.checkpoint.saved import NAMES
from pygpt.files import replacing, sync_directory

EARLIER = re.compile("earlier-[0-9]+")  # the directories of earlier runs in OUT


def move(directory, run_files, streams):
    """Move checkpoints, links and files to OUT/earlier-N.

    Args:
        directory: the run's RunDirectory.
        run_files: the names of the files of a run, which may be missing.
        streams: the names of its copies of streams.
    Returns:
        The path of OUT/earlier-N, or None if there was nothing to move but copies of streams.
    Raises:
        OSError: an entry cannot be moved; the next call completes the move.
    """
    copies = [name for name in NAMES if saved.is_directory(directory.file(name))]
    links = {name: target for name in NAMES if (target := saved.target(directory.path, name))}
    steps = saved.steps(directory.path)
    named = [links[name] for name in ("best", "last") if links.get(name) in steps]
    files = [name for name in run_files if os.path.lexists(directory.file(name))]
    if not (copies or links or steps or files):
        return None
    files += streams
    begun = None if copies else _begun(directory, links, files, steps)
    earlier = begun or _begin(directory, links, files)
    others = [name for name in steps if name not in named]
    for name in [*others, *dict.fromkeys(named), *sorted(copies)]:  # "best" before "last"
        os.rename(directory.file(name), os.path.join(earlier, name))
    for name in [*links, *files]:
        os.unlink(directory.file(name))
    return earlier


def _begin(directory, links, files):
    """Make a directory OUT/earlier-N with these files and links; return its path."""
    name = directory.free_name(f"earlier-{number}" for number in itertools.count(1))
    earlier, temporary = directory.file(name), directory.file(f".{name}.tmp")
    remove_tree(temporary)
    os.mkdir(temporary)
    for file in files:
        _link_or_copy(directory.file(file), os.path.join(temporary, file))
    for link, target in links.items():  # dangling until the checkpoints have moved
        directory.make_link(os.path.join(temporary, link), target)
    sync_directory(temporary)
    os.rename(temporary, earlier)
    sync_directory(directory.path)
    return earlier


def _begun(directory, links, files, steps):
    """Return the path of an OUT/earlier-N to which a killed process had begun to move this run, or
    None. It has the same links and files, and none of the checkpoints still here."""
    if not files or (steps and not links):  # nothing tells whether it is the same run
        return None
    for name in filter(EARLIER.fullmatch, os.listdir(directory.path)):
        earlier = directory.file(name)
        with contextlib.suppress(OSError):  # a file in it cannot be read, or no run made it
            if (saved.is_directory(earlier)
                    and all(saved.target(earlier, link) == links[link] for link in links)
                    and all(filecmp.cmp(directory.file(file), os.path.join(earlier, file), False)
                            for file in files)
                    and not any(os.path.lexists(os.path.join(earlier, step)) for step in steps)):
                return earlier
    return None


def _link_or_copy(source, target):
    """Link or copy a file; both are only ever replaced, never written to again."""
    try:
        os.link(source, target)
    except (OSError, NotImplementedError, AttributeError):  # the file system has no links
        with replacing(target) as copy, open(source, "rb") as file:
            shutil.copyfileobj(file, copy)


def remove_tree(path):
    """Remove a directory and all that it holds, as far as the system lets it."""
    with contextlib.suppress(OSError):  # Python 3.11 raises if a directory's close() fails
        shutil.rmtree(path, ignore_errors=True)
