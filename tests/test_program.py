"""Tests how the memory of a recorded step is planned, and how little of it a block keeps.

It tests replay.Pool by itself, and GPT through cost.memory_needed, which plans the memory of a step
and computes nothing.
"""

import itertools
import random
from math import prod

import pytest

from pygpt.autograd import ops
from pygpt.config import GPTConfig
from pygpt.training.cost import memory_needed
from pygpt.autograd.replay import LINE, SLAB, Pool
from pygpt.autograd.launch import calling
from pygpt.autograd.arrays import deferring
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor


def place(loan):
    nbytes, memory, offset = loan._entry
    return id(memory), offset, nbytes


@pytest.mark.parametrize("unit", [64, SLAB // 4 + 64])
def test_what_came_back_is_lent_again_in_parts_and_joined(unit):
    pool = Pool()
    whole = pool.take(4 * unit)
    at = place(whole)[:2]
    del whole
    parts = [pool.take(unit), pool.take(3 * unit)]
    assert sorted(place(part)[:2] for part in parts) == [at, (at[0], at[1] + unit)]
    assert pool.nbytes == 4 * unit
    parts.clear()
    assert place(pool.take(4 * unit))[:2] == at
    assert pool.nbytes == 4 * unit


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_neighbours_are_joined_in_whatever_order_they_came_back(order):
    pool = Pool()
    loans = [pool.take(64) for _ in range(3)]
    at = place(loans[0])[:2]
    for i in order:
        loans[i] = None
    assert place(pool.take(3 * 64))[:2] == at


def test_the_smallest_range_that_holds_it_is_taken():
    pool = Pool()
    loans = [pool.take(n) for n in (640, 64, 256, 64, 320)]  # the small ones keep them apart
    at = place(loans[2])[:2]
    loans[0] = loans[2] = loans[4] = None
    assert place(pool.take(250))[:2] == at


def test_the_end_of_a_full_slab_is_lent_too():
    pool = Pool()
    first = pool.take(SLAB // 4)
    loans = [pool.take(n) for n in (SLAB // 4, SLAB // 4, SLAB // 8, SLAB // 4)]  # a new slab's
    memory, offset, _ = place(first)
    assert place(pool.take(SLAB // 8))[:2] == (memory, offset + 7 * SLAB // 8)
    assert len({place(loan)[0] for loan in loans}) == 2 and pool.nbytes == SLAB + SLAB // 4


@pytest.mark.parametrize("seed", range(5))
def test_no_two_loans_overlap_and_each_begins_at_a_cache_line(seed):
    rng, pool, loans = random.Random(seed), Pool(), []
    for _ in range(400):
        if loans and rng.random() < 0.45:
            loans.pop(rng.randrange(len(loans)))
        loans.append(pool.take(rng.choice([1, 64, 100, 4096, 70_000, SLAB // 4, 5 << 20])))
        spans = sorted(map(place, loans))
        for (memory, start, n), (other, following, _) in zip(spans, spans[1:]):
            assert memory != other or start + n <= following
    assert all(offset + n <= loan._entry[1].nbytes for loan in loans
               for _, offset, n in [place(loan)])
    assert all(place(loan)[1] % LINE == 0 for loan in loans)


B, T, C, NH, V = 2, 32, 64, 4, 96


def kept_per_layer(layers=1, recompute=False, **changes):
    """Return the bytes that a layer beyond the fifth adds to a training step and an evaluation."""
    needed = [memory_needed(GPTConfig(vocab_size=V, n_positions=T, n_embd=C, n_layer=n, n_head=NH,
                                      **changes), B, T, recompute)["activations"]
              for n in (5, 5 + layers)]
    return needed[1] - needed[0]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_block_keeps_ten_numbers_for_each_channel_of_a_token(dropout):
    """What comes in, q, k, v, the heads' output, the sum with it, and 4 of the hidden layer; and
    at most, where no gap has room for them, two for each layer norm and one for each head."""
    kept = kept_per_layer(embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout)
    assert 4 * B * T * 10 * C <= kept <= 4 * B * T * (10 * C + 2 * 2 + NH)


def test_an_mlp_in_parts_computes_the_same(monkeypatch):
    """600 rows in three parts, and in one, from the same numbers; with gradients from before. Only
    the gradients of the second layer are sums over parts, of 1200 terms."""
    def computed(rows):
        monkeypatch.setattr(ops.layers, "MLP_ROWS", rows)
        rng, launches = random.Random(0), []
        sizes = (600, 24), (24, 70), (70,), (70, 24), (24,), (600, 24)
        inputs = [Tensor([rng.gauss(0, 1) for _ in range(prod(s))], requires_grad=True)
                  for s in sizes]
        x, *rest = [ops.reshape(t, s) for t, s in zip(inputs, sizes)]
        for _ in range(2):
            with calling(lambda kernel, args: launches.append(kernel) or kernel(*args)), \
                    deferring():
                out = rest[-1] + ops.mlp(x, *rest[:-1])
            ops.sum(ops.mul(out, out)).backward()
            x, *rest = [ops.reshape(t, s) for t, s in zip(inputs, sizes)]
        return len(launches), [out.tolist()] + [t.grad.tolist() for t in inputs]

    (many, in_parts), (few, whole) = computed(256), computed(1024)
    assert (many, few) == (12, 4)
    for i, (one, other) in enumerate(zip(in_parts, whole)):
        if i in (4, 5):
            most = 1200 * 2.0 ** -24 * max(map(abs, other))
            assert all(abs(a - b) <= most for a, b in zip(one, other))
        else:
            assert one == other


@pytest.mark.parametrize("R, lengths", [(0, [0]), (1, [1]), (1024, [1024]), (1025, [768, 257]),
                                        (4096, [1024] * 4), (2100, [768, 768, 564])])
def test_parts_of_rows_are_multiples_of_256_but_the_last(R, lengths):
    parts = ops.layers._row_parts(R)
    assert [len(part) for part in parts] == lengths
    assert [i for part in parts for i in part] == list(range(R))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_block_that_is_recomputed_keeps_one(dropout):
    """What comes in. Of 16 blocks, as up to 4 fit in a gap that a hidden layer leaves."""
    kept = kept_per_layer(16, recompute=True, embd_pdrop=dropout, attn_pdrop=dropout,
                          resid_pdrop=dropout)
    assert 4 * B * T * C * (16 - 4) <= kept <= 4 * B * T * C * (16 + 4)


def test_an_mlp_without_a_tape_computes_the_same():
    def tensor(*shape, spread):
        t = Tensor.empty(shape)
        t.flat()[:] = Tensor([rng.gauss(0, spread) for _ in range(t.size)]).flat()
        return t

    rng = random.Random(0)
    x, residual = tensor(7, 800, spread=1.0), tensor(7, 800, spread=1.0)
    parts = [tensor(800, 130, spread=0.04), tensor(130, spread=1.0),
             tensor(130, 800, spread=0.1), tensor(800, spread=1.0)]
    with no_grad(), deferring():
        without = residual + ops.mlp(x, *parts)
    with deferring():
        assert without.tolist() == (residual + ops.mlp(x, *parts)).tolist()


def test_calling_nests():
    seen, x = [], Tensor([1.0, 2.0])

    def calls(name):
        return lambda kernel, args: seen.append(name) or kernel(*args)

    with calling(calls("outer")):
        with calling(calls("inner")):
            ops.sum(x)
        ops.sum(x)
    ops.sum(x)
    assert seen == ["inner", "outer"]
