"""Defines the ops that join layers to a graph: arithmetic, sums, reshaping, the matrix product.

Each op checks its arguments, takes memory, launches its kernel, and leaves on the tape a function
`backward(dout)` that launches the kernels of its gradient. Each backward stands directly under its
forward, below the formula of its gradients.
"""

from math import prod

from pygpt.autograd.convert import is_number
from pygpt.autograd.launch import launch
from pygpt.autograd.ops import at_rest
from pygpt.autograd.ops.at_rest import WeightAtRest
from pygpt.autograd.ops.checks import (check, check_floats, check_same_shape, check_whole_number,
                                       give_gradient, rows_of)
from pygpt.autograd.precision import operand_type
from pygpt.autograd.tape import attach
from pygpt.autograd.tensor import Tensor
from pygpt.backend.arguments import shown
from pygpt.backend.kernels import lib


def add(a, b):
    """Return a + b, of one shape."""
    check_floats("add", a=a, b=b)
    check_same_shape("add", "a", a, "b", b)
    # If a is deferred and takes a residual, its kernel also adds b; otherwise the same for b;
    # otherwise add_forward runs.
    residual, deferred = (b, a) if _takes_residual(a) else (a, b)
    if _takes_residual(deferred):
        compute = deferred.deferred.compute
        out = Tensor.deferrable(a.shape, lambda out: compute(out, residual))
    else:
        out = Tensor.empty(a.shape)
        launch(lib.add_forward, out.ptr, a.ptr, b.ptr, out.size)
    nodes = [t.node for t in (a, b) if t.node is not None]

    # da = dout, db = dout
    def backward(dout):
        for node in nodes:
            node.receive(dout)

    return attach(out, (a, b), backward)


def _takes_residual(tensor):
    return tensor.deferred is not None and tensor.deferred.takes_residual


def mul(a, b):
    """Return a * b elementwise, of one shape."""
    check_floats("mul", a=a, b=b)
    check_same_shape("mul", "a", a, "b", b)
    out, n, node_a, node_b = Tensor.empty(a.shape), a.size, a.node, b.node
    launch(lib.mul_forward, out.ptr, a.ptr, b.ptr, n)

    # da = dout b, db = dout a
    def backward(dout):
        for node, other in (node_a, b), (node_b, a):
            give_gradient(node, lambda da, acc: launch(
                lib.mul_backward, da, dout.array.ptr, other.ptr, n, acc))

    return attach(out, (a, b), backward)


def _cell(op, name, value):
    """Return a Tensor that holds one number."""
    if not is_number(value):
        raise TypeError(f"{op}: {name}={shown(value)} is not a number")
    return Tensor(value)


def scale(a, factor):
    """Return a times a number."""
    check_floats("scale", a=a)
    out, c, node = Tensor.empty(a.shape), _cell("scale", "factor", factor), a.node
    check(c.item() or not factor, "scale: factor={!r} becomes 0 in single precision", factor)
    launch(lib.scale_forward, out.ptr, a.ptr, c.ptr, out.size, 0)

    # da = dout factor
    def backward(dout):
        da, acc = node.target()
        launch(lib.scale_forward, da, dout.array.ptr, c.ptr, dout.array.size, acc)

    return attach(out, (a,), backward)


def shift(a, offset):
    """Return a plus a number."""
    check_floats("shift", a=a)
    out, c, node = Tensor.empty(a.shape), _cell("shift", "offset", offset), a.node
    launch(lib.sum_backward, out.ptr, c.ptr, out.size, 0)  # this kernel writes c everywhere
    launch(lib.add_forward, out.ptr, out.ptr, a.ptr, out.size)

    # da = dout
    def backward(dout):
        node.receive(dout)

    return attach(out, (a,), backward)


def sum(a):
    """Return the sum of all values, of shape ()."""
    check_floats("sum", a=a)
    out, node, n = Tensor.empty(()), a.node, a.size
    launch(lib.sum_forward, out.ptr, a.ptr, n)

    # da_i = dout
    def backward(dout):
        da, acc = node.target()
        launch(lib.sum_backward, da, dout.array.ptr, n, acc)

    return attach(out, (a,), backward)


def reshape(a, shape):
    """Return the same values in the same order under another shape, without a copy."""
    check_floats("reshape", a=a)
    check(isinstance(shape, (tuple, list)), "reshape: shape={!r} is not a tuple of lengths", shape)
    shape = tuple(shape)
    for n in shape:
        check_whole_number("reshape", "length", n, 0)
    check(prod(shape) == a.size, "reshape: {} values of shape {} do not fit shape {}", a.size,
          a.shape, shape)
    out, node = Tensor.empty(shape, memory=a.memory, offset=a.offset), a.node

    # da = dout, in the shape of a
    def backward(dout):
        node.receive(dout.viewed_as(node.shape))

    return attach(out, (a,), backward)


def matmul(a, b, transpose_b=False):
    """Return a @ b, or a @ b^T with transpose_b: a (..., K), b (K, N) or (N, K) -> (..., N)."""
    if isinstance(b, WeightAtRest):
        check(transpose_b, "matmul: a weight at rest {} has its outputs as rows: use transpose_b",
              b.shape)
        return at_rest.linear(a, b)
    check_floats("matmul", a=a, b=b)
    check(len(b.shape) == 2, "matmul: the right operand has shape {}, not two dimensions", b.shape)
    M, K = rows_of("matmul", "a", a)
    N = b.shape[0 if transpose_b else 1]
    check(b.shape[1 if transpose_b else 0] == K,
          "matmul: shapes {} and {}{} do not fit", a.shape, b.shape,
          " transposed" if transpose_b else "")
    out, dtype = Tensor.empty((*a.shape[:-1], N)), operand_type()
    launch(lib.matmul, out.ptr, a.ptr, b.ptr, M, N, K, 0, int(transpose_b), 0, dtype)
    node_a, node_b = a.node, b.node

    # da = dout b^T, db = a^T dout. With transpose_b: da = dout b, db = dout^T a.
    def backward(dout):
        d = dout.array.ptr
        left, right, rows, columns = (d, a.ptr, N, K) if transpose_b else (a.ptr, d, K, N)
        give_gradient(node_a, lambda da, acc: launch(
            lib.matmul, da, d, b.ptr, M, K, N, 0, int(not transpose_b), acc, dtype))
        give_gradient(node_b, lambda db, acc: launch(
            lib.matmul, db, left, right, rows, columns, M, 1, 0, acc, dtype))

    return attach(out, (a, b), backward)
