"""Tests that products never read an outdated copy of the weights as bfloat16 (parameters.Values).

Two models are changed alike, in every way in which the values of a parameter can change
(weightchanges.py). One has the copy and the other has not. After each change and each step, the
copy must be the rounded values wherever products may read it, and the losses, gradients and values
of the two models must be equal bit for bit.
"""

import copy
import gc
import pickle
import random
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import bits, draw_ids, tiny as tiny_model
from runs import stop_after
from weightchanges import (BATCH, CHANGES, VIEWS, Plain, Shrinking, Subject, adamw,
                           another_optimizer, become_part_of_a_larger_model, evaluate, initialise,
                           read, take_a_view)

from pygpt.autograd.launch import calling
from pygpt.autograd.tape import no_grad
from pygpt.backend.kernels import BFLOAT16, WEIGHT_BFLOAT16, Memory, check_status, lib
from pygpt.check.header import KERNELS
from pygpt.model import GPT
from pygpt.parameters import Values, fill
from pygpt.training import find_nonfinite
from pygpt.training.trainer import train


def rounded(p):
    """Return the bits of a parameter's values as bfloat16."""
    source, out = Memory(4 * p.size, p.read().cast("B")), Memory(2 * p.size)
    lib.to_bfloat16(out.pointer("H"), source.pointer("f"), p.size)
    return bytes(out.view)


def halves_in_use(model):
    return {name: p.halves() for name, p in model.named_parameters() if p.halves() is not None}


def check_copies(model):
    """Check that what products would read are the rounded values."""
    for _, p in model.named_parameters():
        array = p.operand(BFLOAT16)
        assert (array is p) == (p.halves() is None)
        if array is not p:
            start = array.offset
            assert bytes(array.memory.view[start:start + 2 * p.size]) == rounded(p)


def step(s, seed, way):
    """Return the bits of a loss and of all gradients and values."""
    rng = random.Random(seed)
    ids, targets = draw_ids(rng, 2, 4), draw_ids(rng, 2, 4)
    if way == "at once":
        loss = s.model.loss_and_grad(ids, targets)
    else:
        loss = s.model.loss(ids, targets)
        if way == "evaluated between":
            evaluate(s, rng)
        loss.backward()
        loss = float(loss)
    return loss, {name: (bits(p.grad), p.read().tobytes())
                  for name, p in s.model.named_parameters()}


def check_story(story):
    subject, plain = Subject(GPT), Subject(Plain)
    for changes, seed, way in story:
        for change, change_seed in changes:
            done = [change(s, random.Random(change_seed)) for s in (subject, plain)]
            assert done[0] == done[1]
            check_copies(subject.model)
        assert step(subject, seed, way) == step(plain, seed, way)
        check_copies(subject.model)
        assert not halves_in_use(plain.model)
    return subject


WAY = st.sampled_from(("at once", "in two", "evaluated between"))
SEED = st.integers(0, 99)


def stories(changes):
    several = st.lists(st.tuples(st.sampled_from(changes), SEED), max_size=3)
    return st.lists(st.tuples(several, st.integers(0, 2), WAY), min_size=3, max_size=6)


@settings(max_examples=20)
@given(stories(CHANGES))
def test_a_model_with_the_copy_computes_as_one_without_whatever_changes(story):
    subject = check_story(story)
    if subject.model.compute_dtype == "bfloat16":
        assert len(halves_in_use(subject.model)) == len(list(subject.model.named_parameters()))


@settings(max_examples=15)
@given(stories([*CHANGES, *VIEWS]))
def test_and_also_if_python_gets_views_of_the_values(story):
    check_story(story)


@pytest.mark.parametrize("change", [*CHANGES, *VIEWS], ids=lambda change: change.__name__)
def test_each_change_alone(change):
    check_story([((), 0, "at once"),
                 (((adamw, 1),), 1, "at once"),
                 (((change, 2),), 2, "in two"),
                 (((change, 3), (adamw, 1)), 0, "at once"),
                 (((adamw, 1), (change, 4)), 1, "in two")])


def new_values():
    values = Values(Memory(64))
    values.write(0, bytes(64))
    values.prepare_halves(make=True)
    assert bytes(values.usable_halves().view) == bytes(32)
    return values


def test_what_is_written_outdates_the_copy_until_it_is_made_anew():
    values, one = new_values(), b"\0\0\x80\x3f"
    values.write(4, one)
    assert values.usable_halves() is None
    values.prepare_halves(make=False)
    assert bytes(values.usable_halves().view) == bytes(2) + one[2:] + bytes(28)


def test_an_optimizer_cannot_make_an_outdated_copy_right():
    """It may have left out frozen parameters."""
    values = new_values()
    values.changed(halves_too=True)
    assert values.usable_halves() is not None
    values.changed()
    values.changed(halves_too=True)
    assert values.usable_halves() is None


# ------------------------------------------------------------------------------- that it is used

def weight_forms(function):
    """Call a function; return {kernel: the set of its weights' forms} of the products' kernels."""
    seen = {}

    def call(kernel, args):
        names = [p.name for p in KERNELS[kernel.__name__]]
        if "weight" in names and "dtype" in names:
            flag = bool(args[names.index("dtype")] & WEIGHT_BFLOAT16)
            seen.setdefault(kernel.__name__, set()).add(flag)
        check_status(kernel(*args))

    with calling(call):
        function()
    return seen


def train_once(model):
    model.loss_and_grad(*BATCH)


@pytest.mark.parametrize("recompute", [False, True])
def test_every_product_of_a_training_step_reads_the_copy(recompute):
    model = tiny_model()
    assert set.union(*weight_forms(lambda: train_once(model)).values()) == {False}
    assert model.values().halves is None
    model.compute_dtype, model.recompute = "bfloat16", recompute
    assert weight_forms(lambda: train_once(model)) == dict.fromkeys(
        ("linear_forward", "linear_backward_input", "linear_cross_entropy_forward",
         "linear_cross_entropy_backward"), {True})
    model.compute_dtype = "float32"
    assert set.union(*weight_forms(lambda: train_once(model)).values()) == {False}


def test_only_a_step_of_training_makes_the_copy():
    model = tiny_model()
    model.compute_dtype = "bfloat16"
    with no_grad():
        model.loss(*BATCH)
    model(BATCH[0])
    model.generate([1], 2)
    assert not halves_in_use(model)
    train_once(model)
    assert len(halves_in_use(model)) == len(list(model.named_parameters()))


def test_adamw_keeps_the_copy_right_and_nothing_is_converted_again(monkeypatch):
    subject, conversions, convert = Subject(GPT), [], lib.to_bfloat16

    class Counting:
        def __getattr__(self, name):
            return getattr(lib, name)

        def to_bfloat16(self, *args):
            conversions.append(args)
            return convert(*args)

    monkeypatch.setattr("pygpt.parameters.lib", Counting())
    for _ in range(4):
        step(subject, 0, "in two")
        adamw(subject, random.Random(0))
        read(subject, random.Random(0))
    assert len(conversions) == 1 and len(list(subject.model._steps)) == 1
    another_optimizer(Shrinking)(subject, random.Random(0))
    step(subject, 0, "in two")
    assert len(conversions) == 2 and len(list(subject.model._steps)) == 1


def test_frozen_values_stay_right_through_steps_that_leave_them_out():
    subject = Subject(GPT)
    subject.model.transformer.h[0].mlp.c_fc.weight.requires_grad = False
    for seed in range(3):
        step(subject, seed, "in two")
        adamw(subject, random.Random(0))
        check_copies(subject.model)
    assert halves_in_use(subject.model)
    initialise(subject, random.Random(0))  # the copy is outdated, and AdamW writes only a part
    subject.optimizer.step()
    assert not halves_in_use(subject.model)


def test_a_view_ends_the_copy_and_a_new_buffer_may_have_one_again():
    subject = Subject(GPT)
    step(subject, 0, "in two")
    values = subject.model.values()
    assert values.usable_halves() is not None
    take_a_view(subject, random.Random(0))
    assert values.usable_halves() is None
    step(subject, 0, "in two")
    assert values.halves is None
    become_part_of_a_larger_model(subject, random.Random(0))
    step(subject, 0, "in two")
    assert len(halves_in_use(subject.model)) == len(list(subject.model.named_parameters()))


def test_reading_and_saving_are_no_views(tmp_path):
    subject = Subject(GPT)
    step(subject, 0, "in two")
    read(subject, random.Random(0))
    copy.deepcopy(subject.model), pickle.dumps(subject.model)
    for dtype in "float32", "bfloat16":
        subject.model.save_pretrained(tmp_path, dtype)
    assert find_nonfinite.first_nonfinite(subject.model.values(), 10) is None
    assert halves_in_use(subject.model)
    with pytest.raises(TypeError, match="read-only"):
        subject.parameter(random.Random(0)).read()[0] = 1.0


def test_the_copy_that_a_loss_was_computed_with_lives_as_long_as_the_loss():
    subject = Subject(GPT)
    model, plain = subject.model, Subject(Plain).model
    for _ in range(2):
        model.loss(*BATCH).backward()
        plain.loss(*BATCH).backward()
    loss, halves = model.loss(*BATCH), weakref.ref(model.values().halves)
    take_a_view(subject, random.Random(0))
    model.loss(*BATCH)  # forgets the steps that read the copy, and the copy
    gc.collect()
    assert model.values().halves is None and halves() is not None
    loss.backward()
    plain.loss(*BATCH).backward()
    assert [bits(p.grad) for _, p in model.named_parameters()] == [
        bits(p.grad) for _, p in plain.named_parameters()]
    del loss
    gc.collect()
    assert halves() is None


def test_a_weight_too_large_for_bfloat16_is_infinite_in_both_forms():
    losses = []
    for cls in GPT, Plain:
        subject = Subject(cls)
        p = subject.model.transformer.h[0].attn.c_proj.weight
        p.changed()
        fill(p.ptr, 1, 3.4e38)
        losses.append(str(step(subject, 0, "in two")[0]))
        assert bool(halves_in_use(subject.model)) == (cls is GPT)
    assert losses[0] == losses[1] in ("nan", "inf")


# ------------------------------------------------------------------------------------------ runs

def test_a_run_uses_the_copy_to_its_end_and_changes_no_bit(tiny, tmp_path, monkeypatch):
    config = dict(dtype="bfloat16", eval_interval=2)
    result = train(tiny(**config))
    assert halves_in_use(result.model)
    train(tiny(out=tmp_path / "resumed", **config), [stop_after(3)])
    assert halves_in_use(train(tiny(out=tmp_path / "resumed", **config), resume=True).model)
    monkeypatch.setattr(Values, "prepare_halves", lambda self, make: None)
    assert not halves_in_use(train(tiny(out=tmp_path / "plain", **config)).model)
    for name in "model.safetensors", "optimizer.safetensors":
        whole, *others = ((tmp_path / out / "last" / name).read_bytes()
                          for out in ("out", "resumed", "plain"))
        assert others == [whole] * 2, name
