"""Tests products of few rows (few_rows.c, few_across.inl): that the way a weight is read changes
no bit, and that rows do not meet.

test_kernels.py has sizes, threads, margins and error bounds. Needs the built library.
"""

import math
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pygpt.backend import reference
from pygpt.backend.kernels import BFLOAT16, FLOAT32, WEIGHT_TRANSPOSED, ffi, use_caches
from pygpt.check.calls import CCall, run_everywhere
from pygpt.check.header import KERNELS

pytestmark = pytest.mark.skipif(ffi is None, reason="these tests call the C kernels")

few = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = st.integers(1, reference.PYGPT_FEW_ROWS)
SIZE = st.integers(1, 40) | st.sampled_from((63, 64, 65, 96, 100))
LONG = SIZE | st.sampled_from((767, 768, 769, 1600))  # parts of K: 768


def second_level(nbytes):
    """Let L2 have this size: a weight that it cannot hold is read across."""
    return use_caches(32 << 10, nbytes)


def outputs(kernels, kernel, args):
    """Yield (isa, {output: bytes}) on every instruction set."""
    args = {p.name: args[p.name] for p in KERNELS[kernel]}
    for isa, got in run_everywhere(kernels, CCall(kernels, kernel, args), {}):
        yield isa, {name: x.raw() for name, x in got.items()}


def drawn(seed, *lengths):
    rng = Random(seed)
    return [[rng.gauss(0, 1) for _ in range(n)] for n in lengths]


@few
@given(R=ROWS, IN=LONG, OUT=SIZE, extras=st.integers(0, 7), seed=st.integers(0, 99))
@example(R=1, IN=1600, OUT=33, extras=7, seed=0)
@example(R=16, IN=769, OUT=17, extras=5, seed=0)
def test_reading_a_weight_across_changes_no_bit_of_a_layer(kernels, R, IN, OUT, extras, seed):
    inp, weight, bias, residual = drawn(seed, R * IN, IN * OUT, OUT, R * OUT)
    args = dict(out=[0.0] * R * OUT, pre=[0.0] * R * OUT if extras & 1 else None, inp=inp,
                weight=weight, bias=bias if extras & 2 else None,
                residual=residual if extras & 4 else None, R=R, IN=IN, OUT=OUT, dtype=FLOAT32)
    with second_level(1 << 30):
        packed = list(outputs(kernels, "linear_forward", args))
    with second_level(4):
        assert list(outputs(kernels, "linear_forward", args)) == packed


@few
@given(M=ROWS, K=st.integers(0, 40) | st.just(1600), N=SIZE, accumulate=st.booleans(),
       seed=st.integers(0, 99))
def test_reading_a_factor_across_changes_no_bit_of_a_product(kernels, M, K, N, accumulate, seed):
    a, b, out = drawn(seed, M * K, K * N, M * N)
    args = dict(out=out, a=a, b=b, M=M, N=N, K=K, transpose_a=0, transpose_b=0,
                accumulate=int(accumulate), dtype=FLOAT32)
    with second_level(1 << 30):
        packed = list(outputs(kernels, "matmul", args))
    with second_level(4):
        assert list(outputs(kernels, "matmul", args)) == packed


@few
@given(R=ROWS, IN=LONG, OUT=SIZE, is_transposed=st.booleans(),
       dtype=st.sampled_from((FLOAT32, BFLOAT16)), seed=st.integers(0, 99))
@example(R=16, IN=1600, OUT=50, is_transposed=True, dtype=FLOAT32, seed=0)
def test_a_row_among_others_has_the_bits_that_it_has_alone(kernels, R, IN, OUT, is_transposed,
                                                           dtype, seed):
    inp, weight, bias = drawn(seed, R * IN, IN * OUT, OUT)

    def layer(rows):
        n = len(rows) // IN
        return outputs(kernels, "linear_forward", dict(
            out=[0.0] * n * OUT, pre=None, inp=rows, weight=weight, bias=bias, residual=None, R=n,
            IN=IN, OUT=OUT, dtype=dtype | (WEIGHT_TRANSPOSED if is_transposed else 0)))

    with second_level(4):
        together = list(layer(inp))
        for r in {0, R // 2, R - 1}:
            for (isa, alone), (_, all_rows) in zip(layer(inp[r * IN:(r + 1) * IN]), together):
                row = all_rows["out"][4 * r * OUT:4 * (r + 1) * OUT]
                assert row == alone["out"][:4 * OUT], (isa, r)


@pytest.mark.parametrize("is_transposed", (False, True))
def test_a_nan_stays_in_its_row(kernels, is_transposed):
    R, IN, OUT = 9, 70, 20
    inp, weight = drawn(1, R * IN, IN * OUT)
    inp[4 * IN + 69] = math.nan
    args = dict(out=[0.0] * R * OUT, pre=None, inp=inp, weight=weight, bias=None, residual=None,
                R=R, IN=IN, OUT=OUT, dtype=WEIGHT_TRANSPOSED if is_transposed else FLOAT32)
    args = {p.name: args[p.name] for p in KERNELS["linear_forward"]}
    with second_level(4):
        for isa, got in run_everywhere(kernels, CCall(kernels, "linear_forward", args), {}):
            found = [math.isnan(x) for x in got["out"].values()]
            assert found == [r == 4 for r in range(R) for _ in range(OUT)], isa
