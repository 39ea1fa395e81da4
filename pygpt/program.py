"""A tape run again: kernel calls bound to memory that was planned once.

The first run is an ordinary one that is listened to. A tensor's memory comes from the program's
pool and goes back to it when the last Python reference to the tensor is gone, so the reference
counts that manage the first run plan the memory of all later ones: a block is used again exactly
where the first run used it again. Later runs are a loop over bound calls; Python allocates nothing
and checks no shape.

Used by step.py. Uses running.py, tensor.py and kernels.py.
"""

import contextlib
import functools

from pygpt.kernels import Memory, check
from pygpt.running import is_watched, listening, new_block
from pygpt.tensor import Arrival


SLAB = 16 << 20  # bytes: of a size that the system backs with huge pages


class Pool:
    """Memory that is lent to tensors, and lent again when they give it back.

    What comes back joins its free neighbours, and a tensor gets a part of the smallest free range
    that holds it: so the memory of what lived only during the forward pass serves the backward one
    whatever the sizes. Small tensors are cut from slabs, so that they come to lie in huge pages
    too: the activations of a small model are thousands of ordinary pages, more than the processor
    keeps addresses of.

    Attributes:
        nbytes: how much it has taken from the system to lend: all but the last slab's end.
    """

    def __init__(self):
        self.nbytes = 0
        self._free = []                 # (nbytes, memory, offset), none touching another
        self._returned = []             # the same, not yet joined with their neighbours
        self._slab, self._used = None, SLAB

    def take(self, nbytes):
        """Memory of nbytes for as long as the Loan lives."""
        nbytes = -(-nbytes // 64) * 64
        while self._returned:
            self._join(*self._returned.pop())
        alone = is_watched()            # then tensors share blocks only one after another
        fitting = [entry for entry in self._free
                   if entry[0] == nbytes or entry[0] > nbytes and not alone]
        if fitting:
            entry = min(fitting, key=lambda e: e[0])
            self._free.remove(entry)
            size, memory, offset = entry
            if size > nbytes:
                self._free.append((size - nbytes, memory, offset + nbytes))
        else:
            self.nbytes += nbytes
            memory, offset = self._cut(nbytes, alone)
        return Loan(self._returned, nbytes, memory, offset)

    def _join(self, nbytes, memory, offset):
        """Let a range be free, as one with the free ranges that touch it."""
        for entry in list(self._free):
            size, other, start = entry
            if other is memory and start in (offset - size, offset + nbytes):
                self._free.remove(entry)
                nbytes, offset = nbytes + size, min(offset, start)
        self._free.append((nbytes, memory, offset))

    def _cut(self, nbytes, alone):
        """New memory and an offset in it."""
        if nbytes > SLAB // 4 or alone:
            return new_block(nbytes), 0
        if self._used + nbytes > SLAB:
            rest = SLAB - self._used    # the slab's end is lent later, to what fits in it
            if rest:
                self.nbytes += rest
                self._returned.append((rest, self._slab, self._used))
            self._slab, self._used = new_block(SLAB), 0
        offset, self._used = self._used, self._used + nbytes
        return self._slab, offset


class Loan:
    """A part of a pool's memory while a tensor uses it."""

    __slots__ = ("_returned", "_entry", "view")

    def __init__(self, returned, nbytes, memory, offset):
        self._returned, self._entry = returned, (nbytes, memory, offset)
        self.view = memory.view[offset:offset + nbytes]

    def pointer(self, code, offset=0):
        """As Memory.pointer."""
        return self._entry[1].pointer(code, self._entry[2] + offset)

    def __del__(self):  # in any thread, at any moment: an append is all that it may do
        self._returned.append(self._entry)


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
