"""Calls right functions in a wrong order: each is refused by a sentence, or does no harm.

test_backward.py, test_edits.py and test_optim.py have the orders of a single object.
"""

import copy
import gc

import pytest
from models import bits, tiny

import pygpt
from pygpt import sampling
from pygpt.autograd import ops
from pygpt.autograd.tensor import Tensor

IDS, TARGETS = [[1, 2, 3]], [[2, 3, 4]]


def weights(model):
    return [bits(p) for _, p in model.named_parameters()]


def gradients(model):
    return [bits(p.grad) for _, p in model.named_parameters()]


def test_backward_a_second_time_changes_no_gradient():
    model = tiny()
    loss = model.loss(IDS, TARGETS)
    loss.backward()
    before = gradients(model)
    with pytest.raises(ValueError, match="ran through this graph before"):
        loss.backward()
    assert gradients(model) == before


def test_a_step_before_any_backward_pass_changes_nothing():
    model = tiny()
    optimizer = pygpt.AdamW(model)
    before = weights(model)
    optimizer.step()
    optimizer.zero_grad()
    assert optimizer.clip_grad_norm(1.0) == 0.0
    assert weights(model) == before and optimizer.steps == 0


def test_a_step_between_a_loss_and_its_backward_pass_is_refused_and_the_model_goes_on():
    model, fresh = tiny(), tiny()
    optimizers = [pygpt.AdamW(m) for m in (model, fresh)]
    for m, optimizer in zip((model, fresh), optimizers):
        m.loss_and_grad(IDS, TARGETS)
        if m is model:
            loss = m.loss(IDS, TARGETS)
        optimizer.step()
        optimizer.zero_grad()
    with pytest.raises(ValueError, match="a parameter has changed"):
        loss.backward()
    for m in (model, fresh):
        m.loss_and_grad(IDS, TARGETS)
    assert gradients(model) == gradients(fresh)


def test_a_backward_pass_within_no_grad_and_no_grad_within_itself():
    model = tiny()
    loss = model.loss(IDS, TARGETS)
    with pygpt.no_grad():
        with pygpt.no_grad():
            assert model.loss(IDS, TARGETS).node is None
        assert model.loss(IDS, TARGETS).node is None
        with pytest.raises(ValueError, match="depends on no tensor"):
            model.loss(IDS, TARGETS).backward()
        loss.backward()
    twin = tiny()
    twin.loss(IDS, TARGETS).backward()
    assert gradients(model) == gradients(twin)
    assert model.loss(IDS, TARGETS).node is not None


def test_an_error_within_no_grad_ends_it():
    with pytest.raises(KeyError), pygpt.no_grad():
        raise KeyError("mine")
    assert tiny().loss(IDS, TARGETS).node is not None


def test_a_stream_that_is_left_or_read_on_after_training():
    """The keys and values of the text stay those of the old weights; nothing breaks."""
    model = tiny()
    stream = model.stream([1, 2], 6, seed=1)
    first = next(stream)
    model.loss_and_grad(IDS, TARGETS)
    pygpt.AdamW(model).step()
    rest = list(stream)
    assert all(0 <= token < 11 for token in [first, *rest])
    left = model.stream([1, 2], 6, seed=1)
    next(left)
    left.close()
    assert list(left) == []
    del left
    gc.collect()
    assert model.generate([1, 2], 3, seed=1) == copy.deepcopy(model).generate([1, 2], 3, seed=1)


def test_a_continuation_after_close_keeps_its_text():
    pipeline = pygpt.Pipeline(tiny(), pygpt.CharTokenizer("abcdefghijk"))
    text = pipeline.stream("ab", max_new_tokens=5, seed=1)
    next(text)
    text.close()
    text.close()
    before = text.text
    assert list(text) == [] and text.finish() is text and text.text == before
    assert text.stop is None


def test_a_sampler_that_has_served_another_text_says_so():
    model, sampler = tiny(), sampling.Sampler(pygpt.SampleConfig(seed=1, presence_penalty=0.5))
    model.generate([1, 2, 3], 3, sampler=sampler)
    with pytest.raises(ValueError, match="serves one sequence"):
        model.generate([1, 2], 3, sampler=sampler)


def test_a_module_in_two_models_is_trained_by_neither_optimizer_in_silence():
    one, other = tiny(), tiny()
    optimizer = pygpt.AdamW(one)
    other.transformer.wte = one.transformer.wte
    before = weights(one)
    with pytest.raises(ValueError, match="larger model"):
        pygpt.AdamW(other)
    assert weights(one) == before
    one.loss_and_grad(IDS, TARGETS)
    optimizer.step()
    assert weights(one) != before


def test_a_tensor_changed_between_an_op_and_its_backward_pass_is_read_as_it_is_then():
    """docs/python.md: writes through flat() are not noticed. They crash nothing."""
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = ops.sum(x * x)
    x.flat()[0] = 5.0
    y.backward()
    assert x.grad.tolist() == [10.0, 4.0]


def test_a_model_that_changes_form_between_two_calls():
    model = tiny()
    small = model.quantize("int8")
    with pytest.raises(ValueError, match="rest in int8 already"):
        small.quantize("bfloat16")
    for call in (lambda: small.loss_and_grad(IDS, TARGETS), lambda: pygpt.AdamW(small),
                 lambda: small.initialise(1), lambda: small.loss(IDS, TARGETS).backward()):
        with pytest.raises(ValueError):
            call()
    assert small.generate([1], 3, seed=1) == model.quantize("int8").generate([1], 3, seed=1)


def test_a_step_that_is_broken_off_leaves_no_half_gradient(monkeypatch):
    model, fresh = tiny(), tiny()
    monkeypatch.setattr(ops, "linear", None)
    with pytest.raises(TypeError):
        model.loss_and_grad(IDS, TARGETS)
    monkeypatch.undo()
    for m in (model, fresh):
        m.loss_and_grad(IDS, TARGETS)
    assert gradients(model) == gradients(fresh)
