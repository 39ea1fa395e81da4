"""Tests Pipeline: text in and text out, and which ids a text that was cut off has.

The models are random. What they should write follows from GPT.generate and the tokenizer.
"""

import codecs
import sys
import threading
import time
import types
import warnings
import weakref
from array import array

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pygpt
from pygpt import progress
from pygpt.config import ConfigError, GPTConfig
from pygpt.decoding import Cache
from pygpt.model import GPT
from pygpt.pipeline import Pipeline
from pygpt.steps import MOST_ROWS
from pygpt.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer

TEXT = "one naïve 😀 time, two naïve 😀 times. three\n"
P = 32


def pipeline_of(tokenizer, spread=1.0, **options):
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=P, n_embd=8, n_layer=1,
                          n_head=2), seed=2)
    return Pipeline(model.eval(), tokenizer, **options)


LONG = pipeline_of(BPETokenizer.train(TEXT * 9, 300, ["<|endoftext|>"]))  # long tokens
MERGED = [token for token in range(256, LONG.tokenizer.vocab_size)
          if token != LONG.tokenizer.end_of_text]
BYTES = pipeline_of(ByteTokenizer())
CHARS = pipeline_of(CharTokenizer.train(TEXT))
FREE = dict(temperature=2.0, top_k=0, top_p=1.0)  # far from the few likeliest tokens


def drawn(pipeline, prompt, count, seed, **settings):
    """Return the ids that should be drawn."""
    ids = prompt if isinstance(prompt, list) else pipeline.tokenizer.encode(prompt)
    return pipeline.model.generate(ids, count, seed=seed,
                                   vocab_size=pipeline.tokenizer.vocab_size,
                                   stop=pipeline.tokenizer.end_of_text or (), **settings)


@pytest.fixture
def rows(monkeypatch):
    """Return a list that gets the number of texts of each step of generation."""
    rows, step = [], Cache.step

    def counted(self, ids):
        rows.append(len(ids))
        return step(self, ids)

    monkeypatch.setattr(Cache, "step", counted)
    return rows


# ----------------------------------------------------------------------------------- one text ---

@pytest.mark.parametrize("pipeline", [LONG, BYTES, CHARS])
def test_a_prompt_is_continued(pipeline):
    ids = drawn(pipeline, "two naïve", 20, 5, **FREE)
    text = pipeline("two naïve", max_new_tokens=20, seed=5, **FREE)
    assert text.ids == ids and text.text == str(text) == pipeline.tokenizer.decode(ids)
    assert text.prompt_ids == pipeline.tokenizer.encode("two naïve")
    assert (text.stop, text.seed, text.logprobs, text.drawn) == ("length", 5, None, 20)
    assert "stop='length', seed=5" in repr(text)


def test_the_settings_are_those_of_the_command():
    text = CHARS("two", seed=1)
    assert text.ids == drawn(CHARS, "two", 500, 1)
    with pytest.raises(ConfigError, match="temperature=-1 must be at least 0"):
        CHARS("two", temperature=-1)


@pytest.mark.parametrize("name, message", [
    ("temprature", "^temprature is not a setting; did you mean temperature[?]$"),
    ("max_length", "did you mean max_new_tokens[?]$"), ("xyzzy", "^xyzzy is not a setting$"),
    ("samplers", "did you mean sampler[?]$"), ("progres", "^progres is not a setting"),
    ("threads", "^threads is not a setting here: pygpt.set_num_threads sets"),
    ("stop", "^stop is not a setting here: .* stop_strings"), ("vocab_size", "the tokenizer")])
def test_what_is_no_setting_is_refused_by_name(name, message):
    for call in (CHARS, CHARS.stream):
        with pytest.raises(TypeError, match=message):
            call("two", **{name: 1})
        with pytest.raises(TypeError, match=message):
            call([], **{name: 1})


def test_what_the_other_call_takes_is_told():
    with pytest.raises(TypeError, match="^on_step is not a setting here: stream takes it"):
        CHARS("two", on_step=print)
    with pytest.raises(TypeError, match="^progress is not a setting here: stream takes on_step"):
        CHARS.stream("two", progress=True)


def test_a_model_and_a_tokenizer_that_are_swapped_are_named():
    with pytest.raises(TypeError, match="^model=.* is no model: Pipeline takes a model and its"):
        Pipeline(CHARS.tokenizer, CHARS.model)
    with pytest.raises(TypeError, match="^tokenizer=None is no tokenizer: "):
        Pipeline(CHARS.model, None)


def test_the_end_of_a_text_is_told():
    """The bias makes the end likely enough that one of the seeds draws it, and not at once."""
    bias = {LONG.tokenizer.end_of_text: 2.5}
    for seed in range(100):
        ids = drawn(LONG, "two", 40, seed, logit_bias=bias)
        text = LONG("two", max_new_tokens=40, seed=seed, logit_bias=bias)
        assert text.ids == ids and text.stop == ("length" if len(ids) == 40 else "end")
        if 0 < len(ids) < 40:
            return
    raise AssertionError("no text ended")


def test_without_tokens_there_is_no_text():
    text = LONG("two", max_new_tokens=0)
    assert (text.text, text.ids, text.stop, text.speeds()) == ("", [], "length", (None, None))
    assert LONG("two", max_new_tokens=0, logprobs=1).logprobs == []


def test_an_empty_prompt_begins_after_a_new_line():
    assert CHARS("", max_new_tokens=5, seed=1).ids == drawn(CHARS, "\n", 5, 1)


def test_a_seed_repeats_a_text_and_without_one_each_differs():
    first, second = (CHARS("two", max_new_tokens=40, **FREE) for _ in range(2))
    assert first.text != second.text
    assert CHARS("two", max_new_tokens=40, seed=first.seed, **FREE).text == first.text


def test_a_prompt_may_be_ids():
    ids = CHARS.tokenizer.encode("two")
    first = CHARS(ids, max_new_tokens=5, seed=1)
    assert first.text == CHARS("two", max_new_tokens=5, seed=1).text
    more = CHARS(first.prompt_ids + first.ids, max_new_tokens=5, seed=2)
    assert more.ids == drawn(CHARS, ids + first.ids, 5, 2)


class Integer:
    """An integer of another type, as NumPy has them."""

    def __init__(self, value):
        self._value = value

    def __index__(self):
        return self._value


@pytest.mark.parametrize("form", [
    tuple, iter, lambda ids: array("i", ids), lambda ids: memoryview(array("q", ids)),
    lambda ids: [Integer(token) for token in ids], lambda ids: map(Integer, ids)])
def test_ids_may_be_any_sequence_of_integers(form):
    text = CHARS(form([3, 1, 2]), max_new_tokens=5, seed=1)
    assert text.prompt_ids == [3, 1, 2] and set(map(type, text.prompt_ids)) == {int}
    assert text.ids == drawn(CHARS, [3, 1, 2], 5, 1)
    texts = CHARS([form([3, 1, 2]), "two"], max_new_tokens=5, seed=1)
    assert texts[0].ids == text.ids and texts[1].ids == drawn(CHARS, "two", 5, 1)
    assert CHARS(range(1, 4), max_new_tokens=1).prompt_ids == [1, 2, 3]


@pytest.mark.parametrize("prompts", [
    lambda: (text for text in ("two", "one")), lambda: iter(["two", "one"]),
    lambda: ([3, 1], range(2)), lambda: memoryview(bytes(4)).cast("B", (2, 2))])
def test_several_prompts_may_be_any_sequence_or_iterator(prompts):
    texts = CHARS(prompts(), max_new_tokens=3, seed=1)
    alone = [CHARS(prompt if isinstance(prompt, str) else list(prompt), max_new_tokens=3, seed=1)
             for prompt in (prompts().tolist() if hasattr(prompts(), "tolist") else prompts())]
    assert len(texts) == 2 and [text.ids for text in texts] == [text.ids for text in alone]


@pytest.mark.parametrize("prompt", [3, None, b"two", {"two"}, [b"two"], [None], [True], [1.0],
                                    {3: 4}, [{3}]])
def test_what_is_no_prompt_is_refused(prompt):
    with pytest.raises(TypeError, match="^prompt="):
        CHARS(prompt)


@pytest.mark.parametrize("prompt, message", [
    ([[]], f"^prompt 0: the prompt has 0 tokens; this model takes 1..n_positions={P}$"),
    (["two", []], "^prompt 1: the prompt has 0 tokens"), (array("i"), "^the prompt has 0 tokens"),
    (range(0), "^the prompt has 0 tokens"), ([1, 2.5], r"^prompt\[1\]=2.5 is not an integer"),
    ([1, 999], r"^prompt\[1\]=999 is not in 0.."), ([[1], [-1]], r"^prompt 1: prompt\[0\]=-1 ")])
def test_ids_that_the_model_cannot_read_are_named(prompt, message):
    with pytest.raises(ValueError, match=message):
        CHARS(prompt)


def test_logprobs_are_those_of_the_ids():
    ids = LONG.tokenizer.encode("two")
    text = LONG("two", max_new_tokens=9, seed=4, logprobs=2, **FREE)
    assert text.logprobs == LONG.model.generate(ids, 9, seed=4, logprobs=2, **FREE,
                                                vocab_size=LONG.tokenizer.vocab_size)
    assert text.ids == [choice.token for choice in text.logprobs]


# ---------------------------------------------------------------------------------- its pieces ---

def test_pieces_are_whole_characters_and_computed_when_asked_for(rows):
    ids = drawn(BYTES, "two", 60, 3, **FREE)
    rows.clear()
    stream = BYTES.stream("two", max_new_tokens=60, seed=3, **FREE)
    pieces = []
    assert rows == []
    for piece in stream:
        assert piece and stream.text.endswith(piece)
        pieces.append(piece)
        assert len(rows) == stream.drawn - 1
    assert "".join(pieces) == stream.text == BYTES.tokenizer.decode(ids)
    assert len(pieces) > 30 and list(stream) == [] and stream.finish().text == "".join(pieces)


def caches_made(monkeypatch):
    """Return a list that gets a weak reference to each cache that is made from now on."""
    caches, make = [], GPT.new_cache

    def kept(self, *arguments):
        cache = make(self, *arguments)
        caches.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(GPT, "new_cache", kept)
    return caches


def test_a_text_can_be_left_and_leaves_nothing(monkeypatch):
    """What a stream holds goes at once with the last reference to it: there is no circle."""
    caches = caches_made(monkeypatch)
    stream = CHARS.stream(["two", "one"], seed=3)
    next(stream[0])
    assert caches[0]() is not None
    del stream
    assert caches[0]() is None
    stream = CHARS.stream("two", seed=3)
    next(stream)
    stream.close()
    assert caches[1]() is None and list(stream) == [] and stream.stop is None


@pytest.mark.parametrize("bias, stop", [(0.0, "length"), (100.0, "end")])
def test_a_complete_text_holds_no_cache(bias, stop):
    text = LONG("two", max_new_tokens=3, logit_bias={LONG.tokenizer.end_of_text: bias}, seed=1)
    assert text.stop == stop and text._together._steps is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_leaves_the_texts_where_they_are(error, monkeypatch):
    streams = CHARS.stream(["two", "one"], max_new_tokens=9, seed=3)
    first, other = next(streams[0]), next(streams[1])

    def fails(self, ids):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Cache, "step", fails)
        with pytest.raises(error):
            next(streams[0])
    for stream in streams + streams[::-1]:  # none of them is taken for complete
        with pytest.raises(error):
            stream.finish()
    streams[1].close()
    assert list(streams[1]) == []
    assert [stream.text for stream in streams] == [first, other]
    assert [stream.stop for stream in streams] == [None, None]


def test_an_error_spares_what_is_complete_and_what_was_not_read(monkeypatch):
    streams = CHARS.stream(["two", "one"], max_new_tokens=9, seed=3, stop_strings=["\n"],
                           logit_bias={CHARS.tokenizer.encode("\n")[0]: -100.0})
    expected = drawn_text("one", 4)
    unread = "".join(next(streams[0]) for _ in range(4))
    streams[0].close()
    monkeypatch.setattr(Cache, "step", lambda self, ids: 1 / 0)
    assert list(streams[0]) == [] and streams[0].text == unread
    pieces = []
    with pytest.raises(ZeroDivisionError):
        pieces.extend(next(streams[1]) for _ in range(9))
    assert streams[1].text == expected and streams[1].stop is None


def drawn_text(prompt, count):
    return CHARS.tokenizer.decode(drawn(CHARS, prompt, 9, 3, logit_bias={
        CHARS.tokenizer.encode("\n")[0]: -100.0})[:count])


def test_an_error_in_one_text_reaches_the_others(monkeypatch):
    """The text of a token cannot be told: the token of the others is not lost silently."""
    class Fails(CharTokenizer):
        def decode_bytes(self, ids):
            raise Unusual("of", "two arguments")

    class Unusual(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} {two}")

    streams = CHARS.stream(["two", "one"], max_new_tokens=9, seed=3)
    streams[0]._text._decoder._tokenizer = Fails.train(TEXT)
    with pytest.raises(Unusual, match="^of two arguments$"):
        streams[1].finish()
    with pytest.raises(RuntimeError, match="^Unusual: of two arguments$"):  # it cannot be copied
        streams[0].finish()


def test_an_error_that_is_kept_holds_no_cache(monkeypatch):
    caches = caches_made(monkeypatch)
    streams = CHARS.stream(["two", "one"], max_new_tokens=9, seed=3)
    next(streams[0])
    with monkeypatch.context() as patched:
        patched.setattr(Cache, "step", lambda self, ids: 1 / 0)
        for stream in streams:
            with pytest.raises(ZeroDivisionError):
                stream.finish()
    assert caches[0]() is None


# -------------------------------------------------------------------- samplers of one's own ---

class Last:
    """Chooses the id before the last one."""

    def choose(self, logits, ids):
        return (ids[-1] - 1) % len(logits)


def test_a_sampler_of_ones_own_chooses_the_ids():
    ids = CHARS.tokenizer.encode("two")
    expected = CHARS.model.generate(ids, 5, sampler=Last(), stop=())
    text = CHARS("two", max_new_tokens=5, sampler=Last(), logprobs=1)
    assert text.ids == expected and text.seed is None and text.logprobs[0].token == expected[0]
    texts = CHARS(["two", "two"], max_new_tokens=5, sampler=[Last(), Last()])
    assert [text.ids for text in texts] == [expected] * 2
    shown = text.text
    text = CHARS("two", max_new_tokens=5, sampler=Last(), stop_strings=[shown[2]])
    assert text.text == shown.partition(shown[2])[0] and text.stop == "stop string"
    for refused in ({"temperature": 1.0}, {"seed": 3}):
        with pytest.raises(TypeError, match="is a setting of Sampler, but another sampler"):
            CHARS("two", sampler=Last(), **refused)
    with pytest.raises(TypeError, match="is not a list with a sampler for each prompt"):
        CHARS(["two", "one"], sampler=Last())


# ------------------------------------------------------------------------------ Python threads ---

def test_threads_that_read_texts_of_one_stream_take_turns():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for seed in range(3):
            alone = CHARS(["two", "one", "t"], max_new_tokens=60, seed=seed, **FREE)
            texts = CHARS.stream(["two", "one", "t"], max_new_tokens=60, seed=seed, **FREE)
            # the last text is read by two, each of which gets some of its pieces
            errors, readers = [], [texts[0], texts[1], texts[2], texts[2]]

            def read(text):
                try:
                    text.finish()
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=read, args=(text,)) for text in readers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert errors == []
            assert [(text.text, text.stop) for text in texts] == [
                (text.text, "length") for text in alone]
    finally:
        sys.setswitchinterval(before)


def test_a_text_can_be_left_by_another_thread():
    """Also while none of its text is shown, because it may be the beginning of a stop string. The
    step during which it is left is the last one."""
    n = CHARS.tokenizer.encode("n")[0]
    begun, seen = threading.Event(), []

    def wait(_):
        begun.set()
        end = time.monotonic() + 5
        while not text._text.is_over and time.monotonic() < end:
            time.sleep(0.001)
        seen.append(text._text.is_over)

    text = CHARS.stream("two", max_new_tokens=1000, logit_bias={n: 100.0}, on_step=wait,
                        stop_strings=["n" * 999])
    thread = threading.Thread(target=text.finish)
    thread.start()
    assert begun.wait(10)
    text.close()
    thread.join(10)
    assert not thread.is_alive() and seen == [True] and (text.drawn, text.stop) == (1, None)


# --------------------------------------------------------------------------------- stop strings ---

def cut_by_definition(tokenizer, ids, stop):
    """Return (text, number of ids of which all the text is before a stop string). A token does not
    count that ends within a character."""
    shown, kept = tokenizer.decode(ids).partition(stop)[0], 0
    for count in range(1, len(ids) + 1):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(tokenizer.decode_bytes(ids[:count]), final=count == len(ids))
        if not decoder.getstate()[0] and len(text) <= len(shown):
            kept = count
    return shown, kept


@settings(max_examples=25)
@given(seed=st.integers(0, 99), begin=st.integers(0, 60), length=st.integers(1, 6))
@example(seed=1, begin=4, length=3)
def test_the_ids_of_a_text_are_those_of_what_is_shown(seed, begin, length):
    """Tokens of several characters: a stop string may begin within one."""
    tokenizer, bias = LONG.tokenizer, dict.fromkeys(MERGED, 3.0)
    ids = drawn(LONG, "two", 30, seed, logit_bias=bias)
    whole = tokenizer.decode(ids)
    stop = whole[begin:begin + length] or "\N{SNOWMAN}"
    text = LONG("two", max_new_tokens=30, seed=seed, stop_strings=[stop], logprobs=0,
                logit_bias=bias)
    shown, kept = cut_by_definition(tokenizer, ids, stop)
    assert text.text == shown and text.stop == ("stop string" if stop in whole else "length")
    assert tokenizer.decode(text.ids) == shown
    assert text.ids[:kept] == ids[:kept]
    assert text.ids[kept:] == tokenizer.encode(shown[len(tokenizer.decode(ids[:kept])):])
    assert [choice and choice.token for choice in text.logprobs] == (
        ids[:kept] + [None] * (len(text.ids) - kept))
    assert "".join(LONG.stream("two", max_new_tokens=30, seed=seed, stop_strings=[stop],
                               logit_bias=bias)) == shown


def test_what_is_held_back_is_shown_when_the_text_ends():
    """The text ends with the beginning of a stop string."""
    ids = drawn(CHARS, "two", 12, 1)
    whole = CHARS.tokenizer.decode(ids)
    stream = CHARS.stream("two", max_new_tokens=12, seed=1, stop_strings=[whole[4:] + "one"])
    pieces = list(stream)
    assert "".join(pieces) == stream.text == whole and len(pieces[-1]) == 8
    assert stream.ids == ids and stream.stop == "length"


def test_a_token_is_cut_by_a_stop_string():
    """The example of the page: of a token that is shown in part, the part is encoded anew."""
    tokenizer, count = LONG.tokenizer, 0
    for token in MERGED:
        content = tokenizer.decode([token])
        if len(content) < 3 or "\ufffd" in content:
            continue
        text = LONG("two", max_new_tokens=3, stop_strings=[content[-1]],
                    logit_bias={token: 100.0})
        assert text.text == content.partition(content[-1])[0] and text.drawn == 1
        assert text.ids == tokenizer.encode(text.text) and text.ids != [token]
        count += 1
    assert count > 5


def test_what_the_vocabulary_has_no_smaller_token_for_is_left_out():
    class Pairs(ByteTokenizer):
        """Has tokens of two characters only."""

        def decode_bytes(self, ids):
            return b"".join(bytes([97 + id % 26, 98]) for id in ids)

        def encode(self, text, *options, **named):
            if len(text) % 2:
                raise ValueError("an odd length")
            return [ord(character) - 97 for character in text[::2]]

    text = pipeline_of(Pairs())("abcb", max_new_tokens=3, stop_strings=["b"],
                                logit_bias={0: 100.0})
    assert text.text == "a" and text.ids == [] and text.stop == "stop string"


def test_a_text_that_is_ended_by_a_stop_string_takes_no_further_work(rows):
    texts = CHARS(["two", "one", "three"], max_new_tokens=12, seed=[1, 2, 3], **FREE)
    stop = texts[1].text[3]
    ends = [text.text.find(stop) for text in texts]
    lengths = [12 if end < 0 else end + 1 for end in ends]  # with the token of the stop string
    assert len(set(lengths)) > 1
    rows.clear()
    cut = CHARS(["two", "one", "three"], max_new_tokens=12, seed=[1, 2, 3], stop_strings=[stop],
                **FREE)
    assert [text.drawn for text in cut] == lengths
    assert [text.text for text in cut] == [text.text.partition(stop)[0] for text in texts]
    # the first token comes from reading the prompt; each further one needs a row of a step
    assert rows == [sum(length > step for length in lengths)
                    for step in range(1, max(lengths))]


# -------------------------------------------------------------------------------- several texts ---

def test_each_of_several_texts_is_as_if_it_were_alone():
    prompts = ["two", "one naïve", "t"]
    together = LONG(prompts, max_new_tokens=20, seed=7, **FREE)
    alone = [LONG(prompt, max_new_tokens=20, seed=7, **FREE) for prompt in prompts]
    assert [text.ids for text in together] == [text.ids for text in alone]
    streams = LONG.stream(prompts, max_new_tokens=20, seed=7, **FREE)
    assert ["".join(streams[i]) for i in (2, 0, 1)] == [str(alone[i]) for i in (2, 0, 1)]
    seeds = [5, 6, 5]
    texts = LONG(["two"] * 3, max_new_tokens=20, seed=seeds, **FREE)
    assert [text.seed for text in texts] == seeds and texts[0].text == texts[2].text
    assert texts[0].text != texts[1].text
    assert len({text.seed for text in LONG(["two"] * 3, max_new_tokens=1)}) == 3
    assert CHARS([]) == [] and len(CHARS([[1, 2]], max_new_tokens=1)) == 1
    with pytest.raises(ConfigError, match="2 seeds for 1 prompts"):
        CHARS(["two"], seed=[1, 2])


def test_texts_that_wait_are_not_taken_for_ended():
    """More texts than grow at once; some end at their first token, so that no step has them."""
    count = 3 * MOST_ROWS
    end, seeds = LONG.tokenizer.end_of_text, list(range(count))
    options = dict(max_new_tokens=12, logit_bias={end: 2.5})
    expected = [drawn(LONG, "two", 12, seed, logit_bias={end: 2.5}) for seed in seeds]
    assert {0, 12} < {len(ids) for ids in expected}
    for text, ids in zip(LONG.stream(["two"] * count, seed=seeds, **options), expected):
        text.finish()
        assert text.ids == ids and text.stop == ("length" if len(ids) == 12 else "end")


def test_a_text_that_ends_at_once_waits_for_no_other(rows):
    bias = {LONG.tokenizer.end_of_text: 2.5}
    lengths = [len(drawn(LONG, "two", 8, seed, logit_bias=bias)) for seed in range(60)]
    none, one, most = map(lengths.index, (0, 1, 8))
    for seeds, place, steps in (([none, most], 0, 0), ([most, none], 1, 0),
                                ([one] * MOST_ROWS + [none, most], MOST_ROWS, 1)):
        rows.clear()
        streams = LONG.stream(["two"] * len(seeds), max_new_tokens=8, seed=seeds, logit_bias=bias)
        assert list(streams[place]) == [] and streams[place].stop == "end" and len(rows) == steps


def test_a_text_that_is_closed_lets_the_others_go_on(rows):
    expected = CHARS(["two", "one", "three"], max_new_tokens=9, seed=1, **FREE)
    rows.clear()
    streams = CHARS.stream(["two", "one", "three"], max_new_tokens=9, seed=1, **FREE)
    next(streams[0])
    streams[0].close()
    assert "".join(streams[2]) == expected[2].text and "".join(streams[1]) == expected[1].text
    assert streams[0].text == expected[0].text[:1] and streams[0].stop is None
    assert rows == [2] * 8


def test_each_step_is_told():
    told = []
    CHARS(["two", "one"], max_new_tokens=3)
    for stream in CHARS.stream(["two", "one"], max_new_tokens=3, on_step=told.append):
        stream.finish()
    assert [(p.tokens, p.most, p.ended, p.texts) for p in told] == [
        (2, 6, 0, 2), (4, 6, 0, 2), (6, 6, 2, 2)]
    assert 0 < told[0].seconds < told[2].seconds


# -------------------------------------------------------------------------------------- prompts ---

def test_a_warning_names_the_line_of_the_caller():
    with pytest.warns(UserWarning, match="left out of the prompt: 'Q'$") as told:
        text = CHARS("twQo", max_new_tokens=5, seed=1)
    assert told[0].filename == __file__
    assert text.text == CHARS("two", max_new_tokens=5, seed=1).text
    with pytest.warns(UserWarning, match=f"has 40 tokens, and the model reads the last {P}"):
        assert len(CHARS.stream("t" * 40).prompt_ids) == P
    with pytest.warns(UserWarning, match="has 40 tokens"):
        CHARS.read([1] * 40)


def test_warnings_may_go_elsewhere():
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipeline(CHARS.model, CHARS.tokenizer, on_warning=told.append).read("Q" + "t" * 40)
    assert len(told) == 2


def test_a_strict_pipeline_refuses():
    strict = Pipeline(CHARS.model, CHARS.tokenizer, strict=True)
    for prompt, part in (("twQo", "the character 'Q'"), ("t" * 40, "has 40 tokens"),
                         ([1] * 40, f"1..n_positions={P}")):
        with pytest.raises(ValueError, match=part):
            strict(prompt)
    assert strict("two", max_new_tokens=1).drawn == 1


# ------------------------------------------------------------------------------------ in a file ---

def test_it_opens_a_directory(tmp_path):
    CHARS.model.save_pretrained(tmp_path)
    CHARS.tokenizer.save_pretrained(tmp_path)
    opened = pygpt.Pipeline.from_pretrained(tmp_path)
    assert opened("two", max_new_tokens=5, seed=1).text == CHARS(
        "two", max_new_tokens=5, seed=1).text
    opened = Pipeline.from_pretrained(tmp_path, weights="int8", strict=True)
    assert opened.model.weights == "int8" and opened.strict
    ByteTokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="tokenizer has 256 tokens, the model vocab_size=") as e:
        Pipeline.from_pretrained(tmp_path)
    assert str(e.value).startswith(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no such directory"):
        Pipeline.from_pretrained(tmp_path / "none")


# ------------------------------------------------------------------------------------- progress ---

@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(progress, "PAUSE_SECONDS", 0.0)


def ipython(monkeypatch, shell):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))


def test_a_notebook_shows_progress(hurried, monkeypatch, capsys):
    ipython(monkeypatch, object())
    CHARS(["two", "one"], max_new_tokens=3)
    lines = capsys.readouterr().err.split("\r")
    assert lines[1].startswith("0 of 2 texts, 2 tokens of at most 6, ")
    assert lines[3].startswith("2 of 2 texts, 6 tokens of at most 6, ")
    assert lines[4].isspace() and lines[5:] == [""]  # nothing is left of it


def test_elsewhere_nothing_is_shown_unless_it_is_wanted(hurried, monkeypatch, capsys):
    CHARS("two", max_new_tokens=3)
    ipython(monkeypatch, None)  # IPython was imported, and does not run
    CHARS("two", max_new_tokens=3)
    assert capsys.readouterr().err == ""
    CHARS("two", max_new_tokens=3, progress=True)
    assert "3 tokens of at most 3" in capsys.readouterr().err
    ipython(monkeypatch, object())
    CHARS("two", max_new_tokens=3, progress=False)
    assert capsys.readouterr().err == ""


def test_a_short_call_shows_nothing_and_a_long_one_little(monkeypatch, capsys):
    CHARS("two", max_new_tokens=3, progress=True)
    assert capsys.readouterr().err == ""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.ProgressLine(True) as line:
        for _ in range(1000):
            now[0] += 0.01
            line.update(types.SimpleNamespace(tokens=1, most=2, ended=0, texts=1, seconds=1.0))
    drawn = capsys.readouterr().err.split("\r")[1:-2]
    assert 9 / progress.PAUSE_SECONDS - 2 < len(drawn) <= 9 / progress.PAUSE_SECONDS + 1
