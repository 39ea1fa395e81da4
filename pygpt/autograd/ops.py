"""One function per kernel pair: check shapes, take memory, run the forward kernel, and leave on the
tape the backward kernels that undo it. Each backward stands directly under its forward.

Kernels trust their arguments, so everything is checked here: a TypeError says what is not a Tensor,
a ValueError which shape, type or number does not fit. Only ids are checked by the kernels.

This is where the one change of names happens: n_head here, NH in C (glossary: csrc/pygpt.h).
Uses kernels.py, running.py, tensor.py; used by nn.py and model.py.
"""

from math import prod

from pygpt.backend.kernels import NULL, Memory, in_float32, lib
from pygpt.autograd.launch import launch
from pygpt.autograd.tensor import ONE, Leaf, Tensor, attach, first_arrivals, grad_enabled


MLP_ROWS = 1024  # of the hidden layer at a time
IGNORED = -100   # the target that cross-entropy leaves out, where no other is named


def _pointer(tensor):
    return NULL if tensor is None else tensor.ptr


def _node(tensor):
    return None if tensor is None else tensor.node


def _check(ok, message, *values):
    if not ok:  # the text is made only then: eager ops are called often
        raise ValueError(message.format(*values))


def _floats(op, **tensors):
    for name, tensor in tensors.items():
        if not (isinstance(tensor, Tensor) and tensor.code == "f"):
            raise _not_of(tensor, "float32", op, name)


def _ids(op, **tensors):
    for name, tensor in tensors.items():
        if not (isinstance(tensor, Tensor) and tensor.code == "i"):
            raise _not_of(tensor, "int32", op, name)


def _not_of(value, wanted, op, name):
    if isinstance(value, Tensor):
        return ValueError(f"{op}: {name} is a tensor of code {value.code!r}, not of {wanted}")
    return TypeError(f"{op}: {name} is of type {type(value).__name__}, not Tensor")


def _whole(op, name, value, least):
    _check(isinstance(value, int) and value >= least,
           "{}: {}={!r} is not a whole number of {} or more", op, name, value, least)


def _same_shape(op, name, a, other, b):
    _check(a.shape == b.shape, "{}: shapes {} of {} and {} of {} differ", op, a.shape, name,
           b.shape, other)


def _apart(op, *tensors):
    """Refuses the same trained tensor twice: the kernel writes their gradients at the same time."""
    nodes = [t.node for t in tensors if t.node is not None]
    _check(len(set(map(id, nodes))) == len(nodes),
           "{}: a tensor is given twice; it can be used in one place only", op)


def _rows(op, name, x):
    """x (..., C) as rows: how many, and how wide."""
    _check(x.shape, "{}: {} has no dimensions", op, name)
    return prod(x.shape[:-1]), x.shape[-1]


def _send(node, gradient_kernel):
    """Have `gradient_kernel(ptr, accumulate)` put a gradient where the node wants it, if any."""
    if node is not None:
        gradient_kernel(*node.target())


def _send_together(nodes, gradient_kernel):
    """Like _send for a kernel that writes several gradients under one accumulate flag.

    Leaves share a flag where they can. Where the nodes disagree on it, the gradients are made aside
    and handed over.
    """
    wanted = [node for node in nodes if node is not None]
    if not wanted:
        return
    if all(isinstance(node, Leaf) and node.is_first_arrival() for node in wanted):
        flag = first_arrivals(wanted)
        gradient_kernel([NULL if node is None else node.arrive() for node in nodes], flag)
        return
    places = [None if node is None else node.target() for node in nodes]
    flags = [place[1] for place in places if place is not None]
    if all(flag == flags[0] and type(flag) is int for flag in flags):
        gradient_kernel([NULL if place is None else place[0] for place in places], flags[0])
        return
    aside = [None if node is None else Tensor.empty(node.shape) for node in nodes]
    gradient_kernel([_pointer(tensor) for tensor in aside], 0)
    for place, tensor in zip(places, aside):
        if place is not None:
            launch(lib.scale_forward, place[0], tensor.ptr, ONE.ptr, tensor.size, place[1])


# ------------------------------------------------------------------------------------ the glue ---

def add(a, b):
    """a + b, of one shape. A sum with what is still to be computed is left to its kernel."""
    _floats("add", a=a, b=b)
    _same_shape("add", "a", a, "b", b)
    other, last = (b, a) if _takes_residual(a) else (a, b)
    if _takes_residual(last):
        fused = last.deferred.compute
        out = Tensor.later(a.shape, lambda out: fused(out, other), takes_residual=False)
    else:
        out = Tensor.empty(a.shape)
        launch(lib.add_forward, out.ptr, a.ptr, b.ptr, out.size)
    nodes = [t.node for t in (a, b) if t.node is not None]

    def backward(dout):
        for node in nodes:
            node.receive(dout)

    return attach(out, (a, b), backward)


def _takes_residual(tensor):
    return tensor.deferred is not None and tensor.deferred.takes_residual


def mul(a, b):
    """a * b elementwise, of one shape."""
    _floats("mul", a=a, b=b)
    _same_shape("mul", "a", a, "b", b)
    out = Tensor.empty(a.shape)
    launch(lib.mul_forward, out.ptr, a.ptr, b.ptr, out.size)

    def backward(dout):
        for node, other in ((a.node, b), (b.node, a)):
            _send(node, lambda da, acc: launch(lib.mul_backward, da, dout.tensor.ptr, other.ptr,
                                               out_size, acc))

    out_size = out.size
    return attach(out, (a, b), backward)


def scale(a, factor):
    """a times a number."""
    _floats("scale", a=a)
    out, c, node = Tensor.empty(a.shape), Tensor(float(factor)), a.node
    launch(lib.scale_forward, out.ptr, a.ptr, c.ptr, out.size, 0)

    def backward(dout):
        da, acc = node.target()
        launch(lib.scale_forward, da, dout.tensor.ptr, c.ptr, dout.tensor.size, acc)

    return attach(out, (a,), backward)


def shift(a, offset):
    """a plus a number."""
    _floats("shift", a=a)
    out, c, node = Tensor.empty(a.shape), Tensor(float(offset)), a.node
    launch(lib.sum_backward, out.ptr, c.ptr, out.size, 0)  # the gradient of a sum: c everywhere
    launch(lib.add_forward, out.ptr, out.ptr, a.ptr, out.size)
    return attach(out, (a,), lambda dout: node.receive(dout))


def sum(a):
    """The sum of all values, of shape ()."""
    _floats("sum", a=a)
    out, node, n = Tensor.empty(()), a.node, a.size
    launch(lib.sum_forward, out.ptr, a.ptr, n)

    def backward(dout):
        da, acc = node.target()
        launch(lib.sum_backward, da, dout.tensor.ptr, n, acc)

    return attach(out, (a,), backward)


def reshape(a, shape):
    """The same values in the same order under another shape; no copy."""
    _floats("reshape", a=a)
    shape = tuple(shape)
    for n in shape:
        _whole("reshape", "length", n, 0)
    _check(prod(shape) == a.size, "reshape: {} values of shape {} do not fit shape {}", a.size,
           a.shape, shape)
    out = Tensor.empty(shape, memory=a.memory, offset=a.offset)
    node = a.node

    def backward(dout):
        node.receive(dout.viewed_as(node.shape))

    return attach(out, (a,), backward)


def matmul(a, b, transpose_b=False):
    """a @ b, or a @ b^T: a (..., K), b (K, N) or (N, K) -> (..., N)."""
    _floats("matmul", a=a, b=b)
    _check(len(b.shape) == 2, "matmul: the right operand has shape {}, not two dimensions", b.shape)
    M, K = _rows("matmul", "a", a)
    N = b.shape[0 if transpose_b else 1]
    _check(b.shape[1 if transpose_b else 0] == K,
           "matmul: shapes {} and {}{} do not fit", a.shape, b.shape,
           " transposed" if transpose_b else "")
    out = Tensor.empty((*a.shape[:-1], N))
    launch(lib.matmul, out.ptr, a.ptr, b.ptr, M, N, K, 0, int(transpose_b), 0)

    def backward(dout):
        d = dout.tensor.ptr
        # da = dout b^T;  db = a^T dout, or turned over, dout^T a, where b was.
        _send(a.node, lambda da, acc: launch(lib.matmul, da, d, b.ptr, M, K, N, 0,
                                             int(not transpose_b), acc))
        if transpose_b:
            _send(b.node, lambda db, acc: launch(lib.matmul, db, d, a.ptr, N, K, M, 1, 0, acc))
        else:
            _send(b.node, lambda db, acc: launch(lib.matmul, db, a.ptr, d, K, N, M, 1, 0, acc))

    return attach(out, (a, b), backward)


# ------------------------------------------------------------------------------------- layers ---

def linear(x, weight, bias=None):
    """x @ weight + bias: x (..., IN), weight (IN, OUT), bias (OUT,) -> (..., OUT)."""
    _floats("linear", x=x, weight=weight)
    R, IN = _rows("linear", "x", x)
    _check(len(weight.shape) == 2 and weight.shape[0] == IN,
           "linear: x {} does not fit weight {}", x.shape, weight.shape)
    OUT = weight.shape[1]
    if bias is not None:
        _floats("linear", bias=bias)
        _check(bias.shape == (OUT,), "linear: bias {} does not fit weight {}", bias.shape,
               weight.shape)

    def compute(out, residual=None):
        launch(lib.linear_forward, out.ptr, NULL, x.ptr, weight.ptr, _pointer(bias),
               _pointer(residual), R, IN, OUT)

    out = Tensor.later((*x.shape[:-1], OUT), compute)
    node, kept = x.node, x.kept()

    def backward(dout):
        _linear_backward(dout.tensor, kept, node, weight, bias, R, IN, OUT)

    return attach(out, (x, weight, bias), backward)


def _linear_backward(dout, x, x_node, weight, bias, R, IN, OUT):
    """Gradients of weight and bias, then of x."""
    _linear_backward_weight(dout, x, weight, bias, R, IN, OUT)
    _send(x_node, lambda dx, acc: launch(lib.linear_backward_input, dx, NULL, dout.ptr, weight.ptr,
                                         NULL, R, IN, OUT, acc))


def _linear_backward_weight(dout, x, weight, bias, R, IN, OUT):
    """Gradients of weight and bias; x is a function that gives the tensor."""
    if weight.node is None:  # only the bias may want one: the sum over rows, with IN = 0
        _send(_node(bias), lambda db, acc: launch(lib.linear_backward_weight, NULL, db, NULL,
                                                  dout.ptr, R, 0, OUT, acc))
        return
    x = x()
    _send_together((weight.node, _node(bias)), lambda places, acc: launch(
        lib.linear_backward_weight, places[0], places[1], x.ptr, dout.ptr, R, IN, OUT, acc))


def mlp(x, fc_weight, fc_bias, proj_weight, proj_bias):
    """gelu(x @ fc + b) @ proj + b, as one step of the tape.

    x (..., C), fc_weight (C, H), proj_weight (H, C). Of the two hidden tensors of width H only the
    sum before the GELU is kept for the backward pass; the GELU is computed again there. It exists
    for MLP_ROWS rows at a time, which are still in the cache when the second layer reads them.
    """
    _floats("mlp", x=x, fc_weight=fc_weight, fc_bias=fc_bias, proj_weight=proj_weight,
            proj_bias=proj_bias)
    R, C = _rows("mlp", "x", x)
    H = fc_bias.size
    _check(fc_weight.shape == (C, H) and proj_weight.shape == (H, C),
           "mlp: x {}, weights {} and {} do not fit", x.shape, fc_weight.shape, proj_weight.shape)
    _check(fc_bias.shape == (H,) and proj_bias.shape == (C,),
           "mlp: biases {} and {} do not fit the weights", fc_bias.shape, proj_bias.shape)
    parts, keeps, kept_pre = _row_parts(R), grad_enabled(), []

    def compute(out, residual=None):
        pre, hidden = Tensor.empty((R, H)) if keeps else None, Tensor.empty((parts[0].stop, H))
        for rows in parts:
            n = len(rows)
            launch(lib.linear_forward, hidden.ptr,
                   hidden.ptr if pre is None else _part(pre, rows).ptr,
                   _part(x, rows).ptr, fc_weight.ptr, fc_bias.ptr, NULL, n, C, H)
            launch(lib.linear_forward, _part(out, rows).ptr, NULL, hidden.ptr, proj_weight.ptr,
                   proj_bias.ptr, _pointer(_part(residual, rows)), n, H, C)
        kept_pre[:] = [pre]

    out = Tensor.later(x.shape, compute)
    node, kept = x.node, x.kept()

    def backward(dout):
        inp = kept
        if not kept_pre:  # nobody needed the result, of which the first half is needed here
            x, pre = kept(), Tensor.empty((R, H))
            launch(lib.linear_forward, pre.ptr, NULL, x.ptr, fc_weight.ptr, fc_bias.ptr, NULL, R, C,
                   H)
            kept_pre.append(pre)
            inp = lambda: x
        pre = kept_pre.pop()
        # The gradient at pre takes the place of pre, which is read for the last time; what was
        # computed from it before, the GELU's result, comes along.
        hidden = Tensor.empty((parts[0].stop, H))
        for rows in parts:
            d, h = _part(dout.tensor, rows), _part(pre, rows)
            launch(lib.linear_backward_input, h.ptr, hidden.ptr, d.ptr, proj_weight.ptr, h.ptr,
                   len(rows), H, C, 0)
            _linear_backward_weight(d, lambda: hidden, proj_weight, proj_bias, len(rows), H, C)
        del hidden
        _linear_backward(pre, inp, node, fc_weight, fc_bias, R, C, H)

    return attach(out, (x, fc_weight, fc_bias, proj_weight, proj_bias), backward)


def _row_parts(R):
    """R rows as ranges of one length but for the last: MLP_ROWS or fewer, a multiple of 256, which
    is what the kernels take at a time in a sum over rows. They depend on R alone."""
    each = max(256, -(-R // max(1, -(-R // MLP_ROWS)) // 256) * 256)
    return [range(start, min(start + each, R)) for start in range(0, R, each)] or [range(0)]


def _part(x, rows):
    """Some rows of x (..., C), or None, seen as a tensor of their own without a node."""
    if x is None:
        return None
    C = x.shape[-1]
    return Tensor.empty((len(rows), C), memory=x.memory, offset=x.offset + 4 * rows.start * C)


def layernorm(x, weight, bias, eps=1e-5):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis; weight, bias (C,).

    Its own backward pass needs x and not the result. An op that needs the result there has it made
    again, in one pass over x, so that a block keeps 2 C numbers less for each token.
    """
    _floats("layernorm", x=x, weight=weight, bias=bias)
    R, C = _rows("layernorm", "x", x)
    _check(weight.shape == (C,) and bias.shape == (C,),
           "layernorm: x {} does not fit weight {} and bias {}", x.shape, weight.shape, bias.shape)
    eps = in_float32("layernorm: eps", eps, 0.0)
    _apart("layernorm", x, weight, bias)
    out, mean, rstd = Tensor.empty(x.shape), Tensor.empty((R,)), Tensor.empty((R,))
    def run(out):
        launch(lib.layernorm_forward, out.ptr, mean.ptr, rstd.ptr, x.ptr, weight.ptr, bias.ptr,
               R, C, eps)
        return out

    run(out).remake = lambda: run(Tensor.empty(x.shape))
    node = x.node

    def backward(dout):
        # The kernel gives all three; what nobody wants goes to memory aside.
        aside = Tensor.empty((R, C)) if node is None else None
        dx, acc = node.target() if node is not None else (aside.ptr, 0)
        spare = Tensor.empty((C,))

        def params(places, acc_params):
            dw, db = (spare.ptr if p == NULL else p for p in places)
            launch(lib.layernorm_backward, dx, dw, db, dout.tensor.ptr, x.ptr, weight.ptr,
                   mean.ptr, rstd.ptr, R, C, acc, acc_params)

        if weight.node is None and bias.node is None:
            params((NULL, NULL), 0)
        else:
            _send_together((weight.node, bias.node), params)

    return attach(out, (x, weight, bias), backward)


def gelu(x):
    """GPT-2's GELU, elementwise."""
    _floats("gelu", x=x)
    out, node = Tensor.empty(x.shape), x.node
    launch(lib.gelu_forward, out.ptr, x.ptr, x.size)

    def backward(dout):
        dx, acc = node.target()
        launch(lib.gelu_backward, dx, dout.tensor.ptr, x.ptr, x.size, acc)

    return attach(out, (x,), backward)


def softmax(x):
    """exp(x) / sum(exp(x)) over the last axis."""
    _floats("softmax", x=x)
    R, C = _rows("softmax", "x", x)
    out, node = Tensor.empty(x.shape), x.node
    launch(lib.softmax_forward, out.ptr, x.ptr, R, C)
    p = Tensor.empty(out.shape, memory=out.memory, offset=out.offset)  # out without its node

    def backward(dout):
        dx, acc = node.target()
        launch(lib.softmax_backward, dx, dout.tensor.ptr, p.ptr, R, C, acc)

    return attach(out, (x,), backward)


def attention(qkv, n_head, dropout=0.0, seed=None, stream=0):
    """Causal multi-head self-attention: qkv (B, T, 3C), q, k, v side by side -> (B, T, C).

    Each of the three holds its n_head heads side by side. dropout, seed and stream act on the
    attention weights, as in `dropout`.
    """
    B, T, C = _attention_sizes("attention", qkv, n_head)
    p, seed = _dropout_arguments("attention", dropout, seed, stream)
    out, lse = Tensor.empty((B, T, C)), Tensor.empty((B, n_head, T))
    launch(lib.attention_forward, out.ptr, lse.ptr, qkv.ptr, B, T, C, n_head, p, seed.ptr, stream)
    node = qkv.node
    y = Tensor.empty(out.shape, memory=out.memory, offset=out.offset)

    def backward(dout):
        dqkv = Tensor.empty(qkv.shape)
        launch(lib.attention_backward, dqkv.ptr, dout.tensor.ptr, qkv.ptr, y.ptr, lse.ptr, B, T, C,
               n_head, p, seed.ptr, stream)
        node.hand_over(dqkv)

    return attach(out, (qkv,), backward)


def _attention_sizes(op, qkv, n_head):
    _floats(op, qkv=qkv)
    _check(len(qkv.shape) == 3 and qkv.shape[2] % 3 == 0,
           "{}: qkv has shape {}, not (B, T, 3 n_embd)", op, qkv.shape)
    B, T, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    _whole(op, "n_head", n_head, 1)
    _check(C % n_head == 0, "{}: n_embd={} is not divisible by n_head={}", op, C, n_head)
    return B, T, C


def attention_cached(qkv, keys, values, past, n_head):
    """Attention of T new positions to `past` old ones and themselves; no gradient.

    qkv (B, T, 3C); keys, values (B, P, C), whose rows past..past+T-1 are filled -> (B, T, C).
    """
    B, T, C = _attention_sizes("attention_cached", qkv, n_head)
    _floats("attention_cached", keys=keys, values=values)
    _same_shape("attention_cached", "keys", keys, "values", values)
    P = keys.shape[1] if len(keys.shape) == 3 else 0
    _check(keys.shape == (B, P, C), "attention_cached: keys {} do not fit qkv {}", keys.shape,
           qkv.shape)
    _whole("attention_cached", "past", past, 0)
    _check(past + T <= P, "attention_cached: {} + {} positions do not fit a cache of {}", past,
           T, P)
    _check(not (qkv.requires_grad and grad_enabled()),
           "attention_cached: qkv has no gradient; call it within no_grad()")
    out = Tensor.empty((B, T, C))
    launch(lib.attention_cached, out.ptr, keys.ptr, values.ptr, qkv.ptr, B, T, C, n_head, past, P)
    return out


def embedding(ids, wte, wpe=None, past=0):
    """wte[ids] + wpe[past + t]: ids (B, T) int32, wte (V, C), wpe (P, C) -> (B, T, C).

    With past > 0, which is for generation, wpe gets no gradient: use no_grad().
    """
    _ids("embedding", ids=ids)
    _floats("embedding", wte=wte)
    _check(len(ids.shape) == 2, "embedding: ids have shape {}, not (B, T)", ids.shape)
    _check(len(wte.shape) == 2, "embedding: wte has shape {}, not (V, C)", wte.shape)
    _whole("embedding", "past", past, 0)
    (B, T), (V, C) = ids.shape, wte.shape
    P = T
    if wpe is not None:
        _floats("embedding", wpe=wpe)
        _check(len(wpe.shape) == 2 and wpe.shape[1] == C,
               "embedding: wte {} and wpe {} do not fit", wte.shape, wpe.shape)
        P = wpe.shape[0]
        _check(past + T <= P, "embedding: {} positions are more than n_positions={}", past + T, P)
        _apart("embedding", wte, wpe)
        _check(not (past and wpe.requires_grad and grad_enabled()),
               "embedding: wpe has no gradient with past={}; call it within no_grad()", past)
    out = Tensor.empty((B, T, C))
    launch(lib.embedding_forward, out.ptr, ids.ptr, wte.ptr, _pointer(wpe), B, T, C, V, past)
    tokens, positions = wte.node, _node(wpe)

    def backward(dout):
        dwte, acc_wte = tokens.target() if tokens else (NULL, 0)
        dwpe, acc_wpe = positions.target() if positions else (NULL, 0)
        launch(lib.embedding_backward, dwte, dwpe, dout.tensor.ptr, ids.ptr, B, T, C, V, P,
               acc_wte, acc_wpe)

    return attach(out, (wte, wpe), backward)


class _NoSeed:
    ptr = NULL


class Seed:
    """The random seed of one forward pass, in memory that the kernels read.

    Raises:
        ValueError: value is not a whole number from 0 to 2^64 - 1.
    """

    def __init__(self, value=0):
        self._memory = Memory(8)
        self.ptr = self._memory.pointer("Q")
        self.set(value)

    def set(self, value):
        """Make it `value`, a whole number from 0 to 2^64 - 1."""
        _check(isinstance(value, int) and 0 <= value < 2 ** 64,
               "seed={!r} is not a whole number in [0, 2^64)", value)
        self._memory.view.cast("Q")[0] = value


def _dropout_arguments(op, dropout, seed, stream):
    """The share, and the owner of the memory of the seed, which the backward pass must keep."""
    dropout = in_float32(f"{op}: dropout", dropout, 0.0, 1.0)
    _check(isinstance(stream, int) and 0 <= stream < 2 ** 64,
           "{}: stream={!r} is not a whole number in [0, 2^64)", op, stream)
    if not dropout:
        return 0.0, _NoSeed
    _check(isinstance(seed, Seed),
           "{}: dropout={} needs a seed, an ops.Seed; it is {}", op, dropout, type(seed).__name__)
    return dropout, seed


def dropout(x, dropout, seed, stream=0):
    """x with a share of `dropout` of its values 0 and the rest scaled up.

    Args:
        seed: a Seed; the mask is a function of it, of `stream` (a number for the place in the
            model) and of the position alone.
    """
    _floats("dropout", x=x)
    p, seed = _dropout_arguments("dropout", dropout, seed, stream)
    R, C = _rows("dropout", "x", x)

    def compute(out, residual=None):
        launch(lib.dropout_forward, out.ptr, x.ptr, _pointer(residual), R, C, p, seed.ptr, stream)

    out, node = Tensor.later(x.shape, compute), x.node

    def backward(dout):
        dx, acc = node.target()
        launch(lib.dropout_backward, dx, dout.tensor.ptr, R, C, p, seed.ptr, stream, acc)

    return attach(out, (x,), backward)


# ---------------------------------------------------------------------------------------- loss ---

def cross_entropy(logits, targets, ignore_index=IGNORED):
    """The mean of -log softmax(logits)[target] in nats: logits (..., V), targets int32 -> ().

    Rows whose target is ignore_index are left out of the mean, which is 0 where no row is left.
    """
    _floats("cross_entropy", logits=logits)
    _ids("cross_entropy", targets=targets)
    R, V = _rows("cross_entropy", "logits", logits)
    _check(targets.size == R, "cross_entropy: {} targets for {} rows of logits", targets.size, R)
    ignored = _ignored("cross_entropy", ignore_index)
    loss, losses, node = Tensor.empty(()), Tensor.empty((R,)), logits.node
    launch(lib.cross_entropy_forward, loss.ptr, losses.ptr, logits.ptr, targets.ptr, R, V, ignored)

    def backward(dout):
        dlogits, acc = node.target()
        launch(lib.cross_entropy_backward, dlogits, dout.tensor.ptr, logits.ptr, targets.ptr, R, V,
               ignored, acc)

    return attach(loss, (logits,), backward)


def _ignored(op, ignore_index):
    """ignore_index as the kernels take it."""
    _check(isinstance(ignore_index, int) and not isinstance(ignore_index, bool)
           and -2 ** 31 <= ignore_index < 2 ** 31,
           "{}: ignore_index={!r} is not a whole number of 32 bits", op, ignore_index)
    return ignore_index


def linear_cross_entropy(x, weight, targets, ignore_index=IGNORED):
    """cross_entropy(x @ weight^T, targets, ignore_index) without ever holding all logits.

    x (..., C), weight (V, C), targets int32, one for each row of x -> ().
    """
    _floats("linear_cross_entropy", x=x, weight=weight)
    _ids("linear_cross_entropy", targets=targets)
    R, C = _rows("linear_cross_entropy", "x", x)
    _check(len(weight.shape) == 2 and weight.shape[1] == C,
           "linear_cross_entropy: x {} does not fit weight {}", x.shape, weight.shape)
    V = weight.shape[0]
    _check(targets.size == R, "linear_cross_entropy: {} targets for {} rows", targets.size, R)
    _apart("linear_cross_entropy", x, weight)
    ignored = _ignored("linear_cross_entropy", ignore_index)
    loss, losses = Tensor.empty(()), Tensor.empty((R,))
    launch(lib.linear_cross_entropy_forward, loss.ptr, losses.ptr, x.ptr, weight.ptr, targets.ptr,
           R, C, V, ignored, again=False)
    value = Tensor.empty((), memory=loss.memory)
    node, weights = x.node, weight.node

    def backward(dout):
        dx, acc_x = node.target() if node else (NULL, 0)
        dw, acc_w = weights.target() if weights else (NULL, 0)
        launch(lib.linear_cross_entropy_backward, value.ptr, losses.ptr, dx, dw, dout.tensor.ptr,
               x.ptr, weight.ptr, targets.ptr, R, C, V, ignored, acc_x, acc_w)

    return attach(loss, (x, weight), backward)
