"""Builds blocks without the residual."""

import itertools
import math

import pygpt
from pygpt.model import Block


class Plain(Block):
    def forward(self, x):
        x = self.attn(self.ln_1(x))
        return self.mlp(self.ln_2(x))


def gradient_norm(kind, depth):
    """Return the norm of the gradient of a weight in the first of `depth` blocks."""
    config = pygpt.GPTConfig(vocab_size=50, n_positions=16, n_embd=32, n_layer=depth, n_head=4)
    model = pygpt.GPT(config)
    model.transformer.h = [kind(config, itertools.count()) for _ in range(depth)]
    model.initialise(1)
    ids = [7 * i % 50 for i in range(17)]
    model.loss([ids[:-1]], [ids[1:]]).backward()
    return math.hypot(*model.transformer.h[0].mlp.c_fc.weight.grad.flat())


print("blocks     with residuals    without")
norms = {}
for depth in (1, 2, 4, 8, 16):
    norms[depth] = gradient_norm(Block, depth), gradient_norm(Plain, depth)
    print(f"{depth:6} {norms[depth][0]:18.2g} {norms[depth][1]:10.2g}")
assert norms[16][0] > norms[1][0] / 10, "with residuals the gradient should reach the first block"
assert norms[16][1] < norms[1][1] / 1000, "without residuals it should have almost vanished"
print("done")
