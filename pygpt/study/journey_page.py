"""Writes a gradient.Journey as a page that loads nothing: `pygpt study gradient --output FILE`.

The page holds what journey_text.py prints: the kernels, with bars of the gradients' norms; the
chain rule's sum, with a bar for each token; and the three gradients. It fills pages/journey.html,
whose style is that of the other pages.
"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from pygpt.study.chain_rule import sum_of
from pygpt.study.explanation import part, token_text
from pygpt.study.journey_text import FORMULAS, beginning, comparisons, verdict
from pygpt.training.plot import filled

if TYPE_CHECKING:
    from pygpt.study.chain_rule import Term
    from pygpt.study.gradient import Journey
    from pygpt.study.kernel_calls import Call
    from pygpt.tokenizer import Tokenizer

MOST_DECADES = 12  # of a logarithmic scale; the bars of smaller norms are as short as can be seen
COLUMNS = "t", "token", "factor", "\u00d7 dL/dy", "= product", "the product as a bar"


def page(journey: Journey, tokenizer: Tokenizer) -> str:
    """Return the HTML text of the page.

    Args:
        tokenizer: the model's, for the texts of the tokens.
    """
    j, index = journey, ",".join(map(str, journey.place))
    tokens = [repr(token_text(tokenizer, id)) for id in j.ids]
    scale = Decades([call.norm for call, _ in j.backward if call.norm is not None])
    products = [abs(term.product) for *_, terms in j.rule.sums for term in terms]
    longest = max(filter(math.isfinite, products), default=0.0)
    bad = "" if j.agrees else " bad"
    return filled(part("journey.html"), {
        "@TITLE@": html.escape(f"The gradient of {j.name}[{index}]"),
        "@STYLE@": part("style.css"),
        "@SUMMARY@": f"The weight is {j.value:.7g}. The loss of {len(j.ids)} tokens is "
                     f"{j.loss:.6f} nats per token, and the gradient is {j.tape:.8e}.",
        "@VERDICT@": f'<p class="verdict{bad}" role="status">{html.escape(verdict(j))}</p>',
        "@FORWARD@": "".join(_item(i, *call, "reads the weight")
                             for i, call in enumerate(j.forward, 1)),
        "@BACKWARD@": scale.axis() + "".join(
            _item(i, *call, "writes its gradient", _given(call[0], scale))
            for i, call in enumerate(j.backward, 1)),
        "@BEGINNING@": html.escape(beginning(j, tokenizer)), "@SCALE@": str(scale),
        "@LONGEST@": "Each token gives one product, and the gradient is their sum. The bars are "
                     "linear: one to the right is a product above 0, one to the left a product "
                     f"below 0, and the longest is {longest:.4g}.",
        "@SUMS@": "".join(_sum(*row, tokens, longest) for row in j.rule.sums) + _total(j),
        "@ERROR@": f"{j.difference_error:.1e}",
        "@WAYS@": "".join(_way(*row) for row in comparisons(j))})


class Decades:
    """Maps norms to the lengths of bars on a logarithmic scale that begins and ends at a power of
    10. str() gives the sentences that say so, as HTML.

    Args:
        norms: the norms to show; those that are 0 or not finite get no bar.
    """

    def __init__(self, norms: list[float]):
        powers = [math.log10(norm) for norm in norms if 0 < norm < math.inf] or [0.0]
        self.high = math.floor(max(powers)) + 1
        self.low = max(math.ceil(min(powers)) - 1, self.high - MOST_DECADES)
        self.decades = self.high - self.low

    def percent(self, norm: float) -> float | None:
        """Return the length of a norm's bar in hundredths of the longest possible, or None."""
        if not 0 < norm < math.inf:
            return None
        return max(0.0, 100 * (math.log10(norm) - self.low) / self.decades)

    def axis(self) -> str:
        """Return the head of the list, with both ends of the scale."""
        return ('<li class="soft" aria-hidden="true"><span>kernel</span><div class="given"><div '
                f'class="ends"><span>1e{self.low}</span><span>1e{self.high}</span></div><span>norm'
                "</span></div><span>what it computes</span></li>")

    def __str__(self) -> str:
        return ("A bar is the norm of the gradient that the kernel is given. The scale is "
                f"logarithmic, from <code>1e{self.low}</code> at the left to <code>1e{self.high}"
                "</code> at the right, and each line is ten times the one before.")


def _item(number: int, call: Call, is_own: bool, does: str, more: str = "") -> str:
    sizes = " ".join(f"{name}={n}" for name, n in call.sizes.items())
    own = f' <span class="own">\u2605 {does}</span>' if is_own else ""
    return (f'<li><div><span class="at soft">{number}</span> <code>{call.kernel}</code> '
            f'<span class="soft sizes">{sizes}</span>{own}</div>{more}</li>')


def _given(call, scale):
    """Return the bar and the formula of a backward call."""
    if call.norm is None:
        begins = "it begins with dL/dL = 1" if "dloss" in call.at else ""
        given = f'<span class="soft">{begins}</span>'
    else:
        length = scale.percent(call.norm)
        bar = "" if length is None else f'<div class="bar" style="width: {length:.2f}%"></div>'
        given = (f'<div class="given"><div class="track" style="--decades: {scale.decades}">{bar}'
                 f"</div><span>{call.norm:.4g}</span></div>")
    return f'{given}<span class="formula">{html.escape(FORMULAS.get(call.kernel, ""))}</span>'


def _sum(formula: str, where: str, terms: list[Term], tokens: list[str], longest: float) -> str:
    """Return a sum as a table with a bar in each row."""
    head = "".join(f'<th role="columnheader"{_number(i)}>{name}</th>'
                   for i, name in enumerate(COLUMNS))
    rows = "".join(_row([str(t.row), f"<code>{html.escape(tokens[t.row])}</code>",
                         *(f"{x:+.6e}" for x in (t.factor, t.dy, t.product)),
                         _signed(t.product, longest)]) for t in terms)
    total = _row(["", "sum", "", "", f"{sum_of(terms):+.6e}", ""])
    label = html.escape(f"{where}: {formula}")
    return (f'<h3>{label}</h3><div class="scroll tall" tabindex="0" role="region" '
            f'aria-label="{label}"><table class="sum" role="table"><thead role="rowgroup">'
            f'<tr role="row">{head}</tr></thead><tbody role="rowgroup">{rows}</tbody>'
            f'<tfoot role="rowgroup">{total}</tfoot></table></div>'
            + ("" if terms else "<p>No token of the text reads this row, so the sum is empty.</p>"))


def _row(cells):
    return '<tr role="row">' + "".join(f'<td role="cell"{_number(i)}>{cell}</td>'
                                       for i, cell in enumerate(cells)) + "</tr>"


def _number(column):
    return ' class="number"' if 2 <= column <= 4 else ""


def _signed(product, longest):
    if not math.isfinite(product) or not longest:
        return '<div class="signed"></div>'
    return (f'<div class="signed"><div class="bar {"minus" if product < 0 else "plus"}" '
            f'style="width: {50 * abs(product) / longest:.2f}%"></div></div>')


def _total(j):
    if len(j.rule.sums) < 2:
        return ""
    return (f"<p>The weight stands in {len(j.rule.sums)} places, so the sums add up to "
            f"{j.rule.total:.6e}.</p>")


def _way(name: str, value: float, difference: float | None, bound: float | None) -> str:
    rows, said = [("gradient", f"{value:.8e}")], ""
    if difference is not None and bound is not None:
        is_within = abs(difference) <= bound
        rows += [("minus the tape", f"{difference:.1e}"), ("bound", f"{bound:.1e}")]
        said = (f'<p class="verdict{"" if is_within else " bad"}">'
                f'{"agrees" if is_within else "DISAGREES"}</p>')
    return (f'<div class="way"><h3>{name}</h3><dl>'
            + "".join(f"<dt>{key}</dt><dd>{number}</dd>" for key, number in rows)
            + f"</dl>{said}</div>")
