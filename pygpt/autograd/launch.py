"""Makes the ops' kernel calls and takes memory for their results, so that both can be recorded.

`launch` makes a call. Within `recording`, a program (replay.py) records the calls of the thread,
and lends arrays their memory. Within `calling`, another function makes the calls: to inspect their
results, or to count memory without computing.

`one_at_a_time` keeps the calls of several threads apart. A kernel releases Python's lock, so two
threads that use one model would otherwise read and write the same buffers at once.
"""

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from pygpt.autograd.thread_settings import ThreadSettings
from pygpt.backend.kernels import Memory, check_status

_lock = threading.RLock()  # the thread whose public call is computing holds it
_Function = TypeVar("_Function", bound=Callable[..., Any])


def one_at_a_time(function: _Function) -> _Function:
    """Make a function wait until no other thread is inside a function with this decorator.

    A thread may call one such function from another. Waiting costs little, because kernels use
    every core by themselves, and Python's other threads go on meanwhile.
    """
    @functools.wraps(function)
    def waiting(*args, **kwargs):
        with _lock:
            return function(*args, **kwargs)
    return waiting  # type: ignore[return-value]


def _after_fork():
    global _lock  # the child may lack the thread that holds the old lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def launch(kernel, *args, also_in_backward=False):
    """Run a kernel, and let the program that is recording, if any, record it.

    `also_in_backward` marks a forward call whose outputs the backward pass computes again. A
    training step can then leave the forward call out.
    """
    _settings.call(kernel, args)
    if _settings.recorder is not None:
        _settings.recorder(kernel, args, also_in_backward)


def _call(kernel, args):
    with _lock:  # no kernel reads weights while an optimizer writes them
        check_status(kernel(*args))


class _Settings(ThreadSettings):
    call = staticmethod(_call)  # makes the calls
    memory = None               # makes blocks of memory, if not None
    recorder = pool = None      # of the program that is recording


_settings = _Settings()


def calling(call, memory=None):
    """Within the block (and thread), let call(kernel, args) make the call of every launch.

    Args:
        call: a function that may inspect the results of a kernel, or leave the kernel out.
        memory: a function of a number of bytes that makes the memory of tensors; None keeps the
            function in force.
    """
    return _settings.set(call=call, memory=memory or _settings.memory)


def calls_are_intercepted():
    """Whether calling() is in force in this thread. A replay would bypass its function."""
    return _settings.call is not _call


def new_block(nbytes):
    """Make a block of memory by the function of the innermost calling()."""
    return (_settings.memory or Memory)(nbytes)


def allocate(nbytes):
    """Take memory for a tensor that kernels write. While a program is recording, its pool lends
    the memory."""
    pool = _settings.pool
    return new_block(nbytes) if pool is None else pool.take(nbytes)


def constant(nbytes):
    """Take memory for a tensor that Python writes. It is never lent again. A program that is
    recording keeps it alive, because the recorded calls read its values in every run."""
    memory = Memory(nbytes)
    if _settings.pool is not None:
        _settings.pool.keep(memory)
    return memory


def is_recording(pool):
    """Whether the program that owns this pool is recording calls in this thread."""
    return _settings.pool is pool


def recording(recorder, pool):
    """Within the block (and thread), call recorder(kernel, args, also_in_backward) after every
    launch, and take memory from pool."""
    return _settings.set(recorder=recorder, pool=pool)
