"""Defines csrc/quantized.c as loops: weights of 8 bits, and layers whose weights have 16 or 8."""

from math import frexp, isfinite, ldexp, nan

from pygpt.backend.reference.convert import float32, from_bfloat16, transpose
from pygpt.backend.reference.linear import linear_forward
from pygpt.backend.reference.loops import OK, PYGPT_FLOAT32, places

PYGPT_INT8_GROUP = 64
LEAST_QUANTIZED = 2.0 ** -100  # numbers that are all smaller count as 0


def quantize_int8(q, scales, weight, IN, OUT, transpose):
    G = -(-IN // PYGPT_INT8_GROUP)
    across, along = (1, OUT) if transpose else (IN, 1)
    for o, g in places(OUT, G):
        first, end = g * PYGPT_INT8_GROUP, min((g + 1) * PYGPT_INT8_GROUP, IN)
        group = [weight[o * across + i * along] for i in range(first, end)]
        scale = _group_scale(group)
        whole = [round(float32(w / scale)) if scale > 0.0 else 0 for w in group]
        whole += [0] * (PYGPT_INT8_GROUP - len(group))
        scales[o * G + g] = scale
        for k, n in enumerate(whole):
            q[(o * G + g) * PYGPT_INT8_GROUP + k] = n
    return OK


def _group_scale(group):
    if not all(map(isfinite, group)):
        return nan
    largest = max(map(abs, group))
    return float32(largest / 127) if largest >= LEAST_QUANTIZED else 0.0


def dequantize_int8(out, q, scales, IN, OUT):
    G = -(-IN // PYGPT_INT8_GROUP)
    for o, i in places(OUT, IN):
        place = o * G * PYGPT_INT8_GROUP + i
        out[o * IN + i] = q[place] * scales[place // PYGPT_INT8_GROUP]
    return OK


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
