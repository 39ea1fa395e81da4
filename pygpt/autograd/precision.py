"""Holds the type to which matrix products round their operands: a setting of the thread.

An op reads it when it is called, and its backward pass uses the same type, wherever it runs.
"""

from pygpt.autograd.arrays import HALF
from pygpt.autograd.thread_settings import ThreadSettings
from pygpt.backend.arguments import shown
from pygpt.backend.kernels import (BFLOAT16, FLOAT32, INP_BFLOAT16, OUT_BFLOAT16,
                                   WEIGHT_BFLOAT16)

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


def operand_code(dtype):
    """Return the code of an array that is only an operand of products of this type."""
    return HALF if dtype == BFLOAT16 else "f"


def with_forms(dtype, inp=None, out=None, weight=None):
    """Return the argument `dtype` of a kernel whose tensors of these names are these arrays."""
    for array, flag in (inp, INP_BFLOAT16), (out, OUT_BFLOAT16), (weight, WEIGHT_BFLOAT16):
        if array is not None and array.code == HALF:
            dtype |= flag
    return dtype


def computing_in(name):
    """Within the block (and thread), let products round their operands to this type.

    Raises:
        ValueError: the name is not one of OPERAND_TYPES.
    """
    return _settings.set(compute_dtype=checked_dtype(name))


def checked_dtype(name):
    """Return the name of a type of operands; raise ValueError if there is no such type."""
    if not isinstance(name, str) or name not in OPERAND_TYPES:
        raise ValueError(f"compute_dtype={shown(name)} is neither 'float32' nor 'bfloat16'")
    return name
