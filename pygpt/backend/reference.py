"""Defines the numeric kernels of csrc/pygpt.h as plain Python loops.

Names, argument order and contracts are those of the header, whose glossary explains the capitals.
The formula stands there, its loop here, and its fast form in csrc/. A tensor is any flat object
that x[i] reads and writes: a list, an array, a memoryview, a cffi pointer. An optional tensor that
is absent is None or NULL, and `if bias:` tests for it. Sums run in Python's floats, in double
precision, and are stored unchanged: a list keeps them, float32 memory rounds them.

PYGPT_BACKEND=reference trains with these loops, and the tests check the C kernels against them.
The loops of the bpe_* functions are in tokenizer/bpe_python.py.
"""

from array import array
from itertools import product
from math import (ceil, copysign, cos, exp, frexp, inf, isfinite, isinf, isnan, ldexp, log, nan, pi,
                  sin, sqrt, tanh)

OK, ERANGE, EOVERFLOW = 0, 2, 3  # as PYGPT_OK, PYGPT_ERANGE and PYGPT_EOVERFLOW
PYGPT_ENOTFINITE, PYGPT_ENOTOKEN = 4, 5
PYGPT_FLOAT32, PYGPT_BFLOAT16 = 0, 1
PYGPT_INP_BFLOAT16, PYGPT_OUT_BFLOAT16, PYGPT_WEIGHT_BFLOAT16 = 2, 4, 8


def _places(*lengths):
    """List all index tuples below the lengths, the last index fastest: one loop for each length."""
    return product(*map(range, lengths))


def _dot(a, i, b, j, n, a_step=1, b_step=1):
    """Return the sum over k < n of a[i + k a_step] * b[j + k b_step]."""
    return sum((a[i + k * a_step] * b[j + k * b_step] for k in range(n)), 0.0)


def _store(x, i, value, accumulate):
    x[i] = x[i] + value if accumulate else value


def _store_all(x, values, accumulate):
    for i, value in enumerate(values):
        _store(x, i, value, accumulate)


def _all_in_range(ids, n, V):
    return all(0 <= ids[i] < V for i in range(n))


# ------------------------------------------------------------------------------ matmul, linear ---

def _operands(x, n, dtype, form=0):
    """Return x (n) as a product reads it: rounded to dtype. If dtype has the flag `form`, x holds
    the bits of bfloat16 numbers."""
    if not dtype & PYGPT_BFLOAT16:
        return x
    bits, rounded = x, [0.0] * n
    if not dtype & form:
        bits = [0] * n
        to_bfloat16(bits, x, n)
    from_bfloat16(rounded, bits, n)
    return rounded


def _store_operand(out, values, dtype):
    """Write values to out: as bfloat16 if dtype has the flag PYGPT_OUT_BFLOAT16."""
    if dtype & PYGPT_OUT_BFLOAT16:
        to_bfloat16(out, values, len(values))
    else:
        _store_all(out, values, accumulate=False)


def matmul(out, a, b, M, N, K, transpose_a, transpose_b, accumulate, dtype):
    a, b = _operands(a, M * K, dtype), _operands(b, K * N, dtype)
    a_row, a_col = (1, M) if transpose_a else (K, 1)
    b_row, b_col = (1, K) if transpose_b else (N, 1)
    for i, j in _places(M, N):
        total = _dot(a, i * a_row, b, j * b_col, K, a_col, b_row)
        _store(out, i * N + j, total, accumulate)
    return OK


def linear_forward(out, pre, inp, weight, bias, residual, R, IN, OUT, dtype):
    inp = _operands(inp, R * IN, dtype, PYGPT_INP_BFLOAT16)
    weight = _operands(weight, IN * OUT, dtype, PYGPT_WEIGHT_BFLOAT16)
    values = [0.0] * (R * OUT)
    for r, o in _places(R, OUT):
        z = _dot(inp, r * IN, weight, o, IN, 1, OUT)
        if bias:
            z += bias[o]
        if pre:
            if pre is not out:
                pre[r * OUT + o] = z
            z = _gelu(z)
        if residual:
            z += residual[r * OUT + o]
        values[r * OUT + o] = z
    _store_operand(out, values, dtype)
    return OK


def linear_backward_input(dinp, act, dout, weight, pre, R, IN, OUT, accumulate, dtype):
    # out_ro = sum_i inp_ri weight_io, so d loss / d inp_ri = sum_o dout_ro weight_io;
    # and where inp = gelu(pre), d loss / d pre = (d loss / d inp) * gelu'(pre).
    dout = _operands(dout, R * OUT, dtype)
    weight = _operands(weight, IN * OUT, dtype, PYGPT_WEIGHT_BFLOAT16)
    if act:
        _store_operand(act, [_gelu(pre[i]) for i in range(R * IN)], dtype)
    for r, i in _places(R, IN):
        grad = _dot(dout, r * OUT, weight, i * OUT, OUT)
        if pre:
            grad *= _gelu_slope(pre[r * IN + i])
        _store(dinp, r * IN + i, grad, accumulate)
    return OK


def linear_backward_weight(dweight, dbias, inp, dout, R, IN, OUT, accumulate, dtype):
    # out_ro = sum_i inp_ri weight_io + bias_o. weight_io occurs in every row r with the factor
    # inp_ri, hence dweight = inp^T @ dout. bias_o occurs in every row with the factor 1.
    inp = _operands(inp, R * IN, dtype, PYGPT_INP_BFLOAT16)
    matmul(dweight, inp, dout, IN, OUT, R, 1, 0, accumulate, dtype)
    if dbias:
        sums = [sum((dout[r * OUT + o] for r in range(R)), 0.0) for o in range(OUT)]
        _store_all(dbias, sums, accumulate)
    return OK


# ----------------------------------------------------------------------------------- quantized ---

PYGPT_INT8_GROUP = 64
LEAST_QUANTIZED = 2.0 ** -100  # numbers that are all smaller count as 0


def quantize_int8(q, scales, weight, IN, OUT, transpose):
    G = -(-IN // PYGPT_INT8_GROUP)
    across, along = (1, OUT) if transpose else (IN, 1)
    for o, g in _places(OUT, G):
        first, end = g * PYGPT_INT8_GROUP, min((g + 1) * PYGPT_INT8_GROUP, IN)
        group = [weight[o * across + i * along] for i in range(first, end)]
        scale = _group_scale(group)
        whole = [round(_float32(w / scale)) if scale > 0.0 else 0 for w in group]
        whole += [0] * (PYGPT_INT8_GROUP - len(group))
        scales[o * G + g] = scale
        for k, n in enumerate(whole):
            q[(o * G + g) * PYGPT_INT8_GROUP + k] = n
    return OK


def _group_scale(group):
    if not all(map(isfinite, group)):
        return nan
    largest = max(map(abs, group))
    return _float32(largest / 127) if largest >= LEAST_QUANTIZED else 0.0


def dequantize_int8(out, q, scales, IN, OUT):
    G = -(-IN // PYGPT_INT8_GROUP)
    for o, i in _places(OUT, IN):
        place = o * G * PYGPT_INT8_GROUP + i
        out[o * IN + i] = q[place] * scales[place // PYGPT_INT8_GROUP]
    return OK


def linear_bfloat16(out, pre, inp, weight, bias, residual, R, IN, OUT):
    wide, across = [0.0] * (OUT * IN), [0.0] * (OUT * IN)
    from_bfloat16(wide, weight, OUT * IN)
    transpose(across, wide, OUT, IN)
    return linear_forward(out, pre, inp, across, bias, residual, R, IN, OUT, PYGPT_FLOAT32)


def linear_int8(out, pre, inp, q, scales, bias, residual, R, IN, OUT):
    wide, across, whole = [0.0] * (OUT * IN), [0.0] * (OUT * IN), []
    dequantize_int8(wide, q, scales, IN, OUT)
    transpose(across, wide, OUT, IN)
    for r in range(R):
        whole += _whole_times_power([inp[r * IN + i] for i in range(IN)])
    return linear_forward(out, pre, whole, across, bias, residual, R, IN, OUT, PYGPT_FLOAT32)


def _whole_times_power(row):
    """Return the row rounded to n 2^e with whole |n| <= 32767 and the smallest such e."""
    if not all(map(isfinite, row)):
        return [nan] * len(row)
    largest = max(map(abs, row), default=0.0)
    if largest < LEAST_QUANTIZED:
        return [0.0] * len(row)
    e = frexp(largest)[1] - 15  # largest / 2^e is in [2^14, 2^15)
    if round(ldexp(largest, -e)) > 32767:
        e += 1
    return [ldexp(round(ldexp(x, -e)), e) for x in row]


# ----------------------------------------------------------------------------------- attention ---

def _scores(query, q, keys, k, k_step, n, HS):
    """List q . k_j / sqrt(HS) for j < n; q starts at query[q], k_j at keys[k + j k_step]."""
    return [_dot(query, q, keys, k + j * k_step, HS) / sqrt(HS or 1) for j in range(n)]


def _attend(out, o, scores, factor, values, v, v_step, HS, dtype):
    """Write sum_j f_j p_j v_j with p = softmax(scores) to out[o...], and return log sum_j e^s_j.
    v_j starts at values[v + j v_step]."""
    lse = _logsumexp(scores)
    # The weight that is rounded is f_j e^s_j times a power of two, here near 1 / sum_j e^s_j.
    m = ceil(lse / log(2.0)) * log(2.0) if isfinite(lse) else lse
    weights = _operands([f * exp(s - m) for f, s in zip(factor, scores)], len(scores), dtype)
    p = [w * exp(m - lse) for w in weights]
    for c in range(HS):
        out[o + c] = _dot(p, 0, values, v + c, len(p), 1, v_step)
    return lse


def attention_forward(out, lse, qkv, B, T, C, NH, dropout, seed, stream, dtype):
    HS, values = C // NH, [0.0] * (B * T * C)
    qkv = _operands(qkv, B * T * 3 * C, dtype, PYGPT_INP_BFLOAT16)
    for r, (b, h, i) in enumerate(_places(B, NH, T)):
        o, q = (b * T + i) * C + h * HS, (b * T + i) * 3 * C + h * HS
        k0 = b * T * 3 * C + C + h * HS  # the key of position 0; its value lies C further on
        scores = _scores(qkv, q, qkv, k0, 3 * C, i + 1, HS)
        factor = _dropout_factors(dropout, seed, stream, r, i + 1)
        lse[r] = _attend(values, o, scores, factor, qkv, k0 + C, 3 * C, HS, dtype)
    _store_operand(out, values, dtype)
    return OK


def attention_backward(dqkv, dout, qkv, out, lse, B, T, C, NH, dropout, seed, stream, dtype):
    # With f_ij the dropout factor, out_i = sum_j f_ij p_ij v_j gives
    #   dv_j = sum_i f_ij p_ij dout_i  and  dp_ij = f_ij dout_i . v_j.
    # Through the softmax, ds_ij = p_ij (dp_ij - sum_k p_ik dp_ik), where the sum is dout_i . out_i.
    # From s_ij = q_i . k_j / sqrt(HS): dq_i = sum_j ds_ij k_j / sqrt(HS), dk_j likewise over i.
    HS = C // NH
    qkv = _operands(qkv, B * T * 3 * C, dtype, PYGPT_INP_BFLOAT16)
    out = _operands(out, B * T * C, dtype, PYGPT_OUT_BFLOAT16)
    dout = _operands(dout, B * T * C, dtype)
    grad = [0.0] * (B * T * 3 * C)  # sums in double precision
    for r, (b, h, i) in enumerate(_places(B, NH, T)):
        o, q = (b * T + i) * C + h * HS, (b * T + i) * 3 * C + h * HS
        k0 = b * T * 3 * C + C + h * HS
        dout_out = _dot(dout, o, out, o, HS)
        scores = _scores(qkv, q, qkv, k0, 3 * C, i + 1, HS)
        factor = _dropout_factors(dropout, seed, stream, r, i + 1)
        for j in range(i + 1):
            k = k0 + j * 3 * C
            v = k + C
            p = exp(scores[j] - lse[r])
            dp = factor[j] * _dot(dout, o, qkv, v, HS)
            ds, weight = _operands([p * (dp - dout_out), factor[j] * p], 2, dtype)
            for c in range(HS):
                grad[q + c] += ds * qkv[k + c] / sqrt(HS or 1)
                grad[k + c] += ds * qkv[q + c] / sqrt(HS or 1)
                grad[v + c] += weight * dout[o + c]
    _store_all(dqkv, grad, accumulate=False)
    return OK


def attention_cached(out, keys, values, qkv, past, B, T, C, NH, P, dtype):
    HS = C // NH
    if not all(0 <= past[b] <= P - T for b in range(B)):
        return ERANGE
    for b, i, c in _places(B, T, C):
        new, row = (b * T + i) * 3 * C, (b * P + past[b] + i) * C
        keys[row + c] = qkv[new + C + c]
        values[row + c] = qkv[new + 2 * C + c]
    qkv = _operands(qkv, B * T * 3 * C, dtype)
    keys, values = _operands(keys, B * P * C, dtype), _operands(values, B * P * C, dtype)
    for b, h, i in _places(B, NH, T):
        o, q = (b * T + i) * C + h * HS, (b * T + i) * 3 * C + h * HS
        first, seen = b * P * C + h * HS, past[b] + i + 1
        scores = _scores(qkv, q, keys, first, C, seen, HS)
        _attend(out, o, scores, [1.0] * seen, values, first, C, HS, dtype)
    return OK


# ------------------------------------------------------------------------------------- softmax ---

def _logsumexp(x):
    """Return log sum_i exp(x_i). Subtracting the maximum first keeps exp from overflowing."""
    top = max(x)
    return top + log(sum(exp(v - top) for v in x))


def softmax_forward(out, inp, R, C):
    for r in range(R):
        row = [inp[r * C + c] for c in range(C)]
        top = max(row, default=0.0)
        powers = [exp(x - top) for x in row]
        total = sum(powers)
        for c in range(C):
            out[r * C + c] = powers[c] / total
    return OK


def softmax_backward(dinp, dout, out, R, C, accumulate):
    # out_j = e^x_j / sum e^x gives d out_j / d x_i = out_j ([i = j] - out_i), so
    # d loss / d x_i = sum_j dout_j out_j ([i = j] - out_i) = out_i (dout_i - sum_j dout_j out_j).
    for r in range(R):
        dot = _dot(dout, r * C, out, r * C, C)
        for i in range(r * C, r * C + C):
            _store(dinp, i, out[i] * (dout[i] - dot), accumulate)
    return OK


# ----------------------------------------------------------------------------------- layernorm ---

def layernorm_forward(out, mean, rstd, inp, weight, bias, R, C, eps, form):
    values = []
    for r in range(R):
        row = [inp[r * C + c] for c in range(C)]
        mu = sum(row) / (C or 1)
        variance = sum((x - mu) ** 2 for x in row) / (C or 1)
        scale = 1.0 / sqrt(variance + eps)
        mean[r], rstd[r] = mu, scale
        values += [(row[c] - mu) * scale * weight[c] + bias[c] for c in range(C)]
    _store_operand(out, values, form)
    return OK


def layernorm_backward(dinp, dweight, dbias, dout, inp, weight, mean, rstd, R, C,
                       accumulate_input, accumulate_params):
    # out = xhat * weight + bias with xhat = (x - mean) * rstd, so dxhat = dout * weight. The mean
    # has d mean / d x_i = 1/C and the scale d rstd / d x_i = -rstd^2 xhat_i / C, which makes
    #   d xhat_j / d x_i = rstd ([i = j] - 1/C - xhat_j xhat_i / C), and summed over j with dxhat_j
    #   dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)).
    weight_grad, bias_grad = [0.0] * C, [0.0] * C
    for r in range(R):
        xhat = [(inp[r * C + c] - mean[r]) * rstd[r] for c in range(C)]
        dxhat = [dout[r * C + c] * weight[c] for c in range(C)]
        mean_dxhat = sum(dxhat) / (C or 1)
        mean_product = _dot(dxhat, 0, xhat, 0, C) / (C or 1)
        for c in range(C):
            grad = rstd[r] * (dxhat[c] - mean_dxhat - xhat[c] * mean_product)
            weight_grad[c] += dout[r * C + c] * xhat[c]
            bias_grad[c] += dout[r * C + c]
            _store(dinp, r * C + c, grad, accumulate_input)
    _store_all(dweight, weight_grad, accumulate_params)
    _store_all(dbias, bias_grad, accumulate_params)
    return OK


# ---------------------------------------------------------------------------------------- gelu ---

def _gelu(x):
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / pi) * (x + 0.044715 * x ** 3)))


def _gelu_slope(x):
    # y = 0.5 x (1 + t) with t = tanh(u), and tanh' = 1 - tanh^2:
    # dy/dx = 0.5 (1 + t) + 0.5 x (1 - t^2) du/dx.
    t = tanh(sqrt(2.0 / pi) * (x + 0.044715 * x ** 3))
    du = sqrt(2.0 / pi) * (1.0 + 3.0 * 0.044715 * x ** 2)
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * du


def gelu_forward(out, inp, n):
    for i in range(n):
        out[i] = _gelu(inp[i])
    return OK


def gelu_backward(dinp, dout, inp, n, accumulate):
    for i in range(n):
        _store(dinp, i, dout[i] * _gelu_slope(inp[i]), accumulate)
    return OK


# ----------------------------------------------------------------------------------- embedding ---

def embedding_forward(out, ids, wte, wpe, past, B, T, C, V, P):
    first = [past[b] if past else 0 for b in range(B)]
    if not _all_in_range(ids, B * T, V) or wpe and not all(0 <= f <= P - T for f in first):
        return ERANGE
    for b, t, c in _places(B, T, C):
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
    if not _all_in_range(ids, B * T, V):
        return ERANGE
    token_grad, position_grad = [0.0] * (V * C), [0.0] * (P * C)
    for b, t, c in _places(B, T, C):
        g = dout[(b * T + t) * C + c]
        token_grad[ids[b * T + t] * C + c] += g
        position_grad[t * C + c] += g
    if dwte:
        _store_all(dwte, token_grad, accumulate_wte)
    if dwpe:
        _store_all(dwpe, position_grad, accumulate_wpe)
    return OK


# ------------------------------------------------------------------------------- cross-entropy ---

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
            nats = _logsumexp(row) - row[targets[r]]
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
                _store(dlogits, r * V + v, 0.0, accumulate)
            continue
        row = [logits[r * V + v] for v in range(V)]
        lse = _logsumexp(row)
        for v in range(V):
            y = 1.0 if v == targets[r] else 0.0
            _store(dlogits, r * V + v, dloss[0] * (exp(row[v] - lse) - y) / N, accumulate)
    return OK


def linear_cross_entropy_forward(loss, losses, inp, weight, targets, R, C, V, ignore_index, dtype):
    logits, weight = [0.0] * (R * V), _operands(weight, V * C, dtype, PYGPT_WEIGHT_BFLOAT16)
    matmul(logits, inp, weight, R, V, C, 0, 1, 0, dtype)
    return cross_entropy_forward(loss, losses, logits, targets, R, V, ignore_index)


def linear_cross_entropy_backward(loss, losses, dinp, dweight, dloss, inp, weight, targets, R, C, V,
                                  ignore_index, accumulate_input, accumulate_weight, dtype):
    # logits_rv = sum_c inp_rc weight_vc. Each inp_rc occurs for all v with the factor weight_vc,
    # each weight_vc for all r with the factor inp_rc: these are the gradients of a linear layer
    # whose weight is transposed.
    logits, weight = [0.0] * (R * V), _operands(weight, V * C, dtype, PYGPT_WEIGHT_BFLOAT16)
    matmul(logits, inp, weight, R, V, C, 0, 1, 0, dtype)
    if cross_entropy_forward(loss, losses, logits, targets, R, V, ignore_index):
        return ERANGE
    cross_entropy_backward(logits, dloss, logits, targets, R, V, ignore_index, 0)
    if dinp is not None:
        matmul(dinp, logits, weight, R, C, V, 0, 0, accumulate_input, dtype)
    if dweight is not None:
        matmul(dweight, logits, inp, V, C, R, 1, 0, accumulate_weight, dtype)
    return OK


# ---------------------------------------------------------------------- random numbers, dropout ---

def _splitmix64(x):
    wrap = 0xFFFFFFFFFFFFFFFF
    x = (x + 0x9E3779B97F4A7C15) & wrap
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & wrap
    x = (x ^ x >> 27) * 0x94D049BB133111EB & wrap
    return x ^ x >> 31


def _mix32(x):
    wrap = 0xFFFFFFFF
    x = (x ^ x >> 16) * 0x7FEB352D & wrap
    x = (x ^ x >> 15) * 0x846CA68B & wrap
    return x ^ x >> 16


def _float32(x):
    """Round x to 24 bits, as a C float is rounded, because masks must agree bit for bit."""
    mantissa, exponent = frexp(x)
    return ldexp(round(ldexp(mantissa, 24)), exponent - 24)


def _random_key(seed, stream):
    return _splitmix64(_splitmix64(seed[0]) + stream)


def _dropout_factors(dropout, seed, stream, r, n):
    """List keep / (1 - dropout) for the first n columns of row r of the mask."""
    if dropout == 0.0:
        return [1.0] * n
    dropout = _float32(dropout)
    row = _splitmix64(_random_key(seed, stream) + r) >> 32
    bits = (_mix32(row + c * 0x9E3779B9 & 0xFFFFFFFF) >> 8 for c in range(n))
    return [(b >= ldexp(dropout, 24)) / (1.0 - dropout) for b in bits]


def dropout_forward(out, inp, residual, R, C, dropout, seed, stream):
    for r in range(R):
        for c, factor in enumerate(_dropout_factors(dropout, seed, stream, r, C)):
            i = r * C + c
            out[i] = factor * inp[i] + (residual[i] if residual else 0.0)
    return OK


def dropout_backward(dinp, dout, R, C, dropout, seed, stream, accumulate):
    # out = factor * inp, elementwise, so dinp = factor * dout.
    for r in range(R):
        for c, factor in enumerate(_dropout_factors(dropout, seed, stream, r, C)):
            _store(dinp, r * C + c, factor * dout[r * C + c], accumulate)
    return OK


def random_normal(out, std, seed, stream, n):
    # Box-Muller: if the x and y of a point in the plane are normal, its angle is uniform, and
    # exp(-radius^2 / 2) is uniform too. So two uniform numbers make two independent normal numbers.
    key = _random_key(seed, stream)
    for i in range(n):
        bits = _splitmix64(key + i // 2)
        radius = _float32(std) * sqrt(-2.0 * log(((bits >> 32) + 1) / 2 ** 32))
        angle = 2.0 * pi * (bits & 0xFFFFFFFF) / 2 ** 32
        out[i] = radius * (sin(angle) if i % 2 else cos(angle))
    return OK


# --------------------------------------------------------------------------------- elementwise ---

def add_forward(out, a, b, n):
    for i in range(n):
        out[i] = a[i] + b[i]
    return OK


def mul_forward(out, a, b, n):
    for i in range(n):
        out[i] = a[i] * b[i]
    return OK


def mul_backward(da, dout, b, n, accumulate):
    # out = a b, elementwise, so da = dout b.
    for i in range(n):
        _store(da, i, dout[i] * b[i], accumulate)
    return OK


def scale_forward(out, inp, factor, n, accumulate):
    for i in range(n):
        _store(out, i, inp[i] * factor[0], accumulate)
    return OK


def sum_forward(out, inp, n):
    out[0] = sum((inp[i] for i in range(n)), 0.0)
    return OK


def sum_backward(dinp, dout, n, accumulate):
    # out = sum_i inp_i: each inp_i has the factor 1, so the gradient of each is dout.
    for i in range(n):
        _store(dinp, i, dout[0], accumulate)
    return OK


# ------------------------------------------------------------------------------------- convert ---

_FLOAT16, _BFLOAT16 = (5, 10), (8, 7)  # bits of the exponent and of the fraction, after the sign


def _widen(out, inp, n, exponent_bits, fraction_bits):
    """Convert 16-bit floats to float32. Sign s, exponent e and fraction f stand for the number
    (-1)^s 2^(e - bias) (1 + f/2^bits), or, where e is 0, for (-1)^s 2^(1 - bias) f/2^bits. The
    largest e stands for infinity (f = 0) and NaN (otherwise)."""
    bias, largest = 2 ** (exponent_bits - 1) - 1, 2 ** exponent_bits - 1
    for i in range(n):
        sign, magnitude = -1.0 if inp[i] >> 15 else 1.0, inp[i] & 0x7FFF
        e, f = magnitude >> fraction_bits, magnitude % 2 ** fraction_bits
        if e == largest:
            out[i] = copysign(nan if f else inf, sign)
        else:
            steps = f + 2 ** fraction_bits if e else f
            out[i] = sign * ldexp(steps, max(e, 1) - bias - fraction_bits)
    return OK


def _narrow(out, inp, n, exponent_bits, fraction_bits):
    """Convert float32 to 16-bit floats. A number in [2^E, 2^(E+1)) is rounded to the nearest
    multiple of 2^(E - bits). E is at least the exponent of the smallest normal number."""
    least, infinity = 2 - 2 ** (exponent_bits - 1), (2 ** exponent_bits - 1) << fraction_bits
    status = OK
    for i in range(n):
        x = inp[i]
        if isnan(x):
            bits = infinity | 1 << (fraction_bits - 1)
        elif isinf(x):
            bits = infinity
        else:
            E = max(frexp(x)[1] - 1, least) if x else least
            steps = round(ldexp(abs(x), fraction_bits - E))  # a tie goes to the even number
            bits = min(steps + ((E - least) << fraction_bits), infinity)
            status = EOVERFLOW if bits == infinity else status
        out[i] = bits | (0x8000 if copysign(1.0, x) < 0 else 0)
    return status


def from_float16(out, inp, n):
    return _widen(out, inp, n, *_FLOAT16)


def from_bfloat16(out, inp, n):
    return _widen(out, inp, n, *_BFLOAT16)


def to_float16(out, inp, n):
    return _narrow(out, inp, n, *_FLOAT16)


def to_bfloat16(out, inp, n):
    return _narrow(out, inp, n, *_BFLOAT16)


def transpose(out, inp, R, C):
    for r, c in _places(R, C):
        out[c * R + r] = inp[r * C + c]
    return OK


# --------------------------------------------------------------------------------------- AdamW ---

def _flush(x):
    """Replace a denormal number by 0, as the kernels do. Only here do such numbers last: a moment
    without gradients decays to one."""
    return 0.0 if abs(x) < 2.0 ** -126 else x  # in this order NaN stays NaN


def adamw_step(param, half, m, v, grad, settings, n, n_decay):
    lr, beta1, beta2, eps, weight_decay, unbias_m, unbias_v, grad_scale = (
        settings[i] for i in range(8))
    for i in range(n):
        g = grad[i] * grad_scale
        m[i] = _flush(beta1 * m[i] + (1.0 - beta1) * g)
        v[i] = _flush(beta2 * v[i] + (1.0 - beta2) * g * g)
        step = (m[i] / unbias_m) / (sqrt(v[i] / unbias_v) + eps)
        decay = weight_decay * param[i] if i < n_decay else 0.0
        param[i] = _flush(param[i] - lr * step - lr * decay)
    if half:
        to_bfloat16(half, param, n)
    return OK


def sum_squares(out, x, n):
    out[0] = sum((x[i] * x[i] for i in range(n)), 0.0)
    return OK


# ---------------------------------------------------------------------------- choosing a token ---

_LARGEST = (2 - 2.0 ** -23) * 2.0 ** 127  # float32


def sample_adjust(out, logits, bias_ids, biases, seen, counts, V, NB, NS, repetition_penalty,
                  presence_penalty, frequency_penalty):
    if not all(isfinite(logits[v]) for v in range(V)):
        return PYGPT_ENOTFINITE
    if not (_all_in_range(bias_ids, NB, V) and _all_in_range(seen, NS, V)):
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
