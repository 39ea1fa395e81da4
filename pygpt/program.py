"""A tape run again: kernel calls bound to memory that was planned once.

The first run is an ordinary one that is listened to. A tensor's memory comes from the program's
pool and goes back to it when the last Python reference to the tensor is gone, so the reference
counts that manage the first run plan the memory of all later ones: a block is used again exactly
where the first run used it again. Later runs are a loop over bound calls; Python allocates nothing
and checks no shape.

Used by step.py. Uses tensor.py and kernels.py.
"""

import contextlib
import functools

from pygpt.kernels import Memory, check
from pygpt.tensor import Arrival, is_watched, listening, new_block


SLAB = 16 << 20  # bytes: of a size that the system backs with huge pages


class Pool:
    """Blocks of memory that are lent to tensors, and lent again when they are given back.

    Small blocks are cut from slabs, so that they come to lie in huge pages too: the activations of
    a small model are thousands of ordinary pages, more than the processor keeps addresses of.
    """

    def __init__(self):
        self.nbytes = 0
        self._free = []                 # (nbytes, memory, offset)
        self._slab, self._used = None, SLAB

    def take(self, nbytes):
        """A block of at least nbytes: the smallest free one that wastes at most a quarter."""
        most = max(nbytes * 4 // 3, 4096)
        fitting = [entry for entry in self._free if nbytes <= entry[0] <= most]
        if fitting:
            entry = min(fitting, key=lambda e: e[0])
            self._free.remove(entry)
        else:
            self.nbytes += nbytes
            entry = (nbytes, *self._cut(nbytes))
        return Loan(self, entry)

    def _cut(self, nbytes):
        """New memory and an offset in it."""
        if nbytes > SLAB // 4 or is_watched():
            return new_block(nbytes), 0
        if self._used + nbytes > SLAB:
            self._slab, self._used = Memory(SLAB), 0
        offset, self._used = self._used, self._used + -(-nbytes // 64) * 64
        return self._slab, offset


class Loan:
    """A pool's block while a tensor uses it."""

    __slots__ = ("_pool", "_entry", "view")

    def __init__(self, pool, entry):
        self._pool, self._entry = pool, entry
        nbytes, memory, offset = entry
        self.view = memory.view[offset:offset + nbytes]

    def pointer(self, code, offset=0):
        """As Memory.pointer."""
        return self._entry[1].pointer(code, self._entry[2] + offset)

    def __del__(self):
        self._pool._free.append(self._entry)


class Program:
    """The calls of one forward and backward pass.

    Attributes:
        forward: every call of the forward pass.
        before_backward: those of it whose results the backward pass does not compute itself.
        backward: the backward pass when the leaves hold no gradients yet.
        backward_again: the same, adding to the gradients they hold.
        recorded: whether the backward pass has been recorded, to its end.
    """

    def __init__(self):
        self.pool = Pool()
        self.forward, self.before_backward = [], []
        self.backward, self.backward_again = [], []
        self.recorded = False

    def record_forward(self):
        """Within the block, kernel calls become the forward pass."""
        return listening(self._forward_call, self.pool)

    @contextlib.contextmanager
    def record_backward(self):
        """Within the block, kernel calls become the backward pass."""
        with listening(self._backward_call, self.pool):
            yield
        self.recorded = True

    def _forward_call(self, kernel, args, again):
        call = functools.partial(kernel, *args)
        self.forward.append(call)
        if again:
            self.before_backward.append(call)

    def _backward_call(self, kernel, args, again):
        def bound(flag):
            return functools.partial(kernel, *(flag if type(a) is Arrival else a for a in args))
        self.backward.append(bound(0))
        self.backward_again.append(bound(1))


def run(calls):
    """Make the calls in order.

    Raises:
        MemoryError, IdRangeError: as the kernels report.
    """
    for call in calls:
        status = call()
        if status:
            check(status)
