"""Checks what study/trace.py keeps of a forward pass against the model and against plain loops."""

import math
import random

import pytest

import pygpt
from pygpt.autograd import ops
from pygpt.backend.kernels import Memory
from pygpt.config import SampleConfig
from pygpt.sampling import Sampler
from pygpt.study.ablation import heads_off
from pygpt.study.distribution import drawn_probabilities
from pygpt.study.trace import attention_patterns, trace

EPS = 2.0 ** -23
CONFIG = pygpt.GPTConfig(vocab_size=50, n_positions=32, n_embd=24, n_layer=3, n_head=3)


@pytest.fixture(scope="module")
def model():
    """A model whose weights are large enough for sharp attention."""
    model = pygpt.GPT(CONFIG, seed=7).eval()
    numbers = random.Random(1)
    for _, p in model.named_parameters():
        values = p.flat()
        for i in range(p.size):
            values[i] = values[i] * 8 + numbers.gauss(0.0, 0.05)
    return model


def ids_of(count, seed=3):
    numbers = random.Random(seed)
    return [numbers.randrange(CONFIG.vocab_size) for _ in range(count)]


def softmaxed(numbers):
    top = max(numbers)
    powers = [math.exp(x - top) for x in numbers]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("T", [1, 2, 7, 8, 9, 32])
def test_the_last_choices_are_the_models_own_predictions(model, T):
    ids = ids_of(T)
    found = trace(model, ids, n_best=50)
    for logits, choice, follower in zip(model([ids]).tolist()[0], found.lens[-1], [*ids[1:], -1]):
        p = softmaxed(logits)
        assert choice.token == follower
        if follower >= 0:
            assert choice.logprob == pytest.approx(math.log(p[follower]), abs=1e-5)
        assert sorted(id for id, _ in choice.best) == list(range(50))
        for id, logprob in choice.best:
            assert logprob == pytest.approx(math.log(p[id]), abs=1e-5)


@pytest.mark.parametrize(("T", "n_head", "HS"), [(1, 1, 1), (5, 2, 3), (8, 3, 8), (17, 2, 8),
                                                  (20, 1, 32)])
def test_the_patterns_are_the_softmax_of_queries_and_keys(T, n_head, HS):
    C, numbers = n_head * HS, random.Random(T)
    qkv = pygpt.Tensor([[[numbers.gauss(0.0, 1.0) for _ in range(3 * C)] for _ in range(T)]])
    patterns = attention_patterns(qkv, n_head)
    rows = qkv.tolist()[0]
    for head, pattern in enumerate(patterns):
        at = head * HS
        for t in range(T):
            scores = [math.fsum(rows[t][at + i] * rows[j][C + at + i] for i in range(HS))
                      / math.sqrt(HS) for j in range(t + 1)]
            # a score is off by at most HS + 2 roundings of its terms, and p by that times p
            size = max(math.fsum(abs(rows[t][at + i] * rows[j][C + at + i]) for i in range(HS))
                       for j in range(t + 1)) / math.sqrt(HS)
            bound = 4 * EPS * ((HS + 2) * size + max(map(abs, scores)) + T + 4)
            got = pattern[t * T:(t + 1) * T]
            assert got[:t + 1].tolist() == pytest.approx(softmaxed(scores), abs=bound)
            assert not any(got[t + 1:]), "a later token is seen"


def test_the_norms_are_those_of_the_stream_and_of_what_is_added(model):
    """Without its MLPs and attentions the stream would keep the norm of the embeddings."""
    ids = ids_of(9)
    found = trace(model, ids)
    tables = model.transformer.wte.weight.tolist(), model.transformer.wpe.weight.tolist()
    for t, id in enumerate(ids):
        embedded = [a + b for a, b in zip(tables[0][id], tables[1][t])]
        assert found.stream_norms[0][t] == pytest.approx(math.hypot(*embedded), rel=1e-5)
    for depth, block in enumerate(found.blocks):
        for t in range(9):
            before, after = (found.stream_norms[depth + i][t] for i in (0, 1))
            assert abs(after - before) <= (block.attn_norms[t] + block.mlp_norms[t]) * 1.0001


def test_the_stream_is_what_each_block_returns(model):
    ids = ids_of(9)
    found = trace(model, ids)
    x = ops.embedding(pygpt.Tensor([ids], dtype="int32"), model.transformer.wte.weight,
                      model.transformer.wpe.weight)
    for block, norms in zip(model.transformer.h, found.stream_norms[1:]):
        x = block(x)
        assert norms == pytest.approx([math.hypot(*row) for row in x.tolist()[0]], rel=1e-6)


def test_a_trace_changes_no_mode_and_leaves_no_gradient(model):
    model.train()
    model.transformer.ln_f.eval()
    modes = [module.training for module in model.modules()]
    trace(model, [1, 2])
    assert [module.training for module in model.modules()] == modes
    model.eval()


@pytest.mark.parametrize(("ids", "words"), [([], "0"), ([50], "50"), ([-1], "-1"),
                                            ([0] * 33, "33")])
def test_a_text_that_the_model_cannot_read_is_refused(model, ids, words):
    with pytest.raises(ValueError, match=words):
        trace(model, ids)


def test_a_head_that_is_off_adds_nothing(model):
    """With every head of a block off, what its attention adds is the bias of c_proj alone."""
    ids = ids_of(6)
    before = model([ids]).tolist()
    with heads_off(model, [(1, 0), (1, 1), (1, 2)]):
        found = trace(model, ids)
        bias = math.hypot(*model.transformer.h[1].attn.c_proj.bias.tolist())
        assert found.blocks[1].attn_norms == pytest.approx([bias] * 6, rel=1e-6)
        assert found.blocks[0].attn_norms != pytest.approx([bias] * 6, rel=1e-2)
        assert model([ids]).tolist() != before
    assert model([ids]).tolist() == before


def test_one_head_off_leaves_the_others_as_they_are(model):
    """The weight's rows of the other heads are unchanged: the difference is the head's own part."""
    ids = ids_of(6)
    block = model.transformer.h[0]
    HS = CONFIG.n_embd // CONFIG.n_head
    rows = block.attn.c_proj.weight.tolist()
    with heads_off(model, [(0, 1)]):
        left = block.attn.c_proj.weight.tolist()
    assert left[:HS] == rows[:HS] and left[2 * HS:] == rows[2 * HS:]
    assert all(x == 0 for row in left[HS:2 * HS] for x in row)
    assert block.attn.c_proj.weight.tolist() == rows
    assert trace(model, ids).ids == ids


@pytest.mark.parametrize("pair", [(3, 0), (0, 3), (-1, 0), (0, -1)])
def test_a_head_that_does_not_exist_is_refused(model, pair):
    weights = [p.memory for _, p in model.named_parameters()]
    with pytest.raises(ValueError, match="there is no head"), heads_off(model, [(0, 0), pair]):
        pass
    assert [p.memory for _, p in model.named_parameters()] == weights


@pytest.mark.parametrize("settings", [
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0}, {"temperature": 0.5, "top_k": 0, "top_p": 1.0},
    {"temperature": 2.0, "top_k": 3, "top_p": 1.0}, {"temperature": 1.0, "top_k": 0, "top_p": 0.6},
    {"temperature": 1.5, "top_k": 6, "top_p": 0.9, "min_p": 0.3}, {"temperature": 0.0}])
def test_the_probabilities_are_those_by_which_the_sampler_draws(settings):
    """The sampler, given each of N evenly spaced random numbers, draws a token as often as its
    probability says, up to one draw at each of the two borders of its interval."""
    numbers, N = random.Random(5), 2000
    logits = [numbers.gauss(0.0, 2.0) for _ in range(12)]
    tensor = Memory(4 * len(logits))
    tensor.view.cast("f")[:] = pygpt.Tensor(logits).read()
    sampler = Sampler(SampleConfig(**settings))
    counts = [0] * len(logits)
    for i in range(N):
        sampler._random.random = lambda i=i: (i + 0.5) / N
        counts[sampler.choose(tensor.view.cast("f"), [])] += 1
    found = drawn_probabilities(list(tensor.view.cast("f")), SampleConfig(**settings))
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
    probabilities = dict(found)
    for token, count in enumerate(counts):
        assert abs(count - N * probabilities.get(token, 0.0)) <= 2 + N * 1e-5
