"""Defines GPTs that lack one part each, for the experiment of ablations.py.

Read each forward() beside that of model.py: the line that differs is the whole experiment. A part
that is left out has no parameters either. Everything else, the initial weights' spread included, is
GPT's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from pygpt import nn
from pygpt.autograd import ops
from pygpt.autograd.tensor import Tensor
from pygpt.config import GPTConfig
from pygpt.model import GPT, MLP, Block, CausalSelfAttention, Transformer


@nn.recordable
class BlockWithoutResiduals(Block):
    """Passes on what its parts compute, and not x itself."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.ln_1(x))                                             # (B, T, C)
        x = self.mlp(self.ln_2(x))                                              # (B, T, C)
        return x


@nn.recordable
class BlockWithoutNorm(nn.Module):
    """Gives its parts x as it is, however large or small it has become."""

    def __init__(self, config: GPTConfig, streams: Iterator[int]) -> None:
        self.attn = CausalSelfAttention(config, streams)
        self.mlp = MLP(config, streams)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)                                                    # (B, T, C)
        x = x + self.mlp(x)                                                     # (B, T, C)
        return x


@nn.recordable
class BlockWithoutMLP(nn.Module):
    """Lets tokens talk, and never think by themselves."""

    def __init__(self, config: GPTConfig, streams: Iterator[int]) -> None:
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config, streams)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))                                         # (B, T, C)
        return x


@nn.recordable
class StackWithoutNorm(Transformer):
    """Has no layer norm before the head either."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.h = blocks_of(BlockWithoutNorm, config)
        del self.ln_f

    def forward(self, ids: Tensor) -> Tensor:
        x = ops.embedding(ids, self.wte.weight, self.wpe.weight)
        x = self.drop(x)                                                        # (B, T, C)
        for block in self.h:
            x = block(x)
        return x                                                                # (B, T, C)


@nn.recordable
class StackWithoutPositions(Transformer):
    """Adds nothing to a token's vector that tells where the token stands."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        del self.wpe

    def forward(self, ids: Tensor) -> Tensor:
        x = ops.embedding(ids, self.wte.weight)
        x = self.drop(x)                                                        # (B, T, C)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)                                                     # (B, T, C)


class WithoutResiduals(GPT):
    """A GPT whose blocks are BlockWithoutResiduals."""

    def _build(self, config):
        super()._build(config)
        self.transformer.h = blocks_of(BlockWithoutResiduals, config)


class WithoutNorm(GPT):
    """A GPT whose stack is StackWithoutNorm."""

    def _build(self, config):
        super()._build(config)
        self.transformer = StackWithoutNorm(config)


class WithoutPositions(GPT):
    """A GPT whose stack is StackWithoutPositions."""

    def _build(self, config):
        super()._build(config)
        self.transformer = StackWithoutPositions(config)


class WithoutMLP(GPT):
    """A GPT whose blocks are BlockWithoutMLP."""

    def _build(self, config):
        super()._build(config)
        self.transformer.h = blocks_of(BlockWithoutMLP, config)


def blocks_of(block: type[nn.Module], config: GPTConfig) -> list[nn.Module]:
    """Make the n_layer blocks of a stack.

    Args:
        block: a class that takes what Block takes.
        config: a GPTConfig. Its dropout shares are 0 in the experiment, so the streams of the
            masks, which are counted from 1 here as in Transformer, do not matter.
    """
    streams = itertools.count(1)
    return [block(config, streams) for _ in range(config.n_layer)]  # type: ignore[call-arg]
