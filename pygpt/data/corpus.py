"""Reads the text of a run from files, directories, patterns, standard input and pipes.

A corpus is a sequence of documents, one for each file. A document is a sequence of parts of about
a megabyte, so a text of any size is read without being held in memory.

    paths  ->  sources.Finder  ->  Corpus.sources  ->  Corpus.documents()  ->  parts (str)
"""

import glob
import hashlib
import os

from pygpt.data.sources import STDIN, Finder, Source, is_readable_twice, source_at, stdin_key
from pygpt.tokenizer.reading import PART_BYTES, STDIN_NAME, DataError, read_text


class Corpus:
    """Finds and reads the text that paths stand for.

    Attributes:
        sources: each Source, in order. If there is none, the text is Python's own reference.
        tokens_file: the path of a .bin file of tokens instead of text, or None.
        skipped: a (name, reason, path that found it) for each file that was found but is not text.
        describe_skipped: Finder's method, which returns a sentence about these files.
        watch: called while the text is read, with the number of bytes read so far.
    """

    def __init__(self, paths, errors="strict", out=None, first_place=0,
                 find_copy=lambda place: None):
        """Find the files.

        Args:
            paths: names of files and pipes; directories, which stand for every file in and below
                them whose name does not begin with a dot; patterns with * ? [ and **; and "-" for
                standard input. A file that is not text is skipped when a directory or a pattern
                gave it, and refused when a path names it.
            errors: "strict" refuses bytes that are not UTF-8; "replace" reads them as U+FFFD.
            out: the directory that the run writes to; its files are never found by a directory or
                a pattern.
            first_place: the number of the first path; the settings of a run share one count.
            find_copy: called with a path's number; returns the file to which an earlier run copied
                the stream of that path, or None.
        Raises:
            OSError: there is no such file.
            DataError: a directory or a pattern gives no file, a path leads to something that holds
                no text, or a file of tokens is mixed with text.
        """
        self.errors, self.watch = errors, lambda taken: None
        self.sources, self._finder = [], Finder(out)
        self.skipped = self._finder.skipped
        self.describe_skipped = self._finder.describe_skipped
        self._digests, self._is_selected = {}, False
        for place, path in enumerate(paths, first_place):
            copy = find_copy(place)
            if copy and not is_readable_twice(path):
                self.sources.append(Source(copy, copy, place, size=os.path.getsize(copy)))
            elif path == STDIN:
                self.sources.append(Source(None, STDIN_NAME, place, stream=stdin_key()))
            elif os.path.isdir(path) or glob.has_magic(path) and not os.path.exists(path):
                self.sources += self._finder.find(path, place)
            else:
                self.sources.append(source_at(path, place))
        tokens = [source.path for source in self.sources if (source.path or "").endswith(".bin")]
        if tokens and len(self.sources) > 1:
            raise DataError(f"{tokens[0]}: a file of tokens cannot be joined with other files")
        self.tokens_file = tokens[0] if tokens else None

    def size(self):
        """Return the number of bytes in the text files."""
        return 0 if self.tokens_file else sum(source.size for source in self.sources)

    def candidates_size(self):
        """Return the number of bytes that select reads."""
        return sum(source.size for source in self.sources if source.found_in is not None)

    def select(self):
        """Skip the files that a directory or a pattern gave and that are not text.

        Every file that was given so is read to its end: the choice depends only on the files.

        Raises:
            DataError: a directory or a pattern gives no text at all.
        """
        if self._is_selected:
            return
        self._is_selected, kept, before = True, [], 0
        for source in self.sources:
            if source.found_in is None:
                kept.append(source)
                continue
            try:
                length = sum(map(len, self._read(source, before)))
            except (OSError, DataError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                self._finder.skip(source.name, reason.removeprefix(f"{source.name}: "),
                                  source.found_in)
            else:
                if length:  # a byte order mark alone adds nothing
                    kept.append(source)
            before += source.size
        still_used = {source.found_in for source in kept}
        for source in self.sources:
            if source.found_in not in still_used:
                self._finder.refuse_empty(source.found_in, "text")
        self.sources = kept

    def documents(self):
        """Yield each document as an iterable of parts (str); use it up before taking the next.

        Raises:
            OSError: a file cannot be read.
            DataError: a file is not UTF-8 text or is empty.
        """
        self.select()
        if not self.sources:
            yield [python_reference()]
        before = 0
        for source in self.sources:
            yield self._document(source, before)
            before += source.size

    def _document(self, source, before):
        is_empty = True
        for text in self._read(source, before):
            is_empty = False
            yield text
        if is_empty:
            raise DataError(f"{source.name}: "
                            + ("the file is empty" if source.stream is None else "is empty"))

    def _read(self, source, before):
        """Yield the text of a file; keep the digest of its bytes once it is read to the end."""
        digest, taken = _hash(), 0

        def count_bytes(data):
            nonlocal taken
            digest.update(data)
            taken += len(data)
            self.watch(before + taken)

        yield from read_text(source.path, source.name, errors=self.errors, on_bytes=count_bytes,
                             may_suggest_replace=True, part_bytes=PART_BYTES)
        self._digests[source.path] = digest.hexdigest()

    def joined(self):
        """Yield the parts of all documents, with a newline between two documents."""
        for number, document in enumerate(self.documents()):
            if number:
                yield "\n"
            yield from document

    def read_through(self):
        """Read every file that was not yet read to its end, so that a bad byte is found early.

        Raises:
            OSError: a file cannot be read.
            DataError: a file is not UTF-8 text.
        """
        self.select()
        before = 0
        for source in self.sources:
            if source.path not in self._digests:
                for _ in self._read(source, before):
                    pass
            before += source.size

    def content_digests(self):
        """Return [digest of the bytes of each document, errors]: it differs when the text does.

        Raises:
            OSError, DataError: as read_through, which is called first.
        """
        self.read_through()
        digests = [self._digests[source.path] for source in self.sources]
        return [digests or [_hash(python_reference().encode()).hexdigest()], self.errors]


def python_reference():
    """Return the Python language reference, half a megabyte of text that comes with CPython.

    The tables that it draws with dashes and bars are left out: a small model would learn to draw
    them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError("this Python comes without its reference (the module pydoc_data); "
                        "name a text file with --data") from None
    lines = "\n".join(topics[name] for name in sorted(topics)).splitlines(keepends=True)
    return "".join(line for line in lines if not line.lstrip().startswith(("|", "+-", "+=")))


def _hash(data=b""):
    return hashlib.blake2b(data, digest_size=16)
