"""Makes the small models, and the batches for them, that several test files train."""

import random

from pygpt import GPT, GPTConfig

TINY = dict(vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=4)


def tiny(**changes):
    """Make a model of two narrow layers, with changes to its config."""
    return GPT(GPTConfig(**TINY | changes), seed=3)


def randomise(model, spread=0.3, seed=0):
    """Move a model away from its initial values, whose regularity would hide mistakes."""
    rng = random.Random(seed)
    for _, p in model.named_parameters():
        flat = p.flat()
        for i in range(p.size):
            flat[i] += rng.gauss(0, spread)
    return model


def draw_ids(rng, B=2, T=8, V=11):
    """Draw B rows of T ids below V."""
    return [[rng.randrange(V) for _ in range(T)] for _ in range(B)]


def bits(tensor):
    """Return the bytes of a tensor, or None for none."""
    return None if tensor is None else bytes(tensor.flat().cast("B"))
