"""Writes files that are complete or absent at every instant; reads files and JSON without trust.

    write    replacing(PATH): PATH.123.tmp (123: the process), locked -> fsync -> rename to PATH
    read     a limit on the bytes, no pipe or device unless allowed, UTF-8, JSON without duplicates
"""

import errno
import json
import mmap
import os
import re
import stat
import time
from contextlib import ExitStack, contextmanager, suppress

from pygpt.backend.arguments import shown

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

MOST_DIGITS = 1000  # of an integer in JSON: converting n digits takes n^2 steps
MOST_JSON_BYTES = 16 << 20  # of a file; nested lists of this size take 400 MB of Python objects
NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}  # fsync is not supported
NO_FULL_SYNC = NO_SYNC | {errno.ENOTSUP, errno.ENOTTY}


@contextmanager
def replacing(path):
    """Write a temporary file, sync it, and rename it to path; after an error path is unchanged.

    The file is locked until it is renamed. So temporary files that killed processes left are known
    by having no lock, and are removed here; and threads that write one path take turns.

    Some network file systems lock for one computer alone. There a file that another computer is
    writing counts as left. It is not spared for its age, for one that was left would then stay as
    long; and nothing wrong is written: the other's rename raises FileNotFoundError.

    Args:
        path: of the file to write or replace, in a directory that exists.
    Yields:
        A binary file to write to.
    Raises:
        OSError: the file cannot be written, or path is a directory, a device, a pipe or a socket,
            in whose place a file must not be put; its filename is path.
    """
    aside = temporary_path(path)
    try:
        _refuse_others_than_files(path)
        _remove_abandoned(path)
        _remove_link(aside)
        with _open_locked(aside) as file:
            ours = os.fstat(file.fileno())
            try:
                file.truncate()  # only now: before it was locked, it may have been another thread's
                yield file
                file.flush()
                sync(file.fileno(), path)
                os.replace(aside, path)
            except BaseException:  # even after the rename, then another thread's may be there
                if _is_at(aside, ours):
                    os.unlink(aside)
                raise
    except OSError as error:
        if error.errno and error.filename in (None, aside):  # a full disk names no file
            error.filename, error.filename2 = os.fspath(path), None
        raise
    sync_directory(os.path.dirname(os.path.abspath(path)))


def _open_locked(path):
    """Open a file to write it anew; wait while another thread has it open here.

    Returns:
        A binary file, which still holds what it held.
    """
    while True:
        with ExitStack() as opened:
            file = opened.enter_context(open(path, "wb", opener=_open_uncut))
            try:
                is_ours = try_lock(file.fileno()) and _is_at(path, os.fstat(file.fileno()))
            except OSError:  # the file system has no locks
                is_ours = True
            if is_ours:
                opened.pop_all()
                return file
        time.sleep(0.001)


def _refuse_others_than_files(path):
    """Refuse what a rename would destroy. A link is replaced itself, unless it leads to such."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "is a device, a pipe or a socket, and not a file",
                          os.fspath(path))


def open_temporary(path):
    """Open a temporary file to write it anew, in binary. A link in its place, which would lead
    elsewhere, is removed."""
    _remove_link(path)
    file = open(path, "wb", opener=_open_uncut)
    try:
        file.truncate()
    except BaseException:
        file.close()
        raise
    return file


def _remove_link(path):
    if os.path.islink(path):
        os.unlink(path)


def _open_uncut(path, flags):
    return os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _remove_abandoned(path):
    """Remove the temporary files for path that processes left which no longer run."""
    directory, final = os.path.split(os.path.abspath(path))
    names = []
    with suppress(OSError):  # the directory may be one that can be written but not listed
        names = [name for name in os.listdir(directory)
                 if is_temporary_name(name, re.escape(final))]
    for name in names:
        with suppress(OSError):  # it is another user's, is gone, or there are no locks
            _remove_unlocked(os.path.join(directory, name))


def _remove_unlocked(path):
    descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
                         | getattr(os, "O_NONBLOCK", 0))
    try:
        if try_lock(descriptor) and _is_at(path, os.fstat(descriptor)):
            os.unlink(path)
    finally:
        os.close(descriptor)


def _is_at(path, status):
    """Tell whether an open file, with this os.fstat, is still the one at path."""
    try:
        return os.path.samestat(os.stat(path), status)
    except FileNotFoundError:
        return False


def try_lock(descriptor):
    """Lock an open file or directory until it is closed or the process ends.

    Returns:
        Whether it is locked now; it is not if it is locked already, through another descriptor.
    Raises:
        OSError: the system or the file system has no locks.
    """
    if not hasattr(fcntl, "flock"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


@contextmanager
def errors_begin_with(name):
    """Put the name of a file in front of the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def temporary_path(path):
    """Return the path of the temporary file that is renamed to path when it is complete."""
    return f"{os.fspath(path)}.{os.getpid()}.tmp"


def is_temporary_name(name, finals):
    """Tell whether a name is that of any process's temporary file for one of the final names.

    Args:
        name: of the file, without its directory.
        finals: regular expression of the final names.
    """
    return re.fullmatch(rf"(?:{finals})\.[0-9]+\.tmp", name, re.ASCII) is not None


def sync(descriptor, path):
    """Sync an open file to the disk, so that it survives a power cut.

    macOS's fsync leaves data in the disk's own cache; its F_FULLFSYNC empties that, too. A file
    system that lacks F_FULLFSYNC gets an fsync.

    Raises:
        OSError: the file cannot be synced; the error's filename is path.
    """
    try:
        _sync(descriptor)
    except OSError as error:
        error.filename = os.fspath(path)  # the system was given a number
        raise


def _sync(descriptor):
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
            return
        except OSError as error:
            if error.errno not in NO_FULL_SYNC:
                raise
    os.fsync(descriptor)


def sync_directory(path):
    """Sync the names in a directory to the disk, where the file system supports it.

    Raises:
        OSError: the directory cannot be opened or synced; the error's filename is path.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor, path)
    except OSError as error:  # some network file systems cannot sync a directory
        if error.errno not in NO_SYNC:
            raise
    finally:
        close_read(descriptor)


def close_read(descriptor):
    """Close a descriptor that was only read from: whatever the system reports, nothing is lost."""
    with suppress(OSError):
        os.close(descriptor)


def open_regular(path):
    """Open a file to read its bytes; refuse a pipe or a device, which might never end.

    Returns:
        A binary file.
    Raises:
        OSError: it cannot be opened.
        ValueError: it is not a regular file; the message begins with the path.
    """
    file = open(path, "rb", opener=_open_without_waiting)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{path}: is not a regular file")
    return file


def _open_without_waiting(path, flags):
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for its writer


def map_bytes(file, access):
    """Map an open file that is not empty; the memoryview of its bytes keeps it mapped.

    Args:
        access: mmap.ACCESS_READ, or mmap.ACCESS_COPY for pages that become private when written.
    Raises:
        OSError: the file cannot be mapped; the error's filename is the file's.
    """
    try:
        return memoryview(mmap.mmap(file.fileno(), 0, access=access))
    except OSError as error:
        error.filename = os.fspath(file.name)  # mmap does not set it
        raise


def decode_utf8(data):
    """Decode bytes as UTF-8.

    Raises:
        ValueError: they are not UTF-8; the message is a sentence without its subject.
    """
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start}") from None


def parse_json_object(data):
    """Parse the UTF-8 JSON text of an object.

    Returns:
        A dict; the text holds each key once.
    Raises:
        ValueError: the bytes are anything else; the message is a sentence without its subject,
            such as "is not JSON".
    """
    text = decode_utf8(data)
    try:
        result = json.loads(text, object_pairs_hook=_object_of_different_keys,
                            parse_constant=_refuse_constant, parse_int=_parse_integer)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(result, dict):
        raise ValueError("is not a JSON object")
    return result


def read_json_object(path, most_bytes=MOST_JSON_BYTES, is_pipe_allowed=False):
    """Read the object in a JSON file.

    Args:
        most_bytes: a larger file is refused.
        is_pipe_allowed: whether it may be a pipe; then this waits for its writer.
    Raises:
        OSError: the file cannot be read.
        ValueError: the file holds something else; the message begins with the path.
    """
    data = read_bytes(path, most_bytes, is_pipe_allowed)
    with errors_begin_with(path):
        return parse_json_object(data)


def read_bytes(path, most_bytes, is_pipe_allowed=False):
    """Read the bytes of a file. Args and Raises: as for read_json_object."""
    data = bytearray()
    with open(path, "rb") if is_pipe_allowed else open_regular(path) as file:
        while part := file.read(1 << 16):  # read(most_bytes) would take that much memory at once
            data += part
            if len(data) > most_bytes:
                raise ValueError(f"{path}: has more than {most_bytes} bytes")
    return bytes(data)


def json_bytes(document, most_bytes=MOST_JSON_BYTES, **layout):
    """Return the JSON text of an object, checked against the rules of read_json_object.

    Args:
        document: a dict with text keys.
        most_bytes: as for read_json_object.
        layout: arguments of json.dumps.
    Raises:
        ValueError: parse_json_object would refuse the text; the message is a sentence without its
            subject.
    """
    data = json.dumps(document, **layout).encode() + b"\n"
    if len(data) > most_bytes:
        raise ValueError(f"has {len(data)} bytes as JSON, more than the {most_bytes} that can "
                         "be read back")
    parse_json_object(data)
    return data


def write_json_object(path, document, most_bytes=MOST_JSON_BYTES, **layout):
    """Write an object so that read_json_object reads it. Args: as for json_bytes.

    Raises:
        OSError: the file cannot be written.
        ValueError: read_json_object would refuse the file; it is not written.
    """
    with errors_begin_with(path):
        data = json_bytes(document, most_bytes, **layout)
    with replacing(path) as file:
        file.write(data)


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
