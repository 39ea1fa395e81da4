"""Compares exp, log and GELU of csrc/simd.h with Python's, in units in the last place, per ISA.

They are inlined into the kernels and have no address, so each is reached through a kernel whose
result it is, exactly: the arithmetic around it has factors 1 and terms 0 only. Needs the built
library.
"""

import math
import random
from array import array

import pytest

from pygpt.check.calls import Guarded
from pygpt.check.differences import UNIT
from pygpt.check.sets import use_isa

# Near x = -10, where exp(-u2) leaves the floats, the gate below the smallest normal float becomes
# 0; the slope is up to 1 + |x| w < 256 times the gate.
FLOOR = 256 * 2.0 ** -126


@pytest.fixture(params=["avx512", "avx2", "neon", "baseline"])
def isa(request, kernels):
    if request.param not in kernels.isa_names():
        pytest.skip(f"no {request.param} here")
    with use_isa(request.param):
        yield request.param


def floats(values):
    """Round the values to float32."""
    return array("f", values)


def between(low, high, count=20000, seed=1):
    """Spread floats over [low, high], both ends included, and add some near 0 that lie in it."""
    draw = random.Random(seed)
    near = [0.0, *(sign * 2.0 ** -k for k in range(30) for sign in (-1, 1))]
    return floats([low, high, *(x for x in near if low <= x <= high),
                   *(draw.uniform(low, high) for _ in range(count))])


def ulps(got, want):
    """Return the error of got, in units in the last place of want as a float32."""
    exponent = max(math.frexp(want)[1], -125)
    return abs(got - want) / 2.0 ** (exponent - 24)


def call(kernels, name, outputs, *args):
    """Run a kernel on lists of floats, arrays of ids, numbers; outputs are (type, count) each."""
    memory = [Guarded(kernels.ffi, ctype, count) for ctype, count in outputs]
    given = [Guarded(kernels.ffi, {"f": "float", "i": "int32_t"}[x.typecode], len(x), x)
             if isinstance(x, array) else x for x in args]
    code = getattr(kernels.lib, name)(
        *(m.pointer for m in memory),
        *(x.pointer if isinstance(x, Guarded) else x for x in given))
    assert code == 0
    return [m.values() for m in memory]


def exp(kernels, xs):
    """Attention's backward pass computes p = exp(q . k / sqrt(HS) - lse) and dv = p dout. So at one
    position, with heads of one channel, q = x, k = 1, lse = 0 and dout = 1, dv is exp(x)."""
    n = len(xs)
    ones, zeros = floats([1.0] * n), floats([0.0] * n)
    dqkv, = call(kernels, "attention_backward", [("float", 3 * n)], ones, xs + ones + zeros, zeros,
                 zeros, 1, 1, n, n, 0.0, kernels.NULL, 0, kernels.FLOAT32)
    return dqkv[2 * n:]


def test_exp_is_within_2_ulp(kernels, isa):
    xs = between(-87.0, 88.0)
    worst = max(zip(map(ulps, exp(kernels, xs), map(math.exp, xs)), xs))
    assert worst[0] <= 2.0, f"{worst[0]} ulp at {worst[1]!r}"
    assert exp(kernels, floats([0.0, -0.0])).tolist() == [1.0, 1.0]


def test_exp_past_its_range(kernels, isa):
    below = floats([-87.01, -88.0, -104.0, -1e10, -math.inf])
    assert exp(kernels, below).tolist() == [0.0] * 5
    above = floats([88.73, 89.0, 128.0, 1e10, math.inf])
    assert exp(kernels, above).tolist() == [math.inf] * 5
    assert math.isnan(exp(kernels, floats([math.nan]))[0])


def loss(kernels, weight, V):
    """Return the fused head's loss of one row of V logits, weight times 1; the target is first."""
    return call(kernels, "linear_cross_entropy_forward", [("float", 1), ("float", 1)],
                floats([1.0]), weight, array("i", [0]), 1, 1, V, -100, kernels.FLOAT32)[1][0]


def test_log_is_within_2_ulp(kernels, isa):
    """V equal logits: the sum of V ones is exact, and the loss is log V."""
    for V in (*range(1, 1500), 2047, 2049, 4095, 10007, 50257, 65537):
        got = loss(kernels, floats([0.0] * V), V)
        assert ulps(got, math.log(V)) <= 2.0 if V > 1 else got == 0.0, (V, got)


def test_log_from_1_to_2_is_within_2_ulp_or_2_to_the_minus_24(kernels, isa):
    """Logits 0 and x: the loss is the log of 1 + e, rounded, with the e that this ISA has."""
    xs = between(-20.0, 0.0, 1500)
    for x, e in zip(xs, exp(kernels, xs)):
        got, want = loss(kernels, floats([0.0, x]), 2), math.log(floats([1.0 + e])[0])
        assert abs(got - want) <= UNIT or ulps(got, want) <= 2.0, (x, got, want)


def gelu_and_slope(x):
    """Return gelu(x), gelu'(x) and the error bounds of float32, by the formulas of simd.h.

    u2 = 2u, a sum of two terms of one sign, is at most 6 roundings off (the constants' included),
    which exp(-u2) multiplies by u2; with exp's 2 ulp, 4 UNIT, that is (6 |u2| + 4) UNIT in e, and
    1 - s times as much in s = 1 / (1 + e), besides 2 roundings.
    """
    k, c = math.sqrt(2 / math.pi), 0.044715
    u2, w = 2 * k * (x + c * x ** 3), 2 * k * (1 + 3 * c * x * x)
    s = 1 / (1 + math.exp(-u2)) if u2 > -700 else 0.0
    rest = 1 / (1 + math.exp(u2)) if u2 < 700 else 0.0  # 1 - s
    ds = s * (rest * (6 * abs(u2) + 4) + 2) * UNIT
    bulge = abs(x * s * rest * w)
    slope_off = ds * (1 + abs(x) * w * (s + rest)) + (10 * bulge + s) * UNIT
    return (x * s, abs(x) * (ds + 2 * UNIT * s)), (s + x * s * rest * w, slope_off)


# The table of simd.h: from, to, then for gelu and for its slope (ulp, absolute), either of which
# is enough.
GELU_BOUNDS = [
    (-1e10, -9.5, (0, 1e-30), (0, 1e-30)),
    (-12.0, -9.5, (0, 1e-30), (0, 1e-30)),
    (-9.5, -6.0, (200, 0), (200, 0)),
    (-6.0, -3.0, (70, 0), (70, 0)),
    (-3.0, -1.0, (16, 0), (16, 0)),
    (-1.0, 1.0, (3, 0), (0, 2 * UNIT)),
    (1.0, 20.0, (3, 0), (0, 40 * UNIT)),
]


@pytest.mark.parametrize("low, high, for_gelu, for_slope", GELU_BOUNDS)
def test_gelu_and_its_slope_are_within_the_stated_bounds(kernels, isa, low, high, for_gelu,
                                                         for_slope):
    xs = between(low, high)
    n = len(xs)
    value, = call(kernels, "gelu_forward", [("float", n)], xs, n)
    slope, = call(kernels, "gelu_backward", [("float", n)], floats([1.0] * n), xs, n, 0)
    for x, *got in zip(xs, value, slope):
        exact = [want for want, _ in gelu_and_slope(x)]
        for y, want, (most, off) in zip(got, exact, (for_gelu, for_slope)):
            assert abs(y - want) <= off or ulps(y, want) <= most, (x, y, want, ulps(y, want))
        assert x > 0 or abs(got[0] - exact[0]) <= UNIT, x


def test_gelu_and_its_slope_are_as_close_as_their_roundings_allow(kernels, isa):
    xs = between(-12.0, 12.0) + floats([-1e10, -100.0, -17.0, 17.0, 100.0, 1e10])
    n = len(xs)
    value, = call(kernels, "gelu_forward", [("float", n)], xs, n)
    slope, = call(kernels, "gelu_backward", [("float", n)], floats([1.0] * n), xs, n, 0)
    for x, y, dy in zip(xs, value, slope):
        for got, (want, off) in zip((y, dy), gelu_and_slope(x)):
            assert abs(got - want) <= off + FLOOR, (x, got, want, off)
