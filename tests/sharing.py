"""Counts the threads that took part in a kernel, so that a test of several can't pass with one.

A kernel gives a small job to one thread, as starting the others costs more than they save. A test
therefore either uses sizes that are shared out anyway or has all jobs shared out. Without OpenMP,
and on the reference backend, there is one thread, and tests that need more are skipped.
"""

from contextlib import contextmanager

import pytest

from pygpt.backend import kernels

HAS_THREADS = kernels.ffi is not None and kernels.lib.pygpt_openmp() != 0
needs_threads = pytest.mark.skipif(
    not HAS_THREADS, reason="needs several threads: the C library, built with OpenMP")


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


@contextmanager
def shared_among(threads):
    """Within the block, use this many threads for jobs of every size; some job must employ them.

    Without OpenMP the block runs on one thread.
    """
    with kernels.use_threads(threads), small_jobs_shared():
        if HAS_THREADS:
            sharing()
        yield
        if HAS_THREADS:
            took_part = sharing()[1]
            assert took_part == threads, f"{took_part} of {threads} threads took part"
