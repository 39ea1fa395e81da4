"""Tests safetensors files: they are read back, and a damaged one is refused in a sentence."""

import json
import os
import struct
from array import array

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pygpt.checkpoint import safetensors
from pygpt.checkpoint.safetensors import CheckpointError


def floats(*values):
    return memoryview(array("f", values))


def file_of(header, data=b"", header_bytes=None):
    """Return the bytes of a safetensors file; the header is an object, or its exact bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if header_bytes is None else header_bytes) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_tensors_are_read_back(tmp_path):
    path = tmp_path / "t.safetensors"
    grid = floats(1, 2, 3, 4, 5, 6).cast("B").cast("f", (2, 3))
    safetensors.write(path, [("grid", "F32", (2, 3), grid), ("empty", "F32", (0, 7), b""),
                             ("scalar", "I64", (), struct.pack("<q", -9))], {"format": "pt"})
    tensors, metadata = safetensors.read(path)
    assert metadata == {"format": "pt"}
    assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {
        "grid": ("F32", (2, 3)), "empty": ("F32", (0, 7)), "scalar": ("I64", ())}
    assert tensors["grid"].buffer.cast("f").tolist() == [1, 2, 3, 4, 5, 6]
    assert tensors["scalar"].buffer == struct.pack("<q", -9) and len(tensors["empty"].buffer) == 0
    tensors["grid"].buffer[:] = bytes(24)  # a private copy: the file does not change
    assert safetensors.read(path)[0]["grid"].buffer.cast("f").tolist() == [1, 2, 3, 4, 5, 6]


def test_the_layout_is_the_formats(tmp_path):
    path = tmp_path / "t.safetensors"
    safetensors.write(path, [("ab", "F32", (2,), floats(1, 2))], {"k": "v"})
    data = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", data[:8])
    assert (8 + header_bytes) % 64 == 0
    assert json.loads(data[8 : 8 + header_bytes]) == {
        "__metadata__": {"k": "v"}, "ab": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    assert data[8:9] == b"{" and data[8 + header_bytes :] == struct.pack("<2f", 1, 2)


@pytest.mark.parametrize("content, message", [
    (b"", "has 0 bytes"),
    (b"1234567", "has 7 bytes"),
    (b"\x80\x02}q\x00." * 9, "the header's length is given as"),  # another program's file
    (file_of(b'{"a"'), "the header is not JSON"),
    (file_of({}, header_bytes=2**64 - 1), f"the header's length is given as {2**64 - 1}"),
    (file_of(b"[1]"), "the header is not a JSON object"),
    (file_of(b"{\xff}"), "the header is not UTF-8 at byte 1"),
    (file_of(b'{"a":NaN}'), "the header holds NaN"),
    (file_of(b'{"a":1,"a":2}'), "the header holds the key 'a' twice"),
    (file_of(b'{"a":' * 100_000), "the header is nested too deeply"),
    (file_of(b'{"a":' + b"9" * 1001 + b"}"), "the header holds a number of 1001 digits"),
    (file_of(b'{"a":' + b"9" * 4_000_000 + b"}"), "the header holds a number of 4000000 digits"),
    (file_of({"__metadata__": {"a": 1}}), "__metadata__ is {'a': 1}"),
    (file_of({"a": []}), "'a': [] is not an object of dtype, shape and data_offsets"),
    (file_of({"a": entry() | {"more": 1}}), "is not an object of"),
    (file_of({"a": entry(dtype="F31")}, bytes(8)), "'a': dtype 'F31' is not known"),
    (file_of({"a": entry(dtype=["F32"])}, bytes(8)), "dtype ['F32'] is not known"),
    (file_of({"a": entry(shape=(-2,))}, bytes(8)), "shape [-2] is not a list of sizes"),
    (file_of({"a": entry(shape=(2.0,))}, bytes(8)), "shape [2.0] is not"),
    (file_of({"a": entry(shape=(True, 2))}, bytes(8)), "shape [True, 2] is not"),
    (file_of({"a": entry(shape=(3,))}, bytes(8)), "do not take the 8 bytes"),
    (file_of({"a": entry(shape=[10**30] * 40)}, bytes(8)), "do not take the 8 bytes"),
    (file_of({"a": entry(offsets=(0, 8, 9))}, bytes(8)), "are not two positions"),
    (file_of({"a": entry(offsets=(0, 12))}, bytes(8)), "are not within the 8 bytes of data"),
    (file_of({"a": entry(offsets=(8, 0))}, bytes(8)), "are not within the 8 bytes of data"),
    (file_of({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
     "'b': data_offsets begin at 4, inside the tensor before it, which ends at 8"),
    (file_of({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
     "'b': data_offsets begin at 12, not at the end of the tensor before it"),
    (file_of({"a": entry()}, bytes(9)), "the tensors take 8 bytes, but the file has 9"),
])
def test_a_damaged_file_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        safetensors.read(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and message in text
    assert len(text) < 600 and "\n" not in text


def json_values():
    leaves = (st.none() | st.booleans() | st.floats() | st.text(max_size=5)
              | st.integers(-2, 20) | st.integers(2**31, 2**65))
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4)
                        | st.dictionaries(st.text(max_size=3), inner, max_size=4), max_leaves=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_header_is_read_or_refused(tmp_path, data):
    """Replace one value of a good header: CheckpointError, or a consistent result."""
    header = {"a": entry(), "b": entry(shape=(1, 2), offsets=(8, 16)), "__metadata__": {"x": "y"}}
    name = data.draw(st.sampled_from(sorted(header)))
    key = data.draw(st.sampled_from(sorted(header[name]) + [None]))
    if key is None:
        header[name] = data.draw(json_values())
    else:
        header[name][key] = data.draw(json_values() | st.just([8, 16]) | st.just([0, 16]))
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(file_of(header, bytes(16)))
    read_or_refuse(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.none() | st.integers(0, 10**6))
def test_any_byte_may_be_wrong(tmp_path, place, byte, cut):
    content = bytearray(file_of({"a": entry(), "b": entry(shape=(1, 2), offsets=(8, 16))},
                                bytes(16)))
    content[place % len(content)] = byte
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(content if cut is None else content[: cut % len(content)])
    read_or_refuse(path)


def read_or_refuse(path):
    try:
        tensors, metadata = safetensors.read(path)
    except CheckpointError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error)) < 600
        return
    assert sum(len(tensor.buffer) for tensor in tensors.values()) <= os.path.getsize(path)
    for tensor in tensors.values():
        size = safetensors.BYTES_OF_DTYPE[tensor.dtype]
        for width in tensor.shape:
            size *= width
        assert size == len(tensor.buffer)
    assert all(isinstance(text, str) for text in metadata.values())


def test_a_size_that_is_not_its_shapes_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"w: 8 bytes for F32 \[3\]"):
        safetensors.write(tmp_path / "t", [("w", "F32", (3,), floats(1, 2))], {})
    with pytest.raises(ValueError, match=r"w: 8 bytes for F32 \[3\]"):
        safetensors.write(tmp_path / "t", [("w", "F32", (3,), lambda: floats(1, 2))], {})
    with pytest.raises(ValueError, match="w: comes twice"):
        safetensors.write(tmp_path / "t", [("w", "F32", (1,), floats(1))] * 2, {})
    assert os.listdir(tmp_path) == []
