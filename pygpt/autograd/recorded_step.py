"""Records a model's training step for each shape of batch, and replays it.

The first loss of a shape is computed op by op while the kernel calls are recorded. Later losses
replay the calls (replay.py) on the same memory. A recorded step belongs to one loss at a time, from
its forward pass until its backward pass has run or the loss is gone. Another loss of that shape
meanwhile gets a step of its own. So the user sees ordinary tensors, and pays for planning once.

A replay is right only while nothing has changed since the calls were recorded. A step is therefore
looked up by its key, which holds the batch's shape and the modes of the pass. Everything else is
compared before every step: the model's modules, their settings, the places of its parameters, and
which of them are trained (nn.dependencies). A model that holds anything that cannot be compared
runs op by op.
"""

import contextlib
import weakref
from typing import NamedTuple

from pygpt.autograd import ops
from pygpt.autograd.forward_pass import shares_in_force
from pygpt.autograd.ids import as_int32, named_bad_ids
from pygpt.autograd.ops.checks import checked_ignore_index
from pygpt.autograd.replay import Program, run
from pygpt.autograd.tape import Node, grad_enabled, next_serial, refuse_stale, run_backward
from pygpt.autograd.tensor import Tensor
from pygpt.backend.kernels import Memory

SHAPES_KEPT = 8  # keys whose steps are kept; the least recently used key is dropped first
SPARES_KEPT = 1  # free steps of a key that are kept beside the step in use


class Key(NamedTuple):
    """Names one step of a model: its calls depend on these values and on the transformer alone."""

    B: int
    T: int
    ignore_index: int
    gradients: bool        # whether there will be a backward pass
    dropout_shares: tuple  # as shares_in_force() returns them
    recompute: bool


class StepCache:
    """Keeps the recorded steps of a model, finds a free one, and forgets the outdated ones."""

    def __init__(self, model):
        self._model = weakref.ref(model)
        self._by_key = {}     # {Key: steps}, in the order of last use
        self._dependencies = None  # the model's, when all these steps were recorded
        self._dropouts = ()   # the model's Dropout modules
        self._is_ready_to_train = False  # whether a training step has all its flat buffers

    @contextlib.contextmanager
    def take(self, ids, targets, ignore_index):
        """Yield a free step with this batch in its memory. An IdRangeError in the block becomes a
        ValueError that names the id."""
        model = self._model()
        B, T, id_bytes = as_int32("ids", ids, model.config.n_positions)
        target_B, target_T, target_bytes = as_int32("targets", targets, model.config.n_positions)
        if (B, T) != (target_B, target_T):
            raise ValueError(f"targets of shape {(target_B, target_T)} for ids of shape {(B, T)}")
        checked_ignore_index("loss", ignore_index)
        self._forget_if_changed(model)
        key = Key(B, T, ignore_index, grad_enabled(), shares_in_force(self._dropouts),
                  grad_enabled() and model.recompute)
        step, passes = self._free_step(model, key), model.forward_passes
        try:
            step.ids.memory.view[:4 * B * T] = id_bytes
            step.targets.memory.view[:4 * B * T] = target_bytes
            if step.seed is not None:
                step.seed.set(model.next_seed(), model.first_row * T)
            with named_bad_ids(model.config.vocab_size, step.ids, step.targets, ignore_index):
                yield step
        except BaseException:  # a refused batch takes no seed from the next one
            model.forward_passes = passes
            raise
        finally:
            step.busy = False

    def _forget_if_changed(self, model):
        """Forget the steps if the model has changed since they were recorded. Before that, make the
        flat buffers that are missing, and bring weights that lie in memory as bfloat16 up to date.
        """
        found, trains = model.step_dependencies(), grad_enabled()
        if not self._were_recorded_from(found) or trains and not self._is_ready_to_train:
            if trains:
                model.gradients()  # this may move the parameters to flat buffers
            if model.compute_dtype == "bfloat16":
                model.prepare_halves(make=trains)
            found, self._is_ready_to_train = model.step_dependencies(), trains
        if not self._were_recorded_from(found):
            dropouts = model.transformer.dropouts()  # it may fail, so nothing is set before it
            self._by_key, self._dependencies, self._dropouts = {}, found, dropouts

    def _were_recorded_from(self, dependencies):
        """Whether the steps are still right. Without dependencies (None) nothing is recorded."""
        return dependencies is not None and dependencies == self._dependencies

    def _free_step(self, model, key):
        steps = self._by_key.pop(key, [])
        if self._dependencies is None:
            return TrainingStep(model, key, is_recorded=False)
        free = [step for step in steps if step.is_free()] or [TrainingStep(model, key)]
        free[0].kept = self._dependencies  # the calls use its memory, also if the cache forgets it
        in_use = [step for step in steps if step not in free]
        self._by_key[key] = in_use + free[:1 + SPARES_KEPT]
        while len(self._by_key) > SHAPES_KEPT:
            del self._by_key[next(iter(self._by_key))]
        free[0].busy = True
        return free[0]

    def __iter__(self):
        return (step for steps in self._by_key.values() for step in steps)


class TrainingStep:
    """Holds one training step: its batch, its loss, and the recorded program that computes it.

    Args:
        model: a GPT.
        key: the Key of the step.
        is_recorded: whether the passes are recorded and replayed, or run op by op each time.

    Attributes:
        ids, targets, seed, dloss: the inputs of a run, in memory that the calls read.
        loss: the loss of the last run, a Tensor of shape ().
        program: the recorded Program, or None if nothing is recorded.
        busy: whether a caller is computing with it.
        kept: objects that must live as long as the step.
    """

    def __init__(self, model, key, is_recorded=True):
        B, T = key.B, key.T
        self.ids = Tensor.empty((B, T), "i", memory=Memory(4 * B * T))
        self.targets = Tensor.empty((B, T), "i", memory=Memory(4 * B * T))
        self.seed = ops.Seed() if key.dropout_shares else None
        self.dloss = Tensor(1.0)
        self.busy, self.program, self.loss, self.kept = False, None, None, None
        self._model, self._key, self._is_recorded = weakref.ref(model), key, is_recorded
        self._graph = self._lent = None
        self._is_differentiable, self._computed_at = False, 0

    def is_free(self):
        return not self.busy and (self._lent is None or self._lent() is None)

    def forward(self, in_training=False):
        """Run the forward pass, which computes the loss. In training it leaves out the calls that
        the backward pass repeats."""
        self._computed_at = next_serial()
        program = self.program
        if program is None or program.pool.is_touched:  # a replay leaves out Python's own work
            self._compute()
        elif in_training and program.recorded:
            run(program.forward_in_training)
        else:
            run(program.forward)

    def forward_backward(self, scale, when_final=None):
        """Run both passes."""
        self.forward(in_training=True)
        if self._is_differentiable:
            self.backward(scale, when_final)

    def _compute(self):
        """Run the forward pass op by op; record it if is_recorded was given."""
        program, model = Program() if self._is_recorded else None, self._model()
        with (program.record_forward() if program else contextlib.nullcontext(),
              model.pass_settings(self.seed)):
            graph = model.forward_loss(self.ids, self.targets, self._key.ignore_index)
        self.program, self._graph = program, graph
        self._is_differentiable = graph.node is not None
        self.loss = Tensor.empty((), memory=graph.memory)

    def backward(self, scale, when_final=None):
        """Run the backward pass of loss * scale; add to the gradients that leaves hold.

        when_final, unless None, is called several times during a replay, each time with a list of
        the Leafs whose gradients the pass will not touch again. A pass that is not replayed does
        not call it.
        """
        self.refuse_stale()
        self.dloss.flat()[0] = scale
        if self.program is not None and self.program.recorded:
            self.program.run_backward(when_final)
            return
        program, graph = self.program, self._graph
        self.program = self._graph = None  # an interrupted recording must not be replayed
        with program.record_backward() if program else contextlib.nullcontext():
            run_backward(graph.node, self.dloss, self._computed_at)
        self.program = program

    def refuse_stale(self):
        """Check that the backward pass may run.

        Raises:
            ValueError: the parameters have changed or moved since the forward pass.
        """
        if self.program is not None and self.program.recorded:
            for leaf in self.program.leaves:
                leaf.refuse_if_changed_after(self._computed_at)
            self.program.refuse_if_moved()
        else:
            refuse_stale(self._graph.node, self._computed_at)

    def lend_loss(self):
        """Return a copy of the loss, which later runs of the step do not change. The step counts as
        in use while the copy's node lives."""
        loss = Tensor(float(self.loss))
        if self._is_differentiable:
            loss.node = LossNode(self)
            self._lent = weakref.ref(loss.node)
        return loss

    def lent_loss_backward(self, dout):
        """Run the backward pass of the lent loss, after which the step is free."""
        self._lent = None
        self.backward(dout.array.flat()[0])


class LossNode(Node):
    """The node of a lent loss, whose backward pass is the backward pass of its step."""

    __slots__ = ("_step",)

    def __init__(self, step):
        # The function belongs to the step. One of the node's own would make a cycle, and a loss
        # that is dropped would keep its step in use until the garbage collector runs.
        super().__init__((), (), step.lent_loss_backward)
        self._step = step

    def refuse_if_stale(self, computed_at):
        super().refuse_if_stale(computed_at)
        self._step.refuse_stale()
