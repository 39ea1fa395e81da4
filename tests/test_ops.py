"""Every op's gradient, along chosen directions, against central differences of its own forward.

L(x) = sum(w * op(x)) with fixed w. For each input in turn, the derivative of L(x + t u) at t = 0 is
the dot product of the gradient that backward() gives with u, the slope. Two central differences, of
steps h and h/2, give the same by Richardson's combination, and how far to trust it; `Estimate` says
how. The directions u are drawn with the signs of the gradient, so a slope is never small by
cancellation, and a test of the test shows that a gradient wrong by 10 % would be seen.

The public Tensor and ops.py; a table says how each op is called.
"""

import inspect
import math
import random
import weakref
from array import array
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygpt.autograd import ops
from pygpt.backend.kernels import Memory, address, check
from pygpt.autograd.launch import calling
from pygpt.autograd.arrays import deferring
from pygpt.autograd.tape import ONE, no_grad
from pygpt.autograd.tensor import Tensor

quick = settings(max_examples=15, deadline=None, derandomize=True, database=None)

STEP = 2.0 ** -6
GRID = 2.0 ** -12  # inputs and directions are multiples of it, so x + STEP/2 u is exact in float32
ULPS = 16          # of an op's largest output: as many as the roundings in a sum of 16 products


def on_grid(x):
    return max(-7.0, min(7.0, round(x / GRID) * GRID))


def tensor_of(numbers, shape):
    tensor = Tensor.empty(shape)
    tensor.flat()[:] = memoryview(array("f", numbers))
    return tensor


def values(rng, shape, spread=1.0):
    return tensor_of([on_grid(rng.gauss(0, spread)) for _ in range(math.prod(shape))], shape)


def integers(rng, shape, bound):
    tensor = Tensor.empty(shape, "i")
    tensor.flat()[:] = memoryview(array("i", [rng.randrange(bound) for _ in range(tensor.size)]))
    return tensor


# op -> (shapes of the inputs that have gradients, the call) for rows R, width C, second width N
def fused(residual, op):
    """residual + op(), the sum left to the op's kernel."""
    with deferring():
        return residual + op()


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
}
PARTS = {"attention": 3, "attention dropped": 3}  # q, k and v each have a direction of their own
NO_GRADIENT = {"attention_cached"}  # for generation only; tested against attention below


@dataclass
class Estimate:
    """What two central differences say about a derivative.

    The one of step h, `far`, is D + c h^2 + O(h^4), that of h/2, `near`, is D + c h^2 / 4 + ..;
    `exact` combines them so that the h^2 drop out. Their difference is 3/4 c h^2, which bounds
    what is left many times over unless h is far too large. Each value of L is wrong by up to
    `rounding`, so `near` by 2 / h times that and `far` by 1 / h; (4 * 2 + 1) / 3 = 3.
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
    """For each of `parts` ranges of columns, a direction within it of length about 2, most of it
    with the gradient's signs."""
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


def test_every_op_has_a_gradient_test():
    public = {name for module in (ops.glue, ops.layers, ops.loss)
              for name, f in inspect.getmembers(module, inspect.isfunction)
              if not name.startswith("_") and f.__module__ == module.__name__}
    assert public == {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
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


def f(*shape):
    return values(random.Random(0), shape)


def i(*shape):
    return integers(random.Random(0), shape, 1)


SEED = ops.Seed(1)
MISUSE = [
    (lambda: ops.add(f(1), f(2)), r"add: shapes \(1,\) of a and \(2,\) of b differ"),
    (lambda: ops.mul(f(2, 3), f(3, 2)), r"mul: shapes \(2, 3\) of a and \(3, 2\) of b differ"),
    (lambda: ops.reshape(f(4), (3,)), r"reshape: 4 values of shape \(4,\) do not fit shape \(3,\)"),
    (lambda: ops.reshape(f(4), (-2, -2)), "reshape: length=-2 is not a whole number of 0 or more"),
    (lambda: ops.reshape(f(4), (2.0, 2)), "reshape: length=2.0 is not a whole number"),
    (lambda: ops.matmul(f(1, 1), f(2, 1)), r"matmul: shapes \(1, 1\) and \(2, 1\) do not fit"),
    (lambda: ops.matmul(f(1, 2), f(2, 1), transpose_b=True), r"\(2, 1\) transposed do not fit"),
    (lambda: ops.matmul(f(1, 2), f(2)), "not two dimensions"),
    (lambda: ops.matmul(f(), f(1, 2)), "matmul: a has no dimensions"),
    (lambda: ops.linear(f(2, 3), f(3, 4), f(3)),
     r"linear: bias \(3,\) does not fit weight \(3, 4\)"),
    (lambda: ops.linear(f(2, 3), f(3, 4), f(1, 4)), r"linear: bias \(1, 4\) does not fit"),
    (lambda: ops.linear(f(2, 3), f(3, 4), f()), r"linear: bias \(\) does not fit"),
    (lambda: ops.mlp(f(2, 3), f(3), f(4), f(4, 3), f(3)), "mlp: x .* do not fit"),
    (lambda: ops.mlp(f(2, 3), f(), f(), f(4, 3), f(3)), "mlp: x .* do not fit"),
    (lambda: ops.layernorm(f(), f(1), f(1)), "layernorm: x has no dimensions"),
    (lambda: ops.layernorm(f(2, 3), f(3), f(3), -1.0), "layernorm: eps=-1.0 is not"),
    (lambda: ops.layernorm(f(2, 3), f(3), f(3), math.nan), "layernorm: eps=nan is not"),
    (lambda: ops.softmax(f()), "softmax: x has no dimensions"),
    (lambda: ops.attention(f(2, 9), 1),
     r"attention: qkv has shape \(2, 9\), not \(B, T, 3 n_embd\)"),
    (lambda: ops.attention(f(1, 2, 10), 1), "not .B, T, 3 n_embd"),
    (lambda: ops.attention(f(1, 1, 9), 2), "n_embd=3 is not divisible by n_head=2"),
    (lambda: ops.attention(f(1, 1, 9), 0), "n_head=0 is not a whole number of 1 or more"),
    (lambda: ops.attention(f(1, 1, 9), 1.0), "n_head=1.0 is not a whole number"),
    (lambda: ops.attention(f(1, 1, 9), 1, 0.5), "attention: dropout=0.5 needs a seed"),
    (lambda: ops.attention_cached(f(1, 1, 9), f(1, 4, 3), f(1, 3, 3), 0, 1),
     "keys .* values differ"),
    (lambda: ops.attention_cached(f(2, 1, 9), f(1, 4, 3), f(1, 4, 3), 0, 1), "do not fit qkv"),
    (lambda: ops.attention_cached(f(1, 1, 9), f(1, 4, 2), f(1, 4, 2), 0, 1), "do not fit qkv"),
    (lambda: ops.attention_cached(f(1, 1, 9), f(4, 3), f(4, 3), 0, 1), "do not fit qkv"),
    (lambda: ops.attention_cached(f(1, 2, 9), f(1, 4, 3), f(1, 4, 3), 3, 1), r"3 \+ 2 positions"),
    (lambda: ops.attention_cached(f(1, 2, 9), f(1, 4, 3), f(1, 4, 3), -1, 1), "past=-1 is not"),
    (lambda: ops.attention_cached(f(1, 2, 9), f(1, 4, 3), f(1, 4, 3), 0, 2), "not divisible"),
    (lambda: ops.attention_cached(f(2, 9), f(1, 4, 3), f(1, 4, 3), 0, 1), "qkv has shape"),
    (lambda: ops.embedding(i(1, 2), f(3, 64), f(4, 1)),
     r"wte \(3, 64\) and wpe \(4, 1\) do not fit"),
    (lambda: ops.embedding(i(1, 2), f(3, 4), f(4)), "do not fit"),
    (lambda: ops.embedding(i(1, 2), f(3, 4), f(4, 4), past=-2),
     "past=-2 is not a whole number of 0"),
    (lambda: ops.embedding(i(1, 2), f(3, 4), f(4, 4), past=1.0), "past=1.0 is not a whole number"),
    (lambda: ops.embedding(i(1, 2), f(3, 4), f(4, 4), past=3),
     "5 positions are more than n_positions=4"),
    (lambda: ops.embedding(i(2), f(3, 4)), r"ids have shape \(2,\), not \(B, T\)"),
    (lambda: ops.embedding(i(1, 2), f(3)), r"wte has shape \(3,\), not \(V, C\)"),
    (lambda: ops.dropout(f(1), 1.0, None), r"dropout=1.0 is not in \[0, 1\)"),
    (lambda: ops.dropout(f(1), 1.0 - 2.0 ** -26, SEED), "becomes 1 in single precision"),
    (lambda: ops.layernorm(f(2, 3), f(3), f(3), 1e-50), "eps=1e-50 becomes 0 in single precision"),
    (lambda: ops.layernorm(f(2, 3), f(3), f(3), 1e39), "eps=1e.39 becomes inf in single precision"),
    (lambda: ops.scale(f(2), 1e39), "1e.39 is out of the range of float32"),
    (lambda: ops.shift(f(2), -1e39), "-1e.39 is out of the range of float32"),
    (lambda: ops.cross_entropy(f(2, 3), i(2), 1.5), "ignore_index=1.5 is not a whole number"),
    (lambda: ops.embedding(i(1, 2), *[trained(3, 4)] * 2), "embedding: a tensor is given twice"),
    (lambda: ops.dropout(f(1), math.nan, SEED), r"dropout=nan is not in \[0, 1\)"),
    (lambda: ops.dropout(f(1), 0.5, None), "dropout: dropout=0.5 needs a seed, .* NoneType"),
    (lambda: ops.dropout(f(1), 0.5, 7), "needs a seed, an ops.Seed; it is int"),
    (lambda: ops.dropout(f(1), 0.5, SEED, -1), r"stream=-1 is not a whole number"),
    (lambda: ops.dropout(f(1), 0.5, SEED, 2 ** 64), r"stream=\d+ is not a whole number"),
    (lambda: ops.Seed(-1), r"seed=-1 is not a whole number in \[0, 2\^64\)"),
    (lambda: ops.Seed("x"), "seed='x' is not a whole number"),
    (lambda: ops.cross_entropy(f(2, 3), i(3)), "3 targets for 2 rows of logits"),
    (lambda: ops.cross_entropy(f(), i(1)), "logits has no dimensions"),
    (lambda: ops.linear_cross_entropy(f(2, 3), f(), i(2)), "does not fit weight"),
    (lambda: ops.linear_cross_entropy(f(2, 3), f(4, 3), i(3)), "3 targets for 2 rows"),
    (lambda: Tensor([[1.0], [1.0, 2.0]]), "ragged"),
    (lambda: float(Tensor([1.0, 2.0])), "2 values"),
]


@pytest.mark.parametrize("call, message", MISUSE, ids=[message for _, message in MISUSE])
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# (op, input, dimension) that no other input or argument is tied to
FREE = {("linear", 0, 0), ("mlp", 0, 0), ("matmul", 0, 0), ("matmul", 1, 1),
        ("matmul transposed", 0, 0),
        ("matmul transposed", 1, 0), ("layernorm", 0, 0), ("attention", 0, 0), ("attention", 0, 1),
        ("attention dropped", 0, 0), ("attention dropped", 0, 1), ("embedding", 0, 0),
        ("embedding", 1, 0), ("cross_entropy", 0, 1), ("linear_cross_entropy", 1, 0)}
ANY_SHAPE = {"scale", "shift", "sum", "gelu", "softmax", "dropout"}


@pytest.mark.parametrize("name", [name for name in CASES if "fused" not in name])
def test_every_input_must_be_a_float_tensor_that_fits(name):
    op = name.split()[0]
    shapes, call = CASES[name](random.Random(0), 3, 4, 5)
    good = [f(*shape) for shape in shapes]
    call(*good)
    for k, shape in enumerate(shapes):
        with pytest.raises(ValueError, match=f"{op}: .* is a tensor of int32, not of float32"):
            call(*good[:k], i(*shape), *good[k + 1:])
        with pytest.raises(TypeError, match=f"{op}: .* is of type list, not Tensor"):
            call(*good[:k], [1.0], *good[k + 1:])
        wrong = [(*shape[:d], shape[d] + by, *shape[d + 1:]) for by in (1, -1)
                 for d in range(len(shape)) if (name, k, d) not in FREE]
        for changed in [] if name in ANY_SHAPE else wrong + [(), (*shape, 2, 1, 1)]:
            with pytest.raises(ValueError, match=f"^{op}: "):
                call(*good[:k], f(*changed), *good[k + 1:])


@pytest.mark.parametrize("call", [
    lambda ids: ops.embedding(ids, f(3, 4)),
    lambda ids: ops.cross_entropy(f(1, 2, 3), ids),
    lambda ids: ops.linear_cross_entropy(f(1, 2, 4), f(3, 4), ids),
], ids=["embedding", "cross_entropy", "linear_cross_entropy"])
def test_ids_and_targets_must_be_int_tensors(call):
    call(i(1, 2))
    with pytest.raises(ValueError, match="is a tensor of float32, not of int32"):
        call(f(1, 2))
    with pytest.raises(TypeError, match="is of type list, not Tensor"):
        call([[0, 0]])


def trained(*shape):
    return Tensor(f(*shape).tolist(), requires_grad=True)


def test_what_has_no_gradient_says_so_before_it_computes():
    wte, wpe = trained(3, 4), trained(6, 4)
    with pytest.raises(ValueError, match="wpe has no gradient with past=3"):
        ops.embedding(i(1, 2), wte, wpe, past=3)
    qkv, cache = trained(1, 1, 12), f(1, 2, 4)
    with pytest.raises(ValueError, match="qkv has no gradient"):
        ops.attention_cached(qkv, cache, f(1, 2, 4), 0, 1)
    with no_grad():
        ops.embedding(i(1, 2), wte, wpe, past=3)
        ops.attention_cached(qkv, cache, f(1, 2, 4), 0, 1)
    ops.embedding(i(1, 2), wte, f(6, 4), past=3)


def test_one_tensor_in_two_places_of_a_kernel_is_refused():
    x, v = trained(3, 3), trained(3)
    with pytest.raises(ValueError, match="linear_cross_entropy: a tensor is given twice"):
        ops.linear_cross_entropy(x, x, i(3))
    for inputs in (v, v, f(3)), (v, f(3), v), (f(3), v, v):
        with pytest.raises(ValueError, match="layernorm: a tensor is given twice"):
            ops.layernorm(*inputs)


@pytest.mark.parametrize("loss, shapes", [
    (lambda x, v: ops.sum(ops.layernorm(x, v, v * 2.0)), [(300, 50), (50,)]),
    (lambda x, w: ops.linear_cross_entropy(x, w, i(300)), [(300, 50), (70, 50)]),
], ids=["layernorm", "linear_cross_entropy"])
@pytest.mark.parametrize("wanted", [0, 1])
def test_a_gradient_nobody_wants_goes_to_memory_of_its_own(loss, shapes, wanted, monkeypatch):
    """Every float that a backward kernel writes is in memory that is still somebody's."""
    alive = weakref.WeakSet([ONE.memory])

    class Watched(Memory):
        __slots__ = ()

        def __init__(self, *args):
            super().__init__(*args)
            alive.add(self)

    def call(kernel, args):
        spans = [(address(memory.pointer("f")), memory.nbytes) for memory in alive]
        assert all(any(start <= a < start + n for start, n in spans)
                   for a in map(address, args) if a)
        check(kernel(*args))

    for module in "launch", "tape":
        monkeypatch.setattr(f"pygpt.autograd.{module}.Memory", Watched)
    inputs = [trained(*shape) if k == wanted else f(*shape) for k, shape in enumerate(shapes)]
    with calling(call):
        loss(*inputs).backward()
    assert inputs[wanted].grad is not None


@pytest.mark.parametrize("op", [lambda x, seed: ops.dropout(x, 0.5, seed),
                                lambda x, seed: ops.attention(x, 2, 0.5, seed)])
def test_the_seed_lives_until_the_backward_pass_has_read_it(op):
    seed = ops.Seed(3)
    out, alive = ops.sum(op(trained(1, 4, 12), seed)), weakref.ref(seed)
    del seed
    assert alive()
    out.backward()
    assert not alive()


def test_memoryview_is_the_tensor_itself():
    t = Tensor([[1.0, 2.0], [3.0, 4.0]])
    view = memoryview(t)
    assert (view.shape, view.format, view.tolist()) == ((2, 2), "f", [[1.0, 2.0], [3.0, 4.0]])
    view[1, 0] = 7.0
    assert t.tolist() == [[1.0, 2.0], [7.0, 4.0]]


@pytest.mark.parametrize("nbytes, text", [(2 ** 60, "1,152,921,504,606,846,976 bytes"),
                                          (2 ** 63, "9,223,372,036,854,775,808 bytes"),
                                          (2 ** 70, "1,180,591,620,717,411,303,424 bytes")])
def test_memory_that_cannot_be_had_is_an_error_with_the_bytes(nbytes, text):
    with pytest.raises(MemoryError, match=text):
        Memory(nbytes)


def test_a_shape_whose_size_overflows_is_an_error_with_the_bytes():
    with pytest.raises(MemoryError, match=f"{4 * 3 ** 90:,} bytes"):
        Tensor.empty((3 ** 40, 3 ** 50))


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
