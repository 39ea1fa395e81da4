"""Finds the first number of a training step that is not finite, by running the step again.

    each kernel call -> check: are all numbers in its arguments' memory still finite?

The first call that leaves a NaN or an infinity in a block of memory is the cause. The message names
the module that made the call, the argument, and the index in it. A normal run is not slowed down.
"""

import inspect
import math
import weakref

from pygpt.autograd.forward_pass import calling_modules
from pygpt.autograd.launch import calling
from pygpt.autograd.tape import entering_nodes, next_serial
from pygpt.backend import reference
from pygpt.backend.kernels import Memory, address, check_status, lib


NOTHING_FOUND = "all numbers are finite, so look for a fault of the machine"


class NonFiniteFound(Exception):
    """Ends the search; args[0] is the message."""


def first_nonfinite(memory, n, offset=0):
    """Return the index of the first of n floats that is not finite, or None.

    Args:
        memory: a kernels.Memory.
        n: the number of floats.
        offset: the place of the first one, in bytes.
    """
    total = Memory(8)
    check_status(lib.sum_squares(total.pointer("d"), memory.pointer("f", offset), n))
    if math.isfinite(total.view.cast("d")[0]):  # a double holds the sum for any finite floats
        return None
    values = memory.view[offset : offset + 4 * n].cast("f")
    return next((i for i, value in enumerate(values) if not math.isfinite(value)), None)


def locate(model, batches, scale):
    """Run a step's batches forward and backward, and check memory after every kernel call.

    Args:
        model: a GPT, with the weights and the random state from before the step. Its gradients are
            marked as invalid.
        batches: a sequence of (ids, targets).
        scale: the factor of the loss, the same as in the step.
    Returns:
        A sentence without a full stop that names the first number that is not finite.
    """
    for name, parameter, offset in model.layout().entries:
        place = first_nonfinite(model.values(), parameter.size, offset)
        if place is not None:
            return (f"{name} is not finite at index {place} from the beginning: the update before "
                    "was too large")
    watch = _Watch(model)
    model.gradients().forget()
    try:
        with (calling_modules(watch.call_module), entering_nodes(watch.enter_node),
              calling(watch.call, watch.block)):
            for watch.batch, (ids, targets) in enumerate(batches, 1):
                model.loss_and_grad(ids, targets, scale=scale)
    except NonFiniteFound as found:
        return str(found) + (f", batch {watch.batch} of {len(batches)}" if len(batches) > 1 else "")
    finally:
        model.gradients().forget()
    return NOTHING_FOUND


class _Watch:
    """Checks the memory of each kernel call's arguments after the call.

    Attributes:
        scope: the name of the module that calls the kernels. In the backward pass, a node belongs
            to the innermost module whose call made the node.
        phase: "forward" or "backward".
        batch: the number of the batch.
    """

    def __init__(self, model):
        # address -> (weak reference to the memory, offset, number of floats, name or None)
        self._blocks = {}
        self.scope, self.phase, self.batch = "", "forward", 0
        self._names = {id(module): name for name, module in model.named_modules()}
        self._module_calls = []  # (first serial, last serial + 1, name); inner calls come first
        model.gradients()
        for name, parameter in model.named_parameters():
            gradient = parameter.leaf.gradient()
            self._register(gradient.memory, gradient.offset, gradient.size,
                           f"the gradient of {name}")

    def block(self, nbytes):
        """Allocate memory for the step, and fill it with zeros."""
        memory = Memory(nbytes)
        memory.view[:] = bytes(nbytes)
        if nbytes:
            self._register(memory, 0, nbytes // 4, None)
        return memory

    def _register(self, memory, offset, n, name):
        start, _ = address(memory.pointer("f", offset))
        weak_memory = weakref.ref(memory, lambda _: self._blocks.pop(start, None))
        self._blocks[start] = weak_memory, offset, n, name

    def _block_at(self, place):
        """Return the block that contains an address, or None."""
        if place is None:
            return None
        start = max((start for start in self._blocks if start <= place), default=None)
        is_within = start is not None and place < start + 4 * self._blocks[start][2]
        return self._blocks[start] if is_within else None

    def call_module(self, module, inputs):
        """Call a module, within which the kernels' calls are its own."""
        before, self.scope = self.scope, self._names.get(id(module), "")
        self.phase, first = "forward", next_serial()
        out = module.forward(*inputs)
        self._module_calls.append((first, next_serial(), self.scope))
        self.scope = before
        return out

    def enter_node(self, node):
        """Note that the backward pass has come to a node."""
        self.phase = "backward"
        self.scope = next((name for first, end, name in self._module_calls
                           if first <= node.serial < end), "")

    def call(self, kernel, args):
        """Call a kernel, and raise NonFiniteFound if it left a number that is not finite."""
        check_status(kernel(*args))
        for place, argument in enumerate(args):
            start, code = address(argument)
            block = self._block_at(start)
            if block is None:
                continue
            memory, offset, n, name = block[0](), *block[1:]
            if code == "H":  # bfloat16: look at the same numbers in float32
                halves, offset, n = memory.pointer("H", offset), 0, memory.nbytes // 2
                memory = Memory(4 * n)
                check_status(lib.from_bfloat16(memory.pointer("f"), halves, n))
            index = first_nonfinite(memory, n, offset)
            if index is not None:
                twin = getattr(reference, kernel.__name__)  # its arguments have the same names
                name = name or list(inspect.signature(twin).parameters)[place]
                value = memory.view[offset : offset + 4 * n].cast("f")[index]
                raise NonFiniteFound(
                    f"the first number that is not finite is {value} at index {index} of {name}, "
                    f"from {kernel.__name__} in the {self.phase} pass of "
                    f"{self.scope or 'the loss'}")
