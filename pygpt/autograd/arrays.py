"""Holds shaped numbers in memory that kernels read and write, and can compute them later.

An Array is dense and row-major. Its computation may be deferred: within `deferring`, an op leaves a
function in place of its result's values, and the values are computed when a kernel needs their
address. Until then another op may take the function and fuse with it. So the kernel of a product
also adds a residual, in one pass over memory.
"""

import contextlib
import weakref
from math import prod
from typing import Callable, NamedTuple

from pygpt.autograd.launch import allocate
from pygpt.autograd.thread_settings import ThreadSettings

CODES = {"float32": "f", "int32": "i"}  # {dtype: the code of struct, array and memoryview}
DTYPES = {code: dtype for dtype, code in CODES.items()}


class _Settings(ThreadSettings):
    waiting = None  # the deferred arrays of the innermost deferring() block


_settings = _Settings()


class Deferred(NamedTuple):
    """Describes how the values of an array will be computed.

    Attributes:
        compute: a function of the array that writes its values.
        takes_residual: whether compute takes a second argument, an array to add to the values.
    """

    compute: Callable
    takes_residual: bool


class Array:
    """Numbers of one dtype in a shape.

    Attributes:
        shape, size: a tuple of lengths, and their product.
        code: "f" (float32) or "i" (int32).
        memory, offset: the block that holds it, and the byte at which it begins.
        ptr: the address of its first value, as kernels take it.
        deferred: the Deferred that will compute its values, or None once they are computed.
    """

    __slots__ = ("shape", "size", "code", "memory", "offset", "ptr", "deferred", "__weakref__")

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)  # Tensor also derives from _buffer.Exporter, written in C

    @classmethod
    def empty(cls, shape, code="f", memory=None, offset=0):
        """Make an array of undefined contents."""
        self = cls.__new__(cls)
        self._place(tuple(shape), memory, offset, code)
        return self

    @classmethod
    def deferrable(cls, shape, compute, takes_residual=True):
        """Make an array whose values are computed at once or, within deferring(), when a kernel
        first needs them. The arguments are those of Deferred."""
        self = cls.__new__(cls)
        self._describe(tuple(shape), "f")
        self.deferred = Deferred(compute, takes_residual)
        if _settings.waiting is None:
            self._compute()
        else:
            _settings.waiting.append(weakref.ref(self))
        return self

    def _describe(self, shape, code):
        self.shape, self.size, self.code, self.deferred = shape, prod(shape), code, None

    def _place(self, shape, memory=None, offset=0, code="f"):
        self._describe(shape, code)
        self.memory = allocate(4 * self.size) if memory is None else memory
        self.offset, self.ptr = offset, self.memory.pointer(code, offset)

    def _compute(self):
        deferred, self.deferred = self.deferred, None
        self.memory, self.offset = allocate(4 * self.size), 0
        self.ptr = self.memory.pointer(self.code)
        deferred.compute(self)

    def __getattr__(self, name):  # Python calls this only for attributes that are not set yet
        if name in ("memory", "offset", "ptr") and self.deferred is not None:
            self._compute()
            return getattr(self, name)
        raise AttributeError(name)

    def flat(self):
        """Return its values in row-major order as a writable memoryview of one dimension."""
        return self.memory.view[self.offset:self.offset + 4 * self.size].cast(self.code)


@contextlib.contextmanager
def deferring(completely=True):
    """Within the block (and thread), ops may defer the computation of their results.

    Args:
        completely: whether the block's end computes the results that are still deferred. Otherwise
            a result is computed when it is needed, and its inputs must stay unchanged until then.
    """
    waiting = []
    with _settings.set(waiting=waiting):
        yield
        if completely:
            for reference in waiting:
                array = reference()
                if array is not None and array.deferred is not None:
                    array._compute()
