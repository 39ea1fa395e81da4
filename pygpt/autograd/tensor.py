"""Tensor, and the tape that differentiates: ops leave a record, and backward() runs it backwards.

An op (ops.py) computes a tensor and leaves a `Node` with it: the nodes that its inputs came from,
and a function that takes the gradient of the output and sends gradients on to the inputs. A node's
serial number grows with time, so going through the reachable nodes from the highest down visits
every node after all that depend on it. No recursion, so a graph may be of any depth.

A gradient that arrives first is written, a later one added; which of the two is known when the call
is made, so no memory is ever zeroed to be added to.

Uses kernels.py and running.py; used by ops.py and everything above.
"""

import contextlib
import heapq
import itertools
import numbers
import struct
import threading
import weakref
from typing import Callable, NamedTuple

from pygpt.backend.kernels import Memory, lib
from pygpt.autograd.launch import allocate, constant, launch, one_at_a_time

try:
    from pygpt._buffer import Exporter
except ImportError:  # Python 3.12 and later ask __buffer__ itself
    Exporter = object

_serials = itertools.count(1)
_context = threading.local()  # .tape, .backward_pass, .entering, .deferring: of the blocks below

CODES = {"float32": "f", "int32": "i"}  # dtype -> the code of struct, array and memoryview
DTYPES = {code: dtype for dtype, code in CODES.items()}


# ------------------------------------------------------------------------------------- tensors ---

class Tensor(Exporter):
    """An array of float32 or int32, dense and row-major, in memory that kernels read and write.

    A tensor of one value is a number where Python expects one: `float(loss)`, `loss < 2`,
    `loss * 0.5`, `sum(losses)`. Pickling and copying a tensor copies its values, not its gradient;
    the copy is a leaf, or depends on nothing.

    Args:
        data: nested lists of numbers, all of one shape, a buffer of numbers, or a single number.
        requires_grad: whether backward() shall leave a gradient in `.grad`; float32 only.
        dtype: "float32", or "int32", which ids and targets are.

    Raises:
        ValueError: the lists are ragged, or a number does not fit the dtype; it is named.
        TypeError: data holds something that is not a number.
    """

    __slots__ = ("shape", "size", "ptr", "memory", "offset", "code", "node", "remake", "deferred",
                 "__weakref__")
    __array_ufunc__ = None  # NumPy's scalars leave the arithmetic to this class

    def __init__(self, data, requires_grad=False, dtype="float32"):
        if dtype not in CODES:
            raise ValueError(f"dtype={dtype!r} is not 'float32' or 'int32'")
        data = _as_lists(data)
        shape = _shape_of(data)
        values = list(_flatten(data, shape, _number_of[dtype]))
        self._bind(shape, constant(4 * len(values)), code=CODES[dtype])
        self.flat()[:] = memoryview(_packed(values, dtype)).cast(self.code)
        if requires_grad:
            self.requires_grad = True

    @classmethod
    def empty(cls, shape, code="f", memory=None, offset=0):
        """A tensor of undefined contents; code is "f" (float32) or "i" (int32)."""
        self = cls.__new__(cls)
        self._bind(tuple(shape), memory, offset, code)
        return self

    @classmethod
    def later(cls, shape, compute, takes_residual=True):
        """A tensor whose values are computed at once or, within deferring(), when they are first
        needed: never, where they are not.

        Args:
            compute: a function of the tensor, which writes its values; and, with takes_residual, of
                a tensor to be added to them, or None.
        """
        self = cls.__new__(cls)
        self.shape, self.size, self.code = tuple(shape), _product(shape), "f"
        self.node = self.remake = None
        self.deferred = Deferred(compute, takes_residual)
        waiting = getattr(_context, "deferring", None)
        if waiting is None:
            self._compute()
        else:
            waiting.append(weakref.ref(self))
        return self

    def _compute(self):
        deferred, self.deferred = self.deferred, None
        self.memory, self.offset = allocate(4 * self.size), 0
        self.ptr = self.memory.pointer(self.code)
        deferred.compute(self)

    def __getattr__(self, name):  # only what is not set yet comes here
        if name in ("memory", "offset", "ptr") and self.deferred is not None:
            self._compute()
            return getattr(self, name)
        raise AttributeError(name)

    def _bind(self, shape, memory=None, offset=0, code="f"):
        self.shape, self.size, self.code = shape, _product(shape), code
        self.memory = allocate(4 * self.size) if memory is None else memory
        self.offset, self.ptr = offset, self.memory.pointer(code, offset)
        self.node = self.remake = self.deferred = None

    @property
    def dtype(self):
        """"float32" or "int32"."""
        return DTYPES[self.code]

    def flat(self):
        """Its values in row-major order, a writable memoryview of one dimension."""
        return self.memory.view[self.offset:self.offset + 4 * self.size].cast(self.code)

    def kept(self):
        """What a backward pass holds on to in this tensor's place: a function that gives it, or its
        values made again where the op that made them says that this is cheaper than keeping them.
        """
        return self.remake or (lambda: self)

    def __buffer__(self, flags):
        whole = self.memory.view[self.offset:self.offset + 4 * self.size]
        # a memoryview cannot have a 0 in its shape
        return whole.cast(self.code) if 0 in self.shape else whole.cast(self.code, self.shape)

    def tolist(self):
        """Its values as nested lists, or a single number where the shape is ()."""
        return _nest(self.flat().tolist(), self.shape)

    def __len__(self):
        if not self.shape:
            raise TypeError("len() of a tensor of shape ()")
        return self.shape[0]

    def __repr__(self):
        values = str(self.tolist()) if self.size <= 64 else "..."
        return f"Tensor({values}, shape={self.shape})"

    def __reduce_ex__(self, protocol):
        is_leaf = isinstance(self.node, Leaf)
        return _restored, (self.shape, self.code, self.flat().tobytes(), is_leaf)

    # --------------------------------------------------------------------- as a single number ---

    def item(self):
        """The value of a tensor that has one, as a float or an int.

        Raises:
            ValueError: it has none or several.
        """
        if self.size != 1:
            raise ValueError(f"a tensor of shape {self.shape} has {self.size} values and is not a "
                             "single number")
        return self.flat()[0]

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __bool__(self):
        return bool(self.item())

    def __lt__(self, other):
        return self.item() < other if _is_number(other) else NotImplemented

    def __le__(self, other):
        return self.item() <= other if _is_number(other) else NotImplemented

    def __gt__(self, other):
        return self.item() > other if _is_number(other) else NotImplemented

    def __ge__(self, other):
        return self.item() >= other if _is_number(other) else NotImplemented

    # ------------------------------------------------------------------------------ arithmetic ---

    def __add__(self, other):
        from pygpt.autograd import ops
        if isinstance(other, Tensor):
            return ops.add(self, other)
        return ops.shift(self, other) if _is_number(other) else NotImplemented

    __radd__ = __add__

    def __mul__(self, other):
        from pygpt.autograd import ops
        if isinstance(other, Tensor):
            return ops.mul(self, other)
        return ops.scale(self, other) if _is_number(other) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, other):
        return self * (1.0 / other) if _is_number(other) else NotImplemented

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -other if isinstance(other, Tensor) or _is_number(other) else NotImplemented

    def __rsub__(self, other):
        return -self + other if _is_number(other) else NotImplemented

    def __matmul__(self, other):
        from pygpt.autograd import ops
        return ops.matmul(self, other) if isinstance(other, Tensor) else NotImplemented

    # ------------------------------------------------------------------------------- gradients ---

    @property
    def requires_grad(self):
        """Whether gradients flow to or through it. Setting it makes a leaf of a tensor that was not
        computed, or lets it be none: False also forgets the gradient that it holds.

        Raises:
            ValueError: it is set on the result of an op, or to True on an int32 tensor.
        """
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, wanted):
        if not isinstance(self.node, Leaf | None):
            raise ValueError("requires_grad can be set on a tensor that was made by itself; this "
                             "one is the result of an op")
        if wanted and self.code != "f":
            raise ValueError(f"requires_grad=True on a tensor of {self.dtype}: only float32 has "
                             "gradients")
        if bool(wanted) != self.requires_grad:
            self._set_leaf(wanted)

    def _set_leaf(self, wanted):
        self.node = Leaf(self) if wanted else None

    @property
    def grad(self):
        """The gradient that backward() left, a Tensor of the same shape, or None."""
        return self.node.result() if isinstance(self.node, Leaf) else None

    def backward(self, grad=None):
        """Add this tensor's derivative with respect to every leaf it depends on to the leaf's grad.

        Several threads may call it: one call waits for the other.

        Args:
            grad: the derivative of the quantity of interest by this tensor, of the same shape;
                left out, this tensor is the quantity, and must have one element.

        Raises:
            ValueError: it depends on nothing that requires a gradient, backward() ran before, grad
                is missing or of another shape or dtype, or a parameter has changed since this
                tensor was computed from it.
        """
        if self.node is None:
            raise ValueError("backward() of a tensor that depends on nothing that requires_grad")
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


class Deferred(NamedTuple):
    """How the values of a tensor will be computed: see Tensor.later."""

    compute: Callable
    takes_residual: bool


@contextlib.contextmanager
def deferring(completely=True):
    """Within the block (and thread), ops may put off computing what another op could fuse with: a
    sum with a product is computed by the product's kernel, in one pass over memory.

    Args:
        completely: whether what is still put off at the block's end is computed then. Otherwise it
            is computed when it is needed, until which its inputs must stay as they are.
    """
    before = getattr(_context, "deferring", None)
    waiting = _context.deferring = []
    try:
        yield
        for reference in waiting if completely else ():
            tensor = reference()
            if tensor is not None and tensor.deferred is not None:
                tensor._compute()
    finally:
        _context.deferring = before


def _restored(shape, code, data, is_leaf):
    """A tensor as it was pickled."""
    tensor = Tensor.empty(shape, code, memory=Memory(len(data)))
    tensor.memory.view[:] = data
    tensor.requires_grad = is_leaf
    return tensor


def _is_number(value):
    """Whether it is a real number of any kind, NumPy's included, and no Tensor."""
    return isinstance(value, numbers.Real)


def _product(shape):
    size = 1
    for n in shape:
        size *= n
    return size


def _as_lists(data):
    """Nested lists of what data holds."""
    if _is_number(data) or isinstance(data, (list, tuple)):
        return data
    if isinstance(data, (str, dict, set, frozenset)) or data is None:
        raise TypeError(f"a Tensor is made of numbers, not of {type(data).__name__}")
    try:
        view = memoryview(data)
    except TypeError:
        return list(data)
    try:
        return view.tolist()
    except NotImplementedError:
        return _nest(_unpacked(view), view.shape)


def _unpacked(view):
    """The values of a buffer whose format memoryview itself does not read, such as float16's."""
    try:
        if view.format[-1:] in "sp":
            raise struct.error
        return [value for value, in struct.iter_unpack(view.format, view.tobytes())]
    except (struct.error, ValueError):
        raise TypeError(f"a buffer of format {view.format!r} holds no numbers that a Tensor can "
                        "be made of") from None


def _shape_of(data):
    shape = []
    while isinstance(data, (list, tuple)):
        shape.append(len(data))
        if not data:
            break
        data = data[0]
    return tuple(shape)


def _flatten(data, shape, number):
    if not shape:
        if isinstance(data, (list, tuple)):
            raise ValueError(f"ragged lists: a list of {len(data)} where a number is expected")
        yield number(data)
        return
    if not isinstance(data, (list, tuple)) or len(data) != shape[0]:
        raise ValueError(f"ragged lists: {data!r} where a list of {shape[0]} is expected")
    for item in data:
        yield from _flatten(item, shape[1:], number)


def _float(value):
    if isinstance(value, (str, bytes, bytearray)) or not hasattr(value, "__float__"):
        try:
            return value.__index__()
        except AttributeError:
            raise TypeError(f"{value!r} is not a real number") from None
    return value if isinstance(value, float) else _exactly(float, value)


def _integer(value):
    if not hasattr(value, "__index__"):
        raise TypeError(f"{value!r} is not a whole number, as a tensor of int32 holds")
    return _exactly(int, value)


def _exactly(kind, value):
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{value!r} is not a number that a Tensor can hold: {error}") from None


_number_of = {"float32": _float, "int32": _integer}


def _packed(values, dtype):
    """The values in the bytes of a dtype.

    Raises:
        ValueError: one is out of range; it is named.
    """
    try:
        return struct.pack(f"={len(values)}{CODES[dtype]}", *values)  # = refuses what is too large
    except (struct.error, OverflowError):
        for value in values:
            try:
                struct.pack("=" + CODES[dtype], value)
            except (struct.error, OverflowError):
                raise ValueError(f"{value!r} is out of the range of {dtype}") from None
        raise


def _nest(flat, shape):
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return flat
    step = _product(shape[1:])
    return [_nest(flat[i * step:(i + 1) * step], shape[1:]) for i in range(shape[0])]


# ---------------------------------------------------------------------------------------- tape ---

class SharedGradient:
    """A gradient on its way back, held by one or more nodes. Only a sole holder may add to it.

    Views of it (`viewed_as`) lie in the same memory, so a view and the gradient that it was made
    from count their holders together.
    """

    __slots__ = ("tensor", "_holders")

    def __init__(self, tensor, holders=None):
        self.tensor = tensor
        self._holders = [1] if holders is None else holders  # its maker's, until release()

    def hold(self):
        self._holders[0] += 1
        return self

    def release(self):
        self._holders[0] -= 1

    def is_shared(self):
        return self._holders[0] > 1

    def viewed_as(self, shape):
        """The same gradient under another shape."""
        view = Tensor.empty(shape, memory=self.tensor.memory, offset=self.tensor.offset)
        return SharedGradient(view, self._holders)


class Node:
    """How a tensor came about: the nodes before it, and how its gradient is passed on to them.

    `backward(dout)` is called once, with the complete gradient of the output; it gets the place for
    each input's gradient from that input's node by `target()`, or hands one over by `receive()`.
    """

    __slots__ = ("serial", "shape", "parents", "backward", "shared", "__weakref__")

    def __init__(self, shape, parents, backward):
        self.serial, self.shape = next(_serials), shape
        self.parents, self.backward, self.shared = parents, backward, None

    def target(self):
        """Where a kernel shall put a gradient: (pointer, accumulate)."""
        if self.shared is None:
            self.shared = SharedGradient(Tensor.empty(self.shape))
            return self.shared.tensor.ptr, 0
        self._separate()
        return self.shared.tensor.ptr, 1

    def receive(self, shared):
        """Take a gradient that exists already: kept as it is if it is the first."""
        if self.shared is None:
            self.shared = shared.hold()
            return
        self._separate()
        mine = self.shared.tensor
        launch(lib.add_forward, mine.ptr, mine.ptr, shared.tensor.ptr, mine.size)

    def hand_over(self, tensor):
        """Take a gradient just made, which nobody else holds."""
        shared = SharedGradient(tensor)
        self.receive(shared)
        shared.release()

    def _separate(self):
        """Go on with a copy where another node still reads the gradient."""
        old = self.shared
        if not old.is_shared():
            return
        old.release()
        self.shared = SharedGradient(Tensor.empty(self.shape))
        launch(lib.scale_forward, self.shared.tensor.ptr, old.tensor.ptr, ONE.ptr,
               old.tensor.size, 0)

    def run(self):
        shared, self.shared = self.shared, None
        backward, self.backward, self.parents = self.backward, _ran_before, ()
        backward(shared)
        shared.release()


def _ran_before(shared):
    raise ValueError("backward() ran through this graph before; compute the tensor again")


class AccumulateFlag(int):
    """The accumulate flag of the first gradient that leaves get in a backward pass.

    0 when they hold none yet, 1 when they do: the one flag that differs between two runs of the
    same tape. A kernel that writes the gradients of several leaves has one flag for them all.

    Attributes:
        leaves: the Leafs it speaks of.
    """

    def __new__(cls, leaves):
        self = super().__new__(cls, any(leaf.valid for leaf in leaves))
        self.leaves = leaves
        return self

    def zero_missing(self):
        """Set the gradients to 0 that are added to although there are none."""
        for leaf in self.leaves if self else ():
            if not leaf.valid:
                leaf.gradient().flat()[:] = memoryview(bytes(4 * leaf.size())).cast("f")


def first_arrivals(leaves):
    """The flag of a kernel that brings the first gradient of this backward pass to several leaves.

    Where some of them hold a gradient and others do not, the others' memory is set to 0, so that
    the kernel can add to all of them.
    """
    flag = AccumulateFlag(leaves)
    flag.zero_missing()
    return flag


class Leaf(Node):
    """Where gradients end: a parameter, or a tensor made with requires_grad.

    Attributes:
        valid: whether its memory holds a gradient.
        changed_at: a serial number; results computed before it were computed from other values.
        before_use: called before the gradient is read or added to, or None.
    """

    __slots__ = ("memory", "offset", "valid", "changed_at", "before_use", "_arrived_in")

    def __init__(self, tensor):
        super().__init__(tensor.shape, (), None)
        self.memory, self.offset = None, 0
        self.valid, self.changed_at, self.before_use = False, 0, None
        self._arrived_in = 0     # the backward pass that last brought a gradient

    def size(self):
        return _product(self.shape)

    def gradient(self):
        if self.memory is None:
            self.memory = Memory(4 * _product(self.shape))
        return Tensor.empty(self.shape, memory=self.memory, offset=self.offset)

    @one_at_a_time
    def result(self):
        if not self.valid:
            return None
        if self.before_use:
            self.before_use()
        return self.gradient()

    def is_first_arrival(self):
        """Whether this backward pass has brought no gradient yet."""
        return self._arrived_in != _context.backward_pass

    def arrive(self):
        """Be ready for a gradient of this backward pass."""
        if self.valid and self.before_use and self.is_first_arrival():
            self.before_use()
        self.valid, self._arrived_in = True, _context.backward_pass
        return self.gradient().ptr

    def target(self):
        flag = AccumulateFlag((self,)) if self.is_first_arrival() else 1
        return self.arrive(), flag

    def receive(self, shared):
        ptr, flag = self.target()
        launch(lib.scale_forward, ptr, shared.tensor.ptr, ONE.ptr, shared.tensor.size, flag)

    def run(self):
        pass


@one_at_a_time
def run_backward(root, grad, computed_at=0):
    """Send grad through the graph that ends in root, latest node first.

    computed_at is a serial number, where the graph's values were computed once more at a later time
    than its nodes were made.

    A node's backward may run another pass inside (model.loss does, through its recorded program);
    each pass has a number of its own, so a leaf knows the first gradient that each one brings.
    """
    outer = getattr(_context, "backward_pass", 0)
    _context.backward_pass = next(_serials)
    try:
        root.receive(SharedGradient(grad))
        _run_nodes(root, computed_at=computed_at)
    finally:
        _context.backward_pass = outer


def _run_nodes(root, first=0, computed_at=0):
    """Run the nodes that root depends on and whose serial is `first` or above, latest first."""
    entering = getattr(_context, "entering", None)
    waiting, seen = [(-root.serial, root)], {root.serial}
    while waiting:
        node = heapq.heappop(waiting)[1]
        for parent in node.parents:
            if parent.serial >= first and parent.serial not in seen:
                seen.add(parent.serial)
                heapq.heappush(waiting, (-parent.serial, parent))
            if type(parent) is Leaf:
                refuse_changed(parent, max(node.serial, computed_at))
        if entering:
            entering(node)
        node.run()


def refuse_changed(leaf, serial):
    """Refuse to differentiate what was computed, at a serial number, from other values of a leaf.

    Raises:
        ValueError: the leaf has changed since.
    """
    if leaf.changed_at > serial:
        raise ValueError("backward(): a parameter has changed since this was computed from it, as "
                         "an optimizer's step changes it; compute the loss again")


def attach(out, inputs, backward):
    """Put a node on `out` if gradients are wanted and one of inputs (Tensor or None) needs one."""
    tape = getattr(_context, "tape", ON)
    if tape is not OFF:
        parents = tuple(t.node for t in inputs if t is not None and t.node is not None)
        if tape is not ON:
            tape.update((node.serial, node) for node in parents)
        elif parents:
            out.node = Node(out.shape, parents, backward)
    return out


# What becomes of the nodes: they are left (ON), or not (OFF), or not for now, and those that the
# inputs came from are noted in a dict by their serial numbers: recomputed() is at work.
ON, OFF = "on", "off"


def grad_enabled():
    """Whether ops leave nodes: not within no_grad(), nor when recomputed() first runs them."""
    return getattr(_context, "tape", ON) is ON


@contextlib.contextmanager
def _taping(tape):
    before = getattr(_context, "tape", ON)
    _context.tape = tape
    try:
        yield
    finally:
        _context.tape = before


def no_grad():
    """Within the block (and thread), ops leave no nodes, so that memory is freed as they go."""
    return _taping(OFF)


def recomputed(function, x):
    """function(x), of which the backward pass keeps x alone: it calls the function once more.

    The gradients are those of function(x) itself, bit for bit: the second call makes the nodes that
    the first left out, and the same backward pass goes on through them.

    Args:
        function: from a Tensor to a Tensor. The second call must do as the first did, so until then
            x and whatever else it uses must stay as they are. Nobody reads the values of its
            result, so those that ops put off (deferring) are never computed.
        x: a Tensor.
    """
    if not grad_enabled():
        return function(x)
    noted = {}
    with _taping(noted):
        out = function(x)

    def backward(dout):
        first = next_serial()
        with _taping(ON), deferring(completely=False):
            root = function(x).node
        root.receive(dout)
        dout.release()  # handed on: the nodes before may add to it in place
        _run_nodes(root, first)
        dout.hold()

    if noted:
        out.node = Node(out.shape, tuple(noted.values()), backward)
    return out


@contextlib.contextmanager
def entering_nodes(entering):
    """Within the block (and thread), tell entering(node) of each node that is about to be run."""
    _context.entering = entering
    try:
        yield
    finally:
        _context.entering = None


def next_serial():
    """A number above those of the nodes made so far and below those of the ones to come."""
    return next(_serials)


ONE = Tensor(1.0)
