"""The one place where kernels are called and memory is taken, so that both can be recorded.

`launch` makes a call. A program that is `listening` in the same thread records the call, and lends
arrays their memory (replay.py). Within `calling`, another function makes the calls: to look at
their results (find_nonfinite.py), or to count memory and compute nothing (cost.py).

`one_at_a_time` keeps the calls of several threads apart. A kernel releases Python's lock, so two
threads that use one model would otherwise read and write the same buffers at once.
"""

import contextlib
import functools
import os
import threading

from pygpt.backend.kernels import Memory, check

_context = threading.local()  # .recorder, .pool, .call, .memory: of the blocks below
_turn = threading.RLock()     # held by the thread whose public call is computing


def one_at_a_time(function):
    """Make a function wait until no other thread is inside one that was made so.

    A thread may enter another such function from within one. Kernels use every core by themselves,
    so that waiting costs little; other threads of Python go on meanwhile.
    """
    @functools.wraps(function)
    def waiting(*args, **kwargs):
        with _turn:
            return function(*args, **kwargs)
    return waiting


def _after_fork():
    global _turn  # its holder may be a thread that the child does not have
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def launch(kernel, *args, also_in_backward=False):
    """Run a kernel and let the listening program, if any, record it.

    `also_in_backward` marks a forward call whose outputs the backward pass computes once more, so
    that a training step can leave the call out.
    """
    getattr(_context, "call", _call)(kernel, args)
    recorder = getattr(_context, "recorder", None)
    if recorder is not None:
        recorder(kernel, args, also_in_backward)


def _call(kernel, args):
    with _turn:  # no kernel reads weights that an optimizer is writing
        check(kernel(*args))


@contextlib.contextmanager
def calling(call, memory=None):
    """Within the block (and thread), call(kernel, args) makes every launch in Python's place.

    Args:
        call: may look at what a kernel did, or leave it out.
        memory: makes the blocks that tensors lie in meanwhile, of a number of bytes; None: they are
            made as before.
    """
    with _set(call=call) if memory is None else _set(call=call, memory=memory):
        yield


def is_watched():
    """Whether another function makes the calls in this thread, which a replay would go round."""
    return getattr(_context, "call", None) is not None


def new_block(nbytes):
    """A block of memory, from the innermost calling()."""
    return getattr(_context, "memory", Memory)(nbytes)


def allocate(nbytes):
    """Memory for a tensor that kernels write: from the listening program's pool, if any."""
    pool = getattr(_context, "pool", None)
    return new_block(nbytes) if pool is None else pool.take(nbytes)


def constant(nbytes):
    """Memory for a tensor that Python writes. It is never lent again, and a program that records
    calls meanwhile keeps it, for its calls will read these values in every run."""
    memory, pool = Memory(nbytes), getattr(_context, "pool", None)
    if pool is not None:
        pool.keep(memory)
    return memory


def is_recording(pool):
    """Whether a program records calls in this thread on the memory of that pool."""
    return getattr(_context, "pool", None) is pool


@contextlib.contextmanager
def listening(recorder, pool):
    """Within the block (and thread), report every launch to recorder and take memory from pool."""
    with _set(recorder=recorder, pool=pool):
        yield


@contextlib.contextmanager
def _set(**values):
    """Within the block, the thread's context holds these values; afterwards those from before."""
    before = dict(vars(_context))
    vars(_context).update(values)
    try:
        yield
    finally:
        vars(_context).clear()
        vars(_context).update(before)
