"""A model's training step, recorded for each shape of batch and replayed.

The first loss of a shape is computed op by op and listened to; later ones replay what was recorded
(program.py) on the same memory. A recorded step belongs to one loss at a time, from its forward
pass until its backward pass has run or the loss is gone; another loss of that shape meanwhile gets
a step of its own. So the user sees ordinary tensors, and pays for planning once.

Uses program.py, tensor.py, ops.py; used by model.py.
"""

import contextlib
import threading
import weakref
from array import array

from pygpt import ops
from pygpt.kernels import IdRangeError, Memory
from pygpt.program import Program, run
from pygpt.tensor import Node, Tensor, grad_enabled

SHAPES_KEPT = 8  # recorded steps of other shapes are dropped, the one used longest ago first
SPARES_KEPT = 1  # steps of a shape that are kept beside the one in use


class Steps:
    """The recorded steps of a model: which are free, and which to forget."""

    def __init__(self, model):
        self._model, self._lock = weakref.ref(model), threading.Lock()
        self._by_key = {}  # in the order of last use

    @contextlib.contextmanager
    def take(self, ids, targets):
        """A step for this batch that nobody else uses, the batch in place; errors name bad ids."""
        model = self._model()
        B, T, flat = as_int32("ids", ids, model.config.n_positions)
        shape = as_int32("targets", targets, model.config.n_positions)
        if (B, T) != shape[:2]:
            raise ValueError(f"targets of shape {shape[:2]} for ids of shape {(B, T)}")
        if grad_enabled():
            model.gradients()
        step = self._free_step(model, (B, T, grad_enabled(), model.dropping(),
                                       grad_enabled() and model.recompute))
        try:
            step.ids.memory.view[:4 * B * T] = flat
            step.targets.memory.view[:4 * B * T] = shape[2]
            if step.seed is not None:
                step.seed.set(model.next_seed())
            with named_bad_ids(model.config.vocab_size, ids=step.ids, targets=step.targets):
                yield step
        finally:
            step.busy = False

    def _free_step(self, model, key):
        with self._lock:
            steps = [step for step in self._by_key.pop(key, []) if step.is_current()]
            free = [step for step in steps if step.is_free()]
            spare = set(map(id, free[1 + SPARES_KEPT:]))
            steps = [step for step in steps if id(step) not in spare]
            if not free:
                free = [Step(model, *key)]
                steps.append(free[0])
            self._by_key[key] = steps
            while len(self._by_key) > SHAPES_KEPT:
                del self._by_key[next(iter(self._by_key))]
            free[0].busy = True
            return free[0]

    def __iter__(self):
        return (step for steps in self._by_key.values() for step in steps)


class Step:
    """The recorded program of one step.

    Attributes:
        ids, targets, seed, dloss: what differs between runs, in memory that the calls read.
        loss: the loss of the last run, a Tensor of shape ().
    """

    def __init__(self, model, B, T, gradients, dropping, recompute):
        self.ids = Tensor.empty((B, T), "i", memory=Memory(4 * B * T))
        self.targets = Tensor.empty((B, T), "i", memory=Memory(4 * B * T))
        self.seed = ops.Seed() if dropping else None
        self.dloss = Tensor(1.0)
        self.busy, self.program, self.loss = False, None, None
        self._transformer, self._gradients = model.transformer, gradients
        self._recompute = recompute
        parameters = [p for _, p in model.named_parameters()]
        self._leaves = [p.node for p in parameters]
        self._places = [(p, p.memory) for p in parameters]
        self._graph = self._lent = None

    def is_current(self):
        """Whether the parameters are still where the program expects them: a part of a model may
        have been moved to flat buffers of its own, which nobody told the model of."""
        return all(p.memory is memory for p, memory in self._places)

    def is_free(self):
        return not self.busy and (self._lent is None or self._lent() is None)

    def forward(self):
        """The forward pass: the loss."""
        if self.program is None:
            self._record()
        else:
            run(self.program.forward)

    def forward_backward(self, scale):
        """Both passes, leaving out of the forward one what the backward one computes anyway."""
        if self.program is None:
            self._record()
        else:
            run(self.program.before_backward if self.program.recorded else self.program.forward)
        self.backward(scale)

    def _record(self):
        program = Program()
        with program.record_forward():
            x = self._transformer(self.ids, self.seed, recompute=self._recompute)
            graph = ops.linear_cross_entropy(x, self._transformer.wte.weight, self.targets)
        self.program, self._graph = program, graph
        self.loss = Tensor.empty((), memory=graph.memory)

    def backward(self, scale):
        """The backward pass of loss * scale; gradients are added to those that leaves hold."""
        self.dloss.flat()[0] = scale
        if not self.program.recorded:
            graph, self._graph, program = self._graph, None, self.program
            self.program = None  # an interrupted recording is none
            with program.record_backward():
                graph.backward(self.dloss)
            self.program = program
            return
        held = [leaf for leaf in self._leaves if leaf.valid]
        if not held:
            run(self.program.backward)
        else:
            for leaf in self._leaves:
                if not leaf.valid:
                    leaf.gradient().flat()[:] = memoryview(bytes(4 * leaf.size())).cast("f")
            if held[0].before_use:
                held[0].before_use()
            run(self.program.backward_again)
        for leaf in self._leaves:
            leaf.valid = True

    def lend_loss(self):
        """The loss as a tensor of its own, which later runs of the step do not change."""
        loss = Tensor(float(self.loss))
        if self._gradients:
            def backward(dout):
                self._lent = None
                self.backward(float(dout.tensor))

            loss.node = Node((), (), backward)
            self._lent = weakref.ref(loss.node)
        return loss


# ----------------------------------------------------------------------------------------- ids ---

def as_int32(name, ids, n_positions):
    """(B, T, bytes) of B lists of T ints or of an int32 buffer of shape (B, T).

    Raises:
        ValueError: they are anything else, T is 0 or above n_positions, or B is 0.
    """
    if isinstance(ids, (list, tuple)):
        B, T, data = _int32_of_lists(name, ids)
    else:
        B, T, data = _int32_of_buffer(name, ids)
    if B == 0 or T == 0:
        raise ValueError(f"{name}: {B} sequences of {T} positions; give at least one of each")
    if T > n_positions:
        raise ValueError(f"{name}: {T} positions are more than n_positions={n_positions}")
    return B, T, data


def _int32_of_lists(name, ids):
    if not ids or not isinstance(ids[0], (list, tuple)):
        raise ValueError(f"{name}: expected B lists of T ints, got {_short(ids)}")
    T, flat = len(ids[0]), array("i")
    for row in ids:
        if not isinstance(row, (list, tuple)) or len(row) != T:
            raise ValueError(f"{name}: {_short(row)} is not a list of {T} ids like the first")
        try:
            flat.extend(row)
        except (TypeError, OverflowError):
            raise ValueError(f"{name}: {_short(row)} is not a list of ids") from None
    return len(ids), T, memoryview(flat).cast("B")


def _int32_of_buffer(name, ids):
    try:
        view = memoryview(ids)
    except TypeError:
        raise ValueError(f"{name}: expected B lists of T ints or an int32 buffer, got "
                         f"{type(ids).__name__}") from None
    if view.format not in ("i", "l") or view.itemsize != 4 or view.ndim != 2:
        raise ValueError(f"{name}: a buffer of {8 * view.itemsize}-bit items of format "
                         f"{view.format!r} and {view.ndim} dimensions is not int32 of shape (B, T)")
    if 0 in view.shape:
        return (*view.shape, b"")
    return (*view.shape, view.cast("B") if view.c_contiguous else view.tobytes())


@contextlib.contextmanager
def named_bad_ids(vocab_size, **tensors):
    """Within the block, a kernel's IdRangeError becomes a ValueError that names the id."""
    try:
        yield
    except IdRangeError:
        for name, tensor in tensors.items():
            for value in tensor.flat():
                if not 0 <= value < vocab_size:
                    raise ValueError(f"{name}: {value} is outside 0..{vocab_size - 1} "
                                     f"(vocab_size={vocab_size})") from None
        raise


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
