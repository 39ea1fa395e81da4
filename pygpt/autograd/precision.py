"""Holds the type to which matrix products round their operands: a setting of the thread.

An op reads it when it is called, and its backward pass uses the same type, wherever it runs.
"""

from pygpt.autograd.thread_settings import ThreadSettings
from pygpt.backend.kernels import BFLOAT16, FLOAT32

OPERAND_TYPES = {"float32": FLOAT32, "bfloat16": BFLOAT16}  # {name: the number for kernels}


class _Settings(ThreadSettings):
    compute_dtype = "float32"


_settings = _Settings()


def dtype_in_force():
    """Return the name of the type in force."""
    return _settings.compute_dtype


def operand_type():
    """Return the number that kernels take for the type in force."""
    return OPERAND_TYPES[_settings.compute_dtype]


def computing_in(name):
    """Within the block (and thread), let products round their operands to this type.

    Raises:
        ValueError: the name is not one of OPERAND_TYPES.
    """
    return _settings.set(compute_dtype=checked_dtype(name))


def checked_dtype(name):
    """Return the name of a type of operands; raise ValueError if there is no such type."""
    if not isinstance(name, str) or name not in OPERAND_TYPES:
        raise ValueError(f"compute_dtype={name!r} is neither 'float32' nor 'bfloat16'")
    return name
