"""Holds the type to which matrix products round their operands: a setting of the thread.

An op reads it when it is called, and its backward pass uses the same type, wherever it runs.
"""

from pygpt.autograd.thread_settings import ThreadSettings
from pygpt.backend.kernels import BFLOAT16, FLOAT32

COMPUTE_DTYPES = {"float32": FLOAT32, "bfloat16": BFLOAT16}


class _Settings(ThreadSettings):
    dtype = FLOAT32


_settings = _Settings()


def operand_type():
    """Return the number that kernels take for the type in force."""
    return _settings.dtype


def compute_dtype():
    """Return the name of the type in force."""
    return next(name for name, number in COMPUTE_DTYPES.items() if number == _settings.dtype)


def computing_in(name):
    """Within the block (and thread), let products round their operands to "float32" or "bfloat16".

    Raises:
        ValueError: the name is neither.
    """
    return _settings.set(dtype=COMPUTE_DTYPES[checked_dtype(name)])


def computing_as(number):
    """Within the block (and thread), let products round to the type with this number, as
    operand_type() gave it."""
    return _settings.set(dtype=number)


def checked_dtype(name):
    """Return the name of a type of operands; raise ValueError if there is no such type."""
    if not isinstance(name, str) or name not in COMPUTE_DTYPES:
        raise ValueError(f"compute_dtype={name!r} is neither 'float32' nor 'bfloat16'")
    return name
