"""Tests operands that lie in memory as bfloat16 (csrc/pygpt.h, operand types).

The rule is that the form of an operand changes no bit: with bfloat16 inputs a kernel computes as
with the same inputs in float32, and a bfloat16 output is the float32 output, rounded.
"""

import contextlib
import math
import random
from array import array

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from models import bits, tiny

from pygpt.autograd import ops
from pygpt.autograd.arrays import deferring
from pygpt.autograd.forward_pass import calling_modules
from pygpt.autograd.launch import calling
from pygpt.autograd.precision import computing_in
from pygpt.autograd.tape import recomputed
from pygpt.autograd.tensor import Tensor
from pygpt.backend.kernels import (BFLOAT16, FLOAT32, INP_BFLOAT16, NULL, OUT_BFLOAT16,
                                   WEIGHT_BFLOAT16, WEIGHT_TRANSPOSED, ffi, lib)
from pygpt.check.calls import THREADS
from pygpt.check.header import KERNELS
from pygpt.check.sets import isas_for, use_isa
from pygpt.check.threads import small_jobs_shared

pytestmark = pytest.mark.skipif(ffi is None, reason="these tests call the C kernels")

few_examples = settings(max_examples=12, suppress_health_check=[
    HealthCheck.function_scoped_fixture])  # the number of threads is set for each example

SMALL = "uint64_t", "int32_t"  # the types of a seed and of targets
MARGIN = 32  # numbers after each output, which no kernel may touch
SIZE = st.integers(1, 40) | st.sampled_from((63, 64, 65, 96))
LONG = SIZE | st.sampled_from((256, 257, 300, 511, 512, 513, 600))  # parts of K: 256 and 512


def halves(values):
    """Return the bits of the values as bfloat16 numbers (test_convert.py tests this kernel)."""
    floats, out = array("f", values), array("H", bytes(2 * len(values)))
    lib.to_bfloat16(ffi.from_buffer("uint16_t[]", out), ffi.from_buffer("float[]", floats),
                    len(values))
    return out


def numbers_of(bits):
    """List the numbers whose bits as bfloat16 these are."""
    out = array("f", bytes(4 * len(bits)))
    lib.from_bfloat16(ffi.from_buffer("float[]", out), ffi.from_buffer("uint16_t[]", bits),
                      len(bits))
    return out.tolist()


class Numbers:
    """Holds numbers in C memory in one of two forms, `shift` numbers from an aligned address."""

    def __init__(self, values, is_half, shift=0):
        self.code, self.n = "H" if is_half else "f", len(values)
        data = halves(values) if is_half else array("f", values)
        ctype = "uint16_t" if is_half else "float"
        self.memory = ffi.new(f"{ctype}[]", shift + self.n + MARGIN)
        self.pointer = self.memory + shift
        self.room = ffi.buffer(self.pointer, (self.n + MARGIN) * data.itemsize)
        self.room[:] = b"\xa5" * len(self.room)
        self.room[:self.n * data.itemsize] = data.tobytes()
        self.end = bytes(self.room[self.n * data.itemsize:])

    def as_half(self):
        """Return the bits of the numbers, rounded to bfloat16."""
        numbers = array(self.code, self.room[:self.n * array(self.code).itemsize])
        return numbers if self.code == "H" else halves(numbers)

    def raw(self):
        assert self.room[-len(self.end):] == self.end, "a kernel wrote past the end"
        return bytes(self.room)


def run(kernels, kernel, args, forms, half, shift=0):
    """Call a kernel; return {name: Numbers} of its pointers.

    Args:
        args: {name: list, number or None}.
        forms: {name: the flag that says that this pointer is bfloat16}.
        half: the names that are.
    """
    memory, call = {}, []
    for p in KERNELS[kernel]:
        value = args[p.name]
        if p.pointer and p.ctype in SMALL and value is not None:
            value = memory[p.name] = ffi.new(f"{p.ctype}[]", value)
        elif p.pointer and value is not None:
            memory[p.name] = Numbers(value, p.name in half, shift)
            value = memory[p.name].pointer
        call.append(NULL if value is None else value)
    if forms:
        call[-1] |= sum({forms[name] for name in half})
    assert getattr(kernels.lib, kernel)(*call) == 0
    return memory


def check(kernels, kernel, args, forms, outputs, shift=0):
    """Compare each choice of forms with float32, on all instruction sets and threads."""
    rounded = {name: numbers_of(halves(args[name])) if name not in outputs
               else args[name] for name in forms}
    args = args | rounded
    present = [name for name in forms if args[name] is not None]
    flags = sorted({forms[name] for name in present})
    for isa in isas_for(BFLOAT16):
        with use_isa(isa), small_jobs_shared():
            kernels.set_num_threads(1)
            wanted = run(kernels, kernel, args, forms, ())
            for chosen in (flags, *([flag] for flag in flags if len(flags) > 1)):
                half = [name for name in present if forms[name] in chosen]
                for threads in THREADS:
                    kernels.set_num_threads(threads)
                    got = run(kernels, kernel, args, forms, half, shift)
                    for p in KERNELS[kernel]:
                        if not p.output or p.name not in got:
                            continue
                        where = f"{kernel} on {isa}, {p.name}, bfloat16: {half}"
                        if p.name in half:
                            got[p.name].raw()
                            assert got[p.name].as_half() == wanted[p.name].as_half(), where
                        else:
                            assert got[p.name].raw() == wanted[p.name].raw(), where


LAYER = {"inp": INP_BFLOAT16, "out": OUT_BFLOAT16, "weight": WEIGHT_BFLOAT16}


def drawn(rng, *lengths):
    return [[rng.gauss(0, 1) for _ in range(n)] for n in lengths]


@given(R=SIZE, IN=LONG, OUT=SIZE, extras=st.integers(0, 7), shift=st.integers(0, 1),
       seed=st.integers(0, 99))
@few_examples
def test_a_layer(kernels, R, IN, OUT, extras, shift, seed):
    inp, weight, bias, residual = drawn(random.Random(seed), R * IN, IN * OUT, OUT, R * OUT)
    args = dict(out=[0.0] * R * OUT, pre=[0.0] * R * OUT if extras & 1 else None, inp=inp,
                weight=weight, bias=bias if extras & 2 else None,
                residual=residual if extras & 4 else None, R=R, IN=IN, OUT=OUT, dtype=BFLOAT16)
    check(kernels, "linear_forward", args, LAYER, ("out",), shift)


@given(R=SIZE, IN=LONG, OUT=SIZE, dtype=st.sampled_from((FLOAT32, BFLOAT16)),
       shift=st.integers(0, 1), seed=st.integers(0, 99))
@example(R=20, IN=1, OUT=33, dtype=FLOAT32, shift=0, seed=0)  # (OUT,1) is also (1,OUT)
@few_examples
def test_a_layer_of_a_transposed_weight(kernels, R, IN, OUT, dtype, shift, seed):
    """With float32 operands too, as a prompt meets a weight at rest."""
    inp, weight, bias, residual = drawn(random.Random(seed), R * IN, IN * OUT, OUT, R * OUT)
    args = dict(out=[0.0] * R * OUT, pre=None, inp=inp, weight=weight, bias=bias,
                residual=residual, R=R, IN=IN, OUT=OUT, dtype=dtype | WEIGHT_TRANSPOSED)
    check(kernels, "linear_forward", args, {"weight": WEIGHT_BFLOAT16}, ("out",), shift)


@pytest.mark.parametrize("sizes", [(100, 600, 200), (1, 800, 33), (65, 1, 520), (33, 513, 40),
                                   (3, 0, 5), (0, 4, 5), (3, 4, 0)])
def test_a_layer_in_many_blocks(kernels, sizes):
    R, IN, OUT = sizes
    inp, weight, bias = drawn(random.Random(1), R * IN, IN * OUT, OUT)
    args = dict(out=[0.0] * R * OUT, pre=None, inp=inp, weight=weight, bias=bias, residual=None,
                R=R, IN=IN, OUT=OUT, dtype=BFLOAT16)
    check(kernels, "linear_forward", args, LAYER, ("out",))


@given(R=SIZE, IN=LONG, OUT=SIZE, seed=st.integers(0, 99))
@few_examples
def test_the_gelu_alone(kernels, R, IN, OUT, seed):
    """Where pre is out itself, in either form, the result is that of a pre of its own."""
    inp, weight = drawn(random.Random(seed), R * IN, IN * OUT)
    args = dict(out=[0.0] * R * OUT, pre=[0.0] * R * OUT, inp=inp, weight=weight, bias=None,
                residual=None, R=R, IN=IN, OUT=OUT, dtype=BFLOAT16)
    for isa in isas_for(BFLOAT16):
        with use_isa(isa):
            wanted = run(kernels, "linear_forward", args, {}, ())["out"].as_half()
            for is_half in False, True:
                out = Numbers(args["out"], is_half)
                memory = [Numbers(x, False) for x in (inp, weight)]
                assert kernels.lib.linear_forward(
                    out.pointer, out.pointer, *(m.pointer for m in memory), NULL, NULL, R, IN, OUT,
                    BFLOAT16 | OUT_BFLOAT16 * is_half) == 0
                out.raw()
                assert out.as_half() == wanted, isa


@given(R=LONG, IN=SIZE, OUT=SIZE, accumulate=st.integers(0, 1), shift=st.integers(0, 1),
       seed=st.integers(0, 99))
@few_examples
def test_the_gradient_of_a_weight(kernels, R, IN, OUT, accumulate, shift, seed):
    inp, dout, dweight, dbias = drawn(random.Random(seed), R * IN, R * OUT, IN * OUT, OUT)
    args = dict(dweight=dweight, dbias=dbias, inp=inp, dout=dout, R=R, IN=IN, OUT=OUT,
                accumulate=accumulate, dtype=BFLOAT16)
    check(kernels, "linear_backward_weight", args, {"inp": INP_BFLOAT16}, (), shift)


@given(R=SIZE, IN=SIZE, OUT=LONG, seed=st.integers(0, 99))
@few_examples
def test_the_gelu_of_the_backward_pass(kernels, R, IN, OUT, seed):
    dout, weight, pre = drawn(random.Random(seed), R * OUT, IN * OUT, R * IN)
    args = dict(dinp=[0.0] * R * IN, act=[0.0] * R * IN, dout=dout, weight=weight, pre=pre, R=R,
                IN=IN, OUT=OUT, accumulate=0, dtype=BFLOAT16)
    check(kernels, "linear_backward_input", args,
          {"act": OUT_BFLOAT16, "weight": WEIGHT_BFLOAT16}, ("act",))


@given(R=SIZE | st.integers(1, 4), IN=SIZE, OUT=LONG, accumulate=st.integers(0, 1),
       shift=st.integers(0, 1), seed=st.integers(0, 99))
@few_examples
def test_the_gradient_of_an_input(kernels, R, IN, OUT, accumulate, shift, seed):
    dout, weight, dinp = drawn(random.Random(seed), R * OUT, IN * OUT, R * IN)
    args = dict(dinp=dinp, act=None, dout=dout, weight=weight, pre=None, R=R, IN=IN, OUT=OUT,
                accumulate=accumulate, dtype=BFLOAT16)
    check(kernels, "linear_backward_input", args, {"weight": WEIGHT_BFLOAT16}, (), shift)


@given(R=SIZE, C=LONG, V=SIZE | st.integers(1, 4), accumulate=st.integers(0, 1),
       shift=st.integers(0, 1), seed=st.integers(0, 99))
@settings(few_examples, max_examples=8)
def test_the_head(kernels, R, C, V, accumulate, shift, seed):
    rng = random.Random(seed)
    inp, weight, dinp, dweight = drawn(rng, R * C, V * C, R * C, V * C)
    inputs = dict(inp=inp, weight=weight, targets=[rng.randrange(V) for _ in range(R)], R=R, C=C,
                  V=V, ignore_index=0)
    outputs, form = dict(loss=[0.0], losses=[0.0] * R), {"weight": WEIGHT_BFLOAT16}
    args = outputs | inputs | dict(dtype=BFLOAT16)
    check(kernels, "linear_cross_entropy_forward", args, form, (), shift)
    args = outputs | dict(dinp=dinp, dweight=dweight, dloss=[0.7]) | inputs | dict(
        accumulate_input=accumulate, accumulate_weight=accumulate, dtype=BFLOAT16)
    check(kernels, "linear_cross_entropy_backward", args, form, (), shift)


@given(n=LONG, part=st.sampled_from((0.0, 0.3, 1.0)), shift=st.integers(0, 1),
       seed=st.integers(0, 99))
@few_examples
def test_adamw_writes_the_new_parameters_as_products_would_round_them(kernels, n, part, shift,
                                                                      seed):
    param, m, v, grad = drawn(random.Random(seed), n, n, n, n)
    args = dict(param=param, half=None, m=m, v=[x * x for x in v], grad=grad,
                settings=[0.1, 0.9, 0.95, 1e-8, 0.1, 0.5, 0.5, 1.0], n=n, n_decay=int(n * part))
    for isa in isas_for(BFLOAT16):
        with use_isa(isa), small_jobs_shared():
            kernels.set_num_threads(1)
            plain = run(kernels, "adamw_step", args, {}, ())
            for threads in THREADS:
                kernels.set_num_threads(threads)
                both = run(kernels, "adamw_step", args | {"half": [0.0] * n}, {}, ("half",), shift)
                for name in "param", "m", "v":
                    assert both[name].raw() == plain[name].raw(), f"{name} on {isa}"
                both["half"].raw()
                assert both["half"].as_half() == plain["param"].as_half(), isa


@pytest.mark.parametrize("value, half", [(float("nan"), 0x7FC0), (3.4e38, 0x7F80),
                                         (-3.4e38, 0xFF80), (-0.0, 0x8000)])
def test_adamw_rounds_special_numbers(kernels, value, half):
    args = dict(param=[value], half=[0.0], m=[0.0], v=[1.0], grad=[0.0],
                settings=[0.0, 0.9, 0.95, 1e-8, 0.1, 0.5, 0.5, 1.0], n=1, n_decay=0)
    for isa in isas_for(BFLOAT16):
        with use_isa(isa):
            got = run(kernels, "adamw_step", args, {}, ("half",))["half"].as_half()[0]
            assert got & ~0x3F == half & ~0x3F, isa  # a NaN may keep more bits


@given(B=st.integers(1, 2), T=SIZE, NH=st.integers(1, 3), HS=st.integers(1, 20) |
       st.sampled_from((32, 33, 64)), dropout=st.sampled_from((0.0, 0.4)), seed=st.integers(0, 99))
@settings(few_examples, max_examples=5)
def test_attention(kernels, B, T, NH, HS, dropout, seed):
    C = NH * HS
    qkv, dout = drawn(random.Random(seed), B * T * 3 * C, B * T * C)
    forms = {"qkv": INP_BFLOAT16, "out": OUT_BFLOAT16}
    sizes = dict(B=B, T=T, C=C, NH=NH, dropout=dropout, seed=[seed, 3], stream=5, dtype=BFLOAT16)
    args = dict(out=[0.0] * B * T * C, lse=[0.0] * B * NH * T, qkv=qkv) | sizes
    check(kernels, "attention_forward", args, forms, ("out",))
    forward = run(kernels, "attention_forward", args, forms, ())
    args = dict(dqkv=[0.0] * B * T * 3 * C, dout=dout, qkv=qkv,
                out=list(forward["out"].pointer[0:B * T * C]),
                lse=list(forward["lse"].pointer[0:B * NH * T])) | sizes
    check(kernels, "attention_backward", args, forms, ())


@given(R=SIZE, C=LONG, seed=st.integers(0, 99))
@few_examples
def test_layernorm(kernels, R, C, seed):
    inp, weight, bias = drawn(random.Random(seed), R * C, C, C)
    args = dict(out=[0.0] * R * C, mean=[0.0] * R, rstd=[0.0] * R, inp=inp, weight=weight,
                bias=bias, R=R, C=C, eps=1e-5, form=0)
    check(kernels, "layernorm_forward", args, {"out": OUT_BFLOAT16}, ("out",))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3.4e38, 1e-39])
def test_special_numbers_are_rounded_alike_in_both_forms(kernels, value):
    x = [value, 1.0, -0.0, 2.0]
    args = dict(out=[0.0] * 4, pre=None, inp=x, weight=[1.0, 0.0, 0.0, 1.0], bias=None,
                residual=None, R=2, IN=2, OUT=2, dtype=BFLOAT16)
    for isa in isas_for(BFLOAT16):
        with use_isa(isa):
            wanted, got = (run(kernels, "linear_forward", args, LAYER, half)["out"].as_half()
                           for half in ((), LAYER))
            assert [is_nan(x) or x for x in wanted] == [is_nan(x) or x for x in got], isa


def is_nan(half):
    return half & 0x7FFF > 0x7F80


# ------------------------------------------------------------------------------------------- ops

def layer():
    rng = random.Random(2)
    x, w, scale, shift = (Tensor([[rng.gauss(0, 1) for _ in range(8)] for _ in range(n)])
                          for n in (5, 8, 1, 1))
    return x, w, ops.reshape(scale, (8,)), ops.reshape(shift, (8,))


def test_a_product_reads_a_deferred_result_as_bfloat16_and_others_read_float32():
    x, w, scale, shift = layer()
    normal = ops.layernorm(x, scale, shift)
    with computing_in("bfloat16"):
        product = ops.linear(normal, w).tolist()
        for product_first in (True, False):
            with deferring():
                y = ops.layernorm(x, scale, shift)
                for reads_product in (product_first, not product_first):
                    if reads_product:
                        assert ops.linear(y, w).tolist() == product
                    else:
                        assert (y * 1.0).tolist() == normal.tolist()
                assert y.half is None  # the float32 values serve every further reader


def test_after_the_pass_a_result_that_was_only_an_operand_is_the_rounded_one():
    x, w, scale, shift = layer()
    with computing_in("bfloat16"), deferring():
        y, never = ops.layernorm(x, scale, shift), ops.layernorm(x, scale, shift)
        ops.linear(y, w).ptr
    wanted = never.flat().tolist()
    x.flat()[0] = 9.0
    assert halves(y.flat()) == halves(wanted) and y.flat().tolist() != wanted
    assert y.flat().tolist() == numbers_of(halves(wanted))


def test_no_result_depends_on_what_else_reads_it_or_when():
    """Some readers come at the end of the block, when others have been computed already."""
    rng = random.Random(3)
    shapes = (1, 5, 8), (8, 24), (8,), (8,), (8, 8)
    leaves = [Tensor([rng.gauss(0, 1) for _ in range(math.prod(shape))], requires_grad=True)
              for shape in shapes]

    def post_norm(x, w, scale, shift, w2):
        h = ops.layernorm(x, scale, shift)
        return ops.linear(ops.attention(ops.linear(h, w), 2), w2) + h

    def dropped(x, w, scale, shift, w2):
        h = ops.layernorm(x, scale, shift)
        a = ops.attention(ops.linear(h, w), 2)
        return ops.dropout(h, 0.3, ops.Seed(1)) + a

    def shared(x, w, scale, shift, w2):  # x has a gradient when the MLP adds its own
        h = ops.layernorm(x, scale, shift)
        return ops.mlp(h, w2, shift, w2, shift) * h + ops.linear(h, w2)

    for program in post_norm, dropped, shared:
        found = []
        for block in contextlib.nullcontext, deferring:
            with computing_in("bfloat16"), block():
                out = program(*(ops.reshape(x, shape) for x, shape in zip(leaves, shapes)))
            ops.sum(out * out).backward()
            found.append([bits(out)] + [bits(x.grad) for x in leaves])
            for x in leaves:
                x.node.valid = False
        assert found[0] == found[1], program.__name__


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", ["layernorm", "attention"])
def test_a_result_that_nobody_reads_has_its_statistics_for_the_backward_pass(op, name):
    """With a frozen weight, no kernel of the second run of recomputed() reads the result."""
    rng = random.Random(4)
    w, scale = (Tensor([rng.gauss(0, 1) for _ in range(n)]) for n in (16, 8))
    w = ops.reshape(w, (8, 2))

    def function(x):
        y = ops.layernorm(x, scale, scale) if op == "layernorm" else ops.attention(x, 2)
        return ops.linear(y, w)

    found = []
    for run_function in function, lambda x: recomputed(function, x):
        x = Tensor([[[rng.gauss(0, 1) for _ in range(8 if op == "layernorm" else 24)]
                     for _ in range(3)]], requires_grad=True)
        rng.seed(5)
        x.flat()[:] = array("f", [rng.gauss(0, 1) for _ in range(x.size)])
        with computing_in(name), deferring():
            out = run_function(x)
        ops.sum(out * out).backward()
        found.append(bits(x.grad))
    assert found[0] == found[1]


def test_in_float32_no_tensor_is_bfloat16():
    x, w, scale, shift = layer()
    with deferring():
        y = ops.layernorm(x, scale, shift)
        ops.linear(y, w).ptr
        assert y.half is None and y.code == "f"


@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_keeps_the_operands_between_its_products_as_bfloat16(recompute):
    model, seen = tiny(n_layer=2), {}
    model.compute_dtype, model.recompute = "bfloat16", recompute

    def call(kernel, args):
        names = [p.name for p in KERNELS[kernel.__name__]]
        flag = {"layernorm_forward": "form"}.get(kernel.__name__, "dtype")
        if flag in names:
            seen.setdefault(kernel.__name__, set()).add(args[names.index(flag)])
        kernel(*args)

    with calling(call):
        model.loss_and_grad([[1, 2, 3]], [[2, 3, 4]])
    both = BFLOAT16 | INP_BFLOAT16 | OUT_BFLOAT16
    assert seen["attention_forward"] == seen["attention_backward"] == {both}
    # qkv and the GELU; the sums with the residual, and the GELU's input for the backward pass
    assert seen["linear_forward"] == {n | WEIGHT_BFLOAT16 for n in (both, BFLOAT16 | INP_BFLOAT16)}
    assert seen["linear_backward_weight"] == {BFLOAT16 | INP_BFLOAT16}
    assert seen["linear_backward_input"] == {
        n | WEIGHT_BFLOAT16 for n in (BFLOAT16, BFLOAT16 | OUT_BFLOAT16)}
    assert seen["layernorm_forward"] == {0, OUT_BFLOAT16}  # 0: that of the head


def test_a_step_whose_results_are_read_one_by_one_gives_the_same_bits():
    """Between calls within calling_modules nothing is deferred, so no tensor is bfloat16."""
    gradients = []
    for block in (lambda: calling_modules(lambda module, inputs: module.forward(*inputs)),
                  lambda: computing_in("bfloat16")):
        model = tiny(n_layer=2)
        model.compute_dtype = "bfloat16"
        with block():
            loss = model.loss([[1, 2, 3, 4]], [[2, 3, 4, 5]])
        loss.backward()
        gradients.append([bits(loss)] + [bits(p.grad) for _, p in model.named_parameters()])
    assert gradients[0] == gradients[1]
