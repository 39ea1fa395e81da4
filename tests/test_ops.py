"""Every op's gradient, along a random direction, against central differences of its own forward.

L(x) = sum(w * op(x)) with a fixed random w. For a random direction u the derivative dL/dt of
L(x + t u) at t = 0 is the dot product of the gradient that backward() gives with u; the central
difference (L(x + h u) - L(x - h u)) / 2h agrees with it to h^2 L''' / 6 plus the rounding of L over h.
Uses the public Tensor and ops.py; a table says how each op is called.
"""

import inspect
import math
import random
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygpt import ops
from pygpt.kernels import Memory
from pygpt.tensor import Tensor, no_grad

quick = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def values(rng, shape, spread=1.0):
    size = math.prod(shape)
    tensor = Tensor.empty(shape)
    flat = memoryview(tensor).cast("B").cast("f")
    for i in range(size):
        flat[i] = rng.gauss(0, spread)
    return tensor


def integers(rng, shape, bound):
    tensor = Tensor.empty(shape, "i")
    flat = memoryview(tensor).cast("B").cast("i")
    for i in range(tensor.size):
        flat[i] = rng.randrange(bound)
    return tensor


def flat(tensor):
    return memoryview(tensor).cast("B").cast("f")


def drop_seed():
    return ops.Seed(42)


# op -> (shapes of the inputs that have gradients, the call) for rows R, width C, and a second width N
CASES = {
    "add": lambda r, R, C, N: ([(R, C), (R, C)], ops.add),
    "mul": lambda r, R, C, N: ([(R, C), (R, C)], ops.mul),
    "scale": lambda r, R, C, N: ([(R, C)], lambda x: ops.scale(x, -1.7)),
    "sum": lambda r, R, C, N: ([(R, C)], ops.sum),
    "reshape": lambda r, R, C, N: ([(R, C)], lambda x: ops.reshape(x, (C, R))),
    "matmul": lambda r, R, C, N: ([(R, C), (C, N)], ops.matmul),
    "matmul transposed": lambda r, R, C, N: ([(R, C), (N, C)],
                                             lambda a, b: ops.matmul(a, b, transpose_b=True)),
    "linear": lambda r, R, C, N: ([(R, C), (C, N), (N,), (R, N)], ops.linear),
    "mlp": lambda r, R, C, N: ([(R, C), (C, N), (N,), (N, C), (C,), (R, C)], ops.mlp),
    "layernorm": lambda r, R, C, N: ([(R, C + 2), (C + 2,), (C + 2,)], ops.layernorm),
    "gelu": lambda r, R, C, N: ([(R, C)], ops.gelu),
    "softmax": lambda r, R, C, N: ([(R, C)], ops.softmax),
    "attention": lambda r, R, C, N: ([(2, R, 3 * 2 * C)], lambda x: ops.attention(x, 2)),
    "attention dropped": lambda r, R, C, N: ([(1, R, 3 * 2 * C)], lambda x, s=drop_seed():
                                             ops.attention(x, 2, 0.3, s, 5)),
    "embedding": lambda r, R, C, N: ([(N, C), (R + 1, C)], lambda e, p, i=integers(r, (2, R), N):
                                     ops.embedding(i, e, p)),
    "dropout": lambda r, R, C, N: ([(R, C), (R, C)], lambda x, y, s=drop_seed():
                                   ops.dropout(x, 0.4, s, 3, y)),
    "cross_entropy": lambda r, R, C, N: ([(R, N)], lambda x, t=integers(r, (R,), N):
                                         ops.cross_entropy(x, t)),
    "linear_cross_entropy": lambda r, R, C, N: ([(R, C), (N, C)], lambda x, w, t=integers(r, (R,), N):
                                                ops.linear_cross_entropy(x, w, t)),
}
NO_GRADIENT = {"attention_cached"}  # for generation only; tested against attention below


def directional(rng, call, inputs):
    """(gradient . direction, central difference), and the scale of L for the tolerance."""
    leaves = [Tensor(t.tolist(), requires_grad=True) if 0 not in t.shape else t for t in inputs]
    out = call(*leaves)
    weights = [rng.gauss(0, 1) for _ in range(out.size)]
    grad = Tensor.empty(out.shape)
    flat(grad)[:] = memoryview(array("f", weights))
    out.backward(grad)
    directions = [[rng.gauss(0, 1) for _ in range(t.size)] for t in inputs]
    slope = math.fsum(g * u for leaf, d in zip(leaves, directions)
                      for g, u in zip(flat(leaf.grad), d))

    def along(t):
        moved = []
        for tensor, d in zip(inputs, directions):
            copy = Tensor.empty(tensor.shape)
            for i, (x, u) in enumerate(zip(flat(tensor), d)):
                flat(copy)[i] = x + t * u
            moved.append(copy)
        with no_grad():
            y = flat(call(*moved))
            return math.fsum(w * v for w, v in zip(weights, y)), math.fsum(
                abs(w * v) for w, v in zip(weights, y))

    h = 2e-3
    (above, size), (below, _) = along(h), along(-h)
    return slope, (above - below) / (2 * h), size


@pytest.mark.parametrize("name", CASES)
@quick
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2 ** 32))
def test_gradient_along_a_direction(name, R, C, N, seed):
    rng = random.Random(seed)
    shapes, call = CASES[name](rng, R, C, N)
    inputs = [values(rng, shape, 0.7) for shape in shapes]
    slope, difference, size = directional(rng, call, inputs)
    # Rounding: L is a sum of terms each good to a few float32 ulps (2^-24), divided by h = 2e-3.
    # Truncation: h^2/6 times the third derivative along u, |u| growing with the number of inputs.
    # Layer norm of a nearly constant row bends sharply (rstd up to 300), hence its own bound.
    length = math.sqrt(sum(t.size for t in inputs))
    rounding = 8 * 2 ** -24 * (size + 1) / 2e-3
    truncation = 4e-6 * (1 + length ** 3) * (size + 1)
    if name == "layernorm":
        truncation *= 50
    assert abs(slope - difference) <= rounding + truncation


def test_every_op_has_a_gradient_test():
    public = {name for name, f in inspect.getmembers(ops, inspect.isfunction)
              if not name.startswith("_") and f.__module__ == ops.__name__}
    assert public - NO_GRADIENT == {name.split()[0] for name in CASES}


def test_a_tensor_used_twice_gets_both_gradients():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = ops.add(ops.mul(x, x), x)          # x^2 + x
    ops.sum(ops.mul(y, x)).backward()      # x^3 + x^2
    assert x.grad.tolist() == [3 * v * v + 2 * v for v in (1.0, 2.0, 3.0)]


def test_a_gradient_handed_to_two_nodes_is_not_added_to_in_place():
    # s = a + b hands the same gradient to a's node and to b's; c then adds to a's alone.
    w = Tensor([1.0, 1.0], requires_grad=True)
    a, b = ops.scale(w, 2.0), ops.scale(w, 3.0)
    total = ops.add(ops.add(a, b), ops.scale(a, 10.0))
    ops.sum(total).backward()
    assert w.grad.tolist() == [2 + 3 + 20.0] * 2


def test_gradients_accumulate_over_backward_passes():
    x = Tensor([2.0], requires_grad=True)
    for expected in (3.0, 6.0):
        ops.sum(ops.scale(x, 3.0)).backward()
        assert x.grad.tolist() == [expected]


def test_a_graph_ten_thousand_deep_needs_no_recursion():
    x = Tensor([1.0], requires_grad=True)
    y = x
    for _ in range(10_000):
        y = ops.add(y, x)
    ops.sum(y).backward()
    assert x.grad.tolist() == [10_001.0]


def test_backward_twice_is_refused():
    x = Tensor([1.0], requires_grad=True)
    y = ops.sum(ops.mul(x, x))
    y.backward()
    with pytest.raises(ValueError, match="ran through this graph before"):
        y.backward()


def test_backward_of_nothing_is_refused():
    with pytest.raises(ValueError, match="requires_grad"):
        ops.sum(Tensor([1.0])).backward()
    with no_grad(), pytest.raises(ValueError, match="requires_grad"):
        ops.sum(Tensor([1.0], requires_grad=True)).backward()


@pytest.mark.parametrize("call, message", [
    (lambda: ops.add(Tensor([1.0]), Tensor([1.0, 2.0])), r"add: shapes \(1,\) and \(2,\) differ"),
    (lambda: ops.matmul(Tensor([[1.0]]), Tensor([[1.0], [2.0]])), "do not fit"),
    (lambda: ops.attention(Tensor([[[0.0] * 9]]), 2), "n_embd=3 is not divisible by n_head=2"),
    (lambda: ops.dropout(Tensor([1.0]), 1.0, None), r"dropout=1.0 is not in \[0, 1\)"),
    (lambda: ops.dropout(Tensor([1.0]), 0.5, None), "needs a seed"),
    (lambda: Tensor([[1.0], [1.0, 2.0]]), "ragged"),
    (lambda: float(Tensor([1.0, 2.0])), "2 values"),
])
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_memoryview_is_the_tensor_itself():
    t = Tensor([[1.0, 2.0], [3.0, 4.0]])
    view = memoryview(t)
    assert (view.shape, view.format, view.tolist()) == ((2, 2), "f", [[1.0, 2.0], [3.0, 4.0]])
    view[1, 0] = 7.0
    assert t.tolist() == [[1.0, 2.0], [7.0, 4.0]]


def test_memory_that_cannot_be_had_is_an_error_with_the_bytes():
    with pytest.raises(MemoryError, match="1,152,921,504,606,846,976 bytes"):
        Memory(2 ** 60)


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
