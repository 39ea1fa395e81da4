"""Reads and writes the safetensors format: named tensors in one file, read without a copy or trust.

    8 bytes       the header's length H, little-endian
    H bytes       a JSON object: name -> {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
                  and perhaps "__metadata__" -> {text: text}; spaces may follow
    the rest      the data; offsets count from here, cover all of it, and do not overlap

It knows the format, and no model. Every claim of a file is checked before it is used, and every
error names the file and the field.
"""

import json
import mmap
import os
from contextlib import contextmanager
from math import prod
from typing import NamedTuple

from pygpt.backend.arguments import shown
from pygpt.files import map_bytes, open_regular, parse_json_object, replacing

BYTES_OF_DTYPE = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}
MAX_HEADER_BYTES = 16 << 20    # GPT-2 XL takes 66 kB; the format allows 100 MB, whose JSON would
                               # take 2.4 GB when parsed
DATA_ALIGNMENT = 64            # of the data's start in the files written here: a cache line


class CheckpointError(ValueError):
    """A file is damaged or not supported; the message names the file and the field."""


@contextmanager
def as_checkpoint_error(begin=""):
    """Within the block, turn a ValueError into a CheckpointError, with `begin` before its text."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(f"{begin}{error}") from None


class Entry(NamedTuple):
    """Holds a tensor of a file: its dtype's name, its shape, its bytes, and their place there.

    The buffer is a row-major memoryview of bytes, which keeps the file mapped. Writing to it
    changes this process's copy of a page, never the file. It begins at byte `offset` of the file;
    the map begins at a page, so an alignment up to a page's that divides `offset` divides the
    address.
    """

    dtype: str
    shape: tuple
    buffer: memoryview
    path: str
    offset: int


def read(path):
    """Map a file, and return the tensors in it.

    Args:
        path: the path of a regular file.
    Returns:
        ({name: Entry}, {text: text}): the tensors in the order of their data, and the metadata.
    Raises:
        OSError: the file cannot be opened.
        CheckpointError: it is not a safetensors file, or it is damaged.
    """
    data, header_bytes = _map_file(path)
    with as_checkpoint_error(f"{path}: the header "):
        entries = parse_json_object(data[8 : 8 + header_bytes])
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ is {shown(metadata)}, not texts by name")
    data = data[8 + header_bytes :]
    spans = sorted((_check_entry(path, name, entry, len(data)), name)
                   for name, entry in entries.items())
    tensors, end = {}, 0
    for (start, stop), name in spans:
        if start != end:
            raise CheckpointError(f"{path}: {shown(name)}: data_offsets begin at {start}, "
                                  f"{'inside' if start < end else 'not at the end of'} the tensor "
                                  f"before it, which ends at {end}")
        entry = entries[name]
        tensors[name] = Entry(entry["dtype"], tuple(entry["shape"]), data[start:stop],
                              os.fspath(path), 8 + header_bytes + start)
        end = stop
    if end != len(data):
        raise CheckpointError(f"{path}: the tensors take {end} bytes, but the file has {len(data)} "
                              "bytes of data")
    return tensors, metadata


def write(path, tensors, metadata):
    """Write tensors to a file, which appears complete or not at all.

    Args:
        path: the path of the file, which is replaced if it exists.
        tensors: an iterable of (name, dtype, shape, buffer). The buffer is C-contiguous and has the
            size that dtype and shape give; or it is a function that returns such a buffer just
            before it is written, so that they need not all exist at once.
        metadata: {text: text}.
    Raises:
        OSError: the file cannot be written.
        ValueError: a name comes twice, a buffer's size is not that of its shape, or the header
            would be longer than read() allows.
        After either error, an earlier file at path is still there.
    """
    tensors = list(tensors)
    text, entries = header(tensors, metadata)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, _, _, buffer in tensors:
            buffer = memoryview(buffer() if callable(buffer) else buffer)
            start, stop = entries[name]["data_offsets"]
            if buffer.nbytes != stop - start:
                raise ValueError(f"{name}: {buffer.nbytes} bytes for {entries[name]['dtype']} "
                                 f"{entries[name]['shape']}")
            if buffer.nbytes:  # memoryview.cast refuses an empty view
                file.write(buffer.cast("B"))


def header(tensors, metadata):
    """Make the header of a file of tensors. Args: as for write(); the buffers are not used.

    Returns:
        (its bytes, {name: entry}).
    Raises:
        ValueError: a name comes twice, or the header is longer than read() allows.
    """
    entries, end = {"__metadata__": metadata}, 0
    for name, dtype, shape, _ in tensors:
        size = BYTES_OF_DTYPE[dtype] * prod(shape)
        if name in entries:
            raise ValueError(f"{name}: comes twice")
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(8 + len(text)) % DATA_ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"the header of {len(entries) - 1} tensors would have {len(text)} bytes, "
                         f"more than the {MAX_HEADER_BYTES} that can be read back; a model of "
                         "fewer layers needs fewer")
    return text, entries


def _map_file(path):
    """Return a file's bytes as a memoryview, and its header's length, which is within them."""
    with as_checkpoint_error():
        file = open_regular(path)
    with file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise CheckpointError(f"{path}: has {size} bytes; a safetensors file begins with 8 "
                                  "that give its header's length")
        data = map_bytes(file, mmap.ACCESS_COPY)
    header_bytes = int.from_bytes(data[:8], "little")
    if header_bytes > min(MAX_HEADER_BYTES, len(data) - 8):
        raise CheckpointError(f"{path}: the header's length is given as {header_bytes}, but "
                              f"{len(data) - 8} bytes follow and {MAX_HEADER_BYTES} are allowed")
    return data, header_bytes


def _check_entry(path, name, entry, data_bytes):
    """Check the header's entry of a tensor; return (start, stop) of the tensor's bytes."""
    def refuse(reason):
        raise CheckpointError(f"{path}: {shown(name)}: {reason}")

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        refuse(f"{shown(entry)} is not an object of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES_OF_DTYPE:
        refuse(f"dtype {shown(dtype)} is not known")
    if not _is_list_of_sizes(shape):
        refuse(f"shape {shown(shape)} is not a list of sizes")
    if not _is_list_of_sizes(offsets) or len(offsets) != 2:
        refuse(f"data_offsets {shown(offsets)} are not two positions")
    start, stop = offsets
    if not start <= stop <= data_bytes:
        refuse(f"data_offsets {shown(offsets)} are not within the {data_bytes} bytes of data")
    size = BYTES_OF_DTYPE[dtype]
    for width in sorted(shape):  # a 0 first; else the product ends as soon as it is too large
        size *= width
        if size == 0 or size > data_bytes:
            break
    if size != stop - start:
        refuse(f"dtype {dtype} and shape {shown(shape)} do not take the {stop - start} bytes of "
               f"data_offsets {shown(offsets)}")
    return start, stop


def _is_list_of_sizes(value):
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)
