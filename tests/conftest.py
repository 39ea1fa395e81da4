"""What tests share: how hypothesis searches, a training run, the number of threads put back.

Examples are derived from the test itself, so every run tries the same ones and none is stored.
"""

import signal

import hypothesis
import pytest

from pygpt.config import TrainConfig

# A shell's background job is started with Ctrl-C ignored, and so would be the processes that the
# tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile(
    "pygpt", derandomize=True, database=None, deadline=None, max_examples=35,
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("pygpt")

TEXT = "".join(f"{a} times {b} is {a * b}.\n" for a in range(12) for b in range(12))


@pytest.fixture
def tiny(tmp_path):
    """Makes the TrainConfig of a run that takes a fraction of a second."""
    (tmp_path / "text").write_text(TEXT)

    def config(**changes):
        return TrainConfig(**dict(
            data=tmp_path / "text", out=tmp_path / "out", n_layer=2, n_head=2, n_embd=16,
            n_positions=8, batch_size=4, max_steps=10, learning_rate=1e-2, warmup_steps=2,
            eval_interval=4, eval_batches=3, sample_interval=0, sample_length=5) | changes)

    return config


@pytest.fixture
def kernels():
    """pygpt.kernels, with the number of threads put back afterwards."""
    from pygpt import kernels
    threads = kernels.get_num_threads()
    yield kernels
    kernels.set_num_threads(threads)
