"""Counts the threads that took part in a kernel, so that a check of several can't pass with one.

A kernel gives a small job to one thread, as starting the others costs more than they save. A check
therefore either uses sizes that are shared out anyway or has all jobs shared out.
"""

from contextlib import contextmanager

from pygpt.backend import kernels

HAS_THREADS = kernels.ffi is not None and kernels.lib.pygpt_openmp() != 0


def sharing():
    """Return the (fewest, most) threads that shared a kernel's job since the last call, or 0."""
    least, most = kernels.ffi.new("int *"), kernels.ffi.new("int *")
    kernels.lib.pygpt_sharing(least, most)
    return least[0], most[0]


@contextmanager
def small_jobs_shared():
    """Within the block, share jobs of every size out among the threads that are set."""
    if kernels.ffi is not None:
        kernels.lib.pygpt_share_all(1)
    try:
        yield
    finally:
        if kernels.ffi is not None:
            kernels.lib.pygpt_share_all(0)
