"""Where the text of a run comes from: files, directories, patterns, standard input.

A corpus is a sequence of documents, one for each file, and a document a sequence of parts of about
a megabyte, so that a text of any size passes through without being held. Standard library only;
used by tokens and train.
"""

import codecs
import glob
import os
import shutil
import stat
import sys

from pygpt.files import replacing

PART_BYTES = 1 << 20
STDIN = "-"


class DataError(ValueError):
    """The text cannot be used; the message names the file or the number that is wrong."""


class Corpus:
    """The text that paths stand for.

    Attributes:
        files: the path of each file, in order; empty: Python's own reference.
        tokens_file: the path of a .bin file of tokens instead of text, or None.
        watch: called, as the text is read, with the bytes that this reading has taken.
    """

    def __init__(self, paths, errors="strict", stdin_copy=None):
        """Find the files.

        Args:
            paths: of files, directories (every file in and below them whose name does not begin
                with a dot) and patterns with * ? [ and **; "-" is standard input.
            errors: "strict" or "replace": what becomes of bytes that are not UTF-8.
            stdin_copy: path of the file that "-" is read from; copy_stdin makes it.
        Raises:
            OSError: there is no such file.
            DataError: a directory or a pattern gives no file, or tokens are mixed with text.
        """
        self.errors, self.watch = errors, lambda taken: None
        self.files = []
        for path in paths:
            if path == STDIN:
                self.files.append(stdin_copy)
            else:
                self.files += _expand(path)
        tokens = [path for path in self.files if path.endswith(".bin")]
        if tokens and len(self.files) > 1:
            raise DataError(f"{tokens[0]}: a file of tokens cannot be joined with other files")
        self.tokens_file = tokens[0] if tokens else None

    def size(self):
        """The bytes of its text files."""
        return 0 if self.tokens_file else sum(map(os.path.getsize, self.files))

    def documents(self):
        """Yield each document, an iterable of its parts (str), to be used up before the next.

        Raises:
            OSError: a file cannot be read.
            DataError: a file is not UTF-8 or is empty.
        """
        if not self.files:
            yield [python_reference()]
        before = 0
        for path in self.files:
            yield read_text(path, self.errors, lambda taken: self.watch(before + taken))
            before += os.path.getsize(path)

    def joined(self):
        """Yield the parts of all documents, a newline between two documents."""
        for number, document in enumerate(self.documents()):
            if number:
                yield "\n"
            yield from document


def copy_stdin(path):
    """Copy standard input to a file, so that it can be read twice and by a run that goes on.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as file:
        shutil.copyfileobj(sys.stdin.buffer, file, PART_BYTES)


def _expand(path):
    """The files that one path stands for."""
    if os.path.isdir(path):
        found = [os.path.join(directory, name) for directory, below, names in os.walk(path)
                 if below.sort() or True for name in names]
        hidden = [name for name in found
                  if any(part.startswith(".")
                         for part in os.path.relpath(name, path).split(os.sep))]
        found = sorted(set(found) - set(hidden))
        what = "the directory holds no file"
    elif glob.has_magic(path) and not os.path.exists(path):
        found = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
        what = "the pattern fits no file"
    else:
        return [path]
    found = [name for name in found if os.path.getsize(name)]  # empty ones add nothing
    if not found:
        raise DataError(f"{path}: {what} that is not empty")
    return found


def read_text(path, errors="strict", watch=lambda taken: None):
    """Yield the text of a UTF-8 file in parts; line ends are kept as they are.

    Args:
        path: of the file.
        errors: "strict" or "replace".
        watch: called with the bytes read so far, after each part.
    Raises:
        OSError: the file cannot be read.
        DataError: it is empty or, with "strict", not UTF-8; the message has the byte's offset.
    """
    decoder, taken = codecs.getincrementaldecoder("utf-8")(errors), 0
    with open(path, "rb") as file:
        while True:
            data = file.read(PART_BYTES)
            taken += len(data)
            if not taken:
                raise DataError(f"{path}: the file is empty")
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                # error.object is what was held back of the part before, and this part
                offset = taken - len(error.object) + error.start
                raise DataError(f"{path}: is not UTF-8 text: byte "
                                f"0x{error.object[error.start]:02x} at offset {offset} "
                                "(errors=replace goes on)") from None
            watch(taken)
            if text:
                yield text
            if not data:
                return


def identity(corpus):
    """What tells whether a corpus is still the same: its files' paths, sizes and times."""
    about = []
    for path in corpus.files:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return None  # a pipe says nothing of what comes out of it
        about.append([os.path.abspath(path), status.st_size, status.st_mtime_ns])
    return [about, corpus.errors]


def python_reference():
    """The Python language reference, which every CPython carries: half a megabyte of text.

    Its tables, drawn with dashes and bars, are left out: a small model would learn to draw them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError("this Python comes without its reference (the module pydoc_data); "
                        "name a text file with --data") from None
    lines = "\n".join(topics[name] for name in sorted(topics)).splitlines(keepends=True)
    return "".join(line for line in lines if not line.lstrip().startswith(("|", "+-", "+=")))
