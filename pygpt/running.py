"""Where every kernel call and every block of memory passes through, so that someone may listen.

`launch` makes a call; what is `listening` in the same thread notes it, and lends the tensors their
memory: so a program is recorded (program.py). Within `calling`, somebody else makes the calls: to
look at what they leave (diagnose.py), or to count memory and compute nothing (machine.py).
Uses kernels.py; used by tensor.py, ops.py and those three.
"""

import contextlib
import threading

from pygpt.kernels import Memory, check

_context = threading.local()  # .recorder, .pool, .call, .memory, .alone: of the blocks below


def launch(kernel, *args, again=True):
    """Run a kernel and let the listening program, if any, note it.

    `again=False` marks a forward call whose outputs the backward pass computes too, so that a
    training step need not make it.
    """
    getattr(_context, "call", _call)(kernel, args)
    recorder = getattr(_context, "recorder", None)
    if recorder is not None:
        recorder(kernel, args, again)


def _call(kernel, args):
    check(kernel(*args))


@contextlib.contextmanager
def calling(call, memory=Memory, alone=False):
    """Within the block (and thread), call(kernel, args) makes every launch in Python's place.

    Args:
        call: may look at what a kernel did, or leave it out.
        memory: the class of the blocks that a program's pool is made of meanwhile.
        alone: whether each tensor of a program gets a block of its own.
    """
    _context.call, _context.memory, _context.alone = call, memory, alone
    try:
        yield
    finally:
        del _context.call, _context.memory, _context.alone


def is_watched():
    """Whether calling() asks for blocks that tensors do not share."""
    return getattr(_context, "alone", False)


def new_block(nbytes):
    """A block for a program's pool."""
    return getattr(_context, "memory", Memory)(nbytes)


def allocate(nbytes):
    """Memory for a tensor: from the listening program's pool, if any."""
    pool = getattr(_context, "pool", None)
    return Memory(nbytes) if pool is None else pool.take(nbytes)


@contextlib.contextmanager
def listening(recorder, pool):
    """Within the block (and thread), report every launch to recorder and take memory from pool."""
    before = getattr(_context, "recorder", None), getattr(_context, "pool", None)
    _context.recorder, _context.pool = recorder, pool
    try:
        yield
    finally:
        _context.recorder, _context.pool = before
