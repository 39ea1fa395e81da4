"""Finds the files that the paths of a corpus stand for.

A path may name a file or a pipe itself, or be a directory or a pattern that gives many files. A
file that is not text is skipped, and listed, when a directory or a pattern gave it; it is refused
when a path names it.
"""

import fnmatch
import glob
import os
import stat
from dataclasses import dataclass

from pygpt.tokenizer.reading import DataError, standard_input

STDIN = "-"
NAMES_SHOWN = 3  # a message names this many of the skipped files and counts the others


@dataclass
class Source:
    """Describes a file of a corpus.

    Attributes:
        path: the file to read, or None for a stream that has not been copied to a file yet.
        name: the name that messages use.
        place: the number of the path that it comes from, in the order of the settings.
        found_in: the directory or pattern that gave it, or None when a path names it.
        stream: None for a file. For a pipe, or another source that can be read only once, a key
            that is equal for two names of the same stream.
        size: the number of bytes.
    """

    path: str | None
    name: str
    place: int
    found_in: str | None = None
    stream: tuple | None = None
    size: int = 0


class Finder:
    """Finds the files of directories and patterns.

    Attributes:
        skipped: a (name, reason, directory or pattern) for each file that was left out.
    """

    def __init__(self, out=None):
        """Prepare to find files.

        Args:
            out: the directory that the run writes to; its files are never found.
        """
        self.skipped, self._out = [], out

    def find(self, path, place):
        """Return the sources that a directory or a pattern gives, in the order of their names.

        Raises:
            DataError: it gives none.
        """
        names, found = self._walk(path) if os.path.isdir(path) else self._match(path), []
        for name in _without_repetition(names):
            try:
                status = os.stat(name)
                if not stat.S_ISREG(status.st_mode):
                    self.skip(name, f"is {_kind(status.st_mode)}", path)
                elif name.endswith(".bin"):
                    self.skip(name, "is a file of tokens, which has to be named itself", path)
                elif status.st_size:  # an empty file adds nothing
                    found.append(Source(name, name, place, path, size=status.st_size))
            except OSError as error:  # a link that leads nowhere
                self.skip(name, error.strerror, path)
        if not found:
            self.refuse_empty(path, "file")
        return found

    def _walk(self, top, found_in=None):
        """List the files in and below a directory, sorted; skip those that cannot be reached."""
        found_in, out = found_in or top, self._out and os.path.realpath(self._out)
        if out == os.path.realpath(top):
            raise DataError(f"{top}: is the directory that the run writes to (out); its own files "
                            "would become text")
        files = []
        for directory, below, names in os.walk(
                top,
                onerror=lambda error: self.skip(error.filename, error.strerror, found_in)):
            inside = [os.path.join(directory, name) for name in below if not name.startswith(".")]
            for name in filter(os.path.islink, inside):
                self.skip(name, "is a link to a directory", found_in)
            below[:] = [os.path.basename(name) for name in inside if os.path.realpath(name) != out]
            files += [os.path.join(directory, name) for name in names if not name.startswith(".")]
        return sorted(files)

    def _match(self, pattern):
        """List the files that a pattern fits; those in out only if the whole pattern is in out."""
        parts = pattern.split(os.sep)
        if "**" not in parts:
            return _matches(pattern, self._out)
        # glob would follow a link to a directory above itself without end, so walk instead.
        before, after = parts[: parts.index("**")], parts[parts.index("**") :]
        files = []
        for top in sorted(glob.glob(os.sep.join([*before, ""]))) if before else [os.curdir]:
            files += [name for name in self._walk(top, pattern)
                      if _fits(os.path.relpath(name, top).split(os.sep), after)]
        return files if before else [os.path.normpath(name) for name in files]

    def skip(self, name, reason, found_in):
        """Leave a file out; the reason reads as the end of a sentence that begins with its name."""
        self.skipped.append((name, str(reason), found_in))

    def describe_skipped(self, found_in=None):
        """Return a sentence about the files that were skipped, or None when there are none.

        Args:
            found_in: count only the files of this directory or pattern; None counts all.
        """
        skipped = sorted((name, reason) for name, reason, where in self.skipped
                         if found_in in (None, where))
        if not skipped:
            return None
        shown = [f"{name if name.isprintable() else ascii(name)} ({reason})"
                for name, reason in skipped[:NAMES_SHOWN]]
        more = len(skipped) - len(shown)
        return (f"{len(skipped)} {'file is' if len(skipped) == 1 else 'files are'} skipped: "
                + ", ".join(shown) + (f", and {more} more" if more else ""))

    def refuse_empty(self, path, noun):
        """Refuse a directory or a pattern that gives no file of the kind that noun names.

        Raises:
            DataError: always.
        """
        subject = "the directory holds" if os.path.isdir(path) else "the pattern fits"
        skipped = self.describe_skipped(path)
        raise DataError(f"{path}: {subject} no {noun} that is not empty"
                        + (f"; {skipped}" if skipped else ""))


def source_at(path, place):
    """Return the source that a path names when it is neither a directory nor a pattern.

    Raises:
        OSError: there is no such file.
        DataError: it is a socket, or a device that is neither a terminal nor empty.
    """
    status = os.stat(path)
    if stat.S_ISREG(status.st_mode):
        return Source(path, path, place, size=status.st_size)
    kind = _kind(status.st_mode)
    if path.endswith(".bin"):
        raise DataError(f"{path}: is {kind}; a file of tokens must be a regular file")
    if not stat.S_ISFIFO(status.st_mode) and not _is_finite_device(path, status):
        raise DataError(f"{path}: is {kind}, whose text may never end")
    return Source(None, path, place, stream=_stream_key(status))


def _is_finite_device(path, status):
    """Tell whether a path is a terminal, whose text ends with Ctrl-D, or the empty device."""
    if not stat.S_ISCHR(status.st_mode):
        return False
    if os.path.exists(os.devnull) and status.st_rdev == os.stat(os.devnull).st_rdev:
        return True
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return os.isatty(descriptor)
    finally:
        os.close(descriptor)


def is_readable_twice(path):
    """Tell whether a path stands for files, which a resumed run can read again."""
    if path == STDIN:
        return False
    if not os.path.exists(path):  # it is gone, or it is a pattern
        return glob.has_magic(path)
    return os.path.isfile(path) or os.path.isdir(path)


def stdin_key():
    """Return the key of standard input; a path that leads to the same stream has an equal key."""
    try:
        return _stream_key(os.fstat(standard_input().fileno()))
    except OSError:  # a program has replaced sys.stdin by an object without a file
        return (STDIN,)


def _stream_key(status):
    return status.st_dev, status.st_ino


_KINDS = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
          (stat.S_ISBLK, "a device"), (stat.S_ISDIR, "a directory"))


def _kind(mode):
    return next((kind for is_it, kind in _KINDS if is_it(mode)), "no regular file")


def _matches(pattern, out):
    """List the files that a pattern fits, sorted, without those in out when out is below it."""
    fixed = pattern
    while glob.has_magic(fixed):
        fixed = os.path.dirname(fixed)
    names = glob.glob(pattern, recursive=True)
    if out and not _is_inside(fixed or os.curdir, out):
        names = [name for name in names if not _is_inside(name, out)]
    return sorted(name for name in names if not os.path.isdir(name))


def _fits(names, parts):
    """Tell whether the names in a path fit the parts of a pattern; ** fits any number of names."""
    if not parts:
        return not names
    if parts[0] == "**":
        rest = parts[1:] or ["*"]
        return any(_fits(names[start:], rest) for start in range(len(names)))
    return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _is_inside(path, directory):
    directory = os.path.realpath(directory)
    return os.path.commonpath([os.path.realpath(path), directory]) == directory


def _without_repetition(names):
    """Keep the shortest of the names that links give one file; there may be endlessly many."""
    shortest = {}
    for name in names:
        file = os.path.realpath(name)
        shortest[file] = min(shortest.get(file, name), name, key=lambda name: (len(name), name))
    return sorted(shortest.values())
