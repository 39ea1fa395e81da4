"""Defines csrc/int8.c as loops: rounds weights to 8 bits, and back."""

from math import isfinite, nan

from pygpt.backend.reference.convert import float32
from pygpt.backend.reference.loops import OK, places

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
