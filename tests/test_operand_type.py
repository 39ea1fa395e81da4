"""Tests which type of operands ops give to their kernels: that of the forward pass, in both passes.

Every kernel call is watched, and gradients are compared to the bit.
"""

import random
import threading

import pytest
from opvalues import values
from test_ops import CASES as OPS

from pygpt.autograd import ops
from pygpt.autograd.arrays import deferring
from pygpt.autograd.launch import calling
from pygpt.autograd.precision import computing_in, operand_type
from pygpt.autograd.replay import Program
from pygpt.autograd.replay import run as run_calls
from pygpt.autograd.tape import no_grad, recomputed
from pygpt.autograd.tensor import Tensor
from pygpt.backend.kernels import BFLOAT16, FLOAT32
from pygpt.check.header import KERNELS

PRODUCT_OPS = [name for name in OPS if name.split()[0] in (
    "matmul", "linear", "mlp", "attention", "linear_cross_entropy")]
# In which block the forward pass runs, and in which the backward pass.
BLOCKS = [("bfloat16", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")]


def dtypes_of(run):
    """Return the types that the kernels of run() were given."""
    seen = []

    def call(kernel, args):
        names = [p.name for p in KERNELS[kernel.__name__]]
        if "dtype" in names:
            seen.append(args[names.index("dtype")] & BFLOAT16)  # without the forms of tensors
        assert kernel(*args) == 0

    with calling(call):
        run()
    return seen


def made(op):
    """Return the inputs of an op and a function of them."""
    rng = random.Random(1)
    shapes, call = OPS[op](rng, 3, 4, 5)
    inputs = [values(rng, shape) for shape in shapes]
    return [Tensor(x.tolist(), requires_grad=True) for x in inputs], call


def total(out):
    return ops.sum(out * out) if out.shape else out


def test_all_ops_with_products_are_tested():
    """An op that calls a kernel with an operand type is in the list, and no other."""
    for name in OPS:
        inputs, call = made(name)
        assert bool(dtypes_of(lambda: call(*inputs))) == (name in PRODUCT_OPS), name


@pytest.mark.parametrize("forward, backward", BLOCKS)
@pytest.mark.parametrize("again", (False, True), ids=("kept", "recomputed"))
@pytest.mark.parametrize("op", PRODUCT_OPS)
def test_both_passes_use_the_type_of_the_forward_pass(op, again, forward, backward):
    """Wherever the backward pass runs, and also where it computes values again."""
    wanted = BFLOAT16 if forward == "bfloat16" else FLOAT32

    def gradients(backward):
        inputs, call = made(op)

        def run():
            with computing_in(forward):
                if again:
                    loss = total(recomputed(lambda x: call(x, *inputs[1:]), inputs[0]))
                else:
                    loss = total(call(*inputs))
            with computing_in(backward):
                loss.backward()

        seen = dtypes_of(run)
        assert set(seen) == {wanted} and len(seen) > 1
        return [x.grad.tolist() for x in inputs]

    assert gradients(backward) == gradients(forward)


@pytest.mark.parametrize("op", PRODUCT_OPS)
def test_the_types_give_different_results(op):
    """The values are multiples of 2^-12, most of which are no bfloat16 numbers."""
    def run(dtype):
        inputs, call = made(op)
        with computing_in(dtype):
            loss = total(call(*inputs))
        loss.backward()
        return float(loss), [x.grad.tolist() for x in inputs]

    (loss, grads), (rounded_loss, rounded_grads) = run("float32"), run("bfloat16")
    assert loss != rounded_loss and abs(loss - rounded_loss) < 0.1 * (abs(loss) + 1)
    assert all(before != after for before, after in zip(grads, rounded_grads))


def test_a_result_that_is_computed_later_has_the_type_of_its_call():
    x, w = (values(random.Random(i), (5, 5)) for i in (1, 2))
    with computing_in("bfloat16"):
        wanted = ops.linear(x, w).tolist()
    with deferring():
        with computing_in("bfloat16"):
            late = ops.linear(x, w)
        assert late.deferred is not None
        assert dtypes_of(lambda: late.ptr) == [BFLOAT16]
    assert late.tolist() == wanted != ops.linear(x, w).tolist()


def test_a_recorded_pass_is_replayed_with_its_type():
    inputs, call = made("linear")
    program, one = Program(), Tensor(1.0)
    with computing_in("bfloat16"):
        with program.record_forward():
            loss = total(call(*inputs))
    with program.record_backward():
        loss.backward(one)
    first = [x.grad.tolist() for x in inputs]
    for x in inputs:
        x.node.valid = False
    run_calls(program.forward)
    program.run_backward()
    assert [x.grad.tolist() for x in inputs] == first


def test_cached_attention_uses_the_type_in_force():
    qkv, cache = values(random.Random(1), (1, 1, 12)), [Tensor.empty((1, 1, 4)) for _ in "kv"]
    with no_grad(), computing_in("bfloat16"):
        assert dtypes_of(lambda: ops.attention_cached(qkv, *cache, 0, 2)) == [BFLOAT16]


def test_the_block_ends_and_blocks_lie_in_one_another():
    assert operand_type() == FLOAT32
    with computing_in("bfloat16"):
        with computing_in("float32"):
            assert operand_type() == FLOAT32
        with pytest.raises(KeyError):
            with computing_in("float32"):
                raise KeyError
        assert operand_type() == BFLOAT16
    assert operand_type() == FLOAT32


def test_the_type_is_the_thread_s_own():
    seen = []
    with computing_in("bfloat16"):
        thread = threading.Thread(target=lambda: seen.append(operand_type()))
        thread.start()
        thread.join()
        assert (operand_type(), *seen) == (BFLOAT16, FLOAT32)


@pytest.mark.parametrize("name", ["float16", "bf16", "BFLOAT16", "", None, 1, True, b"bfloat16",
                                  ["bfloat16"], {}, "two\nlines"])
def test_another_type_is_refused_by_name(name):
    with pytest.raises(ValueError) as refused:
        computing_in(name)
    assert str(refused.value) == (
        f"compute_dtype={name!r} is neither 'float32' nor 'bfloat16'")
    assert "\n" not in str(refused.value)
    assert operand_type() == FLOAT32
