"""The output directory of a training run.

    OUT/step-00000500/         a checkpoint: a directory that checkpoint.py describes
    OUT/last -> step-00000500  links, so that each names a complete directory at every instant
    OUT/best -> step-00000250  the checkpoint of lowest validation loss
    OUT/train.json             the run's settings, for --config
    OUT/log.jsonl              what happened (log.py)
    OUT/tokens/                the text as tokens when it is long (tokens.py)
    OUT/stdin.txt, pipe-1.txt  what standard input and pipes held (streams.py)
    OUT/earlier-1/             what an earlier run left in OUT

A process that writes here holds a lock on the directory.

Imports files and stream_copies; used by train.
"""

import errno
import os
import re
import shutil

try:
    import fcntl
except ImportError:  # where there is none, nothing keeps two runs apart
    fcntl = None

from pygpt.files import replacing, sync_directory
from pygpt.stream_copies import COPY

LINKS = "last", "best"
SETTINGS_FILE = "train.json"
OF_A_RUN = SETTINGS_FILE, "log.jsonl"  # beside the checkpoints


class RunDirectory:
    """Saves checkpoints so that `last` and `best` are complete at every instant."""

    STEP = re.compile(r"step-(\d{8,})(-\d+)?")  # -2: that step saved once more

    def __init__(self, path, keep=0):
        """Make the directory, or prove that one that exists can be written; clear out what a
        process that was killed left half written.

        Args:
            path: of the directory.
            keep: how many older checkpoints stay besides those that `last` and `best` name.
        Raises:
            OSError: it cannot be made or written, or another process is writing to it.
        """
        self.path, self.keep, self._lock = os.fspath(path), keep, None
        self._made = _missing(self.path)
        os.makedirs(self.path, exist_ok=True)
        self._lock = self._take_lock()
        with replacing(self.file(".writable")) as file:
            file.write(b"")
        os.unlink(self.file(".writable"))
        self._clear_unfinished()

    def file(self, name):
        """The path of a file in the directory."""
        return os.path.join(self.path, name)

    def close(self):
        """Let other processes write here; a directory that was made for nothing goes."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
        made, self._made = self._made, []
        try:
            for path in made:
                os.rmdir(path)
        except OSError:  # something is in it
            pass

    __del__ = close

    def _take_lock(self):
        lock = os.open(self.path, os.O_RDONLY)
        try:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise BlockingIOError(errno.EWOULDBLOCK, "another run is writing to this directory",
                                  self.path) from None
        return lock

    def _clear_unfinished(self):
        for directory in (self.path, self.file("tokens")):
            for name in os.listdir(directory) if os.path.isdir(directory) else ():
                path = os.path.join(directory, name)
                if not name.endswith(".tmp"):
                    continue
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.unlink(path)

    def set_aside(self):
        """Move the checkpoints and the log of an earlier run to a directory of their own.

        At every instant `last` is complete, either here or there.

        Returns:
            Its path, OUT/earlier-N; None when there was nothing.
        """
        names = os.listdir(self.path)
        steps = [name for name in names if self.STEP.fullmatch(name)]
        links = [name for name in LINKS if name in names]
        files = [name for name in names if name in OF_A_RUN or COPY.fullmatch(name)]
        if not steps + links + files:
            return None
        number = 1
        while os.path.lexists(self.file(f"earlier-{number}")):
            number += 1
        earlier = self.file(f"earlier-{number}")
        os.mkdir(earlier)
        for name in links:  # the copies point to nothing until the directories have followed
            os.symlink(os.readlink(self.file(name)), os.path.join(earlier, name))
        for name in steps + files:
            os.rename(self.file(name), os.path.join(earlier, name))
        for name in links:
            os.unlink(self.file(name))
        return earlier

    def save(self, step, is_best, write):
        """Save a checkpoint, which becomes `last`, then drop those that are not to be kept.

        Args:
            step: how many steps the run has taken.
            is_best: whether it becomes `best` as well.
            write: called with a directory to write the checkpoint's files into.
        Returns:
            The checkpoint's path.
        Raises:
            OSError: it cannot be written; `last` and `best` are what they were.
        """
        name, number = f"step-{step:08d}", 1
        while os.path.lexists(self.file(name)):  # the same step again, after a resume
            number += 1
            name = f"step-{step:08d}-{number}"
        target, aside = self.file(name), self.file(f".{name}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            os.mkdir(aside)
            write(aside)
            sync_directory(aside)
            os.rename(aside, target)
        except BaseException as error:
            shutil.rmtree(aside, ignore_errors=True)
            if isinstance(error, OSError) and error.errno:
                error.filename, error.filename2 = target, None
            raise
        sync_directory(self.path)
        self._link("last", name)
        if is_best:
            self._link("best", name)
        self._drop_old()
        return target

    def _link(self, link, name):
        path = self.file(link)
        aside = path + ".tmp"
        if os.path.lexists(aside):
            os.unlink(aside)
        os.symlink(name, aside)
        os.replace(aside, path)
        sync_directory(self.path)

    def _drop_old(self):
        named = {os.readlink(self.file(link)) for link in LINKS if os.path.islink(self.file(link))}
        others = sorted((name for name in os.listdir(self.path)
                         if self.STEP.fullmatch(name) and name not in named),
                        key=lambda name: int(self.STEP.fullmatch(name)[1]))
        for name in others[: max(0, len(others) - self.keep)]:
            doomed = self.file(f".{name}.tmp")  # half deleted it must not look like a checkpoint
            os.rename(self.file(name), doomed)
            shutil.rmtree(doomed)


def _missing(path):
    """The directories that makedirs makes for a path, the innermost first."""
    made, path = [], os.path.abspath(path)
    while not os.path.lexists(path):
        made.append(path)
        path = os.path.dirname(path)
    return made
