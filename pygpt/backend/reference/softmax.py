"""Defines csrc/softmax.c as loops: softmax and its gradient. The loss and attention use its sum."""

from math import exp, log

from pygpt.backend.reference.loops import OK, dot, store


def logsumexp(x):
    """Return log sum_i exp(x_i). Subtracting the maximum first keeps exp from overflowing."""
    top = max(x)
    return top + log(sum(exp(v - top) for v in x))


def softmax_forward(out, inp, R, C):
    for r in range(R):
        row = [inp[r * C + c] for c in range(C)]
        top = max(row, default=0.0)
        powers = [exp(x - top) for x in row]
        total = sum(powers)
        for c in range(C):
            out[r * C + c] = powers[c] / total
    return OK


def softmax_backward(dinp, dout, out, R, C, accumulate):
    # out_j = e^x_j / sum e^x gives d out_j / d x_i = out_j ([i = j] - out_i), so
    # d loss / d x_i = sum_j dout_j out_j ([i = j] - out_i) = out_i (dout_i - sum_j dout_j out_j).
    for r in range(R):
        dout_out = dot(dout, r * C, out, r * C, C)
        for i in range(r * C, r * C + C):
            store(dinp, i, out[i] * (dout[i] - dout_out), accumulate)
    return OK
