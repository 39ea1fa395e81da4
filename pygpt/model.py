"""Defines GPT in the order of the lesson: attention, MLP, block, stack, head and loss.

    ids (B, T) -> wte[ids] + wpe[positions] -> n_layer blocks -> layer norm -> head -> (B, T, V)
    a block:  x = x + attn(ln_1(x));  x = x + mlp(ln_2(x))

Shapes in the comments: B batch, T time, C = n_embd channels, V = vocab_size. Names are GPT-2's.
These lines show the equations alone. autograd/ does the rest: arrays.py lets the kernel of a
product also add the residual, the x of x + ...; forward_pass.py holds the dropout seed and the
cache where a layer finds them; recorded_step.py records the kernel calls of a training step and
replays them.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pygpt import generate, nn
from pygpt.autograd import ops, replay
from pygpt.autograd.forward_pass import PassSettings, current_pass, past_positions, shares_in_force
from pygpt.autograd.ids import as_int32, named_bad_ids
from pygpt.autograd.launch import calls_are_intercepted, launch, one_at_a_time
from pygpt.autograd.ops.checks import checked_ignore_index
from pygpt.autograd.precision import checked_dtype
from pygpt.autograd.recorded_step import StepCache
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor
from pygpt.backend.arguments import checked_path, checked_type, is_integer, shown
from pygpt.backend.kernels import Memory, in_float32, lib
from pygpt.checkpoint import model_files
from pygpt.checkpoint.int8 import StoredInt8
from pygpt.config import GPTConfig, is_whole_number, token_ids
from pygpt.decoding import Cache
from pygpt.parameters import Parameter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from typing_extensions import Buffer, Self, Unpack

    from pygpt.options import Options

    Batch = Sequence[Sequence[int]] | Buffer  # ids (B, T)
    Prompts = Sequence[int] | Batch           # the ids of one text, or of several

HEAD_BYTES, LEAST_HEAD_ROWS = 1 << 24, 64  # of the logits that token_losses() holds at once


@nn.recordable
class CausalSelfAttention(nn.Module):
    """Runs n_head attentions side by side. Each head has queries, keys and values of its own, with
    C / n_head channels, and sees a token and the tokens before it. The results of the heads are
    concatenated to C channels and mixed by c_proj."""

    shown = ("n_head",)

    def __init__(self, config: GPTConfig, streams: Iterator[int]) -> None:
        C, std = config.n_embd, 0.02 / (2 * config.n_layer) ** 0.5
        self.n_head = config.n_head
        self.c_attn = nn.Linear(C, 3 * C)
        self.c_proj = nn.Linear(C, C, std=std)
        self.attn_dropout = nn.Dropout(config.attn_pdrop, next(streams))
        self.resid_dropout = nn.Dropout(config.resid_pdrop, next(streams))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.c_attn(x)                                                    # (B, T, 3C)
        y = self.attend(qkv)                                                    # (B, T, C)
        return self.resid_dropout(self.c_proj(y))                               # (B, T, C)

    def attend(self, qkv: Tensor) -> Tensor:
        """Compute softmax(q k^T / sqrt(C / n_head)) v in each head. A query sees the keys up to its
        own position. In generation, the keys and values of earlier positions come from the cache.
        """
        cache = current_pass().cache
        if cache is not None:
            keys, values, past = cache.next_layer()
            return ops.attention_cached(qkv, keys, values, past, self.n_head)
        return ops.attention(qkv, self.n_head, *self.attn_dropout.in_progress())


@nn.recordable
class MLP(nn.Module):
    """Treats each token by itself: widens it to 4C channels (or n_inner), applies GELU, and
    narrows it to C again."""

    def __init__(self, config: GPTConfig, streams: Iterator[int]) -> None:
        C, std = config.n_embd, 0.02 / (2 * config.n_layer) ** 0.5
        self.c_fc = nn.Linear(C, config.mlp_width)
        self.c_proj = nn.Linear(config.mlp_width, C, std=std)
        self.dropout = nn.Dropout(config.resid_pdrop, next(streams))

    def forward(self, x: Tensor) -> Tensor:
        """Return dropout(c_proj(gelu(c_fc(x)))), with both layers in one op."""
        y = ops.mlp(x, self.c_fc.weight, self.c_fc.bias, self.c_proj.weight, self.c_proj.bias)
        return self.dropout(y)                                                  # (B, T, C)


@nn.recordable
class Block(nn.Module):
    """Tokens talk (attention), then think (MLP). Each part reads x through a layer norm and adds
    its result to x. x itself passes unchanged, so the gradient reaches the first block of any
    stack."""

    def __init__(self, config: GPTConfig, streams: Iterator[int]) -> None:
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config, streams)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config, streams)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))                                         # (B, T, C)
        x = x + self.mlp(self.ln_2(x))                                          # (B, T, C)
        return x


@nn.recordable
class Transformer(nn.Module):
    """Turns ids into the final vectors that the head reads."""

    def __init__(self, config: GPTConfig) -> None:
        streams = itertools.count()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop, next(streams))
        self.h = [Block(config, streams) for _ in range(config.n_layer)]
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def dropouts(self) -> list[nn.Dropout]:
        """List the Dropout modules, in a fixed order."""
        return [module for module in self.modules() if isinstance(module, nn.Dropout)]

    def forward(self, ids: Tensor) -> Tensor:
        """Apply wte[ids] + wpe[positions], the blocks, the last layer norm: (B, T) -> (B, T, C)."""
        x = ops.embedding(ids, self.wte.weight, self.wpe.weight, past_positions())
        x = self.drop(x)                                                        # (B, T, C)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)                                                     # (B, T, C)


@nn.recordable
class GPT(nn.Module):
    """The whole model.

    Args:
        config: a GPTConfig.
        seed: the seed of the initial weights. As in GPT-2 they are normal with standard deviation
            0.02, or 0.02 / sqrt(2 n_layer) in residual projections. Biases are 0, layer norms 1.
        compute_dtype: "float32" or "bfloat16", see below.

    Dropout is on after construction and off after from_pretrained(); train() and eval() switch it.

    Attributes:
        end_of_text: the id of the token that ends a text, a tuple of ids, or None. Generation stops
            at such a token. from_pretrained() takes it from config.json.
        recompute: if True, a forward pass keeps only the input of each block but the last, and the
            backward pass runs the block's forward again. This takes less memory and more time, and
            every number stays the same. It is False at first.
        compute_dtype: the type to which every matrix product rounds its operands, "float32" or
            "bfloat16" (csrc/pygpt.h, operand types). Sums, weights, gradients of weights and all
            else stay float32. Model files do not store it.
        dropout_seed, forward_passes: the seed of all dropout masks, and the number of passes that
            have drawn some. Every pass gets a seed of its own from these two (next_seed).
        first_row: the sequences of a batch before those of a pass, if processes share the batch
            (parallel/). Then they drop together what one process alone would drop. Otherwise 0.
    """

    _steps = cached_property(StepCache)  # made by StepCache(self) for the first loss
    _not_copied = {"_gradients", "_steps"}
    config: GPTConfig
    transformer: Transformer
    recompute: bool
    dropout_seed: int
    forward_passes: int
    first_row: int = 0
    _end_of_text: int | tuple[int, ...] | None

    def __init__(self, config: GPTConfig, seed: int = 1337,
                 compute_dtype: str = "float32") -> None:
        if not is_integer(seed) or not 0 <= seed < 2 ** 64:
            raise ValueError(f"seed={shown(seed)} is not a whole number in [0, 2^64)")
        checked_dtype(compute_dtype)
        self._build(checked_type("config", config, GPTConfig))
        self.compute_dtype = compute_dtype
        self.initialise(seed)
        self.dropout_seed = seed

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits (B, T, V) of ids, an int32 Tensor (B, T)."""
        x = self.transformer(ids)                                               # (B, T, C)
        return ops.matmul(x, self.transformer.wte.weight, transpose_b=True)     # (B, T, V)

    def last_logits(self, ids: Tensor) -> Tensor:
        """Return the logits (B, V) after the last of ids, an int32 Tensor (B, T): one text, or one
        id of each text. In both cases the last vectors lie side by side."""
        x = self.transformer(ids)                                               # (B, T, C)
        B, T, C = x.shape
        last = Tensor.empty((B, C), memory=x.memory, offset=x.offset + 4 * (T - 1) * C)
        return ops.matmul(last, self.transformer.wte.weight, transpose_b=True)  # (B, V)

    def forward_loss(self, ids: Tensor, targets: Tensor,
                     ignore_index: int = ops.IGNORED) -> Tensor:
        """Return cross_entropy(forward(ids), targets), by an op that never holds all logits."""
        x = self.transformer(ids)                                               # (B, T, C)
        return ops.linear_cross_entropy(x, self.transformer.wte.weight, targets, ignore_index)  # ()

    def _build(self, config: GPTConfig) -> None:
        self.config = config
        self.transformer = Transformer(config)
        self.dropout_seed, self.forward_passes, self.first_row = 0, 0, 0
        self.recompute = False
        self._end_of_text, self._compute_dtype = None, "float32"

    @one_at_a_time
    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = copy.deepcopy(self.__getstate__())  # another thread may go on training
        return object.__new__, (type(self),), state

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], compute_dtype: str = "float32",
                        weights: str | None = None, **changes: float) -> Self:
        """Open a Hugging Face GPT-2 directory, or one with nanoGPT's names
        (checkpoint/model_files.py).

        F32 weights stay in the mapped file until training; others are converted to new memory.

        Args:
            compute_dtype: as in GPT; the type of the weights in the files does not matter.
            weights: "float32", or a form of quantize(); None: as in the files, "int8" or else
                "float32". int8 in the files is widened if another form is wanted: the weights are
                those that int8 holds.
            changes: fields of its GPTConfig to change: the three dropout shares.
        Raises:
            OSError: a file is missing or cannot be read.
            ValueError: there is no such compute_dtype or form.
            CheckpointError: the directory does not hold such a model; the message names the file
                and the field.
            MemoryError: the converted weights do not fit.
        """
        directory = checked_path("directory", directory)
        checked_dtype(compute_dtype)
        if weights not in (None, "float32"):
            ops.WeightAtRest.empty(weights, (0, 0))  # refuses other forms before files are read
        config, stored, end_of_text = model_files.read_model(directory, parameter_shapes)
        self = cls.__new__(cls)
        self._build(replace(config, **changes))
        self.compute_dtype, self.end_of_text = compute_dtype, end_of_text
        is_int8 = any(isinstance(weight, StoredInt8) for weight in stored.values())
        self._fill(stored, weights or ("int8" if is_int8 else "float32"))
        return self.eval()

    def _fill(self, stored, form):
        """Give a new model its weights, {name: weights.Stored or StoredInt8}, in this form."""
        for module_name, module in self.named_modules():
            for attribute, parameter in list(vars(module).items()):
                if not isinstance(parameter, Parameter):
                    continue
                weight = stored.pop(f"{module_name}.{attribute}")
                is_layer = isinstance(module, nn.Linear)
                if isinstance(weight, StoredInt8):
                    at_rest = ops.WeightAtRest("int8", weight.shape, *weight.memories(), is_layer)
                    if form == "int8":
                        setattr(module, attribute, at_rest)
                        continue
                    memory = _copied(at_rest.as_parameter())
                else:
                    memory = weight.memory()
                if form != "float32" and len(parameter.shape) == 2 and \
                        module is not self.transformer.wpe:
                    setattr(module, attribute, ops.WeightAtRest.of(
                        Tensor.empty(parameter.shape, memory=memory), form, is_layer))
                else:
                    parameter.place(memory)
                    parameter.requires_grad = form == "float32"

    @one_at_a_time
    def save_pretrained(self, directory: str | os.PathLike[str], dtype: str = "as in memory",
                        end_of_text: int | tuple[int, ...] | None = None) -> None:
        """Write model.safetensors and config.json, each complete or not at all.

        Args:
            directory: made if it is missing.
            dtype: the type of the weights in the file: "float32", "float16" or "bfloat16", rounded
                to nearest, ties to even; or "as in memory": float32, and for matrices at rest
                their form. Other programs do not read int8.
            end_of_text: the id, or tuple of ids, at which generation stops; None: the model's
                own end_of_text.
        Raises:
            OSError: the directory cannot be written.
            ValueError: dtype is none of these, or a weight is too large for it, or end_of_text is
                not in the vocabulary; the message names the value.
        """
        directory = checked_path("directory", directory)
        end = self.end_of_text if end_of_text is None else self._checked_end(end_of_text)
        at_rest = dict(self.weights_at_rest())
        if dtype == "as in memory":
            def dtype(name):
                return "bfloat16" if name in at_rest else "float32"
            in_int8 = self.weights == "int8"
        else:
            checked_type("dtype", dtype, str)  # write_model takes a function, too
            in_int8 = False
        model_files.write_model(directory, self.config, self._saved(at_rest, in_int8), dtype, end)

    def _saved(self, at_rest, in_int8):
        """Yield (name, shape, buffer) of all weights, as model_files.write_model takes them."""
        own = dict(self.named_parameters())
        for name, shape in parameter_shapes(self.config).items():
            weight = at_rest.get(name)
            if weight is None:
                yield name, shape, own[name].read()
            elif in_int8:
                yield name, weight.shape, (weight.values, weight.scales)
            else:
                yield name, shape, weight.as_parameter

    @one_at_a_time
    def quantize(self, form: str = "int8") -> Self:
        """Return a copy for generation whose matrices rest in fewer bits, the head and the token
        embedding included. It generates faster, because each token reads every weight, and cannot
        be trained. Vectors and position embeddings stay float32 and are frozen.

        Args:
            form: "int8" (with a scale for each 64 weights, 1.06 bytes a weight) or "bfloat16".
        Raises:
            ValueError: there is no such form, or the weights rest already.
        """
        if self.weights != "float32":
            raise ValueError(f"quantize({shown(form)}): the weights rest in {self.weights} already")
        ops.WeightAtRest.empty(form, (0, 0))  # refuses other forms
        twin = type(self).__new__(type(self))
        twin._build(self.config)
        twin.compute_dtype, twin.end_of_text = self.compute_dtype, self.end_of_text
        twin._fill({name: _Copied(p) for name, p in self.named_parameters()}, form)
        return twin.eval()

    @property
    def weights(self) -> str:
        """The form of the matrices in memory: "float32", or the form of quantize()."""
        weight = self.transformer.wte.weight
        return weight.form if isinstance(weight, ops.WeightAtRest) else "float32"

    @property
    def end_of_text(self) -> int | tuple[int, ...] | None:
        return self._end_of_text

    @end_of_text.setter
    def end_of_text(self, value: int | tuple[int, ...] | None) -> None:
        self._end_of_text = self._checked_end(value)

    def _checked_end(self, value):
        """Return end_of_text as an int, a tuple or None; raise ValueError for any other value."""
        if value is None:
            return None
        ids = token_ids("end_of_text", value, self.config.vocab_size)
        return ids[0] if is_whole_number(value) else ids or None

    @property
    def compute_dtype(self) -> str:
        return self._compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, name: str) -> None:
        self._compute_dtype = checked_dtype(name)

    # -------------------------------------------------------------------------- forward passes ---

    def pass_settings(self, seed: Any = None) -> PassSettings:
        """Return the PassSettings within which forward() or forward_loss() is to be called. The
        last block is never recomputed: its second run would follow the first at once and save no
        memory."""
        recomputed = self.transformer.h[:-1] if self.recompute else ()
        return PassSettings(seed, self.transformer.dropouts(), recomputed=recomputed,
                            compute_dtype=self.compute_dtype)

    @one_at_a_time
    def __call__(self, ids: Batch) -> Tensor:
        """Return the logits (B, T, V) of ids: B lists of T ints, or an int32 buffer (B, T).

        Raises:
            ValueError: T is 0 or more than n_positions, the lists differ in length, or an id is not
                in 0..vocab_size-1.
        """
        ids = self._ids(ids)
        with self._pass(ids):
            return self.forward(ids)

    @one_at_a_time
    def loss(self, ids: Batch, targets: Batch, ignore_index: int = ops.IGNORED) -> Tensor:
        """Return the mean cross-entropy in nats of targets (B, T) predicted from ids (B, T).

        Args:
            ignore_index: the value of targets that are left out, -100. The mean is over the other
                targets, and 0 if there are none.

        Returns:
            A Tensor of shape ().

        Raises:
            ValueError: as for a call, or targets differ from ids in shape.
        """
        with self._steps.take(ids, targets, ignore_index) as step:
            step.forward()
            return step.lend_loss()

    @one_at_a_time
    def token_losses(self, ids: Batch, targets: Batch,
                     ignore_index: int = ops.IGNORED) -> Tensor:
        """Return the cross-entropy in nats of each target, (B, T), predicted from ids (B, T).

        The head is computed for a few rows at a time, whose logits take about 16 MB, so memory does
        not grow with vocab_size. Gradients are not recorded. A subclass with a head of its own
        overrides this method, as it does forward_loss().

        Args:
            ignore_index: the value of targets whose loss is to be 0 instead.

        Raises:
            ValueError: as loss() does.
        """
        ids, targets = self._ids(ids), self._ids(targets, "targets")
        if targets.shape != ids.shape:
            raise ValueError(f"targets of shape {targets.shape} for ids of shape {ids.shape}")
        checked_ignore_index("token_losses", ignore_index)
        V, losses, mean = self.config.vocab_size, Tensor.empty(ids.shape), Tensor.empty(())
        with no_grad(), self._pass(ids, targets, ignore_index):
            x = self.transformer(ids)                                           # (B, T, C)
            for begin, end in _parts(ids.size, max(LEAST_HEAD_ROWS, HEAD_BYTES // (4 * V))):
                rows = Tensor.empty((1, end - begin, x.shape[-1]), memory=x.memory,
                                    offset=x.offset + 4 * begin * x.shape[-1])
                logits = ops.matmul(rows, self.transformer.wte.weight, transpose_b=True)
                own, at = (Tensor.empty((end - begin,), kind, memory=tensor.memory,
                                        offset=tensor.offset + 4 * begin).ptr
                           for kind, tensor in (("f", losses), ("i", targets)))
                launch(lib.cross_entropy_forward, mean.ptr, own, logits.ptr, at,
                       end - begin, V, ignore_index)
        return losses

    @one_at_a_time
    def loss_and_grad(self, ids: Batch, targets: Batch, scale: float = 1.0,
                      ignore_index: int = ops.IGNORED,
                      when_final: Callable[[list[Any]], object] | None = None) -> float:
        """Run loss = model.loss(ids, targets) and (loss * scale).backward() together.

        This is faster, because the head's logits are computed once instead of twice. when_final
        lets a caller use gradients while the backward pass still runs: see TrainingStep.backward.

        Returns:
            The loss, unscaled, a float.

        Raises:
            ValueError: as loss() does, or scale is not finite, or the weights rest in fewer bits.
            MemoryError: there is no memory for the step. If that was found in the backward pass,
                the parameters then hold no gradient, not even that of earlier passes.
        """
        if self.weights != "float32":
            raise ValueError(f"loss_and_grad(): a weight at rest in {self.weights} passes no "
                             "gradient on; train the model that it was made from")
        scale = in_float32("scale", scale, -math.inf)
        with self._steps.take(ids, targets, ignore_index) as step:
            step.forward_backward(scale, when_final)
            return float(step.loss)

    def new_cache(self, rows: int = 1, length: int | None = None) -> Cache:
        """Make an empty decoding.Cache, for decode(), of `rows` texts."""
        return Cache(self, rows, length)

    @one_at_a_time
    def decode(self, ids: Sequence[int], cache: Cache) -> Tensor:
        """Return the logits (V,) after the last of ids, which continue the text in the cache.

        Args:
            ids: a list of ints.
            cache: a Cache of this model; the new positions are added to its first text. The
                logits may lie in memory of its own, which its next step overwrites.

        Raises:
            ValueError: ids is empty, an id is out of range, the cache has no room for them, or it
                is another model's.
        """
        if checked_type("cache", cache, Cache).model is not self:
            raise ValueError(f"cache={cache!r} is of another model")
        cache.forget_outdated_steps()
        return cache.read(0, ids)

    def generate(self, ids: Prompts, max_new_tokens: int = 64,
                 **options: Unpack[Options]) -> list[Any]:
        """Return the ids that follow ids, a list of ints. Options and errors: generate.generate."""
        return generate.generate(self, ids, max_new_tokens, **options)

    def stream(self, ids: Sequence[int], max_new_tokens: int = 64,
               **options: Unpack[Options]) -> Iterator[Any]:
        """Like generate(), but yield each id as soon as it is chosen."""
        return generate.stream(self, ids, max_new_tokens, **options)

    # --------------------------------------------------------------------------------- inside ---

    @contextlib.contextmanager
    def _pass(self, ids, targets=None, ignore_index=None):
        """Within the block, a forward pass of these ids and targets runs. A bad id is named, and a
        pass that fails takes no dropout seed from the next one."""
        passes = self.forward_passes
        seed = (ops.Seed(self.next_seed(), self.first_row * ids.shape[1])
                if self.dropout_shares() else None)
        try:
            with (named_bad_ids(self.config.vocab_size, ids, targets, ignore_index),
                  self.pass_settings(seed)):
                yield
        except BaseException:
            self.forward_passes = passes
            raise

    def _ids(self, ids, name="ids"):
        """Return ids as an int32 Tensor (B, T), after checking their shape."""
        B, T, flat = as_int32(name, ids, self.config.n_positions)
        tensor = Tensor.empty((B, T), "i")
        tensor.memory.view[:4 * B * T] = flat
        return tensor

    def step_dependencies(self) -> list[Any] | None:
        """List all that recorded steps depend on: compute_dtype, the ops, and nn.dependencies of
        the transformer. Return None if steps must run op by op: the transformer has something that
        cannot be compared, forward_loss is not this class's own, launch.calling is in force, or
        Python has no reference counts, by which the memory of a step is planned (replay.py).
        """
        is_known = (replay.COUNTS_REFERENCES and not calls_are_intercepted()
                    and nn.is_as_written(type(self), "forward_loss"))
        found = nn.dependencies(self.transformer) if is_known else None
        if found is None:
            return None
        return [self.compute_dtype, *map(vars(ops).get, ops.__all__), *found]

    def dropout_shares(self) -> tuple[float, ...]:
        """Return the share of each Dropout module, as shares_in_force() does."""
        return shares_in_force(self.transformer.dropouts())

    def next_seed(self) -> int:
        """Return a new seed for each forward pass, made from dropout_seed and forward_passes."""
        self.forward_passes += 1
        return (self.dropout_seed * 0x9E3779B97F4A7C15 + self.forward_passes) % 2 ** 64


class _Copied:
    """A parameter as _fill takes weights: memory() returns a copy of its values."""

    def __init__(self, parameter):
        self._parameter = parameter

    def memory(self):
        return _copied(self._parameter.read())


def _parts(count, most):
    """Yield (begin, end) of the fewest parts of range(count) of at most `most`, nearly equal."""
    parts = -(-count // most)
    for part in range(parts):
        yield part * count // parts, (part + 1) * count // parts


def _copied(values):
    """Return new memory with a copy of a buffer of float32."""
    memory = Memory(values.nbytes)
    memory.view[:] = values.cast("B")
    return memory


def parameter_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of the parameters of a GPT. All blocks are alike, so only one is built,
    without memory: config.json may claim more layers or channels than the memory can hold."""
    model = GPT.__new__(GPT)
    model._build(replace(config, n_layer=1))
    shapes = {}
    for name, parameter in model.named_parameters():
        layers = range(config.n_layer if ".h.0." in name else 1)
        shapes |= {name.replace(".h.0.", f".h.{layer}."): parameter.shape for layer in layers}
    return shapes
