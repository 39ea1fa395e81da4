"""Checks every backward kernel of the reference against central differences in double precision.

test_kernels.py compares the C kernels with the reference, so their gradients rest on this file. A
`_backward` kernel that GRADIENTS leaves out fails a test.
"""

from collections import namedtuple
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelcases import CASES
from kernelcheck import KERNELS, run_reference
from pygpt.backend import reference

# backward undoes forward; `of` maps each gradient to the input it belongs to, and `given` the
# gradient handed in to the output it belongs to.
Gradient = namedtuple("Gradient", "backward forward of given")
OUT = {"dout": "out"}
LOSS = {"dloss": "loss"}
GRADIENTS = [
    Gradient("linear_backward_input", "linear_forward", {"dinp": "inp"}, OUT),
    Gradient("linear_backward_weight", "linear_forward",
             {"dweight": "weight", "dbias": "bias"}, OUT),
    Gradient("attention_backward", "attention_forward", {"dqkv": "qkv"}, OUT),
    Gradient("softmax_backward", "softmax_forward", {"dinp": "inp"}, OUT),
    Gradient("layernorm_backward", "layernorm_forward",
             {"dinp": "inp", "dweight": "weight", "dbias": "bias"}, OUT),
    Gradient("gelu_backward", "gelu_forward", {"dinp": "inp"}, OUT),
    Gradient("embedding_backward", "embedding_forward", {"dwte": "wte", "dwpe": "wpe"}, OUT),
    Gradient("cross_entropy_backward", "cross_entropy_forward", {"dlogits": "logits"}, LOSS),
    Gradient("linear_cross_entropy_backward", "linear_cross_entropy_forward",
             {"dinp": "inp", "dweight": "weight"}, LOSS),
    Gradient("dropout_backward", "dropout_forward", {"dinp": "inp"}, OUT),
    Gradient("mul_backward", "mul_forward", {"da": "a"}, OUT),
    Gradient("sum_backward", "sum_forward", {"dinp": "inp"}, OUT),
]
FORWARD_CASES = {case.kernel: case for case in CASES}
CHOICES = {"dropout": st.sampled_from((0.0, 0.3)), "past": st.just(0), "eps": st.just(1e-5),
           "ignore_index": st.sampled_from((-100, 0))}
NOT_INPUTS = ("pre", "act")  # outputs that may be absent, as they are here

STEP = 2.0 ** -13  # errors of order STEP^2 in the formula, 2^-52 / STEP in the rounding


def test_every_backward_kernel_is_here():
    backward = {name for name in KERNELS if "_backward" in name}
    assert backward == {gradient.backward for gradient in GRADIENTS}


def test_every_gradient_output_is_here():
    for gradient in GRADIENTS:
        outputs = {p.name for p in KERNELS[gradient.backward] if p.output and p.name[0] == "d"}
        assert outputs == set(gradient.of), gradient.backward


@pytest.mark.parametrize("gradient", GRADIENTS, ids=lambda gradient: gradient.backward)
@given(data=st.data())
@settings(max_examples=12)
def test_backward_agrees_with_finite_differences(gradient, data):
    case = FORWARD_CASES[gradient.forward]
    sizes = {name: data.draw(CHOICES.get(name, st.integers(1, 4)), label=name)
             for name in case.sizes}
    args = case.chosen(sizes, absent=NOT_INPUTS)
    outputs = run_reference(gradient.forward, args)
    rng = Random(1)
    cotangents = {d: [rng.gauss(0, 1) for _ in outputs[out]] for d, out in gradient.given.items()}

    found = analytic(gradient, {**args, **case.derive(sizes), **outputs, **cotangents})
    for name, source in gradient.of.items():
        assert len(found[name]) == len(args[source])
        for i, value in enumerate(found[name]):
            expected, allowed = numeric(gradient, args, source, i, cotangents)
            assert abs(value - expected) <= allowed, (
                f"{gradient.backward}: {name}[{i}] is {value!r}, finite differences say "
                f"{expected!r} give or take {allowed:.3g}")


def analytic(gradient, known):
    """Run the backward kernel with arguments taken from `known` by name; return its outputs."""
    args = {}
    for p in KERNELS[gradient.backward]:
        if p.name in gradient.of:
            args[p.name] = [0.0] * len(known[gradient.of[p.name]])
        else:
            args[p.name] = 0 if p.name.startswith("accumulate") else known.get(p.name)
    return run_reference(gradient.backward, args)


def numeric(gradient, args, source, i, cotangents):
    """Return d(sum of cotangent * output) / d args[source][i], and its error bound.

    (f(x+h) - f(x-h)) / 2h has an error of c h^2 + O(h^4); twice the step has 4 c h^2, so the two
    differ by three times the error of the first. Rounding adds some 2^-52 |terms| / h.
    """
    def moved(by):
        changed = {**args, source: [x + by * (k == i) for k, x in enumerate(args[source])]}
        outputs = run_reference(gradient.forward, changed)
        terms = [g * y for d, out in gradient.given.items()
                 for g, y in zip(cotangents[d], outputs[out])]
        return sum(terms), sum(map(abs, terms))

    def slope(h):
        (above, size), (below, _) = moved(h), moved(-h)
        return (above - below) / (2 * h), size

    (near, size), (far, _) = slope(STEP), slope(2 * STEP)
    return near, abs(far - near) + 2.0 ** -49 * (size + 1.0) / STEP


@given(R=st.integers(0, 4), IN=st.integers(0, 4), OUT=st.integers(0, 4))
def test_linear_backward_input_goes_through_a_gelu(R, IN, OUT):
    case = FORWARD_CASES["linear_backward_input"]
    args = case.chosen({"R": R, "IN": IN, "OUT": OUT})
    plain = run_reference(case.kernel, {**args, "pre": None, "act": None})["dinp"]
    expected = [0.0] * len(plain)
    reference.gelu_backward(expected, plain, args["pre"], len(plain), 0)
    found = run_reference(case.kernel, args)
    assert found["dinp"] == expected
    expected = [0.0] * len(plain)
    reference.gelu_forward(expected, args["pre"], len(plain))
    assert found["act"] == expected
