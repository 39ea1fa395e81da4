"""GPT: token and position embeddings, a stack of blocks, a final layer norm, a tied linear head.

Shapes in the comments: B batch, T time, C = n_embd channels, V = vocab_size. Names are GPT-2's.
Uses config.py, nn.py, ops.py, program.py, checkpoint.py; used by optim.py, generate.py, trainer.py.
"""

import itertools
import weakref
from array import array

from pygpt import checkpoint, nn, ops
from pygpt.kernels import IdRangeError, Memory
from pygpt.program import Program, run
from pygpt.tensor import Node, Tensor, grad_enabled, no_grad


class CausalSelfAttention(nn.Module):
    """n_head attentions side by side: each looks back with its own queries, keys and values of
    C / n_head channels; what they find is concatenated to C channels and mixed by c_proj."""

    def __init__(self, config, streams):
        C, std = config.n_embd, 0.02 / (2 * config.n_layer) ** 0.5
        self.n_head = config.n_head
        self.c_attn = nn.Linear(C, 3 * C)
        self.c_proj = nn.Linear(C, C, std=std)
        self.attn_dropout = nn.Dropout(config.attn_pdrop, next(streams))
        self.resid_dropout = nn.Dropout(config.resid_pdrop, next(streams))

    def __call__(self, x, residual, seed=None, cache=None):
        qkv = self.c_attn(x)                                                    # (B, T, 3C)
        if cache is None:
            drop = self.attn_dropout
            share = drop.share if seed is not None and drop.training else 0.0
            y = ops.attention(qkv, self.n_head, share, seed, drop.stream)       # (B, T, C)
        else:
            y = ops.attention_cached(qkv, *cache, self.n_head)                  # (B, T, C)
        if seed is not None and self.resid_dropout.share:
            return self.resid_dropout(self.c_proj(y), seed, residual)           # (B, T, C)
        return self.c_proj(y, residual)                                         # (B, T, C)


class MLP(nn.Module):
    """Each token by itself: up to 4C channels, GELU, and down again."""

    def __init__(self, config, streams):
        C, std = config.n_embd, 0.02 / (2 * config.n_layer) ** 0.5
        self.c_fc = nn.Linear(C, 4 * C)
        self.c_proj = nn.Linear(4 * C, C, std=std)
        self.dropout = nn.Dropout(config.resid_pdrop, next(streams))

    def __call__(self, x, residual, seed=None):
        drop = seed is not None and self.dropout.share
        y = ops.mlp(x, self.c_fc.weight, self.c_fc.bias, self.c_proj.weight, self.c_proj.bias,
                    None if drop else residual)                                 # (B, T, C)
        return self.dropout(y, seed, residual) if drop else y


class Block(nn.Module):
    """Tokens talk (attention), then think (MLP). Each adds to x and x itself goes on unchanged, so
    the gradient reaches the first block of any stack; each reads x through a layer norm."""

    def __init__(self, config, streams):
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config, streams)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config, streams)

    def __call__(self, x, seed=None, cache=None):
        x = self.attn(self.ln_1(x), x, seed, cache)                             # x + attention
        return self.mlp(self.ln_2(x), x, seed)                                  # x + MLP


class Transformer(nn.Module):
    """From ids to the final vectors that the head reads."""

    def __init__(self, config):
        streams = itertools.count()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop, next(streams))
        self.h = [Block(config, streams) for _ in range(config.n_layer)]
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def __call__(self, ids, seed=None, cache=None):
        x = self.wte(ids, self.wpe, past=cache.past if cache else 0)            # (B, T, C)
        x = self.drop(x, seed)
        for i, block in enumerate(self.h):
            x = block(x, seed, cache and cache.layer(i))
        return self.ln_f(x)                                                     # (B, T, C)


class Cache:
    """Keys and values of the positions already seen, so that generation computes new ones only.

    Attributes:
        past: how many positions it holds, 0..n_positions.
    """

    def __init__(self, config, batch=1):
        shape = (batch, config.n_positions, config.n_embd)
        self.past = 0
        self._layers = [(Tensor.empty(shape), Tensor.empty(shape)) for _ in range(config.n_layer)]

    def layer(self, i):
        return (*self._layers[i], self.past)


class GPT(nn.Module):
    """The whole model.

    Args:
        config: a GPTConfig.
        seed: the initial weights are a function of it: GPT-2's, normal of standard deviation 0.02,
            residual projections 0.02 / sqrt(2 n_layer), biases 0, layer norms 1.

    Its dropout is on after construction and off after from_pretrained(); train() and eval() switch.
    """

    def __init__(self, config, seed=1337):
        self._build(config)
        self.initialise(seed)
        self.dropout_seed = seed

    def _build(self, config):
        self.config = config
        self.transformer = Transformer(config)
        self.dropout_seed = self.forward_passes = 0
        self._steps = {}

    @classmethod
    def from_pretrained(cls, directory):
        """Open a Hugging Face GPT-2 directory; the weights stay in the mapped file until training.

        Raises:
            CheckpointError: the directory does not hold such a model; the message names file and
                field.
        """
        config, tensors = checkpoint.read_model(directory)
        self = cls.__new__(cls)
        self._build(config)
        for name, parameter in self.named_parameters():
            parameter.place(Memory(4 * parameter.size, tensors[name].buffer))
        return self.eval()

    def save_pretrained(self, directory):
        """Write config.json and model.safetensors, complete or not at all."""
        checkpoint.write_model(directory, self.config, (
            (name, p.shape, memoryview(p)) for name, p in self.named_parameters()))

    # ------------------------------------------------------------------------------- forward ---

    def __call__(self, ids):
        """Logits (B, T, V) for ids, B lists of T ints or an int32 buffer of shape (B, T).

        Raises:
            ValueError: T is 0 or more than n_positions, the lists differ in length, or an id is not
                in 0..vocab_size-1.
        """
        ids = self._ids("ids", ids)
        try:
            x = self.transformer(ids, self._seed())
        except IdRangeError:
            raise self._bad_id("ids", ids) from None
        return ops.matmul(x, self.transformer.wte.weight, transpose_b=True)

    def loss(self, ids, targets):
        """The mean cross-entropy in nats, of shape (), of predicting targets from ids, both (B, T).

        Raises:
            ValueError: as for a call, or targets differ from ids in shape.
        """
        step = self._step(ids, targets)
        with self._named_ids(step):
            step.forward()
        return step.lent_loss(self)

    def loss_and_grad(self, ids, targets, scale=1.0):
        """loss = model.loss(ids, targets) and (loss * scale).backward() in one go, which is faster:
        the head's logits are computed once instead of twice.

        Returns:
            The loss, unscaled, a float.
        """
        step = self._step(ids, targets)
        with self._named_ids(step):
            step.forward_backward(self, scale)
        return float(step.loss)

    def new_cache(self):
        """An empty Cache for decode()."""
        return Cache(self.config)

    def decode(self, ids, cache):
        """Logits (V,) after the last of ids (a list of ints), which continue what the cache holds.

        Raises:
            ValueError: the cache has no room for them, there are none, or one is out of range.
        """
        new = self._ids("ids", [ids])
        T, P = new.shape[1], self.config.n_positions
        if cache.past + T > P:
            raise ValueError(f"{cache.past} + {T} positions are more than n_positions={P}")
        with no_grad():
            try:
                x = self.transformer(new, cache=cache)                          # (1, T, C)
            except IdRangeError:
                raise self._bad_id("ids", new) from None
            cache.past += T
            C = self.config.n_embd
            last = Tensor.empty((1, C), memory=x.memory, offset=x.offset + 4 * (T - 1) * C)
            logits = ops.matmul(last, self.transformer.wte.weight, transpose_b=True)
        return Tensor.empty((self.config.vocab_size,), memory=logits.memory)

    def generate(self, ids, max_new_tokens=64, **options):
        """The ids that follow ids (a list of ints); options and errors: generate.generate."""
        from pygpt.generate import generate
        return generate(self, ids, max_new_tokens, **options)

    def stream(self, ids, max_new_tokens=64, **options):
        """Like generate(), yielding each id as soon as it is chosen."""
        from pygpt.generate import stream
        return stream(self, ids, max_new_tokens, **options)

    # --------------------------------------------------------------------------------- inside ---

    def moved(self):
        self._steps = {}

    def _ids(self, name, ids):
        """ids as an int32 Tensor (B, T), its shape checked."""
        B, T, flat = _as_int32(name, ids)
        if T > self.config.n_positions:
            raise ValueError(f"{name}: {T} positions are more than n_positions="
                             f"{self.config.n_positions}")
        tensor = Tensor.empty((B, T), "i", memory=Memory(4 * B * T))
        tensor.memory.view[:4 * B * T] = flat
        return tensor

    def _bad_id(self, name, ids):
        V = self.config.vocab_size
        for value in memoryview(ids).cast("B").cast("i"):
            if not 0 <= value < V:
                return ValueError(f"{name}: {value} is outside 0..{V - 1} (vocab_size={V})")
        return None

    def _named_ids(self, step):
        return _NameBadIds(self, step)

    def _dropping(self):
        c = self.config
        return self.training and grad_enabled() and (c.embd_pdrop or c.attn_pdrop or c.resid_pdrop)

    def _next_seed(self):
        """A new number for each forward pass: dropout_seed and forward_passes give the same again."""
        self.forward_passes += 1
        return (self.dropout_seed * 0x9E3779B97F4A7C15 + self.forward_passes) % 2 ** 64

    def _seed(self):
        return ops.Seed(self._next_seed()) if self._dropping() else None

    def _step(self, ids, targets):
        """A step of this shape that nobody is using, with ids and targets in place."""
        B, T, flat = _as_int32("ids", ids)
        B2, T2, flat_targets = _as_int32("targets", targets)
        if (B, T) != (B2, T2):
            raise ValueError(f"targets of shape {(B2, T2)} for ids of shape {(B, T)}")
        if T > self.config.n_positions:
            raise ValueError(f"ids: {T} positions are more than n_positions={self.config.n_positions}")
        key = B, T, grad_enabled(), bool(self._dropping())
        if grad_enabled():
            self.gradients()
        steps = self._steps.setdefault(key, [])
        step = next((s for s in steps if s.free()), None)
        if step is None:
            step = _Step(self, B, T)
            steps.append(step)
        step.ids.memory.view[:4 * B * T] = flat
        step.targets.memory.view[:4 * B * T] = flat_targets
        if step.seed is not None:
            step.seed.set(self._next_seed())
        return step


class _NameBadIds:
    """Turns a kernel's IdRangeError into a ValueError that names the id."""

    def __init__(self, model, step):
        self.model, self.step = model, step

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is not None and issubclass(kind, IdRangeError):
            raise (self.model._bad_id("ids", self.step.ids)
                   or self.model._bad_id("targets", self.step.targets)) from None


def _as_int32(name, ids):
    """(B, T, bytes) of lists of ints or of an int32 buffer."""
    if isinstance(ids, (list, tuple)):
        if not ids or not isinstance(ids[0], (list, tuple)):
            raise ValueError(f"{name}: expected B lists of T ints, got {_short(ids)}")
        T, flat = len(ids[0]), array("i")
        for row in ids:
            if len(row) != T:
                raise ValueError(f"{name}: lists of {T} and of {len(row)} ids")
            try:
                flat.extend(row)
            except (TypeError, OverflowError):
                raise ValueError(f"{name}: {_short(row)} is not a list of ids") from None
        B, data = len(ids), memoryview(flat).cast("B")
    else:
        try:
            view = memoryview(ids)
        except TypeError:
            raise ValueError(f"{name}: expected B lists of T ints or an int32 buffer, got "
                             f"{type(ids).__name__}") from None
        if view.format not in ("i", "l") or view.itemsize != 4 or view.ndim != 2:
            raise ValueError(f"{name}: a buffer of format {view.format!r} and {view.ndim} dimensions "
                             "is not int32 of shape (B, T)")
        B, T = view.shape
        data = view.cast("B") if view.c_contiguous else view.tobytes()
    if T == 0:
        raise ValueError(f"{name}: no positions; give at least one id")
    return B, T, data


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Step:
    """The recorded program of one training (or evaluation) step, for one shape.

    It belongs to one loss at a time: from the forward pass until backward() has run or the loss is
    gone. A second loss of the same shape meanwhile gets a step of its own.
    """

    def __init__(self, model, B, T):
        self.ids = Tensor.empty((B, T), "i", memory=Memory(4 * B * T))
        self.targets = Tensor.empty((B, T), "i", memory=Memory(4 * B * T))
        self.seed = ops.Seed() if model._dropping() else None
        self.dloss = Tensor(1.0)
        self.program = None
        self.loss = None
        self._model_parts = model.transformer
        self._graph = None
        self._lent = None
        self._params = [p for _, p in model.named_parameters()]

    def free(self):
        return self._lent is None or self._lent() is None

    def forward(self):
        if self.program is not None:
            run(self.program.forward)
            return
        self.program = Program()
        try:
            with self.program.record_forward():
                x = self._model_parts(self.ids, self.seed)
                loss = ops.linear_cross_entropy(x, self._model_parts.wte.weight, self.targets)
        except BaseException:
            self.program = None
            raise
        self.loss = Tensor.empty((), memory=loss.memory)
        self._graph = loss

    def forward_backward(self, model, scale):
        if self.program is None:
            self.forward()
        else:
            run(self.program.before_backward if self.program.recorded else self.program.forward)
        self.backward(scale)

    def backward(self, scale):
        memoryview(self.dloss).cast("B").cast("f")[0] = scale
        if self.program.recorded:
            valid = [p.node.valid for p in self._params]
            if all(valid):
                for p in self._params:
                    if p.node.before_use:
                        p.node.before_use()
                run(self.program.backward_again)
                return
            if not any(valid):
                run(self.program.backward)
                for p in self._params:
                    p.node.valid = True
                return
            raise RuntimeError("some parameters hold gradients and others do not")
        graph, self._graph = self._graph, None
        with self.program.record_backward():
            graph.backward(self.dloss)

    def lent_loss(self, model):
        """The loss as a tensor of its own, which later steps do not change."""
        loss = Tensor.empty((), memory=Memory(4))
        memoryview(loss).cast("B").cast("f")[0] = float(self.loss)
        if not grad_enabled():
            return loss

        def backward(dout):
            self._lent = None
            self.backward(float(dout.tensor))

        loss.node = Node((), (), backward)
        self._lent = weakref.ref(loss.node)
        return loss
