"""Finds the files that the paths of a corpus stand for: named ones, and those of directories.

What a directory or a pattern gives and is no file of text is skipped by name; what a path names
itself is refused. Uses the tokenizers' reading of text files; used by corpus.
"""

import fnmatch
import glob
import os
import stat
from dataclasses import dataclass

from pygpt.tokenizer.reading import DataError, standard_input

STDIN = "-"
NAMES_TOLD = 3  # of the files that are skipped; the others are counted


@dataclass
class Source:
    """A file of a corpus.

    Attributes:
        path: the file to read; None: the copy of a stream that is not made yet.
        name: that messages call it by.
        place: the number of the path that it comes from, in the settings' order.
        found_in: the directory or pattern it was found by; None: it was named itself.
        stream: what tells a pipe, or what else can be read only once, from others; None: a file.
        size: in bytes.
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
        skipped: of each file that was left out: its name, the reason, the directory or pattern.
    """

    def __init__(self, out=None):
        """Prepare to find files.

        Args:
            out: the directory that the run writes to, which no directory or pattern gives.
        """
        self.skipped, self._out = [], out

    def find(self, path, place):
        """The sources that a directory or a pattern gives, in the order of their names.

        Raises:
            DataError: there is none.
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
            self.refuse_nothing(path, "file")
        return found

    def _walk(self, top, found_in=None):
        """The files in and below a directory, sorted; those that cannot be reached are skipped."""
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
        """The files that a pattern fits; what is in out counts only if all of the pattern is."""
        parts = pattern.split(os.sep)
        if "**" not in parts:
            return _matches(pattern, self._out)
        # Not by glob, which follows links to directories above without an end.
        before, after = parts[: parts.index("**")], parts[parts.index("**") :]
        files = []
        for top in sorted(glob.glob(os.sep.join([*before, ""]))) if before else [os.curdir]:
            files += [name for name in self._walk(top, pattern)
                      if _fits(os.path.relpath(name, top).split(os.sep), after)]
        return files if before else [os.path.normpath(name) for name in files]

    def skip(self, name, reason, found_in):
        """Leave a file out, for a reason that is the end of a sentence about it."""
        self.skipped.append((name, str(reason), found_in))

    def skipping(self, found_in=None):
        """A sentence about the files that were skipped, or None when there are none.

        Args:
            found_in: of one directory or pattern; None: of all.
        """
        skipped = sorted((name, reason) for name, reason, where in self.skipped
                         if found_in in (None, where))
        if not skipped:
            return None
        told = [f"{name if name.isprintable() else ascii(name)} ({reason})"
                for name, reason in skipped[:NAMES_TOLD]]
        more = len(skipped) - len(told)
        return (f"{len(skipped)} {'file is' if len(skipped) == 1 else 'files are'} skipped: "
                + ", ".join(told) + (f", and {more} more" if more else ""))

    def refuse_nothing(self, path, noun):
        """Refuse a directory or a pattern that gives nothing of a kind.

        Raises:
            DataError: always.
        """
        what = "the directory holds" if os.path.isdir(path) else "the pattern fits"
        skipped = self.skipping(path)
        raise DataError(f"{path}: {what} no {noun} that is not empty"
                        + (f"; {skipped}" if skipped else ""))


def named(path, place):
    """The source that a path of no directory and no pattern stands for.

    Raises:
        OSError: there is none.
        DataError: it is a socket, or a device that is neither a terminal nor empty.
    """
    status = os.stat(path)
    if stat.S_ISREG(status.st_mode):
        return Source(path, path, place, size=status.st_size)
    kind = _kind(status.st_mode)
    if path.endswith(".bin"):
        raise DataError(f"{path}: is {kind}; a file of tokens must be a regular file")
    if not stat.S_ISFIFO(status.st_mode) and not _is_finite_device(path, status):
        raise DataError(f"{path}: is {kind}, which has no text that ends")
    return Source(None, path, place, stream=_stream_key(status))


def _is_finite_device(path, status):
    """Whether a path is of a terminal, whose text ends with Ctrl-D, or of the empty device."""
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
    """Whether a path stands for files, which a run that goes on reads again."""
    if path == STDIN:
        return False
    try:
        mode = os.stat(path).st_mode
    except OSError:  # there is nothing any more, unless it is a pattern
        return glob.has_magic(path)
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def stdin_key():
    """What standard input and a path of the same stream have in common."""
    try:
        return _stream_key(os.fstat(standard_input().fileno()))
    except OSError:  # a program has put something in its place
        return (STDIN,)


def _stream_key(status):
    return status.st_dev, status.st_ino


_KINDS = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
          (stat.S_ISBLK, "a device"), (stat.S_ISDIR, "a directory"))


def _kind(mode):
    return next((kind for is_it, kind in _KINDS if is_it(mode)), "no regular file")


def _matches(pattern, out):
    """What a pattern fits, sorted, without directories and what is in out, which is below it."""
    fixed = pattern
    while glob.has_magic(fixed):
        fixed = os.path.dirname(fixed)
    names = glob.glob(pattern, recursive=True)
    if out and not _is_inside(fixed or os.curdir, out):
        names = [name for name in names if not _is_inside(name, out)]
    return sorted(name for name in names if not os.path.isdir(name))


def _fits(names, parts):
    """Whether the names of a path, from the top, fit the parts of a pattern; ** fits any number."""
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
    """Of names of one file, which links make, the shortest; a link to above has no end of them."""
    shortest = {}
    for name in names:
        file = os.path.realpath(name)
        shortest[file] = min(shortest.get(file, name), name, key=lambda name: (len(name), name))
    return sorted(shortest.values())
