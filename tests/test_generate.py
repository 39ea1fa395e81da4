"""generate: what may be drawn, how often it is, and what is done when the context is full."""

import math
import random
from array import array
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygpt.config import ConfigError, GPTConfig, SampleConfig
from pygpt.generate import candidates, draw, generate, stream

LOGITS = [0.0, 2.0, 1.0, 2.0, -1.0]


class Counting:
    """A stand-in for GPT: the next token is the sum of those the model sees, modulo vocab_size."""

    def __init__(self, n_positions=4, vocab_size=7):
        self.config = GPTConfig(vocab_size=vocab_size, n_positions=n_positions)
        self.decoded = 0

    class Cache:
        past, total = 0, 0

    def new_cache(self):
        return self.Cache()

    def decode(self, ids, cache):
        cache.past, cache.total = cache.past + len(ids), cache.total + sum(ids)
        if cache.past > self.config.n_positions:
            raise ValueError("the context is too long")
        self.decoded += len(ids)
        V = self.config.vocab_size
        return array("f", [20.0 * (token == cache.total % V) for token in range(V)])


def expected(prompt, count, n_positions=4, vocab_size=7):
    ids = list(prompt)
    for _ in range(count):
        ids.append(sum(ids[-n_positions:]) % vocab_size)
    return ids[len(prompt):]


# ---------------------------------------------------------------------------- the candidates ---

def kept(**settings):
    tokens, weights = candidates(list(LOGITS), SampleConfig(**dict(top_k=0, top_p=1) | settings))
    assert weights[0] == 1 and weights == sorted(weights, reverse=True)
    return tokens


def test_likeliest_first_and_the_lower_id_of_equals():
    assert kept() == [1, 3, 2, 0, 4]


def test_top_k():
    assert [kept(top_k=k) for k in (1, 2, 3, 5, 99)] == [
        [1], [1, 3], [1, 3, 2], [1, 3, 2, 0, 4], [1, 3, 2, 0, 4]]


def test_top_p():
    # at temperature 1 the probabilities are 0.391 0.391 0.144 0.053 0.020
    assert [kept(top_p=p, temperature=1) for p in (0.1, 0.39, 0.4, 0.78, 0.79, 0.93, 0.99)] == [
        [1], [1], [1, 3], [1, 3], [1, 3, 2], [1, 3, 2, 0], [1, 3, 2, 0, 4]]


def test_min_p():
    # weights at temperature 1: 1, 1, 0.368, 0.135, 0.050
    assert [kept(min_p=p, temperature=1) for p in (0.0, 0.1, 0.2, 0.5, 1.0)] == [
        [1, 3, 2, 0, 4], [1, 3, 2, 0], [1, 3, 2], [1, 3], [1, 3]]


def test_the_weights_are_the_softmax_at_a_temperature():
    _, weights = candidates(list(LOGITS), SampleConfig(temperature=0.5, top_k=0, top_p=1))
    assert weights == pytest.approx([1, 1, math.exp(-2), math.exp(-4), math.exp(-6)])


def test_a_temperature_near_0_is_greedy():
    assert draw(list(LOGITS), SampleConfig(temperature=5e-324), random.Random(0)) in (1, 3)


def test_draws_are_as_frequent_as_their_weights():
    rng, settings = random.Random(1), SampleConfig(temperature=1, top_k=0, top_p=1)
    count = Counter(draw(list(LOGITS), settings, rng) for _ in range(20_000))
    total = sum(math.exp(logit) for logit in LOGITS)
    for token, logit in enumerate(LOGITS):
        p = math.exp(logit) / total
        assert abs(count[token] / 20_000 - p) < 5 * math.sqrt(p * (1 - p) / 20_000)


@given(logits=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30),
       temperature=st.floats(0, 5), top_k=st.integers(0, 40), top_p=st.floats(0.001, 1),
       min_p=st.floats(0, 1), penalty=st.floats(0.1, 5), seed=st.integers(0, 9))
def test_any_settings_draw_a_token(logits, temperature, top_k, top_p, min_p, penalty, seed):
    settings = SampleConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                            repetition_penalty=penalty)
    assert 0 <= draw(list(logits), settings, random.Random(seed), [0]) < len(logits)


def test_repetition_is_penalised_on_both_sides_of_0():
    logits = list(LOGITS)
    draw(logits, SampleConfig(repetition_penalty=2.0), random.Random(0), [1, 4, 4])
    assert logits == [0.0, 1.0, 1.0, 2.0, -2.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite(value):
    with pytest.raises(ValueError, match="not finite"):
        draw([0.0, value, 1.0], SampleConfig(), random.Random(0))


# ------------------------------------------------------------------------------- the sequence ---

@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 20])
@pytest.mark.parametrize("prompt", [[1], [1, 2], [3, 1, 2, 5]])
def test_the_model_sees_the_last_n_positions(prompt, count):
    assert generate(Counting(), prompt, count, temperature=0) == expected(prompt, count)


def test_nothing_is_computed_twice_while_the_context_lasts():
    model = Counting(n_positions=50)
    generate(model, [1, 2, 3], 10, temperature=0)
    assert model.decoded == 3 + 9  # the last new token is never shown to the model


def test_a_stream_gives_each_token_as_it_is_drawn():
    model = Counting()
    tokens = stream(model, [1, 2], 6, temperature=0)
    assert model.decoded == 0
    assert next(tokens) == 3 and model.decoded == 2
    assert list(tokens) == expected([1, 2, 3], 5)


def test_a_stop_token_ends_the_sequence():
    whole = expected([1, 2], 8)
    assert whole[:4] == [3, 6, 5, 2]
    assert generate(Counting(), [1, 2], 8, temperature=0, stop=5) == [3, 6]
    assert generate(Counting(), [1, 2], 8, temperature=0, stop=[2, 6]) == [3]
    assert generate(Counting(), [1, 2], 8, temperature=0, stop=[]) == whole


def test_only_ids_below_vocab_size_are_drawn():
    def sample(**settings):
        return generate(Counting(), [6, 5], 40, temperature=15, top_k=0, top_p=1, seed=1,
                        **settings)

    for penalty in (1.0, 1.5):  # which passes over the prompt's ids that cannot be drawn
        assert set(sample(vocab_size=3, repetition_penalty=penalty)) == {0, 1, 2}
    assert max(sample()) == 6 and sample() == sample(vocab_size=7) == sample(vocab_size=99)
    assert generate(Counting(), [1], 4, vocab_size=1) == [0] * 4
    with pytest.raises(ValueError, match="vocab_size=0 leaves no id to draw"):
        stream(Counting(), [1], vocab_size=0)


def test_a_seed_repeats_a_sample():
    def sample(seed):
        return generate(Counting(), [1], 40, temperature=15, top_k=0, top_p=1, seed=seed)

    assert sample(3) == sample(3) != sample(4)
    assert sample(None) != sample(None)


@pytest.mark.parametrize("ids, message", [
    ([7], r"ids\[0\]=7 is not in 0..6"),
    ([0, -1], r"ids\[1\]=-1 is not in 0..6"),
    ([1.5], r"ids\[0\]=1.5 is not an integer"),
    ([[1, 2]], r"ids\[0\]=\[1, 2\] is not an integer"),
    ([], r"the prompt has 0 tokens; this model takes 1..n_positions=4"),
    ([1] * 5, r"the prompt has 5 tokens; this model takes 1..n_positions=4"),
])
def test_a_bad_prompt_is_refused_at_once(ids, message):
    with pytest.raises(ValueError, match=message):
        stream(Counting(), ids)


@pytest.mark.parametrize("settings, message", [
    (dict(temperature=-0.5), "temperature=-0.5 must be at least 0"),
    (dict(top_k=-1), "top_k=-1 must be at least 0"),
    (dict(max_new_tokens=-1), "max_new_tokens=-1 must be at least 0"),
    (dict(min_p=2), "min_p=2 must be in"),
])
def test_a_bad_setting_is_refused_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        stream(Counting(), [1], **settings)
