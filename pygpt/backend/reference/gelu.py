"""Defines csrc/gelu.c as loops: GELU and its gradient, which linear.py uses in one pass."""

from math import pi, sqrt, tanh

from pygpt.backend.reference.loops import OK, store


def gelu(x):
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / pi) * (x + 0.044715 * x ** 3)))


def gelu_slope(x):
    # y = 0.5 x (1 + t) with t = tanh(u), and tanh' = 1 - tanh^2:
    # dy/dx = 0.5 (1 + t) + 0.5 x (1 - t^2) du/dx.
    t = tanh(sqrt(2.0 / pi) * (x + 0.044715 * x ** 3))
    du = sqrt(2.0 / pi) * (1.0 + 3.0 * 0.044715 * x ** 2)
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * du


def gelu_forward(out, inp, n):
    for i in range(n):
        out[i] = gelu(inp[i])
    return OK


def gelu_backward(dinp, dout, inp, n, accumulate):
    for i in range(n):
        store(dinp, i, dout[i] * gelu_slope(inp[i]), accumulate)
    return OK
