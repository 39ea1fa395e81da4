"""Where the text of a run comes from: files, directories, patterns, standard input and pipes.

A corpus is a sequence of documents, one for each file, and a document a sequence of parts of about
a megabyte, so that a text of any size passes through without being held. Uses sources and the
tokenizers' reading of text files; used by streams, tokens, dataset and the command line.
"""

import glob
import hashlib
import os

from pygpt.data.sources import STDIN, Finder, Source, is_readable_twice, named, stdin_key
from pygpt.tokenizer.reading import STDIN_NAME, DataError, read_text

PART_BYTES = 1 << 20


class Corpus:
    """The text that paths stand for.

    Attributes:
        sources: each Source, in order; empty: Python's own reference.
        tokens_file: the path of a .bin file of tokens instead of text, or None.
        skipped: of each file that was found but is no text: its name, the reason, and the path
            that it was found by.
        skipping: a method that says so in a sentence: Finder's.
        watch: called, as the text is read, with the bytes that this reading has taken.
    """

    def __init__(self, paths, errors="strict", out=None, first_place=0, kept=lambda place: None):
        """Find the files.

        Args:
            paths: of files, pipes, directories (every file in and below them whose name does not
                begin with a dot) and patterns with * ? [ and **; "-" is standard input. A file
                that a directory or a pattern gives is skipped when it is no text; one that is
                named itself is refused.
            errors: "strict" or "replace": what becomes of bytes that are not UTF-8.
            out: the directory that the run writes to, which no directory or pattern gives.
            first_place: the number of the first of the paths.
            kept: the file that holds, from a run before, the text of the stream of a place, or
                None.
        Raises:
            OSError: there is no such file.
            DataError: a directory or a pattern gives no file, a path is of something that has no
                text, or tokens are mixed with text.
        """
        self.errors, self.watch = errors, lambda taken: None
        self.sources, self._finder = [], Finder(out)
        self.skipped, self.skipping = self._finder.skipped, self._finder.skipping
        self._digests, self._is_selected = {}, False
        for place, path in enumerate(paths, first_place):
            copy = kept(place)
            if copy and not is_readable_twice(path):
                self.sources.append(Source(copy, copy, place, size=os.path.getsize(copy)))
            elif path == STDIN:
                self.sources.append(Source(None, STDIN_NAME, place, stream=stdin_key()))
            elif os.path.isdir(path) or glob.has_magic(path) and not os.path.exists(path):
                self.sources += self._finder.find(path, place)
            else:
                self.sources.append(named(path, place))
        tokens = [source.path for source in self.sources if (source.path or "").endswith(".bin")]
        if tokens and len(self.sources) > 1:
            raise DataError(f"{tokens[0]}: a file of tokens cannot be joined with other files")
        self.tokens_file = tokens[0] if tokens else None

    @property
    def files(self):
        """The path of each file, in order."""
        return [source.path for source in self.sources]

    def size(self):
        """The bytes of its text files."""
        return 0 if self.tokens_file else sum(source.size for source in self.sources)

    def candidates_size(self):
        """The bytes that select reads."""
        return sum(source.size for source in self.sources if source.found_in is not None)

    def select(self):
        """Skip the files that a directory or a pattern gave and that are no text.

        Every such file is read to its end, so the choice depends on nothing but the files.

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
            except OSError as error:
                self._finder.skip(source.name, error.strerror or error, source.found_in)
            except DataError as error:
                self._finder.skip(source.name, str(error).removeprefix(f"{source.name}: "),
                           source.found_in)
            else:
                if length:  # a byte order mark alone adds nothing
                    kept.append(source)
            before += source.size
        left = {source.found_in for source in kept}
        for source in self.sources:
            if source.found_in not in left:
                self._finder.refuse_nothing(source.found_in, "text")
        self.sources = kept

    def documents(self):
        """Yield each document, an iterable of its parts (str), to be used up before the next.

        Raises:
            OSError: a file cannot be read.
            DataError: a file is not UTF-8 text or is empty.
        """
        self.select()
        if not self.sources:
            text = python_reference()
            self._digests[None] = _hash(text.encode()).hexdigest()
            yield [text]
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
        """Yield the text of a file, and know its digest when it was read to the end."""
        digest, taken = _hash(), 0

        def see(data):
            nonlocal taken
            digest.update(data)
            taken += len(data)
            self.watch(before + taken)

        yield from read_text(source.path, source.name, errors=self.errors, see=see,
                             is_replacing_known=True, part_bytes=PART_BYTES)
        self._digests[source.path] = digest.hexdigest()

    def joined(self):
        """Yield the parts of all documents, a newline between two documents."""
        for number, document in enumerate(self.documents()):
            if number:
                yield "\n"
            yield from document

    def read_through(self):
        """Read the files that were not read to their end before, so that a bad byte is found early.

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

    def identity(self):
        """What tells other texts from this one: a digest of the bytes of each document.

        Raises:
            OSError, DataError: as read_through, which this may call for.
        """
        self.read_through()
        if not self.sources and None not in self._digests:
            self._digests[None] = _hash(python_reference().encode()).hexdigest()
        return [[self._digests[path] for path in self.files or [None]], self.errors]


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


def _hash(data=b""):
    return hashlib.blake2b(data, digest_size=16)
