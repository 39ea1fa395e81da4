"""Tests the reference itself: it covers the header, keeps the details of the contracts, and agrees
with answers computed by hand. Needs no C library.
"""

import inspect
import math
from array import array
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draws import drawn
from pygpt.backend import reference
from pygpt.backend.reference.convert import float32
from pygpt.backend.reference.operands import read_operand
from pygpt.backend.reference.random import splitmix64
from pygpt.check.calls import run_reference
from pygpt.check.cases import CASES
from pygpt.check.header import KERNELS, accumulate_flag, declared_kernels, flag_settings

F32, BF16 = reference.PYGPT_FLOAT32, reference.PYGPT_BFLOAT16
# The operands of the kernels that round no others.
OPERANDS = {"matmul": ("a", "b"), "linear_forward": ("inp", "weight"),
            "linear_backward_input": ("dout", "weight"), "linear_backward_weight": ("inp", "dout"),
            "linear_cross_entropy_forward": ("inp", "weight")}

# --------------------------------------------------------------------- the header and the table ---

def test_the_header_declares_what_is_expected():
    assert len(KERNELS) >= 29
    assert [p.name for p in KERNELS["gelu_backward"]] == ["dinp", "dout", "inp", "n", "accumulate"]
    assert [p.output for p in KERNELS["gelu_backward"]] == [True, False, False, False, False]


@pytest.mark.parametrize("kernel", declared_kernels())
def test_every_kernel_of_the_header_is_in_the_reference(kernel):
    function = getattr(reference, kernel, None)
    assert function is not None, f"{kernel} of pygpt.h is missing from pygpt/backend/reference"
    assert list(inspect.signature(function).parameters) == [p.name for p in KERNELS[kernel]]


def test_the_reference_has_no_kernel_of_its_own():
    ours = {name for name, f in vars(reference).items()
            if inspect.isfunction(f) and not name.startswith(("_", "sample_"))}
    assert ours == set(KERNELS)


# ------------------------------------------------------------------------- the contracts' words ---

@pytest.mark.parametrize("case", CASES, ids=str)
@given(data=st.data())
def test_accumulate_overwrites_or_adds(case, data):
    """Overwrite NaN without reading it, and add to numbers."""
    args = data.draw(drawn(case))
    value = run_reference(case.kernel, args, case.inout)
    for flags in flag_settings(case.kernel):
        got = run_reference(case.kernel, {**args, **flags}, case.inout)
        for name, numbers in got.items():
            adds = flags.get(accumulate_flag(case.kernel, name))
            before = args[name] if adds else [0.0] * len(numbers)
            assert numbers == [b + v for b, v in zip(before, value[name])], (name, flags)


@pytest.mark.parametrize("case", [c for c in CASES if c.may_alias], ids=str)
@given(data=st.data())
def test_aliasing_changes_nothing_where_it_is_allowed(case, data):
    args = data.draw(drawn(case))
    for output, shared, bits in case.may_alias:
        if args[shared] is None:
            continue
        for bit in bits:
            flags = {flag: bit for flag in flag_settings(case.kernel)[0]}
            apart = run_reference(case.kernel, {**args, **flags, output: args[shared]})
            both = list(args[shared])
            getattr(reference, case.kernel)(*{**args, **flags, output: both, shared: both}.values())
            assert both == apart[output]


MAKERS = {"list": list, "array": lambda x: array("f", x),
          "memoryview": lambda x: memoryview(array("f", x))}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_tensor_is_anything_flat_that_can_be_indexed(make):
    inp, out = make([1.0, 2.0, 3.0, 4.0]), make([0.0, 0.0])
    weight = make([1.0, -1.0])
    assert reference.linear_forward(out, None, inp, weight, None, None, 2, 2, 1, F32) == 0
    assert list(out) == [-1.0, -1.0]


# ---------------------------------------------------------------------------- answers by hand ---

def outputs(kernel, *inputs, **lengths):
    """Run a kernel whose outputs have these lengths; return them, or the only one."""
    found = {name: [math.nan] * n for name, n in lengths.items()}
    assert getattr(reference, kernel)(*found.values(), *inputs) == 0
    return found if len(found) > 1 else found.popitem()[1]


def test_matmul_by_hand():
    # [1 2; 3 4] [5 6; 7 8] = [19 22; 43 50], with each factor as it is or stored transposed.
    for transpose_a, a in ((0, [1, 2, 3, 4]), (1, [1, 3, 2, 4])):
        for transpose_b, b in ((0, [5, 6, 7, 8]), (1, [5, 7, 6, 8])):
            flags = (transpose_a, transpose_b, 0, F32)
            assert outputs("matmul", a, b, 2, 2, 2, *flags, out=4) == [19, 22, 43, 50]


def test_linear_by_hand():
    # (1, 2) through a column (3, 4) is 11, and with a bias of -10 it is 1; gelu(1) = 0.841192.
    bias, residual = [-10.0], [100.0]
    assert outputs("linear_forward", None, [1.0, 2.0], [3.0, 4.0], bias, None, 1, 2, 1, F32,
                   out=1) == [1.0]
    both = outputs("linear_forward", [1.0, 2.0], [3.0, 4.0], bias, residual, 1, 2, 1, F32,
                   out=1, pre=1)
    assert both["pre"] == [1.0]
    assert both["out"] == pytest.approx([100.84119199])


def test_rounded_operands_by_hand():
    # bfloat16 numbers from 1 on are 2^-7 apart. 1 + 2^-8 and 1 + 3 2^-8 lie half-way, and go to 1
    # and to 1 + 2^-6, whose last bits are 0.
    a = [1 + 2 ** -8, 1 + 3 * 2 ** -8]
    assert outputs("matmul", a, [1.0, 1.0], 1, 1, 2, 0, 0, 0, BF16, out=1) == [2 + 2 ** -6]
    assert outputs("matmul", [1.0], a, 1, 2, 1, 0, 0, 0, BF16, out=2) == [1, 1 + 2 ** -6]
    # A bias, a residual and the gradient of a bias are no operands.
    assert outputs("linear_forward", None, [1.0], a, a, a, 1, 1, 2, BF16, out=2) == [
        1 + 2 * a[0], 1 + 2 ** -6 + 2 * a[1]]
    assert outputs("linear_backward_weight", [1.0], a, 1, 1, 2, 0, BF16, dweight=2, dbias=2) == {
        "dweight": [1, 1 + 2 ** -6], "dbias": a}


def test_rounded_weights_by_hand():
    # With q = 1 and k = (0, 1) the scores of position 1 are 0 and 1, the weights 1 and e. From 2 on
    # bfloat16 numbers are 2^-6 apart: 174 2^-6 = 2.71875 is next to e. Their sum is not rounded.
    qkv, e = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0], math.e
    got = outputs("attention_forward", qkv, 1, 2, 1, 1, 0.0, None, 0, BF16, out=2, lse=2)
    assert got["out"] == pytest.approx([0, 2.71875 / (1 + e)], rel=1e-14)
    assert got["lse"] == pytest.approx([0, math.log(1 + e)], rel=1e-14)
    # Backward with dout = (0, 1): out_1 = 0.73117 is rounded to 187 / 256, which is D. With
    # p = e / (1 + e) = 0.73106 = 187.15 / 256, ds_1 = p (1 - D) = 0.19704 = 201.77 / 1024. Of
    # these, 187 / 256 and 202 / 1024 are next. p_0 = 0.26894 = 137.7 / 512, and
    # ds_0 = -p_0 D = -0.19645 = -201.17 / 1024.
    dqkv = outputs("attention_backward", [0.0, 1.0], qkv, got["out"], got["lse"], 1, 2, 1, 1, 0.0,
                   None, 0, BF16, dqkv=6)
    assert dqkv == [0, -201 / 1024, 138 / 512, 202 / 1024, 202 / 1024, 187 / 256]


def test_rounded_gradients_of_scores_by_hand():
    # One position with p = 1. D is the product of out = 1 with the rounded dout, 1 instead of
    # 1 + 2^-8: with v = 2, ds = 2 - 1 and dq = ds k = 1.
    dqkv = outputs("attention_backward", [1 + 2 ** -8], [0.0, 1.0, 2.0], [1.0], [0.0], 1, 1, 1, 1,
                   0.0, None, 0, BF16, dqkv=3)
    assert dqkv == [1, 0, 1]
    # Three channels, with q . k = 0 and out = 0: ds = dout . v = 1 + 3 2^-8 is rounded to 1 + 2^-6,
    # and then scaled by 1 / sqrt(3).
    q, k, v, dout = [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 3 * 2 ** -8, 0.0]
    dqkv = outputs("attention_backward", dout, q + k + v, [0.0] * 3, [0.0], 1, 1, 3, 1, 0.0, None,
                   0, BF16, dqkv=9)
    ds = (1 + 2 ** -6) / math.sqrt(3)
    assert dqkv == pytest.approx([ds, 0, 0, 0, ds, 0, *dout], rel=1e-14)


@pytest.mark.parametrize("case", [c for c in CASES if c.kernel in OPERANDS], ids=str)
@given(data=st.data())
def test_a_layer_rounds_its_operands_and_nothing_else(case, data):
    args = data.draw(drawn(case))
    names = OPERANDS[case.kernel]
    before = {name: read_operand(args[name], len(args[name]), BF16) for name in names}
    want = run_reference(case.kernel, {**args, **before, "dtype": F32})
    if args.get("dbias"):
        want["dbias"] = run_reference(case.kernel, {**args, "dtype": F32})["dbias"]
    assert run_reference(case.kernel, {**args, "dtype": BF16}) == want


def test_softmax_by_hand():
    assert outputs("softmax_forward", [5.0, 5.0 + math.log(3)], 1, 2, out=2) == pytest.approx(
        [0.25, 0.75])
    assert outputs("softmax_forward", [80.0, -80.0, 1e4, 1e4], 2, 2, out=4) == pytest.approx(
        [1.0, math.exp(-160), 0.5, 0.5])


def test_layernorm_by_hand():
    # (1, 5): mean 3, variance 4, so xhat = (-1, 1); times (10, 20) plus (1, 2).
    got = outputs("layernorm_forward", [1.0, 5.0], [10.0, 20.0], [1.0, 2.0], 1, 2, 0.0, 0,
                  out=2, mean=1, rstd=1)
    assert got == {"out": [-9.0, 22.0], "mean": [3.0], "rstd": [0.5]}
    # A constant row has variance 0, and eps = 1/4 makes rstd = 2.
    got = outputs("layernorm_forward", [7.0, 7.0], [1.0, 1.0], [0.0, 5.0], 1, 2, 0.25, 0,
                  out=2, mean=1, rstd=1)
    assert got == {"out": [0.0, 5.0], "mean": [7.0], "rstd": [2.0]}


def test_gelu_by_hand():
    # tanh is odd, so gelu(x) - gelu(-x) = 0.5 x (1 + t) + 0.5 x (1 - t) = x.
    assert outputs("gelu_forward", [0.0, 1.0, 100.0, -100.0], 4, out=4) == pytest.approx(
        [0.0, 0.8411919906, 100.0, 0.0])
    y = outputs("gelu_forward", [0.7, -0.7], 2, out=2)
    assert y[0] - y[1] == pytest.approx(0.7)


def test_attention_by_hand():
    # Equal keys weigh equally: position i gets the mean of values 0..i, and lse = s + ln(i + 1).
    # With B = 1, T = 3, C = 1, one head, q = 2, k = 3: s = 6.
    qkv = [2.0, 3.0, 10.0, 2.0, 3.0, 20.0, 2.0, 3.0, 60.0]
    got = outputs("attention_forward", qkv, 1, 3, 1, 1, 0.0, None, 0, F32, out=3, lse=3)
    assert got["out"] == pytest.approx([10.0, 15.0, 30.0])
    assert got["lse"] == pytest.approx([6.0, 6.0 + math.log(2), 6.0 + math.log(3)])


def test_scores_are_scaled_by_the_head_not_the_width():
    # Two heads of 4 channels: q = 1, k_0 = 0 and k_1 = 1 give s = (0, 4 / sqrt 4 = 2) at i = 1.
    first, second = [1.0] * 8 + [0.0] * 8 + [0.0] * 8, [1.0] * 8 + [1.0] * 8 + [1.0] * 8
    got = outputs("attention_forward", first + second, 1, 2, 8, 2, 0.0, None, 0, F32, out=16,
                  lse=4)
    assert got["out"][8:] == pytest.approx([math.exp(2) / (1 + math.exp(2))] * 8)


@given(B=st.integers(0, 2), T=st.integers(0, 7), NH=st.integers(1, 3), HS=st.integers(1, 3),
       cut=st.integers(0, 7), dtype=st.sampled_from((F32, BF16)))
def test_cached_attention_is_attention_in_two_parts(B, T, NH, HS, cut, dtype):
    C, cut = NH * HS, min(cut, T)
    rng = Random(7)
    qkv = [rng.gauss(0, 1) for _ in range(B * T * 3 * C)]
    whole = outputs("attention_forward", qkv, B, T, C, NH, 0.0, None, 0, dtype, out=B * T * C,
                    lse=B * NH * T)["out"]
    keys, values = [math.nan] * (B * T * C), [math.nan] * (B * T * C)
    for first, last in ((0, cut), (cut, T)):
        part = [x for b in range(B) for x in qkv[(b * T + first) * 3 * C:(b * T + last) * 3 * C]]
        out = [math.nan] * (B * (last - first) * C)
        reference.attention_cached(out, keys, values, part, [first] * B, B, last - first, C, NH, T,
                                   dtype)
        assert out == [x for b in range(B) for x in whole[(b * T + first) * C:(b * T + last) * C]]


def test_embedding_by_hand():
    # Tokens 2, 0 at positions 1 and 2: rows (5, 6) and (1, 2) plus (30, 40) and (50, 60).
    wte, wpe = [1, 2, 3, 4, 5, 6], [10, 20, 30, 40, 50, 60]
    assert outputs("embedding_forward", [2, 0], wte, wpe, [1], 1, 2, 2, 3, 3, out=4) == [
        35, 46, 51, 62]
    # Two texts of token 0, the second after two old positions.
    assert outputs("embedding_forward", [0, 0], wte, wpe, [0, 2], 2, 1, 2, 3, 3, out=4) == [
        11, 22, 51, 62]
    # Backward, token 1 three times in two rows of two: its gradients add up, and so do positions'.
    got = outputs("embedding_backward", [1.0, 2.0, 3.0, 4.0], [1, 1, 0, 1], 2, 2, 1, 2, 3, 0, 0,
                  dwte=2, dwpe=3)
    assert got == {"dwte": [3.0, 7.0], "dwpe": [4.0, 6.0, 0.0]}


def test_cross_entropy_by_hand():
    # Equal logits: ln V nats. A logit ahead by ln 3 of one other has p = 3/4.
    got = outputs("cross_entropy_forward", [7.0] * 8, [3, 0], 2, 4, -100, loss=1, losses=2)
    assert got["loss"] == pytest.approx([math.log(4)])
    logits, targets = [math.log(3), 0.0], [0]
    got = outputs("cross_entropy_forward", logits, targets, 1, 2, -100, loss=1, losses=1)
    assert got["losses"] == pytest.approx([math.log(4 / 3)])
    assert outputs("cross_entropy_backward", [2.0], logits, targets, 1, 2, -100, 0, dlogits=2) == (
        pytest.approx([-0.5, 0.5]))
    # Of two rows one is ignored: the mean is over the other, and its gradient is the only one.
    logits, targets = [math.log(3), 0.0] * 2, [-100, 0]
    got = outputs("cross_entropy_forward", logits, targets, 2, 2, -100, loss=1, losses=2)
    assert got["losses"] == pytest.approx([0.0, math.log(4 / 3)])
    assert got["loss"] == pytest.approx([math.log(4 / 3)])
    assert outputs("cross_entropy_backward", [2.0], logits, targets, 2, 2, -100, 0, dlogits=4) == (
        pytest.approx([0.0, 0.0, -0.5, 0.5]))
    everything = outputs("cross_entropy_forward", logits, [5, 5], 2, 2, 5, loss=1, losses=2)
    assert everything["loss"] == [0.0]


def test_adamw_by_hand():
    # From moments of 0, mhat = g and vhat = g^2, so the first step is lr times the gradient's sign;
    # the first of the two is decayed by lr * weight_decay as well.
    param, half, m, v = [1.0, 1.0], [0, 0], [0.0, 0.0], [0.0, 0.0]
    settings = [0.01, 0.9, 0.99, 0.0, 0.5, 1 - 0.9, 1 - 0.99, 0.5]
    assert reference.adamw_step(param, half, m, v, [4.0, -4.0], settings, 2, 1) == 0
    assert m == pytest.approx([0.2, -0.2]) and v == pytest.approx([0.04, 0.04])
    assert param == pytest.approx([1.0 - 0.01 - 0.005, 1.0 + 0.01])
    # below 1 a bfloat16 is a multiple of 2^-8, above it of 2^-7: 252.16 and 129.28 of these
    values = [0.0, 0.0]
    reference.from_bfloat16(values, half, 2)
    assert values == [252 / 256, 129 / 128]


def test_moments_below_the_normal_floats_become_zero():
    param, m, v = [1.0], [1.2e-38], [1.2e-38]
    settings = [0.01, 0.9, 0.9, 1e-8, 0.0, 1.0, 1.0, 1.0]
    reference.adamw_step(param, None, m, v, [0.0], settings, 1, 1)
    assert (m, v) == ([0.0], [0.0])


# ------------------------------------------------------------------------------- random numbers ---

def test_the_hash_is_splitmix64():
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # published with the generator
    assert splitmix64(1234567) == 6457827717110365317


@given(st.floats(0, 0.9999999))
def test_a_probability_is_rounded_as_c_rounds_it(p):
    if p > 1e-30:
        assert float32(p) == array("f", [p])[0]


@pytest.mark.parametrize("dropout", (0.1, 0.5, 0.9))
def test_dropout_drops_the_share_it_is_told(dropout):
    R, C = 40, 250
    out = outputs("dropout_forward", [1.0] * (R * C), None, R, C, dropout, [42, 0], 7, out=R * C)
    kept = [x for x in out if x]
    assert set(kept) == {1.0 / (1.0 - float32(dropout))}
    sigma = math.sqrt(R * C * dropout * (1 - dropout))
    assert abs(len(kept) - R * C * (1 - dropout)) < 5 * sigma
    columns = [sum(out[r * C + c] != 0 for r in range(R)) for c in range(C)]
    assert max(columns) - min(columns) > 1  # rows differ
    other = outputs("dropout_forward", [1.0] * (R * C), None, R, C, dropout, [42, 0], 8, out=R * C)
    agree = sum((x != 0) == (y != 0) for x, y in zip(out, other)) / (R * C)
    expected = dropout ** 2 + (1 - dropout) ** 2
    assert abs(agree - expected) < 5 * math.sqrt(expected * (1 - expected) / (R * C))


def test_random_normal_is_normal():
    n = 20000
    x = outputs("random_normal", 2.0, [3], 1, n, out=n)
    spread = [v / 2.0 for v in x]
    assert abs(sum(spread)) < 5 * math.sqrt(n)
    assert abs(sum(v * v for v in spread) - n) < 5 * math.sqrt(2 * n)
    assert abs(sum(a * b for a, b in zip(spread[::2], spread[1::2]))) < 5 * math.sqrt(n / 2)
    within = sum(abs(v) < 1 for v in spread) / n  # erf(1 / sqrt 2) = 0.6827
    assert abs(within - math.erf(1 / math.sqrt(2))) < 5 * 0.4655 / math.sqrt(n)
    assert outputs("random_normal", 2.0, [3], 1, 7, out=7) == x[:7]
