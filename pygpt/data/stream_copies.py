"""Copies standard input and pipes, which can be read only once, to files that a run can read again.

    stream  --copy-->  a temporary file in the run's directory  --keep-->  stdin.txt or pipe-N.txt

The copy gets its final name only when the run is known to start. Until then the files of an earlier
run in that directory stay as they were.
"""

import os
import re
from contextlib import contextmanager, nullcontext, suppress

from pygpt.config import ConfigError
from pygpt.data.corpus import PART_BYTES, STDIN
from pygpt.files import open_temporary, sync, sync_directory, temporary_path
from pygpt.tokenizer.reading import decode_text, standard_input

COPY = re.compile(r"stdin\.txt|pipe-\d+\.txt")  # the names of copies in a run's directory


class Streams:
    """Makes copies of the streams that the settings of one run name, and keeps or removes them."""

    def __init__(self, out, paths, is_resumed):
        """Prepare to copy.

        Args:
            out: the run's directory.
            paths: the paths in data, then those in val_data.
            is_resumed: whether the run reads the copies that its earlier part made.
        """
        self._out, self._paths, self._is_resumed = out, paths, is_resumed
        self._temporary = {}  # final path of a copy: its temporary path

    def find_copy(self, place):
        """Return the path of the copy that an earlier run kept of stream `place`, or None."""
        path = os.path.join(self._out, self._name(place))
        return path if self._is_resumed and os.path.isfile(path) else None

    def copy(self, corpora, open_directory):
        """Copy the streams of all corpora; the source of each gets the path of its copy.

        Args:
            corpora: every Corpus of one run.
            open_directory: called before the first file is written into the run's directory.
        Raises:
            OSError: a stream cannot be read, or its copy cannot be written.
            ConfigError: a stream is named more than once.
            DataError: a stream holds no text.
        """
        streams = streams_of(corpora, "data and val_data name")
        if streams:
            open_directory()
        for corpus, source in streams:
            path = os.path.join(self._out, self._name(source.place))
            temporary = self._temporary[path] = temporary_path(path)
            self._copy(source, path, temporary, corpus.errors)
            source.path, source.size = temporary, os.path.getsize(temporary)

    def _copy(self, source, path, temporary, errors):
        """Copy the bytes of a stream unchanged; refuse it at the first sign that it is not text."""
        is_stdin = self._paths[source.place] == STDIN
        with _errors_naming(path), open_temporary(temporary) as file:

            def write(data):
                with _errors_naming(path):
                    file.write(data)

            with _errors_naming(source.name), (nullcontext(standard_input()) if is_stdin
                                               else open(source.name, "rb")) as stream:
                for _ in decode_text(stream, source.name, errors, may_suggest_replace=True,
                                     on_bytes=write, part_bytes=PART_BYTES):
                    pass
            file.flush()
            sync(file.fileno(), path)

    def keep(self):
        """Give the copies their names in the run's directory.

        Raises:
            OSError: they cannot be renamed.
        """
        for path, temporary in self._temporary.items():
            os.replace(temporary, path)
        if self._temporary:
            sync_directory(self._out)
        self._temporary = {}

    def discard(self):
        """Remove the copies that were not kept."""
        for temporary in self._temporary.values():
            with suppress(OSError):  # the error that led here is more important
                os.unlink(temporary)
        self._temporary = {}

    def _name(self, place):
        return "stdin.txt" if self._paths[place] == STDIN else f"pipe-{place + 1}.txt"


@contextmanager
def _errors_naming(file):
    """Add the name of a file to an OSError without one, as a full disk or a read error raises."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = file
        raise


def streams_of(corpora, subject):
    """List the streams in corpora: a (corpus, source) for each.

    Args:
        corpora: the corpora to look into.
        subject: begins a refusal: the settings that name the streams, and the verb.
    Raises:
        ConfigError: a stream is named more than once, under one name or under two.
    """
    streams = [(corpus, source) for corpus in corpora for source in corpus.sources
               if source.stream is not None]
    names = {}
    for _, source in streams:
        if source.stream in names:
            both = " and ".join(sorted({names[source.stream], source.name}))
            raise ConfigError(f"{subject} {both} more than once, which can be read only once")
        names[source.stream] = source.name
    return streams
