"""Logits, loss, every gradient and ten AdamW steps, beside a PyTorch model of the same weights.

    python tests/bench/agree.py

Prints the largest error of each tensor, relative to the tensor's largest value. Needs PyTorch.
"""

import random

import torch
from torch_gpt import adamw, same_weights, torch_name

import pygpt


def relative(ours, theirs):
    ours = torch.frombuffer(bytearray(memoryview(ours)), dtype=torch.float32).view(theirs.shape)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def compare(config, B, T):
    rng = random.Random(0)
    model = pygpt.GPT(config, seed=1)
    for name, p in model.named_parameters():  # initial biases and norms are too regular to test
        if len(p.shape) == 1:
            flat = memoryview(p)
            for i in range(p.size):
                flat[i] += rng.gauss(0, 0.1)
    peer = same_weights(model)
    optimizer, peer_optimizer = pygpt.AdamW(model), adamw(peer)
    ids = [[rng.randrange(config.vocab_size) for _ in range(T)] for _ in range(B)]
    targets = [[rng.randrange(config.vocab_size) for _ in range(T)] for _ in range(B)]
    x, y = torch.tensor(ids), torch.tensor(targets)

    print(f"{config}, B={B}, T={T}")
    print(f"  logits     {relative(model(ids), peer(x).detach()):.1e}")
    loss, peer_loss = model.loss(ids, targets), peer.loss(x, y)
    print(f"  loss       {abs(float(loss) / float(peer_loss) - 1):.1e}")
    loss.backward()
    peer_loss.backward()
    theirs = dict(peer.named_parameters())
    for name, p in model.named_parameters():
        other, turned = torch_name(name)
        grad = theirs[other].grad
        print(f"  d {name:45s} {relative(p.grad, (grad.T if turned else grad).contiguous()):.1e}")
    for step in range(10):
        if step:
            loss, peer_loss = model.loss(ids, targets), peer.loss(x, y)
            loss.backward()
            peer_loss.backward()
        optimizer.clip_grad_norm(1.0)
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        peer_optimizer.step()
        optimizer.zero_grad()
        peer_optimizer.zero_grad()
    worst = 0.0
    for name, p in model.named_parameters():
        other, turned = torch_name(name)
        value = theirs[other].detach()
        error = relative(p, (value.T if turned else value).contiguous())
        worst = max(worst, error)
    print(f"  parameters after ten steps, at most {worst:.1e}; loss {float(loss):.6f} and "
          f"{float(peer_loss):.6f}")


if __name__ == "__main__":
    for V, P, C, layers, heads, B, T in ((96, 64, 64, 4, 8, 16, 64), (101, 150, 60, 2, 3, 3, 130),
                                         (65, 256, 384, 2, 6, 4, 256)):
        compare(pygpt.GPTConfig(vocab_size=V, n_positions=P, n_embd=C, n_layer=layers,
                                n_head=heads), B, T)
