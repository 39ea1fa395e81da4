"""The output directory of a training run.

    OUT/step-00000500/         a checkpoint: a directory that checkpoint.py describes
    OUT/last -> step-00000500  links, so that each names a complete directory at every instant
    OUT/best -> step-00000250  the checkpoint of lowest validation loss
    OUT/train.json             the run's settings, for --config
    OUT/log.jsonl              what happened (log.py)
    OUT/tokens/                the text as tokens when it is long (tokens.py)
    OUT/stdin.txt, pipe-1.txt  what standard input and pipes held (streams.py)
    OUT/earlier-1/             what an earlier run left in OUT

Where a file system has no links, `last` and `best` are small files (saved.py). A process that
writes here holds a lock on the directory, where there are locks. Nothing is moved, replaced or
removed but entries whose names only a run gives.

Imports files, saved and stream_copies; used by train.
"""

import errno
import os
import shutil

try:
    import fcntl
except ImportError:  # where there is none, nothing keeps two runs apart
    fcntl = None

from pygpt.checkpoint import saved
from pygpt.files import is_temporary_name, replacing, sync_directory, temporary_path
from pygpt.checkpoint.saved import NAMES, STEP
from pygpt.data.stream_copies import COPY

SETTINGS_FILE, LOG_FILE = "train.json", "log.jsonl"
OF_A_RUN = SETTINGS_FILE, LOG_FILE  # beside the checkpoints, and the copies of streams (COPY)
# The final names of temporary files, for files.is_temporary_name: what a process that
# was killed may have left of them.
WRITTEN = rf"\.writable|train\.json|log\.jsonl|{COPY.pattern}|last|best"
TOKENS = r"tokens-new\.bin"  # the same of OUT/tokens


class RunDirectory:
    """Saves checkpoints so that `last` and `best` are complete at every instant.

    Attributes:
        path: of the directory.
        warnings: sentences about what the file system lacks.
    """

    def __init__(self, path, keep=0):
        """Make the directory, or prove that one that exists can be written; clear out what a
        process that was killed left half written.

        Args:
            path: of the directory.
            keep: how many older checkpoints stay besides those that `last` and `best` name.
        Raises:
            OSError: it cannot be made or written, another process is writing to it, or something
                in it that is no run's has the name of a run's.
        """
        self.path, self.keep, self.warnings = os.fspath(path), keep, []
        self._lock, self._is_locked, self._has_links = None, False, True
        self._made = _missing(self.path)
        self._make()
        try:
            self._take_lock()
            self._refuse_others()
            if self._is_locked:  # else it might be another process's that is still writing
                self._clear_unfinished()
            self._prove_writable()
            self._prove_links()
        except BaseException:
            self.close()
            raise

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

    def _make(self):
        try:
            os.makedirs(self.path, exist_ok=True)
        except FileExistsError:
            what = ("is a link that leads nowhere" if os.path.islink(self.path)
                    else "is a file, not a directory")
            raise FileExistsError(errno.EEXIST, what, self.path) from None

    def _take_lock(self):
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._is_locked = True
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BlockingIOError(errno.EWOULDBLOCK, "another run is writing to this "
                                      "directory", self.path) from None
            self.warnings.append(f"{self.path}: the file system has no locks ({error.strerror}); "
                                 "nothing keeps a second run out of the directory")

    def _refuse_others(self):
        """Refuse entries that a run would have to replace although no run made them."""
        for name in NAMES:
            saved.target(self.path, name)
        for name in [*OF_A_RUN, *filter(COPY.fullmatch, os.listdir(self.path))]:
            path = self.file(name)
            if os.path.lexists(path) and not os.path.isfile(path):
                raise FileExistsError(errno.EEXIST, "is no file, and a run would write one; move "
                                      "it away, or choose another output directory", path)

    def _clear_unfinished(self):
        for name in os.listdir(self.path):
            path = self.file(name)
            if is_temporary_name(name, WRITTEN):
                _remove_file(path)
            elif (name.startswith(".") and name.endswith(".tmp") and STEP.fullmatch(name[1:-4])
                  and saved.is_directory(path)):
                shutil.rmtree(path, ignore_errors=True)
        tokens = self.file("tokens")
        for name in os.listdir(tokens) if saved.is_directory(tokens) else ():
            if is_temporary_name(name, TOKENS):
                _remove_file(os.path.join(tokens, name))

    def _prove_writable(self):
        probe = self.file(".writable")
        try:
            with open(temporary_path(probe), "wb") as file:
                os.fsync(file.fileno())
            os.unlink(temporary_path(probe))
        except OSError as error:
            error.filename = self.path
            raise

    def _prove_links(self):
        probe = temporary_path(self.file("last"))
        _remove_file(probe)
        try:
            os.symlink("nothing", probe)
            os.unlink(probe)
        except (OSError, NotImplementedError, AttributeError) as error:
            self._has_links = False
            self.warnings.append(
                f"{self.path}: the file system has no symbolic links ("
                f"{getattr(error, 'strerror', None) or 'the system knows none'}); last and best "
                "are files that name a checkpoint")

    def set_aside(self):
        """Move the checkpoints of an earlier run, its log, its settings and its copy of standard
        input to a directory of their own, from which it can go on.

        At every instant `last` is complete, here or there, and beside it all that a resume needs:
        the files are there before the checkpoint that `last` names is, and here until it is gone.

        Returns:
            Its path, OUT/earlier-N; None when there was nothing.
        """
        copies = [name for name in NAMES if saved.is_directory(self.file(name))]
        links = {name: target for name in NAMES if (target := saved.target(self.path, name))}
        named = [links[name] for name in ("best", "last") if name in links]
        steps = saved.steps(self.path)
        texts = [name for name in os.listdir(self.path) if COPY.fullmatch(name)]
        files = [name for name in OF_A_RUN if os.path.lexists(self.file(name))]
        if not (copies or links or steps or files):
            return None
        earlier, files = self._new_directory(), files + texts
        for name in files:
            _link_or_copy(self.file(name), os.path.join(earlier, name))
        for name, target in links.items():  # they lead nowhere until the checkpoints have followed
            self._point(os.path.join(earlier, name), target)
        sync_directory(earlier)
        last_of_all = [*(name for name in dict.fromkeys(named) if name in steps),
                       *sorted(copies)]  # "best" before "last"
        for name in [name for name in steps if name not in named] + last_of_all:
            os.rename(self.file(name), os.path.join(earlier, name))
        for name in [*links, *files]:
            os.unlink(self.file(name))
        return earlier

    def _new_directory(self):
        number = 1
        while os.path.lexists(self.file(f"earlier-{number}")):
            number += 1
        path = self.file(f"earlier-{number}")
        os.mkdir(path)
        return path

    def adopt(self):
        """Where the directory was copied with its links followed, give the checkpoints that stand
        in their places the names of their steps, and make the links again.

        While `last` is missing for an instant, its checkpoint is the newest.
        """
        for link in NAMES:
            path = self.file(link)
            if saved.is_directory(path):
                name = self._free_name(saved.step_of(path) or 0)
                os.rename(path, self.file(name))
                self._point(path, name)

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
        name = self._free_name(step)
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
        self.adopt()
        for link in NAMES if is_best else ("last",):
            self._point(self.file(link), name)
        self._drop_old()
        return target

    def _free_name(self, step):
        """The name of a checkpoint that is not taken."""
        name, number = f"step-{step:08d}", 1
        while os.path.lexists(self.file(name)):  # the same step again, after a resume
            number += 1
            name = f"step-{step:08d}-{number}"
        return name

    def _point(self, path, name):
        """Let a link, or a file where there are no links, name a checkpoint beside it."""
        if not self._has_links:
            with replacing(path) as file:
                file.write(name.encode() + b"\n")
            return
        aside = temporary_path(path)
        _remove_file(aside)
        os.symlink(name, aside)
        os.replace(aside, path)
        sync_directory(os.path.dirname(path))

    def _drop_old(self):
        named = {saved.target(self.path, link) for link in NAMES}
        others = [name for name in saved.steps(self.path) if name not in named]
        for name in others[: max(0, len(others) - self.keep)]:
            doomed = self.file(f".{name}.tmp")  # half deleted it must not look like a checkpoint
            try:
                os.rename(self.file(name), doomed)
            except OSError:
                continue  # one checkpoint too many is no reason to end a run
            shutil.rmtree(doomed, ignore_errors=True)


def _missing(path):
    """The directories that makedirs makes for a path, the innermost first."""
    made, path = [], os.path.abspath(path)
    while not os.path.lexists(path):
        made.append(path)
        path = os.path.dirname(path)
    return made


def _remove_file(path):
    """Remove a file or a link, if it is there; a directory stays."""
    if os.path.lexists(path) and not saved.is_directory(path):
        os.unlink(path)


def _link_or_copy(source, target):
    """Let a file be in a second place as well; neither is written to any more, only replaced."""
    try:
        os.link(source, target)
    except (OSError, NotImplementedError, AttributeError):  # a file system without links
        with replacing(target) as copy, open(source, "rb") as file:
            shutil.copyfileobj(file, copy)
