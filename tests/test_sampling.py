"""Tests the choice of a token: each rule against its definition, the kernels against their loops,
and the frequencies of draws against the probabilities.
"""

import copy
import inspect
import math
import pickle
import re
from array import array
from collections import Counter
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pygpt.backend import kernels, reference
from pygpt.backend.reference import sample
from pygpt.check.header import HEADER
from pygpt.check.sets import use_isa
from pygpt.config import ConfigError, SampleConfig
from pygpt.sampling import Choice, Sampler, choice_of

INF = math.inf
LOGITS = array("f", [0.0, 2.0, 1.0, 2.0, -1.0])
ALL = dict(temperature=1.0, top_k=0, top_p=1.0)  # no rule but the softmax
UNIT = 2.0 ** -24

# Logits of every kind: many that are equal, some banned, a few or all far away.
logit = st.floats(-50, 50, width=32) | st.sampled_from([-1.0, 0.0, 1.0])
far = st.floats(-(2.0 ** 127), 2.0 ** 127, width=32) | st.sampled_from(
    [1e-45, -1e-45, 3e-45, 1e-38])
some_logits = st.lists(logit, min_size=1, max_size=60) | st.lists(
    logit | far | st.just(-INF), min_size=1, max_size=60)
some_rules = st.tuples(  # temperature, top_k, top_p, min_p
    st.sampled_from([0.0, 5e-324, 0.3, 1.0, 1e3, 1.7e308]) | st.floats(0.05, 5),
    st.integers(0, 62), st.just(1.0) | st.floats(0.001, 1), st.just(0.0) | st.floats(0, 1))


def call(lib, name, *arguments):
    """Call a kernel of the C library or of the reference with arrays; return its status."""
    if lib is reference:
        return getattr(reference, name)(*arguments)
    return getattr(lib, name)(*[kernels.ffi.from_buffer(f"{KINDS[x.typecode]}[]", x)
                                if isinstance(x, array) else x for x in arguments])


KINDS = {"f": "float", "d": "double", "i": "int32_t"}


def chosen(lib, logits, temperature, top_k, top_p, min_p, u):
    """Return (status, token) of a draw."""
    token = array("i", [-1])
    status = call(lib, "sample_token", token, array("f", logits), len(logits), temperature, top_k,
                  top_p, min_p, u)
    return status, token[0]


def reachable(logits, **settings):
    """Return the tokens that the Sampler draws for some random number, by trying them all."""
    settings = SampleConfig(**ALL | settings)
    rules = (settings.temperature, settings.top_k, settings.top_p, settings.min_p)
    lib = kernels.lib
    return {chosen(lib, logits, *rules, u / 4000)[1] for u in range(4000)}


def probabilities(logits, temperature):
    """Return the softmax, by its definition in double precision."""
    top = max(logits)
    powers = [math.exp((x - top) / temperature) for x in logits]
    return [p / math.fsum(powers) for p in powers]


# --------------------------------------------------------------------------- each rule, by hand ---

def test_top_k():
    assert [reachable(LOGITS, top_k=k) for k in (1, 2, 3, 5, 99)] == [
        {1}, {1, 3}, {1, 2, 3}, {0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}]


def test_top_p():
    # the probabilities are 0.391 0.391 0.144 0.053 0.020
    assert [reachable(LOGITS, top_p=p) for p in (0.1, 0.39, 0.4, 0.78, 0.79, 0.93, 0.99)] == [
        {1}, {1}, {1, 3}, {1, 3}, {1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3, 4}]


def test_top_p_is_a_share_of_what_top_k_leaves():
    # of the two likeliest, each has half
    assert reachable(LOGITS, top_k=2, top_p=0.5) == {1}
    assert reachable(LOGITS, top_k=2, top_p=0.51) == {1, 3}


def test_min_p():
    # the weights are 1, 1, 0.368, 0.135, 0.050
    assert [reachable(LOGITS, min_p=p) for p in (0.0, 0.1, 0.2, 0.5, 1.0)] == [
        {0, 1, 2, 3, 4}, {0, 1, 2, 3}, {1, 2, 3}, {1, 3}, {1, 3}]
    assert reachable(LOGITS, top_p=0.79, min_p=1.0) == {1, 3}


def test_temperature_0_takes_the_likeliest_and_of_equals_the_lower_id():
    assert reachable(LOGITS, temperature=0) == {1}
    assert reachable(LOGITS, temperature=5e-324) == {1, 3}


def choose(logits=LOGITS, prompt=(0,), new=(), **settings):
    """Return what a Sampler chooses after a prompt and new tokens."""
    sampler = Sampler(SampleConfig(**dict(temperature=0) | settings))
    ids = list(prompt)
    sampler.choose(logits, ids)
    for token in new:
        ids.append(token)
    return sampler.choose(logits, ids)


def adjusted(logits, prompt=(0,), new=(), **settings):
    """Return the logits that a Sampler draws from."""
    sampler = Sampler(SampleConfig(**settings))
    sampler.choose(logits, list(prompt))
    if new:
        sampler.choose(logits, [*prompt, *new])
    return sampler._buffers.adjusted.tolist()


def test_repetition_is_penalised_on_both_sides_of_0():
    assert adjusted(LOGITS, [1, 4, 4], [0, 2], repetition_penalty=2.0) == [0, 1, 0.5, 2, -2]


def test_presence_and_frequency_count_the_new_text_alone():
    assert adjusted(LOGITS, [1, 1], [2, 2, 4], presence_penalty=0.5) == [0, 2, 0.5, 2, -1.5]
    assert adjusted(LOGITS, [1, 1], [2, 2, 4], frequency_penalty=0.5) == [0, 2, 0, 2, -1.5]
    assert adjusted(LOGITS, [1], [2, 2], frequency_penalty=-0.5, presence_penalty=-1) == [
        0, 2, 3, 2, -1]


def test_the_order_of_bias_and_penalties():
    # 2 + 1 = 3, halved, minus a quarter for one occurrence and a half for being there
    assert adjusted(LOGITS, [0], [1], logit_bias={1: 1}, repetition_penalty=2,
                    frequency_penalty=0.25, presence_penalty=0.5)[1] == 0.75


def test_a_bias_of_minus_infinity_bans_a_token():
    assert choose(logit_bias={1: -INF}) == 3
    assert choose(logit_bias={1: -INF, 3: -INF}, repetition_penalty=0.5, prompt=[1, 3],
                  new=[1]) == 2
    sampler = Sampler(SampleConfig(**ALL, seed=0, logit_bias={0: -INF, 4: -INF, 2: -INF}))
    assert {sampler.choose(LOGITS, [0]) for _ in range(200)} == {1, 3}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_all_tokens_banned(temperature):
    sampler = Sampler(SampleConfig(temperature=temperature,
                                   logit_bias=dict.fromkeys(range(5), -INF)))
    with pytest.raises(ValueError, match="^logit_bias bans all tokens that could be drawn$"):
        sampler.choose(LOGITS, [0])


@pytest.mark.parametrize("place", [0, 3, 4, 10])
@pytest.mark.parametrize("value", [math.nan, INF, -INF])
def test_logits_that_are_not_finite(value, place):
    logits = array("f", [1.0] * 11)
    logits[place] = value
    for use in (lambda: Sampler(SampleConfig()).choose(logits, [0]),
                lambda: choice_of(0, logits, 1)):
        with pytest.raises(ValueError, match="^the model's logits are not finite$"):
            use()
    if value != -INF:
        for lib in (kernels.lib, reference):
            assert chosen(lib, logits, 1.0, 0, 1.0, 0.0, 0.5)[0] == reference.PYGPT_ENOTFINITE


def test_numbers_too_large_for_float32_stay_finite():
    logits = array("f", [3e38, -3e38])
    assert adjusted(logits, [0, 1], repetition_penalty=1e-300) == [
        sample._LARGEST, 0.0]
    assert adjusted(logits, [0], logit_bias={0: 1e300, 1: -1e300}) == [
        sample._LARGEST, -sample._LARGEST]


# ------------------------------------------------------------------ the kernels and their loops ---

def test_kernels_and_loops_have_the_same_arguments():
    text = HEADER.read_text(encoding="utf-8")
    declared = dict(re.findall(r"^int (sample_\w+)\(([^)]*)\);", text, re.MULTILINE))
    assert len(declared) == 3
    for name, arguments in declared.items():
        names = [re.search(r"\w+$", part)[0] for part in arguments.split(",")]
        assert list(inspect.signature(getattr(reference, name)).parameters) == names
    for name in ("PYGPT_ENOTFINITE", "PYGPT_ENOTOKEN"):
        assert int(re.search(rf"define {name} (\d+)", text)[1]) == getattr(reference, name)


@given(logits=some_logits, rules=some_rules, u=st.floats(0, 1, exclude_max=True))
def test_a_draw_is_that_of_the_loops(logits, rules, u):
    got = chosen(kernels.lib, logits, *rules, u)
    assert got == chosen(reference, logits, *rules, u)
    assert (got[0] == 0) == (max(logits) > -INF)


@pytest.mark.parametrize("kind", ["normal", "equal", "few", "steps", "tail", "banned", "tiny"])
@pytest.mark.parametrize("V", [23, 24, 25, 513, 1100])
def test_a_draw_is_that_of_the_loops_when_there_are_many_tokens(kind, V):
    """Cut prefixes in bins of all sizes, where bins hold many tokens and where they hold few."""
    rng = Random(f"{kind} {V}")
    make = {"normal": lambda i: rng.gauss(0, 2), "equal": lambda i: 0.7,
            "few": lambda i: rng.randrange(3), "steps": lambda i: -2.0 ** (i % 120),
            "tail": lambda i: rng.gauss(0, 1e-3) - 30 * (i > 4),
            "banned": lambda i: rng.choice([-INF, rng.gauss(0, 1)]),
            "tiny": lambda i: rng.randrange(9) * 2.0 ** -149}[kind]
    logits = array("f", map(make, range(V)))
    for rules in ((1.0, 0, 1.0, 0.0), (0.8, 50, 0.95, 0.0), (1.0, 0, 0.5, 0.0), (0.5, 0, 0.9, 0.1),
                  (1.3, V // 2, 0.99, 0.0), (1e4, V - 1, 0.7, 0.0), (1.0, V, 0.02, 0.0),
                  (2.0, 300, 1.0, 0.3)):
        for u in (0.0, rng.random(), 1 - 2.0 ** -53):
            assert chosen(kernels.lib, logits, *rules, u) == chosen(reference, logits, *rules, u)


@given(logits=some_logits, temperature=st.sampled_from([0.05, 0.3, 1.0, 4.0, 1e4]))
@example(logits=[0.0, -25.6, -25.7, -63.9, -64.0, -64.1, -87.0, -88.0, -INF], temperature=1.0)
def test_weights_do_not_depend_on_the_width_of_vectors(logits, temperature):
    """By every set, of any number of logits: where min_p cuts shows each weight exactly."""
    if not any(x > -INF for x in logits):
        return
    weights = sample._weights(logits, len(logits), temperature)
    for least in sorted({w for w in weights if w > 0}):
        kept = [v for v, w in enumerate(weights) if w >= least]
        for isa in kernels.isa_names():
            with use_isa(isa):
                for min_p, expected in (least, kept), (math.nextafter(least, INF), None):
                    if expected is None:
                        expected = [v for v, w in enumerate(weights) if w > least]
                    if expected:
                        first, last = (chosen(kernels.lib, logits, temperature, 0, 1.0, min_p, u)
                                       for u in (0.0, 1 - 2.0 ** -53))
                        assert (first, last) == ((0, expected[0]), (0, expected[-1]))


def test_the_unit_of_weights_grows_with_the_vocabulary():
    """Beyond 2^16 tokens, weights are rounded to larger units; the sum of them shows which."""
    V, rng, found = (1 << 16) + 1, Random(5), []
    logits = array("f", [rng.gauss(0, 1) for _ in range(V)])
    for lib in (kernels.lib, reference):
        lse = array("d", [0.0])
        assert call(lib, "sample_best", array("i", [0]), lse, logits, V, 0) == 0
        found += lse
    assert found[0] == found[1]


def test_min_p_between_two_floats_is_not_rounded():
    """min_p is a double; the weight just below it does not stay, though both are one float."""
    logits = [0.0, -1.0]
    weight = sample._weights(logits, 2, 1.0)[1]
    for lib in (kernels.lib, reference):
        for min_p, token in ((weight, 1), (math.nextafter(weight, 1.0), 0),
                             (math.nextafter(weight, 0.0), 1)):
            assert chosen(lib, logits, 1.0, 0, 1.0, min_p, 1 - 2.0 ** -53) == (0, token)


@given(logits=st.lists(logit, min_size=1, max_size=20), data=st.data())
def test_adjusted_logits_are_those_of_the_loops(logits, data):
    V, numbers = len(logits), st.floats(-1e3, 1e3)
    ids = st.lists(st.integers(0, V - 1), unique=True, max_size=V)
    biased, seen = array("i", data.draw(ids)), array("i", data.draw(ids))
    biases = array("d", [data.draw(numbers | st.sampled_from([-INF, 1e300])) for _ in biased])
    counts = array("i", [data.draw(st.integers(0, 9)) for _ in seen])
    penalties = data.draw(st.tuples(st.floats(1e-3, 1e3), numbers, numbers))
    results = []
    for lib in (kernels.lib, reference):
        out = array("f", [math.nan]) * V
        assert call(lib, "sample_adjust", out, array("f", logits), biased, biases, seen, counts, V,
                    len(biased), len(seen), *penalties) == 0
        results.append(out)
    assert results[0] == results[1]
    for lib in (kernels.lib, reference):
        in_place = array("f", logits)
        call(lib, "sample_adjust", in_place, in_place, biased, biases, seen, counts, V,
             len(biased), len(seen), *penalties)
        assert in_place == results[0]


@pytest.mark.parametrize("bad", [-1, 5, 2 ** 31 - 1])
def test_an_id_out_of_range_is_refused(bad):
    none, one, zero = array("i"), array("i", [bad]), array("d", [0.0])
    for lib in (kernels.lib, reference):
        out = array("f", [0.0] * 5)
        for biased, biases, seen, counts in ((one, zero, none, none),
                                             (none, array("d"), one, array("i", [1]))):
            assert call(lib, "sample_adjust", out, LOGITS, biased, biases, seen, counts, 5,
                        len(biased), len(seen), 1.0, 0.0, 0.0) == reference.ERANGE


@given(x=st.floats(-87, 0))
@example(x=0.0)
def test_the_loops_exp_is_as_near_as_vexp_promises(x):
    x = sample._single(x)
    assert abs(sample._exp(x) - math.exp(x)) <= 4 * UNIT * math.exp(x)  # 2 ulp


def test_the_likeliest_has_weight_1_for_any_size():
    """Only so does min_p=1 keep it. The unit of the others grows with V."""
    for V in (1, 2, 5, 2 ** 16, 2 ** 16 + 1, 2 ** 20, 2 ** 31 - 1):
        rounding = 1.5 * 2.0 ** (max((V - 1).bit_length(), 16) - 29)
        assert sample._single(sample._single(1 + rounding) - rounding) == 1


# ------------------------------------------------------------------------ against definitions ---

def kept_by_definition(p, top_k, top_p, min_p, slack):
    """Return the tokens that the rules keep of probabilities p, and of comparisons that are nearly
    equal, by `slack`, the ones that they keep if these turn out one way."""
    order = sorted(range(len(p)), key=lambda v: -p[v])[:top_k or None]
    total, reached, kept = math.fsum(p[v] for v in order), 0.0, []
    for v in order:
        kept.append(v)
        reached += p[v]
        if top_p < 1 and reached >= top_p * total * (1 + slack):
            break
    return {v for v in kept if p[v] >= min_p * max(p) * (1 - slack)}


# No two are so near to one another that their probabilities are equal.
APART = st.lists(st.integers(-2000, 2000), min_size=1, max_size=40, unique=True)


@given(hundredths=APART,
       temperature=st.floats(0.3, 3), top_k=st.integers(0, 12), top_p=st.floats(0.01, 1),
       min_p=st.floats(0, 1), seed=st.integers(0, 9))
def test_nothing_outside_its_set_is_ever_drawn(hundredths, temperature, top_k, top_p, min_p, seed):
    """Weights have a relative error below 1e-5: of (x - top) / temperature, at most 134, by two
    roundings, of exp, and of the unit. Only so near to its border may the set differ."""
    logits = [n / 100 for n in hundredths]
    p = probabilities(logits, temperature)
    settings = SampleConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                            seed=seed)
    sampler, buffer = Sampler(settings), array("f", logits)
    allowed = kept_by_definition(p, top_k, top_p, min_p, 1e-4)
    assert {sampler.choose(buffer, [0]) for _ in range(100)} <= allowed


def chi_square_limit(degrees):
    """Return what chi-square exceeds with a probability below 1e-4, by Laurent and Massart's bound
    (2000): P(X >= d + 2 sqrt(d t) + 2 t) <= e^-t, at t = ln 10^4."""
    t = math.log(1e4)
    return degrees + 2 * math.sqrt(degrees * t) + 2 * t


@pytest.mark.parametrize("settings", [
    dict(), dict(temperature=3.0), dict(top_k=5), dict(top_p=0.8), dict(min_p=0.2),
    dict(top_k=9, top_p=0.9, min_p=0.05, temperature=1.5)], ids=str)
def test_draws_are_as_frequent_as_their_probabilities(settings):
    """The sum of (observed - expected)^2 / expected over n kept tokens is chi-square with n - 1
    degrees of freedom. Seeds are fixed, so the test always does the same."""
    N, rng = 12_000, Random(5)
    logits = array("f", [rng.gauss(0, 1) for _ in range(12)])
    config = SampleConfig(**ALL | settings, seed=11)
    sampler = Sampler(config)
    drawn = Counter(sampler.choose(logits, [0]) for _ in range(N))
    p = probabilities(logits, config.temperature)
    kept = kept_by_definition(p, config.top_k, config.top_p, config.min_p, 0.0)
    total = math.fsum(p[v] for v in kept)
    expected = {v: N * p[v] / total for v in kept}
    assert min(expected.values()) > 5 and drawn.keys() <= kept
    chi_square = sum((drawn[v] - e) ** 2 / e for v, e in expected.items())
    assert chi_square < chi_square_limit(len(kept) - 1)


def test_a_seed_repeats_the_draws():
    def draws(seed):
        sampler = Sampler(SampleConfig(**ALL, seed=seed))
        return [sampler.choose(LOGITS, [0]) for _ in range(40)]

    assert draws(3) == draws(3) != draws(4)
    assert draws(None) != draws(None)


def test_a_sampler_serves_one_sequence():
    sampler = Sampler(SampleConfig(presence_penalty=1.0))
    sampler.choose(LOGITS, [1, 2, 3])
    sampler.choose(LOGITS, [1, 2, 3])  # again at the same place
    with pytest.raises(ValueError, match="a Sampler serves one sequence: 2 ids follow 3"):
        sampler.choose(LOGITS, [1, 2])


def test_a_buffer_of_another_type_is_refused():
    for logits in (array("d", [1.0, 2.0]), array("i", [1, 2])):
        with pytest.raises(TypeError, match=f"format '{logits.typecode}' is not float32"):
            Sampler(SampleConfig()).choose(logits, [0])


@pytest.mark.parametrize("settings", [dict(), dict(logit_bias={4: 3.0, 1: -INF}, top_k=3),
                                      dict(repetition_penalty=2.0, frequency_penalty=1.0)], ids=str)
def test_a_sampler_may_be_copied_and_see_more_or_fewer_logits(settings):
    """What it prepares for a number of logits is no part of what it draws."""
    def draws(sampler, changing=False):
        ids, found = [1, 4], []
        for step in range(40):
            if changing:
                sampler = (copy.deepcopy(sampler) if step % 3 else
                           pickle.loads(pickle.dumps(sampler)))
            V = 5 if "repetition_penalty" in settings else 3 + step // 5 % 3
            found.append(sampler.choose(LOGITS[:V], ids))
            ids.append(found[-1])
        return found

    def new():
        return Sampler(SampleConfig(**ALL | settings | dict(seed=3)))

    assert draws(new(), True) == draws(new())
    growing, logits = new(), array("f", LOGITS)
    growing.choose(logits, [1, 4])
    logits.append(50.0)  # no address of the logits is kept
    assert growing.choose(logits, [1, 4]) == 5


# -------------------------------------------------------------------------- log-probabilities ---

@given(logits=st.lists(logit, min_size=1, max_size=50), n=st.integers(0, 60), data=st.data())
def test_log_probabilities(logits, n, data):
    """The sum S >= 1 of V <= 2^16 weights is off by less than 2^-19 S: by V / 2 units of 2^-36, by
    4 2^-24 S for exp, 2^-24 S for its rounding, and by 2^-24 |d| for each argument d of exp; at
    most 8.1 is the mean of |d|, which is that of V - 1 tokens at d = -9."""
    buffer, token = array("f", logits), data.draw(st.integers(0, len(logits) - 1))
    p = probabilities(logits, 1.0)
    choice = choice_of(token, buffer, n)
    assert isinstance(choice, Choice) and choice.token == token
    bound = 2.0 ** -19
    order = sorted(range(len(p)), key=lambda v: -logits[v])[:n]
    assert [v for v, _ in choice.best] == order
    for v, logprob in [(token, choice.logprob), *choice.best]:
        # log p_v = x_v - top + log p_top; log p_v itself may be the logarithm of 0
        exact = logits[v] - max(logits) + math.log(max(p))
        assert abs(logprob - exact) <= bound
    lse = array("d", [0.0])
    best = array("i", [0]) * min(n, len(logits))
    assert call(reference, "sample_best", best, lse, buffer, len(logits), len(best)) == 0
    assert buffer[token] - lse[0] == choice.logprob and best.tolist() == order


@pytest.mark.parametrize("n", [0, 1, 24, 25, 700, 3001])
def test_the_likeliest_of_many_are_sorted(n):
    rng = Random(3)
    logits = array("f", [rng.randrange(500) / 10 for _ in range(3001)])
    order = sorted(range(3001), key=lambda v: -logits[v])
    assert [v for v, _ in choice_of(0, logits, n).best] == order[:n]


# ------------------------------------------------------------------------------- the settings ---

def test_biases_of_all_kinds_are_the_same():
    pairs = ((2, 0.5), (7, -INF))
    for value in ({7: -INF, 2: 0.5}, {2: 0.5, 7: float("-inf")}, [(7, -INF), (2, 0.5)], pairs):
        config = SampleConfig(logit_bias=value)
        assert config.logit_bias == pairs and hash(config) == hash(SampleConfig(logit_bias=pairs))
    assert SampleConfig(logit_bias=[(2, 1), (2, 3)]).logit_bias == ((2, 3.0),)
    assert SampleConfig(logit_bias=None).logit_bias == SampleConfig().logit_bias == ()


@pytest.mark.parametrize("value, message", [
    ({1: INF}, "logit_bias='1=inf' must be finite, or -inf to ban the token"),
    ({1: math.nan}, "logit_bias='1=nan' must be finite, or -inf"),
    ({1: "x"}, "logit_bias='x' is not a number"),
    ({"a": 1}, "logit_bias='a' is not an integer"),
    ({-1: 1}, "logit_bias=-1 is not a token id: it is below 0"),
    ({1.5: 1}, "logit_bias=1.5 is not an integer"),
    (3, "logit_bias=3 is not a dict of biases by token id"),
    ("ab", "logit_bias='ab' is not a dict"),
    ([1, 2], r"logit_bias=\[1, 2\] is not a dict"),
])
def test_a_bad_bias_is_named(value, message):
    with pytest.raises(ConfigError, match=message):
        SampleConfig(logit_bias=value)


@pytest.mark.parametrize("value, kept", [("a", ("a",)), (["a", "b\n"], ("a", "b\n")), (None, ()),
                                         ((), ())])
def test_one_stop_string_or_many(value, kept):
    assert SampleConfig(stop_strings=value).stop_strings == kept


@pytest.mark.parametrize("value, message", [
    ("", r"stop_strings=\('',\) holds an empty text"), (["a", ""], "holds an empty text"),
    (5, "stop_strings=5 is neither a text nor a list"), ([5], r"stop_strings=\[5\] is not text")])
def test_a_bad_stop_string_is_named(value, message):
    with pytest.raises(ConfigError, match=message):
        SampleConfig(stop_strings=value)
