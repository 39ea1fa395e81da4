"""Tests float16 and bfloat16 to float32 and back: all bit patterns, all ties of rounding.

In C and in the reference; test_kernels.py adds sizes, threads and margins. Needs the built library.
"""

import math
import struct
from array import array

import pytest

from pygpt.backend import reference

TYPES = {"float16": 0x7C00, "bfloat16": 0x7F80}  # the bits of infinity
both_types = pytest.mark.parametrize("name, infinity", TYPES.items())
LARGEST = 3.4028234663852886e38  # of float32


def in_c(kernels, kernel, values, code_in, code_out):
    """Return (status, results) of a kernel on a list."""
    size = array(code_out).itemsize
    inp, out = kernels.Memory(len(values) * array(code_in).itemsize), kernels.Memory(
        len(values) * size)
    inp.view[:] = array(code_in, values).tobytes()
    status = getattr(kernels.lib, kernel)(out.pointer(code_out), inp.pointer(code_in), len(values))
    return status, list(out.view.cast(code_out))


def in_python(kernel, values):
    out = [None] * len(values)
    return getattr(reference, kernel)(out, values, len(values)), out


def value_of(name, bits):
    """Return the number that 16 bits stand for, computed in another way than the kernels'."""
    if name == "float16":
        return struct.unpack("<e", struct.pack("<H", bits))[0]
    return struct.unpack("<f", struct.pack("<HH", 0, bits))[0]


def bits_of_double(x):
    return struct.pack("<d", x) if x == x else b"NaN"


@both_types
def test_every_number_is_read_exactly(kernels, name, infinity):
    every = list(range(65536))
    expected = [bits_of_double(value_of(name, bits)) for bits in every]
    for status, got in (in_c(kernels, f"from_{name}", every, "H", "f"),
                        in_python(f"from_{name}", every)):
        assert status == 0 and [bits_of_double(x) for x in got] == expected


@both_types
def test_every_number_is_written_back_to_its_bits(kernels, name, infinity):
    numbers = [bits for bits in range(65536) if bits & 0x7FFF <= infinity]
    values = [value_of(name, bits) for bits in numbers]
    assert in_c(kernels, f"to_{name}", values, "f", "H") == (0, numbers)
    assert in_python(f"to_{name}", values) == (0, numbers)
    assert in_c(kernels, f"to_{name}", [math.nan, -math.nan], "f", "H") == in_python(
        f"to_{name}", [math.nan, -math.nan])


@both_types
@pytest.mark.parametrize("bits", [0x7F800001, 0xFF800001, 0x7F80FFFF, 0x7FFFFFFF])
def test_a_nan_stays_one_whichever_of_its_bits_are_cut_off(kernels, name, infinity, bits):
    inp, out = kernels.Memory(4), kernels.Memory(2)
    inp.view[:] = struct.pack("<I", bits)
    getattr(kernels.lib, f"to_{name}")(out.pointer("H"), inp.pointer("f"), 1)
    assert math.isnan(value_of(name, out.view.cast("H")[0]))


def float32_beside(x, direction):
    """Return the float32 next to a positive one, away from 0 or towards it."""
    return struct.unpack("<f", struct.pack("<i", struct.unpack("<i", struct.pack("<f", x))[0]
                                           + direction))[0]


@both_types
def test_rounding_turns_half_way_and_ties_go_to_the_even(kernels, name, infinity):
    values, expected = [], []
    for lower in range(infinity - 1):
        middle = (value_of(name, lower) + value_of(name, lower + 1)) / 2  # exact in float32, too
        values += [float32_beside(middle, -1), middle, float32_beside(middle, 1)]
        expected += [lower, lower + lower % 2, lower + 1]
    assert all(struct.unpack("<f", struct.pack("<f", x))[0] == x for x in values)
    for sign, bit in ((1, 0), (-1, 0x8000)):
        signed = [sign * x for x in values]
        wanted = 0, [bits | bit for bits in expected]
        assert in_c(kernels, f"to_{name}", signed, "f", "H") == wanted
        assert in_python(f"to_{name}", signed) == wanted


@pytest.mark.parametrize("name, last, first", [
    ("float16", float32_beside(65520.0, -1), 65520.0),
    ("bfloat16", float32_beside(3.3961775292304957e38, -1), 3.3961775292304957e38),
    ("float16", 65504.0, LARGEST), ("bfloat16", 3.3895313892515355e38, LARGEST),
])
def test_a_finite_number_that_becomes_infinite_is_told(kernels, name, last, first):
    infinity = TYPES[name]
    fine, bad = [1.0, last, math.inf, math.nan, -last], [0.0] * 70001 + [-first] + [0.0]
    assert in_c(kernels, f"to_{name}", fine, "f", "H") == in_python(f"to_{name}", fine)
    status, got = in_c(kernels, f"to_{name}", fine, "f", "H")
    assert status == 0 and got[1] == infinity - 1 and got[2] == infinity
    status, got = in_c(kernels, f"to_{name}", bad, "f", "H")
    assert status == kernels.EOVERFLOW and got[-2] == infinity | 0x8000
    assert in_python(f"to_{name}", bad[-2:]) == (reference.EOVERFLOW, got[-2:])
    with pytest.raises(OverflowError, match="too large"):
        kernels.check_status(status)
