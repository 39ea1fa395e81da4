"""Computes the gradient of one weight by the chain rule, from the numbers of a backward pass.

Every parameter of a GPT stands in one line of the model, and its gradient is a sum of products:

    y = x W + b           dL/dW[i,j] = sum_t x[t,i] dL/dy[t,j]          dL/db[j] = sum_t dL/dy[t,j]
    y = xhat w + b        dL/dw[c]   = sum_t xhat[t,c] dL/dy[t,c]       (layer norm)
    x = wte[id] + wpe[t]  dL/dwte[v,c] = sum of dL/dx[t,c] over the t with id v
    logits = x wte^T      dL/dwte[v,c] gets sum_t x[t,c] (p[t,v] - y[t,v]) / N besides

t runs over the tokens. p is the softmax of the logits, y is 1 at the target and 0 elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pygpt.backend.kernels import address

U = 2.0 ** -24  # the largest relative error of one rounding to float32


@dataclass(frozen=True)
class Term:
    """Holds one product of the sum: of token `row`, factor * dy."""

    row: int
    factor: float
    dy: float

    @property
    def product(self) -> float:
        return self.factor * self.dy


def sum_of(terms: Sequence[Term]) -> float:
    """Return the sum of the products; beyond the range of a float it is infinite or NaN."""
    products = [term.product for term in terms]
    try:
        return math.fsum(products)
    except (ValueError, OverflowError):
        return sum(products)


@dataclass
class ChainRule:
    """Collects the sum for one number of one parameter; `look` is for kernel_calls.calls_of_step.

    Attributes:
        sums: [(formula, where, terms)]: one for each kernel call that adds to the gradient.
        scale: sum over the terms of |factor| max |dy| + max |factor| |dy|. The maxima are over all
            tokens, for this channel. If both are wrong by a share e of that, the sum is wrong by at
            most e times this, to first order.
        rounding: how far the kernels' sum in float32 may lie from this one, in double precision.
    """

    gradient: int  # the address of the parameter's gradient
    index: int     # of the number, from the parameter's beginning
    sums: list[tuple[str, str, list[Term]]] = field(default_factory=list)
    scale: float = 0.0
    rounding: float = 0.0

    @property
    def total(self) -> float:
        return sum_of([term for *_, terms in self.sums for term in terms])

    def look(self, kernel: str, named: dict[str, Any]) -> None:
        """Take the terms from a backward call, if it writes this gradient."""
        for name in ("dweight", "dbias", "dwte", "dwpe"):
            if name in named and address(named[name])[0] == self.gradient:
                self._add(*_RULES[kernel, name](named, self.index))

    def _add(self, formula, where, terms, factors, dys):
        self.sums.append((formula, where, terms))
        largest_factor, largest_dy = max(map(abs, factors)), max(map(abs, dys))
        self.scale += sum(abs(t.factor) * largest_dy + largest_factor * abs(t.dy) for t in terms)
        # R products are summed with at most R + 2 roundings each: one of the factor, one of the
        # product. Sums of several calls are added with one more.
        self.rounding += (len(terms) + 3) * U * sum(abs(t.product) for t in terms)


# Each rule takes a kernel's arguments by name, and returns the formula, the line of the model, the
# terms, and all factors and dy of the channel.

def _linear_weight(a, index):
    R, IN, OUT = a["R"], a["IN"], a["OUT"]
    i, j = divmod(index, OUT)
    x, dy = _column(a["inp"], R, IN, i), _column(a["dout"], R, OUT, j)
    return (f"dL/dW[{i},{j}] = sum_t x[t,{i}] dL/dy[t,{j}]", "y = x W + b", _terms(x, dy), x, dy)


def _linear_bias(a, j):
    return _bias(_column(a["dout"], a["R"], a["OUT"], j), j, "y = x W + b")


def _norm_weight(a, c):
    R, C = a["R"], a["C"]
    x, dy = _column(a["inp"], R, C, c), _column(a["dout"], R, C, c)
    xhat = [(x[t] - a["mean"][t]) * a["rstd"][t] for t in range(R)]
    return (f"dL/dw[{c}] = sum_t xhat[t,{c}] dL/dy[t,{c}]", "y = xhat w + b", _terms(xhat, dy),
            xhat, dy)


def _norm_bias(a, c):
    return _bias(_column(a["dout"], a["R"], a["C"], c), c, "y = xhat w + b")


def _bias(dy, j, where):
    return f"dL/db[{j}] = sum_t dL/dy[t,{j}]", where, _terms([1.0] * len(dy), dy), [1.0], dy


def _token_row(a, index):
    R, C = a["B"] * a["T"], a["C"]
    v, c = divmod(index, C)
    dy = _column(a["dout"], R, C, c)
    return (f"dL/dwte[{v},{c}] = sum over the t with id {v} of dL/dx[t,{c}]",
            "x = wte[id] + wpe[t]",
            [Term(t, 1.0, dy[t]) for t in range(R) if a["ids"][t] == v], [1.0], dy)


def _position_row(a, index):
    B, T, C = a["B"], a["T"], a["C"]
    p, c = divmod(index, C)
    dy = _column(a["dout"], B * T, C, c)
    return (f"dL/dwpe[{p},{c}] = dL/dx[{p},{c}]", "x = wte[id] + wpe[t]",
            [Term(b * T + p, 1.0, dy[b * T + p]) for b in range(B) if p < T], [1.0], dy)


def _head_weight(a, index):
    R, C, V, w = a["R"], a["C"], a["V"], a["weight"]
    v, c = divmod(index, C)
    x = _column(a["inp"], R, C, c)
    p = [probabilities(a["inp"], w, t, C, V)[v] for t in range(R)]
    dy = [a["dloss"][0] * (p[t] - (a["targets"][t] == v)) / R for t in range(R)]
    return (f"dL/dwte[{v},{c}] = sum_t x[t,{c}] (p[t,{v}] - y[t,{v}]) / {R}", "logits = x wte^T",
            _terms(x, dy), x, dy)


def _column(values, R, C, c):
    """Return values[t, c] for all R rows t of C numbers."""
    return [values[t * C + c] for t in range(R)]


def _terms(factors, dys):
    return [Term(t, factor, dy) for t, (factor, dy) in enumerate(zip(factors, dys))]


def probabilities(x: Any, weight: Any, t: int, C: int, V: int) -> list[float]:
    """Return the softmax of the logits x[t] . weight[v], in double precision."""
    row = [x[t * C + c] for c in range(C)]
    logits = [math.fsum(row[c] * weight[v * C + c] for c in range(C)) for v in range(V)]
    highest = max(logits)
    exps = [math.exp(z - highest) for z in logits]
    return [e / math.fsum(exps) for e in exps]


_RULES = {
    ("linear_backward_weight", "dweight"): _linear_weight,
    ("linear_backward_weight", "dbias"): _linear_bias,
    ("layernorm_backward", "dweight"): _norm_weight,
    ("layernorm_backward", "dbias"): _norm_bias,
    ("embedding_backward", "dwte"): _token_row,
    ("embedding_backward", "dwpe"): _position_row,
    ("linear_cross_entropy_backward", "dweight"): _head_weight,
}
