"""Tensor, and the tape that differentiates: what ran is written down, and run backwards.

An op (ops.py) computes a tensor and leaves a `Node` with it: which nodes its inputs came from, and
a function that takes the gradient of the output and sends gradients on to the inputs. A node's
serial number grows with time, so going through the reachable nodes from the highest down visits
every node after all that depend on it. No recursion, so a graph may be of any depth.

A gradient that arrives first is written, a later one added; which of the two is known when the call
is made, so no memory is ever zeroed to be added to.

Uses kernels.py and running.py; used by ops.py and everything above.
"""

import contextlib
import heapq
import itertools
import threading

from pygpt.kernels import Memory, lib
from pygpt.running import allocate, launch

try:
    from pygpt._buffer import Exporter
except ImportError:  # Python 3.12 and later ask __buffer__ itself
    Exporter = object

_serials = itertools.count(1)
_context = threading.local()  # .tape, .backward_pass, .entering: of the blocks below


# ------------------------------------------------------------------------------------- tensors ---

class Tensor(Exporter):
    """A float32 array, dense and row-major, in memory that kernels read and write.

    Args:
        data: nested lists of numbers, all of one shape, a buffer of numbers, or a single number.
        requires_grad: whether backward() shall leave a gradient in `.grad`.

    Raises:
        ValueError: the lists are ragged.
    """

    __slots__ = ("shape", "size", "ptr", "memory", "offset", "code", "node", "remake",
                 "__weakref__")

    def __init__(self, data, requires_grad=False):
        data = _as_lists(data)
        shape = _shape_of(data)
        self._bind(shape, allocate(4 * _product(shape)))
        flat = self.flat()
        for i, value in enumerate(_flatten(data, shape)):
            flat[i] = value
        if requires_grad:
            self.node = Leaf(self)

    @classmethod
    def empty(cls, shape, code="f", memory=None, offset=0):
        """A tensor of undefined contents; code is "f" (float32) or "i" (int32)."""
        self = cls.__new__(cls)
        self._bind(tuple(shape), memory, offset, code)
        return self

    def _bind(self, shape, memory=None, offset=0, code="f"):
        self.shape, self.size, self.code = shape, _product(shape), code
        self.memory = allocate(4 * self.size) if memory is None else memory
        self.offset, self.ptr = offset, self.memory.pointer(code, offset)
        self.node = self.remake = None

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
        """Its values as nested lists, or a single float where the shape is ()."""
        return _nest(self.flat().tolist(), self.shape)

    def __float__(self):
        if self.size != 1:
            raise ValueError(f"float() of a tensor of shape {self.shape}: {self.size} values")
        return self.flat()[0]

    def __len__(self):
        if not self.shape:
            raise TypeError("len() of a tensor of shape ()")
        return self.shape[0]

    def __repr__(self):
        values = str(self.tolist()) if self.size <= 64 else "..."
        return f"Tensor({values}, shape={self.shape})"

    def __add__(self, other):
        from pygpt import ops
        return ops.add(self, other) if isinstance(other, Tensor) else NotImplemented

    def __mul__(self, other):
        from pygpt import ops
        if isinstance(other, (int, float)):
            return ops.scale(self, other)
        return ops.mul(self, other) if isinstance(other, Tensor) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, other):
        return self * (1.0 / other) if isinstance(other, (int, float)) else NotImplemented

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -other if isinstance(other, Tensor) else NotImplemented

    def __matmul__(self, other):
        from pygpt import ops
        return ops.matmul(self, other) if isinstance(other, Tensor) else NotImplemented

    @property
    def requires_grad(self):
        """Whether gradients flow to or through it."""
        return self.node is not None

    @property
    def grad(self):
        """The gradient that backward() left, a Tensor of the same shape, or None."""
        return self.node.result() if isinstance(self.node, Leaf) else None

    def backward(self, grad=None):
        """Add this tensor's derivative with respect to every leaf it depends on to the leaf's grad.

        Args:
            grad: the derivative of the quantity of interest by this tensor, of the same shape;
                left out, this tensor is the quantity, and must have one element.

        Raises:
            ValueError: it depends on nothing that requires a gradient, backward() ran before, or
                grad is missing or of another shape.
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
        run_backward(self.node, grad)


def _product(shape):
    size = 1
    for n in shape:
        size *= n
    return size


def _as_lists(data):
    if isinstance(data, (int, float, list, tuple)):
        return data
    try:
        return memoryview(data).tolist()
    except TypeError:
        return list(data)
    except NotImplementedError:
        raise ValueError(f"a buffer of format {memoryview(data).format!r}: its items are not "
                         "numbers") from None


def _shape_of(data):
    shape = []
    while isinstance(data, (list, tuple)):
        shape.append(len(data))
        if not data:
            break
        data = data[0]
    return tuple(shape)


def _flatten(data, shape):
    if not shape:
        if isinstance(data, (list, tuple)):
            raise ValueError(f"ragged lists: a list of {len(data)} where a number is expected")
        yield float(data)
        return
    if not isinstance(data, (list, tuple)) or len(data) != shape[0]:
        raise ValueError(f"ragged lists: {data!r} where a list of {shape[0]} is expected")
    for item in data:
        yield from _flatten(item, shape[1:])


def _nest(flat, shape):
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return flat
    step = _product(shape[1:])
    return [_nest(flat[i * step:(i + 1) * step], shape[1:]) for i in range(shape[0])]


# ---------------------------------------------------------------------------------------- tape ---

class Shared:
    """A gradient in the hands of one or more nodes; it may be added to only while there is one."""

    __slots__ = ("tensor", "holders")

    def __init__(self, tensor):
        self.tensor, self.holders = tensor, 1

    def viewed_as(self, shape):
        """The same gradient under another shape, which is never added to in place."""
        view = Shared(Tensor.empty(shape, memory=self.tensor.memory, offset=self.tensor.offset))
        view.holders += 1
        return view


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
            self.shared = Shared(Tensor.empty(self.shape))
            return self.shared.tensor.ptr, 0
        if self.shared.holders > 1:  # another node still reads it: go on with a copy
            self._separate()
        return self.shared.tensor.ptr, 1

    def receive(self, shared):
        """Take a gradient that exists already: kept as it is if it is the first."""
        if self.shared is None:
            shared.holders += 1
            self.shared = shared
            return
        if self.shared.holders > 1:
            self._separate()
        mine = self.shared.tensor
        launch(lib.add_forward, mine.ptr, mine.ptr, shared.tensor.ptr, mine.size)

    def hand_over(self, tensor):
        """Take a gradient just made, which nobody else holds."""
        shared = Shared(tensor)
        self.receive(shared)
        shared.holders -= 1

    def _separate(self):
        old = self.shared
        old.holders -= 1
        self.shared = Shared(Tensor.empty(self.shape))
        launch(lib.scale_forward, self.shared.tensor.ptr, old.tensor.ptr, ONE.ptr,
               old.tensor.size, 0)

    def run(self):
        shared, self.shared = self.shared, None
        backward, self.backward, self.parents = self.backward, _ran_before, ()
        backward(shared)
        shared.holders -= 1


def _ran_before(shared):
    raise ValueError("backward() ran through this graph before; compute the tensor again")


class Arrival(int):
    """The accumulate flag of the first gradient to reach a leaf in a backward pass: 0 when the leaf
    has none yet, 1 when it has. The one flag that differs between runs of the same tape."""


class Leaf(Node):
    """Where gradients end: a parameter, or a tensor made with requires_grad."""

    __slots__ = ("memory", "offset", "valid", "arrived_in", "before_use")

    def __init__(self, tensor):
        super().__init__(tensor.shape, (), None)
        self.memory, self.offset = None, 0
        self.valid = False       # whether memory holds a gradient
        self.arrived_in = 0      # the backward pass that last brought one
        self.before_use = None   # called before the gradient is read or added to

    def size(self):
        return _product(self.shape)

    def gradient(self):
        if self.memory is None:
            self.memory = Memory(4 * _product(self.shape))
        return Tensor.empty(self.shape, memory=self.memory, offset=self.offset)

    def result(self):
        if not self.valid:
            return None
        if self.before_use:
            self.before_use()
        return self.gradient()

    def target(self):
        first = self.arrived_in != _context.backward_pass
        if self.valid and first and self.before_use:
            self.before_use()
        flag = Arrival(self.valid) if first else 1
        self.valid, self.arrived_in = True, _context.backward_pass
        return self.gradient().ptr, flag

    def receive(self, shared):
        ptr, flag = self.target()
        launch(lib.scale_forward, ptr, shared.tensor.ptr, ONE.ptr, shared.tensor.size, flag)

    def run(self):
        pass


def run_backward(root, grad):
    """Send grad through the graph that ends in root, latest node first.

    A node's backward may run another pass inside (model.loss does, through its recorded program);
    each pass has a number of its own, so a leaf knows the first gradient that each one brings.
    """
    outer = getattr(_context, "backward_pass", 0)
    _context.backward_pass = next(_serials)
    try:
        root.receive(Shared(grad))
        _run_nodes(root)
    finally:
        _context.backward_pass = outer


def _run_nodes(root, first=0):
    """Run the nodes that root depends on and whose serial is `first` or above, latest first."""
    entering = getattr(_context, "entering", None)
    waiting, seen = [(-root.serial, root)], {root.serial}
    while waiting:
        node = heapq.heappop(waiting)[1]
        for parent in node.parents:
            if parent.serial >= first and parent.serial not in seen:
                seen.add(parent.serial)
                heapq.heappush(waiting, (-parent.serial, parent))
        if entering:
            entering(node)
        node.run()


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
        function: from a Tensor to a Tensor. The second call is function(x, tape_only=True): it must
            do as the first did, but the result's values are not read, so it may leave out what
            computes these alone. Until then x and whatever else it uses must stay as they are.
        x: a Tensor.
    """
    if not grad_enabled():
        return function(x)
    noted = {}
    with _taping(noted):
        out = function(x)

    def backward(dout):
        first = next_serial()
        with _taping(ON):
            root = function(x, tape_only=True).node
        root.receive(dout)
        dout.holders -= 1  # handed on: the nodes before may add to it in place
        _run_nodes(root, first)
        dout.holders += 1

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
