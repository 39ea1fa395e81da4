"""Records ops as nodes on a tape, and runs them in reverse to compute gradients.

An op computes an array and leaves a `Node` with it. The node holds the nodes of the op's inputs,
and a function that takes the gradient of the output and sends gradients on to the inputs. Serial
numbers grow with time, so visiting the reachable nodes from the highest number down visits every
node after all nodes that depend on it. There is no recursion, so a graph may have any depth.

    x ---> mul ---> sum ---> loss        forward: each op leaves a node, serial 1, 2, 3 ...
    Leaf <-- Node <-- Node <--- 1.0      backward: highest serial first; gradients end in leaves

The first gradient of a node is written, and a later one is added to it. The caller knows which of
the two it is, so memory need not be zeroed before gradients are added.
"""

import itertools
from contextlib import AbstractContextManager
from math import prod

from pygpt.autograd.arrays import Array, deferring
from pygpt.autograd.launch import launch, one_at_a_time
from pygpt.autograd.precision import computing_in, dtype_in_force
from pygpt.autograd.thread_settings import ThreadSettings
from pygpt.backend.kernels import Memory, lib

_serials = itertools.count(1)

# Values of _settings.tape. ON: ops leave nodes. OFF: they leave none. A dict: they leave none, and
# the nodes of their inputs are collected in it by serial number, for recomputed().
ON, OFF = "on", "off"


class _Settings(ThreadSettings):
    tape = ON
    backward_pass = 0     # the number of the backward pass in progress
    before_node = None    # a function that is called before each node runs


_settings = _Settings()

ONE = Array.empty((), memory=Memory(4))
ONE.flat()[0] = 1.0


class SharedGradient:
    """A gradient of the backward pass, held by one or more nodes. Only a sole holder may add to it.

    Views of it (`viewed_as`) lie in the same memory, so a view and its original count their holders
    together.
    """

    __slots__ = ("array", "_holders")

    def __init__(self, array, holders=None):
        self.array = array
        self._holders = [1] if holders is None else holders  # its maker holds it until release()

    def hold(self):
        self._holders[0] += 1
        return self

    def release(self):
        self._holders[0] -= 1

    def is_shared(self):
        return self._holders[0] > 1

    def viewed_as(self, shape):
        """Return the same gradient under another shape."""
        view = Array.empty(shape, memory=self.array.memory, offset=self.array.offset)
        return SharedGradient(view, self._holders)


class Node:
    """Records how a tensor was computed: the nodes of its inputs, and a function for the gradients.

    `backward(dout)` is called once, with the complete gradient of the output. It asks each input's
    node for the place of that input's gradient (`target()`), or passes a gradient to the node
    (`receive()`).
    """

    __slots__ = ("serial", "shape", "parents", "backward", "shared", "__weakref__")

    def __init__(self, shape, parents, backward):
        self.serial, self.shape = next(_serials), shape
        self.parents, self.backward, self.shared = parents, backward, None

    def target(self):
        """Return (pointer, accumulate) for a kernel that writes a gradient."""
        if self.shared is None:
            self.shared = SharedGradient(Array.empty(self.shape))
            return self.shared.array.ptr, 0
        self._copy_if_shared()
        return self.shared.array.ptr, 1

    def receive(self, shared):
        """Take an existing gradient: share it if it is the first, otherwise add it."""
        if self.shared is None:
            self.shared = shared.hold()
            return
        self._copy_if_shared()
        mine = self.shared.array
        launch(lib.add_forward, mine.ptr, mine.ptr, shared.array.ptr, mine.size)

    def hand_over(self, array):
        """Take a new gradient that has no other holder."""
        shared = SharedGradient(array)
        self.receive(shared)
        shared.release()

    def _copy_if_shared(self):
        """Replace the gradient by a copy if another node still reads it."""
        old = self.shared
        if not old.is_shared():
            return
        old.release()
        self.shared = SharedGradient(Array.empty(self.shape))
        launch(lib.scale_forward, self.shared.array.ptr, old.array.ptr, ONE.ptr,
               old.array.size, 0)

    def refuse_if_stale(self, computed_at):
        """Check that the node may run.

        Args:
            computed_at: the serial number at which the values were last computed again, or 0.

        Raises:
            ValueError: it ran before, or a leaf has changed since its values were computed.
        """
        if self.backward is _refuse_second_run:
            _refuse_second_run(None)
        for parent in self.parents:
            if type(parent) is Leaf:
                parent.refuse_if_changed_after(max(self.serial, computed_at))

    def forget_gradient(self):
        """Forget what a pass that failed has brought: a later pass would add to it."""
        self.shared = None

    def run(self):
        shared, self.shared = self.shared, None
        backward, self.backward, self.parents = self.backward, _refuse_second_run, ()
        backward(shared)
        shared.release()


def _refuse_second_run(shared):
    """Take the place of a node's backward function once that has run."""
    raise ValueError("backward() ran through this graph before; compute the tensor again")


class AccumulateFlag(int):
    """The accumulate flag of the first gradient that leaves get in a backward pass.

    It is 1 if a leaf holds a gradient from an earlier pass, and 0 if none does. A kernel that
    writes the gradients of several leaves has one flag for all of them. When recorded calls are
    replayed, these flags are the only arguments that must be found anew: whether a leaf holds a
    gradient may have changed since the recording.

    Attributes:
        leaves: the Leafs whose gradients the kernel writes.
    """

    def __new__(cls, leaves):
        self = super().__new__(cls, any(leaf.valid for leaf in leaves))
        self.leaves = leaves
        return self

    def zero_missing(self):
        """Where the flag is 1, set the gradient of each leaf that holds none to 0, so that the
        kernel can add to all of them."""
        if self:
            for leaf in self.leaves:
                if not leaf.valid:
                    values = leaf.gradient().flat().cast("B")
                    values[:] = bytes(len(values))


class Leaf(Node):
    """Collects the gradient of a parameter, or of a tensor made with requires_grad.

    Attributes:
        valid: whether its memory holds a gradient.
        changed_at: the serial number of the last change of its values. Results with lower numbers
            were computed from older values.
        before_use: a function to call before the gradient is read or added to, or None.
    """

    __slots__ = ("memory", "offset", "valid", "changed_at", "before_use", "_last_pass")

    def __init__(self, shape):
        super().__init__(shape, (), None)
        self.memory, self.offset = None, 0
        self.valid, self.changed_at, self.before_use = False, 0, None
        self._last_pass = 0     # the last backward pass that brought a gradient

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

    def awaits_first_gradient(self):
        """Whether this backward pass has brought no gradient to the leaf yet."""
        return self._last_pass != _settings.backward_pass

    def prepare_gradient(self):
        """Prepare for a gradient of this backward pass; return the pointer to its place."""
        if self.valid and self.before_use and self.awaits_first_gradient():
            self.before_use()
        self.valid, self._last_pass = True, _settings.backward_pass
        return self.gradient().ptr

    def target(self):
        flag = AccumulateFlag((self,)) if self.awaits_first_gradient() else 1
        return self.prepare_gradient(), flag

    def receive(self, shared):
        ptr, flag = self.target()
        launch(lib.scale_forward, ptr, shared.array.ptr, ONE.ptr, shared.array.size, flag)

    def refuse_if_changed_after(self, serial):
        """Check that results which were computed at that serial number are still differentiable.

        Raises:
            ValueError: the leaf's values have changed since then.
        """
        if self.changed_at > serial:
            raise ValueError("backward(): a parameter has changed since this was computed from it, "
                             "as an optimizer's step changes it; compute the loss again")

    def refuse_if_stale(self, computed_at):
        """Do nothing: a leaf is not computed. The nodes that read it check its changes."""

    def forget_gradient(self):
        """Forget the gradient, and that of earlier passes: a kernel may have added to a part."""
        self.valid = False

    def run(self):
        """Do nothing: the gradient has arrived."""


@one_at_a_time
def run_backward(root, grad, computed_at=0):
    """Send grad through the graph that ends in root, latest node first.

    A replay computes the values of a graph again, later than its nodes were made. computed_at is
    then the serial number of that time, and otherwise 0.

    A node's backward may run another pass inside, as that of model.loss does. Each pass has a
    number of its own, so a leaf recognises the first gradient of each pass.
    """
    with _settings.set(backward_pass=next(_serials)):
        _run_nodes(root, SharedGradient(grad), computed_at=computed_at)


def refuse_stale(root, computed_at=0):
    """Check all nodes that root depends on, before any of them runs; see refuse_if_stale."""
    for node in _reachable(root, 0):
        node.refuse_if_stale(computed_at)


def _run_nodes(root, gradient, first=0, computed_at=0):
    """Give root a gradient, and run the nodes that it depends on whose serial is `first` or above,
    latest first. All checks are made before the first of them runs. If one fails, no node and no
    leaf among them has a gradient."""
    nodes = _reachable(root, first)
    for node in nodes:
        node.refuse_if_stale(computed_at)
    try:
        root.receive(gradient)
        if first:
            gradient.release()  # the caller gives up its hold, so the nodes below may add to it
        for node in nodes:
            if _settings.before_node:
                _settings.before_node(node)
            node.run()
    except BaseException:
        for node in nodes:
            node.forget_gradient()
        raise


def _reachable(root, first):
    """List the nodes that root depends on, root included, highest serial first."""
    found, waiting = {root.serial: root}, [root]
    while waiting:
        for parent in waiting.pop().parents:
            if parent.serial >= first and parent.serial not in found:
                found[parent.serial] = parent
                waiting.append(parent)
    return [found[serial] for serial in sorted(found, reverse=True)]


def attach(out, inputs, backward):
    """Put a node on `out` if the tape is on and one of the inputs (Tensor or None) has a node."""
    tape = _settings.tape
    if tape is not OFF:
        parents = tuple(t.node for t in inputs if t is not None and t.node is not None)
        if tape is not ON:
            tape.update((node.serial, node) for node in parents)
        elif parents:
            out.node = Node(out.shape, parents, backward)
    return out


def grad_enabled():
    """Whether ops leave nodes. They leave none within no_grad(), and none in the first run of
    recomputed()."""
    return _settings.tape is ON


def no_grad() -> AbstractContextManager[None]:
    """Within the block (and thread), ops leave no nodes, so memory is freed as they go."""
    return _settings.set(tape=OFF)


def recomputed(function, x):
    """Compute function(x), keep only x for the backward pass, and call the function again there.

    The gradients equal those of function(x) bit for bit: the second call makes the nodes that the
    first left out, and the same backward pass goes on through them.

    Args:
        function: a function from a Tensor to a Tensor. The second call must repeat the first, so x
            and all that the function uses must stay unchanged until then. The values of the second
            result are never read, so the ones that ops defer (deferring) are never computed.
        x: a Tensor.
    """
    if not grad_enabled():
        return function(x)
    input_nodes, dtype = {}, dtype_in_force()
    with _settings.set(tape=input_nodes):
        out = function(x)

    def backward(dout):
        first = next_serial()
        with _settings.set(tape=ON), deferring(completely=False), computing_in(dtype):
            root = function(x).node
        _run_nodes(root, dout, first)
        dout.hold()  # _run_nodes released it, and so will Node.run, which called this function

    if input_nodes:
        out.node = Node(out.shape, tuple(input_nodes.values()), backward)
    return out


def entering_nodes(function):
    """Within the block (and thread), call function(node) before each node runs."""
    return _settings.set(before_node=function)


def next_serial():
    """Return a number above those of all earlier nodes and below those of all later nodes."""
    return next(_serials)
