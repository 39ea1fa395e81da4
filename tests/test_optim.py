"""Tests AdamW: its arithmetic, clipping, the gradients that it uses, and its refusals."""

import math
import random

import models
import pytest
from models import draw_ids

import pygpt
from pygpt import nn
from pygpt.autograd import ops
from pygpt.autograd.tensor import Tensor



def tiny():
    """Make a model away from its initial values, whose regularity would hide mistakes."""
    return models.randomise(models.tiny())


def gradients(model):
    return [g for _, p in model.named_parameters() for g in p.grad.flat()]


def values(model):
    return [x for _, p in model.named_parameters() for x in p.flat()]


def norm(numbers):
    return math.sqrt(math.fsum(x * x for x in numbers))


# --------------------------------------------------------------------------------------- steps ---

def test_a_step_is_adamw_with_decay_on_matrices_only():
    rng, model = random.Random(13), tiny()
    optimizer = pygpt.AdamW(model, lr=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.5)
    m = v = None
    for t in (1, 2):
        model.loss(draw_ids(rng), draw_ids(rng)).backward()
        ps = [(p, list(p.flat()), list(p.grad.flat())) for _, p in model.named_parameters()]
        m = m or [[0.0] * p.size for p, _, _ in ps]
        v = v or [[0.0] * p.size for p, _, _ in ps]
        optimizer.step()
        optimizer.zero_grad()
        for k, (p, old, grad) in enumerate(ps):
            for i, (x, g) in enumerate(zip(old, grad)):
                m[k][i] = 0.8 * m[k][i] + 0.2 * g
                v[k][i] = 0.9 * v[k][i] + 0.1 * g * g
                step = (m[k][i] / (1 - 0.8 ** t)) / (math.sqrt(v[k][i] / (1 - 0.9 ** t)) + 1e-6)
                x -= 0.1 * step + (0.1 * 0.5 * x if len(p.shape) == 2 else 0.0)
                # lr times a ratio of size one, in single precision; tiny g make the ratio steep
                assert abs(p.flat()[i] - x) <= 1e-4 * max(1, abs(x))
    assert [p.grad for _, p in model.named_parameters()] == [None] * len(ps)


def test_a_step_without_gradients_does_nothing():
    model = tiny()
    optimizer, before = pygpt.AdamW(model), values(model)
    optimizer.step()
    assert (optimizer.clip_grad_norm(1.0), optimizer.steps, values(model)) == (0.0, 0, before)


def test_a_parameter_without_a_gradient_counts_as_having_zero():
    class Pair(nn.Module):
        def __init__(self):
            self.used, self.idle = nn.Parameter((3,), fill=1.0), nn.Parameter((3,), fill=1.0)

    pair = Pair().initialise()
    optimizer = pygpt.AdamW(pair, lr=0.5)
    ops.sum(pair.used).backward()
    optimizer.step()
    assert pair.used.tolist() == pytest.approx([0.5] * 3, abs=1e-6)
    assert pair.idle.tolist() == [1.0] * 3 and pair.idle.grad.tolist() == [0.0] * 3

    ops.sum(pair.idle).backward()  # and also where a gradient of an earlier step was
    optimizer.zero_grad()
    ops.sum(pair.used).backward()
    optimizer.clip_grad_norm(1e6)
    assert pair.idle.grad.tolist() == [0.0] * 3 and pair.used.grad.tolist() == [1.0] * 3


# ------------------------------------------------------------------------------------ clipping ---

def test_clipping_scales_gradients_to_the_norm_asked_for():
    rng, model = random.Random(12), tiny()
    optimizer = pygpt.AdamW(model)
    model.loss(draw_ids(rng), draw_ids(rng)).backward()
    before = gradients(model)
    assert math.isclose(optimizer.clip_grad_norm(0.01), norm(before), rel_tol=1e-5)
    assert math.isclose(optimizer.clip_grad_norm(0.02), 0.01, rel_tol=1e-3)
    assert math.isclose(norm(gradients(model)), 0.01, rel_tol=1e-3)


def test_a_gradient_is_read_clipped_one_parameter_after_the_other():
    rng, model = random.Random(12), tiny()
    optimizer = pygpt.AdamW(model)
    model.loss(draw_ids(rng), draw_ids(rng)).backward()
    before = {name: list(p.grad.flat()) for name, p in model.named_parameters()}
    factor = 0.01 / (optimizer.clip_grad_norm(0.01) + 1e-6)
    for name, p in model.named_parameters():
        # the norm, the factor and the product are rounded to single precision
        assert list(p.grad.flat()) == pytest.approx([factor * g for g in before[name]],
                                                    rel=2 ** -21)


def test_an_infinite_max_norm_only_measures():
    rng, model = random.Random(12), tiny()
    optimizer = pygpt.AdamW(model)
    model.loss(draw_ids(rng), draw_ids(rng)).backward()
    before = gradients(model)
    assert math.isclose(optimizer.clip_grad_norm(math.inf), norm(before), rel_tol=1e-5)
    assert gradients(model) == before


@pytest.mark.parametrize("max_norm", [-1, -1.0, 0, 0.0, math.nan, -math.inf, "1", None, True])
def test_a_max_norm_that_is_none_is_named(max_norm):
    rng, model = random.Random(12), tiny()
    optimizer = pygpt.AdamW(model)
    model.loss(draw_ids(rng), draw_ids(rng)).backward()
    before = gradients(model)
    with pytest.raises(ValueError, match="max_norm=.* is not a number above 0"):
        optimizer.clip_grad_norm(max_norm)
    assert gradients(model) == before


@pytest.mark.parametrize("rows", [slice(None), slice(1)], ids=["replayed", "recorded"])
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_a_gradient_added_after_clipping_is_added_to_the_clipped_one(read, rows):
    rng, model, plain = random.Random(14), tiny(), tiny()
    optimizer = pygpt.AdamW(model)
    first, second = draw_ids(rng), draw_ids(rng)[rows]  # of another shape, it is recorded anew
    model.loss(first, first).backward()
    factor = 0.01 / (optimizer.clip_grad_norm(0.01) + 1e-6)
    if read:
        gradients(model)
    model.loss(second, second).backward()
    plain.loss(first, first).backward()
    expected = [factor * g for g in gradients(plain)]
    for _, p in plain.named_parameters():
        p.node.valid = False
    plain.loss(second, second).backward()
    expected = [a + b for a, b in zip(expected, gradients(plain))]
    largest = max(map(abs, expected))
    # one product and one sum, each rounded to single precision
    assert all(abs(a - b) <= 2 ** -22 * largest for a, b in zip(gradients(model), expected))


def test_zero_grad_forgets_the_clip_factor():
    rng, model, plain = random.Random(15), tiny(), tiny()
    optimizer, ids = pygpt.AdamW(model), draw_ids(rng)
    model.loss(ids, ids).backward()
    optimizer.clip_grad_norm(0.01)
    optimizer.zero_grad()
    model.loss(ids, ids).backward()
    plain.loss(ids, ids).backward()
    assert gradients(model) == gradients(plain)


@pytest.mark.parametrize("clips, steps", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_of_two_optimizers_either_clips_and_either_steps(clips, steps):
    # One clips, then both are read: the numbers are the same whichever of the two clips.
    rng, model, plain = random.Random(16), tiny(), tiny()
    ids, lone = draw_ids(rng), pygpt.AdamW(plain)
    pair = [pygpt.AdamW(model), pygpt.AdamW(model)]
    model.loss(ids, ids).backward()
    plain.loss(ids, ids).backward()
    assert pair[clips].clip_grad_norm(0.01) == lone.clip_grad_norm(0.01)
    pair[steps].step()
    lone.step()
    assert values(model) == values(plain)
    assert gradients(model) == gradients(plain)
    pair[1 - clips].zero_grad()
    model.loss(ids, ids).backward()
    lone.zero_grad()
    plain.loss(ids, ids).backward()
    assert gradients(model) == gradients(plain)


# ------------------------------------------------------------------------------- whose memory ---

def test_a_part_of_a_model_is_refused_and_the_model_goes_on():
    rng, model, plain = random.Random(17), tiny(), tiny()
    ids = draw_ids(rng)
    model.loss(ids, ids)  # records a program that knows where the parameters are
    for part in (model.transformer.h[1], model.transformer.wte, model.transformer.ln_f):
        with pytest.raises(ValueError, match="give the optimizer that whole model"):
            pygpt.AdamW(part)
    for each in (model, plain):
        optimizer = pygpt.AdamW(each, lr=0.1)
        each.loss(ids, ids).backward()
        optimizer.step()
    assert values(model) == values(plain)
    assert float(model.loss(ids, ids)) == float(plain.loss(ids, ids))


def test_a_part_that_is_all_of_the_model_is_trained_in_place():
    rng, model, plain = random.Random(18), tiny(), tiny()
    ids = draw_ids(rng)
    for each, whole in ((model, model.transformer), (plain, plain)):
        each.loss(ids, ids)
        optimizer = pygpt.AdamW(whole, lr=0.1)
        for _ in range(2):
            each.loss(ids, ids).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert values(model) == values(plain)
    assert float(model.loss(ids, ids)) == float(plain.loss(ids, ids))


def test_a_model_inside_a_larger_one_goes_on():
    class Larger(nn.Module):
        def __init__(self, model):
            self.model, self.extra = model, nn.Parameter((5,), fill=1.0)

    rng, model, plain = random.Random(19), tiny(), tiny()
    ids = draw_ids(rng)
    model.loss(ids, ids)
    larger = Larger(model)
    larger.extra.place(Tensor([1.0] * 5).memory)
    for each, whole in ((model, larger), (plain, plain)):
        optimizer = pygpt.AdamW(whole, lr=0.1)
        each.loss(ids, ids).backward()
        optimizer.step()
    assert values(model) == values(plain)
    assert float(model.loss(ids, ids)) == float(plain.loss(ids, ids))


def test_an_optimizer_whose_parameters_have_moved_says_so():
    class Larger(nn.Module):
        def __init__(self, *parts):
            self.parts = parts

    part = nn.Linear(2, 2).initialise(1)
    optimizer = pygpt.AdamW(part)
    pygpt.AdamW(Larger(part, nn.Linear(2, 2).initialise(2)))
    for use in (optimizer.step, lambda: optimizer.clip_grad_norm(1.0)):
        with pytest.raises(ValueError, match="moved to other memory.*make a new optimizer"):
            use()


# -------------------------------------------------------------------------------------- frozen ---

def moments(optimizer, name):
    """Return m and v of the parameter called name."""
    (p, offset), = [(p, at) for n, p, at in optimizer.layout.entries if n == name]
    return [bytes(memory.view[offset:offset + 4 * p.size]) for memory in (optimizer.m, optimizer.v)]


@pytest.mark.parametrize("seed", range(8))
def test_frozen_parameters_stay_and_the_others_move_as_if_they_alone_were_trained(seed):
    rng = random.Random(seed)
    model, free = tiny(), tiny()
    names = [name for name, _ in model.named_parameters()]
    frozen = set(rng.sample(names, rng.randrange(1, len(names))))
    optimizer, other = (pygpt.AdamW(m, lr=0.1, weight_decay=0.5) for m in (model, free))
    ids, targets = draw_ids(rng), draw_ids(rng)
    for m, o in (model, optimizer), (free, other):  # one step of all, so that moments are not 0
        m.loss(ids, targets).backward()
        o.step()
        o.zero_grad()
    held = {name: moments(optimizer, name) for name in frozen}
    for name, p in model.named_parameters():
        p.requires_grad = name not in frozen
    before = {name: p.tolist() for name, p in model.named_parameters()}
    model.loss(ids, targets).backward()
    free.loss(ids, targets).backward()
    found = [g for name, p in model.named_parameters() if name not in frozen for g in p.grad.flat()]
    assert optimizer.clip_grad_norm(math.inf) == pytest.approx(norm(found), rel=1e-6)
    optimizer.step()
    other.step()
    for (name, p), (_, q) in zip(model.named_parameters(), free.named_parameters()):
        if name in frozen:
            assert p.grad is None and p.tolist() == before[name]
            assert moments(optimizer, name) == held[name]
        else:
            assert p.grad.tolist() == q.grad.tolist() and p.tolist() == q.tolist()
    optimizer.zero_grad()
    for _, p in model.named_parameters():
        p.requires_grad = True
    model.loss(ids, targets).backward()
    optimizer.step()
    assert all(p.tolist() != before[name] for name, p in model.named_parameters()
               if name in frozen)


def test_a_model_that_is_frozen_altogether_has_a_loss_and_nothing_else():
    model, rng = tiny(), random.Random(1)
    optimizer, before = pygpt.AdamW(model), values(model)
    ids, targets = draw_ids(rng), draw_ids(rng)
    loss = float(model.loss(ids, targets))
    for _, p in model.named_parameters():
        p.requires_grad = False
    for _ in range(3):
        assert float(model.loss(ids, targets)) == model.loss_and_grad(ids, targets) == loss
        with pytest.raises(ValueError, match="depends on no tensor with requires_grad=True"):
            model.loss(ids, targets).backward()
        assert optimizer.clip_grad_norm(1.0) == 0.0
        optimizer.step()
    assert values(model) == before and optimizer.steps == 0


def test_a_parameter_that_came_later_is_not_passed_over():
    model = tiny()
    optimizer = pygpt.AdamW(model)
    model.extra = nn.Linear(2, 2).initialise(1)
    with pytest.raises(ValueError, match="parameters that it did not have.*new optimizer"):
        optimizer.step()
    pygpt.AdamW(model).step()


# ---------------------------------------------------------------------------------- bad input ---

# 0.99999999 is 1 in single precision, in which no weight would ever move; 1e-50 is 0.
SETTINGS = [("lr", x) for x in (-1.0, math.inf, math.nan, 1e39, 1e-50, "1", None, True)]
SETTINGS += [("eps", x) for x in (-1e-8, math.inf, math.nan, None, 1e-50, 3.41e38)]
SETTINGS += [("weight_decay", x) for x in (-0.1, math.inf, math.nan, None, 1e-50)]
SETTINGS += [("betas", x) for x in ((0.9,), (), (0.9, 0.9, 0.9), (0.9, 1.0), (-0.1, 0.9), 0.9,
                                    (math.nan, 0.9), (0.9, "0.9"), None, (0.99999999, 0.9),
                                    (0.9, 0.99999999), (1e-50, 0.9))]


@pytest.mark.parametrize("name, value", SETTINGS)
def test_settings_out_of_range_are_named(name, value):
    model = nn.Linear(2, 2).initialise()
    with pytest.raises(ValueError, match=f"AdamW: {name}="):
        pygpt.AdamW(model, **{name: value})
    optimizer = pygpt.AdamW(model)
    setattr(optimizer, name, value)
    with pytest.raises(ValueError, match=f"AdamW: {name}="):
        optimizer.step()


def test_settings_at_the_ends_of_their_ranges_are_taken():
    pygpt.AdamW(nn.Linear(2, 2).initialise(), lr=0, betas=[0, 0.0], eps=0, weight_decay=0)


def test_betas_near_1_are_corrected_as_the_kernel_decays():
    """The first step has size lr, although 0.9999999 is 1 - 1.19e-7 in single precision."""
    model = nn.Linear(2, 2).initialise(1)
    optimizer = pygpt.AdamW(model, lr=0.5, betas=(0.9999999, 0.9999999), eps=0, weight_decay=0)
    before = values(model)
    x = Tensor([[1.0, 2.0]])
    ops.sum(ops.matmul(x, model.weight) + ops.reshape(model.bias, (1, 2))).backward()
    optimizer.step()
    assert all(abs(a - b - 0.5) < 1e-5 for a, b in zip(before, values(model)))


def test_a_module_without_parameters_is_refused():
    with pytest.raises(ValueError, match="Dropout has no parameters"):
        pygpt.AdamW(nn.Dropout(0.1))


def test_a_max_norm_that_is_0_in_single_precision_is_refused():
    model = nn.Linear(2, 2).initialise(1)
    with pytest.raises(ValueError, match="max_norm=1e-60 becomes 0 in single precision"):
        pygpt.AdamW(model).clip_grad_norm(1e-60)
