"""Converts weights between the form in files and the form that kernels take: float32, (in, out).

A tensor of a mapped file that is in this form and aligned is used in place, so that the file is not
read before the weight is computed with. Any other is copied into new memory: widened from float16
or bfloat16, transposed, or moved to an address that is a multiple of 4.
"""

from math import inf
from typing import NamedTuple

from pygpt.backend.kernels import EOVERFLOW, Memory, check_status, lib
from pygpt.checkpoint.safetensors import BYTES_OF_DTYPE, Entry

# The name in --dtype and in config.json's torch_dtype: the name in safetensors.
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
READ = {"F16": "from_float16", "BF16": "from_bfloat16"}
# The kernel, the largest number, and the smallest that is rounded to infinity.
WRITE = {"float16": ("to_float16", 65504.0, 65520.0),
         "bfloat16": ("to_bfloat16", 255 * 2.0 ** 120, 511 * 2.0 ** 119)}


class Stored(NamedTuple):
    """Holds a parameter that lies in a file.

    Attributes:
        entry: the safetensors.Entry, F32, F16 or BF16.
        is_transposed: whether it is a matrix that the file stores as (out, in).
    """

    entry: Entry
    is_transposed: bool = False

    @property
    def shape(self):
        """Return the parameter's shape: (in, out)."""
        return self.entry.shape[::-1] if self.is_transposed else self.entry.shape

    @property
    def size(self):
        """Return the number of its elements."""
        return len(self.entry.buffer) // BYTES_OF_DTYPE[self.entry.dtype]

    @property
    def is_used_in_place(self):
        """Return whether memory() makes no copy."""
        return self.entry.dtype == "F32" and not self.is_transposed and self.entry.offset % 4 == 0

    def memory(self):
        """Return its values in float32, row-major, as Memory: that of the mapped file if possible.

        Raises:
            MemoryError: a copy does not fit.
        """
        memory = _as_float32(self.entry, self.size)
        if not self.is_transposed:
            return memory
        R, C = self.entry.shape
        turned = Memory(memory.nbytes)
        check_status(lib.transpose(turned.pointer("f"), memory.pointer("f"), R, C))
        return turned


def _as_float32(entry, n):
    buffer, item = entry.buffer, BYTES_OF_DTYPE[entry.dtype]
    if entry.offset % item:  # kernels take aligned numbers only
        buffer = Memory(len(buffer)).view
        buffer[:] = entry.buffer
    memory = Memory(n * item, buffer)
    if entry.dtype == "F32":
        return memory
    wide = Memory(4 * n)
    check_status(getattr(lib, READ[entry.dtype])(wide.pointer("f"), memory.pointer("H"), n))
    return wide


def narrowed(name, values, dtype):
    """Return float32 values as bytes of another dtype, rounded to nearest, ties to even.

    Args:
        name: the tensor's name, for the message.
        values: a C-contiguous buffer of float32, or a function that returns one.
        dtype: a key of DTYPES.
    Returns:
        A buffer; `values` itself for float32.
    Raises:
        ValueError: a finite number is too large for the dtype.
    """
    values = values() if callable(values) else values
    if dtype == "float32":
        return values
    kernel, largest, too_large = WRITE[dtype]
    values = memoryview(values).cast("B")
    n = len(values) // 4
    narrow = Memory(2 * n)
    status = getattr(lib, kernel)(narrow.pointer("H"), Memory(4 * n, values).pointer("f"), n)
    if status == EOVERFLOW:
        found = next(x for x in values.cast("f") if too_large <= abs(x) < inf)
        raise ValueError(f"{name}: holds {found:.6g}; the largest {dtype} is {largest:.6g}")
    check_status(status)
    return narrow.view
