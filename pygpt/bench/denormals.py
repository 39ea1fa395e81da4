"""Lists kernel calls on inputs that make denormals, each beside the same call on ordinary inputs.

A denormal is a float below 2^-126 = 1.2e-38 in size. Many CPUs take a hundred times as long for an
instruction that reads or makes one, so the kernels flush denormals to 0 (csrc/parallel.h).
bench/kernels.py times the two calls of a pair in turn: the second should take as long as the first.

The two calls of a pair differ in their inputs alone: numbers drawn from the same distribution,
once of an ordinary size and once of one that makes denormals.
"""

import random
from array import array
from functools import partial

from pygpt.backend.kernels import FLOAT32, NULL, Memory, lib

DRAWN = 4093      # random numbers; repeated, this prime number never falls into step with the rows
TINY = 1e-39      # the size of a denormal
LOGITS = 1 << 22  # the most logits of a case, 16 MB
GRADIENT = 1e-4   # the size of ordinary gradients, which are divided by the number of targets


class Inputs:
    """Makes arrays of random numbers and keeps their memory, which the calls only point to."""

    def __init__(self):
        self.memory, self.rng = [], random.Random(0)

    def keep(self, numbers, kind="f"):
        """Copy an array; return a kernel's pointer to the copy."""
        self.memory.append(Memory(len(numbers) * numbers.itemsize))
        self.memory[-1].view[:] = memoryview(numbers).cast("B")
        return self.memory[-1].pointer(kind)

    def drawn(self, n, draw):
        numbers = array("f", [draw() for _ in range(min(n, DRAWN))])
        return self.keep((numbers * (n // DRAWN + 1))[:n])

    def normal(self, n, std=1.0):
        return self.drawn(n, partial(self.rng.gauss, 0.0, std))

    def uniform(self, n, low, high):
        return self.drawn(n, partial(self.rng.uniform, low, high))


def denormal_cases(shape, dtype=FLOAT32):
    """List the pairs of calls to measure at the shapes of a preset.

    The losses have at most LOGITS logits and AdamW the weights of one block, so that the inputs
    take up little memory.

    Args:
        shape: a value of bench.kernels.SHAPES.
        dtype: the type of operands that the products are called with.
    Returns:
        ([(label, the second call's inputs, ordinary call, second call)], inputs); the caller keeps
        the inputs alive while it makes the calls.
    """
    inputs = Inputs()
    return [(label, how, *pair)
            for group in (_attention, _losses, _gelu, _gradients)
            for label, how, pair in group(inputs, shape, dtype)], inputs


def _attention(inputs, shape, dtype):
    B, T, C, NH = (shape[k] for k in ("batch_size", "n_positions", "n_embd", "n_head"))
    R = B * T
    dqkv, dout = inputs.normal(R * 3 * C), inputs.normal(R * C, GRADIENT)
    # A score is a product of HS normal numbers with HS others, divided by sqrt(HS): its standard
    # deviation is that of q times that of k.
    qkvs = [inputs.normal(R * 3 * C, std) for std in (1.0, 50 ** 0.5)]
    outs = [inputs.normal(R * C) for _ in qkvs]
    lses = [inputs.normal(R * NH) for _ in qkvs]
    # the forward calls come first, since the backward calls read their out and lse
    yield "attention forward", "scores spread by 50", [
        partial(lib.attention_forward, out, lse, qkv, B, T, C, NH, 0.0, NULL, 0, dtype)
        for out, lse, qkv in zip(outs, lses, qkvs)]
    yield "attention backward", "scores spread by 50", [
        partial(lib.attention_backward, dqkv, dout, qkv, out, lse, B, T, C, NH, 0.0, NULL, 0,
                dtype)
        for out, lse, qkv in zip(outs, lses, qkvs)]


def _losses(inputs, shape, dtype):
    V = shape["vocab_size"]
    R = min(shape["batch_size"] * shape["n_positions"], max(1, LOGITS // V))
    logits = [inputs.uniform(R * V, -spread / 2, spread / 2) for spread in (2.0, 200.0)]
    probabilities = [inputs.normal(R * V) for _ in logits]
    dout, dlogits = inputs.normal(R * V, GRADIENT), inputs.normal(R * V)
    loss, losses, dloss = inputs.normal(1), inputs.normal(R), inputs.keep(array("f", [1.0]))
    targets = inputs.keep(array("i", [inputs.rng.randrange(V) for _ in range(R)]), "i")
    how = "logits spread by 200"
    yield "softmax forward", how, [
        partial(lib.softmax_forward, p, x, R, V) for p, x in zip(probabilities, logits)]
    yield "softmax backward", how, [
        partial(lib.softmax_backward, dlogits, dout, p, R, V, 0) for p in probabilities]
    yield "cross entropy forward", how, [
        partial(lib.cross_entropy_forward, loss, losses, x, targets, R, V, -100) for x in logits]
    yield "cross entropy backward", how, [
        partial(lib.cross_entropy_backward, dlogits, dloss, x, targets, R, V, -100, 0)
        for x in logits]


def _gelu(inputs, shape, dtype):
    n = shape["batch_size"] * shape["n_positions"] * 4 * shape["n_embd"]
    # gelu(x) = x / (1 + e^-z) with z = 2 sqrt(2/pi) (x + 0.044715 x^3), which is -106 at x = -10.7
    # and -87 at x = -10: in between, gelu(x) is denormal or about to be
    xs = [inputs.uniform(n, *ends) for ends in ((-1.0, 1.0), (-10.7, -10.0))]
    out, dinp, dout = inputs.normal(n), inputs.normal(n), inputs.normal(n)
    how = "values of -10.7 to -10"
    yield "gelu forward", how, [partial(lib.gelu_forward, out, x, n) for x in xs]
    yield "gelu backward", how, [partial(lib.gelu_backward, dinp, dout, x, n, 0) for x in xs]


def _gradients(inputs, shape, dtype):
    R, C = shape["batch_size"] * shape["n_positions"], shape["n_embd"]
    x, dx, norm, dnorm, dbias = (inputs.normal(n) for n in (R * C, R * C, C, C, C))
    mean, rstd = inputs.normal(R, 0.01), inputs.uniform(R, 0.9, 1.1)
    yield "layernorm backward", "gradients of 1e-40", [
        partial(lib.layernorm_backward, dx, dnorm, dbias, dout, x, norm, mean, rstd, R, C, 0, 0)
        for dout in (inputs.normal(R * C, size) for size in (GRADIENT, TINY / 10))]
    weight = inputs.normal(C * 4 * C, 0.02)
    yield "mlp fc: dx = dy W^T", "gradients of 1e-39", [
        partial(lib.linear_backward_input, dx, NULL, dout, weight, NULL, R, C, 4 * C, 0, dtype)
        for dout in (inputs.normal(R * 4 * C, size) for size in (GRADIENT, TINY))]
    n = 12 * C * C
    # the learning rate is 0: however often the step is taken, the parameters stay as they are
    settings = inputs.keep(array("f", [0.0, 0.9, 0.95, 1e-8, 0.1, 0.5, 0.5, 1.0]))
    yield "AdamW", "gradients and moments of 1e-39", [
        partial(lib.adamw_step, inputs.normal(n), NULL, inputs.normal(n, g),
                inputs.uniform(n, 0.0, v), inputs.normal(n, g), settings, n, n)
        for g, v in ((GRADIENT, GRADIENT ** 2), (TINY, TINY))]
