"""Makes the three standard streams safe for the command line.

A shell may start a command with a stream that is closed (`<&-`, `>&-`, `2>&-`), full or without a
reader. Within standard_streams() each stream exists, and its errors name it. drop_output()
discards the rest of the output.
"""

import contextlib
import errno
import io
import os
import sys

# (number, attribute of sys, name in errors, mode). A closed descriptor is opened in the mode that
# makes its use fail; only standard error is opened in the mode that works.
_STREAMS = ((0, "stdin", "standard input", os.O_WRONLY),
            (1, "stdout", "standard output", os.O_RDONLY),
            (2, "stderr", "standard error", os.O_WRONLY))


@contextlib.contextmanager
def standard_streams():
    """Make the standard streams safe to use within the block.

    Standard input is read as UTF-8, its lines ending in "\\n" alone, and bytes that are not UTF-8
    become surrogates, which os.fsencode turns back. A character that standard output cannot encode
    is replaced. A stream that a caller has replaced by another object stays in place.
    """
    _open_closed()
    before = sys.stdin, sys.stdout, sys.stderr
    for number, name, label, _ in _STREAMS:
        stream = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _guarded(number, label, stream))
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def flush_output():
    """Write the buffered part of standard output.

    Raises:
        OSError: it cannot be written. The rest of the output is then discarded.
    """
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
        raise


def drop_output(*others):
    """Discard the output that is not yet written, so that it does not fail again at exit; also that
    of other streams, such as sys.stderr."""
    for stream in (sys.stdout, *others):
        raw = getattr(getattr(stream, "buffer", None), "raw", None)
        if isinstance(raw, _Raw):
            raw.is_discarding = True


def _open_closed():
    """Open the descriptors 0 to 2 that are closed. Otherwise the next file to be opened would get
    such a number, and the stream's output would go into that file."""
    for number, _, _, flags in _STREAMS:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number, which is this one


def _guarded(number, label, stream):
    """Make a text stream on a descriptor, with the encoding of the stream (or None) it replaces."""
    raw = _Raw(number, label)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if number == 0:
        return io.TextIOWrapper(io.BufferedReader(raw), "utf-8-sig", "surrogateescape", "\n")
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.flush()
    is_prompt = number == 2 or stream is not None and stream.line_buffering
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "replace",
                            line_buffering=is_prompt)


class _Raw(io.FileIO):
    """Names its stream in errors. Once is_discarding is set, it discards all output."""

    def __init__(self, number, label):
        super().__init__(number, "r" if number == 0 else "w", closefd=False)
        self._label, self.is_discarding = label, False

    def readinto(self, buffer):
        return self._named(super().readinto, buffer)

    def readall(self):
        return self._named(super().readall)

    def write(self, data):
        if not self.is_discarding:
            try:
                return self._named(super().write, data)
            except OSError:
                if self.fileno() != 2:  # standard error itself failed: nowhere is left to report it
                    raise
        return memoryview(data).nbytes

    def _named(self, operation, *args):
        """Call an operation; its error names this stream."""
        try:
            return operation(*args)
        except OSError as error:
            if error.errno == errno.EBADF:
                error.strerror = "is closed"
            error.filename = self._label
            raise


def true_text(text, subject=""):
    """Decode a text from outside the program as UTF-8, whatever the locale says.

    Args:
        text: str, in which bytes that could not be decoded are surrogates, as Python makes them.
        subject: the beginning of an error's message.
    Raises:
        ValueError: the bytes are not UTF-8.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{subject}is not UTF-8 text: byte 0x{byte:02x} at offset {error.start}"
                         ) from None
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"{subject}holds {half!a}, which is half a character") from None
