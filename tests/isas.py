"""Runs a block of a test on one instruction set."""

from contextlib import contextmanager

from pygpt.backend import kernels


@contextmanager
def use_isa(name):
    """Within the block, use the named instruction set."""
    before = kernels.isa()
    kernels.select_isa(name)
    try:
        yield
    finally:
        kernels.select_isa(before)
