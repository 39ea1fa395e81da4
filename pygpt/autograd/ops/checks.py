"""Checks the arguments of ops, because kernels trust theirs (ids excepted).

A TypeError names the argument that is not a Tensor; a ValueError names the shape, dtype or number
that does not fit. The file also holds the small helpers that ops share.
"""

from itertools import combinations
from math import prod

from pygpt.autograd.arrays import DTYPES
from pygpt.autograd.launch import launch
from pygpt.autograd.tape import ONE, AccumulateFlag, Leaf
from pygpt.autograd.tensor import Tensor
from pygpt.backend.arguments import is_integer, shown
from pygpt.backend.kernels import NULL, lib


def array_pointer(array):
    """Return the pointer of a Tensor, an Array or a Seed; NULL for None."""
    return NULL if array is None else array.ptr


def node_of(tensor):
    return None if tensor is None else tensor.node


class _Value:
    """A value for a message's format: {} writes str() of it, and {!r} shows it in one line."""

    def __init__(self, value):
        self._value = value

    def __str__(self):
        return str(self._value)

    def __repr__(self):
        return shown(self._value)


def check(ok, message, *values):
    if not ok:  # format the text only on failure, because ops are called often
        raise ValueError(message.format(*map(_Value, values)))


def check_floats(op, **tensors):
    """Check that the named arguments of an op are Tensors of float32."""
    _check_dtype(op, tensors, "f")


def check_ids(op, **tensors):
    """Check that the named arguments of an op are Tensors of int32."""
    _check_dtype(op, tensors, "i")


def _check_dtype(op, tensors, code):
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{op}: {name} is of type {type(tensor).__name__}, not Tensor")
        if tensor.code != code:
            raise ValueError(f"{op}: {name} is a tensor of {tensor.dtype}, not of {DTYPES[code]}")


def check_whole_number(op, name, value, least):
    check(is_integer(value) and value >= least,
          "{}: {}={!r} is not a whole number of {} or more", op, name, value, least)


def checked_ignore_index(op, ignore_index):
    """Return ignore_index; raise ValueError if it is not a whole number of 32 bits."""
    check(is_integer(ignore_index) and -2 ** 31 <= ignore_index < 2 ** 31,
          "{}: ignore_index={!r} is not a whole number of 32 bits", op, ignore_index)
    return ignore_index


def check_same_shape(op, name, a, other, b):
    check(a.shape == b.shape, "{}: shapes {} of {} and {} of {} differ", op, a.shape, name,
          b.shape, other)


def refuse_twice(op, **tensors):
    """Refuse the same trained tensor twice: the kernel writes their gradients at the same time."""
    for (name, a), (other, b) in combinations(tensors.items(), 2):
        check(a.node is None or a.node is not b.node,
              "{}: {} and {} are the same trained tensor", op, name, other)


def rows_of(op, name, x):
    """Return (number of rows, width) of x (..., C) seen as rows."""
    check(x.shape, "{}: {} has no dimensions", op, name)
    return prod(x.shape[:-1]), x.shape[-1]


def give_gradient(node, gradient_kernel):
    """Let gradient_kernel(ptr, accumulate) write the gradient of a node, unless node is None."""
    if node is not None:
        gradient_kernel(*node.target())


def give_gradients(nodes, gradient_kernel):
    """Like give_gradient, for a kernel that writes several gradients under one accumulate flag.

    Leaves share a flag where they can. If the nodes need different flags, the kernel writes to
    scratch tensors, which are then added or copied to the nodes' gradients.
    """
    wanted = [node for node in nodes if node is not None]
    if not wanted:
        return
    if all(isinstance(node, Leaf) and node.awaits_first_gradient() for node in wanted):
        flag = AccumulateFlag(wanted)
        flag.zero_missing()
        gradient_kernel([NULL if node is None else node.prepare_gradient() for node in nodes], flag)
        return
    targets = [(NULL, None) if node is None else node.target() for node in nodes]
    flags = [flag for _, flag in targets if flag is not None]
    if all(flag == flags[0] and type(flag) is int for flag in flags):
        gradient_kernel([pointer for pointer, _ in targets], flags[0])
        return
    scratch = [None if node is None else Tensor.empty(node.shape) for node in nodes]
    gradient_kernel([array_pointer(tensor) for tensor in scratch], 0)
    for (pointer, flag), tensor in zip(targets, scratch):
        if tensor is not None:
            launch(lib.scale_forward, pointer, tensor.ptr, ONE.ptr, tensor.size, flag)
