"""Runs a model over a text and keeps what lies between the ids and the logits, to be looked at.

The passes are the model's own, module by module, so every number is the one that it computes with:

    x = wte[ids] + wpe[positions]                   streams[0]
    block:  a = attn(ln_1(x));  x = x + a           attn_norms, patterns (softmax of q k^T)
            m = mlp(ln_2(x));   x = x + m           mlp_norms, streams[block + 1]

"What would the model say if it stopped after this block?" is answered by the last layer norm and
the head, applied to x there.

Source: nostalgebraist, "interpreting GPT: the logit lens" (2020), for the last of these.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pygpt.autograd import ops
from pygpt.autograd.ids import as_int32, named_bad_ids
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor
from pygpt.backend.kernels import Memory
from pygpt.sampling import Choice, choice_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pygpt.model import GPT


@dataclass(frozen=True)
class BlockTrace:
    """Holds what one block did with T tokens.

    Attributes:
        patterns: for each head an array of T * T floats: row t holds the weights with which token t
            attends to tokens 0..t; they sum to 1, and the weights of later tokens are 0.
        attn_norms, mlp_norms: for each token the Euclidean norm of what the attention and the MLP
            add to its residual stream.
    """

    patterns: list[array[float]]
    attn_norms: list[float]
    mlp_norms: list[float]


@dataclass(frozen=True)
class Trace:
    """Holds a forward pass over T tokens.

    Attributes:
        ids: the tokens.
        blocks: a BlockTrace for each block.
        stream_norms: n_layer + 1 lists of T floats: the Euclidean norm of each token's residual
            stream, first that of the embeddings, then that after each block.
        lens: n_layer + 1 lists of T Choices: what the model would predict after each token if it
            stopped there. `token` is the one that follows in the text, and -1 after the last;
            the last list is the model's own prediction.
    """

    ids: list[int]
    blocks: list[BlockTrace]
    stream_norms: list[list[float]]
    lens: list[list[Choice]]


def trace(model: GPT, ids: Sequence[int], n_best: int = 10) -> Trace:
    """Run a model over a text, with dropout off.

    Args:
        model: a GPT.
        ids: 1..n_positions tokens.
        n_best: how many of the likeliest next tokens a Choice lists.
    Raises:
        ValueError: there are too many tokens or none, an id is out of range, or a logit is not
            finite.
    """
    ids = list(ids)
    tensor = _as_tensor(ids, model.config.n_positions)
    transformer, blocks = model.transformer, []
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with no_grad(), named_bad_ids(model.config.vocab_size, tensor), model.pass_settings():
            x = ops.embedding(tensor, transformer.wte.weight, transformer.wpe.weight, 0)
            stream_norms, lens = [_norms(x)], [_lens(model, x, ids, n_best)]
            for block in transformer.h:
                qkv = block.attn.c_attn(block.ln_1(x))                          # (1, T, 3C)
                a = block.attn.c_proj(block.attn.attend(qkv))                   # (1, T, C)
                attn_norms = _norms(a)
                x = x + a
                m = block.mlp(block.ln_2(x))                                    # (1, T, C)
                mlp_norms = _norms(m)
                x = x + m
                blocks.append(BlockTrace(attention_patterns(qkv, block.attn.n_head), attn_norms,
                                         mlp_norms))
                stream_norms.append(_norms(x))
                lens.append(_lens(model, x, ids, n_best))
    finally:
        for module, mode in modes:
            module.training = mode
    return Trace(ids, blocks, stream_norms, lens)


def attention_patterns(qkv: Tensor, n_head: int) -> list[array[float]]:
    """Return softmax(q k^T / sqrt(HS)) of each head, HS = C / n_head, for qkv (1, T, 3C).

    The attention kernel never holds these weights p at once. It returns y_t = sum_j p_tj v_j, and
    so it returns p itself where the values are the rows of an identity matrix: HS columns of it fit
    into a call.

        v_j = e_(j - first) for the tokens j of first..first+HS-1, else 0
        y_t[i] = p_t(first + i)

    Returns:
        For each head an array of T * T floats, row by row.
    """
    _, T, width = qkv.shape
    C = width // 3
    HS = C // n_head
    copy = Tensor.empty(qkv.shape, memory=Memory(4 * T * width))
    numbers = copy.flat()
    numbers[:] = qkv.read()
    patterns = [array("f", bytes(4 * T * T)) for _ in range(n_head)]
    nothing = memoryview(array("f", bytes(4 * C)))
    for first in range(0, T, HS):
        columns = range(first, min(first + HS, T))
        for j in range(T):
            start = j * width + 2 * C                                           # of v_j
            numbers[start:start + C] = nothing
            if j in columns:
                for head in range(n_head):
                    numbers[start + head * HS + j - first] = 1.0
        y = ops.attention(copy, n_head).read()                                  # (1, T, C)
        for head, pattern in enumerate(patterns):
            for t in range(T):
                start = t * C + head * HS
                pattern[t * T + first:t * T + first + len(columns)] = array(
                    "f", y[start:start + len(columns)])
    return patterns


def _as_tensor(ids, most):
    """Return the ids as an int32 Tensor (1, T)."""
    _, T, data = as_int32("ids", [ids], most)
    tensor = Tensor.empty((1, T), "i", memory=Memory(4 * T))
    tensor.memory.view[:] = data
    return tensor


def _rows(tensor):
    """Yield each row of a tensor (1, T, N) as a memoryview of N floats."""
    _, T, N = tensor.shape
    numbers = tensor.read()
    for t in range(T):
        yield numbers[t * N:(t + 1) * N]


def _norms(x):
    """Return the Euclidean norm of each row of x (1, T, C)."""
    return [math.hypot(*row) for row in _rows(x)]


def _lens(model: Any, x: Tensor, ids: list[int], n_best: int) -> list[Choice]:
    """Return the Choice after each token that the last layer norm and the head make of x."""
    normed = model.transformer.ln_f(x)                                          # (1, T, C)
    logits = ops.matmul(normed, model.transformer.wte.weight, transpose_b=True)  # (1, T, V)
    choices = []
    for row, follower in zip(_rows(logits), [*ids[1:], None]):
        choice = choice_of(0 if follower is None else follower, row, n_best)
        choices.append(choice if follower is not None else choice._replace(token=-1, logprob=0.0))
    return choices
