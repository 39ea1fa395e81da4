"""Tests that ops name a misuse: shapes that don't fit, other types, values out of range."""

import math
import random

import pytest
from opvalues import f, i, trained
from test_ops import CASES

from pygpt.autograd import ops
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor

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
    (lambda: ops.embedding(i(1, 2), *[trained(3, 4)] * 2),
     "embedding: wte and wpe are the same trained tensor"),
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


# (op, input, dimension) for each dimension that no other input or argument determines
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
                 for d in range(len(shape)) if (name.removesuffix(" ignored"), k, d) not in FREE]
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


def test_what_has_no_gradient_says_so_before_it_computes():
    wte, wpe = trained(3, 4), trained(6, 4)
    with pytest.raises(ValueError, match="wpe has no gradient with past"):
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
    with pytest.raises(ValueError, match="linear_cross_entropy: x and weight are the same"):
        ops.linear_cross_entropy(x, x, i(3))
    for inputs, names in (((v, v, f(3)), "x and weight"), ((v, f(3), v), "x and bias"),
                          ((f(3), v, v), "weight and bias")):
        with pytest.raises(ValueError, match=f"layernorm: {names} are the same trained tensor"):
            ops.layernorm(*inputs)
