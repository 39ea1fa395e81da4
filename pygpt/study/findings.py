"""Says what the results of ablations.py show: a table, and a page of curves with a paragraph for
each claim.

Every number in a sentence comes from the results, and so does the verdict. A difference counts only
if it is more than TIMES the difference that another seed makes; otherwise the sentence says that it
does not show.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pygpt.study.ablations import BASE, Experiment, Result
from pygpt.training import plot
from pygpt.training.plot_page import PAGE

TIMES = 3
LEAST = 0.03  # nats: a smaller difference does not count either
EXTENT = 3.0  # the gradients of two blocks that differ by more than this factor are called unequal
CHARTS = [("Loss", "loss", "nats per token"), ("Gradient norm", "grad_norm", "before clipping")]


@dataclass(frozen=True)
class Claim:
    """Holds a claim of the lesson: a heading, what is claimed, and the variant that tests it.

    Attributes:
        is_worse: what the claim says of the variant's loss: higher (True), lower (False), or
            nothing (None), where only the comparison is of interest.
    """

    title: str
    claimed: str
    variant: str
    is_worse: bool | None


CLAIMS = (
    Claim("Residuals", "The lesson says: x passes every block unchanged, so that the gradient "
          "reaches the first block of any stack.", "no-residuals", True),
    Claim("Layer norm", "The lesson says: layer norm keeps the numbers that each part reads in one "
          "range, so that a deep stack trains.", "no-norm", True),
    Claim("Positions", "The lesson says: without positions, attention sees the tokens before it as "
          "a set; only the causal mask tells it anything about order.", "no-positions", True),
    Claim("The MLP", "The lesson says: attention moves information between tokens, and the MLP, "
          "which holds two thirds of a block's weights, works on it.", "no-mlp", True),
    Claim("Heads", "The lesson says: several heads can look at several places at once, one head "
          "only at one mixture. The number of weights is equal.", "one-head", True),
    Claim("Depth and width", "Twelve narrow blocks have as many weights as three of twice the "
          "width. The lesson does not say which is better at this size.", "wide", None),
    Claim("Chance", "How much another seed changes (other initial weights and other batches) is "
          "the measure for all the differences above.", "other-seed", None))


def chance(results: Sequence[Result]) -> float | None:
    """Return how far the losses of two seeds differ, or None if it was not measured."""
    losses = {result.variant.name: result.val_loss for result in results}
    return abs(losses["other-seed"] - losses[BASE]) if "other-seed" in losses else None


def table(results: Sequence[Result]) -> str:
    """Return a table with a line for each of one or more results, the whole model's first."""
    lines = [f"{'variant':<14}{'parameters':>11}{'loss':>8}{'difference':>12}"
             f"{'gradient, first block':>23}{'last block':>12}"]
    for r in results:
        difference = r.val_loss - results[0].val_loss
        lines.append(f"{r.variant.name:<14}{r.parameters:>11,}{r.val_loss:>8.3f}"
                     + (f"{difference:>+12.3f}" if r.variant.name != BASE else " " * 12)
                     + f"{r.first_block:>23.3g}{r.last_block:>12.3g}")
    return "\n".join([*lines, f"loss: validation loss in nats per token after {results[0].steps} "
                              "steps; gradient: its norm at step 1"])


def seen(claim: Claim, results: Sequence[Result]) -> str:
    """Return the sentences that say what the numbers show of a claim; results[0] is the whole
    model's, and one of the others the variant's."""
    whole = results[0]
    other = next(r for r in results if r.variant.name == claim.variant)
    if not math.isfinite(other.val_loss):
        return (f"{_capital(other.variant.says)}, the numbers were no longer finite at step "
                f"{other.steps}. The whole model's loss after {whole.steps} steps is "
                f"{whole.val_loss:.3f}.")
    sentences = [f"After {whole.steps} steps the validation loss of the whole model is "
                 f"{whole.val_loss:.3f}, and {_with(other)} {other.val_loss:.3f}, a difference of "
                 f"{other.val_loss - whole.val_loss:+.3f}."]
    if claim.variant != "other-seed":
        sentences.append(_verdict(claim, other.val_loss - whole.val_loss, chance(results)))
    if other.parameters != whole.parameters:
        sentences.append(f"It has {other.parameters:,} parameters, the whole model "
                         f"{whole.parameters:,}.")
    if claim.variant in ("no-residuals", "no-norm"):
        sentences += [_gradients(whole, "In the whole model"),
                      _gradients(other, _capital(other.variant.says))]
    return " ".join(sentences)


def _with(result):
    says = result.variant.says
    return f"{says} it is" if says.startswith("without") else f"for {says} it is"


def _capital(text):
    return text[0].upper() + text[1:]


def _verdict(claim, difference, spread):
    least = max(LEAST, TIMES * (spread or 0.0))
    measure = ("It was not measured how much another seed changes; a difference below "
               f"{LEAST} nats counts as none" if spread is None else
               f"Another seed changes it by {spread:.3f}, and {TIMES} times that, or {LEAST} if it "
               "is more, counts as a difference")
    if abs(difference) <= least:
        found = "here none shows" + ("" if claim.is_worse is None else ", so this experiment does "
                                     "not show what the lesson says")
    elif claim.is_worse is None:
        found = f"so the variant is {'worse' if difference > 0 else 'better'} here"
    elif (difference > 0) == claim.is_worse:
        found = "so this one shows what the lesson says"
    else:
        found = "and this one is the opposite of what the lesson says"
    return f"{measure}: {found}."


def _gradients(result, where):
    first, last = result.first_block, result.last_block
    sentence = (f"{where}, the gradient's norm at step 1 is {first:.3g} in the first block and "
                f"{last:.3g} in the last")
    if not 0 < first < math.inf or not 0 < last < math.inf:
        return f"{sentence}."
    ratio = first / last
    if 1 / EXTENT <= ratio <= EXTENT:
        return f"{sentence}: about equal, for it reaches the first block."
    return (f"{sentence}, {ratio:.2g} times as much: "
            + ("it fades on its way down." if ratio < 1 else "it grows on its way down."))


def context(experiment: Experiment) -> str:
    """Return the sentences that say whether the whole model looks further back than one token."""
    loss, pairs = experiment.results[0].val_loss, experiment.pairs_loss
    begin = ("A table that counts which token follows which in the training text has a validation "
             f"loss of {pairs:.3f}")
    if loss < pairs:
        return (f"{begin}, and the whole model {loss:.3f}: it looks further back than one token.")
    return (f"{begin}, and the whole model only {loss:.3f}: it may not look further back than one "
            "token yet. What makes it see more (attention, heads, positions) cannot show its worth "
            "before it does; more --steps may change what is seen.")


def page(experiment: Experiment) -> str:
    """Return the HTML text of a page, which loads nothing: the charts of `pygpt plot`, grouped by
    claim, and the table.

    Args:
        experiment: its results are one or more, and the first is the whole model's.
    """
    results = experiment.results
    runs = {r.variant.name: (r.variant.says, int(r.variant.name != BASE), r.records)
            for r in results}  # in each chart the whole model has the first colour
    parts, values = [_across(f"<p>{html.escape(context(experiment))}</p>")], []
    for claim in CLAIMS:
        if claim.variant not in runs:
            continue
        shown = [runs[BASE], runs[claim.variant]]
        parts.append(_across(f"<h2>{html.escape(claim.title)}</h2><p>{html.escape(claim.claimed)}"
                             f"</p><p><b>What is seen.</b> {html.escape(seen(claim, results))}</p>"
                             + _legend(shown)))
        for row in CHARTS:
            figure, numbers = plot.chart(len(values), *row, shown)
            parts.append(figure)
            values.append(numbers)
    parts.append(_across("<h2>All numbers</h2>") + "<pre style='grid-column: 1 / -1; "
                 f"overflow-x: auto; margin: 0'>{html.escape(table(results))}</pre>")
    geometry = json.dumps({"left": plot.LEFT, "right": plot.RIGHT, "top": plot.TOP,
                           "bottom": plot.BOTTOM})
    return (PAGE.replace("@TITLE@", "What each part of a GPT is for")
            .replace("@LEGEND@", "<span>What each part of a GPT is for</span>")
            .replace("@GEOMETRY@", geometry).replace("@CHARTS@", "".join(parts))
            .replace("@VALUES@", json.dumps(values).replace("</", "<\\/")))


def _across(text):
    """Return a part of the page that is as wide as all columns, and not wider than one reads."""
    return ('<section style="grid-column: 1 / -1; min-width: 0"><div style="max-width: 46em">'
            f"{text}</div></section>")


def _legend(runs):
    return "<nav style='margin: 0'>" + "".join(
        f'<span><svg class="key {plot.line_classes(number)}"><path class="thick" d="M0 5H40"/>'
        f"</svg><span>{html.escape(says)}</span></span>" for says, number, _ in runs) + "</nav>"
