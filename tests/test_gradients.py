"""Checks every backward kernel of the reference against central differences in double precision.

test_kernels.py compares the C kernels with the reference, so their gradients rest on this file. A
`_backward` kernel that GRADIENTS leaves out fails a test. pygpt/check/gradients.py has the bounds.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from draws import strategy
from pygpt.backend import reference
from pygpt.check.calls import run_reference
from pygpt.check.gradients import (BF16, F32, FORWARD_CASES, GRADIENTS, differences, sizes_of,
                                   types_of)
from pygpt.check.header import KERNELS


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
    compare(gradient, data, F32)


@pytest.mark.parametrize("gradient", [g for g in GRADIENTS if types_of(g)[1:]],
                         ids=lambda gradient: gradient.backward)
@given(data=st.data())
@settings(max_examples=12)
def test_rounded_backward_agrees_with_finite_differences(gradient, data):
    compare(gradient, data, BF16)


def compare(gradient, data, dtype):
    sizes = {name: data.draw(strategy(values), label=name)
             for name, values in sizes_of(gradient).items()}
    for d in differences(gradient, sizes, dtype):
        assert abs(d.value - d.expected) <= d.allowed, (
            f"{gradient.backward}: {d.output}[{d.index}] is {d.value!r}, finite differences say "
            f"{d.expected!r} give or take {d.allowed:.3g}")


@given(R=st.integers(0, 4), IN=st.integers(0, 4), OUT=st.integers(0, 4),
       dtype=st.sampled_from((F32, BF16)))
def test_linear_backward_input_goes_through_a_gelu(R, IN, OUT, dtype):
    case = FORWARD_CASES["linear_backward_input"]
    args = case.chosen({"R": R, "IN": IN, "OUT": OUT, "dtype": dtype})
    plain = run_reference(case.kernel, {**args, "pre": None, "act": None})["dinp"]
    expected = [0.0] * len(plain)
    reference.gelu_backward(expected, plain, args["pre"], len(plain), 0)
    found = run_reference(case.kernel, args)
    assert found["dinp"] == expected
    expected = [0.0] * len(plain)
    reference.gelu_forward(expected, args["pre"], len(plain))
    assert found["act"] == expected
