"""Runs a block on one instruction set, and tells the sets that have a bfloat16 unit."""

from contextlib import contextmanager

from pygpt.backend import kernels

# Sets that differ from another only in the products of bfloat16 operands.
WITH_UNITS = ("amx", "avx512_bf16", "amx_in_c")


@contextmanager
def use_isa(name):
    """Within the block, use the named instruction set."""
    before = kernels.isa()
    kernels.select_isa(name)
    try:
        yield
    finally:
        kernels.select_isa(before)


def units():
    """List the instruction sets with a bfloat16 unit that can be used here, "amx_in_c" at least."""
    return [name for name in kernels.isa_names() if name in WITH_UNITS]


def isas_for(dtype):
    """List the instruction sets that compute differently with operands of this type."""
    return [name for name in kernels.isa_names() if dtype != kernels.FLOAT32 or
            name not in WITH_UNITS]
