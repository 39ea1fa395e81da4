"""Checks the gradients of random graphs of ops against finite differences.

A graph is a list of steps, each an op on tensors made before it: leaves used twice, views of
gradients, several consumers of one tensor, sums that hand one gradient to two nodes.
"""

import gc
import random
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygpt.autograd import ops
from pygpt.autograd.precision import computing_in
from pygpt.autograd.tape import no_grad, recomputed
from pygpt.autograd.tensor import Tensor

SHAPES = [(2, 3), (3, 2), (6,), (1, 6)]  # six values each, so that any can be seen as any other
LEAVES = 4


def tensor(rng, shape, requires_grad=True):
    flat = Tensor([rng.uniform(-1.0, 1.0) for _ in range(6)])
    out = Tensor.empty(shape)
    out.flat()[:] = flat.flat()
    out.requires_grad = requires_grad
    return out


def row(x):
    return ops.reshape(x, (1, 6))


def matrix(x):
    return ops.reshape(x, (2, 3))


def spread(x):
    """Make (1, 3, 6) of the six values of x: each in three channels, with different factors."""
    wide = ops.matmul(ops.reshape(x, (6, 1)), Tensor([[0.4, 0.3, 0.5]]))
    return ops.reshape(wide, (1, 3, 6))


def mean_everywhere(a, b):
    mean = ops.matmul(matrix(a), Tensor([[0.2]] * 3))
    return ops.matmul(mean, Tensor([[0.2] * 3])) + matrix(b) * 0.5


def square(weight):
    """Make (3, 3) of six values."""
    return ops.matmul(ops.reshape(weight, (3, 2)), Tensor([[0.3, 0.1, 0.2]] * 2))


def linear(x, weight, residual):
    return matrix(residual) + ops.linear(matrix(x), square(weight))


def linear_with_itself(x, weight):
    m = matrix(x)
    return m + ops.linear(m, square(weight))


def again(x, other):
    return recomputed(lambda x: ops.gelu(x) * 0.5
                      + ops.mul(x, ops.reshape(other, x.shape)), x)


# name -> (number of inputs, a function of them). Each result has six values; all are smooth, and
# none grows fast, so that finite differences in single precision tell a wrong gradient.
OPS = {
    "add": (2, lambda a, b: a + ops.reshape(b, a.shape)),
    "sub": (2, lambda a, b: a - ops.reshape(b, a.shape)),
    "mul": (2, lambda a, b: ops.mul(a, ops.reshape(b, a.shape)) * 0.5),
    "double": (1, lambda a: a + a),
    "square": (1, lambda a: a * a * 0.5),
    "scale": (1, lambda a: a * -0.7),
    "shift": (1, lambda a: 0.3 - a),
    "reshape": (1, lambda a: ops.reshape(a, SHAPES[(SHAPES.index(a.shape) + 1) % 4])),
    "mean": (2, mean_everywhere),
    "matmul": (2, lambda a, b: ops.matmul(ops.matmul(matrix(a), matrix(b), True) * 0.3, matrix(b))),
    "gelu": (1, ops.gelu),
    "softmax": (1, lambda a: ops.softmax(matrix(a))),
    "layernorm": (3, lambda a, w, b: ops.layernorm(row(a), ops.reshape(w, (6,)),
                                                   ops.reshape(b, (6,)), 0.5)),
    "linear": (3, linear),
    "linear with itself": (2, linear_with_itself),
    "attention": (1, lambda a: ops.reshape(ops.attention(spread(a), 2), (6,))),
    "recomputed": (2, again),
}


@st.composite
def graphs(draw):
    """Draw (the leaves' seed, the steps as (op, its earlier tensors), the results to sum)."""
    steps = []
    for place in range(draw(st.integers(1, 12))):
        name = draw(st.sampled_from(sorted(OPS)))
        inputs = tuple(draw(st.integers(0, LEAVES + place - 1)) for _ in range(OPS[name][0]))
        steps.append((name, inputs))
    results = draw(st.lists(st.integers(0, LEAVES + len(steps) - 1), min_size=1, max_size=4))
    return draw(st.integers(0, 10 ** 6)), steps, [LEAVES + len(steps) - 1, *results]


def run(leaves, steps, results):
    """Return the scalar that a graph computes from its leaves."""
    made = list(leaves)
    for name, inputs in steps:
        out = OPS[name][1](*(made[i] for i in inputs))
        made.append(out)
    total = None
    for weight, i in enumerate(results, 1):
        part = ops.sum(ops.mul(made[i], made[i])) * 0.25 + ops.sum(made[i]) * (0.5 / weight)
        total = part if total is None else total + part
    return total


def leaves_of(seed):
    rng = random.Random(seed)
    return [tensor(rng, SHAPES[i % 4]) for i in range(LEAVES)]


@given(graphs())
def test_gradients_of_random_graphs_are_those_of_finite_differences(graph):
    seed, steps, results = graph
    leaves = leaves_of(seed)
    run(leaves, steps, results).backward()
    rng = random.Random(seed + 1)
    directions = [[rng.choice((-1.0, 1.0)) for _ in range(6)] for _ in leaves]
    slope = sum(d * g for leaf, direction in zip(leaves, directions) if leaf.grad is not None
                for d, g in zip(direction, leaf.grad.flat()))

    def at(h):
        moved = leaves_of(seed)
        for leaf, direction in zip(moved, directions):
            leaf.flat()[:] = memoryview(bytes(Tensor(
                [x + h * d for x, d in zip(leaf.flat(), direction)]))).cast("f")
        with no_grad():
            return float(run(moved, steps, results))

    # Richardson's extrapolation of central differences leaves errors of h^4 in the formula, and of
    # 2^-24 |f| / h in the rounding of each value.
    h = 2.0 ** -5
    near, far = (at(h) - at(-h)) / (2 * h), (at(2 * h) - at(-2 * h)) / (4 * h)
    expected = (4 * near - far) / 3
    size = abs(at(0.0)) + abs(slope) + 1.0
    spread = abs(near - far)  # of order h^2 times the third derivative
    assert slope == pytest.approx(expected, abs=0.25 * spread + 40 * 2.0 ** -24 / h * size)


def test_a_view_of_a_gradient_is_a_holder_of_its_memory():
    x0, b0 = Tensor([[1.0] * 2] * 2, requires_grad=True), Tensor([1.0] * 4, requires_grad=True)
    x, b = x0 * 1.0, b0 * 1.0
    u = b * 100.0
    s = ops.reshape(x, (4,)) + b
    (ops.sum(s) + ops.sum(u)).backward()
    assert x0.grad.tolist() == [[1.0] * 2] * 2 and b0.grad.tolist() == [101.0] * 4


def test_the_gradient_that_a_caller_hands_over_is_left_alone():
    x, given_ = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0, 4.0])
    y = x * 1.0
    (ops.reshape(y, (1, 2)) + ops.reshape(y, (1, 2))).backward(ops.reshape(given_, (1, 2)))
    assert given_.tolist() == [3.0, 4.0] and x.grad.tolist() == [6.0, 8.0]


def test_a_gradient_may_be_a_row_of_a_larger_tensor():
    x, rows = Tensor([[1.0, 2.0]], requires_grad=True), Tensor([[8.0, 9.0], [3.0, 4.0]])
    ops.reshape(x * 1.0, (2,)).backward(rows.row(1))
    assert x.grad.tolist() == [[3.0, 4.0]]


def test_a_node_that_has_run_lets_its_inputs_go():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x * 2.0
    loss, node = ops.sum(y), weakref.ref(y.node)
    del y
    assert node() is not None
    loss.backward()
    gc.collect()
    assert node() is None


def test_a_gradient_of_ids_is_refused():
    y = Tensor([1.0, 2.0], requires_grad=True) * 2.0
    with pytest.raises(ValueError, match="got a grad of int32, not float32"):
        y.backward(Tensor([1, 1], dtype="int32"))


def test_a_refused_backward_pass_leaves_nothing_behind():
    a, b = Tensor(1.0, requires_grad=True), Tensor(1.0, requires_grad=True)
    z, u = a * 3.0, a * 2.0
    ops.sum(u).backward()
    with pytest.raises(ValueError, match="ran through this graph before"):
        ops.sum(u + z + b * 5.0).backward()
    assert float(a.grad) == 2.0 and b.grad is None
    ops.sum(z).backward()
    assert float(a.grad) == 5.0


def test_a_backward_pass_that_fails_in_the_middle_leaves_no_gradient_on_the_way(monkeypatch):
    a = Tensor([1.0, 2.0], requires_grad=True)
    z = a * 3.0
    w = z * 1.0
    with monkeypatch.context() as patch:
        patch.setattr(w.node, "backward", lambda shared: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ops.sum(w + z).backward()
    assert a.grad is None
    z.backward(Tensor([1.0, 1.0]))
    assert a.grad.tolist() == [3.0, 3.0]


def test_nodes_are_those_of_the_forward_pass():
    t, u = Tensor(2.0, requires_grad=True), Tensor(3.0)
    product = t * u
    u.requires_grad = True
    t.requires_grad = False
    t.requires_grad = True
    product.backward()
    assert float(t.grad) == 3.0 and u.grad is None


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_an_mlp_adds_to_a_gradient_that_its_input_has_already(name):
    rng = random.Random(6)
    weights = [Tensor([[rng.gauss(0, 1) for _ in range(4)] for _ in range(4)]) for _ in range(2)]
    bias = Tensor([0.1, 0.2, 0.3, 0.4])

    def gradient(*losses):
        x = Tensor([[1.0, -2.0, 0.5, 3.0], [0.25, 1.5, -1.0, 2.0]], requires_grad=True)
        with computing_in(name):
            h = x * 1.0
            total = [loss(h) for loss in losses]
        for loss in total[1:]:
            total[0] = total[0] + loss
        total[0].backward()
        return x.grad.tolist()

    def of_mlp(h):
        return ops.sum(ops.mlp(h, weights[0], bias, weights[1], bias))

    def of_square(h):
        return ops.sum(h * h)

    both, mlp, square = gradient(of_mlp, of_square), gradient(of_mlp), gradient(of_square)
    for row, a, b in zip(both, mlp, square):
        assert row == pytest.approx([x + y for x, y in zip(a, b)], rel=1e-5)
