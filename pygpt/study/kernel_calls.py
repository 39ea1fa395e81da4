"""Lists the kernel calls of one training step, and those of them that concern one parameter.

A call is identified with what it reads and writes by the addresses of its arguments. No memory is
given back before the end, so an address stands for one tensor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pygpt.autograd.launch import calling
from pygpt.backend import reference
from pygpt.backend.kernels import Memory, address, check_status

if TYPE_CHECKING:
    from pygpt.model import GPT
    from pygpt.parameters import Parameter

_OUTPUTS = {"out", "pre", "act", "mean", "rstd", "lse", "loss", "losses"}  # of forward kernels
_GRADIENTS_GIVEN = {"dout", "dloss"}
_GRADIENTS_FOUND = {"dinp", "dqkv", "dlogits", "dweight", "dbias", "dwte", "dwpe", "da"}
_ROWS = {"linear_backward_input": ("R", "OUT"), "linear_backward_weight": ("R", "OUT"),
         "layernorm_backward": ("R", "C"), "attention_backward": ("B", "T", "C"),
         "embedding_backward": ("B", "T", "C"), "gelu_backward": ("n",), "add_forward": ("n",)}


@dataclass
class Call:
    """Holds one kernel call.

    Attributes:
        kernel: its name.
        sizes: its whole numbers whose names are capitals, such as {"R": 8, "IN": 16, "OUT": 48}.
        at: {argument: address} of its float tensors.
        norm: in the backward pass, the Euclidean norm of the gradient that it is given.
        is_backward: whether the call belongs to the backward pass.
    """

    kernel: str
    sizes: dict[str, int]
    at: dict[str, int]
    is_backward: bool
    norm: float | None = None

    def given(self) -> set[int]:
        """Return the addresses of the gradients that a backward call is given."""
        names = {"a", "b", "inp"} if self.kernel in ("add_forward", "scale_forward") \
            else _GRADIENTS_GIVEN
        return {place for name, place in self.at.items() if name in names}

    def written(self) -> set[int]:
        """Return the addresses of the results."""
        names = _OUTPUTS | _GRADIENTS_FOUND if self.is_backward else _OUTPUTS
        return {place for name, place in self.at.items() if name in names}


def calls_of_step(model: GPT, ids: Any, targets: Any,
                  look: Callable[[str, dict[str, Any]], None] = lambda *_: None
                  ) -> tuple[float, list[Call]]:
    """Run a loss and its backward pass op by op. The gradients stay in the parameters.

    Args:
        model: a GPT whose weights are float32.
        ids, targets: a batch.
        look: a function that is called with the kernel's name and its arguments by name, after each
            call of the backward pass.
    Returns:
        (the loss, the calls in their order).
    """
    calls: list[Call] = []
    kept: list[Memory] = []
    is_backward = False

    def block(nbytes):
        kept.append(Memory(nbytes))
        return kept[-1]

    def call(kernel, args):
        name = kernel.__name__
        named = dict(zip(inspect.signature(getattr(reference, name)).parameters, args))
        found = _call(name, named, is_backward)
        check_status(kernel(*args))
        calls.append(found)
        if is_backward:
            look(name, named)

    with calling(call, block):
        loss = model.loss(ids, targets)
        value = float(loss)
        is_backward = True
        loss.backward()
    return value, calls


def _call(name, named, is_backward):
    sizes = {key: value for key, value in named.items()
             if isinstance(value, int) and (key.isupper() or key == "n")}
    at = {key: place for key, value in named.items()
          if (place := address(value)[0]) is not None}
    norm = None
    if is_backward and name in _ROWS:
        n = 1
        for key in _ROWS[name]:
            n *= sizes[key]
        values = named["b" if name == "add_forward" else "dout"]
        norm = sum(values[i] ** 2 for i in range(n)) ** 0.5
    return Call(name, sizes, at, is_backward, norm)


def forward_path(calls: list[Call], parameter: Parameter) -> list[tuple[Call, bool]]:
    """Return the forward calls that a parameter's value enters, in order: each with whether it
    reads the parameter itself, or only a result of the calls before it."""
    own, path = address(parameter.ptr)[0], []
    touched = {own}
    for call in calls:
        if not call.is_backward and touched & (set(call.at.values()) - call.written()):
            path.append((call, own in call.at.values()))
            touched |= call.written()
    return path


def backward_path(calls: list[Call], parameter: Parameter) -> list[tuple[Call, bool]]:
    """Return the backward calls that a parameter's gradient comes from, in order: each with whether
    it writes that gradient, or a gradient that a later one of the calls is given."""
    own, path = address(parameter.leaf.gradient().ptr)[0], []
    wanted = {own}
    for call in reversed(calls):
        if call.is_backward and wanted & call.written():
            path.append((call, own in call.written()))
            wanted |= call.given()
    return path[::-1]
