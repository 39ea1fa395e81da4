"""Defines csrc/elementwise.c as loops: sums, products and scalings that belong to no layer."""

from pygpt.backend.reference.loops import OK, store


def add_forward(out, a, b, n):
    for i in range(n):
        out[i] = a[i] + b[i]
    return OK


def mul_forward(out, a, b, n):
    for i in range(n):
        out[i] = a[i] * b[i]
    return OK


def mul_backward(da, dout, b, n, accumulate):
    # out = a b, elementwise, so da = dout b.
    for i in range(n):
        store(da, i, dout[i] * b[i], accumulate)
    return OK


def scale_forward(out, inp, factor, n, accumulate):
    for i in range(n):
        store(out, i, inp[i] * factor[0], accumulate)
    return OK


def sum_forward(out, inp, n):
    out[0] = sum((inp[i] for i in range(n)), 0.0)
    return OK


def sum_backward(dinp, dout, n, accumulate):
    # out = sum_i inp_i: each inp_i has the factor 1, so the gradient of each is dout.
    for i in range(n):
        store(dinp, i, dout[0], accumulate)
    return OK
