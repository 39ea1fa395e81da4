"""Defines csrc/few_rows.c as loops: layers whose weights are stored in 16 or 8 bits."""

from math import frexp, isfinite, ldexp, nan

from pygpt.backend.reference.convert import from_bfloat16, transpose
from pygpt.backend.reference.int8 import LEAST_QUANTIZED, dequantize_int8
from pygpt.backend.reference.linear import linear_forward
from pygpt.backend.reference.loops import PYGPT_FLOAT32


def linear_bfloat16(out, pre, inp, weight, bias, residual, R, IN, OUT):
    wide, across = [0.0] * (OUT * IN), [0.0] * (OUT * IN)
    from_bfloat16(wide, weight, OUT * IN)
    transpose(across, wide, OUT, IN)
    return linear_forward(out, pre, inp, across, bias, residual, R, IN, OUT, PYGPT_FLOAT32)


def linear_int8(out, pre, inp, q, scales, bias, residual, R, IN, OUT):
    wide, across, whole = [0.0] * (OUT * IN), [0.0] * (OUT * IN), []
    dequantize_int8(wide, q, scales, IN, OUT)
    transpose(across, wide, OUT, IN)
    for r in range(R):
        whole += whole_times_power([inp[r * IN + i] for i in range(IN)])
    return linear_forward(out, pre, whole, across, bias, residual, R, IN, OUT, PYGPT_FLOAT32)


def whole_times_power(row):
    """Return the row rounded to n 2^e with whole |n| <= 32767 and the smallest such e."""
    if not all(map(isfinite, row)):
        return [nan] * len(row)
    largest = max(map(abs, row), default=0.0)
    if largest < LEAST_QUANTIZED:
        return [0.0] * len(row)
    e = frexp(largest)[1] - 15  # largest / 2^e is in [2^14, 2^15)
    if round(ldexp(largest, -e)) > 32767:
        e += 1
    return [ldexp(round(ldexp(x, -e)), e) for x in row]
