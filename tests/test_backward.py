"""Tests backward() over graphs of ops: its sums, the memory it writes to, and its refusals."""

import weakref
from contextlib import nullcontext

import pytest
from opvalues import f, i, trained

from pygpt.autograd import ops
from pygpt.autograd.arrays import deferring
from pygpt.autograd.launch import calling
from pygpt.autograd.tape import ONE, no_grad
from pygpt.autograd.tensor import Tensor
from pygpt.backend.kernels import Memory, address, check_status


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


@pytest.mark.parametrize("first", ["weight", "bias"])
def test_a_kernel_adds_to_one_gradient_that_is_there_and_begins_the_other(first):
    x = Tensor([[1.0, 2.0]])
    leaves = {"weight": Tensor([[1.0] * 2] * 2, requires_grad=True),
              "bias": Tensor([1.0] * 2, requires_grad=True)}
    for name, leaf in leaves.items():
        ops.sum(leaf * 10.0).backward()
        leaf.node.valid = name == first  # the memory of the other still holds 10
    for _ in range(2):
        ops.sum(ops.linear(x, leaves["weight"], leaves["bias"])).backward()
    before = {"weight": 0.0, "bias": 0.0} | {first: 10.0}
    assert leaves["weight"].grad.tolist() == [[before["weight"] + 2 * row] * 2 for row in (1, 2)]
    assert leaves["bias"].grad.tolist() == [before["bias"] + 2] * 2


@pytest.mark.parametrize("used", ["weight", "bias"])
def test_a_kernel_of_two_gradients_of_which_one_has_come_in_this_pass(used):
    leaves = {"weight": Tensor([[1.0] * 2] * 2, requires_grad=True),
              "bias": Tensor([1.0] * 2, requires_grad=True)}
    given = {name: leaf * 1.0 for name, leaf in leaves.items()}
    y = ops.linear(Tensor([[1.0, 2.0]]), given["weight"], given["bias"])
    (ops.sum(y) + ops.sum(given[used] * 3.0)).backward()  # the last node runs first
    more = {"weight": 0.0, "bias": 0.0} | {used: 3.0}
    assert leaves["weight"].grad.tolist() == [[row + more["weight"]] * 2 for row in (1, 2)]
    assert leaves["bias"].grad.tolist() == [1 + more["bias"]] * 2


@pytest.mark.parametrize("op", [
    lambda x: ops.linear(x, Tensor([[1.0, 2.0], [3.0, 5.0]])), ops.gelu, ops.softmax,
    lambda x: ops.matmul(x, Tensor([[1.0, 2.0], [3.0, 5.0]])), lambda x: ops.scale(x, 2.0),
    lambda x: ops.layernorm(x, Tensor([1.0, 2.0]), Tensor([0.0, 0.0])),
    lambda x: ops.dropout(x, 0.5, ops.Seed(3))])
def test_an_op_adds_to_a_gradient_that_its_input_has_already(op):
    def gradient(*terms):
        x = Tensor([[1.0, -2.0], [0.5, 4.0]], requires_grad=True)
        h = x * 1.0
        total = ops.sum(ops.mul(op(h), Tensor([[1.0, 2.0], [-3.0, 4.0]])))
        for term in terms:
            total = total + ops.sum(h * term)  # its node is newer, so it runs first
        total.backward()
        return [value for row in x.grad.tolist() for value in row]
    assert gradient(8.0) == pytest.approx([value + 8.0 for value in gradient()], rel=1e-6)


def test_a_layer_norm_that_nobody_has_read_has_its_gradient():
    def gradient(*settings):
        x = Tensor([[1.0, -2.0, 4.0]], requires_grad=True)
        with deferring(*settings) if settings else nullcontext():
            y = ops.layernorm(x, Tensor([1.0, 2.0, 3.0]), Tensor([0.0] * 3))
            y.backward(Tensor([[1.0, 5.0, -2.0]]))
        return x.grad.tolist()
    assert gradient(False) == gradient()


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


@pytest.mark.parametrize("loss, shapes", [
    (lambda x, v: ops.sum(ops.layernorm(x, v, v * 2.0)), [(300, 50), (50,)]),
    (lambda x, w: ops.linear_cross_entropy(x, w, i(300)), [(300, 50), (70, 50)]),
], ids=["layernorm", "linear_cross_entropy"])
@pytest.mark.parametrize("wanted", [0, 1])
def test_a_gradient_nobody_wants_goes_to_memory_of_its_own(loss, shapes, wanted, monkeypatch):
    """A backward kernel gets only pointers into memory that is still in use."""
    alive = weakref.WeakSet([ONE.memory])

    class Watched(Memory):
        __slots__ = ()

        def __init__(self, *args):
            super().__init__(*args)
            alive.add(self)

    def call(kernel, args):
        spans = [(address(memory.pointer("f"))[0], memory.nbytes) for memory in alive]
        assert all(any(start <= place < start + n for start, n in spans)
                   for place, _ in map(address, args) if place)
        check_status(kernel(*args))

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
