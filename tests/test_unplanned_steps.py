"""Tests training and generation on a Python without reference counts, by stand-ins.

The memory of a recorded step is planned by reference counts (pygpt/autograd/replay.py). Without
them nothing is recorded; and if memory comes back late, a recorded step is right all the same.
"""

import random

import pytest

import pygpt
from pygpt import decoding
from pygpt.autograd import recorded_step, replay

CONFIG = pygpt.GPTConfig(vocab_size=13, n_positions=8, n_embd=16, n_layer=2, n_head=2)
IDS, TARGETS = [[1, 2, 3, 4], [5, 6, 7, 8]], [[2, 3, 4, 5], [6, 7, 8, 9]]


def losses(model, steps=4):
    """Train for a few steps, with a loss between them that is dropped without a backward pass."""
    optimizer, found = pygpt.AdamW(model, lr=0.01), []
    for _ in range(steps):
        model.loss(IDS, TARGETS)
        loss = model.loss(IDS, TARGETS)
        found.append(float(loss))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return found


def results():
    """Return all that a test compares: losses, and a continuation drawn from the trained model."""
    model = pygpt.GPT(CONFIG, seed=3)
    return losses(model), model.generate([1, 2], max_new_tokens=6, seed=5), list(model._steps)


@pytest.mark.skipif(not replay.COUNTS_REFERENCES, reason="nothing is ever recorded here")
def test_nothing_is_recorded_without_reference_counts(monkeypatch):
    recorded_losses, recorded_text, steps = results()
    assert steps and steps[0].program.recorded
    monkeypatch.setattr(replay, "COUNTS_REFERENCES", False)
    for module in recorded_step, decoding:
        monkeypatch.setattr(module, "Program", None)  # a program would be made by calling it
    assert results() == (recorded_losses, recorded_text, [])


@pytest.mark.parametrize("seed", range(5))
def test_a_recorded_step_is_right_when_memory_comes_back_late(monkeypatch, seed):
    expected = results()[:2]
    rng, late = random.Random(seed), []

    def give_back_later(loan):
        late.append((loan._returned, loan._entry))
        while late and rng.random() < 0.3:
            returned, entry = late.pop(rng.randrange(len(late)))
            returned.append(entry)
    monkeypatch.setattr(replay.Loan, "__del__", give_back_later)
    assert results()[:2] == expected
