"""Finds where a number first stopped being finite, by running a step again and watching it.

    every kernel call -> were its float arguments finite before and are they still?

The first call after which a block of memory holds a NaN or an infinity is the culprit; the module
that made the call, the argument's name and the place in it go into the sentence. Nothing of this
costs a normal run anything. Uses kernels, running, tensor, nn; used by train.
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


class Found(Exception):
    """Ends the watch: args[0] is the sentence."""


def is_finite(memory, n, offset=0):
    """Whether the n floats at an offset (bytes) of memory hold no NaN and no infinity."""
    return _first_bad(memory, n, offset) is None


def _first_bad(memory, n, offset=0):
    total = Memory(8)
    check(lib.sum_squares(total.pointer("d"), memory.pointer("f", offset), n))
    if math.isfinite(total.view.cast("d")[0]):  # of finite floats it is, in double precision
        return None
    values = memory.view[offset : offset + 4 * n].cast("f")
    return next((i for i, value in enumerate(values) if not math.isfinite(value)), None)


def locate(model, batches, scale):
    """Run a step's batches forward and backward, watching every kernel call.

    Args:
        model: a GPT, with the weights and the random state from before the step. It is left
            without gradients.
        batches: sequence of (ids, targets).
        scale: of the loss, as the step had it.
    Returns:
        A sentence without a full stop that names the first number that is not finite.
    """
    for name, parameter, offset in model.layout().entries:
        place = _first_bad(model.values(), parameter.size, offset)
        if place is not None:
            return (f"{name} is not finite at index {place} from the beginning: the update before "
                    "was too large")
    watch = _Watch(model)
    _forget_gradients(model)
    try:
        with _named_calls(model, watch), calling(watch.call, watch.block):
            for watch.batch, (ids, targets) in enumerate(batches, 1):
                model.loss_and_grad(ids, targets, scale=scale)
    except Found as found:
        return str(found) + (f", batch {watch.batch} of {len(batches)}" if len(batches) > 1 else "")
    finally:
        _forget_gradients(model)
    return "all numbers are finite, so look for a fault of the machine"


def _forget_gradients(model):
    for _, parameter in model.named_parameters():
        parameter.leaf.valid = False


class _Watch:
    """Looks at what each kernel call leaves in memory."""

    def __init__(self, model):
        # address -> (a weak reference to memory, offset, floats, name of a parameter's gradient)
        self._blocks = {}
        self.scope, self.phase, self.batch = "", "forward", 0
        model.gradients()
        for name, parameter in model.named_parameters():
            gradient = parameter.leaf.gradient()
            self._note(gradient.memory, gradient.offset, gradient.size, f"the gradient of {name}")

    def block(self, nbytes):
        """New memory for the step, of zeros."""
        memory = Memory(nbytes)
        memory.view[:] = bytes(nbytes)
        if nbytes:
            self._note(memory, 0, nbytes // 4, None)
        return memory

    def _note(self, memory, offset, n, name):
        start = address(memory.pointer("f", offset))
        gone = weakref.ref(memory, lambda _: self._blocks.pop(start, None))
        self._blocks[start] = gone, offset, n, name

    def _block_at(self, place):
        """The block that an address lies in, or None."""
        starts = [start for start in self._blocks if place is not None and start <= place]
        if not starts:
            return None
        start = max(starts)
        return self._blocks[start] if place < start + 4 * self._blocks[start][2] else None

    def call(self, kernel, args):
        check(kernel(*args))
        for place, argument in enumerate(args):
            known = self._block_at(address(argument))
            if known is None:
                continue
            memory, offset, n, name = known[0](), *known[1:]
            index = _first_bad(memory, n, offset)
            if index is not None:
                value = memory.view[offset : offset + 4 * n].cast("f")[index]
                raise Found(f"the first number that is not finite is {value} at index {index} of "
                            f"{name or _argument(kernel, place)}, from {kernel.__name__} in the "
                            f"{self.phase} pass of {self.scope or 'the loss'}")


def _argument(kernel, place):
    """The name of a kernel's argument, which the reference of the same name and order has."""
    names = list(inspect.signature(getattr(reference, kernel.__name__)).parameters)
    return names[place]


@contextlib.contextmanager
def _named_calls(model, watch):
    """Within the block, watch.scope is the name of the module whose kernels are being called.

    In the backward pass a node's module is the innermost one whose call the node was made in.
    """
    names = {id(module): name for name, module in model.named_modules()}
    made_in = []  # (first serial, serial behind the last, name): outer calls end later

    def entered(module, inputs):
        before, watch.scope = watch.scope, names.get(id(module), "")
        watch.phase, first = "forward", next_serial()
        out = module.forward(*inputs)
        made_in.append((first, next_serial(), watch.scope))
        watch.scope = before
        return out

    def entering(node):
        watch.phase = "backward"
        watch.scope = next((name for first, end, name in made_in if first <= node.serial < end), "")

    with watching(entered), entering_nodes(entering):
        yield
