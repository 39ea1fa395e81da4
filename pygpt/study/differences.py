"""Computes the loss of a GPT in double precision, and from it one weight's gradient by finite
differences.

The loss is a forward pass through the reference loops (backend/reference/). They compute in
Python's floats and store these unchanged in lists, so nothing is rounded to float32. No backward
kernel and nothing of the tape takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pygpt.backend import reference
from pygpt.backend.kernels import in_float32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pygpt.model import GPT

STEP = 2.0 ** -12
U = 2.0 ** -53  # the largest relative error of one rounding of a double
_F32 = reference.PYGPT_FLOAT32  # "operands are not rounded", for the loops' lists


def loss_in_doubles(model: GPT, values: dict[str, Any], ids: Sequence[int],
                    targets: Sequence[int]) -> float:
    """Return the mean cross-entropy in nats of one text, without dropout.

    Args:
        model: a GPT, for its shape.
        values: {name: flat numbers} of its parameters.
        ids, targets: T tokens each.
    """
    config, T, C = model.config, len(ids), model.config.n_embd

    def value(name):
        return values[f"transformer.{name}"]

    def linear(x, layer, n_in, n_out, pre=None, residual=None):
        out = [0.0] * (T * n_out)
        reference.linear_forward(out, pre and [0.0] * (T * n_out), x, value(f"{layer}.weight"),
                                 value(f"{layer}.bias"), residual, T, n_in, n_out, _F32)
        return out

    def norm(x, layer):
        out, eps = [0.0] * (T * C), in_float32("eps", config.layer_norm_epsilon, 0.0)
        reference.layernorm_forward(out, [0.0] * T, [0.0] * T, x, value(f"{layer}.weight"),
                                    value(f"{layer}.bias"), T, C, eps, _F32)
        return out

    x = [0.0] * (T * C)
    reference.embedding_forward(x, ids, value("wte.weight"), value("wpe.weight"), None, 1, T, C,
                                config.vocab_size, config.n_positions)
    for block in range(config.n_layer):
        h, y = f"h.{block}", [0.0] * (T * C)
        qkv = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn", C, 3 * C)
        reference.attention_forward(y, [0.0] * (T * config.n_head), qkv, 1, T, C, config.n_head,
                                    0.0, None, 0, _F32)
        x = linear(y, f"{h}.attn.c_proj", C, C, residual=x)
        hidden = linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc", C, config.mlp_width, pre=True)
        x = linear(hidden, f"{h}.mlp.c_proj", config.mlp_width, C, residual=x)
    loss = [0.0]
    reference.linear_cross_entropy_forward(loss, [0.0] * T, norm(x, "ln_f"), value("wte.weight"),
                                           targets, T, C, config.vocab_size, -100, _F32)
    return loss[0]


def finite_difference(model: GPT, name: str, index: int, ids: Sequence[int],
                      targets: Sequence[int], roundings: float,
                      tell: Callable[[int], None] = lambda _: None) -> tuple[float, float]:
    """Return (the gradient of the loss by central differences, its error bound).

    (L(w + h) - L(w - h)) / 2h has an error of c h^2 + O(h^4); twice the step has 4 c h^2, so the
    two differ by three times the error of the first. Rounding adds 2 L u n / 2h, where n roundings
    stand between a weight and the loss.

    Args:
        model: a GPT whose weights are float32.
        name, index: the parameter, and the number's place from its beginning.
        ids, targets: T tokens each.
        roundings: n.
        tell: a function that is called with 1..4 before each evaluation of the loss.
    """
    values = {own: p.read() for own, p in model.named_parameters()}
    exact = list(values[name])
    count, sizes = 0, []

    def moved(by):
        nonlocal count
        count += 1
        tell(count)
        changed = list(exact)
        changed[index] += by
        sizes.append(loss_in_doubles(model, values | {name: changed}, ids, targets))
        return sizes[-1]

    near, far = ((moved(h) - moved(-h)) / (2 * h) for h in (STEP, 2 * STEP))
    return near, abs(far - near) + (max(sizes) + 1) * roundings * U / STEP
