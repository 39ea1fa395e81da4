"""Computes how likely each token is to be drawn, after temperature, top_k, top_p and min_p.

Sampler draws one token, in C, and never needs these numbers. They are computed here in plain
Python, by the steps 4 to 7 that config.SampleConfig documents.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def drawn_probabilities(logits: Sequence[float], settings: Any) -> list[tuple[int, float]]:
    """Return (token, probability) of the tokens that can be drawn, likeliest first.

    Args:
        logits: V finite numbers.
        settings: a SampleConfig, of which only these four settings count.
    """
    order = sorted(range(len(logits)), key=lambda v: -logits[v])
    if settings.temperature == 0.0:
        return [(order[0], 1.0)]
    top = logits[order[0]]
    weights = [math.exp((logits[v] - top) / settings.temperature) for v in order]
    if settings.top_k:
        del weights[settings.top_k:]
    if settings.top_p < 1.0:
        enough, reached = settings.top_p * math.fsum(weights), 0.0
        for count, weight in enumerate(weights, 1):
            reached += weight
            if reached >= enough:
                del weights[count:]
                break
    weights = [weight for weight in weights if weight >= settings.min_p]  # the first one is 1
    total = math.fsum(weights)
    return [(v, weight / total) for v, weight in zip(order, weights)]
