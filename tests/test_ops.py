"""Checks every op's gradient, along chosen directions, against differences of its own forward.

L(x) = sum(w * op(x)) with fixed w. For each input in turn, the derivative of L(x + t u) at t = 0 is
the dot product of u with the gradient that backward() gives: the slope. Two central differences, of
steps h and h/2, give the same by Richardson's combination, and tell how far to trust it; `Estimate`
derives this. The directions u have the signs of the gradient, so a slope is never small by
cancellation, and a test of the test shows that a gradient wrong by 10 % would be seen.

The table CASES says how each op is called.
"""

import inspect
import math
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opvalues import integers, on_grid, tensor_of, values

from pygpt.autograd import ops
from pygpt.autograd.arrays import deferring
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor

quick = settings(max_examples=15)

STEP = 2.0 ** -6
ULPS = 16          # of an op's largest output: as many as the roundings in a sum of 16 products


def fused(residual, op):
    """Compute residual + op(), and leave the sum to the op's kernel."""
    with deferring():
        return residual + op()


def partly_ignored(targets):
    """Leave the first of every three rows out of the loss."""
    for row in range(0, targets.size, 3):
        targets.flat()[row] = ops.IGNORED
    return targets


# {op: (shapes of the inputs that have gradients, call)}, for rows R, width C, second width N
CASES = {
    "add": lambda r, R, C, N: ([(R, C), (R, C)], ops.add),
    "mul": lambda r, R, C, N: ([(R, C), (R, C)], ops.mul),
    "shift": lambda r, R, C, N: ([(R, C)], lambda x: ops.shift(x, 0.7)),
    "scale": lambda r, R, C, N: ([(R, C)], lambda x: ops.scale(x, -1.7)),
    "sum": lambda r, R, C, N: ([(R, C)], ops.sum),
    "reshape": lambda r, R, C, N: ([(R, C)], lambda x: ops.reshape(x, (C, R))),
    "matmul": lambda r, R, C, N: ([(R, C), (C, N)], ops.matmul),
    "matmul transposed": lambda r, R, C, N: (
        [(R, C), (N, C)], lambda a, b: ops.matmul(a, b, transpose_b=True)),
    "linear": lambda r, R, C, N: ([(R, C), (C, N), (N,)], ops.linear),
    "linear fused": lambda r, R, C, N: (
        [(R, C), (C, N), (N,), (R, N)], lambda x, w, b, y: fused(y, lambda: ops.linear(x, w, b))),
    "mlp": lambda r, R, C, N: ([(R, C), (C, N), (N,), (N, C), (C,)], ops.mlp),
    "mlp fused": lambda r, R, C, N: (
        [(R, C), (C, N), (N,), (N, C), (C,), (R, C)],
        lambda x, *rest: fused(rest[-1], lambda: ops.mlp(x, *rest[:-1]))),
    "layernorm": lambda r, R, C, N: ([(R, C + 2), (C + 2,), (C + 2,)], ops.layernorm),
    "gelu": lambda r, R, C, N: ([(R, C)], ops.gelu),
    "softmax": lambda r, R, C, N: ([(R, C)], ops.softmax),
    "attention": lambda r, R, C, N: ([(2, R, 3 * 2 * C)], lambda x: ops.attention(x, 2)),
    "attention dropped": lambda r, R, C, N: (
        [(2, R, 3 * 2 * C)], lambda x, s=ops.Seed(42): ops.attention(x, 2, 0.3, s, 5)),
    "embedding": lambda r, R, C, N: (
        [(N, C), (R + 1, C)], lambda e, p, i=integers(r, (2, R), N): ops.embedding(i, e, p)),
    "dropout": lambda r, R, C, N: (
        [(R, C)], lambda x, s=ops.Seed(42): ops.dropout(x, 0.4, s, 3)),
    "dropout fused": lambda r, R, C, N: (
        [(R, C), (R, C)],
        lambda x, y, s=ops.Seed(42): fused(y, lambda: ops.dropout(x, 0.4, s, 3))),
    "cross_entropy": lambda r, R, C, N: (
        [(R, N)], lambda x, t=integers(r, (R,), N): ops.cross_entropy(x, t)),
    "linear_cross_entropy": lambda r, R, C, N: (
        [(R, C), (N, C)],
        lambda x, w, t=integers(r, (R,), N): ops.linear_cross_entropy(x, w, t)),
    "cross_entropy ignored": lambda r, R, C, N: (
        [(R, N)], lambda x, t=partly_ignored(integers(r, (R,), N)): ops.cross_entropy(x, t)),
    "linear_cross_entropy ignored": lambda r, R, C, N: (
        [(R, C), (N, C)],
        lambda x, w, t=partly_ignored(integers(r, (R,), N)): ops.linear_cross_entropy(x, w, t)),
}
PARTS = {"attention": 3, "attention dropped": 3}  # q, k and v each have a direction of their own
NO_GRADIENT = {"attention_cached"}  # for generation only; tested against attention below


@dataclass
class Estimate:
    """Holds two central differences, and the derivative and the error bound that follow from them.

    The difference with step h, `far`, is D + c h^2 + O(h^4); with h/2, `near`, it is
    D + c h^2 / 4 + O(h^4). `exact` combines them so that the terms in h^2 cancel. They differ by
    3/4 c h^2, which is many times the remaining error unless h is far too large. Each value of L
    is wrong by up to `rounding`, so `near` by 2 / h times that and `far` by 1 / h times that; the
    combination is then wrong by (4 * 2 + 1) / 3 = 3 times rounding / h.
    """

    near: float
    far: float
    rounding: float

    @property
    def exact(self):
        return (4 * self.near - self.far) / 3

    @property
    def allowed(self):
        return abs(self.near - self.far) + 3 * self.rounding / STEP

    def agrees(self, slope):
        return abs(slope - self.exact) <= self.allowed


def directions(rng, gradient, width, parts):
    """Yield a direction within each of `parts` ranges of columns, of length about 2 and with the
    gradient's signs where it is not 0."""
    for part in range(parts):
        mine = [part * width <= i % (parts * width) < (part + 1) * width
                for i in range(len(gradient))]
        raw = [math.copysign(0.2 + abs(rng.gauss(0, 1)), g or rng.gauss(0, 1)) * m
               for g, m in zip(gradient, mine)]
        length = math.hypot(*raw) or 1.0
        yield [on_grid(2 * u / length) for u in raw]


def slopes(name, R, C, N, seed):
    """Yield (slope by the gradient, Estimate) for every input of an op, part by part."""
    rng = random.Random(seed)
    shapes, call = CASES[name](rng, R, C, N)
    inputs = [values(rng, shape) for shape in shapes]
    leaves = [Tensor(t.tolist(), requires_grad=True) for t in inputs]
    out = call(*leaves)
    weights = [rng.choice((-1, 1)) * rng.uniform(1, 2) for _ in range(out.size)]
    cotangent = tensor_of(weights, out.shape)
    out.backward(cotangent)

    def loss(k, moved):
        with no_grad():
            y = call(*inputs[:k], moved, *inputs[k + 1:]).flat()
            largest = max([1.0, *map(abs, y)])
            return (math.fsum(w * v for w, v in zip(cotangent.flat(), y)),
                    ULPS * 2.0 ** -24 * largest * math.fsum(map(abs, weights)))

    for k, leaf in enumerate(leaves):
        gradient, parts = leaf.grad.flat().tolist(), PARTS.get(name, 1)
        for u in directions(rng, gradient, leaf.shape[-1] // parts, parts):
            def along(t):
                return loss(k, tensor_of([x + t * d for x, d in zip(inputs[k].flat(), u)],
                                         leaf.shape))

            differences, rounding = [], 0.0
            for h in (STEP / 2, STEP):
                (above, up), (below, down) = along(h), along(-h)
                differences.append((above - below) / (2 * h))
                rounding = max(rounding, up, down)
            slope = math.fsum(g * d for g, d in zip(gradient, u))
            yield slope, Estimate(*differences, rounding)


@pytest.mark.parametrize("name", CASES)
@quick
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2 ** 32))
def test_gradient_along_a_direction(name, R, C, N, seed):
    for slope, estimate in slopes(name, R, C, N, seed):
        assert estimate.agrees(slope), (slope, estimate)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sizes", [(4, 3, 5), (5, 8, 3), (7, 6, 9)], ids=str)
def test_a_wrong_gradient_would_be_seen(name, sizes):
    for slope, estimate in slopes(name, *sizes, seed=1):
        assert estimate.agrees(slope)
        for wrong in (0.0, 0.9 * slope, 1.1 * slope, -slope):
            assert not estimate.agrees(wrong), (slope, estimate)


def test_a_sum_is_formed_in_double_precision():
    assert float(ops.sum(Tensor([2.0 ** 24, 1.0, 1.0]))) == 2.0 ** 24 + 2


def test_every_op_has_a_gradient_test():
    public = {name for module in (ops.glue, ops.layers, ops.loss)
              for name, f in inspect.getmembers(module, inspect.isfunction)
              if not name.startswith("_") and f.__module__ == module.__name__}
    assert public == {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    assert public - NO_GRADIENT == {name.split()[0] for name in CASES}


@quick
@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 8), st.sampled_from([1, 3, 8]),
       st.integers(0, 2 ** 32))
def test_cached_attention_continues_attention(B, T, past, HS, seed):
    rng, past = random.Random(seed), min(past, T - 1)
    C = 2 * HS
    qkv = values(rng, (B, T, 3 * C))
    whole = ops.attention(qkv, 2).tolist()
    keys, cached = Tensor.empty((B, T, C)), Tensor.empty((B, T, C))
    out, at = [[] for _ in range(B)], 0
    for length in (past, T - past):
        part = Tensor([row[at:at + length] for row in qkv.tolist()]) if length else None
        if length:
            piece = ops.attention_cached(part, keys, cached, at, 2).tolist()
            for row, new in zip(out, piece):
                row.extend(new)
        at += length
    # two orders of the same sums of at most T products: a few ulps of values of size one
    worst = max(abs(a - b) for x, y in zip(whole, out) for u, v in zip(x, y) for a, b in zip(u, v))
    assert worst <= 1e-5
