"""AdamW over a model's flat buffers: clipping and a step are one kernel call each.

Uses nn.py, kernels.py; used by trainer.py.
"""

import math
import numbers
from array import array

from pygpt.backend.kernels import Memory, check, in_float32, lib
from pygpt.autograd.launch import one_at_a_time


class AdamW:
    """Adam with decoupled weight decay, which is applied to matrices only.

    Parameters that are frozen (`requires_grad = False`) and their moments stay as they are.

    Args:
        model: the Module whose parameters are trained; the whole of it, where it is one of several
            that lie in the same flat buffers.
        lr: the step size, 0 or more; may be changed between steps.
        betas: the decay rates of the mean gradient and the mean squared gradient, in [0, 1), also
            after rounding to single precision.
        eps: added to the root of the mean square.
        weight_decay: each step takes lr * weight_decay of a matrix away.

    Attributes:
        m, v: the two means (Memory), laid out as `layout` says.
        steps: how many steps were taken.

    Raises:
        ValueError: one of them is out of range, or model is a part of a larger one.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, algorithm 2.
    """

    def __init__(self, model, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.model, self.lr, self.betas, self.eps = model, lr, betas, eps
        self.weight_decay, self.steps = weight_decay, 0
        self._settings()
        self._take_layout()
        self.m, self.v = self.layout.buffer(), self.layout.buffer()

    def _take_layout(self):
        """Be ready for steps on the model's flat buffers."""
        self.layout, self._gradients = self.model.layout(), self.model.gradients()
        self._h = Memory(8 * 4)
        self._sum = Memory(8)

    def __getstate__(self):
        """What a copy is made of: the model, the settings and the moments."""
        names = "model", "lr", "betas", "eps", "weight_decay", "steps"
        return ({name: getattr(self, name) for name in names},
                self.m.view.tobytes(), self.v.view.tobytes())

    def __setstate__(self, state):
        settings, m, v = state
        vars(self).update(settings)
        self._take_layout()
        self.m, self.v = Memory(len(m)), Memory(len(v))
        self.m.view[:], self.v.view[:] = m, v

    @one_at_a_time
    def clip_grad_norm(self, max_norm):
        """Scale the gradients down together so that their norm is at most max_norm.

        The scaling itself happens in the next step, or when a gradient is read (`p.grad`) or added
        to. A tensor taken before (`g = p.grad`) shows unscaled values until the next such reading.

        Args:
            max_norm: above 0; math.inf only measures.

        Returns:
            The norm before: the root of the sum of squares over all parameters.

        Raises:
            ValueError: max_norm is not above 0.
        """
        if not (isinstance(max_norm, numbers.Real) and not isinstance(max_norm, bool)
                and max_norm > 0):
            raise ValueError(f"clip_grad_norm: max_norm={max_norm!r} is not a number above 0")
        if max_norm < math.inf:
            in_float32("clip_grad_norm: max_norm", max_norm, 0.0)
        if not self._ready():
            return 0.0
        gradients, squares = self._gradients, 0.0
        gradients.apply_factor()
        for start, n, _ in self.layout.trained_spans():
            check(lib.sum_squares(self._sum.pointer("d"), gradients.memory.pointer("f", 4 * start),
                                  n))
            squares += self._sum.view.cast("d")[0]
        norm = math.sqrt(squares)
        if norm > max_norm:
            gradients.factor = max_norm / (norm + 1e-6)
        return norm

    @one_at_a_time
    def step(self):
        """Move every parameter that is not frozen against its gradient; one that got no gradient
        counts as having 0.

        Raises:
            ValueError: lr or another setting was changed to something out of range, or the model
                has parameters that it did not have when the optimizer was made.
        """
        lr, (beta1, beta2), eps, weight_decay = self._settings()
        is_ready = self._ready()
        if not self.layout.holds(self.model):
            raise ValueError("AdamW: the model has parameters that it did not have when the "
                             "optimizer was made; make a new optimizer")
        if not is_ready:
            return
        self.steps += 1
        self._h.view.cast("f")[:] = memoryview(array("f", [
            lr, beta1, beta2, eps, weight_decay, 1 - beta1 ** self.steps, 1 - beta2 ** self.steps,
            self._gradients.factor]))
        buffers = self.layout.values, self.m, self.v, self._gradients.memory
        for start, n, n_decay in self.layout.trained_spans():
            check(lib.adamw_step(*(buffer.pointer("f", 4 * start) for buffer in buffers),
                                 self._h.pointer("f"), n, n_decay))
        self.layout.changed()

    @one_at_a_time
    def zero_grad(self):
        """Forget the gradients: the next backward pass writes instead of adding."""
        self._gradients.forget()

    def _ready(self):
        """Whether there are gradients to work with."""
        if not self.layout.current:
            raise ValueError("AdamW: the model's parameters have come to other memory, as when it "
                             "became part of a larger model; make a new optimizer")
        return self._gradients.complete()

    def _settings(self):
        """lr, betas, eps and weight_decay as the kernel computes with them, each checked."""
        if not (isinstance(self.betas, (tuple, list)) and len(self.betas) == 2):
            raise ValueError(f"AdamW: betas={self.betas!r} are not two numbers in [0, 1)")
        return (in_float32("AdamW: lr", self.lr, 0.0),
                [in_float32(f"AdamW: betas={self.betas!r}: beta", beta, 0.0, 1.0)
                 for beta in self.betas],
                in_float32("AdamW: eps", self.eps, 0.0),
                in_float32("AdamW: weight_decay", self.weight_decay, 0.0))
