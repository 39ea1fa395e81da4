"""Files that are whole or absent at every instant, and files and JSON read without trust.

Standard library only. Used by whatever reads or writes the files of a model or a run.
"""

import errno
import json
import mmap
import os
import re
import reprlib
import stat
from contextlib import contextmanager


MOST_DIGITS = 1000  # of an integer in JSON: turning n digits into one takes n^2 steps
MOST_JSON_BYTES = 16 << 20  # of a file; as lists in lists, they become 400 MB of Python objects
NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}  # not known to a file system


@contextmanager
def replacing(path):
    """Write a file aside, make it durable, and rename it to path; after an error path is as before.

    Args:
        path: of the file to write or replace, in a directory that exists.
    Yields:
        A binary file to write to.
    Raises:
        OSError: the file cannot be written; its filename says which.
    """
    aside = aside_of(path)
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        if os.path.lexists(aside):
            os.unlink(aside)
        if isinstance(error, OSError) and error.errno and error.filename in (None, aside):
            error.filename, error.filename2 = os.fspath(path), None  # a full disk names no file
        raise
    sync_directory(os.path.dirname(os.path.abspath(path)))


def aside_of(path):
    """The path that a file is written to before it is renamed; is_aside knows it again."""
    return f"{os.fspath(path)}.{os.getpid()}.tmp"


def is_aside(name, finals):
    """Whether a file's name is one that aside_of gives, in any process, to a file of finals.

    Args:
        name: of the file, without its directory.
        finals: regular expression for the names of the files that are written.
    """
    return re.fullmatch(rf"(?:{finals})\.[0-9]+\.tmp", name, re.ASCII) is not None


def sync_directory(path):
    """Make the names in a directory durable, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # of a directory, some network file systems know no sync
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def open_regular(path):
    """Open a file to read its bytes, unless it is a pipe or a device, which might never end.

    Returns:
        A binary file.
    Raises:
        OSError: it cannot be opened.
        ValueError: it is not a regular file; one sentence that begins with the path.
    """
    file = open(path, "rb", opener=_open_without_waiting)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{path}: is not a regular file")
    return file


def _open_without_waiting(path, flags):
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for its writer


def map_bytes(file, access):
    """The bytes of an open file that is not empty, as a memoryview that keeps them mapped.

    Args:
        access: mmap.ACCESS_READ, or mmap.ACCESS_COPY to write to one's own copy of a page.
    Raises:
        OSError: it cannot be mapped; its filename says which.
    """
    try:
        return memoryview(mmap.mmap(file.fileno(), 0, access=access))
    except OSError as error:
        error.filename = os.fspath(file.name)  # mmap knows no name
        raise


def parse_json_object(data):
    """The object that bytes of UTF-8 JSON describe.

    Returns:
        A dict, of which no key came twice.
    Raises:
        ValueError: in one sentence without a subject, whatever the bytes are.
    """
    try:
        result = json.loads(str(data, "utf-8"), object_pairs_hook=_object_of_different_keys,
                            parse_constant=_refuse_constant, parse_int=_parse_integer)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(result, dict):
        raise ValueError("is not a JSON object")
    return result


def read_json_object(path, most_bytes=MOST_JSON_BYTES, is_pipe_allowed=False):
    """The object in a JSON file.

    Args:
        most_bytes: a larger file is refused unread.
        is_pipe_allowed: whether it may be a pipe, whose writer is then waited for.
    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file; one sentence that begins with the path.
    """
    data = read_bytes(path, most_bytes, is_pipe_allowed)
    try:
        return parse_json_object(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_bytes(path, most_bytes, is_pipe_allowed=False):
    """The bytes of a file that is not large. Args and errors: as for read_json_object."""
    data = bytearray()
    with open(path, "rb") if is_pipe_allowed else open_regular(path) as file:
        while part := file.read(1 << 16):  # read(most_bytes) would take that much memory at once
            data += part
            if len(data) > most_bytes:
                raise ValueError(f"{path}: has more than {most_bytes} bytes")
    return bytes(data)


def json_bytes(document, most_bytes=MOST_JSON_BYTES, **layout):
    """The JSON text of an object, held to the rules of the reader: what is written can be read.

    Args:
        document: a dict with text keys.
        most_bytes: as the reader's.
        layout: arguments of json.dumps.
    Raises:
        ValueError: parse_json_object would refuse the text; one sentence without a subject.
    """
    data = json.dumps(document, **layout).encode() + b"\n"
    if len(data) > most_bytes:
        raise ValueError(f"has {len(data)} bytes as JSON, more than the {most_bytes} that are "
                         "read again")
    parse_json_object(data)
    return data


def write_json_object(path, document, most_bytes=MOST_JSON_BYTES, **layout):
    """Write an object so that read_json_object reads it. Args: as for json_bytes.

    Raises:
        OSError: the file cannot be written.
        ValueError: the file could not be read again, and is not written.
    """
    try:
        data = json_bytes(document, most_bytes, **layout)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    with replacing(path) as file:
        file.write(data)


def shown(value):
    """A value from a file as an error message shows it: like repr, but never long."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong = 40


def _object_of_different_keys(pairs):
    result = dict(pairs)
    if len(result) < len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"holds the key {shown(twice)} twice")
    return result


def _parse_integer(digits):
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"holds a number of {len(digits)} digits")
    return int(digits)


def _refuse_constant(name):
    raise ValueError(f"holds {name}, which is not JSON")
