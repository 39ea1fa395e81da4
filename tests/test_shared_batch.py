"""Tests what a batch that processes share needs of the core: dropout by the row's place in the
whole batch, and word of each gradient that the backward pass will not touch again."""

import pytest

import pygpt
from pygpt.autograd import ops
from pygpt.autograd.tensor import Tensor

CONFIG = pygpt.GPTConfig(vocab_size=11, n_positions=6, n_embd=12, n_layer=2, n_head=3,
                         embd_pdrop=0.3, attn_pdrop=0.3, resid_pdrop=0.3)
IDS = [[(3 * b + 5 * t) % 11 for t in range(6)] for b in range(5)]
TARGETS = [[(b + 7 * t) % 11 for t in range(6)] for b in range(5)]


def gradients(model):
    return [x for _, p in model.named_parameters() for x in p.grad.flat()]


@pytest.mark.parametrize("shares", [[(0, 5)], [(0, 2), (2, 5)], [(0, 1), (1, 4), (4, 5)]])
def test_shares_of_a_batch_add_up_to_its_loss_and_gradient_with_the_same_dropout(shares):
    whole, model = pygpt.GPT(CONFIG, seed=1), pygpt.GPT(CONFIG, seed=1)
    for _ in range(2):  # the second time, recorded steps are replayed
        expected, total, passes = whole.loss_and_grad(IDS, TARGETS), 0.0, model.forward_passes
        for first, end in shares:
            model.first_row, model.forward_passes = first, passes
            share = (end - first) / len(IDS)
            total += share * model.loss_and_grad(IDS[first:end], TARGETS[first:end], scale=share)
        assert total == pytest.approx(expected, rel=1e-6)
        # a sum of 30 terms, each rounded to float32, in another order
        assert gradients(model) == pytest.approx(gradients(whole), rel=1e-5, abs=1e-6)


def test_dropout_depends_on_the_tokens_before():
    ones = Tensor([[1.0] * 40] * 6)
    whole = ops.dropout(ones, 0.5, ops.Seed(3)).tolist()
    last = ops.dropout(Tensor([[1.0] * 40] * 2), 0.5, ops.Seed(3, 4)).tolist()
    assert last == whole[4:] != whole[:2]


def test_each_gradient_is_final_when_it_is_said_to_be():
    model = pygpt.GPT(CONFIG, seed=1)
    names = {p.leaf: name for name, p in model.named_parameters()}
    model.loss_and_grad(IDS, TARGETS)  # recorded
    for _ in range(2):                 # replayed, without and with gradients to add to
        told, seen = [], {}

        def when_final(leaves):
            told.append([names[leaf] for leaf in leaves])
            seen.update({leaf: list(leaf.gradient().flat()) for leaf in leaves})

        model.loss_and_grad(IDS, TARGETS, when_final=when_final)
        assert sorted(sum(told, [])) == sorted(names.values())
        assert all(values == list(leaf.gradient().flat()) for leaf, values in seen.items())
        order = [name for group in told for name in group]
        assert order.index("transformer.h.1.attn.c_attn.weight") < order.index(
            "transformer.h.0.mlp.c_proj.weight")  # the last block's come first
        assert "transformer.wte.weight" in told[-1] + told[-2]  # read at both ends of the model


def test_a_pass_that_is_recorded_says_nothing():
    told = []
    pygpt.GPT(CONFIG, seed=1).loss_and_grad(IDS, TARGETS, when_final=told.append)
    assert told == []
