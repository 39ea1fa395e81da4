"""Defines Tensor, an array that remembers how it was computed and behaves like a Python number.

ops/arithmetic.py, above this file, binds its operators (+, -, *, / and @).
"""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

from pygpt.autograd.arrays import CODES, DTYPES, Array
from pygpt.autograd.convert import is_number, nest, packed
from pygpt.autograd.launch import constant, one_at_a_time
from pygpt.autograd.tape import Leaf, run_backward
from pygpt.backend.arguments import checked_flag, is_integer, shown
from pygpt.backend.kernels import Memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    # Numbers in nested lists of one shape. A text, a sequence of texts at any depth, is none.
    Nested = (float | Sequence[float] | Sequence[Sequence[float]] | Sequence[Sequence[Sequence[
        float]]] | Sequence[Sequence[Sequence[Sequence[float]]]])
    Exporter = object
else:
    Exporter = object  # Python 3.12 and later call __buffer__ themselves
    if sys.version_info < (3, 12):
        with contextlib.suppress(ImportError):  # it may be missing with the reference backend
            from pygpt._buffer import Exporter

VALUES_SHOWN = 8  # a repr shows all values of a tensor of so few
ITEMS_SHOWN = 3   # of a larger one, the first of its rows, and in it the first so many


def _comparison(compare: Callable[[Any, Any], bool]) -> Callable[[Tensor, Tensor | float], bool]:
    """Make a method that compares a tensor's only value with a number or with another tensor's."""
    def method(self: Tensor, other: Tensor | float) -> bool:
        if isinstance(other, Tensor):
            return compare(self.item(), other.item())
        return compare(self.item(), other) if is_number(other) else NotImplemented
    return method


class Tensor(Array, Exporter):
    """An array of float32 or int32, dense and row-major, in memory that kernels read and write.

    A tensor of one value serves as a number where Python expects one: `float(loss)`, `loss < 2`,
    `loss * 0.5`, `sum(losses)`. Pickling and copying a tensor copies its values, not its gradient.
    The copy is a leaf, or has no node.

    Args:
        data: nested lists of numbers, all of one shape, a buffer of numbers, or a single number.
        requires_grad: whether backward() shall leave a gradient in `.grad`; float32 only.
        dtype: "float32", or "int32" for ids and targets.

    Raises:
        ValueError: the lists are ragged, or a number does not fit the dtype; the message names it.
            In arithmetic: the shapes differ, or a number is out of the range of float32.
        TypeError: data holds something that is not a number.
        ZeroDivisionError: it is divided by 0.
    """

    __slots__ = ("node", "leaf", "rebuild")
    node: Any
    leaf: Leaf | None
    rebuild: Callable[[int], Array] | None
    __array_ufunc__ = None  # so NumPy's scalars leave arithmetic to this class

    def __init__(self, data: Nested | Buffer, requires_grad: bool = False,
                 dtype: str = "float32") -> None:
        if not isinstance(dtype, str) or dtype not in CODES:
            raise ValueError(f"dtype={shown(dtype)} is not 'float32' or 'int32'")
        shape, values = packed(data, dtype)
        self._place(shape, constant(len(values)), code=CODES[dtype])
        self.memory.view[:] = values
        if checked_flag("requires_grad", requires_grad):
            self.requires_grad = True

    def _describe(self, shape, code):
        super()._describe(shape, code)
        self.node = self.leaf = self.rebuild = None

    @property
    def dtype(self) -> str:
        """The type of the values: "float32" or "int32"."""
        return DTYPES[self.code]

    def getter_for_backward(self, dtype: int) -> Callable[[], Array]:
        """Return a function that returns this tensor's operand(dtype) in the backward pass. If the
        op that made the tensor has set `rebuild`, a function of dtype, then rebuild computes the
        values again, so that nothing keeps them until then.
        """
        rebuild = self.rebuild
        return (lambda: self.operand(dtype)) if rebuild is None else (lambda: rebuild(dtype))

    def __buffer__(self, flags: int) -> memoryview[Any]:
        whole = self.memory.view[self.offset:self.offset + 4 * self.size]
        # a memoryview cannot have a 0 in its shape
        return whole.cast(self.code) if 0 in self.shape else whole.cast(self.code, self.shape)

    @one_at_a_time
    def tolist(self) -> Any:
        """Return its values as nested lists, or as a single number if the shape is ()."""
        return nest(self.read().tolist(), self.shape)

    def row(self, i: int) -> Tensor:
        """Return row i of this tensor (R, ...) as a tensor in the same memory, without a node.

        Raises:
            ValueError: i is not in 0..R-1, or the shape is ().
        """
        if not self.shape or not is_integer(i) or not 0 <= i < self.shape[0]:
            raise ValueError(f"i={shown(i)} is not the number of a row of a tensor of shape "
                             f"{self.shape}")
        size = self.size // self.shape[0]
        return Tensor.empty(self.shape[1:], self.code, self.memory, self.offset + 4 * i * size)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a tensor of shape ()")
        return self.shape[0]

    def __repr__(self) -> str:
        gradient = ", requires_grad=True" if self.requires_grad else ""
        return (f"{type(self).__name__}({self._shown()}, shape={self.shape}, dtype={self.dtype}"
                f"{gradient})")

    def _shown(self) -> str:
        """Show the values, or the first of them, in four digits. Values that are deferred stay so:
        a look at a tensor shall not change which kernels run."""
        if self.deferred is not None:
            return "not computed yet"
        values = self.read()

        def shown(axis: int, start: int) -> str:
            if axis == len(self.shape):
                return _number_shown(values[start])
            n, is_last, step = self.shape[axis], axis == len(self.shape) - 1, steps[axis]
            count = n if self.size <= VALUES_SHOWN else min(n, ITEMS_SHOWN if is_last else 1)
            items = [shown(axis + 1, start + i * step) for i in range(count)]
            return f"[{', '.join(items + ['...'] * (count < n))}]"

        steps = [prod(self.shape[axis + 1:]) for axis in range(len(self.shape))]
        return shown(0, 0)

    @one_at_a_time
    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        is_leaf = isinstance(self.node, Leaf)
        return _restored, (self.shape, self.code, self.read().tobytes(), is_leaf)

    # --------------------------------------------------------------------- as a single number ---

    def item(self) -> Any:
        """Return the only value of this tensor, as a float or an int.

        Raises:
            ValueError: it has no value, or several.
        """
        if self.size != 1:
            raise ValueError(f"a tensor of shape {self.shape} has {self.size} values and is not a "
                             "single number")
        return self.read()[0]

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __index__(self) -> int:
        if self.code != "i":
            raise TypeError(f"a tensor of {self.dtype} is not an index")
        return self.item()

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    __lt__, __le__ = _comparison(operator.lt), _comparison(operator.le)
    __gt__, __ge__ = _comparison(operator.gt), _comparison(operator.ge)

    def __eq__(self, other: object) -> bool:  # two tensors are equal if they are the same object
        return self.item() == other if self.size == 1 and is_number(other) else NotImplemented

    __hash__ = Array.__hash__

    if TYPE_CHECKING:  # ops/arithmetic.py binds these
        def __add__(self, other: Tensor | float) -> Tensor: ...
        def __radd__(self, other: float) -> Tensor: ...
        def __sub__(self, other: Tensor | float) -> Tensor: ...
        def __rsub__(self, other: float) -> Tensor: ...
        def __mul__(self, other: Tensor | float) -> Tensor: ...
        def __rmul__(self, other: float) -> Tensor: ...
        def __truediv__(self, other: float) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __matmul__(self, other: Tensor) -> Tensor: ...

    # ------------------------------------------------------------------------------- gradients ---

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to or through this tensor. Setting True makes it a leaf; setting
        False drops its gradient and makes it an ordinary tensor.

        Raises:
            ValueError: it is set on the result of an op, or to True on an int32 tensor.
        """
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        checked_flag("requires_grad", wanted)
        if not isinstance(self.node, Leaf | None):
            raise ValueError("requires_grad can be set on a tensor that was made by itself; this "
                             "one is the result of an op")
        if wanted and self.code != "f":
            raise ValueError(f"requires_grad=True on a tensor of {self.dtype}: only float32 has "
                             "gradients")
        if wanted != self.requires_grad:
            self.leaf = self.leaf or Leaf(self.shape)
            self.leaf.valid = False
            self.node = self.leaf if wanted else None

    @property
    def grad(self) -> Tensor | None:
        """The gradient that backward() left: a Tensor of the same shape, or None."""
        gradient = self.node.result() if isinstance(self.node, Leaf) else None
        if gradient is None:
            return None
        return Tensor.empty(self.shape, memory=gradient.memory, offset=gradient.offset)

    def backward(self, grad: Tensor | None = None) -> None:
        """Add this tensor's derivative with respect to every leaf it depends on to the leaf's grad.

        Several threads may call it: one call waits for the other.

        Args:
            grad: the derivative of the final quantity with respect to this tensor, of the same
                shape. If it is left out, this tensor is the final quantity and must have one value.

        Raises:
            ValueError: it depends on no tensor that requires a gradient, backward() ran before,
                grad is missing or of another shape or dtype, or a parameter has changed since this
                tensor was computed from it.
            MemoryError: there is no memory for the pass. The leaves then hold no gradient, not
                even that of earlier passes.
        """
        if self.node is None:
            raise ValueError("backward() of a tensor that depends on no tensor with "
                             "requires_grad=True")
        if grad is None:
            if self.size != 1:
                raise ValueError(f"backward() of shape {self.shape} needs a grad of that shape")
            grad = Tensor.empty(self.shape)
            grad.flat()[0] = 1.0
        if not isinstance(grad, Tensor):
            raise ValueError(f"backward() got a grad of type {type(grad).__name__}, not a Tensor")
        if grad.shape != self.shape:
            raise ValueError(f"backward() of shape {self.shape} got a grad of shape {grad.shape}")
        if grad.code != "f":
            raise ValueError(f"backward() got a grad of {grad.dtype}, not float32")
        run_backward(self.node, grad)


def _number_shown(value: Any) -> str:
    """Show an int as it is, and a float in four digits, with a point or an exponent."""
    text = str(value) if isinstance(value, int) else f"{value:.4g}"
    return f"{text}.0" if isinstance(value, float) and text.strip("-").isdigit() else text


def _restored(shape, code, data, is_leaf):
    """Make a tensor from its pickled parts."""
    tensor = Tensor.empty(shape, code, memory=Memory(len(data)))
    tensor.memory.view[:] = data
    tensor.requires_grad = is_leaf
    return tensor
