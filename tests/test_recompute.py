"""tensor.recomputed: a function run again in the backward pass changes no bit of any number."""

import random

import pytest

from pygpt import ops
from pygpt.program import Program
from pygpt.program import run as run_calls
from pygpt.tensor import Tensor, no_grad, recomputed

def bits(tensor):
    return None if tensor is None else bytes(tensor.flat().cast("B"))


# ------------------------------------------------------------------------------------ recomputed --

def tensor(rng, *shape, requires_grad=True):
    def lists(shape):
        return [lists(shape[1:]) for _ in range(shape[0])] if shape else rng.gauss(0, 1)
    return Tensor(lists(shape), requires_grad)


@pytest.mark.parametrize("place", ["leaf", "no gradient", "node", "node used elsewhere"])
def test_the_gradients_are_those_of_the_function_itself(place):
    def run(wrap):
        rng = random.Random(5)
        x = tensor(rng, 4, 6, requires_grad=place != "no gradient")
        weight, bias, shift = tensor(rng, 6, 6), tensor(rng, 6), tensor(rng, 6)
        outside = tensor(rng, 4, 6)
        y, z = outside * 2.0, outside * 1.5

        def function(x, tape_only=False):
            h = ops.gelu(ops.linear(ops.layernorm(x, bias, shift), weight, bias, x))
            return h * y * z + x

        inp = x * 3.0 if "node" in place else x
        out = wrap(function, inp) * outside + y
        if place == "node used elsewhere":
            out = out + inp + ops.gelu(inp)
        loss = ops.sum(out * out) + ops.sum(weight * weight)
        loss.backward()
        return float(loss), [bits(t.grad) for t in (x, weight, bias, shift, outside)]

    assert run(recomputed) == run(lambda function, x: function(x))


def test_what_needs_no_gradient_gets_no_node():
    def double(x, tape_only=False):
        return x * 2.0

    x = Tensor([1.0, 2.0])
    assert recomputed(double, x).node is None
    weight = Tensor([1.0, 2.0], requires_grad=True)
    with no_grad():
        assert recomputed(double, weight).node is None
    assert recomputed(double, weight).tolist() == [2.0, 4.0]


def test_one_inside_another():
    calls = []

    def inner(x, tape_only=False):
        calls.append("inner again" if tape_only else "inner")
        return x * x

    def outer(x, tape_only=False):
        calls.append("outer again" if tape_only else "outer")
        return recomputed(inner, recomputed(inner, x))

    x = Tensor(2.0, requires_grad=True)
    recomputed(outer, x).backward()
    assert float(x.grad) == 4 * 2.0 ** 3
    assert calls == ["outer", "inner", "inner", "outer again", "inner", "inner", "inner again",
                     "inner again"]


def test_a_recorded_pass_knows_which_gradient_is_the_first():
    rng = random.Random(6)
    x, weight = tensor(rng, 5), tensor(rng, 5)
    program, one = Program(), Tensor(1.0)
    with program.record_forward():
        y = recomputed(lambda x, tape_only=False: x * weight, x * weight)
        loss = ops.sum(y * weight)
    with program.record_backward():
        loss.backward(one)
    first = bits(weight.grad), bits(x.grad)
    run_calls(program.forward + program.backward)
    assert (bits(weight.grad), bits(x.grad)) == first


def test_it_runs_backward_once_and_within_no_grad():
    x = Tensor(3.0, requires_grad=True)
    y = recomputed(lambda x, tape_only=False: x * x, x)
    with no_grad():
        y.backward()
    assert float(x.grad) == 6.0
    with pytest.raises(ValueError, match="ran through this graph before"):
        y.backward()
