"""Defines the layers of a GPT as ops: linear, MLP, layer norm, GELU, softmax, attention, embedding
and dropout.

In the calls of the kernels, Python's n_head is C's NH (glossary: csrc/pygpt.h). Each backward
stands directly under its forward, below the formula of its gradients. The derivation is in the
kernel's .c file.
"""

from pygpt.autograd.arrays import Array
from pygpt.autograd.launch import launch
from pygpt.autograd.ops import at_rest
from pygpt.autograd.ops.at_rest import WeightAtRest
from pygpt.autograd.ops.checks import (array_pointer, check, check_floats, check_ids,
                                       check_same_shape, check_whole_number, give_gradient,
                                       give_gradients, node_of, refuse_twice, rows_of)
from pygpt.autograd.precision import operand_code, operand_type, with_forms
from pygpt.autograd.tape import attach, grad_enabled
from pygpt.autograd.tensor import Tensor
from pygpt.backend.arguments import is_integer
from pygpt.backend.kernels import FLOAT32, NULL, Memory, in_float32, lib

MLP_ROWS = 1024  # rows of the hidden layer that exist at a time


def linear(x, weight, bias=None):
    """Return x @ weight + bias: x (..., IN), weight (IN, OUT), bias (OUT,) -> (..., OUT)."""
    if isinstance(weight, WeightAtRest):
        return at_rest.linear(x, weight, bias)
    check_floats("linear", x=x, weight=weight)
    R, IN = rows_of("linear", "x", x)
    check(len(weight.shape) == 2 and weight.shape[0] == IN,
          "linear: x {} does not fit weight {}", x.shape, weight.shape)
    OUT, dtype = weight.shape[1], operand_type()
    if bias is not None:
        check_floats("linear", bias=bias)
        check(bias.shape == (OUT,), "linear: bias {} does not fit weight {}", bias.shape,
              weight.shape)

    w = weight.operand(dtype)

    def compute(out, residual=None):
        _linear_forward(out, None, x.operand(dtype), w, bias, residual, R, IN, OUT, dtype)

    out = Tensor.deferrable((*x.shape[:-1], OUT), compute, takes_residual=True, writes_half=True)
    nodes, get_x = (x.node, weight.node, node_of(bias)), x.getter_for_backward(dtype)

    # dx = dout W^T, dW = x^T dout, db = the sum of the rows of dout
    def backward(dout):
        _linear_backward_weight(dout.array, get_x, nodes[1:], R, IN, OUT, dtype)
        give_gradient(nodes[0], lambda dx, acc: launch(
            lib.linear_backward_input, dx, NULL, dout.array.ptr, w.ptr, NULL, R, IN, OUT, acc,
            with_forms(dtype, weight=w)))

    return attach(out, (x, weight, bias), backward)


def _linear_forward(out, pre, inp, weight, bias, residual, R, IN, OUT, dtype):
    launch(lib.linear_forward, out.ptr, array_pointer(pre), inp.ptr, weight.ptr,
           array_pointer(bias), array_pointer(residual), R, IN, OUT,
           with_forms(dtype, inp, out, weight))


def _linear_backward_weight(dout, get_x, nodes, R, IN, OUT, dtype):
    """Compute dW and db. get_x is a function that returns x; nodes are those of weight and bias."""
    weight_node, bias_node = nodes
    if weight_node is None:  # at most the bias has a gradient: a sum over rows, with IN = 0
        give_gradient(bias_node, lambda db, acc: launch(
            lib.linear_backward_weight, NULL, db, NULL, dout.ptr, R, 0, OUT, acc, dtype))
        return
    x = get_x()
    give_gradients(nodes, lambda places, acc: launch(
        lib.linear_backward_weight, *places, x.ptr, dout.ptr, R, IN, OUT, acc,
        with_forms(dtype, inp=x)))


def mlp(x, fc_weight, fc_bias, proj_weight, proj_bias):
    """Return gelu(x @ fc_weight + fc_bias) @ proj_weight + proj_bias, as one node of the tape.

    x (..., C), fc_weight (C, H), proj_weight (H, C). The result of the GELU exists for MLP_ROWS
    rows at a time, and these are still in the processor's cache when the second layer reads them.
    The backward pass computes the GELU again from its input. In float32 that input is kept for the
    backward pass. In bfloat16 it is computed again too, also MLP_ROWS rows at a time: it has to be
    float32, and would be the largest tensor of all. The product is a ninth of a block's.
    """
    if isinstance(fc_weight, WeightAtRest):
        hidden = at_rest.linear(x, fc_weight, fc_bias, gelu=True)
        return at_rest.linear(hidden, proj_weight, proj_bias)
    check_floats("mlp", x=x, fc_weight=fc_weight, fc_bias=fc_bias, proj_weight=proj_weight,
                 proj_bias=proj_bias)
    R, C = rows_of("mlp", "x", x)
    H = fc_bias.size
    check(fc_weight.shape == (C, H) and proj_weight.shape == (H, C),
          "mlp: x {}, weights {} and {} do not fit", x.shape, fc_weight.shape, proj_weight.shape)
    check(fc_bias.shape == (H,) and proj_bias.shape == (C,),
          "mlp: biases {} and {} do not fit the weights", fc_bias.shape, proj_bias.shape)
    parts, dtype, saved_pre = _row_parts(R), operand_type(), []
    saves, longest = grad_enabled() and dtype == FLOAT32, len(parts[0])
    w1, w2 = fc_weight.operand(dtype), proj_weight.operand(dtype)

    def fc_forward(out, pre, inp, rows):
        _linear_forward(out, pre, inp.rows(rows, C), w1, fc_bias, None, len(rows), C, H, dtype)

    def compute(out, residual=None):
        inp, hidden = x.operand(dtype), Array.empty((longest, H), operand_code(dtype))
        pre = Array.empty((R, H)) if saves else None
        for rows in parts:
            fc_forward(hidden, pre.rows(rows, H) if saves else hidden, inp, rows)
            _linear_forward(out.rows(rows, C), None, hidden, w2, proj_bias,
                            None if residual is None else residual.rows(rows, C), len(rows), H, C,
                            dtype)
        saved_pre[:] = [pre] if saves else []

    out = Tensor.deferrable(x.shape, compute, takes_residual=True)
    get_x, x_node = x.getter_for_backward(dtype), x.node
    fc_nodes = fc_weight.node, fc_bias.node
    proj_nodes = proj_weight.node, proj_bias.node

    # With pre = x W1 + b1 and hidden = gelu(pre):
    #   dW2 = hidden^T dout, db2 = the sum of the rows of dout, dpre = (dout W2^T) gelu'(pre)
    #   dW1 = x^T dpre,      db1 = the sum of the rows of dpre, dx = dpre W1^T
    def backward(dout):
        saved = saved_pre.pop() if saved_pre else None
        inp = get_x() if saved is None or fc_nodes[0] is not None else None
        in_parts = dtype != FLOAT32
        if saved is None and not in_parts:  # compute() never ran (the second run of recomputed)
            saved = Array.empty((R, H))
            for rows in parts:
                fc_forward(saved.rows(rows, H), None, inp, rows)
        some_pre = Array.empty((longest, H)) if in_parts else None
        hidden = Array.empty((longest, H), operand_code(dtype))
        dx = None if x_node is None else Array.empty(x_node.shape)

        def fc_backward(dpre, rows):
            _linear_backward_weight(dpre, lambda: inp.rows(rows, C), fc_nodes, len(rows), C, H,
                                    dtype)
            if dx is not None:
                launch(lib.linear_backward_input, dx.rows(rows, C).ptr, NULL, dpre.ptr, w1.ptr,
                       NULL, len(rows), C, H, 0, with_forms(dtype, weight=w1))

        for rows in parts:
            d = dout.array.rows(rows, C)
            pre = some_pre if in_parts else saved.rows(rows, H)
            if in_parts:
                fc_forward(pre, None, inp, rows)
            # dpre overwrites pre, which is read here for the last time. The same kernel computes
            # the GELU of pre once more, into hidden.
            launch(lib.linear_backward_input, pre.ptr, hidden.ptr, d.ptr, w2.ptr, pre.ptr,
                   len(rows), H, C, 0, with_forms(dtype, out=hidden, weight=w2))
            _linear_backward_weight(d, lambda: hidden, proj_nodes, len(rows), H, C, dtype)
            if in_parts:
                fc_backward(pre, rows)
        if not in_parts:  # in one piece, which took 7 % less time for a step of char (Zen 3)
            fc_backward(saved, range(R))
        if dx is not None:
            x_node.hand_over(dx)

    return attach(out, (x, fc_weight, fc_bias, proj_weight, proj_bias), backward)


def _row_parts(R):
    """Divide R rows into ranges of equal length; the last may be shorter. The length is at most
    MLP_ROWS and a multiple of 256, the number of rows that kernels sum at a time. It depends on R
    alone."""
    length = max(256, -(-R // max(1, -(-R // MLP_ROWS)) // 256) * 256)
    return [range(start, min(start + length, R)) for start in range(0, R, length)] or [range(0)]


def layernorm(x, weight, bias, eps=1e-5):
    """Return (x - mean) / sqrt(variance + eps) * weight + bias over the last axis; weight (C,),
    bias (C,).

    The result is not kept for the backward pass. Layernorm's own gradient needs only x, mean and
    rstd. An op that reads the result in its backward pass, such as linear, computes it again from x
    by `out.rebuild`. A block has two layer norms, so it keeps 2 C fewer numbers for each token.
    """
    check_floats("layernorm", x=x, weight=weight, bias=bias)
    R, C = rows_of("layernorm", "x", x)
    check(weight.shape == (C,) and bias.shape == (C,),
          "layernorm: x {} does not fit weight {} and bias {}", x.shape, weight.shape, bias.shape)
    eps = in_float32("layernorm: eps", eps, 0.0)
    refuse_twice("layernorm", x=x, weight=weight, bias=bias)
    mean, rstd, computed = Array.empty((R,)), Array.empty((R,)), []
    inp, node, weight_nodes = x.values(), x.node, (weight.node, bias.node)

    def compute(out):
        launch(lib.layernorm_forward, out.ptr, mean.ptr, rstd.ptr, inp.ptr, weight.ptr, bias.ptr,
               R, C, eps, with_forms(FLOAT32, out=out))
        computed[:] = [True]
        return out

    out = Tensor.deferrable(x.shape, compute, writes_half=True)
    out.rebuild = lambda dtype: compute(Array.empty(inp.shape, operand_code(dtype)))

    # With xhat = (x - mean) rstd and dxhat = dout weight:
    #   dx = rstd (dxhat - mean(dxhat) - xhat mean(dxhat xhat)), with means over the last axis
    #   dweight = the sum of the rows of dout xhat, dbias = the sum of the rows of dout
    def backward(dout):
        # The kernel writes all three gradients; those that are not needed go to scratch memory.
        if not computed:  # nobody read the result, but the kernel needs mean and rstd
            compute(Array.empty(inp.shape))
        scratch_x = Array.empty((R, C)) if node is None else None
        dx, acc = node.target() if node is not None else (scratch_x.ptr, 0)
        scratch = Array.empty((C,))

        def run_backward(places, acc_params):
            dw, db = (scratch.ptr if place == NULL else place for place in places)
            launch(lib.layernorm_backward, dx, dw, db, dout.array.ptr, inp.ptr, weight.ptr,
                   mean.ptr, rstd.ptr, R, C, acc, acc_params)

        if weight_nodes == (None, None):
            run_backward((NULL, NULL), 0)
        else:
            give_gradients(weight_nodes, run_backward)

    return attach(out, (x, weight, bias), backward)


def gelu(x):
    """Return GPT-2's GELU of x, elementwise."""
    check_floats("gelu", x=x)
    out, node = Tensor.empty(x.shape), x.node
    launch(lib.gelu_forward, out.ptr, x.ptr, x.size)

    # dx = dout gelu'(x)
    def backward(dout):
        dx, acc = node.target()
        launch(lib.gelu_backward, dx, dout.array.ptr, x.ptr, x.size, acc)

    return attach(out, (x,), backward)


def softmax(x):
    """Return exp(x) / sum(exp(x)) over the last axis."""
    check_floats("softmax", x=x)
    R, C = rows_of("softmax", "x", x)
    out, node = Tensor.empty(x.shape), x.node
    launch(lib.softmax_forward, out.ptr, x.ptr, R, C)
    p = Tensor.empty(out.shape, memory=out.memory, offset=out.offset)  # out without its node

    # dx = p (dout - sum_j dout_j p_j)
    def backward(dout):
        dx, acc = node.target()
        launch(lib.softmax_backward, dx, dout.array.ptr, p.ptr, R, C, acc)

    return attach(out, (x,), backward)


def attention(qkv, n_head, dropout=0.0, seed=None, stream=0):
    """Compute causal multi-head self-attention: qkv (B, T, 3C) -> (B, T, C).

    qkv holds q, k and v side by side, and each of these holds its n_head heads side by side.
    dropout, seed and stream act on the attention weights, as in `dropout`.
    """
    B, T, C = _attention_sizes("attention", qkv, n_head)
    p, seed = _dropout_arguments("attention", dropout, seed, stream)
    dtype, lse, read_in_backward = operand_type(), Array.empty((B, n_head, T)), []
    inp, node = qkv.operand(dtype), qkv.node

    def compute(out):
        launch(lib.attention_forward, out.ptr, lse.ptr, inp.ptr, B, T, C, n_head, p,
               array_pointer(seed), stream, with_forms(dtype, inp, out))
        read_in_backward[:] = [out.values()]

    out = Tensor.deferrable((B, T, C), compute, writes_half=True)

    # In each head, with y_i = sum_j z_ij p_ij v_j, c = 1 / sqrt(C / n_head) and the mask z of the
    # dropout (1 without it):
    #   dv_j = sum_i z_ij p_ij dout_i,  ds_ij = p_ij (z_ij dout_i . v_j - dout_i . y_i)
    #   dq_i = c sum_j ds_ij k_j,       dk_j = c sum_i ds_ij q_i
    def backward(dout):
        if not read_in_backward:  # nobody read the result
            compute(Array.empty((B, T, C), operand_code(dtype)))
        y, dqkv = read_in_backward[0], Array.empty((B, T, 3 * C))
        launch(lib.attention_backward, dqkv.ptr, dout.array.ptr, inp.ptr, y.ptr, lse.ptr, B, T, C,
               n_head, p, array_pointer(seed), stream, with_forms(dtype, inp, y))
        node.hand_over(dqkv)

    return attach(out, (qkv,), backward)


def _attention_sizes(op, qkv, n_head):
    check_floats(op, qkv=qkv)
    check(len(qkv.shape) == 3 and qkv.shape[2] % 3 == 0,
          "{}: qkv has shape {}, not (B, T, 3 n_embd)", op, qkv.shape)
    B, T, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    check_whole_number(op, "n_head", n_head, 1)
    check(C % n_head == 0, "{}: n_embd={} is not divisible by n_head={}", op, C, n_head)
    return B, T, C


def attention_cached(qkv, keys, values, past, n_head):
    """Compute the attention of T new positions to the old ones and to themselves; no gradient.

    qkv (B, T, 3C); keys and values (B, P, C); past: the number of old positions, an int32 tensor
    (B,), or an int for all -> (B, T, C). The call fills rows past..past+T-1 of keys and values.
    """
    B, T, C = _attention_sizes("attention_cached", qkv, n_head)
    check_floats("attention_cached", keys=keys, values=values)
    check_same_shape("attention_cached", "keys", keys, "values", values)
    P = keys.shape[1] if len(keys.shape) == 3 else 0
    check(keys.shape == (B, P, C), "attention_cached: keys {} do not fit qkv {}", keys.shape,
          qkv.shape)
    past = _past_tensor("attention_cached", past, B)
    check(_longest(past) + T <= P, "attention_cached: {} + {} positions do not fit a cache of {}",
          _longest(past), T, P)
    check(not (qkv.requires_grad and grad_enabled()),
          "attention_cached: qkv has no gradient; call it within no_grad()")
    out = Tensor.empty((B, T, C))
    launch(lib.attention_cached, out.ptr, keys.ptr, values.ptr, qkv.ptr, past.ptr, B, T, C, n_head,
           P, operand_type())
    return out


def _past_tensor(op, past, B):
    """Check the numbers of old positions, and return them as an int32 tensor (B,)."""
    if not isinstance(past, Tensor):
        check_whole_number(op, "past", past, 0)
        past = Tensor([past] * B, dtype="int32")
    check_ids(op, past=past)
    check(past.shape == (B,), "{}: past has shape {}, not ({},)", op, past.shape, B)
    return past


def _longest(past):
    """Return the largest number of old positions. A replay of recorded calls leaves this check to
    the kernel."""
    return max(past.read(), default=0)


def embedding(ids, wte, wpe=None, past=None):
    """Return wte[ids] + wpe[past + t]: ids (B, T) int32, wte (V, C), wpe (P, C) -> (B, T, C).

    past serves generation: an int32 tensor (B,) of the positions before those of ids, or an int for
    all; None: there are none. With past, wpe gets no gradient: use no_grad().
    """
    check_ids("embedding", ids=ids)
    if not isinstance(wte, WeightAtRest):
        check_floats("embedding", wte=wte)
    check(len(ids.shape) == 2, "embedding: ids have shape {}, not (B, T)", ids.shape)
    check(len(wte.shape) == 2, "embedding: wte has shape {}, not (V, C)", wte.shape)
    (B, T), (V, C) = ids.shape, wte.shape
    past, P = None if past is None else _past_tensor("embedding", past, B), T
    if wpe is not None:
        check_floats("embedding", wpe=wpe)
        check(len(wpe.shape) == 2 and wpe.shape[1] == C,
              "embedding: wte {} and wpe {} do not fit", wte.shape, wpe.shape)
        P = wpe.shape[0]
        longest = 0 if past is None else _longest(past)
        check(longest + T <= P, "embedding: {} positions are more than n_positions={}", longest + T,
              P)
        if not isinstance(wte, WeightAtRest):
            refuse_twice("embedding", wte=wte, wpe=wpe)
        check(not (past is not None and wpe.requires_grad and grad_enabled()),
              "embedding: wpe has no gradient with past; call it within no_grad()")
    if isinstance(wte, WeightAtRest):
        return at_rest.embedding(ids, wte, wpe, past)
    out = Tensor.empty((B, T, C))
    launch(lib.embedding_forward, out.ptr, ids.ptr, wte.ptr, array_pointer(wpe),
           array_pointer(past), B, T, C, V, P)
    tokens, positions = wte.node, node_of(wpe)

    # dwte[ids[b,t]] += dout[b,t],  dwpe[t] += sum_b dout[b,t]
    def backward(dout):
        dwte, acc_wte = tokens.target() if tokens else (NULL, 0)
        dwpe, acc_wpe = positions.target() if positions else (NULL, 0)
        launch(lib.embedding_backward, dwte, dwpe, dout.array.ptr, ids.ptr, B, T, C, V, P,
               acc_wte, acc_wpe)

    return attach(out, (wte, wpe), backward)


class Seed:
    """Holds the random seed of one forward pass, in memory that the kernels read.

    Args:
        value: the seed.
        tokens_before: the tokens of a batch before those of the pass, if processes share the
            batch. Each of them then drops what one process alone would drop.

    Raises:
        ValueError: one of them is not a whole number from 0 to 2^64 - 1.
    """

    def __init__(self, value=0, tokens_before=0):
        self._memory = Memory(16)
        self.ptr = self._memory.pointer("Q")
        self.set(value, tokens_before)

    def set(self, value, tokens_before=0):
        """Set the seed, and the tokens before those of the pass."""
        for name, number in ("seed", value), ("tokens_before", tokens_before):
            check(is_integer(number) and 0 <= number < 2 ** 64,
                  "{}={!r} is not a whole number in [0, 2^64)", name, number)
        self._memory.view.cast("Q")[0], self._memory.view.cast("Q")[1] = value, tokens_before


def _dropout_arguments(op, dropout, seed, stream):
    """Check the arguments; return the share, and the Seed or None. The backward pass must keep the
    Seed alive."""
    dropout = in_float32(f"{op}: dropout", dropout, 0.0, 1.0)
    check(isinstance(stream, int) and 0 <= stream < 2 ** 64,
          "{}: stream={!r} is not a whole number in [0, 2^64)", op, stream)
    check(not dropout or isinstance(seed, Seed),
          "{}: dropout={} needs a seed, an ops.Seed; it is {}", op, dropout, type(seed).__name__)
    return dropout, seed if dropout else None


def dropout(x, dropout, seed, stream=0):
    """Set a share of `dropout` of x's values to 0, and scale up the others.

    Args:
        x: a tensor (..., C).
        dropout: the share, in [0, 1).
        seed: a Seed. The mask depends on it, on `stream` and on the position alone.
        stream: the number of this place in the model.
    """
    check_floats("dropout", x=x)
    p, seed = _dropout_arguments("dropout", dropout, seed, stream)
    R, C = rows_of("dropout", "x", x)

    def compute(out, residual=None):
        launch(lib.dropout_forward, out.ptr, x.ptr, array_pointer(residual), R, C, p,
               array_pointer(seed), stream)

    out, node = Tensor.deferrable(x.shape, compute, takes_residual=True), x.node

    # dx = z dout, with the mask z of the forward pass: 0, or 1 / (1 - dropout)
    def backward(dout):
        dx, acc = node.target()
        launch(lib.dropout_backward, dx, dout.array.ptr, R, C, p, array_pointer(seed), stream,
               acc)

    return attach(out, (x,), backward)
