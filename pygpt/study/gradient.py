"""Follows one weight through a training step: `pygpt study gradient`.

    forward     the kernels that its value enters                      (kernel_calls.py)
    backward    the kernels that its gradient comes from               (kernel_calls.py)
    gradient    by the tape; by the chain rule with the numbers of that backward pass
                (chain_rule.py); by finite differences                 (differences.py)

The three gradients must agree within bounds:

- The tape and the chain rule sum the same numbers, one in float32 and one in double precision. For
  these sums the bound is rigorous. In the head, p is computed in float32 by one and in double
  precision by the other, so the next bound holds.
- Finite differences use double precision throughout. K kernels stand between the weight and its
  gradient, and each sums at most n numbers in float32, which is wrong by about sqrt(n) u of their
  size (u = 2^-24), seldom by LAMBDA times that. So x and dL/dy are wrong by at most a share
  K LAMBDA sqrt(n) u of the largest number of their channel, unless a layer amplifies errors by more
  than LAMBDA leaves room for. tests/test_study.py tries this with weights far from the initial
  ones.

Source of the second bound: Higham and Mary, "A new approach to probabilistic rounding error
analysis" (2019).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pygpt.autograd.launch import one_at_a_time
from pygpt.backend.arguments import shown
from pygpt.backend.kernels import address
from pygpt.config import GPTConfig
from pygpt.model import GPT
from pygpt.study.chain_rule import U, ChainRule
from pygpt.study.differences import U as U_DOUBLE, finite_difference
from pygpt.study.kernel_calls import Call, backward_path, calls_of_step, forward_path
from pygpt.tokenizer import CharTokenizer

if TYPE_CHECKING:
    from pygpt.tokenizer import Tokenizer

LAMBDA = 4
WEIGHT = "h.0.mlp.c_fc.weight[0,0]"
TEXT = "To be, or not"
MOST_WORK = 1 << 26  # products of a loss in Python's loops, four of which take half a minute


@dataclass(frozen=True)
class Journey:
    """Holds what one weight met in one training step.

    Attributes:
        name, place, value: the parameter, the indices of the number in it, and the number.
        ids, targets: the tokens, and those that follow them.
        loss: in nats per token.
        forward, backward: the calls, as of kernel_calls.forward_path and backward_path.
        rule: the chain rule's sum.
        tape: the gradient that the backward pass left.
        difference, difference_error: that of finite differences, and the bound of its own error.
        chain_bound, tape_bound: how far the chain rule's sum may lie from the tape's gradient, and
            the tape's gradient from that of finite differences.
        target_share: the probability p of the last token's target.
    """

    name: str
    place: tuple[int, ...]
    value: float
    ids: list[int]
    targets: list[int]
    loss: float
    forward: list[tuple[Call, bool]]
    backward: list[tuple[Call, bool]]
    rule: ChainRule
    tape: float
    difference: float
    difference_error: float
    chain_bound: float
    tape_bound: float
    target_share: float

    @property
    def agrees(self) -> bool:
        """Whether all three gradients agree."""
        return (abs(self.rule.total - self.tape) <= self.chain_bound
                and abs(self.tape - self.difference) <= self.tape_bound)


def tiny_model(seed: int = 1) -> tuple[GPT, Tokenizer]:
    """Make a model of two blocks of 8 channels with random weights, and its tokenizer."""
    tokenizer = CharTokenizer.train("abcdefghijklmnopqrstuvwxyzT, ")
    config = GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=16, n_embd=8, n_layer=2,
                       n_head=2)
    return GPT(config, seed=seed), tokenizer


def find_weight(model: GPT, weight: str) -> tuple[str, tuple[int, ...]]:
    """Find a number of a model.

    Args:
        weight: such as "h.0.mlp.c_fc.weight[3,5]", or "ln_f.bias[2]"; "transformer." may stand
            before it.
    Returns:
        (the parameter's full name, the indices).
    Raises:
        ValueError: it is not written like this, or there is no such parameter or number.
    """
    parameters = dict(model.named_parameters())
    match = re.fullmatch(r"([\w.]+)\[(\d{1,9}(?:,\d{1,9})?)\]", weight.replace(" ", ""))
    if match is None:
        raise ValueError(f"weight={shown(weight)} is not a parameter's name with indices, such as "
                         f"{WEIGHT}")
    name = "transformer." + match[1].removeprefix("transformer.")
    place = tuple(map(int, match[2].split(",")))
    if name not in parameters:
        known = ", ".join(own.removeprefix("transformer.") for own in parameters if ".h." not in own
                          or ".h.0." in own)
        raise ValueError(f"weight={shown(weight)}: there is no parameter {match[1]}; those outside "
                         f"the blocks and in block 0 of {model.config.n_layer} are {known}")
    shape = parameters[name].shape
    if len(place) != len(shape) or any(i >= n for i, n in zip(place, shape)):
        raise ValueError(f"weight={shown(weight)}: {match[1]} has the shape {shape}, and no number "
                         f"at {list(place)}")
    return name, place


def text_length(model: GPT, ids: Sequence[int]) -> int:
    """Return how many of a text's tokens the finite differences, in Python's loops, take in
    bearable time: at least one, and at most one fewer than there are, for the last has no target.
    """
    config = model.config
    work = model.num_parameters() - config.n_positions * config.n_embd
    return min(len(ids) - 1, config.n_positions, max(1, MOST_WORK // max(1, work)))


@one_at_a_time
def journey(model: GPT, weight: str, ids: Sequence[int],
            tell: Callable[[int], None] = lambda _: None) -> Journey:
    """Follow one weight through a step on one text, with dropout off. The model's gradients are
    forgotten.

    Args:
        model: a GPT whose weights are float32.
        weight: as of find_weight.
        ids: 2..n_positions + 1 tokens.
        tell: as of differences.finite_difference.
    Raises:
        ValueError: there is no such weight, a token is missing or out of range, or the weights rest
            in fewer bits.
    """
    if model.weights != "float32":
        raise ValueError(f"the weights rest in {model.weights}, which has no gradient; give the "
                         "model that it was made from")
    if len(ids) < 2:
        raise ValueError(f"the text has {len(ids)} token{'s' * (len(ids) != 1)}; a loss takes two, "
                         "one that is read and one that follows")
    name, place = find_weight(model, weight)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return _journey(model, name, place, list(ids), tell)
    finally:
        model.gradients().forget()
        for module, mode in modes:
            module.training = mode


def _journey(model, name, place, ids, tell):
    parameter, config = dict(model.named_parameters())[name], model.config
    index = place[0] if len(place) == 1 else place[0] * parameter.shape[1] + place[1]
    ids, targets = ids[:-1], ids[1:]
    model.gradients().forget()
    rule = ChainRule(address(parameter.leaf.gradient().ptr)[0], index)
    loss, calls = calls_of_step(model, [ids], [targets], rule.look)
    tape = parameter.grad.read()[index]
    forward, backward = forward_path(calls, parameter), backward_path(calls, parameter)
    longest = max(config.mlp_width, config.n_embd, config.vocab_size, len(ids))
    kernels = len(forward) + len(backward)
    share = kernels * LAMBDA * math.sqrt(longest) * U * rule.scale
    difference, error = finite_difference(model, name, index, ids, targets, kernels * longest, tell)
    is_head = any(where.startswith("logits") for _, where, _ in rule.sums)
    logits = model([ids]).read()[-config.vocab_size:]
    highest = max(logits)
    exps = [math.exp(z - highest) for z in logits]
    return Journey(name.removeprefix("transformer."), place, parameter.read()[index], ids, targets,
                   loss, forward, backward, rule, tape, difference, error,
                   rule.rounding + (share if is_head else 0.0), share + error + U_DOUBLE,
                   exps[targets[-1]] / math.fsum(exps))
