"""Holds shaped numbers in memory that kernels read and write, and can compute them later.

An Array is dense and row-major. Its computation may be deferred: within `deferring`, an op leaves a
function in place of its result's values, and the values are computed when a kernel needs their
address. Until then another op may take the function and fuse with it. So the kernel of a product
also adds a residual, in one pass over memory. And where products round their operands to bfloat16
(precision.py), a kernel writes a deferred result that a product reads in bfloat16 (operand).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from pygpt.autograd.launch import allocate, launch, one_at_a_time
from pygpt.autograd.thread_settings import ThreadSettings
from pygpt.backend.kernels import BFLOAT16, lib

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

CODES = {"float32": "f", "int32": "i"}  # {dtype: the code of struct, array and memoryview}
DTYPES = {code: dtype for dtype, code in CODES.items()}
HALF = "H"  # the code of the bits of bfloat16 numbers: of an operand, never of a Tensor
BYTES = {"f": 4, "i": 4, HALF: 2}  # of a number


class _Settings(ThreadSettings):
    waiting = None  # the deferred arrays of the innermost deferring() block


_settings = _Settings()


class Deferred(NamedTuple):
    """Describes how the values of an array will be computed.

    Attributes:
        compute: a function of the array that writes its values.
        takes_residual: whether compute takes a second argument, an array to add to the values.
        writes_half: whether the array that compute gets may be of bfloat16 (HALF).
    """

    compute: Callable
    takes_residual: bool = False
    writes_half: bool = False


class Array:
    """Numbers of one dtype in a shape.

    Attributes:
        shape, size: a tuple of lengths, and their product.
        code: "f" (float32), "i" (int32) or HALF.
        memory, offset: the block that holds it, and the byte at which it begins.
        ptr: the address of its first value, as kernels take it.
        deferred: the Deferred that will compute its values, or None once they are computed.
        half: an Array of its values in bfloat16, if operand() has made it, or None.
    """

    __slots__ = ("shape", "size", "code", "memory", "offset", "ptr", "deferred", "half",
                 "__weakref__")
    shape: tuple[int, ...]
    size: int
    code: str
    memory: Any  # a Memory, or the Values of a layout
    offset: int
    ptr: Any
    deferred: Deferred | None
    half: Array | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(cls)  # Tensor also derives from _buffer.Exporter, written in C

    @classmethod
    def empty(cls, shape: Iterable[int], code: str = "f", memory: Any = None,
              offset: int = 0) -> Self:
        """Make an array of undefined contents."""
        self = cls.__new__(cls)
        self._place(tuple(shape), memory, offset, code)
        return self

    @classmethod
    def deferrable(cls, shape: Iterable[int], compute: Callable[..., Any],
                   **abilities: bool) -> Self:
        """Make an array whose values are computed at once or, within deferring(), when a kernel
        first needs them. The arguments are those of Deferred."""
        self = cls.__new__(cls)
        self._describe(tuple(shape), "f")
        self.deferred = Deferred(compute, **abilities)
        if _settings.waiting is None:
            self._compute()
        else:
            _settings.waiting.append(weakref.ref(self))
        return self

    def _describe(self, shape, code):
        self.shape, self.size, self.code = shape, prod(shape), code
        self.deferred = self.half = None

    def _place(self, shape, memory=None, offset=0, code="f"):
        self._describe(shape, code)
        self.memory = allocate(BYTES[code] * self.size) if memory is None else memory
        self.offset, self.ptr = offset, self.memory.pointer(code, offset)

    @one_at_a_time
    def _compute(self):
        """Compute the deferred values, unless another thread has done so meanwhile."""
        if self.deferred is None:
            return
        computed = Array.empty(self.shape, self.code)
        self.deferred.compute(computed)
        self.memory, self.offset, self.ptr = computed.memory, computed.offset, computed.ptr
        self.deferred = self.half = None

    def operand(self, dtype: int) -> Array:
        """Return an array of the same values as products of this type read them.

        Args:
            dtype: BFLOAT16 or FLOAT32 (precision.operand_type).
        Returns:
            An array of bfloat16 if dtype is that and the values are deferred, so that nobody has
            needed them as float32 yet. Otherwise this array: its values are rounded when they are
            read. The products are the same.
        """
        if dtype != BFLOAT16:
            return self
        half = self._rounded()
        return self if half is None else half

    @one_at_a_time
    def _rounded(self):
        """Return the bfloat16 form of values that are still deferred; compute it if possible."""
        deferred = self.deferred
        if deferred is not None and self.half is None and deferred.writes_half:
            half = Array.empty(self.shape, HALF)
            deferred.compute(half)
            self.half = half
        return self.half

    def values(self) -> Array:
        """Return the same numbers as an Array that holds no node. They are computed now if they
        were deferred."""
        return Array.empty(self.shape, self.code, self.memory, self.offset)

    def rows(self, part: range, width: int) -> Array:
        """Return a range of the rows of this array, rows of `width` numbers, in the same memory."""
        return Array.empty((len(part), width), self.code, self.memory,
                           self.offset + BYTES[self.code] * part.start * width)

    if not TYPE_CHECKING:  # with it, a checker would accept every name
        def __getattr__(self, name):  # Python calls this only for attributes that are not set yet
            if name in ("memory", "offset", "ptr") and self.deferred is not None:
                self._compute()
                return getattr(self, name)
            raise AttributeError(name)

    def flat(self) -> memoryview[Any]:
        """Return its values in row-major order as a writable memoryview of one dimension."""
        end = self.offset + BYTES[self.code] * self.size
        return self.memory.view[self.offset:end].cast(self.code)

    def read(self) -> memoryview[Any]:
        """Return the same as a read-only memoryview, which is all that most callers need."""
        return self.flat().toreadonly()


@contextlib.contextmanager
def deferring(completely=True):
    """Within the block (and thread), ops may defer the computation of their results.

    Args:
        completely: whether the block's end computes the results that are still deferred. Otherwise
            a result is computed when it is needed, and its inputs must stay unchanged until then.

    A result that was read as bfloat16 alone keeps these values at the block's end: it is then the
    rounded one.
    """
    waiting = []
    with _settings.set(waiting=waiting):
        yield
        if completely:
            deferred = [array for array in (reference() for reference in waiting)
                        if array is not None and array.deferred is not None]
            for array in deferred:  # this may need others in float32
                if array.half is None:
                    array._compute()
            for array in deferred:  # the inputs of the others may change from now on
                if array.deferred is not None:
                    array.deferred = Deferred(_widening(array.half))


def _widening(half):
    """Return a function that writes the numbers of an array of bfloat16 to an array of float32."""
    return lambda out: launch(lib.from_bfloat16, out.ptr, half.ptr, half.size)
