"""Computes the gradient of softmax."""

import math
import random

from pygpt.autograd import ops
from pygpt.autograd.tensor import Tensor


def gradient(p, d):
    # sum_j d_j p_j ([i = j] - p_i) = p_i (d_i - sum_j d_j p_j)
    dot = sum(p_j * d_j for p_j, d_j in zip(p, d))
    return [p_i * (d_i - dot) for p_i, d_i in zip(p, d)]


def softmax(x):
    powers = [math.exp(value - max(x)) for value in x]
    return [power / sum(powers) for power in powers]


numbers = random.Random(1)
for length in (1, 2, 5, 40):
    x, d = ([numbers.gauss(0, 2) for _ in range(length)] for _ in range(2))
    mine = gradient(softmax(x), d)

    # A difference of step h has an error of order h^2, and rounding adds 2^-52 / h or so.
    h = 1e-5
    for i in range(length):
        above, below = ([value + sign * h * (k == i) for k, value in enumerate(x)]
                        for sign in (1, -1))
        slope = sum(g * (a - b) for g, a, b in zip(d, softmax(above), softmax(below))) / (2 * h)
        assert abs(mine[i] - slope) < 1e-8, f"finite differences say {slope}, you say {mine[i]}"

    leaf = Tensor(x, requires_grad=True)
    ops.softmax(leaf).backward(Tensor(d))
    for i, theirs in enumerate(leaf.grad.flat()):
        assert abs(mine[i] - theirs) < 1e-5, f"the kernel says {theirs}, you say {mine[i]}"
print("done")
