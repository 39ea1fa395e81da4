"""The checks that every op makes of its arguments: kernels trust theirs, except for ids.

A TypeError says which argument is not a Tensor, a ValueError which shape, dtype or number does not
fit. Also the small helpers that ops share.
"""

from math import prod

from pygpt.autograd.launch import launch
from pygpt.autograd.tape import ONE, Leaf, first_gradient_flag
from pygpt.autograd.tensor import Tensor
from pygpt.backend.kernels import NULL, lib


def array_pointer(tensor):
    return NULL if tensor is None else tensor.ptr


def node_of(tensor):
    return None if tensor is None else tensor.node


def check(ok, message, *values):
    if not ok:  # the text is made only then: eager ops are called often
        raise ValueError(message.format(*values))


def check_floats(op, **tensors):
    for name, tensor in tensors.items():
        if not (isinstance(tensor, Tensor) and tensor.code == "f"):
            raise _refusal(tensor, "float32", op, name)


def check_ids(op, **tensors):
    for name, tensor in tensors.items():
        if not (isinstance(tensor, Tensor) and tensor.code == "i"):
            raise _refusal(tensor, "int32", op, name)


def _refusal(value, wanted, op, name):
    if isinstance(value, Tensor):
        return ValueError(f"{op}: {name} is a tensor of code {value.code!r}, not of {wanted}")
    return TypeError(f"{op}: {name} is of type {type(value).__name__}, not Tensor")


def check_whole_number(op, name, value, least):
    check(isinstance(value, int) and value >= least,
          "{}: {}={!r} is not a whole number of {} or more", op, name, value, least)


def check_same_shape(op, name, a, other, b):
    check(a.shape == b.shape, "{}: shapes {} of {} and {} of {} differ", op, a.shape, name,
          b.shape, other)


def refuse_twice(op, *tensors):
    """Refuses the same trained tensor twice: the kernel writes their gradients at the same time."""
    nodes = [t.node for t in tensors if t.node is not None]
    check(len(set(map(id, nodes))) == len(nodes),
          "{}: a tensor is given twice; it can be used in one place only", op)


def rows_of(op, name, x):
    """x (..., C) as rows: how many, and how wide."""
    check(x.shape, "{}: {} has no dimensions", op, name)
    return prod(x.shape[:-1]), x.shape[-1]


def give_gradient(node, gradient_kernel):
    """Have `gradient_kernel(ptr, accumulate)` put a gradient where the node wants it, if any."""
    if node is not None:
        gradient_kernel(*node.target())


def give_gradients(nodes, gradient_kernel):
    """Like give_gradient for a kernel that writes several gradients under one accumulate flag.

    Leaves share a flag where they can. Where the nodes disagree on it, the gradients are made aside
    and handed over.
    """
    wanted = [node for node in nodes if node is not None]
    if not wanted:
        return
    if all(isinstance(node, Leaf) and node.awaits_first_gradient() for node in wanted):
        flag = first_gradient_flag(wanted)
        gradient_kernel([NULL if node is None else node.prepare_gradient() for node in nodes], flag)
        return
    places = [None if node is None else node.target() for node in nodes]
    flags = [place[1] for place in places if place is not None]
    if all(flag == flags[0] and type(flag) is int for flag in flags):
        gradient_kernel([NULL if place is None else place[0] for place in places], flags[0])
        return
    aside = [None if node is None else Tensor.empty(node.shape) for node in nodes]
    gradient_kernel([array_pointer(tensor) for tensor in aside], 0)
    for place, tensor in zip(places, aside):
        if place is not None:
            launch(lib.scale_forward, place[0], tensor.ptr, ONE.ptr, tensor.size, place[1])
