"""Defines csrc/embedding.c as loops: rows of tokens and positions, and their gradients."""

from pygpt.backend.reference.convert import from_bfloat16
from pygpt.backend.reference.loops import ERANGE, OK, all_in_range, places, store_all
from pygpt.backend.reference.int8 import dequantize_int8


def embedding_forward(out, ids, wte, wpe, past, B, T, C, V, P):
    first = [past[b] if past else 0 for b in range(B)]
    if not all_in_range(ids, B * T, V) or wpe and not all(0 <= f <= P - T for f in first):
        return ERANGE
    for b, t, c in places(B, T, C):
        token = wte[ids[b * T + t] * C + c]
        position = wpe[(first[b] + t) * C + c] if wpe else 0.0
        out[(b * T + t) * C + c] = token + position
    return OK


def embedding_bfloat16(out, ids, wte, wpe, past, B, T, C, V, P):
    wide = [0.0] * (V * C)
    from_bfloat16(wide, wte, V * C)
    return embedding_forward(out, ids, wide, wpe, past, B, T, C, V, P)


def embedding_int8(out, ids, q, scales, wpe, past, B, T, C, V, P):
    wide = [0.0] * (V * C)
    dequantize_int8(wide, q, scales, C, V)
    return embedding_forward(out, ids, wide, wpe, past, B, T, C, V, P)


def embedding_backward(dwte, dwpe, dout, ids, B, T, C, V, P, accumulate_wte, accumulate_wpe):
    # A row of a table is copied to every place that uses it, so its gradient is the sum of the
    # gradients of those places. A token's row is used wherever the token occurs, a position's row
    # once in each batch row.
    if not all_in_range(ids, B * T, V):
        return ERANGE
    token_grad, position_grad = [0.0] * (V * C), [0.0] * (P * C)
    for b, t, c in places(B, T, C):
        g = dout[(b * T + t) * C + c]
        token_grad[ids[b * T + t] * C + c] += g
        position_grad[t * C + c] += g
    if dwte:
        store_all(dwte, token_grad, accumulate_wte)
    if dwpe:
        store_all(dwpe, position_grad, accumulate_wpe)
    return OK
