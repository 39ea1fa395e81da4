"""The tape that differentiates: ops leave nodes, and a backward pass runs them in reverse.

An op computes an array and leaves a `Node` with it: the nodes that its inputs came from, and a
function that takes the gradient of the output and sends gradients on to the inputs. A node's
serial number grows with time, so going through the reachable nodes from the highest down visits
every node after all that depend on it. No recursion, so a graph may be of any depth.

    x ---> mul ---> sum ---> loss        forward: each op leaves a node, serial 1, 2, 3 ...
    Leaf <-- Node <-- Node <--- 1.0      backward: highest serial first; gradients end in leaves

A gradient that arrives first is written, a later one added; which of the two is known when the call
is made, so no memory is ever zeroed to be added to.
"""

import contextlib
import itertools
import threading
from math import prod

from pygpt.autograd.arrays import Array, deferring
from pygpt.autograd.launch import launch, one_at_a_time
from pygpt.backend.kernels import Memory, lib

_serials = itertools.count(1)
_context = threading.local()  # .tape, .backward_pass, .entering: of the blocks below

ONE = Array.empty((), memory=Memory(4))
ONE.flat()[0] = 1.0


class SharedGradient:
    """A gradient on its way back, held by one or more nodes. Only a sole holder may add to it.

    Views of it (`viewed_as`) lie in the same memory, so a view and the gradient that it was made
    from count their holders together.
    """

    __slots__ = ("array", "_holders")

    def __init__(self, array, holders=None):
        self.array = array
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
        view = Array.empty(shape, memory=self.array.memory, offset=self.array.offset)
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
            self.shared = SharedGradient(Array.empty(self.shape))
            return self.shared.array.ptr, 0
        self._separate()
        return self.shared.array.ptr, 1

    def receive(self, shared):
        """Take a gradient that exists already: kept as it is if it is the first."""
        if self.shared is None:
            self.shared = shared.hold()
            return
        self._separate()
        mine = self.shared.array
        launch(lib.add_forward, mine.ptr, mine.ptr, shared.array.ptr, mine.size)

    def hand_over(self, array):
        """Take a gradient just made, which nobody else holds."""
        shared = SharedGradient(array)
        self.receive(shared)
        shared.release()

    def _separate(self):
        """Go on with a copy where another node still reads the gradient."""
        old = self.shared
        if not old.is_shared():
            return
        old.release()
        self.shared = SharedGradient(Array.empty(self.shape))
        launch(lib.scale_forward, self.shared.array.ptr, old.array.ptr, ONE.ptr,
               old.array.size, 0)

    def refuse(self, computed_at):
        """Refuse to run where it ran before, or where a leaf has changed since it was made or,
        later, computed once more.

        Raises:
            ValueError: it is so.
        """
        if self.backward is _ran_before:
            _ran_before(None)
        for parent in self.parents:
            if type(parent) is Leaf:
                refuse_changed(parent, max(self.serial, computed_at))

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

    def __init__(self, shape):
        super().__init__(shape, (), None)
        self.memory, self.offset = None, 0
        self.valid, self.changed_at, self.before_use = False, 0, None
        self._arrived_in = 0     # the backward pass that last brought a gradient

    def size(self):
        return prod(self.shape)

    def gradient(self):
        if self.memory is None:
            self.memory = Memory(4 * prod(self.shape))
        return Array.empty(self.shape, memory=self.memory, offset=self.offset)

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
        launch(lib.scale_forward, ptr, shared.array.ptr, ONE.ptr, shared.array.size, flag)

    def refuse(self, computed_at):
        pass

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
        _run_nodes(root, SharedGradient(grad), computed_at=computed_at)
    finally:
        _context.backward_pass = outer


def refuse_stale(root, computed_at=0):
    """Refuse to run backward from root, as Node.refuse does, before anything has run."""
    for node in _reachable(root, 0):
        node.refuse(computed_at)


def _run_nodes(root, gradient, first=0, computed_at=0):
    """Give root a gradient, and run the nodes that it depends on and whose serial is `first` or
    above, latest first. What can be refused is refused before the first of them runs."""
    entering = getattr(_context, "entering", None)
    nodes = _reachable(root, first)
    for node in nodes:
        node.refuse(computed_at)
    try:
        root.receive(gradient)
        if first:
            gradient.release()  # the node that calls hands it on: those before may add to it
        for node in nodes:
            if entering:
                entering(node)
            node.run()
    except BaseException:
        for node in nodes:
            node.shared = None  # else a later pass would add to what this one left
        raise


def _reachable(root, first):
    """The nodes that root depends on, itself included, highest serial first."""
    found, waiting = {root.serial: root}, [root]
    while waiting:
        for parent in waiting.pop().parents:
            if parent.serial >= first and parent.serial not in found:
                found[parent.serial] = parent
                waiting.append(parent)
    return [found[serial] for serial in sorted(found, reverse=True)]


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
        try:
            _run_nodes(root, dout, first)
        finally:
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
