"""What can be read only once, standard input and pipes, as files that a run can read again.

A stream is copied aside, into the run's directory, and the copy gets its name when the run is known
to start: until then, what an earlier run left there is as it was. Imports files and corpus; used by
dataset and run_directory.
"""

import os
import re
from contextlib import contextmanager, nullcontext, suppress

from pygpt.config import ConfigError
from pygpt.data.corpus import PART_BYTES, STDIN
from pygpt.files import sync_directory, temporary_path
from pygpt.tokenizer.reading import decode_text, standard_input

COPY = re.compile(r"stdin\.txt|pipe-\d+\.txt")  # the names of copies in a run's directory


class Streams:
    """The copies of the streams that the settings of one run name."""

    def __init__(self, out, paths, is_resumed):
        """Prepare to copy.

        Args:
            out: the run's directory.
            paths: those of data and of val_data, joined.
            is_resumed: whether the copies of a run before are to be read.
        """
        self._out, self._paths, self._is_resumed = out, paths, is_resumed
        self._asides = {}  # path of a copy -> where it is until it is kept

    def kept(self, place):
        """The path of the copy that a run before kept of the stream at a place, or None."""
        path = os.path.join(self._out, self._name(place))
        return path if self._is_resumed and os.path.isfile(path) else None

    def copy(self, corpora, open_directory):
        """Copy the streams of all corpora, each of which gets the path of its copy.

        Args:
            corpora: of one run.
            open_directory: called before something is written into the run's directory.
        Raises:
            OSError: a stream cannot be read, or its copy not be written.
            ConfigError: a stream is named more than once.
            DataError: it holds no text.
        """
        streams = streams_of(corpora, "data and val_data name")
        if streams:
            open_directory()
        for corpus, source in streams:
            path = os.path.join(self._out, self._name(source.place))
            aside = self._asides[path] = temporary_path(path)
            self._copy(source, path, aside, corpus.errors)
            source.path, source.size = aside, os.path.getsize(aside)

    def _copy(self, source, path, aside, errors):
        """Copy a stream as it is; what is no text is refused as soon as that is seen."""
        is_stdin = self._paths[source.place] == STDIN
        with _named(path), open(aside, "wb") as file:

            def write(data):
                with _named(path):
                    file.write(data)

            with _named(source.name), (nullcontext(standard_input()) if is_stdin
                                       else open(source.name, "rb")) as stream:
                for _ in decode_text(stream, source.name, errors, is_replacing_known=True,
                                     see=write, part_bytes=PART_BYTES):
                    pass
            file.flush()
            os.fsync(file.fileno())

    def keep(self):
        """Give the copies their names in the run's directory.

        Raises:
            OSError: they cannot be renamed.
        """
        for path, aside in self._asides.items():
            os.replace(aside, path)
        if self._asides:
            sync_directory(self._out)
        self._asides = {}

    def discard(self):
        """Remove the copies that were not kept."""
        for aside in self._asides.values():
            with suppress(OSError):  # what has brought us here is more important
                os.unlink(aside)
        self._asides = {}

    def _name(self, place):
        return "stdin.txt" if self._paths[place] == STDIN else f"pipe-{place + 1}.txt"


@contextmanager
def _named(name):
    """Let an error of the system name a file: that of a full disk, or of reading, names none."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = name
        raise


def streams_of(corpora, who_name):
    """The streams in corpora: (corpus, source) of each.

    Args:
        corpora: whose sources are found.
        who_name: the settings they come from, and a verb.
    Raises:
        ConfigError: a stream is named more than once, under one name or two.
    """
    streams = [(corpus, source) for corpus in corpora for source in corpus.sources
               if source.stream is not None]
    names = {}
    for _, source in streams:
        if source.stream in names:
            both = " and ".join(sorted({names[source.stream], source.name}))
            raise ConfigError(f"{who_name} {both} more than once, which can be read only once")
        names[source.stream] = source.name
    return streams
