"""Finds the first number of a training step that is not finite, by running the step again.

    each kernel call -> check: are all numbers in its arguments' memory still finite?

The first call that leaves a NaN or an infinity in a block of memory is the cause. The message names
the module that made the call, the argument, and the index in it. A normal run is not slowed down.
"""

import contextlib
import inspect
import math
import weakref

from pygpt.backend import reference
from pygpt.backend.kernels import Memory, address, check, lib
from pygpt.autograd.forward_pass import watching
from pygpt.autograd.launch import calling
from pygpt.autograd.tape import entering_nodes, next_serial


class NonFiniteFound(Exception):
    """Ends the search; args[0] is the message."""


def is_finite(memory, n, offset=0):
    """Whether the n floats at an offset (bytes) of memory hold no NaN and no infinity."""
    return _first_nonfinite(memory, n, offset) is None


def _first_nonfinite(memory, n, offset=0):
    total = Memory(8)
    check(lib.sum_squares(total.pointer("d"), memory.pointer("f", offset), n))
    if math.isfinite(total.view.cast("d")[0]):  # a double holds the sum for any finite floats
        return None
    values = memory.view[offset : offset + 4 * n].cast("f")
    return next((i for i, value in enumerate(values) if not math.isfinite(value)), None)


def locate(model, batches, scale):
    """Runs a step's batches forward and backward, and checks memory after every kernel call.

    Args:
        model: a GPT, with the weights and the random state from before the step. Its gradients are
            marked as invalid.
        batches: a sequence of (ids, targets).
        scale: the factor of the loss, the same as in the step.
    Returns:
        A sentence without a full stop that names the first number that is not finite.
    """
    for name, parameter, offset in model.layout().entries:
        place = _first_nonfinite(model.values(), parameter.size, offset)
        if place is not None:
            return (f"{name} is not finite at index {place} from the beginning: the update before "
                    "was too large")
    watch = _Watch(model)
    _invalidate_gradients(model)
    try:
        with _named_calls(model, watch), calling(watch.call, watch.block):
            for watch.batch, (ids, targets) in enumerate(batches, 1):
                model.loss_and_grad(ids, targets, scale=scale)
    except NonFiniteFound as found:
        return str(found) + (f", batch {watch.batch} of {len(batches)}" if len(batches) > 1 else "")
    finally:
        _invalidate_gradients(model)
    return "all numbers are finite, so look for a fault of the machine"


def _invalidate_gradients(model):
    for _, parameter in model.named_parameters():
        parameter.leaf.valid = False


class _Watch:
    """Checks the memory of each kernel call's arguments after the call."""

    def __init__(self, model):
        # address -> (weak reference to the memory, offset, number of floats, name or None)
        self._blocks = {}
        self.scope, self.phase, self.batch = "", "forward", 0
        model.gradients()
        for name, parameter in model.named_parameters():
            gradient = parameter.leaf.gradient()
            self._register(gradient.memory, gradient.offset, gradient.size,
                           f"the gradient of {name}")

    def block(self, nbytes):
        """Allocates memory for the step, and fills it with zeros."""
        memory = Memory(nbytes)
        memory.view[:] = bytes(nbytes)
        if nbytes:
            self._register(memory, 0, nbytes // 4, None)
        return memory

    def _register(self, memory, offset, n, name):
        start = address(memory.pointer("f", offset))
        weak_memory = weakref.ref(memory, lambda _: self._blocks.pop(start, None))
        self._blocks[start] = weak_memory, offset, n, name

    def _block_at(self, place):
        """Returns the block that contains an address, or None."""
        starts = [start for start in self._blocks if place is not None and start <= place]
        if not starts:
            return None
        start = max(starts)
        return self._blocks[start] if place < start + 4 * self._blocks[start][2] else None

    def call(self, kernel, args):
        """Calls a kernel, and raises NonFiniteFound if it left a number that is not finite."""
        check(kernel(*args))
        for place, argument in enumerate(args):
            block = self._block_at(address(argument))
            if block is None:
                continue
            memory, offset, n, name = block[0](), *block[1:]
            index = _first_nonfinite(memory, n, offset)
            if index is not None:
                value = memory.view[offset : offset + 4 * n].cast("f")[index]
                raise NonFiniteFound(
                    f"the first number that is not finite is {value} at index {index} of "
                    f"{name or _argument_name(kernel, place)}, from {kernel.__name__} in the "
                    f"{self.phase} pass of {self.scope or 'the loss'}")


def _argument_name(kernel, place):
    """Returns the name of a kernel's argument, which is the same in the reference backend."""
    names = list(inspect.signature(getattr(reference, kernel.__name__)).parameters)
    return names[place]


@contextlib.contextmanager
def _named_calls(model, watch):
    """Keeps watch.scope, within the block, at the name of the module that calls the kernels.

    In the backward pass, a node belongs to the innermost module whose call made the node.
    """
    names = {id(module): name for name, module in model.named_modules()}
    calls = []  # (first serial, last serial + 1, name); inner calls come first

    def call_module(module, inputs):
        before, watch.scope = watch.scope, names.get(id(module), "")
        watch.phase, first = "forward", next_serial()
        out = module.forward(*inputs)
        calls.append((first, next_serial(), watch.scope))
        watch.scope = before
        return out

    def enter_node(node):
        watch.phase = "backward"
        watch.scope = next((name for first, end, name in calls if first <= node.serial < end), "")

    with watching(call_module), entering_nodes(enter_node):
        yield
