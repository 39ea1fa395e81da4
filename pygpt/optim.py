"""AdamW over a model's flat buffers: clipping and a step are one kernel call each.

Uses nn.py, kernels.py; used by trainer.py.
"""

import math
from array import array

from pygpt.kernels import Memory, check, lib


class AdamW:
    """Adam with decoupled weight decay, which is applied to matrices only.

    Args:
        model: the Module whose parameters are trained.
        lr: the step size, 0 or more; may be changed between steps.
        betas: the decay rates of the mean gradient and the mean squared gradient, in [0, 1).
        eps: added to the root of the mean square.
        weight_decay: each step takes lr * weight_decay of a matrix away.

    Raises:
        ValueError: one of them is out of range.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, algorithm 2.
    """

    def __init__(self, model, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        for name, value, ok in (("lr", lr, lr >= 0), ("betas", betas, all(0 <= b < 1 for b in betas)),
                                ("eps", eps, eps >= 0), ("weight_decay", weight_decay, weight_decay >= 0)):
            if not ok:
                raise ValueError(f"AdamW: {name}={value} is out of range")
        self.model, self.lr, self.betas, self.eps = model, lr, betas, eps
        self.weight_decay, self.steps = weight_decay, 0
        self.layout = model.layout()
        self.m, self.v = self.layout.buffer(), self.layout.buffer()
        self._gradients = model.gradients()
        self._leaves = [p.node for _, p, _ in self.layout.entries]
        self._h = Memory(8 * 4)
        self._sum = Memory(8)
        self._factor = 1.0  # clipping found it; the next step, or whoever reads a gradient, applies it
        for leaf in self._leaves:
            leaf.before_use = self._apply_factor

    def clip_grad_norm(self, max_norm):
        """Scale the gradients down together so that their norm is at most max_norm.

        Returns:
            The norm before: the root of the sum of squares over all parameters.
        """
        if not self._ready():
            return 0.0
        self._apply_factor()
        check(lib.sum_squares(self._sum.pointer("d"), self._gradients.pointer("f"), self.layout.n))
        norm = math.sqrt(self._sum.view.cast("d")[0])
        if norm > max_norm:
            self._factor = max_norm / (norm + 1e-6)
        return norm

    def step(self):
        """Move every parameter against its gradient; a parameter without one counts as having 0."""
        if not self._ready():
            return
        self.steps += 1
        beta1, beta2 = self.betas
        self._h.view.cast("f")[:] = memoryview(array("f", [
            self.lr, beta1, beta2, self.eps, self.weight_decay,
            1 - beta1 ** self.steps, 1 - beta2 ** self.steps, self._factor]))
        check(lib.adamw_step(
            self.model.values().pointer("f"), self.m.pointer("f"), self.v.pointer("f"),
            self._gradients.pointer("f"), self._h.pointer("f"), self.layout.n, self.layout.n_decay))

    def zero_grad(self):
        """Forget the gradients: the next backward pass writes instead of adding."""
        self._factor = 1.0
        for leaf in self._leaves:
            leaf.valid = False

    def _ready(self):
        """Whether there are gradients; those of parameters that got none are set to 0."""
        missing = [leaf for leaf in self._leaves if not leaf.valid]
        if len(missing) == len(self._leaves):
            return False
        for leaf in missing:
            gradient = leaf.gradient()
            memoryview(gradient).cast("B")[:] = bytes(4 * gradient.size)
            leaf.valid = True
        return True

    def _apply_factor(self):
        """Scale the gradients in memory, for someone who looks at them or adds to them."""
        if self._factor == 1.0:
            return
        cell = Memory(4)
        cell.view.cast("f")[0], self._factor = self._factor, 1.0
        flat = self._gradients.pointer("f")
        check(lib.scale_forward(flat, flat, cell.pointer("f"), self.layout.n, 0))
