"""Defines parameters, and flat buffers for them, their gradients and an optimizer's state.

    values      | matrices: wte.weight  h.0.attn.c_attn.weight ... | vectors: biases, layer norms |
    halves      | the same as bfloat16, where products read that   |                              |
    gradients   | the same places                                  |                              |
    m, v        | the same places                                  |                              |
                0                                          n_decay                              n

Each parameter begins at a multiple of 64 bytes, and the gaps hold 0. Clipping, an optimizer's step
and a checkpoint are each one pass over a buffer. A `Parameter` is a view of its place there.
"""

from __future__ import annotations

import weakref
from math import prod
from typing import TYPE_CHECKING, Any

from pygpt.autograd.arrays import HALF, Array
from pygpt.autograd.forward_pass import current_pass
from pygpt.autograd.launch import one_at_a_time
from pygpt.autograd.tape import Leaf, next_serial
from pygpt.autograd.tensor import Tensor
from pygpt.backend.arguments import is_integer, shown
from pygpt.backend.kernels import (BFLOAT16, EOVERFLOW, Memory, check_status, in_float32,
                                   lib)

if TYPE_CHECKING:
    from collections.abc import Iterable

ALIGN = 16  # floats: 64 bytes, a cache line and the widest vector


_last_placed = 0


class Parameter(Tensor):
    """A tensor that is trained. It has no memory until its module is initialised or loaded.

    With `requires_grad = False` it is frozen: it gets no gradient, and an optimizer does not change
    it. Pickling and copying a parameter copies its values, not its gradient. Nothing detects a
    write through flat() or a memoryview between a loss and its backward pass. A model that trains
    in bfloat16 keeps its weights in that form, too, for its products; after flat() or memoryview()
    of a parameter they read float32 again and round it, because the values may then change at any
    time (Values). read() and tolist() only read.

    Args:
        shape: its shape.
        std: the standard deviation of its initial values, which are normal numbers; None: they are
            all `fill`.
        fill: the initial value if std is None.

    Raises:
        ValueError: a length of shape is not a whole number of 0 or more, or std is none.

    Attributes:
        leaf: the Leaf of its gradients, also while it is frozen.
        layout: the Layout whose buffers hold it; None while it lies elsewhere or has no values.
    """

    __slots__ = ("std", "fill", "layout")
    std: float | None
    fill: float
    layout: Layout | None

    def __init__(self, shape: Iterable[int], std: float | None = None, fill: float = 0.0) -> None:
        self.shape, self.std, self.fill, self.code = tuple(shape), std, fill, "f"
        for n in self.shape:
            if not is_integer(n) or n < 0:
                raise ValueError(f"a parameter's length {shown(n)} is not a whole number of 0 or "
                                 "more")
        if std is not None:
            in_float32("std", std, 0.0)
        self.size, self.node = prod(self.shape), Leaf(self.shape)
        self.leaf = self.node
        self.layout = self.rebuild = self.deferred = self.half = None

    if not TYPE_CHECKING:  # as in Array
        def __getattr__(self, name):
            if name in ("memory", "ptr", "offset"):
                raise ValueError(f"a parameter of shape {self.shape} has no values yet: call its "
                                 "module's initialise(seed)")
            raise AttributeError(name)

    def _shown(self) -> str:
        try:
            return super()._shown()
        except ValueError:
            return "no values yet"

    @one_at_a_time
    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        try:
            data = self.read().tobytes()
        except ValueError:  # it has no values yet
            data = None
        return Parameter, (self.shape, self.std, self.fill), (self.requires_grad, data)

    def __setstate__(self, state: Any) -> None:
        requires_grad, data = state
        if data is not None:
            memory = Memory(len(data))
            memory.view[:] = data
            self.place(memory)
        self.requires_grad = requires_grad

    def place(self, memory: Any, offset: int = 0, layout: Layout | None = None) -> None:
        """Make it a view of memory from byte `offset` on. With a layout, memory is its values."""
        if self.layout is not None:
            self.layout.current = False
        self.memory, self.offset, self.layout = memory, offset, layout
        self.ptr = memory.pointer("f", offset)
        global _last_placed
        _last_placed = next_serial()

    def read(self) -> memoryview[Any]:
        if self.layout is None:
            return super().read()
        return self.layout.values.read()[self.offset:self.offset + 4 * self.size].cast("f")

    def operand(self, dtype: int) -> Array:
        """Return an array of its values as products of this type read them: of bfloat16 if its
        layout holds them in that form, else this parameter. The products are the same."""
        # A recorded step of generation may run when they no longer equal the values.
        is_training = current_pass().cache is None
        halves = self.halves() if dtype == BFLOAT16 and is_training else None
        return self if halves is None else Array.empty(self.shape, HALF, halves, self.offset // 2)

    def halves(self) -> Memory | None:
        """Return the flat buffer (Memory) from which products now read its values as bfloat16, or
        None if they read float32."""
        return None if self.layout is None else self.layout.values.usable_halves()

    def changed(self) -> None:
        """Record that its values change at this point."""
        self.leaf.changed_at = next_serial()
        if self.layout is not None:
            self.layout.values.changed()


def last_placed() -> int:
    """Return a number that differs whenever a parameter has moved to other memory in between."""
    return _last_placed


def fill(pointer, n, value):
    """Set each of the n floats at pointer to `value`."""
    cell = Tensor(value)
    check_status(lib.sum_backward(pointer, cell.ptr, n, 0))  # it copies one number to all places


def padded(n):
    """Return the number of floats that n floats take with the gap after them."""
    return -(-n // ALIGN) * ALIGN


def _is_vector(parameter):
    return len(parameter.shape) < 2


class Values:
    """Holds the values of a layout's parameters: a flat buffer of float32 and, once a step computes
    in bfloat16, another one of the same numbers in that form, which its products read.

    The second form is read only while it is known to equal the first. So every way to change the
    first is here. Kernels write through pointer(), whose caller calls changed(). Python copies data
    with write(), or takes a view, which it may write to at any later time. So once there is a view,
    the second form is never used again.

    Attributes:
        halves: the second form (Memory), or None.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory, self.halves = memory, None
        self._has_view = self._halves_are_right = False

    @property
    def view(self) -> memoryview[Any]:
        """The bytes as a memoryview that may be written."""
        self._has_view = True
        return self._memory.view

    def read(self) -> memoryview[Any]:
        """Return the bytes as a read-only memoryview."""
        return self._memory.view.toreadonly()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Copy data, a buffer of bytes, to this offset."""
        self._halves_are_right = False
        self._memory.view[offset:offset + len(data)] = data

    def pointer(self, code: str, offset: int = 0) -> Any:
        """Like Memory.pointer. Whoever lets a kernel write there calls changed()."""
        return self._memory.pointer(code, offset)

    def changed(self, halves_too: bool = False) -> None:
        """Record that a kernel has written, or will write before others compute. halves_too says
        that it has written usable_halves() as well, at the same places."""
        self._halves_are_right = self._halves_are_right and halves_too

    def usable_halves(self) -> Memory | None:
        """Return halves if they equal the values, else None."""
        return self.halves if self._halves_are_right and not self._has_view else None

    def prepare_halves(self, make: bool) -> None:
        """Make the halves equal the values again if they may be used; with `make`, also where there
        are none yet."""
        if self._has_view:
            self.halves = None
        elif not self._halves_are_right and (make or self.halves is not None):
            n = self._memory.nbytes // 4
            self.halves = self.halves or Memory(2 * n)
            status = lib.to_bfloat16(self.halves.pointer("H"), self._memory.pointer("f"), n)
            if status != EOVERFLOW:  # a product, too, would round that number to infinity
                check_status(status)
            self._halves_are_right = True


class Layout:
    """Holds the place of each parameter in the flat buffers.

    Attributes:
        entries: (name, Parameter, offset in bytes) of each parameter, matrices first.
        n: the length of a buffer in floats, gaps (always 0) included.
        n_decay: the length of its first part, the matrices, to which weight decay applies.
        values: the Values of the parameters.
        gradients: their Gradients, or None before a caller first needs them.
        current: whether the parameters still lie here.
    """

    def __init__(self, module: Any, named: Iterable[tuple[str, Parameter]]) -> None:
        self._module = weakref.ref(module)
        self.entries, self.n, self.n_decay = [], 0, 0
        for name, parameter in sorted(named, key=lambda item: _is_vector(item[1])):
            self.entries.append((name, parameter, 4 * self.n))
            self.n += padded(parameter.size)
            if not _is_vector(parameter):
                self.n_decay = self.n
        self.values, self.gradients, self.current = Values(self.buffer()), None, True
        self._ids = {id(parameter) for _, parameter, _ in self.entries}

    def is_contained_in(self, parameters: set[int]) -> bool:
        """Return whether all parameters that the module of this layout still has are among those
        given, a set of id()s. If so, no other module needs them to stay in their place."""
        module = self._module()
        return module is None or all(id(p) in parameters for _, p in module.named_parameters())

    def holds(self, module: Any) -> bool:
        """Return whether all parameters of a module lie here."""
        return self.current and module.parameter_ids() <= self._ids

    def trained_spans(self) -> list[tuple[int, int, int]]:
        """List (first float, number of floats, number of floats in matrices) of each stretch of the
        buffers that holds no frozen parameter."""
        spans, start = [], 0
        edges = [(offset // 4, offset // 4 + padded(p.size))
                 for _, p, offset in self.entries if not p.requires_grad]
        for frozen, after in [*edges, (self.n, self.n)]:
            if frozen > start:
                spans.append((start, frozen - start, max(0, min(frozen, self.n_decay) - start)))
            start = after
        return spans

    def changing(self) -> None:
        """Record that the values of the parameters change now. A caller that changes them does so
        after this call, which may run out of memory, and then calls values.changed()."""
        serial = next_serial()
        for _, parameter, _ in self.entries:
            parameter.leaf.changed_at = serial

    def buffer(self) -> Memory:
        """Make a new flat buffer of zeros."""
        memory = Memory(4 * self.n)
        fill(memory.pointer("f"), self.n, 0.0)
        return memory


class Gradients:
    """Holds the gradients of a layout's parameters in one flat buffer.

    Clipping multiplies all gradients by one factor. To save a pass over memory, the factor is
    stored here, and the optimizer's step multiplies by it as it reads the gradients. A caller that
    reads a gradient, or adds to it, before that step has the factor applied first
    (Leaf.before_use).

    Attributes:
        layout: the Layout of the parameters.
        memory: the flat buffer (Memory), not yet multiplied by `factor`.
        factor: the factor that clipping left, or 1.0.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout, self.memory, self.factor = layout, layout.buffer(), 1.0
        for _, parameter, offset in layout.entries:
            leaf = parameter.leaf
            if leaf.valid:  # a gradient was computed before this buffer was made
                gradient = leaf.result().flat().cast("B")
                self.memory.view[offset:offset + len(gradient)] = gradient
            leaf.memory, leaf.offset, leaf.before_use = self.memory, offset, self.apply_factor

    def complete(self) -> bool:
        """Set missing gradients to 0; return False if all are missing, and then change nothing. A
        frozen parameter has no gradient and gets none."""
        leaves = [p.leaf for _, p, _ in self.layout.entries if p.requires_grad]
        missing = [leaf for leaf in leaves if not leaf.valid]
        if len(missing) == len(leaves):
            return False
        for leaf in missing:
            gradient = leaf.gradient()
            fill(gradient.ptr, gradient.size, 0.0)
            leaf.valid = True
        return True

    def forget(self) -> None:
        """Let the next gradient of each parameter overwrite the old one instead of being added."""
        self.factor = 1.0
        for _, parameter, _ in self.layout.entries:
            parameter.leaf.valid = False

    def apply_factor(self) -> None:
        """Multiply the gradients in memory by the stored factor."""
        if self.factor == 1.0:
            return
        cell, self.factor = Tensor(self.factor), 1.0
        flat = self.memory.pointer("f")
        check_status(lib.scale_forward(flat, flat, cell.ptr, self.layout.n, 0))
