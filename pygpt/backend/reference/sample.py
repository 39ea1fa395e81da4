"""Defines csrc/sample.c as loops: logits are adjusted, sorted, and a token is drawn."""

from array import array
from math import inf, isfinite, isnan, ldexp, log

from pygpt.backend.reference.loops import ERANGE, OK, PYGPT_ENOTFINITE, PYGPT_ENOTOKEN, all_in_range

_LARGEST = (2 - 2.0 ** -23) * 2.0 ** 127  # float32


def sample_adjust(out, logits, bias_ids, biases, seen, counts, V, NB, NS, repetition_penalty,
                  presence_penalty, frequency_penalty):
    if not all(isfinite(logits[v]) for v in range(V)):
        return PYGPT_ENOTFINITE
    if not (all_in_range(bias_ids, NB, V) and all_in_range(seen, NS, V)):
        return ERANGE
    for v in range(V):
        out[v] = logits[v]
    for i in range(NB):
        out[bias_ids[i]] = _kept_finite(out[bias_ids[i]] + biases[i])
    for i in range(NS):
        x = out[seen[i]]
        x = x / repetition_penalty if x > 0.0 else x * repetition_penalty
        x -= counts[i] * frequency_penalty
        out[seen[i]] = _kept_finite(x - (counts[i] > 0) * presence_penalty)
    return OK


def _kept_finite(x):
    return x if x == -inf else min(max(x, -_LARGEST), _LARGEST)


def _single(x):
    """Round x to float32. One that is too large becomes infinite."""
    return array("f", (x,))[0]


_LOG2E, _LN2_LO = _single(1.44269504088896341), _single(-2.12194440e-4)
_SERIES = [_single(c) for c in (1.381459633e-3, 8.368717091e-3, 4.166838809e-2, 1.666652063e-1,
                                4.999999345e-1, 1.0, 1.0)]


def _exp(d):
    """Return exp(d), d <= 0, by the operations of vexp (simd.h), each rounded to float32."""
    if d < -87.0:
        return 0.0
    n = _single(_single(d * _LOG2E) + 12582912.0) - 12582912.0
    r = _single(d - _single(n * 0.693359375))
    r = _single(r - _single(n * _LN2_LO))
    p = _SERIES[0]
    for c in _SERIES[1:]:
        p = _single(_single(p * r) + c)
    return ldexp(p, int(n))


def _weights(logits, V, temperature):
    """List exp((x - max x) / temperature), in float32, as multiples of one unit."""
    top = max(logits[v] for v in range(V))
    factor = _single(min(max(1.0 / temperature, 2.0 ** -126), _LARGEST))
    rounding = 1.5 * 2.0 ** (max((V - 1).bit_length(), 16) - 29)
    powers = (_exp(_single(_single(logits[v] - top) * factor)) for v in range(V))
    return [_single(_single(w + rounding) - rounding) for w in powers]


def _likeliest_first(logits, V):
    """List the tokens that are not banned; sorting keeps equal ones in the order of their ids."""
    return sorted((v for v in range(V) if logits[v] != -inf), key=lambda v: -logits[v])


def sample_token(token, logits, V, temperature, top_k, top_p, min_p, u):
    if any(isnan(logits[v]) or logits[v] == inf for v in range(V)):
        return PYGPT_ENOTFINITE
    kept = _likeliest_first(logits, V)
    if not kept:
        return PYGPT_ENOTOKEN
    if temperature == 0.0:
        token[0] = kept[0]
        return OK
    weights = _weights(logits, V, temperature)
    if top_k > 0:
        kept = kept[:top_k]
    if top_p < 1.0:
        enough, reached = top_p * sum(weights[v] for v in kept), 0.0
        for count, v in enumerate(kept, 1):
            reached += weights[v]
            if reached >= enough:
                kept = kept[:count]
                break
    kept = sorted(v for v in kept if weights[v] >= min_p)
    before, passed = u * sum(weights[v] for v in kept), 0.0
    for v in kept:
        passed += weights[v]
        if passed > before:
            token[0] = v
            break
    return OK


def sample_best(best, lse, logits, V, N):
    if not all(isfinite(logits[v]) for v in range(V)):
        return PYGPT_ENOTFINITE
    for i, v in enumerate(_likeliest_first(logits, V)[:N]):
        best[i] = v
    lse[0] = max(logits[v] for v in range(V)) + log(sum(_weights(logits, V, 1.0)))
    return OK
