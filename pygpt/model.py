"""GPT: token and position embeddings, a stack of blocks, a final layer norm, a tied linear head.

Shapes in the comments: B batch, T time, C = n_embd channels, V = vocab_size. Names are GPT-2's.
Uses nn.py, ops.py, step.py, checkpoint.py; used by optim.py, generate.py, trainer.py.
"""

import itertools
import math
from dataclasses import replace
from functools import partial

from pygpt import checkpoint, nn, ops
from pygpt.config import is_whole_number, token_ids
from pygpt.kernels import in_float32
from pygpt.running import one_at_a_time
from pygpt.step import Steps, as_int32, dropout_shares, named_bad_ids
from pygpt.tensor import Tensor, no_grad, recomputed


@nn.recordable
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
            y = ops.attention(qkv, self.n_head, drop.now(seed), seed, drop.stream)
        else:
            y = ops.attention_cached(qkv, *cache, self.n_head)                  # (B, T, C)
        if self.resid_dropout.now(seed):
            return self.resid_dropout(self.c_proj(y), seed, residual)           # (B, T, C)
        return self.c_proj(y, residual)                                         # (B, T, C)


@nn.recordable
class MLP(nn.Module):
    """Each token by itself: up to 4C channels (or n_inner), GELU, and down again."""

    def __init__(self, config, streams):
        C, std = config.n_embd, 0.02 / (2 * config.n_layer) ** 0.5
        self.c_fc = nn.Linear(C, config.mlp_width)
        self.c_proj = nn.Linear(config.mlp_width, C, std=std)
        self.dropout = nn.Dropout(config.resid_pdrop, next(streams))

    def __call__(self, x, residual, seed=None, tape_only=False):
        drop = self.dropout.now(seed)
        y = ops.mlp(x, self.c_fc.weight, self.c_fc.bias, self.c_proj.weight, self.c_proj.bias,
                    None if drop else residual, tape_only)                      # (B, T, C)
        return self.dropout(y, seed, residual, tape_only) if drop else y


@nn.recordable
class Block(nn.Module):
    """Tokens talk (attention), then think (MLP). Each adds to x and x itself goes on unchanged, so
    the gradient reaches the first block of any stack; each reads x through a layer norm."""

    def __init__(self, config, streams):
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config, streams)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config, streams)

    def __call__(self, x, seed=None, cache=None, tape_only=False):
        x = self.attn(self.ln_1(x), x, seed, cache)                             # x + attention
        return self.mlp(self.ln_2(x), x, seed, tape_only)                       # x + MLP


@nn.recordable
class Transformer(nn.Module):
    """From ids to the final vectors that the head reads."""

    def __init__(self, config):
        streams = itertools.count()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop, next(streams))
        self.h = [Block(config, streams) for _ in range(config.n_layer)]
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def dropouts(self):
        """The Dropout modules, in a fixed order."""
        return [module for module in self.modules() if isinstance(module, nn.Dropout)]

    def __call__(self, ids, seed=None, cache=None, recompute=False):
        x = self.wte(ids, self.wpe, past=cache.past if cache else 0)            # (B, T, C)
        x = self.drop(x, seed)
        if recompute and seed is not None:  # the masks again, though eval() may come in between
            seed = seed.holding({module: module.now(seed) for module in self.dropouts()})
        for i, block in enumerate(self.h):
            if recompute and i < len(self.h) - 1:  # at once again, the last would save no memory
                x = recomputed(partial(block, seed=seed), x)
            else:
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

    Attributes:
        end_of_text: the id of the token that ends a text, a tuple of ids, or None; generation stops
            there. from_pretrained() takes it from config.json.
        recompute: False; when True, a forward pass keeps only what goes into each block, and the
            backward pass runs the block's forward again. Takes less memory and more time; every
            number stays the same.
    """

    def __init__(self, config, seed=1337):
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2 ** 64:
            raise ValueError(f"seed={seed!r} is not a whole number in [0, 2^64)")
        self._build(config)
        self.initialise(seed)
        self.dropout_seed = seed

    def _build(self, config):
        self.config = config
        self.transformer = Transformer(config)
        self.dropout_seed, self.forward_passes, self.recompute = 0, 0, False
        self._end_of_text = None
        self._steps = Steps(self)

    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "_steps"}

    def __setstate__(self, state):
        vars(self).update(state)
        self._steps = Steps(self)

    @classmethod
    def from_pretrained(cls, directory, **changes):
        """Open a Hugging Face GPT-2 directory, or one with nanoGPT's names (checkpoint.py).

        F32 weights stay in the mapped file until training; others are converted to new memory.

        Args:
            changes: fields of its GPTConfig to change: the three of dropout.
        Raises:
            OSError: a file is missing or cannot be read.
            CheckpointError: the directory does not hold such a model; the message names file and
                field.
            MemoryError: the weights to be converted do not fit.
        """
        config, weights = checkpoint.read_model(directory)
        self = cls.__new__(cls)
        self._build(replace(config, **changes))
        for name, parameter in self.named_parameters():
            parameter.place(weights.pop(name).memory())
        self.end_of_text = checkpoint.read_end_of_text(directory)
        return self.eval()

    def save_pretrained(self, directory, dtype="float32", end_of_text=None):
        """Write model.safetensors and config.json, each complete or not at all.

        Args:
            directory: made if it is missing.
            dtype: of the weights there: "float32", "float16" or "bfloat16", rounded to nearest,
                ties to even.
            end_of_text: the id, or tuple of ids, at which generation is to stop; None: the model's
                own.
        Raises:
            OSError: the directory cannot be written.
            ValueError: dtype is none of these, or a weight is too large for it, or end_of_text is
                no id of the vocabulary; it is named.
        """
        end = self.end_of_text if end_of_text is None else self._checked_end(end_of_text)
        checkpoint.write_model(directory, self.config, (
            (name, p.shape, p.flat()) for name, p in self.named_parameters()), dtype, end)

    @property
    def end_of_text(self):
        return self._end_of_text

    @end_of_text.setter
    def end_of_text(self, value):
        self._end_of_text = self._checked_end(value)

    def _checked_end(self, value):
        """The value of end_of_text as an int, a tuple or None; anything else is a ValueError."""
        if value is None:
            return None
        ids = token_ids("end_of_text", value, self.config.vocab_size)
        return ids[0] if is_whole_number(value) else ids or None

    # ------------------------------------------------------------------------------- forward ---

    @one_at_a_time
    def __call__(self, ids):
        """Logits (B, T, V) for ids, B lists of T ints or an int32 buffer of shape (B, T).

        Raises:
            ValueError: T is 0 or more than n_positions, the lists differ in length, or an id is not
                in 0..vocab_size-1.
        """
        ids = self._ids(ids)
        with named_bad_ids(self.config.vocab_size, ids):
            x = self.transformer(ids, self._seed(), recompute=self.recompute)   # (B, T, C)
        return ops.matmul(x, self.transformer.wte.weight, transpose_b=True)     # (B, T, V)

    @one_at_a_time
    def loss(self, ids, targets, ignore_index=ops.IGNORED):
        """The mean cross-entropy in nats, of shape (), of predicting targets from ids, both (B, T).

        Args:
            ignore_index: targets of this value, -100, are left out: the mean is over the others,
                and 0 where there are none.

        Raises:
            ValueError: as for a call, or targets differ from ids in shape.
        """
        with self._steps.take(ids, targets, ignore_index) as step:
            step.forward()
            return step.lend_loss()

    @one_at_a_time
    def loss_and_grad(self, ids, targets, scale=1.0, ignore_index=ops.IGNORED):
        """loss = model.loss(ids, targets) and (loss * scale).backward() in one go, which is faster:
        the head's logits are computed once instead of twice.

        Returns:
            The loss, unscaled, a float.
        """
        scale = in_float32("scale", scale, -math.inf)
        with self._steps.take(ids, targets, ignore_index) as step:
            step.forward_backward(scale)
            return float(step.loss)

    def new_cache(self):
        """An empty Cache for decode()."""
        return Cache(self.config)

    @one_at_a_time
    def decode(self, ids, cache):
        """Logits (V,) after the last of ids (a list of ints), which continue what the cache holds.

        Raises:
            ValueError: the cache has no room for them, there are none, or one is out of range.
        """
        new = self._ids([ids])
        (_, T), C, P = new.shape, self.config.n_embd, self.config.n_positions
        if cache.past + T > P:
            raise ValueError(f"{cache.past} + {T} positions are more than n_positions={P}")
        with no_grad():
            with named_bad_ids(self.config.vocab_size, new):
                x = self.transformer(new, cache=cache)                          # (1, T, C)
            cache.past += T
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

    def _ids(self, ids):
        """ids as an int32 Tensor (B, T), its shape checked."""
        B, T, flat = as_int32("ids", ids, self.config.n_positions)
        tensor = Tensor.empty((B, T), "i")
        tensor.memory.view[:4 * B * T] = flat
        return tensor

    def dropping(self):
        """The dropout shares in force now, one for each place; () when all are 0."""
        return dropout_shares(self.transformer.dropouts())

    def next_seed(self):
        """A new number for each forward pass; dropout_seed and forward_passes give it again."""
        self.forward_passes += 1
        return (self.dropout_seed * 0x9E3779B97F4A7C15 + self.forward_passes) % 2 ** 64

    def _seed(self):
        return ops.Seed(self.next_seed()) if self.dropping() else None
