"""Compares logits, loss, gradients and ten AdamW steps with a PyTorch model of the same weights.

    python tests/bench/agree.py

It prints the largest error of each tensor, relative to the tensor's largest value, and ends with
status 1 if an error is larger than float32's rounding explains. It needs PyTorch (`pip install
torch`, the CPU build).
"""

import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE.parent.parent), str(HERE)) if path not in sys.path]

from peers import peer  # noqa: E402

import pygpt  # noqa: E402

# V, P, C, layers, heads, B, T
SIZES = ((96, 64, 64, 4, 8, 16, 64), (101, 150, 60, 2, 3, 3, 130), (65, 256, 384, 2, 6, 4, 256))
STEPS = 10
ALLOWED = 1e-3  # sums of some thousand roundings of 6e-8 each, and ten of AdamW's divisions


def random_model(config, rng):
    model = pygpt.GPT(config, seed=1)
    for name, p in model.named_parameters():  # initial biases and norms are too regular to test
        if len(p.shape) == 1:
            flat = memoryview(p)
            for i in range(p.size):
                flat[i] += rng.gauss(0, 0.1)
    return model


def compare(torch_gpt, config, B, T):
    """Print each error; return the largest."""
    rng = random.Random(0)
    model = random_model(config, rng)
    twin = torch_gpt.Twin(config, {name: (p.shape, memoryview(p).cast("B"))
                                   for name, p in model.named_parameters()})
    optimizer = pygpt.AdamW(model)
    ids = [[rng.randrange(config.vocab_size) for _ in range(T)] for _ in range(B)]
    targets = [[rng.randrange(config.vocab_size) for _ in range(T)] for _ in range(B)]
    errors = []

    def show(label, error):
        errors.append(error)
        print(f"  {label:47} {error:.1e}")

    def both_losses():
        loss, twins = model.loss(ids, targets), twin.loss_and_grad(ids, targets)
        loss.backward()
        return float(loss), twins

    def error(ours, theirs):
        return torch_gpt.error(memoryview(ours).cast("B"), theirs)

    print(f"{config}, B={B}, T={T}")
    show("logits", error(model(ids), twin.logits(ids)))
    ours, theirs = both_losses()
    show("loss", abs(ours / theirs - 1))
    for name, p in model.named_parameters():
        show(f"d {name}", error(p.grad, twin.gradient(name)))
    for step in range(STEPS):
        if step:
            ours, theirs = both_losses()
        optimizer.clip_grad_norm(1.0)
        optimizer.step()
        optimizer.zero_grad()
        twin.step(1.0)
    worst = max(error(p, twin.parameter(name)) for name, p in model.named_parameters())
    show(f"parameters after {STEPS} steps, at most", worst)
    print(f"  loss {ours:.6f} and {theirs:.6f}")
    return max(errors)


def main():
    torch_gpt = peer("torch_gpt")
    print(torch_gpt.VERSION)
    worst = 0.0
    for V, P, C, layers, heads, B, T in SIZES:
        config = pygpt.GPTConfig(vocab_size=V, n_positions=P, n_embd=C, n_layer=layers,
                                 n_head=heads)
        worst = max(worst, compare(torch_gpt, config, B, T))
    print(f"the largest error is {worst:.1e}, where {ALLOWED:.1e} is allowed")
    return 0 if worst <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
