"""Compares recorded steps of a randomly edited model, bit for bit, with running op by op.

Two copies of a model are edited alike between steps, layers removed, exchanged, wrapped, frozen,
their settings changed. One records its steps and replays them; the other cannot, for it holds an
attribute that cannot be compared. Losses and gradients must agree after every step.
"""

import copy
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import bits, draw_ids

import pygpt
from pygpt import nn
from pygpt.autograd import ops
from pygpt.model import GPT, Block
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor

CONFIG = pygpt.GPTConfig(vocab_size=11, n_positions=8, n_embd=8, n_layer=3, n_head=2,
                         resid_pdrop=0.1)


LIMIT = [0.0]  # read by Peeking


class Halved(nn.Module):
    """Divides by a constant that Python writes, as a user's own layer may."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x):
        return ops.scale(self.inner(x), 0.5)


@nn.recordable
class Quarter(Halved):
    """Does the same, and promises that its calls may be recorded."""

    def __call__(self, x):
        return ops.scale(self.inner(x), 0.25)


@nn.recordable
class Peeking(Halved):
    """Breaks its promise: a replay would leave out what Python reads and writes here."""

    def __call__(self, x):
        y = self.inner(x)
        return ops.scale(y, 1.0 if y.flat()[0] > LIMIT[0] else 0.5)


def new_block(rng):
    return Block(CONFIG, itertools.count(rng.randrange(100, 10 ** 6))).initialise(
        rng.randrange(10 ** 6))


def blocks(model):
    return [module for module in model.modules() if type(module) is Block]


def parameter(model, rng):
    return rng.choice([p for _, p in model.named_parameters()])


def remove(model, rng):
    if len(model.transformer.h) > 1:
        del model.transformer.h[rng.randrange(len(model.transformer.h))]


def append(model, rng):
    if len(model.transformer.h) < 5:
        model.transformer.h.append(new_block(rng))


def replace(model, rng):
    model.transformer.h[rng.randrange(len(model.transformer.h))] = new_block(rng)


def tie(model, rng):
    if len(model.transformer.h) < 5:
        model.transformer.h.append(rng.choice(model.transformer.h))


def wrap(cls):
    def edit(model, rng):
        place = rng.randrange(len(model.transformer.h))
        model.transformer.h[place] = cls(model.transformer.h[place])
    return edit


def unwrap(model, rng):
    model.transformer.h = [layer.inner if isinstance(layer, Halved) else layer
                           for layer in model.transformer.h]


def exchange_order(model, rng):
    rng.shuffle(model.transformer.h)


def change_eps(model, rng):
    rng.choice([m for m in model.modules() if isinstance(m, nn.LayerNorm)]).eps = rng.random()


def change_dropout(model, rng):
    rng.choice(model.transformer.dropouts()).share = rng.choice((0.0, 0.3))


def change_heads(model, rng):
    rng.choice(blocks(model)).attn.n_head = rng.choice((1, 2, 4))


def change_training(model, rng):
    model.train(rng.random() < 0.5)


def exchange_linear(model, rng):
    rng.choice(blocks(model)).mlp.c_fc = nn.Linear(8, 32).initialise(rng.randrange(99))


def exchange_table(model, rng):
    model.transformer.wte = nn.Embedding(11, 8).initialise(rng.randrange(99))


def freeze(model, rng):
    parameter(model, rng).requires_grad = False


def freeze_all(model, rng):
    for _, p in model.named_parameters():
        p.requires_grad = False


def thaw(model, rng):
    for _, p in model.named_parameters():
        p.requires_grad = True


def forget_one_gradient(model, rng):
    p = parameter(model, rng)
    p.requires_grad, p.requires_grad = False, p.requires_grad


def add_a_module_that_takes_no_part(model, rng):
    model.extra = [nn.Linear(2, 2).initialise(1)]


def recompute(model, rng):
    model.recompute = rng.random() < 0.5


def optimize(model, rng):
    optimizer = pygpt.AdamW(model, lr=0.01)
    optimizer.clip_grad_norm(0.5)
    optimizer.step()
    if rng.random() < 0.7:
        optimizer.zero_grad()


def write_a_value(model, rng):
    parameter(model, rng).flat()[0] = rng.random()


def evaluate(model, rng):
    with no_grad():
        model.loss([[1, 2, 3]], [[2, 3, 4]])


def lose_a_loss(model, rng):
    model.loss([[1, 2, 3]], [[2, 3, 4]])


EDITS = [remove, append, replace, tie, wrap(Halved), wrap(Quarter), wrap(Peeking), unwrap,
         exchange_order, change_eps, change_dropout, change_heads, change_training,
         exchange_linear, exchange_table, freeze, freeze_all, thaw, forget_one_gradient,
         add_a_module_that_takes_no_part, recompute, optimize, write_a_value, evaluate,
         lose_a_loss]


def step(model, seed, way):
    """Return the bits of a loss, and of every gradient after its backward pass."""
    rng = random.Random(seed)
    B, T = rng.choice(((1, 3), (2, 8)))
    ids, targets = draw_ids(rng, B, T), draw_ids(rng, B, T)
    targets[0][0] = rng.choice((-100, 1))
    if way == "both at once":
        loss = Tensor(model.loss_and_grad(ids, targets, scale=0.5))
    else:
        loss = model.loss(ids, targets)
        if loss.requires_grad:
            (loss * 2.0 + loss * 0.25 if way == "composed" else loss).backward()
    return bits(loss), {name: bits(p.grad) for name, p in model.named_parameters()}


def twins():
    """Return a model that records and one that runs op by op."""
    recorded = GPT(CONFIG, seed=5)
    recorded.eval()
    eager = copy.deepcopy(recorded)
    eager.transformer.something = object()
    assert nn.dependencies(eager.transformer) is None
    assert nn.dependencies(recorded.transformer) is not None
    return recorded, eager


edits = st.lists(st.tuples(st.sampled_from(EDITS), st.integers(0, 10 ** 6)), max_size=3)
steps = st.tuples(edits, st.integers(0, 3),
                  st.sampled_from(("plain", "both at once", "composed")))


@given(st.lists(steps, min_size=2, max_size=7))
def test_recorded_and_unrecorded_steps_agree_whatever_is_edited_between_them(story):
    recorded, eager = twins()
    for changes, seed, way in story:
        for edit, edit_seed in changes:
            for model in recorded, eager:
                edit(model, random.Random(edit_seed))
        assert step(recorded, seed, way) == step(eager, seed, way)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: getattr(edit, "__name__", "edit"))
@pytest.mark.parametrize("way", ["plain", "both at once", "composed"])
def test_every_edit_alone(edit, way):
    recorded, eager = twins()
    for seed in 0, 0, 1, 0:
        for model in recorded, eager:
            edit(model, random.Random(seed))
        assert step(recorded, 0, way) == step(eager, 0, way)
        assert step(recorded, 0, way) == step(eager, 0, way)


def test_most_steps_are_replayed():
    """Count the replays: the models above would agree as well if nothing were recorded."""
    model, _ = twins()
    for seed in 0, 1, 0, 1:
        step(model, seed, "plain")
    recorded = set(model._steps)
    step(model, 0, "plain")
    assert recorded and set(model._steps) == recorded
    assert all(s.program.recorded for s in recorded)


def test_a_constant_inside_a_block_is_the_same_in_every_run():
    model = GPT(CONFIG, seed=5).eval()
    model.transformer.h[0].mlp.__class__ = type("Mine", (type(model.transformer.h[0].mlp),), {
        "__call__": lambda self, x, *rest: ops.scale(x, 2) / 2 + -x - x + x})
    losses = {float(model.loss([[1, 2, 3, 4]], [[2, 3, 4, 5]])) for _ in range(4)}
    assert len(losses) == 1


def test_a_module_that_takes_no_part_has_no_gradient_of_this_loss():
    model = GPT(CONFIG, seed=5).eval()
    model.extra = nn.Linear(3, 3).initialise(1)
    optimizer = pygpt.AdamW(model)
    for _ in range(3):
        model.loss([[1, 2, 3]], [[2, 3, 4]]).backward()
        assert model.extra.weight.grad is None
        assert model.transformer.ln_f.weight.grad is not None
        optimizer.zero_grad()


def test_a_loss_of_weights_that_have_changed_since_is_refused():
    model = GPT(CONFIG, seed=5).eval()
    optimizer = pygpt.AdamW(model)
    batch = [[1, 2, 3]], [[2, 3, 4]]
    for _ in range(2):  # op by op, then replayed
        early = model.loss(*batch)
        model.loss(*batch).backward()
        optimizer.step()
        with pytest.raises(ValueError, match="a parameter has changed since"):
            early.backward()
        logits = model(batch[0])
        optimizer.step()
        with pytest.raises(ValueError, match="a parameter has changed since"):
            ops.sum(logits).backward()


def test_a_loss_of_parameters_that_moved_is_refused_or_right():
    model = GPT(CONFIG, seed=5).eval()
    batch = [[1, 2, 3]], [[2, 3, 4]]
    for _ in range(2):
        model.loss(*batch).backward()
    loss = model.loss(*batch)
    around = nn.Module()
    around.inner = model
    around.more = nn.Linear(2, 2).initialise(1)
    pygpt.AdamW(around)
    with pytest.raises(ValueError, match="have moved to other memory"):
        loss.backward()


def test_a_layer_that_looks_at_values_is_never_replayed():
    model, batch = GPT(CONFIG, seed=5).eval(), ([[1, 2, 3]], [[2, 3, 4]])
    model.transformer.h[0] = Peeking(model.transformer.h[0])
    try:
        losses = []
        for LIMIT[0] in -1e9, 1e9, -1e9, 1e9:
            losses.append(float(model.loss(*batch)))
        assert losses[:2] == losses[2:] and losses[0] != losses[1]
    finally:
        LIMIT[0] = 0.0


def test_a_class_that_promises_nothing_is_never_replayed():
    model, batch = GPT(CONFIG, seed=5).eval(), ([[1, 2, 3]], [[2, 3, 4]])

    class Mine(Block):
        factor = 1.0

        def forward(self, x):
            return super().forward(x) * self.factor

    model.transformer.h[0].__class__ = Mine
    losses = []
    for Mine.factor in 1.0, 0.5, 1.0:
        losses.append(float(model.loss(*batch)))
    assert losses[0] == losses[2] != losses[1]


def forget(model):
    for _, p in model.named_parameters():
        p.requires_grad = not p.requires_grad
        p.requires_grad = not p.requires_grad


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("edit", [e for e in EDITS if e is not write_a_value],
                         ids=lambda edit: getattr(edit, "__name__", "edit"))
def test_an_edit_between_a_loss_and_its_backward_pass(edit, recomputes):
    """The gradient is that of the loss, or an error says why not; and what is recorded then gives
    the right numbers when the model is as it was before."""
    ids, targets = [[1, 2, 3]], [[2, 3, 4]]
    model, plain = GPT(CONFIG, seed=5).eval(), GPT(CONFIG, seed=5).eval()
    model.recompute = recomputes
    plain.loss(ids, targets).backward()
    right = [bits(p.grad) for _, p in plain.named_parameters()]
    parameters = [p for _, p in model.named_parameters()]
    loss = model.loss(ids, targets)
    edit(model, random.Random(3))
    try:
        loss.backward()
    except ValueError as error:
        assert "changed" in str(error) or "memory" in str(error)
    else:
        for p, expected in zip(parameters, right):
            assert p.grad is None and not p.requires_grad or bits(p.grad) == expected
    untouched = copy.deepcopy(model)
    untouched.transformer.something = object()  # runs op by op
    for m in model, untouched:
        m.eval()
        forget(m)
    assert step(model, 0, "plain") == step(untouched, 0, "plain")
    for m in model, untouched:
        forget(m)
    assert step(model, 0, "plain") == step(untouched, 0, "plain")


def test_a_wrong_recording_is_not_kept():
    ids, targets = [[1, 2, 3]], [[2, 3, 4]]
    for recomputes in False, True:
        model, plain = GPT(CONFIG, seed=5).eval(), GPT(CONFIG, seed=5).eval()
        model.recompute, attention = recomputes, model.transformer.h[0].attn
        weight = model.transformer.h[0].mlp.c_fc.weight
        loss = model.loss(ids, targets)
        weight.requires_grad, attention.n_head = False, 4
        try:
            loss.backward()
        except ValueError:
            assert recomputes
        weight.requires_grad, attention.n_head = True, 2
        for m in model, plain:
            forget(m)
            m.loss(ids, targets).backward()
        assert [bits(p.grad) for _, p in model.named_parameters()] == [
            bits(p.grad) for _, p in plain.named_parameters()]
