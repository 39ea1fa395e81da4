"""Defines csrc/dropout.c as loops: dropout and its gradient. Attention uses the same mask."""

from math import ldexp

from pygpt.backend.reference.convert import float32
from pygpt.backend.reference.loops import OK, store
from pygpt.backend.reference.random import random_key, splitmix64


def _mix32(x):
    wrap = 0xFFFFFFFF
    x = (x ^ x >> 16) * 0x7FEB352D & wrap
    x = (x ^ x >> 15) * 0x846CA68B & wrap
    return x ^ x >> 16


def dropout_factors(dropout, seed, stream, r, n, rows=1):
    """List keep / (1 - dropout) for the first n columns of row r of the mask, which has this many
    rows for each token."""
    if dropout == 0.0:
        return [1.0] * n
    dropout = float32(dropout)
    row = splitmix64(random_key(seed, stream) + seed[1] * rows + r) >> 32
    bits = (_mix32(row + c * 0x9E3779B9 & 0xFFFFFFFF) >> 8 for c in range(n))
    return [(b >= ldexp(dropout, 24)) / (1.0 - dropout) for b in bits]


def dropout_forward(out, inp, residual, R, C, dropout, seed, stream):
    for r in range(R):
        for c, factor in enumerate(dropout_factors(dropout, seed, stream, r, C)):
            i = r * C + c
            out[i] = factor * inp[i] + (residual[i] if residual else 0.0)
    return OK


def dropout_backward(dinp, dout, R, C, dropout, seed, stream, accumulate):
    # out = factor * inp, elementwise, so dinp = factor * dout.
    for r in range(R):
        for c, factor in enumerate(dropout_factors(dropout, seed, stream, r, C)):
            store(dinp, r * C + c, factor * dout[r * C + c], accumulate)
    return OK
