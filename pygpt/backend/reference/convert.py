"""Defines the conversions of csrc/convert.c as loops: 16-bit floats, and the transpose."""

from math import copysign, frexp, inf, isinf, isnan, ldexp, nan

from pygpt.backend.reference.loops import EOVERFLOW, OK, places

_FLOAT16, _BFLOAT16 = (5, 10), (8, 7)  # bits of the exponent and of the fraction, after the sign


def _widen(out, inp, n, exponent_bits, fraction_bits):
    """Convert 16-bit floats to float32. Sign s, exponent e and fraction f stand for the number
    (-1)^s 2^(e - bias) (1 + f/2^bits), or, where e is 0, for (-1)^s 2^(1 - bias) f/2^bits. The
    largest e stands for infinity (f = 0) and NaN (otherwise)."""
    bias, largest = 2 ** (exponent_bits - 1) - 1, 2 ** exponent_bits - 1
    for i in range(n):
        sign, magnitude = -1.0 if inp[i] >> 15 else 1.0, inp[i] & 0x7FFF
        e, f = magnitude >> fraction_bits, magnitude % 2 ** fraction_bits
        if e == largest:
            out[i] = copysign(nan if f else inf, sign)
        else:
            steps = f + 2 ** fraction_bits if e else f
            out[i] = sign * ldexp(steps, max(e, 1) - bias - fraction_bits)
    return OK


def _narrow(out, inp, n, exponent_bits, fraction_bits):
    """Convert float32 to 16-bit floats. A number in [2^E, 2^(E+1)) is rounded to the nearest
    multiple of 2^(E - bits). E is at least the exponent of the smallest normal number."""
    least, infinity = 2 - 2 ** (exponent_bits - 1), (2 ** exponent_bits - 1) << fraction_bits
    status = OK
    for i in range(n):
        x = inp[i]
        if isnan(x):
            bits = infinity | 1 << (fraction_bits - 1)
        elif isinf(x):
            bits = infinity
        else:
            E = max(frexp(x)[1] - 1, least) if x else least
            steps = round(ldexp(abs(x), fraction_bits - E))  # a tie goes to the even number
            bits = min(steps + ((E - least) << fraction_bits), infinity)
            status = EOVERFLOW if bits == infinity else status
        out[i] = bits | (0x8000 if copysign(1.0, x) < 0 else 0)
    return status


def from_float16(out, inp, n):
    return _widen(out, inp, n, *_FLOAT16)


def from_bfloat16(out, inp, n):
    return _widen(out, inp, n, *_BFLOAT16)


def to_float16(out, inp, n):
    return _narrow(out, inp, n, *_FLOAT16)


def to_bfloat16(out, inp, n):
    return _narrow(out, inp, n, *_BFLOAT16)


def transpose(out, inp, R, C):
    for r, c in places(R, C):
        out[c * R + r] = inp[r * C + c]
    return OK


def float32(x):
    """Round x to 24 bits, as a C float is rounded, because masks must agree bit for bit."""
    mantissa, exponent = frexp(x)
    return ldexp(round(ldexp(mantissa, 24)), exponent - 24)
