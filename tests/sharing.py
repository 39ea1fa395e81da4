"""Makes a test employ several threads, and skips it where there is one.

pygpt/check/threads.py counts those that took part. Without OpenMP, and on the reference backend,
there is one thread, and tests that need more are skipped.
"""

from contextlib import contextmanager

import pytest

from pygpt.backend import kernels
from pygpt.check.threads import HAS_THREADS, sharing, small_jobs_shared

needs_threads = pytest.mark.skipif(
    not HAS_THREADS, reason="needs several threads: the C library, built with OpenMP")


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
