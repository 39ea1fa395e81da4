"""Switches heads of attention off, to see what they are for."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pygpt.backend.kernels import Memory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pygpt.model import GPT


@contextlib.contextmanager
def heads_off(model: GPT, heads: Collection[tuple[int, int]]) -> Iterator[None]:
    """Switch heads off within the context: they add nothing to the residual stream.

    c_proj mixes the results y of the heads, y_0 W_0 + y_1 W_1 + ..., where W_h is the h-th group of
    HS rows of its weight (HS = n_embd / n_head). A head is off if its rows are 0. The weights
    before stay as they are, in their own memory, and come back at the end.

    Args:
        model: a GPT whose weights are float32. Nobody else may use it meanwhile.
        heads: (block, head) pairs.
    Raises:
        ValueError: there is no such block or head.
    """
    config, of_block = model.config, {}
    for block, head in heads:
        if not (0 <= block < config.n_layer and 0 <= head < config.n_head):
            raise ValueError(f"there is no head {head} in block {block}: the model has "
                             f"n_layer={config.n_layer} and n_head={config.n_head}")
        of_block.setdefault(block, set()).add(head)
    rows = config.n_embd // config.n_head * config.n_embd  # numbers of W_h
    zeros, places = bytes(4 * rows), []
    try:
        for block, off in of_block.items():
            weight = model.transformer.h[block].attn.c_proj.weight
            memory = Memory(4 * weight.size)
            memory.view[:] = weight.read().cast("B")
            for head in off:
                memory.view[4 * head * rows:4 * (head + 1) * rows] = zeros
            places.append((weight, (weight.memory, weight.offset, weight.layout)))
            weight.place(memory)
        yield
    finally:
        for weight, place in places:
            weight.place(*place)
