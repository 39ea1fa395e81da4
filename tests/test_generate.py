"""Tests generate: its arguments, where it stops, log-probabilities, and a context that is full."""

import gc
import json
import math
import sys
import threading
import weakref
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import randomise, tiny

from pygpt.autograd.tensor import Tensor
from pygpt.config import ConfigError, GPTConfig
from pygpt.decoding import MOST_TOGETHER, Cache
from pygpt.generate import end_ids, generate, stream, stream_together
from pygpt.model import GPT
from pygpt.steps import MOST_ROWS


class Counting:
    """Stands in for GPT: the next token is the sum of those that it sees, modulo vocab_size."""

    def __init__(self, n_positions=4, vocab_size=7):
        self.config = GPTConfig(vocab_size=vocab_size, n_positions=n_positions)
        self.decoded, self.rows, self.prompts, self.steps = 0, 0, [], []

    def new_cache(self, rows=1, length=None):
        self.rows = max(self.rows, rows)
        return CountingCache(self, rows, length)


class CountingCache:
    """Stands in for decoding.Cache. Like it, a row keeps what it held until that is overwritten."""

    def __init__(self, model, rows, length):
        self.model, self.pasts, self.held = model, [0] * rows, [[] for _ in range(rows)]
        self.length = length or model.config.n_positions

    def read(self, row, ids):
        self.model.prompts.append(list(ids))
        return self._read(row, ids)

    def _read(self, row, ids):
        past = self.pasts[row]
        self.pasts[row] = past + len(ids)
        assert self.pasts[row] <= self.length
        self.held[row][past:past + len(ids)] = ids
        self.model.decoded += len(ids)
        V, total = self.model.config.vocab_size, sum(self.held[row][:self.pasts[row]])
        return array("f", [20.0 * (token == total % V) for token in range(V)])

    def step(self, ids):
        self.model.steps.append(len(ids))
        return [self._read(row, [token]) for row, token in enumerate(ids)]

    def forget(self, row):
        self.pasts[row] = 0

    def move(self, source, target, past=None):
        past = self.pasts[source] if past is None else past
        assert past <= len(self.held[source])
        if source != target:
            self.held[target][:past] = self.held[source][:past]
        self.pasts[target] = past


def expected(prompt, count, n_positions=4, vocab_size=7):
    """When the context is full, a quarter is dropped."""
    ids, window = list(prompt), list(prompt)
    for _ in range(count):
        ids.append(sum(window) % vocab_size)
        is_full = len(window) == n_positions
        window.append(ids[-1])
        if is_full:
            window = window[-(n_positions - max(1, n_positions // 4)):] if n_positions > 1 else (
                window[-1:])
    return ids[len(prompt):]


# ------------------------------------------------------------------------------- the sequence ---

@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 20])
@pytest.mark.parametrize("prompt", [[1], [1, 2], [3, 1, 2, 5]])
def test_the_model_sees_the_last_n_positions(prompt, count):
    assert generate(Counting(), prompt, count, temperature=0) == expected(prompt, count)


@given(prompts=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8), min_size=1,
                        max_size=6), count=st.integers(0, 20), n_positions=st.integers(8, 12))
def test_several_prompts_are_continued_as_if_alone(prompts, count, n_positions):
    """Their lengths differ, so one after another fills its context; and 5 ends a text."""
    together = generate(Counting(n_positions), prompts, count, temperature=0, stop=5)
    for prompt, found in zip(prompts, together):
        alone = expected(prompt, count, n_positions)
        assert found == (alone[:alone.index(5)] if 5 in alone else alone)
        assert found == generate(Counting(n_positions), prompt, count, temperature=0, stop=5)


def test_a_context_of_one_position():
    assert generate(Counting(n_positions=1), [3], 4, temperature=0) == [3, 3, 3, 3]


def test_the_texts_of_a_real_model_do_not_depend_on_one_another():
    """Bit for bit: also where a text fills the context, ends and leaves its row to another, waits
    for a row, or begins with a copy of an equal prompt."""
    model = randomise(tiny()).eval()
    prompts = [[1], [2, 3, 4], [5] * 8, [6, 7], [8, 9, 10, 1, 2]]
    prompts += [[2, 3, 4], [1, 2], [7, 8, 9], *([text, 3] for text in range(9)), *[[1]] * 9]
    seeds = list(range(11, 11 + len(prompts)))
    for form in None, "int8":
        model = model if form is None else model.quantize(form)
        options = dict(stop=(0, 4), temperature=2, logprobs=2)
        together = generate(model, prompts, 30, seed=seeds, **options)
        assert len({len(found) for found in together}) > 1
        for prompt, seed, found in zip(prompts, seeds, together):
            assert found == generate(model, prompt, 30, seed=seed, **options)


some_prompts = st.sampled_from([[1], [2, 3], [4, 1, 1], [6], [5, 2]])


@given(prompts=st.lists(some_prompts, max_size=20) | st.lists(some_prompts, min_size=30,
                                                              max_size=60),
       n_positions=st.integers(3, 12), count=st.integers(0, 9), data=st.data())
def test_texts_wait_for_a_row(prompts, n_positions, count, data):
    """Of equal and different prompts, some of them ended from outside, at any step."""
    model, found = Counting(n_positions), [[] for _ in prompts]
    ends = {text: data.draw(st.integers(0, 6)) for text in range(0, len(prompts), 3)}
    steps = stream_together(model, prompts, count, temperature=0, stop=5)
    for step in steps:
        texts = [text for text, _ in step]
        assert texts == sorted(set(texts)) and 1 <= len(step) <= MOST_ROWS
        for text, token in step:
            found[text].append(token)
            if len(found[text]) == ends.get(text):
                steps.end(text)
    for text, (prompt, ids) in enumerate(zip(prompts, found)):
        alone = expected(prompt, count, n_positions)
        alone = alone[:alone.index(5)] if 5 in alone else alone
        assert ids == alone[:ends.get(text) or count]
    assert model.rows <= MOST_ROWS
    assert next(steps, None) is None


def test_the_weights_are_read_for_all_rows_as_long_as_texts_wait():
    """Each text has 5 tokens, the first from its prompt, but number 1 is ended and 30 never begins.
    A step has a text less when one begins, which is read meanwhile."""
    assert MOST_ROWS == MOST_TOGETHER
    model = Counting(n_positions=40)
    prompts = [[text % 7, text // 7] for text in range(40)]
    steps = stream_together(model, prompts, 5, temperature=0)
    assert [text for text, _ in next(steps)] == list(range(16))
    steps.end(1)
    steps.end(30)
    assert [text for text, _ in next(steps)] == [0, *range(2, 17)]
    while next(steps, None):
        pass
    assert model.rows == 16 and len(model.prompts) == 39
    assert model.steps == [15, 16, 16, 16, 1, 15, 16, 16, 16, 1, 6, 6, 6, 6]


def test_an_ended_text_takes_no_more_work():
    model = Counting(n_positions=40)
    steps = stream_together(model, [[1], [2]], 20, temperature=0)
    assert next(steps) == [(0, 1), (1, 2)] and model.decoded == 2
    steps.end(0)
    steps.end(0)
    assert next(steps) == [(1, 4)] and model.decoded == 3
    for text, message in ((2, "text=2 is not the number of one of 2 texts"), (-1, "text=-1"),
                          ("a", "text='a' is not an integer")):
        with pytest.raises(ValueError, match=message):
            steps.end(text)
    steps.end(1)
    assert list(steps) == [] and model.decoded == 3
    steps = stream_together(model, [[1], [2]], 20, temperature=0)
    steps.end(0)  # before the first step
    assert next(steps) == [(1, 2)] and model.decoded == 4
    steps.close()
    assert list(steps) == [] == list(stream_together(model, [], 20))


@pytest.mark.parametrize("kind", [
    list, tuple, iter, lambda rows: (row for row in rows), lambda rows: [tuple(r) for r in rows],
    lambda rows: memoryview(array("i", sum(rows, []))).cast("B").cast("i", (3, 2)),
    lambda rows: memoryview(bytes(sum(rows, []))).cast("B", (3, 2)),
    lambda rows: [array("q", row) for row in rows], lambda rows: map(iter_with_len, rows)])
def test_several_prompts_come_in_many_forms(kind):
    rows = [[1, 2], [3, 4], [0, 1]]
    assert generate(Counting(), kind(rows), 3, temperature=0) == [expected(row, 3) for row in rows]
    found = [[], [], []]
    for step in stream_together(Counting(), kind(rows), 3, temperature=0):
        for text, token in step:
            found[text].append(token)
    assert found == [expected(row, 3) for row in rows]


def iter_with_len(row):
    return dict.fromkeys(row).keys()


@pytest.mark.parametrize("ids, message", [
    ("ab", "^ids='ab' is not a list of ids; a tokenizer's encode[(][)] makes them of a text$"),
    (["ab", "c"], "^prompt 0: ids='ab' is not a list of ids; a tokenizer's"),
    ([[1], "c"], "^prompt 1: ids='c' is not a list of ids"),
    ([[1], 2], "^prompt 1: ids=2 is not a list of ids"),
    ({1: [1, 2]}, "^ids={1: .*} is not a list of ids"), ({(1, 2)}, "is not a list of ids"),
    (([1], [2.0]), r"^prompt 1: ids\[0\]=2.0 is not an integer$"),
    (iter([[1], [9]]), r"^prompt 1: ids\[0\]=9 is not in 0..6"),
    (memoryview(array("f", [1, 2])).cast("B").cast("f", (2, 1)),
     r"^prompt 0: ids\[0\]=1.0 is not an integer$"),
    (memoryview(bytes(8)).cast("B", (2, 2, 2)), "is not a list of ids"),
    (5, "^ids=5 is not a list of ids"), (None, "^ids=None is not a list")], ids=repr)
def test_what_is_neither_a_prompt_nor_several_is_refused(ids, message):
    model = Counting()
    with pytest.raises(ValueError, match=message):
        generate(model, ids, 3)
    assert model.decoded == 0


@pytest.mark.parametrize("prompts", ["ab", {1: [1]}, 5, None, {(1, 2)}])
def test_stream_together_takes_a_list_of_prompts(prompts):
    with pytest.raises(ValueError, match="^prompts=.* is not a list of prompts, which are lists"):
        stream_together(Counting(), prompts)


def test_a_row_whose_context_was_full_no_longer_holds_its_prompt():
    """Texts of 7 tokens in a context of 5: the first 16 end together, after their contexts were
    full; the others need the prompt anew, once."""
    model = Counting(5)
    assert generate(model, [[1, 2, 3]] * 20, 7, temperature=0) == [expected([1, 2, 3], 7, 5)] * 20
    assert model.prompts.count([1, 2, 3]) == 2


@pytest.mark.parametrize("n", [2, 16, 17, 50])
def test_equal_prompts_are_computed_once(n):
    """The texts take up to 7 new ids, by temperature; the context of 5 positions fills."""
    for n_positions in 5, 20:
        model = Counting(n_positions, vocab_size=11)
        found = generate(model, [[1, 2, 3]] * n, 7, seed=list(range(n)), temperature=10, stop=5)
        for text in range(n):
            assert found[text] == generate(Counting(n_positions, vocab_size=11), [1, 2, 3], 7,
                                           seed=text, temperature=10, stop=5)
        assert len({len(ids) for ids in found}) > 1 or n == 2
        times = model.prompts.count([1, 2, 3])
        assert times == 1 or n_positions == 5 and times < n


def test_what_several_prompts_need_is_refused_by_name():
    model = Counting()
    for options, message in (({"seed": [1]}, "1 seeds for 2 prompts"),
                             ({"sampler": [None]}, "1 samplers for 2 prompts")):
        with pytest.raises(ValueError, match=message):
            generate(model, [[1], [2]], 3, **options)
    with pytest.raises(TypeError, match="is not a list with a sampler for each prompt"):
        generate(model, [[1], [2]], 3, sampler=object())
    with pytest.raises(ValueError, match="prompt 1: the prompt has 0 tokens"):
        generate(model, [[1], []], 3)
    with pytest.raises(ValueError, match=r"prompt 1: ids\[0\]=99"):
        generate(model, [[1], [99]], 3)
    assert generate(model, [array("i", [1]), range(1, 3)], 2, temperature=0) == [
        generate(model, [1], 2, temperature=0), generate(model, [1, 2], 2, temperature=0)]
    assert generate(model, [1], 2, top_k=2 ** 63) is not None
    with pytest.raises(ValueError, match="the prompt has 5 tokens"):
        generate(model, [[1], [1] * 5], 3)


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
    assert whole[:4] == [3, 6, 5, 0]
    assert generate(Counting(), [1, 2], 8, temperature=0, stop=5) == [3, 6]
    assert generate(Counting(), [1, 2], 8, temperature=0, stop=[2, 6]) == [3]
    assert generate(Counting(), [1, 2], 8, temperature=0, stop=[]) == whole


@pytest.mark.parametrize("end, ids", [(5, [3, 6]), ((2, 5), [3, 6]), ((6,), [3]), (None, None)])
def test_without_stop_the_models_end_of_text_ends_the_sequence(end, ids):
    model, whole = Counting(), expected([1, 2], 8)
    model.end_of_text = end
    assert generate(model, [1, 2], 8, temperature=0) == (ids or whole)
    assert generate(model, [1, 2], 8, temperature=0, stop=None) == (ids or whole)
    assert generate(model, [1, 2], 8, temperature=0, stop=()) == whole
    assert generate(model, [1, 2], 8, temperature=0, stop=[]) == whole
    assert generate(model, [1, 2], 8, temperature=0, stop=3) == []


class Six:
    """Is an integer that is no int, as NumPy's are."""

    def __index__(self):
        return 6


class Two(Six):
    def __index__(self):
        return 2


@pytest.mark.parametrize("stop", [
    6, Six(), [6], (6, 0), {6}, frozenset([6]), range(6, 7), iter([6]), array("i", [6]),
    memoryview(array("q", [6, 6])), {6: "end"}.keys(), [Six()]])
def test_stop_may_be_any_collection_of_ids(stop):
    assert generate(Counting(), [1, 2], 8, temperature=0, stop=stop) == [3]


@pytest.mark.parametrize("stop, message", [
    ("\n", r"stop='\\n' is neither an id nor a collection of ids"),
    ("", "stop='' is neither an id nor"),
    (b"a", "stop=b'a' is neither an id nor"),
    (["\n"], r"stop='\\n' is not an integer"),
    ([1, "x"], "stop='x' is not an integer"),
    ({1: 2}, "stop={1: 2} is neither an id nor"),
    (True, "stop=True is not an integer"),
    (False, "stop=False is not an integer"),
    ([True], "stop=True is not an integer"),
    (5.0, "stop=5.0 is neither an id nor"),
    ([5.0], "stop=5.0 is not an integer"),
    (object, "stop=<class 'object'> is neither an id nor"),
    ([None], "stop=None is not an integer"),
    ([[1]], r"stop=\[1\] is not an integer"),
    (-1, "stop=-1 is not in 0..6"),
    (7, "stop=7 is not in 0..6"),
    ([1, 7], "stop=7 is not in 0..6"),
    (range(3, 9), "stop=7 is not in 0..6"),
    (range(10 ** 15), "stop=7 is not in 0..6"),
    (10 ** 400, "stop=1000.* is not in 0..6"),
    (memoryview(bytes(4)).cast("B", (2, 2)), "is neither an id nor"),
    (Tensor([1.0, 2.0]), "is neither an id nor"),
])
def test_a_stop_that_is_no_id_is_refused_at_once(stop, message):
    model = Counting()
    with pytest.raises(ValueError, match=message):
        stream(model, [1], stop=stop)
    assert model.decoded == 0


def test_an_end_of_text_that_the_model_lacks_is_refused():
    model = Counting()
    model.end_of_text = 7
    with pytest.raises(ValueError, match="=7 is not in 0..6"):
        stream(model, [1])


@pytest.mark.parametrize("ids", [[1, 2], (1, 2), array("i", [1, 2]), memoryview(array("H", [1, 2])),
                                 range(1, 3), iter([1, 2]), [1, Two()]])
def test_a_prompt_may_be_any_sequence_of_ids(ids):
    assert generate(Counting(), ids, 2, temperature=0) == [3, 6]


def test_only_ids_below_vocab_size_are_drawn():
    def sample(**settings):
        return generate(Counting(), [6, 5], 40, temperature=15, top_k=0, top_p=1, seed=1,
                        **settings)

    for penalty in (1.0, 1.5):  # which ignores the prompt's ids that cannot be drawn
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
    ([1, True], r"ids\[1\]=True is not an integer"),
    (["a"], r"ids\[0\]='a' is not an integer"),
    ([10 ** 400], r"ids\[0\]=1000.* is not in 0..6"),
    ("ab", "ids='ab' is not a list of ids"),
    (b"ab", "ids=b'ab' is not a list of ids"),
    (bytearray(2), r"ids=bytearray\(b'.*'\) is not a list of ids"),
    ({1: 2}, "ids={1: 2} is not a list of ids"),
    ({1, 2}, "ids={1, 2} is not a list of ids"),
    (None, "ids=None is not a list of ids"),
    (3, "ids=3 is not a list of ids"),
    (memoryview(bytes(4)).cast("B", (2, 2)), "is not a list of ids"),
    (array("f", [1.0]), r"ids\[0\]=1.0 is not an integer"),
    (Tensor([1.0, 2.0]), "is not a list of ids"),
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
    (dict(max_new_tokens=True), "max_new_tokens=True is not an integer"),
    (dict(max_new_tokens=2.0), "max_new_tokens=2.0 is not an integer"),
    (dict(max_new_tokens=None), "max_new_tokens=None is not an integer"),
    (dict(top_k="5"), "top_k='5' is not an integer"),
    (dict(temperature=None), "temperature=None is not a number"),
    (dict(temperature="1"), "temperature='1' is not a number"),
    (dict(temperature=True), "temperature=True is not a number"),
    (dict(temperature=math.nan), "temperature=nan must be"),
    (dict(temperature=math.inf), "temperature=inf must be finite"),
    (dict(top_p=[0.5]), "is not a number"),
    (dict(repetition_penalty=0), "repetition_penalty=0 must be above 0"),
    (dict(seed=1.5), "seed=1.5 is not an integer"),
    (dict(seed="x"), "seed='x' is not an integer"),
    (dict(seed=-1), "seed=-1 must be at least 0"),
    (dict(vocab_size=2.5), "vocab_size=2.5 is not an integer"),
    (dict(vocab_size=True), "vocab_size=True is not an integer"),
    (dict(vocab_size="7"), "vocab_size='7' is not an integer"),
    (dict(vocab_size=-1), "vocab_size=-1 leaves no id to draw"),
    (dict(presence_penalty=3), r"presence_penalty=3 must be in \[-2, 2\]"),
    (dict(frequency_penalty=-2.5), r"frequency_penalty=-2.5 must be in \[-2, 2\]"),
    (dict(logprobs=-1), "logprobs=-1 must be at least 0"),
    (dict(logprobs=1.0), "logprobs=1.0 is not an integer"),
    (dict(logprobs=True), "logprobs=True is not an integer"),
    (dict(logit_bias={7: 1.0}), "logit_bias=7 is not in 0..6"),
])
def test_a_bad_setting_is_refused_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        stream(Counting(), [1], **settings)


# ----------------------------------------------------------------- where a model's text ends ---

def saved(directory, **changes):
    """Save a model and change its config.json; return the directory."""
    model = GPT(GPTConfig(vocab_size=20, n_positions=4, n_embd=8, n_layer=1, n_head=1))
    model.save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


@pytest.mark.parametrize("stored, end, written", [
    (5, 5, 5), (0, 0, 0), (19, 19, 19), (None, None, None), ([5, 7], (5, 7), [5, 7]),
    ([5], (5,), [5]), ([], None, None),
    (20, None, None), (50256, None, None), (-1, None, None), (10 ** 30, None, None),
    ([3, 50256], (3,), [3]), ([50256], None, None),
])
def test_config_json_says_where_a_text_ends(stored, end, written, tmp_path):
    model = GPT.from_pretrained(saved(tmp_path, eos_token_id=stored))
    assert model.end_of_text == end
    model.save_pretrained(tmp_path / "again")
    document = json.loads((tmp_path / "again" / "config.json").read_text())
    assert document["eos_token_id"] == written
    assert document["bos_token_id"] == (written[0] if isinstance(written, list) else written)
    assert GPT.from_pretrained(tmp_path / "again").end_of_text == end


@pytest.mark.parametrize("stored", ["5", "", True, False, 5.0, {"a": 1}, [1, True], [1, "2"], [[1]],
                                    [None], [1.0]])
def test_an_end_of_text_of_another_type_is_refused_by_name(stored, tmp_path):
    with pytest.raises(ValueError, match="config.json: eos_token_id=.* is not an id, a list of ids "
                       "or null"):
        GPT.from_pretrained(saved(tmp_path, eos_token_id=stored))


def test_a_model_without_eos_token_id_has_no_end(tmp_path):
    path = saved(tmp_path) / "config.json"
    document = json.loads(path.read_text())
    del document["eos_token_id"]
    path.write_text(json.dumps(document))
    assert GPT.from_pretrained(tmp_path).end_of_text is None


def test_the_end_of_text_is_checked_when_it_is_set(tmp_path):
    model = GPT(GPTConfig(vocab_size=20, n_positions=4, n_embd=8, n_layer=1, n_head=1))
    assert model.end_of_text is None
    for value, kept in ((3, 3), (Six(), 6), ([3, 3, 4], (3, 4)), ((), None), (None, None)):
        model.end_of_text = value
        assert model.end_of_text == kept
    for value in ("a", 20, -1, True, 1.5, [20], ["a"]):
        with pytest.raises(ValueError, match="end_of_text="):
            model.end_of_text = value
        with pytest.raises(ValueError, match="end_of_text="):
            model.save_pretrained(tmp_path / "m", end_of_text=value)
    assert not (tmp_path / "m").exists()


def test_save_pretrained_writes_the_models_own_end_unless_another_is_given(tmp_path):
    model = GPT(GPTConfig(vocab_size=20, n_positions=4, n_embd=8, n_layer=1, n_head=1))
    model.end_of_text = 3
    for end, written in ((None, 3), (4, 4), ((4, 5), [4, 5])):
        model.save_pretrained(tmp_path, end_of_text=end)
        assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == written
    assert model.end_of_text == 3


def test_a_model_stops_at_its_own_end():
    model = GPT(GPTConfig(vocab_size=20, n_positions=4, n_embd=8, n_layer=1, n_head=1)).eval()
    whole = model.generate([1], 30, temperature=2.0, seed=1, top_k=0)
    model.end_of_text = end = whole[9]
    until = whole[:whole.index(end)]
    assert model.generate([1], 30, temperature=2.0, seed=1, top_k=0) == until
    assert list(model.stream([1], 30, temperature=2.0, seed=1, top_k=0)) == until
    assert model.generate([1], 30, temperature=2.0, seed=1, top_k=0, stop=()) == whole


def test_the_ends_of_a_model_and_its_tokenizer_are_united():
    class Has:
        def __init__(self, end_of_text):
            self.end_of_text = end_of_text

    for own, theirs, ends in ((None, None, ()), (3, None, (3,)), (None, 4, (4,)), (3, 4, (3, 4)),
                              (3, 3, (3,)), ((3, 4), 4, (3, 4)), ((3, 4), 5, (3, 4, 5)),
                              (0, 0, (0,))):
        assert end_ids(Has(own), Has(theirs)) == ends


# ---------------------------------------------------------------- samplers, and what they know ---

class Recorder:
    """Is a sampler of one's own: it takes the likeliest token that is not the last one."""

    def __init__(self):
        self.seen = []

    def choose(self, logits, ids):
        self.seen.append(list(ids))
        assert logits.readonly and logits.format == "f"
        return max((v for v in range(len(logits)) if v != ids[-1]), key=logits.__getitem__)


def test_a_sampler_of_ones_own():
    sampler = Recorder()
    assert generate(Counting(), [1, 2], 3, sampler=sampler) == [3, 6, 5]
    assert sampler.seen == [[1, 2], [1, 2, 3], [1, 2, 3, 6]]
    with pytest.raises(TypeError, match="temperature is a setting of Sampler, but another sampler"):
        stream(Counting(), [1], sampler=sampler, temperature=0.5)


@pytest.mark.parametrize("token, message", [
    (7, "token=7 is not in 0..6"), (-1, "token=-1 is not in 0..6"),
    (2.0, "token=2.0 is not an integer"), (None, "token=None is not an integer")])
def test_a_sampler_that_chooses_no_id_is_told_so(token, message):
    class Wrong:
        def choose(self, logits, ids):
            return token

    with pytest.raises(ValueError, match=message):
        generate(Counting(), [1], 1, sampler=Wrong())


@pytest.mark.parametrize("change", [lambda ids: ids.append(3), lambda ids: ids.pop()])
def test_a_sampler_that_changes_the_ids_is_told_so(change):
    class Changing:
        def choose(self, logits, ids):
            change(ids)
            return 3

    with pytest.raises(ValueError, match="^the sampler changed the length of the list of ids"):
        generate(Counting(), [1, 2], 3, sampler=Changing())


@pytest.mark.parametrize("sampler", [object(), Recorder, None, 5])
def test_what_cannot_choose_is_no_sampler(sampler):
    model = Counting()
    with pytest.raises(TypeError, match="^sampler=.* is not an object with a method choose"):
        stream_together(model, [[1]], sampler=[sampler])
    if sampler is not None:
        with pytest.raises(TypeError, match="^sampler=.* is not an object with a method choose"):
            stream(model, [1], sampler=sampler)


@pytest.mark.parametrize("name, message", [
    ("threads", "^threads is not a setting here: see set_num_threads$"),
    ("stop_strings", "^stop_strings is not a setting here: .*Pipeline"),
    ("temprature", "^temprature is not a setting; did you mean temperature[?]$"),
    ("top-kk", "did you mean top_k[?]"), ("vocabsize", "did you mean vocab_size[?]"),
    ("length", "did you mean max_new_tokens[?]"), ("xyzzy", "^xyzzy is not a setting$")])
def test_what_is_no_setting_is_refused_by_name(name, message):
    for call in generate, stream:
        with pytest.raises(TypeError, match=message):
            call(Counting(), [1], **{name: 1})


@pytest.mark.parametrize("ids", [[], (), iter([]), range(0), array("i")], ids=repr)
def test_no_ids_are_an_empty_prompt(ids):
    with pytest.raises(ValueError, match="^the prompt has 0 tokens; this model takes 1..n_pos"):
        generate(Counting(), ids)


def test_threads_that_take_steps_take_turns():
    """Each step is had by one of them, and none is lost."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        steps, had = stream_together(Counting(64), [[1], [2]], 60, temperature=0), []
        threads = [threading.Thread(target=lambda: had.extend(steps)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert len(had) == 60
    for text, prompt in enumerate(([1], [2])):
        assert sorted(token for step in had for number, token in step if number == text) == sorted(
            expected(prompt, 60, 64))


def test_penalties_count_the_new_text_and_the_prompt():
    """The likeliest token is always the sum modulo 7, 20 above the others: 1, 2, 4, 1, 2, 4."""
    def sample(**settings):
        return generate(Counting(n_positions=50), [1], 5, temperature=0, **settings)

    assert sample() == [1, 2, 4, 1, 2]
    assert sample(presence_penalty=2.0) == sample()  # less than 20
    assert sample(repetition_penalty=1e9)[0] == 1  # 20 / 1e9 is still above 0
    assert sample(logit_bias={1: -20.5}) [0] == 0
    assert sample(logit_bias={1: -math.inf, 0: -math.inf})[0] == 2


def test_banned_tokens_count_below_vocab_size_alone():
    assert generate(Counting(), [6, 6], 1, vocab_size=3, temperature=0,
                    logit_bias={6: 50.0, 0: -1.0}) == [1]
    with pytest.raises(ValueError, match="bans all tokens"):
        generate(Counting(), [1], 1, vocab_size=1, logit_bias={0: -math.inf})


def test_log_probabilities_are_those_of_the_model():
    """One logit is 20, six are 0; settings change the choice, not these."""
    lse = math.log(math.exp(20) + 6)
    for settings in (dict(temperature=0), dict(temperature=5, seed=1, top_k=3),
                     dict(temperature=0, logit_bias={3: -30.0}, repetition_penalty=2.0)):
        choices = list(stream(Counting(), [1, 2], 4, logprobs=2, **settings))
        ids = generate(Counting(), [1, 2], 4, **settings)
        assert [choice.token for choice in choices] == ids
        token, logprob, best = choices[0]
        assert logprob == pytest.approx((20 if token == 3 else 0) - lse, abs=1e-5)
        assert best == [(3, pytest.approx(20 - lse, abs=1e-5)), (0, pytest.approx(-lse, abs=1e-5))]
    assert generate(Counting(), [1], 1, temperature=0, logprobs=0)[0].best == []
    assert len(generate(Counting(), [1], 1, temperature=0, logprobs=99)[0].best) == 7
    assert len(generate(Counting(), [1], 1, vocab_size=5, logprobs=99)[0].best) == 5


def test_a_stream_may_be_left_at_any_token():
    model = Counting()
    tokens = stream(model, [1, 2], 50, temperature=0)
    assert [next(tokens), next(tokens)] == [3, 6]
    tokens.close()
    assert model.decoded == 3 and list(tokens) == []


def caches():
    """List the caches that exist."""
    return [one for one in gc.get_objects() if isinstance(one, Cache)]


@pytest.mark.parametrize("way", ["left early", "closed", "read to its end", "an error"])
def test_the_cache_is_freed_with_its_last_user_and_not_at_garbage_collection(way):
    model = tiny()
    gc.collect()
    gc.disable()
    try:
        steps = stream_together(model, [[1, 2], [3]], 3 if way == "read to its end" else 50)
        next(steps), next(steps)
        cache, left = weakref.ref(steps._cache), weakref.ref(steps)
        if way == "closed":
            steps.close()
        elif way == "read to its end":
            assert len(list(steps)) == 1
        elif way == "an error":
            steps._samplers[1] = None
            with pytest.raises(AttributeError):
                next(steps)
        if way != "left early":
            assert cache() is None and list(steps) == []
        del steps
        assert cache() is None and left() is None
        others = set(map(id, caches()))
        tokens = model.stream([1, 2], 50)
        next(tokens)
        cache, = [weakref.ref(one) for one in caches() if id(one) not in others]
        assert cache() is not None
        del tokens
        assert cache() is None
    finally:
        gc.enable()
