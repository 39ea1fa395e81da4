"""Tests decoding.Cache: each text as if alone, whatever its neighbours, and as the whole model."""

import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import bits, randomise, tiny
from sharing import needs_threads, shared_among

import pygpt
from pygpt.autograd.launch import calling
from pygpt.autograd.tape import no_grad
from pygpt.backend import kernels
from pygpt.backend.kernels import Memory, check_status
from pygpt.model import GPT

MODEL = randomise(tiny(n_positions=24)).eval()
TEXTS = st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=12), min_size=1, max_size=18)


def alone(ids, prompt):
    """Return the bits of the logits after each id from the prompt's end on, of a text alone."""
    cache = MODEL.new_cache()
    return [bits(cache.read(0, ids[:prompt]))] + [bits(cache.read(0, [i])) for i in ids[prompt:]]


@given(texts=TEXTS, seed=st.integers(0, 99))
def test_each_text_of_a_cache_is_as_if_alone(texts, seed):
    """Texts of different lengths grow together; the cache is moved and read again meanwhile."""
    rng = random.Random(seed)
    cache, seen = MODEL.new_cache(len(texts)), []
    texts = [(list(ids), len(ids)) for ids in texts]
    for row, (ids, _) in enumerate(texts):
        seen.append([bits(cache.read(row, ids))])
    for _ in range(5):
        n = rng.randint(1, len(texts))
        new = [rng.randrange(11) for _ in range(n)]
        logits = cache.step(new)
        for row in range(n):
            texts[row][0].append(new[row])
            seen[row].append(bits(logits[row]))
        a, b = rng.randrange(len(texts)), rng.randrange(len(texts))
        if rng.random() < 0.3:
            cache.move(a, b)
            texts[b], seen[b] = (list(texts[a][0]), texts[a][1]), list(seen[a])
        elif rng.random() < 0.2:
            cache.forget(a)
            ids = [rng.randrange(11) for _ in range(rng.randint(1, 9))]
            texts[a], seen[a] = (ids, len(ids)), [bits(cache.read(a, ids))]
    for (ids, prompt), found in zip(texts, seen):
        assert found == alone(ids, prompt)


def test_many_texts_have_the_bits_that_each_has_alone():
    """More than a pass takes together, and enough channels for sums in several vectors."""
    model = randomise(tiny(n_embd=72, vocab_size=40)).eval()
    cache, alone = model.new_cache(35), [model.new_cache() for _ in range(35)]
    for step in range(2):
        ids = [(7 * row + step) % 40 for row in range(35)]
        assert list(map(bits, cache.step(ids))) == [
            bits(own.read(0, [token])) for own, token in zip(alone, ids)]


@given(ids=st.lists(st.integers(0, 10), min_size=2, max_size=24), seed=st.integers(0, 99))
def test_a_cache_agrees_with_the_whole_model_at_every_position(ids, seed):
    """However the text is divided: into a prompt, further pieces and single ids."""
    rng, cache, at = random.Random(seed), MODEL.new_cache(), 0
    with no_grad():
        whole = MODEL([ids]).tolist()[0]
    while at < len(ids):
        length = rng.choice((1, 1, 2, 5))
        got = cache.read(0, ids[at:at + length]).tolist()
        at = min(at + length, len(ids))
        # sums of at most 64 products in two orders, through two layers
        assert max(abs(a - b) for a, b in zip(got, whole[at - 1])) < 1e-4
    assert cache.past == len(ids)


@needs_threads
def test_no_bit_depends_on_the_number_of_threads():
    found = []
    for threads in 1, 2, 3:
        with shared_among(threads):
            cache = MODEL.new_cache(3)
            prompts = [bits(cache.read(row, [1, 2, 3][:row + 1])) for row in range(3)]
            found.append(prompts + [list(map(bits, cache.step([4, 5, 6]))) for _ in range(3)])
    assert found[0] == found[1] == found[2]


def test_a_recorded_step_equals_one_that_runs_op_by_op_and_reads_new_weights():
    def run(model, changed):
        cache, found = model.new_cache(2), []
        for step in range(4):
            if step == 2:
                flat = changed.flat()
                for i in range(len(flat)):
                    flat[i] *= 1.5
            found += map(bits, cache.step([step, step + 1]))
        return found

    models = [randomise(tiny()) for _ in range(2)]
    recorded = run(models[0], models[0].transformer.h[0].mlp.c_fc.weight)
    with calling(lambda kernel, args: check_status(kernel(*args))):  # nothing is recorded
        eager = run(models[1], models[1].transformer.h[0].mlp.c_fc.weight)
    assert recorded == eager and len(set(recorded)) == 8


@pytest.mark.parametrize("change", [
    lambda model: setattr(model, "compute_dtype", "bfloat16"),
    lambda model: setattr(model.transformer.h[0].attn, "n_head", 2),
    lambda model: setattr(model.transformer, "h", model.transformer.h[:1]),
    lambda model: setattr(model.transformer.ln_f, "eps", 0.5)])
def test_decode_notices_that_the_model_has_changed(change):
    model, other = randomise(tiny()), randomise(tiny())
    cache = model.new_cache()
    model.decode([1], cache), model.decode([2], cache)
    change(model), change(other)
    expected = other.new_cache()
    with calling(lambda kernel, args: check_status(kernel(*args))):
        for layer, theirs in zip(cache._layers, expected._layers or [expected.layer(i)
                                                                    for i in range(2)]):
            for a, b in zip(layer, theirs):
                b.flat()[:] = a.flat()
        expected.pasts[0] = 2
        wanted = bits(other.decode([3], expected))
    assert bits(model.decode([3], cache)) == wanted


def test_a_full_cache_and_bad_ids_change_nothing():
    model = randomise(tiny())
    cache = model.new_cache(2, length=4)
    cache.read(0, [1, 2, 3])
    cache.read(1, [1])
    for call, message in (
            (lambda: cache.read(0, [1, 2]), r"3 \+ 2 positions are more than the cache's length=4"),
            (lambda: cache.step([1, 99]), "ids: 99 is outside 0..10"),
            (lambda: cache.step([1, "a"]), "'a'"), (lambda: cache.read(1, [-1, 2]), "ids: -1"),
            (lambda: cache.read(1, []), "0 positions"),
            (lambda: model.new_cache(0), "rows=0, length=8: a cache has"),
            (lambda: model.new_cache(1, 9), "rows=1, length=9: a cache has"),
            (lambda: cache.read(-1, [1, 2]), "row=-1 is not a text of a cache of 2 texts"),
            (lambda: cache.read(2, [1, 2]), "row=2"), (lambda: cache.forget(5), "row=5"),
            (lambda: cache.move(0, 2), "row=2"), (lambda: cache.move(-1, 0), "row=-1"),
            (lambda: cache.step([1, 1, 1]), "3 ids for a cache of 2 texts"),
            (lambda: cache.step([]), "0 ids for a cache of 2 texts")):
        with pytest.raises(ValueError, match=message):
            call()
        assert list(cache.pasts) == [3, 1]
    cache.step([1, 1])
    cache.pasts[0] = 3
    for ids, message in ([1, 99], "ids: 99 is outside 0..10"), ([-5, 1], "ids: -5 is outside"):
        with pytest.raises(ValueError, match=message):
            cache.step(ids)  # by the recorded step
    cache.pasts[0] = 4
    with pytest.raises(ValueError, match=r"4 \+ 1 positions"):
        cache.step([1, 1])
    assert list(cache.pasts) == [4, 2]


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_step_reads_the_weights_wherever_they_have_moved(name, tmp_path):
    """The first loss moves the weights of an opened model to flat buffers; in bfloat16 it makes a
    copy of them, which a write through a view outdates."""
    randomise(tiny()).save_pretrained(tmp_path)
    models = [GPT.from_pretrained(tmp_path, compute_dtype=name) for _ in range(2)]
    caches = [model.new_cache(2) for model in models]
    for model, cache in zip(models, caches):
        cache.step([1, 2])
        optimizer = None
        for _ in range(2):
            model.loss_and_grad([[1, 2, 3]], [[2, 3, 4]])
            optimizer = optimizer or pygpt.AdamW(model, lr=0.1)
            optimizer.step()
            optimizer.zero_grad()
        if cache is caches[1]:
            cache._steps.clear()  # what it would have recorded anew
        cache.step([3, 4])
        weight = model.transformer.h[0].mlp.c_fc.weight.flat()
        for i in range(len(weight)):
            weight[i] = -weight[i]
    after = [list(map(bits, cache.step([5, 6]))) for cache in caches]
    assert after[0] == after[1]
    caches[1]._steps.clear()
    assert list(map(bits, caches[0].step([7, 8]))) == list(map(bits, caches[1].step([7, 8])))


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("row", [0, 1])
def test_kernels_refuse_positions_outside_the_cache_before_they_write(row, T):
    """In a replay no Python checks them: two rows, of which one is bad. P = 4 positions."""
    B, C, V, P = 2, 8, 5, 4
    for past, status in ((-1, kernels.ERANGE), (0, 0), (P - T, 0), (P - T + 1, kernels.ERANGE),
                         (2 ** 31 - 1, kernels.ERANGE), (-2 ** 31, kernels.ERANGE)):
        pasts = of("i", [past if b == row else 0 for b in range(B)])
        out, ids = of("f", [7.0] * (B * T * C)), of("i", [1] * (B * T))
        keys, values = of("f", [7.0] * (B * P * C)), of("f", [7.0] * (B * P * C))
        tables = [of("f", [0.5] * (n * C)) for n in (V, P)]
        qkv = of("f", [0.5] * (B * T * 3 * C))
        untouched = [m.view.tobytes() for m in (out, keys, values)]
        found = kernels.lib.embedding_forward(
            out.pointer("f"), ids.pointer("i"), *[table.pointer("f") for table in tables],
            pasts.pointer("i"), B, T, C, V, P)
        assert found == status and (out.view.tobytes() == untouched[0]) == (status != 0)
        out.view[:] = untouched[0]
        found = kernels.lib.attention_cached(
            out.pointer("f"), keys.pointer("f"), values.pointer("f"),
            qkv.pointer("f"), pasts.pointer("i"), B, T, C, 2, P, kernels.FLOAT32)
        assert found == status
        if status:
            assert [m.view.tobytes() for m in (out, keys, values)] == untouched


def of(code, numbers):
    """Return Memory of these numbers."""
    memory = Memory(4 * len(numbers))
    memory.view.cast(code)[:] = memoryview(array(code, numbers))
    return memory


def test_a_replay_refuses_positions_that_python_does_not_check():
    cache = MODEL.new_cache(2)
    for _ in range(2):
        cache.step([1, 2])
    cache.pasts[1] = -1
    with pytest.raises(kernels.IdRangeError):
        cache.step([1, 2])


def test_the_recorded_steps_are_kept_up_to_a_number():
    """Texts end and begin again, so that all sizes of a pass return; but each takes memory."""
    cache = MODEL.new_cache(16)
    for n in range(1, 17):
        cache.step([1] * n)
    kept = dict(cache._steps)
    for n in (16, 3):
        cache.step([1] * n)
    assert cache._steps == kept and len(kept) == 16
    cache = MODEL.new_cache(40)
    for n in (*range(1, 24), 40, 40):
        for row in range(n):
            cache.forget(row)
        assert len(set(map(bits, cache.step([1] * n)))) == 1 and len(cache._steps) <= 18


def test_a_row_may_begin_with_the_first_positions_of_another():
    """Also of one that was forgotten, and of itself."""
    cache, alone = MODEL.new_cache(3), MODEL.new_cache()
    first = bits(alone.read(0, [1, 2, 3]))
    then = bits(alone.step([9])[0])
    assert bits(cache.read(0, [1, 2, 3])) == first
    for token in 4, 5:
        cache.step([token])
    cache.forget(0)
    for source, target in ((0, 2), (2, 1), (0, 0)):
        cache.move(source, target, 3)
    assert list(cache.pasts) == [3, 3, 3]
    assert list(map(bits, cache.step([9, 9, 9]))) == [then] * 3
    for past in -1, 25:
        with pytest.raises(ValueError, match=f"past={past} is not in 0..24, the cache's length"):
            cache.move(0, 1, past)
