"""Records the kernel calls of one training step and replays them on memory that was planned once.

The first run is an ordinary run whose calls are recorded. A tensor's memory comes from the
program's pool and goes back to it when the last Python reference to the tensor is gone. So the
reference counts of the first run plan the memory of all later runs: a block is used again exactly
where the first run used it again. Later runs are a loop over bound calls, in which Python allocates
nothing and checks no shape.

Work that Python does itself would be missing from a replay. So values that Python writes lie
outside the pool (launch.constant), and a program is marked as not replayable if Python reads or
writes memory of the pool during recording.

Without reference counts, as in PyPy, memory would come back only when the garbage collector runs:
a program would be right, and hold every tensor of the step at once. So nothing is recorded there.
"""

import bisect
import contextlib
import functools
import sys
from math import prod

from pygpt.autograd.launch import is_recording, new_block, recording
from pygpt.autograd.tape import AccumulateFlag
from pygpt.backend.kernels import address, check_status


COUNTS_REFERENCES = sys.implementation.name == "cpython"  # whether a first run can plan memory

SLAB = 16 << 20  # bytes, a size that the system backs with huge pages
LINE = 64        # bytes: a cache line and the widest vector; every range begins at a multiple


class Pool:
    """Lends memory to tensors, and lends it again when they give it back.

    A range that is returned is joined with its free neighbours, and a tensor gets a part of the
    smallest free range that holds it. So memory that was used only in the forward pass serves the
    backward pass, whatever the sizes. Small tensors are cut from slabs, so that they lie in huge
    pages too: the activations of a small model fill thousands of ordinary pages, and the processor
    keeps the addresses of fewer.

    Attributes:
        nbytes: the number of bytes taken from the system, without the unused end of the last slab.
        is_touched: whether Python has read or written lent memory while calls were recorded.
    """

    def __init__(self):
        self.nbytes, self.is_touched = 0, False
        self._kept = []                 # memory that is not lent, but is read by the calls
        self._free = []                 # (nbytes, memory, offset); no two of them touch
        self._returned = []             # the same, but not yet joined with their neighbours
        self._slab, self._used = None, SLAB

    def keep(self, memory):
        """Keep memory that was not lent alive as long as the pool lives."""
        self._kept.append(memory)

    def take(self, nbytes):
        """Lend nbytes of memory for as long as the Loan lives."""
        nbytes = -(-nbytes // LINE) * LINE
        while self._returned:
            self._join(*self._returned.pop())
        fitting = [entry for entry in self._free if entry[0] >= nbytes]
        if fitting:
            entry = min(fitting, key=lambda e: e[0])
            self._free.remove(entry)
            size, memory, offset = entry
            if size > nbytes:
                self._free.append((size - nbytes, memory, offset + nbytes))
        else:
            self.nbytes += nbytes
            memory, offset = self._new_range(nbytes)
        return Loan(self, nbytes, memory, offset)

    def _join(self, nbytes, memory, offset):
        """Join a range with the free ranges that touch it, and add the result to them."""
        for entry in list(self._free):
            size, other, start = entry
            if other is memory and start in (offset - size, offset + nbytes):
                self._free.remove(entry)
                nbytes, offset = nbytes + size, min(offset, start)
        self._free.append((nbytes, memory, offset))

    def _new_range(self, nbytes):
        """Return memory that was never lent, and an offset in it."""
        if nbytes > SLAB // 4:
            return new_block(nbytes), 0
        if self._used + nbytes > SLAB:
            rest = SLAB - self._used    # the slab's end is lent later, to a tensor that fits
            if rest:
                self.nbytes += rest
                self._returned.append((rest, self._slab, self._used))
            self._slab, self._used = new_block(SLAB), 0
        offset, self._used = self._used, self._used + nbytes
        return self._slab, offset


class Loan:
    """A part of a pool's memory that a tensor is using."""

    __slots__ = ("_pool", "_returned", "_entry")

    def __init__(self, pool, nbytes, memory, offset):
        self._pool, self._returned = pool, pool._returned
        self._entry = nbytes, memory, offset

    @property
    def view(self):
        """Like Memory.view. While the pool's program is recording, it marks the pool."""
        if is_recording(self._pool):
            self._pool.is_touched = True
        nbytes, memory, offset = self._entry
        return memory.view[offset:offset + nbytes]

    def pointer(self, code, offset=0):
        """Like Memory.pointer."""
        return self._entry[1].pointer(code, self._entry[2] + offset)

    def __del__(self):  # runs in any thread at any moment, so it may do no more than append
        self._returned.append(self._entry)


class Program:
    """Records the kernel calls of one forward and one backward pass, and replays them.

    Attributes:
        pool: the Pool that lends the memory that the calls write to.
        forward: every call of the forward pass.
        forward_in_training: the calls of it that are needed when the backward pass follows.
        recorded: whether the backward pass has been recorded to its end.
        leaves: the Leafs that get a gradient from the backward pass.
    """

    def __init__(self):
        self.pool = Pool()
        self.forward, self.forward_in_training = [], []
        self.recorded, self.leaves = False, ()
        self._places = []       # the memory of each leaf's gradient, which the calls write to
        self._backward = []     # (kernel, args) of each call
        self._final_after = None  # what _find_final returns, once a caller needs it
        self._calls_by_state = {}  # {leaf.valid of each of leaves, a tuple: backward_calls()}

    def record_forward(self):
        """Within the block, record kernel calls as the forward pass."""
        return recording(self._forward_call, self.pool)

    @contextlib.contextmanager
    def record_backward(self):
        """Within the block, record kernel calls as the backward pass."""
        with recording(self._backward_call, self.pool):
            yield
        self.leaves = tuple(dict.fromkeys(
            leaf for _, args in self._backward for flag in args
            if type(flag) is AccumulateFlag for leaf in flag.leaves))
        self._places = [leaf.memory for leaf in self.leaves]
        self.recorded = True

    def _find_final(self):
        """Divide the backward calls into stretches, after each of which some gradients are final.

        A call that writes a leaf's gradient has a pointer into it among its arguments.

        Returns:
            A list of (first call, end, leaves whose gradients no later call touches).
        """
        places = [(address(leaf.gradient().ptr)[0] or 0, 4 * prod(leaf.shape), leaf)
                  for leaf in self.leaves]
        places.sort(key=lambda place: place[0])
        starts = [start for start, _, _ in places]
        last = dict.fromkeys(self.leaves, 0)  # {leaf: its last call}
        for number, (_, args) in enumerate(self._backward):
            for argument in args:
                if type(argument) is AccumulateFlag:
                    last.update(dict.fromkeys(argument.leaves, number))
                elif (at := address(argument)[0]) is not None:
                    place = bisect.bisect_right(starts, at) - 1
                    if place >= 0 and at < places[place][0] + places[place][1]:
                        last[places[place][2]] = number
        final_at = {}
        for leaf, number in last.items():
            final_at.setdefault(number, []).append(leaf)
        ends = [0, *(number + 1 for number in sorted(final_at))]
        found = [(first, end, final_at[end - 1]) for first, end in zip(ends, ends[1:])]
        return found + [(ends[-1], len(self._backward), [])]

    def refuse_if_moved(self):
        """Check that the gradients still lie where the recorded calls write them.

        Raises:
            ValueError: they have moved to other memory since the calls were recorded.
        """
        if any(leaf.memory is not place for leaf, place in zip(self.leaves, self._places)):
            raise ValueError("backward(): the parameters have moved to other memory since this was "
                             "computed from them, as when they become part of a larger model; "
                             "compute the loss again")

    def run_backward(self, when_final=None):
        """Replay the backward pass; add to the gradients that leaves hold. If it fails, they hold
        none. when_final: as in TrainingStep.backward."""
        calls, flags = self.backward_calls()
        try:
            for leaf in self.leaves:
                if leaf.valid and leaf.before_use:
                    leaf.before_use()
            for flag in flags:
                flag.zero_missing()
            if when_final is None:
                run(calls)
            else:
                self._final_after = self._final_after or self._find_final()
                for first, end, leaves in self._final_after:
                    run(calls[first:end])
                    when_final(leaves)
        except BaseException:
            for leaf in self.leaves:
                leaf.forget_gradient()
            raise
        for leaf in self.leaves:
            leaf.valid = True

    def backward_calls(self):
        """Return (calls, flags) of the backward pass: functions without arguments to call in order,
        and the accumulate flags among their arguments. The flags depend on which leaves hold a
        gradient when the pass begins, so there is one list of calls for each such state."""
        state = tuple(leaf.valid for leaf in self.leaves)
        if state not in self._calls_by_state:
            calls, flags = [], []
            for kernel, args in self._backward:
                args = [AccumulateFlag(a.leaves) if type(a) is AccumulateFlag else a for a in args]
                flags += [a for a in args if type(a) is AccumulateFlag]
                calls.append(functools.partial(kernel, *args))
            self._calls_by_state[state] = calls, flags
        return self._calls_by_state[state]

    def _forward_call(self, kernel, args, also_in_backward):
        call = functools.partial(kernel, *args)
        self.forward.append(call)
        if not also_in_backward:
            self.forward_in_training.append(call)

    def _backward_call(self, kernel, args, also_in_backward):
        self._backward.append((kernel, args))


def run(calls):
    """Make the calls in order.

    Raises:
        MemoryError, IdRangeError: a kernel reports it.
    """
    for call in calls:
        status = call()
        if status:
            check_status(status)
