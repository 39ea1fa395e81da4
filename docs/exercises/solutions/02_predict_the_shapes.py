"""Predicts the shapes of a small model."""

import pygpt
from pygpt.autograd.forward_pass import calling_modules
from pygpt.study.trace import trace

CONFIG = pygpt.GPTConfig(vocab_size=100, n_positions=16, n_embd=48, n_layer=2, n_head=6)
predicted = {
    "what the first block reads": (2, 10, 48),                          # (B, T, C)
    "what c_attn returns": (2, 10, 144),                                # q, k and v, 3C
    "what the attention returns, its heads concatenated": (2, 10, 48),  # 6 heads of 8
    "what the MLP returns": (2, 10, 48),                                # 4C is only inside it
    "the logits": (2, 10, 100),                                         # (B, T, V)
    "the weight of c_attn": (48, 144),                                  # (C, 3C)
    "the weight of the MLP's c_fc": (48, 192),                          # (C, 4C)
    "channels of one head": 8,
    "attention patterns of one text, in all blocks": 12,                # 2 blocks of 6 heads
    "numbers in one pattern, zeros included": 100,                      # T T
}

model, found = pygpt.GPT(CONFIG).eval(), {}
block = model.transformer.h[0]


def noted(module, inputs):
    out = module.forward(*inputs)
    if module is block:
        found["what the first block reads"] = inputs[0].shape
    for name, other in (("what c_attn returns", block.attn.c_attn),
                        ("what the attention returns, its heads concatenated", block.attn),
                        ("what the MLP returns", block.mlp)):
        if module is other:
            found[name] = out.shape
    return out


with calling_modules(noted):  # which calls noted(module, inputs) in place of each forward()
    found["the logits"] = model([list(range(10)), list(range(10, 20))]).shape
found["the weight of c_attn"] = block.attn.c_attn.weight.shape
found["the weight of the MLP's c_fc"] = block.mlp.c_fc.weight.shape
found["channels of one head"] = CONFIG.n_embd // CONFIG.n_head
patterns = [pattern for each in trace(model, list(range(10))).blocks for pattern in each.patterns]
found["attention patterns of one text, in all blocks"] = len(patterns)
found["numbers in one pattern, zeros included"] = len(patterns[0])
wrong = {name: (predicted[name], right) for name, right in found.items()
         if predicted[name] != right}
for name, (yours, right) in wrong.items():
    print(f"{name}: {yours} predicted, {right} found")
assert not wrong and predicted.keys() == found.keys()
print("done")
