"""Tests weights at rest in 16 and 8 bits: the ops, a quantized model, and its files."""

import copy
import math
import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import bits, draw_ids, randomise, tiny

import pygpt
from pygpt.autograd import ops
from pygpt.autograd.launch import calling
from pygpt.autograd.ops.at_rest import FORMS, PROMPT_ROWS, WeightAtRest
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor
from pygpt.backend.kernels import check_status
from pygpt.checkpoint import safetensors
from pygpt.checkpoint.safetensors import CheckpointError
from pygpt.model import GPT

# The widths are not multiples of a group of 64; c_proj of attention is square.
MODEL = randomise(tiny(n_positions=64, n_embd=72, n_head=4), 0.1).eval()


def matrix(rng, *shape):
    return Tensor([[rng.gauss(0, 1) for _ in range(shape[1])] for _ in range(shape[0])])


@settings(max_examples=15)
@given(IN=st.sampled_from((1, 5, 63, 64, 65, 130)), OUT=st.integers(1, 20), turned=st.booleans(),
       form=st.sampled_from(FORMS), seed=st.integers(0, 99))
def test_a_weight_comes_back_within_half_a_step(IN, OUT, turned, form, seed):
    weight = matrix(random.Random(seed), *((IN, OUT) if turned else (OUT, IN)))
    at_rest = WeightAtRest.of(weight, form, turned)
    assert at_rest.shape == (OUT, IN)
    back = list(at_rest.as_parameter())
    for i, (before, after) in enumerate(zip(weight.flat(), back)):
        if form == "bfloat16":
            step = 2.0 ** (math.frexp(before)[1] - 8) if before else 0.0
        else:  # the largest of the group, which is part of a row, or with turned of a column
            row, column = divmod(i, OUT if turned else IN)
            out, place = (column, row) if turned else (row, column)
            group = range(place // 64 * 64, min(place // 64 * 64 + 64, IN))
            step = max(abs(weight.flat()[j * OUT + out if turned else out * IN + j])
                       for j in group) / 127
        assert abs(after - before) <= step / 2 * (1 + 1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_prompt_and_its_last_rows_alone_agree(form):
    """Many rows go another way than few: through widened weights. int8 rounds few rows' inputs to
    16 bits."""
    rng = random.Random(1)
    weight, bias = WeightAtRest.of(matrix(rng, 30, 100), form, False), matrix(rng, 1, 30)
    bias = ops.reshape(bias, (30,))
    x = ops.reshape(matrix(rng, PROMPT_ROWS, 100), (1, PROMPT_ROWS, 100))
    for gelu in (False, True):
        with no_grad():
            many = ops.at_rest.linear(x, weight, bias, gelu).tolist()[0]
            few = ops.at_rest.linear(Tensor([row[-3:] for row in x.tolist()]), weight, bias,
                                     gelu).tolist()[0]
        largest = max(map(abs, x.flat()))
        # each of 100 products is off by a rounding of x (2^-16 of the largest) and of the sum
        allowed = 100 * max(map(abs, weight.widened().flat())) * largest * (2.0 ** -15)
        assert all(abs(a - b) <= allowed for u, v in zip(many[-3:], few) for a, b in zip(u, v))


@pytest.mark.parametrize("form", FORMS)
def test_a_quantized_model_is_close_and_its_texts_do_not_depend_on_one_another(form):
    small = MODEL.quantize(form)
    ids = draw_ids(random.Random(2), 2, 40)
    with no_grad():
        loss, quantized = float(MODEL.loss(ids, ids)), float(small.loss(ids, ids))
    assert abs(loss - quantized) < 0.01 * loss and loss != quantized
    cache = small.new_cache(2)
    for row in range(2):
        cache.read(row, ids[row][:5 + row])
    together = list(map(bits, cache.step([1, 2])))
    for row in range(2):
        alone = small.new_cache()
        alone.read(0, ids[row][:5 + row])
        assert bits(alone.read(0, [row + 1])) == together[row]
    assert small.weights == form and MODEL.weights == "float32"


def test_the_original_may_go_on_without_changing_the_copy():
    model = randomise(tiny())
    small = model.quantize("int8")
    before = bits(small.decode([1, 2], small.new_cache()))
    randomise(model, seed=5)
    assert bits(small.decode([1, 2], small.new_cache())) == before


@pytest.mark.parametrize("form", FORMS)
def test_saved_and_opened_it_is_the_same_model(form, tmp_path):
    small = MODEL.quantize(form)
    small.save_pretrained(tmp_path / "as-it-is")
    small.save_pretrained(tmp_path / "wide", "float32")
    opened = GPT.from_pretrained(tmp_path / "as-it-is", weights=form)
    wide = GPT.from_pretrained(tmp_path / "wide")
    assert (opened.weights, wide.weights) == (form, "float32")
    with no_grad():
        expected = small([[1, 2, 3]]).tolist()
        assert opened([[1, 2, 3]]).tolist() == expected
        again = wide.quantize(form)([[1, 2, 3]]).tolist()
    assert all(abs(a - b) < 1e-3 for u, v in zip(again[0], expected[0]) for a, b in zip(u, v))
    for (name, a), (_, b) in zip(small.weights_at_rest(), opened.weights_at_rest()):
        assert bytes(a.values.view) == bytes(b.values.view), name
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size
             for name in ("as-it-is", "wide")]
    assert sizes[0] < (0.65 if form == "bfloat16" else 0.55) * sizes[1]


def test_files_in_int8_say_so_and_open_as_they_are_or_wider(tmp_path):
    """Wider weights are exactly those that int8 holds; bfloat16 rounds them."""
    small = MODEL.quantize("int8")
    small.save_pretrained(tmp_path)
    assert GPT.from_pretrained(tmp_path).weights == "int8"
    wide = GPT.from_pretrained(tmp_path, weights="float32")
    parameters = dict(wide.named_parameters())
    assert wide.weights == "float32" and parameters.keys() == dict(
        MODEL.named_parameters()).keys()
    for name, weight in small.weights_at_rest():
        assert parameters[name].read().tolist() == weight.as_parameter().tolist(), name
    half, expected = GPT.from_pretrained(tmp_path, weights="bfloat16"), wide.quantize("bfloat16")
    assert half.weights == "bfloat16"
    for (name, a), (_, b) in zip(half.weights_at_rest(), expected.weights_at_rest()):
        assert bytes(a.values.view) == bytes(b.values.view), name


def test_what_is_not_possible_is_refused_by_name(tmp_path):
    small = MODEL.quantize("int8")
    with pytest.raises(ValueError, match="in int8 passes no gradient on"):
        small.loss_and_grad([[1]], [[2]])
    for call in (lambda: MODEL.quantize("int4"),
                 lambda: GPT.from_pretrained(tmp_path, weights="int4")):
        with pytest.raises(ValueError, match="weights='int4' is not 'bfloat16' or 'int8'"):
            call()
    with pytest.raises(ValueError, match="the weights rest in int8 already"):
        small.quantize("bfloat16")


def damaged(tensors, name):
    kind, part = name
    key = next(key for key in tensors if key.endswith("c_fc.weight" + part))
    dtype, shape, data = tensors[key]
    if kind == "missing":
        del tensors[key]
    elif kind == "shape":
        tensors[key] = dtype, (1, *shape), data
    elif kind == "dtype":
        tensors[key] = "U8" if dtype == "I8" else "I32", shape, data
    return key


@pytest.mark.parametrize("part", ["", ".scales"])
@pytest.mark.parametrize("kind", ["missing", "shape", "dtype"])
def test_a_damaged_file_names_the_tensor(kind, part, tmp_path):
    MODEL.quantize("int8").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {name: (e.dtype, e.shape, bytes(e.buffer))
               for name, e in safetensors.read(path)[0].items()}
    key = damaged(tensors, (kind, part))
    safetensors.write(path, [(name, *entry) for name, entry in tensors.items()], {})
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        pygpt.GPT.from_pretrained(tmp_path)


def test_a_copy_and_a_pickle_are_the_same_model_and_keep_its_settings():
    model = randomise(tiny())
    model.end_of_text, model.compute_dtype = (3, 4), "bfloat16"
    for form in FORMS:
        small = model.quantize(form)
        expected = bits(small.decode([1, 2], small.new_cache()))
        for twin in copy.deepcopy(small), pickle.loads(pickle.dumps(small)):
            assert bits(twin.decode([1, 2], twin.new_cache())) == expected
            assert (twin.weights, twin.end_of_text) == (form, (3, 4))
            assert twin.compute_dtype == "bfloat16"


def test_a_prompt_goes_through_widened_weights_and_a_step_does_not():
    small, used = MODEL.quantize("int8"), []
    with calling(lambda kernel, args: (used.append(kernel.__name__),
                                       check_status(kernel(*args)))):
        small.new_cache().read(0, [1] * PROMPT_ROWS)
        prompt, used[:] = list(used), []
        many = small.new_cache(PROMPT_ROWS + 1)
        many.step([1] * (PROMPT_ROWS + 1))
    assert "dequantize_int8" in prompt and "linear_forward" in prompt
    assert "linear_int8" in used and "dequantize_int8" not in used


def test_a_weight_too_large_for_bfloat16_becomes_infinite_as_in_every_product():
    at_rest = WeightAtRest.of(Tensor([[3.4e38, 1.0]]), "bfloat16", False)
    assert list(at_rest.as_parameter()) == [math.inf, 1.0]


def test_scales_at_an_odd_place_of_a_file_are_read(tmp_path):
    small = MODEL.quantize("int8")
    small.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = [(name, e.dtype, e.shape, bytes(e.buffer))
               for name, e in safetensors.read(path)[0].items()]
    is_scale = [t for t in tensors if t[0].endswith(".scales")]
    others = [t for t in tensors if not t[0].endswith(".scales")]
    safetensors.write(path, [*others, *is_scale], {})
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    path.write_bytes((size + 1).to_bytes(8, "little") + data[8:8 + size] + b" " + data[8 + size:])
    opened = GPT.from_pretrained(tmp_path)
    with no_grad():
        assert opened([[1, 2]]).tolist() == small([[1, 2]]).tolist()


def test_training_refuses_weights_in_int8_before_it_writes(tmp_path):
    MODEL.quantize("int8").save_pretrained(tmp_path / "small")
    (tmp_path / "text").write_text("some text to learn from " * 50)
    with pytest.raises(ValueError, match="its weights are int8, which cannot be trained"):
        pygpt.train(pygpt.TrainConfig(init=tmp_path / "small", tokenizer="char",
                                      data=[tmp_path / "text"], out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
