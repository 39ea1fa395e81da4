"""AdamW over a model's flat buffers: clipping and a step are one kernel call each.

Uses nn.py, kernels.py; used by trainer.py.
"""

import math
from array import array

from pygpt.kernels import Memory, check, lib

FLOAT32_END = 2.0 ** 128  # kernels take single precision, in which this is infinite


class AdamW:
    """Adam with decoupled weight decay, which is applied to matrices only.

    Args:
        model: the Module whose parameters are trained; the whole of it, where it is one of several
            that lie in the same flat buffers.
        lr: the step size, 0 or more; may be changed between steps.
        betas: the decay rates of the mean gradient and the mean squared gradient, in [0, 1).
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
        self._check_settings()
        self.layout = model.layout()
        self.m, self.v = self.layout.buffer(), self.layout.buffer()
        self._gradients = model.gradients()
        self._h = Memory(8 * 4)
        self._sum = Memory(8)

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
        if not (_is_number(max_norm) and max_norm > 0):
            raise ValueError(f"clip_grad_norm: max_norm={max_norm!r} is not a number above 0")
        if not self._ready():
            return 0.0
        gradients = self._gradients
        gradients.apply_factor()
        check(lib.sum_squares(self._sum.pointer("d"), gradients.memory.pointer("f"), self.layout.n))
        norm = math.sqrt(self._sum.view.cast("d")[0])
        if norm > max_norm:
            gradients.factor = max_norm / (norm + 1e-6)
        return norm

    def step(self):
        """Move every parameter against its gradient; a parameter without one counts as having 0.

        Raises:
            ValueError: lr or another setting was changed to something out of range.
        """
        self._check_settings()
        if not self._ready():
            return
        self.steps += 1
        beta1, beta2 = self.betas
        self._h.view.cast("f")[:] = memoryview(array("f", [
            self.lr, beta1, beta2, self.eps, self.weight_decay,
            1 - beta1 ** self.steps, 1 - beta2 ** self.steps, self._gradients.factor]))
        check(lib.adamw_step(
            self.layout.values.pointer("f"), self.m.pointer("f"), self.v.pointer("f"),
            self._gradients.memory.pointer("f"), self._h.pointer("f"),
            self.layout.n, self.layout.n_decay))

    def zero_grad(self):
        """Forget the gradients: the next backward pass writes instead of adding."""
        self._gradients.forget()

    def _ready(self):
        """Whether there are gradients to work with."""
        if not self.layout.current:
            raise ValueError("AdamW: the model's parameters have come to other memory, as when it "
                             "became part of a larger model; make a new optimizer")
        return self._gradients.complete()

    def _check_settings(self):
        for name in ("lr", "eps", "weight_decay"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < FLOAT32_END):
                raise ValueError(f"AdamW: {name}={value!r} is not a finite number, 0 or more")
        betas = self.betas
        if not (isinstance(betas, (tuple, list)) and len(betas) == 2
                and all(_is_number(beta) and 0 <= beta < 1 for beta in betas)):
            raise ValueError(f"AdamW: betas={betas!r} are not two numbers in [0, 1)")


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)
