"""What every test shares: how hypothesis searches, and threads and backend left as they were.

Examples are derived from the test itself, so every run tries the same ones and none is stored.
"""

import signal

import hypothesis
import pytest

# A shell's background job is started with Ctrl-C ignored, and so would be the processes that the
# tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile(
    "pygpt", derandomize=True, database=None, deadline=None, max_examples=35,
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("pygpt")


@pytest.fixture
def kernels():
    """pygpt.kernels, with the number of threads put back afterwards."""
    from pygpt import kernels
    threads = kernels.get_num_threads()
    yield kernels
    kernels.set_num_threads(threads)
