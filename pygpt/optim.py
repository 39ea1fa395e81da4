"""Defines optimizers, which work on a model's flat buffers (parameters.py), not on each tensor.

    model.loss_and_grad(ids, targets)    adds to the gradients
    optimizer.clip_grad_norm(1.0)        measures them, and limits their norm
    optimizer.step()                     updates the parameters and the state buffers
    optimizer.zero_grad()                forgets the gradients

Optimizer holds all code that does not depend on the update rule. Each rule is one class derived
from it: see AdamW, and the contract in Optimizer's docstring. Training, checkpoints and the
prediction of memory use that contract alone.
"""

from __future__ import annotations

import math
import numbers
from array import array
from functools import partial
from typing import TYPE_CHECKING, Any

from pygpt.backend.arguments import checked_parts, shown
from pygpt.backend.kernels import NULL, Memory, check_status, in_float32, lib
from pygpt.autograd.launch import one_at_a_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from pygpt.nn import Module
    from pygpt.parameters import Gradients, Layout

# {class name in small letters: the class} of every derived class
OPTIMIZERS: dict[str, type[Optimizer]] = {}


class Optimizer:
    """Updates the parameters of a model by a rule that a derived class gives.

    Frozen parameters (`requires_grad = False`) and their state do not change.

    A derived class gives:
        settings: the names of its settings, which are attributes; `lr` is the step size.
        buffers: the names of its state buffers. Each becomes an attribute: a Memory of zeros with
            the layout of the parameters. A checkpoint holds it as "<parameter>.<name>".
        checked_settings(): returns the settings as the kernel takes them, or raises ValueError.
        update(settings, gradients): updates every stretch that spans() lists, by these settings. It
            takes the memory that it needs before it changes a number, so that a step which raises
            MemoryError has changed nothing. The gradients are gradients.memory times
            gradients.factor. It returns True if it has rounded all new values to
            layout.values.usable_halves() as well. Otherwise a model that computes in bfloat16
            rounds them before the next step.
        from_config(model, config): a class method that makes an optimizer with the settings of a
            TrainConfig.

    Attributes:
        model: the Module whose parameters are updated.
        layout: the Layout, which has the place of each parameter in the flat buffers.
        steps: the number of steps taken.
    """

    settings: tuple[str, ...] = ("lr",)
    buffers: tuple[str, ...] = ()
    model: Module
    layout: Layout
    steps: int
    lr: float

    def __init_subclass__(cls, is_listed: bool = True) -> None:
        if is_listed:
            OPTIMIZERS[cls.__name__.lower()] = cls

    def __init__(self, model: Module, **settings: Any) -> None:
        checked_parts("model", model, "a Module", "weights_at_rest", "layout", "gradients")
        for name, weight in model.weights_at_rest():
            raise ValueError(f"{type(self).__name__}: {name} rests in {weight.form}, for "
                             "generation alone; train the model that it was made from")
        self.model, self.steps = model, 0
        vars(self).update(settings)
        self.checked_settings()
        self._take_layout()
        for name in self.buffers:
            setattr(self, name, self._new_buffer())

    def __repr__(self) -> str:
        named = [f"{name}={getattr(self, name)!r}" for name in (*self.settings, "steps")]
        return f"{type(self).__name__}({', '.join(named)})"

    @classmethod
    def bytes_per_parameter(cls) -> int:
        """Return the bytes of state buffers for each float in the buffer of the parameters."""
        return 4 * len(cls.buffers)

    if TYPE_CHECKING:  # the parts that a derived class gives
        def checked_settings(self) -> tuple[float, ...]: ...
        def update(self, settings: tuple[float, ...], gradients: Gradients) -> bool | None: ...
        @classmethod
        def from_config(cls, model: Module, config: Any) -> Self: ...

    # The next three are overridden where processes share the work of a step (parallel/sharding.py).

    def spans(self) -> list[tuple[int, int, int]]:
        """List the stretches of the flat buffers to update, as layout.trained_spans() does."""
        return self.layout.trained_spans()

    def _new_buffer(self) -> Memory:
        """Make a state buffer of zeros."""
        return self.layout.buffer()

    def _total(self, squares: float) -> float:
        """Return the sum of squares of all gradients, given that of the gradients in spans()."""
        return squares

    def _take_layout(self):
        """Place the parameters and their gradients in the model's flat buffers."""
        self.layout, self._gradients = self.model.layout(), self.model.gradients()
        self._sum = Memory(8)

    def __getstate__(self) -> Any:
        """Return the model, the settings and the state buffers, from which a copy is made."""
        return ({name: getattr(self, name) for name in ("model", *self.settings, "steps")},
                {name: getattr(self, name).view.tobytes() for name in self.buffers})

    def __setstate__(self, state: Any) -> None:
        attributes, buffers = state
        vars(self).update(attributes)
        self._take_layout()
        for name, data in buffers.items():
            setattr(self, name, Memory(len(data)))
            getattr(self, name).view[:] = data

    @one_at_a_time
    def clip_grad_norm(self, max_norm: float) -> float:
        """Scale all gradients by one factor so that their norm is at most max_norm.

        The factor is stored, and the memory of the gradients is not scaled yet. The next step
        multiplies by the factor as it reads the gradients. If a gradient is read (`p.grad`) or
        added to before that, the memory of all gradients is scaled first. So a tensor from an
        earlier `g = p.grad`, which shares that memory, shows unscaled values until then.

        Args:
            max_norm: the limit, above 0. With math.inf the norm is only measured.

        Returns:
            The norm before scaling: the root of the sum of squares over all parameters.

        Raises:
            ValueError: max_norm is not above 0.
        """
        if not (isinstance(max_norm, numbers.Real) and not isinstance(max_norm, bool)
                and max_norm > 0):
            raise ValueError(f"clip_grad_norm: max_norm={shown(max_norm)} is not a number above 0")
        if max_norm < math.inf:
            in_float32("clip_grad_norm: max_norm", max_norm, 0.0)
        if not self._complete_gradients():
            return 0.0
        gradients, squares = self._gradients, 0.0
        gradients.apply_factor()
        for start, n, _ in self.spans():
            check_status(lib.sum_squares(
                self._sum.pointer("d"), gradients.memory.pointer("f", 4 * start), n))
            squares += self._sum.view.cast("d")[0]
        norm = math.sqrt(self._total(squares))
        if norm > max_norm:
            gradients.factor = max_norm / (norm + 1e-6)
        return norm

    @one_at_a_time
    def step(self) -> None:
        """Update every parameter that is not frozen. A missing gradient counts as 0.

        Raises:
            ValueError: lr or another setting is now out of range, or the model has parameters that
                it did not have when the optimizer was made.
        """
        settings, has_gradients = self.checked_settings(), self._complete_gradients()
        if not self.layout.holds(self.model):
            raise ValueError(f"{type(self).__name__}: the model has parameters that it did not "
                             "have when the optimizer was made; make a new optimizer")
        if has_gradients:
            self.layout.changing()
            self.steps += 1
            has_rounded = False
            try:
                has_rounded = self.update(settings, self._gradients) is True
            except MemoryError:  # update has changed nothing yet, so the step can be tried again
                self.steps -= 1
                raise
            finally:
                self.layout.values.changed(has_rounded)

    @one_at_a_time
    def zero_grad(self) -> None:
        """Forget the gradients: the next backward pass overwrites them instead of adding."""
        self._gradients.forget()

    def _complete_gradients(self):
        """Set missing gradients to 0; return whether there are any others (Gradients.complete).

        Raises:
            ValueError: the parameters no longer lie in this optimizer's layout.
        """
        if not self.layout.current:
            raise ValueError(f"{type(self).__name__}: the model's parameters have moved to other "
                             "memory, as when it became part of a larger model; make a new "
                             "optimizer")
        return self._gradients.complete()


class AdamW(Optimizer):
    """Adam with decoupled weight decay, which is applied to matrices only.

    Args:
        model: the Module whose parameters are trained. If it is one of several modules in the same
            flat buffers, give the module that holds them all.
        lr: the step size, 0 or more; it may be changed between steps.
        betas: the decay rates of the mean gradient and the mean squared gradient, in [0, 1), also
            after rounding to single precision.
        eps: a number that is added to the root of the mean square.
        weight_decay: each step subtracts lr * weight_decay times a matrix from the matrix.

    Attributes:
        m, v: the mean gradient and the mean squared gradient (Memory), with the layout `layout`.

    Raises:
        ValueError: a setting is out of range, model is a part of a larger one, or its weights rest
            in fewer bits.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, algorithm 2.
    """

    settings, buffers = ("lr", "betas", "eps", "weight_decay"), ("m", "v")
    betas: Sequence[float]
    eps: float
    weight_decay: float
    m: Memory
    v: Memory

    def __init__(self, model: Module, lr: float = 3e-4, betas: Sequence[float] = (0.9, 0.95),
                 eps: float = 1e-8, weight_decay: float = 0.1) -> None:
        super().__init__(model, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    @classmethod
    def from_config(cls, model: Module, config: Any) -> Self:
        return cls(model, config.learning_rate, (config.beta1, config.beta2),
                   weight_decay=config.weight_decay)

    def checked_settings(self) -> tuple[float, ...]:
        if not (isinstance(self.betas, (tuple, list)) and len(self.betas) == 2):
            raise ValueError(f"AdamW: betas={shown(self.betas)} are not two numbers in [0, 1)")
        return (in_float32("AdamW: lr", self.lr, 0.0),
                *[in_float32(f"AdamW: betas={shown(self.betas)}: beta", beta, 0.0, 1.0)
                  for beta in self.betas],
                in_float32("AdamW: eps", self.eps, 0.0),
                in_float32("AdamW: weight_decay", self.weight_decay, 0.0))

    def update(self, settings: tuple[float, ...], gradients: Gradients) -> bool:
        lr, beta1, beta2, eps, weight_decay = settings
        scalars = Memory(8 * 4)  # in the order of adamw_step's settings
        scalars.view.cast("f")[:] = memoryview(array("f", [
            lr, beta1, beta2, eps, weight_decay, 1 - beta1 ** self.steps, 1 - beta2 ** self.steps,
            gradients.factor]))
        halves = self.layout.values.usable_halves()
        calls = []
        for start, n, n_decay in self.spans():
            values, m, v, grad = (memory.pointer("f", 4 * start) for memory in (
                self.layout.values, self.m, self.v, gradients.memory))
            half = NULL if halves is None else halves.pointer("H", 2 * start)
            calls.append(partial(lib.adamw_step, values, half, m, v, grad, scalars.pointer("f"), n,
                                 n_decay))
        for call in calls:  # only now, because nothing here takes memory
            check_status(call())
        return halves is not None
