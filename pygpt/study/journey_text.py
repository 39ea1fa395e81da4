"""Writes a gradient.Journey as plain text: kernels, the chain rule with its numbers, and the three
gradients side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pygpt.study.chain_rule import sum_of
from pygpt.study.explanation import token_text

if TYPE_CHECKING:
    from pygpt.study.gradient import Journey
    from pygpt.study.kernel_calls import Call
    from pygpt.tokenizer import Tokenizer

MOST_TERMS = 24  # of a sum that are printed
FORMULAS = {  # backward kernel: what it computes from the gradient that it is given
    "linear_cross_entropy_backward": "dL/dx[t] = sum_v (p[t,v] - y[t,v]) / N wte[v]",
    "layernorm_backward": "dL/dx = rstd (dxhat - mean(dxhat) - xhat mean(dxhat xhat)), "
                          "dxhat = dL/dy w",
    "linear_backward_input": "dL/dx = dL/dy W^T (times gelu'(x) before the MLP's second layer)",
    "linear_backward_weight": "dL/dW = x^T dL/dy, dL/db = the sum over t of dL/dy",
    "attention_backward": "dL/dv_j = sum_i p_ij dL/dy_i; ds_ij = p_ij (dL/dy_i . v_j - "
                          "dL/dy_i . y_i); dL/dq_i = c sum_j ds_ij k_j; dL/dk_j = c sum_i "
                          "ds_ij q_i",
    "embedding_backward": "dL/dwte[v] = the sum over the t with id v of dL/dx[t], dL/dwpe[t] = "
                          "dL/dx[t]",
    "add_forward": "the gradients of the two ways that x takes, through a part and around it, add "
                   "up",
    "scale_forward": "copies a gradient that two nodes read",
}


def text_of(journey: Journey, tokenizer: Tokenizer) -> str:
    """Return the lines of a Journey.

    Args:
        tokenizer: the model's, for the texts of the tokens.
    """
    j, index = journey, ",".join(map(str, journey.place))
    tokens = [repr(token_text(tokenizer, id)) for id in j.ids]
    lines = [f"{j.name}[{index}] = {j.value:.7g}; the loss of {len(j.ids)} tokens is {j.loss:.6f} "
             "nats per token", "",
             "1  Forward: the kernels that its value enters (*: they read the weight itself)"]
    lines += _calls(j.forward)
    lines += ["", "2  Backward: the kernels that its gradient comes from (*: they write it)"]
    lines += [f"   {line}" for line in beginning(j, tokenizer).splitlines()]
    lines += _calls(j.backward)
    used = dict.fromkeys(call.kernel for call, _ in j.backward if call.kernel in FORMULAS)
    width = max(map(len, used), default=0)
    lines += ["   What they compute (L: the loss, N: the tokens):"]
    lines += [f"     {kernel:<{width}}  {FORMULAS[kernel]}" for kernel in used]
    lines += ["", "3  The chain rule, with the numbers of this pass"]
    for formula, where, terms in j.rule.sums:
        lines += [f"   {where}:  {formula}", f"   {'t':>5} {'token':<10}{'factor':>15}"
                  f"{'dL/dy':>15}{'product':>15}"]
        lines += [f"   {term.row:>5} {tokens[term.row]:<10}{term.factor:>15.6e}{term.dy:>15.6e}"
                  f"{term.product:>15.6e}" for term in terms[:MOST_TERMS]]
        if len(terms) > MOST_TERMS:
            rest = sum_of(terms[MOST_TERMS:])
            lines.append(f"   {len(terms) - MOST_TERMS:>5} more{'':<6}{'':>30}{rest:>15.6e}")
        lines.append(f"   {'sum':>5} {'':<10}{'':>30}{sum_of(terms):>15.6e}")
    if len(j.rule.sums) > 1:
        lines.append(f"   The weight stands in {len(j.rule.sums)} places, so the sums add up to "
                     f"{j.rule.total:.6e}.")
    return "\n".join([*lines, "", *_side_by_side(j)])


def beginning(j: Journey, tokenizer: Tokenizer) -> str:
    """Return two lines that say with what gradient the backward pass begins."""
    last, follows = (repr(token_text(tokenizer, ids[-1])) for ids in (j.ids, j.targets))
    return (f"It begins at the logits with dL/dlogits = (p - y) / {len(j.ids)}. After the last "
            f"token, {last},\nthe true token {follows} has p = {j.target_share:.6f}, so p - y = "
            f"{j.target_share - 1:.6f}; for all others p - y = p.")


def comparisons(j: Journey) -> list[tuple[str, float, float | None, float | None]]:
    """Return for each way to compute the gradient its name, the gradient, how far it is from the
    tape's and how far it may be; None and None for the tape."""
    return [("tape", j.tape, None, None),
            ("chain rule", j.rule.total, j.rule.total - j.tape, j.chain_bound),
            ("finite differences", j.difference, j.difference - j.tape, j.tape_bound)]


def verdict(j: Journey) -> str:
    """Return the sentence that says whether the three gradients agree."""
    return ("All three agree." if j.agrees else
            "They do not agree: an op's gradient is wrong, or a kernel is.")


def _calls(path: list[tuple[Call, bool]]) -> list[str]:
    lines = []
    for call, is_own in path:
        sizes = " ".join(f"{name}={n}" for name, n in call.sizes.items())
        given = f"  norm of the gradient given: {call.norm:.4g}" if call.norm is not None else ""
        lines.append(f"   {'*' if is_own else ' '} {call.kernel:<30} {sizes:<32}{given}".rstrip())
    return lines


def _side_by_side(j: Journey) -> list[str]:
    lines = ["4  Side by side", f"   {'':<20}{'gradient':>16}{'minus the tape':>16}{'bound':>12}"]
    for name, value, difference, bound in comparisons(j):
        line = f"   {name:<20}{value:>16.8e}"
        if difference is not None and bound is not None:
            is_within = abs(difference) <= bound
            line += (f"{difference:>16.1e}{bound:>12.1e}   "
                     + ("agrees" if is_within else "DISAGREES"))
        lines.append(line)
    lines.append(f"   {verdict(j)}" + (" Finite differences are themselves known to within "
                                       f"{j.difference_error:.1e}." if j.agrees else ""))
    return lines
