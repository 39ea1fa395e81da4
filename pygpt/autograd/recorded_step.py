"""A model's training step, recorded for each shape of batch and replayed.

The first loss of a shape is computed op by op while the kernel calls are recorded; later ones
replay the calls (program.py) on the same memory. A recorded step belongs to one loss at a time,
from its forward pass until its backward pass has run or the loss is gone; another loss of that
shape meanwhile gets a step of its own. So the user sees ordinary tensors, and pays for planning
once.

A replay is right only while everything is as it was that the calls were made from. That is what a
step is looked up by: the batch's shape and the modes are its key, and whatever else the transformer
computes from (its modules, their settings, where its parameters lie, which of them are trained) is
compared before every step (nn.watched). A transformer that holds a module of another kind than this
library's runs op by op.

Uses program.py, tensor.py, ops.py, nn.py; used by model.py.
"""

import contextlib
import weakref
from array import array
from typing import NamedTuple

from pygpt.autograd import ops
from pygpt.backend.kernels import IdRangeError, Memory
from pygpt.nn import is_as_written, watched
from pygpt.autograd.replay import Program, run
from pygpt.autograd.launch import is_watched
from pygpt.autograd.tensor import Node, Tensor, grad_enabled, next_serial, refuse_changed, run_backward

SHAPES_KEPT = 8  # recorded steps of other keys are dropped, the one used longest ago first
SPARES_KEPT = 1  # steps of a key that are kept beside the one in use


class Key(NamedTuple):
    """What the calls of a step depend on besides the transformer itself."""

    B: int
    T: int
    ignore_index: int
    gradients: bool    # whether there will be a backward pass
    dropping: tuple    # the dropout shares in force, () for none
    recompute: bool


def dropout_shares(dropouts):
    """The shares in force now, one for each Dropout module; () when all are 0."""
    now = tuple([module.share if module.training else 0.0 for module in dropouts])
    return now if any(now) else ()


class Steps:
    """The recorded steps of a model: which are free, and which to forget."""

    def __init__(self, model):
        self._model = weakref.ref(model)
        self._by_key = {}     # in the order of last use
        self._watched = None  # what all of them were recorded from
        self._dropouts = ()   # the Dropout modules in there
        self._has_gradients = False  # whether the parameters' gradients lie in flat buffers

    @contextlib.contextmanager
    def take(self, ids, targets, ignore_index):
        """A step for this batch that nobody else uses, the batch in place; errors name bad ids."""
        model = self._model()
        B, T, flat = as_int32("ids", ids, model.config.n_positions)
        shape = as_int32("targets", targets, model.config.n_positions)
        if (B, T) != shape[:2]:
            raise ValueError(f"targets of shape {shape[:2]} for ids of shape {(B, T)}")
        self._look_at(model)
        key = Key(B, T, ignore_index, grad_enabled(), dropout_shares(self._dropouts),
                  grad_enabled() and model.recompute)
        step = self._free_step(model, key)
        try:
            step.ids.memory.view[:4 * B * T] = flat
            step.targets.memory.view[:4 * B * T] = shape[2]
            if step.seed is not None:
                step.seed.set(model.next_seed())
            with named_bad_ids(model.config.vocab_size, step.ids, step.targets, ignore_index):
                yield step
        finally:
            step.busy = False

    def _look_at(self, model):
        """Forget the steps where the model is not as it was when they were recorded."""
        now = self._watched_in(model)
        if grad_enabled() and (now is None or now != self._watched or not self._has_gradients):
            model.gradients()  # which may move the parameters to flat buffers
            now, self._has_gradients = self._watched_in(model), True
        if now is None or now != self._watched:
            self._by_key, self._watched = {}, now
            self._dropouts = model.transformer.dropouts()

    @staticmethod
    def _watched_in(model):
        """What the steps of a model depend on; None where they are to run op by op."""
        if is_as_written(type(model), "forward_loss") and not is_watched():
            return watched(model.transformer)
        return None

    def _free_step(self, model, key):
        steps = self._by_key.pop(key, [])
        if self._watched is None:
            return Step(model, key, is_recorded=False)
        free = [step for step in steps if step.is_free()]
        spare = set(map(id, free[1 + SPARES_KEPT:]))
        steps = [step for step in steps if id(step) not in spare]
        if not free:
            free = [Step(model, key)]
            steps.append(free[0])
        self._by_key[key] = steps
        while len(self._by_key) > SHAPES_KEPT:
            del self._by_key[next(iter(self._by_key))]
        free[0].busy = True
        return free[0]

    def __iter__(self):
        return (step for steps in self._by_key.values() for step in steps)


class Step:
    """One training step: its batch, its loss, and the recorded program that computes it.

    Args:
        model: a GPT.
        key: the Key of the step.
        is_recorded: whether the passes are recorded and replayed, or run op by op each time.

    Attributes:
        ids, targets, seed, dloss: what differs between runs, in memory that the calls read.
        loss: the loss of the last run, a Tensor of shape ().
        program: the recorded Program, None before there is one.
        busy: whether somebody is computing with it.
    """

    def __init__(self, model, key, is_recorded=True):
        B, T = key.B, key.T
        self.ids = Tensor.empty((B, T), "i", memory=Memory(4 * B * T))
        self.targets = Tensor.empty((B, T), "i", memory=Memory(4 * B * T))
        self.seed = ops.Seed() if key.dropping else None
        self.dloss = Tensor(1.0)
        self.busy, self.program, self.loss = False, None, None
        self._model, self._key, self._is_recorded = weakref.ref(model), key, is_recorded
        self._graph = self._lent = None
        self._has_gradients, self._computed_at = False, 0

    def is_free(self):
        return not self.busy and (self._lent is None or self._lent() is None)

    def forward(self):
        """The forward pass: the loss."""
        self._forward(lambda program: program.forward)

    def forward_backward(self, scale):
        """Both passes, leaving out of the forward one what the backward one computes anyway."""
        self._forward(lambda program: program.before_backward if program.recorded
                      else program.forward)
        if self._has_gradients:
            self.backward(scale)

    def _forward(self, calls_of):
        self._computed_at = next_serial()
        if self.program is None or not self.program.is_replayable():
            self._compute()
        else:
            run(calls_of(self.program))

    def _compute(self):
        """The forward pass op by op, recorded if it is to be."""
        program, model = Program() if self._is_recorded else None, self._model()
        with (program.record_forward() if program else contextlib.nullcontext(),
              model.forward_pass(self.seed)):
            graph = model.forward_loss(self.ids, self.targets, self._key.ignore_index)
        self.program, self._graph = program, graph
        self._has_gradients = graph.node is not None
        self.loss = Tensor.empty((), memory=graph.memory)

    def backward(self, scale):
        """The backward pass of loss * scale; gradients are added to those that leaves hold."""
        self.dloss.flat()[0] = scale
        if self.program is not None and self.program.recorded:
            for leaf in self.program.leaves:
                refuse_changed(leaf, self._computed_at)
            self.program.run_backward()
            return
        program, graph = self.program, self._graph
        self.program = self._graph = None  # an interrupted recording is none
        with program.record_backward() if program else contextlib.nullcontext():
            run_backward(graph.node, self.dloss, self._computed_at)
        self.program = program

    def lend_loss(self):
        """The loss as a tensor of its own, which later runs of the step do not change."""
        loss = Tensor(float(self.loss))
        if self._has_gradients:
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
def named_bad_ids(vocab_size, ids, targets=None, ignore_index=None):
    """Within the block, a kernel's IdRangeError becomes a ValueError that names the id."""
    try:
        yield
    except IdRangeError:
        for name, tensor in ("ids", ids), ("targets", targets):
            for value in tensor.flat() if tensor is not None else ():
                if not 0 <= value < vocab_size and (name, value) != ("targets", ignore_index):
                    ignored = f"; {ignore_index} is ignored" if name == "targets" else ""
                    raise ValueError(f"{name}: {value} is outside 0..{vocab_size - 1} "
                                     f"(vocab_size={vocab_size}{ignored})") from None
        raise


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
