"""How many threads took part: a test of several threads asks here, so that it can't pass on one.

Small jobs are one thread's, as to start the others costs more than they save, so a test either has
sizes that are shared out by themselves or lets all jobs be. Without OpenMP, and on the reference
backend, there is one thread, and what needs more is skipped. Uses pygpt.kernels.
"""

from contextlib import contextmanager

import pytest

from pygpt.backend import kernels

HAS_THREADS = kernels.ffi is not None and kernels.lib.pygpt_openmp() != 0
needs_threads = pytest.mark.skipif(
    not HAS_THREADS, reason="needs several threads: the C library, built with OpenMP")


def sharing():
    """(fewest, most) threads that a kernel's job was shared out among since the last call; or 0."""
    least, most = kernels.ffi.new("int *"), kernels.ffi.new("int *")
    kernels.lib.pygpt_sharing(least, most)
    return least[0], most[0]


@contextmanager
def small_jobs_shared():
    """Within the block, jobs of every size are shared out among the threads that are set."""
    if kernels.ffi is not None:
        kernels.lib.pygpt_share_all(1)
    try:
        yield
    finally:
        if kernels.ffi is not None:
            kernels.lib.pygpt_share_all(0)


@contextmanager
def shared_among(threads):
    """Within the block, use this many threads for jobs of every size; some job must employ them.

    Where there are no threads to be had, the block runs on one.
    """
    with kernels.use_threads(threads), small_jobs_shared():
        if HAS_THREADS:
            sharing()
        yield
        if HAS_THREADS:
            took_part = sharing()[1]
            assert took_part == threads, f"{took_part} of {threads} threads took part"
