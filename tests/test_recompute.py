"""Tests that running a block's forward pass again in the backward pass changes no bit.

tape.recomputed by itself, then GPT.recompute beside a model that keeps its activations.
"""

import random

import pytest
from models import bits, draw_ids

import pygpt
from pygpt.autograd import ops
from pygpt.model import GPT
from pygpt.autograd.replay import Program
from pygpt.autograd.replay import run as run_calls
from pygpt.autograd.launch import calling
from pygpt.autograd.tape import no_grad, recomputed
from pygpt.autograd.tensor import Tensor
from sharing import shared_among

V, T, LAYERS = 11, 8, 3


def models(dropout=0.0):
    """Return two equal models, one that keeps its activations and one that recomputes them."""
    config = pygpt.GPTConfig(vocab_size=V, n_positions=T, n_embd=16, n_layer=LAYERS, n_head=4,
                             embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout)
    kept, again = GPT(config, seed=3), GPT(config, seed=3)
    again.recompute = True
    return kept, again


def batches(n, B=3, seed=0):
    rng = random.Random(seed)
    return [draw_ids(rng, B, T, V) for _ in range(n)]


def gradients(model):
    return {name: bits(p.grad) for name, p in model.named_parameters()}


# ------------------------------------------------------------------------------------ recomputed --

def tensor(rng, *shape, requires_grad=True):
    def lists(shape):
        return [lists(shape[1:]) for _ in range(shape[0])] if shape else rng.gauss(0, 1)
    return Tensor(lists(shape), requires_grad)


@pytest.mark.parametrize("place", ["leaf", "no gradient", "node", "node used elsewhere"])
def test_the_gradients_are_those_of_the_function_itself(place):
    def run(wrap):
        rng = random.Random(5)
        x = tensor(rng, 4, 6, requires_grad=place != "no gradient")
        weight, bias, shift = tensor(rng, 6, 6), tensor(rng, 6), tensor(rng, 6)
        outside = tensor(rng, 4, 6)
        y, z = outside * 2.0, outside * 1.5

        def function(x):
            h = ops.gelu(x + ops.linear(ops.layernorm(x, bias, shift), weight, bias))
            return h * y * z + x

        inp = x * 3.0 if "node" in place else x
        out = wrap(function, inp) * outside + y
        if place == "node used elsewhere":
            out = out + inp + ops.gelu(inp)
        loss = ops.sum(out * out) + ops.sum(weight * weight)
        loss.backward()
        return float(loss), [bits(t.grad) for t in (x, weight, bias, shift, outside)]

    assert run(recomputed) == run(lambda function, x: function(x))


@pytest.mark.parametrize("last", [
    lambda x, w, b: ops.attention(ops.reshape(x, (1, 4, 6)), 2),
    lambda x, w, b: ops.layernorm(x, b, b * 2.0), lambda x, w, b: ops.linear(x, w, b),
    lambda x, w, b: ops.mlp(x, w, b, w, b), lambda x, w, b: ops.dropout(x, 0.5, ops.Seed(3)),
], ids=["attention", "layernorm", "linear", "mlp", "dropout"])
def test_an_op_whose_second_result_nobody_reads_has_its_gradients(last):
    def run(wrap):
        rng = random.Random(7)
        x, weight, bias = tensor(rng, 4, 6), tensor(rng, 6, 6), tensor(rng, 6)
        out = wrap(lambda x: last(x, weight, bias), x)
        ops.sum(out * out).backward()
        return [bits(t.grad) for t in (x, weight, bias)]

    assert run(recomputed) == run(lambda function, x: function(x))


def test_what_needs_no_gradient_gets_no_node():
    def double(x):
        return x * 2.0

    x = Tensor([1.0, 2.0])
    assert recomputed(double, x).node is None
    weight = Tensor([1.0, 2.0], requires_grad=True)
    with no_grad():
        assert recomputed(double, weight).node is None
    assert recomputed(double, weight).tolist() == [2.0, 4.0]


def test_one_inside_another():
    calls = []

    def inner(x):
        calls.append("inner")
        return x * x

    def outer(x):
        calls.append("outer")
        return recomputed(inner, recomputed(inner, x))

    x = Tensor(2.0, requires_grad=True)
    recomputed(outer, x).backward()
    assert float(x.grad) == 4 * 2.0 ** 3
    assert calls == ["outer", "inner", "inner", "outer", "inner", "inner", "inner", "inner"]


def test_a_recorded_pass_knows_which_gradient_is_the_first():
    rng = random.Random(6)
    x, weight = tensor(rng, 5), tensor(rng, 5)
    program, one = Program(), Tensor(1.0)
    with program.record_forward():
        y = recomputed(lambda x: x * weight, x * weight)
        loss = ops.sum(y * weight)
    with program.record_backward():
        loss.backward(one)
    first = bits(weight.grad), bits(x.grad)
    for tensor_ in weight, x:
        tensor_.node.valid = False
    run_calls(program.forward)
    program.run_backward()
    assert (bits(weight.grad), bits(x.grad)) == first


def test_it_runs_backward_once_and_within_no_grad():
    x = Tensor(3.0, requires_grad=True)
    y = recomputed(lambda x: x * x, x)
    with no_grad():
        y.backward()
    assert float(x.grad) == 6.0
    with pytest.raises(ValueError, match="ran through this graph before"):
        y.backward()


# ------------------------------------------------------------------------------------- the model --

def by_hand(model, ids):
    """Return the loss without a recorded step."""
    targets = Tensor.empty((len(ids), T), "i")
    memoryview(targets).cast("B").cast("i")[:] = memoryview(model._ids(ids)).cast("B").cast("i")
    return ops.cross_entropy(model(ids), targets)


def composed(model, ids):
    wte = model.transformer.wte.weight
    return model.loss(ids, ids) * 0.5 + ops.sum(ops.mul(wte, wte))


WAYS = {
    "loss_and_grad": lambda model, ids: model.loss_and_grad(ids, ids, 0.7),
    "loss": lambda model, ids: model.loss(ids, ids).backward(),
    "by hand": lambda model, ids: by_hand(model, ids).backward(),
    "composed": lambda model, ids: composed(model, ids).backward(),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("way", WAYS)
def test_no_bit_of_a_training_run_changes(way, dropout, threads):
    def run(model):
        optimizer, numbers = pygpt.AdamW(model, lr=1e-2), []
        for number, ids in enumerate(batches(8)):
            numbers.append(WAYS[way](model, ids))
            numbers.append(gradients(model))
            if number % 2:  # every step accumulates two batches
                numbers.append(optimizer.clip_grad_norm(0.5))
                optimizer.step()
                optimizer.zero_grad()
        return numbers + [bits(p) for _, p in model.named_parameters()]

    kept, again = models(dropout)
    with shared_among(threads):
        assert run(kept) == run(again)


def test_two_losses_at_once_do_not_disturb_one_another():
    def run(model):
        a, b = (model.loss(ids, ids) for ids in batches(2))
        (a + b).backward()
        return gradients(model)

    kept, again = models(0.3)
    assert run(kept) == run(again)


@pytest.mark.parametrize("loss", [lambda model, ids: model.loss(ids, ids), by_hand])
def test_dropout_switched_off_after_the_forward_pass_stays_in_the_backward_one(loss):
    def run(model):
        for _ in range(2):
            first, = batches(1)
            out = loss(model.train(), first)
            model.eval()
            out.backward()
        return gradients(model)

    kept, again = models(0.3)
    assert run(kept) == run(again)


def test_the_switch_takes_effect_at_the_next_loss():
    kept, again = models()
    for ids, again.recompute in zip(batches(4), (True, False, True, False)):
        assert kept.loss_and_grad(ids, ids) == again.loss_and_grad(ids, ids)
        assert gradients(kept) == gradients(again)
    assert len({step.program.pool.nbytes for step in again._steps}) == 2


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_is_run_again_is_all_but_the_last_block_and_the_products_nobody_reads(dropout):
    def calls(model):
        made = []

        def call(kernel, args):
            made.append(kernel.__name__)
            kernel(*args)

        with calling(call):
            by_hand(model, batches(1)[0]).backward()
        return {name: made.count(name) for name in made}

    kept, again = models(dropout)
    expected, more = calls(kept), LAYERS - 1
    for name in "attention_forward", "layernorm_forward", "linear_forward", "dropout_forward":
        if name in expected:
            # of two layer norms the second (computed again as before, for the backward pass), of
            # four linear layers the last, of two dropouts the last: only the result needs them
            once = {"attention_forward": 1, "layernorm_forward": 1, "linear_forward": 3}
            expected[name] += more * once.get(name, 1)
    assert calls(again) == expected


def test_without_a_tape_nothing_is_run_again():
    _, model = models()
    with no_grad():
        model.loss(batches(1)[0], batches(1)[0])
        assert model(batches(1)[0]).node is None
    assert model.generate([1], max_new_tokens=3, temperature=0) == models()[0].generate(
        [1], max_new_tokens=3, temperature=0)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_batch_of_several_parts_of_the_mlp_keeps_its_bits(name):
    """The MLP takes 1024 rows at a time."""
    ids = [[i % 7 for i in range(row, row + 128)] for row in range(9)]
    found = []
    for recompute in False, True:
        config = pygpt.GPTConfig(vocab_size=7, n_positions=128, n_embd=8, n_layer=2, n_head=2)
        model = pygpt.GPT(config, seed=3, compute_dtype=name)
        model.recompute = recompute
        found.append((model.loss_and_grad(ids, ids), gradients(model)))
    assert found[0] == found[1]
