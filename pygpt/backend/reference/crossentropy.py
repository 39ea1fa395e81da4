"""Defines csrc/crossentropy.c as loops: the loss, alone and together with the head's product."""

from math import exp

from pygpt.backend.reference.linear import matmul
from pygpt.backend.reference.loops import ERANGE, OK, PYGPT_WEIGHT_BFLOAT16, store
from pygpt.backend.reference.operands import read_operand
from pygpt.backend.reference.softmax import logsumexp


def _rows_counted(targets, R, V, ignore_index):
    """Count the targets that are not ignored; None if one of these is outside 0..V-1."""
    counted = [targets[r] for r in range(R) if targets[r] != ignore_index]
    return len(counted) if all(0 <= target < V for target in counted) else None


def cross_entropy_forward(loss, losses, logits, targets, R, V, ignore_index):
    N = _rows_counted(targets, R, V, ignore_index)
    if N is None:
        return ERANGE
    total = 0.0
    for r in range(R):
        losses[r] = 0.0
        if targets[r] != ignore_index:
            row = [logits[r * V + v] for v in range(V)]
            nats = logsumexp(row) - row[targets[r]]
            losses[r] = nats
            total += nats
    loss[0] = total / (N or 1)
    return OK


def cross_entropy_backward(dlogits, dloss, logits, targets, R, V, ignore_index, accumulate):
    # loss = (1/N) sum_r (log sum_v e^x_rv - x_r,target) over the N rows that count. The first term
    # has the softmax p as its derivative, the second the one-hot y: dx = dloss * (p - y) / N.
    N = _rows_counted(targets, R, V, ignore_index)
    if N is None:
        return ERANGE
    for r in range(R):
        if targets[r] == ignore_index:
            for v in range(V):
                store(dlogits, r * V + v, 0.0, accumulate)
            continue
        row = [logits[r * V + v] for v in range(V)]
        lse = logsumexp(row)
        for v in range(V):
            y = 1.0 if v == targets[r] else 0.0
            store(dlogits, r * V + v, dloss[0] * (exp(row[v] - lse) - y) / N, accumulate)
    return OK


def linear_cross_entropy_forward(loss, losses, inp, weight, targets, R, C, V, ignore_index, dtype):
    logits, weight = [0.0] * (R * V), read_operand(weight, V * C, dtype, PYGPT_WEIGHT_BFLOAT16)
    matmul(logits, inp, weight, R, V, C, 0, 1, 0, dtype)
    return cross_entropy_forward(loss, losses, logits, targets, R, V, ignore_index)


def linear_cross_entropy_backward(loss, losses, dinp, dweight, dloss, inp, weight, targets, R, C, V,
                                  ignore_index, accumulate_input, accumulate_weight, dtype):
    # logits_rv = sum_c inp_rc weight_vc. Each inp_rc occurs for all v with the factor weight_vc,
    # each weight_vc for all r with the factor inp_rc: these are the gradients of a linear layer
    # whose weight is transposed.
    logits, weight = [0.0] * (R * V), read_operand(weight, V * C, dtype, PYGPT_WEIGHT_BFLOAT16)
    matmul(logits, inp, weight, R, V, C, 0, 1, 0, dtype)
    if cross_entropy_forward(loss, losses, logits, targets, R, V, ignore_index):
        return ERANGE
    cross_entropy_backward(logits, dloss, logits, targets, R, V, ignore_index, 0)
    if dinp is not None:
        matmul(dinp, logits, weight, R, C, V, 0, 0, accumulate_input, dtype)
    if dweight is not None:
        matmul(dweight, logits, inp, V, C, R, 1, 0, accumulate_weight, dtype)
    return OK
