"""Manages the output directory of a training run.

    OUT/step-00000500/         a checkpoint: a model (checkpoint/model_files.py) and the state of
                               the run (trainer_state.py)
    OUT/last -> step-00000500  a link to the newest checkpoint
    OUT/best -> step-00000250  a link to the checkpoint of lowest validation loss
    OUT/train.json             the run's settings, for --config
    OUT/log.jsonl              the records of the run's events (run_log.py)
    OUT/tokens/                the text as tokens, if it is long (data/token_file.py)
    OUT/stdin.txt, pipe-1.txt  copies of standard input and pipes (data/stream_copies.py)
    OUT/earlier-1/             the files of an earlier run in OUT (earlier_run.py)

Each link names a complete directory at every instant. Where a file system has no links, `last` and
`best` are small files (checkpoint/saved.py). A process that writes here holds a lock on the
directory, if the file system has locks. A run moves, replaces and removes only entries that have
the names above or are its own temporary files.
"""

import contextlib
import errno
import itertools
import os

from pygpt.checkpoint import saved
from pygpt.checkpoint.saved import NAMES, STEP
from pygpt.data.stream_copies import COPY
from pygpt.files import (close_read, is_temporary_name, open_temporary, replacing, sync,
                         sync_directory, temporary_path, try_lock)
from pygpt.training import earlier_run
from pygpt.training.earlier_run import EARLIER, remove_tree

SETTINGS_FILE, LOG_FILE = "train.json", "log.jsonl"
RUN_FILES = SETTINGS_FILE, LOG_FILE  # besides checkpoints and copies of streams
# Files whose temporary versions a killed process may have left in OUT, as files.is_temporary_name
# takes them.
TEMPORARY = rf"\.writable|train\.json|log\.jsonl|{COPY.pattern}|last|best"
MOST_ATTEMPTS = 100  # to make a directory that other processes remove
TEMPORARY_TOKENS = r"tokens-new\.bin"  # the same for OUT/tokens


class RunDirectory:
    """Saves checkpoints so that `last` and `best` are complete at every instant.

    Attributes:
        path: the path of the directory.
        warnings: sentences about missing features of the file system.
    """

    def __init__(self, path, keep=0):
        """Make the directory, or check that an existing one can be written.

        Also remove the unfinished files that a killed process left.

        Args:
            path: the path of the directory.
            keep: the number of older checkpoints to keep besides `last` and `best`.
        Raises:
            OSError: the directory cannot be made or written, another process is writing to it, or
                it holds an entry that no run made under a name that a run uses.
        """
        self.path, self.keep, self.warnings = os.fspath(path), keep, []
        self._is_locked, self._has_links = False, True
        self._closing = contextlib.ExitStack()  # the actions of close(), the last one first
        self._make_and_lock()
        try:
            self._refuse_foreign_entries()
            if self._is_locked:  # without a lock, another process may still be writing them
                self._clear_unfinished()
            try:
                self._check_writable()
                self._check_links()
            except OSError as error:
                error.filename = self.path
                raise
        except BaseException:
            self.close()
            raise

    def file(self, name):
        """Return the path of a file in the directory."""
        return os.path.join(self.path, name)

    def close(self):
        """Release the lock, and remove the directories that were made if they are still empty."""
        self._closing.close()

    __del__ = close

    def _make_and_lock(self):
        """Make the directory and lock it; again if another process removed it in between.

        Only a process that holds the lock removes what it made: another may have locked it.
        """
        for attempts_left in reversed(range(MOST_ATTEMPTS)):
            made = []
            try:
                self._make(made)
                self._take_lock()
            except FileNotFoundError:
                if not attempts_left:
                    raise
            else:
                self._closing.callback(_remove_empty, made)  # before the lock is released
                return

    def _make(self, made):
        """Make the directory, and put what was made into the list `made`."""
        try:
            _make_directory(os.path.abspath(self.path), made)
        except OSError as error:
            _remove_empty(made)
            if not isinstance(error, FileExistsError):
                raise
            problem = ("is a link that leads nowhere" if os.path.islink(self.path)
                       else "is a file, not a directory")
            raise FileExistsError(errno.EEXIST, problem, self.path) from None

    def _take_lock(self):
        lock = os.open(self.path, os.O_RDONLY)
        with contextlib.ExitStack() as opened:
            opened.callback(close_read, lock)
            self._lock(lock)
            if not os.path.samestat(os.stat(self.path), os.fstat(lock)):
                raise FileNotFoundError(errno.ENOENT, "was removed meanwhile", self.path)
            self._closing.push(opened.pop_all())

    def _lock(self, lock):
        try:
            self._is_locked = try_lock(lock)
        except OSError as error:
            self.warnings.append(f"{self.path}: the file system has no locks ({error.strerror}); "
                                 "nothing keeps a second run out of the directory")
            return
        if not self._is_locked:
            raise BlockingIOError(errno.EWOULDBLOCK, "another run is writing to this directory",
                                  self.path)

    def _refuse_foreign_entries(self):
        """Refuse entries that no run made but that this run would have to replace."""
        for name in NAMES:
            saved.target(self.path, name)
        for name in [*RUN_FILES, *self._copied_streams()]:
            path = self.file(name)
            if os.path.lexists(path) and not os.path.isfile(path):
                raise FileExistsError(errno.EEXIST, "is not a file, but a run would write one of "
                                      "this name; move it away, or choose another output "
                                      "directory", path)

    def _copied_streams(self):
        return list(filter(COPY.fullmatch, os.listdir(self.path)))

    def _clear_unfinished(self):
        for name in os.listdir(self.path):
            path = self.file(name)
            if is_temporary_name(name, TEMPORARY):
                _remove_file(path)
            elif (name.startswith(".") and name.endswith(".tmp") and saved.is_directory(path)
                  and (STEP.fullmatch(name[1:-4]) or EARLIER.fullmatch(name[1:-4]))):
                remove_tree(path)
        tokens = self.file("tokens")
        if saved.is_directory(tokens):
            for name in os.listdir(tokens):
                if is_temporary_name(name, TEMPORARY_TOKENS):
                    _remove_file(os.path.join(tokens, name))

    def _check_writable(self):
        probe = temporary_path(self.file(".writable"))
        with open_temporary(probe) as file:
            sync(file.fileno(), self.path)
        os.unlink(probe)

    def _check_links(self):
        probe = temporary_path(self.file("last"))
        _remove_file(probe)
        try:
            os.symlink("nothing", probe)
        except (OSError, NotImplementedError, AttributeError) as error:
            self._has_links = False
            self.warnings.append(
                f"{self.path}: the file system has no symbolic links ("
                f"{getattr(error, 'strerror', None) or 'the system knows none'}); last and best "
                "are files that name a checkpoint")
        else:
            os.unlink(probe)

    def set_aside(self):
        """Move an earlier run to a directory of its own, from which it can be resumed.

        The checkpoints, the log, the settings and the copies of streams are moved.

        Returns:
            The path of the new directory, OUT/earlier-N, or None if there was nothing to move.
        """
        return earlier_run.move(self, RUN_FILES, self._copied_streams())

    def restore_links(self):
        """Turn `last` and `best` back into links if they are directories.

        They are directories after a copy that followed the links. Each is renamed to its step, and
        a link to it is made. `last` is missing for an instant, in which its checkpoint is the
        newest.
        """
        for link in NAMES:
            path = self.file(link)
            if saved.is_directory(path):
                name = self._free_checkpoint(saved.step_of(path) or 0)
                os.rename(path, self.file(name))
                self.make_link(path, name)

    def save(self, step, is_best, write):
        """Save a checkpoint, point `last` to it, and then remove the oldest checkpoints.

        Args:
            step: the number of steps that the run has taken.
            is_best: whether `best` is to name the checkpoint as well.
            write: a function that writes the checkpoint's files into a directory.
        Returns:
            The checkpoint's path.
        Raises:
            OSError: it cannot be written. `last` and `best` are unchanged.
        """
        name = self._free_checkpoint(step)
        target, temporary = self.file(name), self.file(f".{name}.tmp")
        remove_tree(temporary)
        try:
            os.mkdir(temporary)
            write(temporary)
            sync_directory(temporary)
            os.rename(temporary, target)
        except BaseException as error:
            remove_tree(temporary)
            if isinstance(error, OSError) and error.errno:
                error.filename, error.filename2 = target, None
            raise
        sync_directory(self.path)
        self.restore_links()
        for link in NAMES if is_best else ("last",):
            self.make_link(self.file(link), name)
        self._remove_old()
        return target

    def _free_checkpoint(self, step):
        """Return a new name for a checkpoint; a resumed run may save the same step again."""
        first = f"step-{step:08d}"
        numbered = (f"{first}-{number}" for number in itertools.count(2))
        return self.free_name(itertools.chain([first], numbered))

    def free_name(self, names):
        """Return the first of the names that is not in use."""
        return next(name for name in names if not os.path.lexists(self.file(name)))

    def make_link(self, path, name):
        """Make a link to a checkpoint beside it, or without links a file that names it."""
        if not self._has_links:
            with replacing(path) as file:
                file.write(name.encode() + b"\n")
            return
        temporary = temporary_path(path)
        _remove_file(temporary)
        try:
            os.symlink(name, temporary)
            os.replace(temporary, path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                _remove_file(temporary)
            if isinstance(error, OSError) and error.errno:
                error.filename, error.filename2 = path, None  # a symlink's error names its target
            raise
        sync_directory(os.path.dirname(path))

    def _remove_old(self):
        named = {saved.target(self.path, link) for link in NAMES}
        others = [name for name in saved.steps(self.path) if name not in named]
        for name in others[: max(0, len(others) - self.keep)]:
            doomed = self.file(f".{name}.tmp")  # half deleted, it must not look like a checkpoint
            try:
                os.rename(self.file(name), doomed)
            except OSError:
                continue  # an extra checkpoint is no reason to end a run
            remove_tree(doomed)


def _make_directory(path, made):
    """Make a directory and the parents that it lacks, unless it is there; put each one that this
    call has made before the others in `made`. No other may be removed later.

    Raises:
        FileNotFoundError: another process removed it or a parent meanwhile.
        OSError: it cannot be made.
    """
    for has_parent in False, True:
        try:
            os.mkdir(path)
        except FileNotFoundError:
            if has_parent:
                raise
            _make_directory(os.path.dirname(path), made)
        except OSError as error:  # another process may have made it since the last attempt
            if os.path.isdir(path):
                return
            if isinstance(error, FileExistsError) and not os.path.lexists(path):
                raise FileNotFoundError(errno.ENOENT, "was removed meanwhile", path) from None
            raise
        else:
            made.insert(0, path)
            return


def _remove_empty(directories):
    """Remove directories up to the first that is not empty."""
    with contextlib.suppress(OSError):
        for path in directories:
            os.rmdir(path)


def _remove_file(path):
    """Remove a file or a link, if there is one; leave a directory in place."""
    if os.path.lexists(path) and not saved.is_directory(path):
        os.unlink(path)
