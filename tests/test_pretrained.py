"""Tests GPT.from_pretrained and save_pretrained: every layout and dtype of GPT-2's weights opens as
the same model, takes no more memory than necessary, and can be fine-tuned.

modelfiles.py writes the files; tests/bench/pretrained.py compares with transformers itself.
"""

import json
import math
import os
import re
import struct

import pytest
from modelfiles import (EXPECTED, HEAD, HEAD_ONLY, IDS, MASKS, MODEL, NANOGPT_CONFIG, TENSORS,
                        converted, logits, nanogpt, randomised, refusal, rounded, shards,
                        transposed, without_prefix, write)

import pygpt
from pygpt import GPT, GPTConfig
from pygpt.model import Block, parameter_shapes
from pygpt.backend import kernels
from pygpt.checkpoint import model_files, safetensors


# --------------------------------------------------------------------------------- the layouts ---

@pytest.mark.parametrize("make", [
    lambda d: write(d),
    lambda d: write(d, without_prefix(TENSORS)),
    lambda d: write(d, TENSORS | MASKS),
    lambda d: write(d, without_prefix(TENSORS | MASKS)),
    lambda d: write(d, HEAD | TENSORS),
    lambda d: write(d, HEAD | without_prefix(TENSORS)),
    lambda d: write(d, HEAD_ONLY),
    lambda d: write(d, TENSORS, odd=1),
    lambda d: write(d, TENSORS, odd=2),
    lambda d: shards(d),
    lambda d: shards(d, HEAD | without_prefix(TENSORS) | MASKS, n=5),
    lambda d: write(d, nanogpt(), NANOGPT_CONFIG),
    lambda d: write(d, nanogpt(prefix="_orig_mod."), NANOGPT_CONFIG),
    lambda d: write(d, nanogpt(), odd=3),  # nanoGPT's matrices, GPT-2's config.json
    lambda d: shards(write(d, {}, NANOGPT_CONFIG, "x.safetensors"), nanogpt()),
], ids=["prefix", "no-prefix", "masks", "no-prefix-masks", "head", "no-prefix-head", "head-only",
        "odd-1", "odd-2", "shards", "shards-head-masks", "nanogpt", "nanogpt-compiled",
        "nanogpt-gpt2-config", "nanogpt-shards"])
def test_every_layout_is_the_same_model(tmp_path, make):
    make(tmp_path / "m")
    assert logits(GPT.from_pretrained(tmp_path / "m")) == EXPECTED


def test_nanogpts_settings_are_taken(tmp_path):
    write(tmp_path / "m", nanogpt(), NANOGPT_CONFIG | {"learning_rate": 6e-4})
    config = GPT.from_pretrained(tmp_path / "m").config
    assert (config.n_positions, config.embd_pdrop, config.attn_pdrop, config.resid_pdrop) == (
        8, 0.25, 0.25, 0.25)
    write(tmp_path / "m", nanogpt(), NANOGPT_CONFIG | {"n_positions": 8})
    assert "has nanoGPT's block_size and GPT-2's n_positions" in refusal(tmp_path / "m")


def test_no_biases_are_biases_of_zero(tmp_path):
    zeroed = {name: (*t[:2], bytes(len(t[2]))) if name.endswith(".bias") else t
              for name, t in TENSORS.items()}
    expected = logits(GPT.from_pretrained(write(tmp_path / "zero", zeroed)))
    bare = nanogpt(zeroed, biases=False)
    directory = write(tmp_path / "m", bare, NANOGPT_CONFIG | {"bias": False})
    model = GPT.from_pretrained(directory)
    assert logits(model) == expected != EXPECTED
    model.save_pretrained(tmp_path / "saved")
    assert logits(GPT.from_pretrained(tmp_path / "saved")) == expected
    write(directory, bare, NANOGPT_CONFIG)
    hint = '(a model without biases has "bias": false in its config.json)'
    assert f"is missing {hint}" in refusal(directory)
    write(directory, nanogpt(), NANOGPT_CONFIG | {"bias": False})
    assert ".bias' is not a tensor of the model that config.json describes" in refusal(directory)
    write(directory, bare, NANOGPT_CONFIG | {"bias": False, "n_embd": 10 ** 30})
    assert "wte.weight has shape [11, 8], but config.json asks for [11, 10000" in refusal(directory)


def test_matrices_that_lie_either_way_are_refused(tmp_path):
    mixed = dict(TENSORS)
    for name in ("transformer.h.0.attn.c_attn.weight", "transformer.h.1.mlp.c_fc.weight"):
        mixed = TENSORS | {name: transposed(TENSORS[name])}
        message = refusal(write(tmp_path / "m", mixed))
        assert "weight has shape " in message and "but config.json asks for" in message


def test_a_head_of_its_own_is_refused(tmp_path):
    for row in (0, 6, 10):
        data = bytearray(HEAD["lm_head.weight"][2])
        data[row * 32] ^= 1
        message = refusal(write(tmp_path / "m", TENSORS | {
            "lm_head.weight": ("F32", (11, 8), bytes(data))}))
        assert f"lm_head.weight differs from transformer.wte.weight in row {row}; only" in message
    message = refusal(write(tmp_path / "m", TENSORS | {"lm_head.weight": ("F32", (2, 8),
                                                                          bytes(64))}))
    assert "lm_head.weight has shape [2, 8], but config.json asks for [11, 8]" in message


def test_the_four_sizes_of_gpt2_have_their_parameters():
    """Count the parameters of modules that have no memory yet."""
    for n_embd, n_layer, n_head, parameters in ((768, 12, 12, 124_439_808),
                                                (1024, 24, 16, 354_823_168),
                                                (1280, 36, 20, 774_030_080),
                                                (1600, 48, 25, 1_557_611_200)):
        config = GPTConfig(n_embd=n_embd, n_layer=n_layer, n_head=n_head)
        model = GPT.__new__(GPT)
        model._build(config)
        shapes = {name: p.shape for name, p in model.named_parameters()}
        assert model.num_parameters() == parameters and config.n_positions == 1024
        assert parameter_shapes(config) == shapes


def test_a_claim_of_many_layers_is_compared_without_building_them(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr("pygpt.model.Block", lambda *args: built.append(1) or Block(*args))
    deep = {f"transformer.h.{i}.ln_1.weight": ("F32", (8,), bytes(32)) for i in range(3000)}
    directory = write(tmp_path / "m", deep | TENSORS)
    config = directory / "config.json"
    config.write_text(config.read_text().replace('"n_layer": 2', '"n_layer": 3000'))
    assert re.search(r"transformer\.h\.\d+\.\S+ is missing", refusal(directory))
    assert len(built) == 1


def test_the_width_inside_the_mlp_is_free(tmp_path):
    model = randomised(GPTConfig(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2,
                                 n_inner=20))
    assert dict(model.named_parameters())["transformer.h.1.mlp.c_fc.weight"].shape == (8, 20)
    model.save_pretrained(tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["n_inner"] == 20
    opened = GPT.from_pretrained(tmp_path / "m")
    assert logits(opened) == logits(model) and opened.config.mlp_width == 20
    assert_learns(opened)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"])
def test_names_of_the_same_gelu(tmp_path, name):
    MODEL.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"gelu_new"', f'"{name}"'))
    assert logits(GPT.from_pretrained(tmp_path)) == EXPECTED


# ----------------------------------------------------------------------------------- the dtypes ---

both_halves = pytest.mark.parametrize("name, dtype", [("float16", "F16"), ("bfloat16", "BF16")])


@both_halves
def test_halves_are_written_rounded_and_read_exactly(tmp_path, name, dtype):
    MODEL.save_pretrained(tmp_path / "m", dtype=name)
    tensors, _ = safetensors.read(tmp_path / "m" / "model.safetensors")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["torch_dtype"] == name
    opened = GPT.from_pretrained(tmp_path / "m")
    for parameter, p in opened.named_parameters():
        assert tuple(tensors[parameter])[:2] == (dtype, p.shape)
        assert tensors[parameter].buffer == converted(TENSORS[parameter], dtype)[2]
        assert bytes(p.flat().cast("B")) == rounded(TENSORS[parameter][2], dtype)
    opened.save_pretrained(tmp_path / "again", dtype=name)
    assert ((tmp_path / "again" / "model.safetensors").read_bytes()
            == (tmp_path / "m" / "model.safetensors").read_bytes())


def test_dtypes_and_layouts_mix(tmp_path):
    """Store tensors in three dtypes by turns: plain, sharded, at odd offsets, as nanoGPT does."""
    dtypes = [("F32", "F16", "BF16")[i % 3] for i in range(len(TENSORS))]
    mixed = {name: t if dtype == "F32" else converted(t, dtype)
             for (name, t), dtype in zip(TENSORS.items(), dtypes)}
    plain = {name: t if dtype == "F32" else ("F32", t[1], rounded(t[2], dtype))
             for (name, t), dtype in zip(TENSORS.items(), dtypes)}
    expected = logits(GPT.from_pretrained(write(tmp_path / "plain", plain)))
    assert expected != EXPECTED
    write(tmp_path / "one", mixed)
    shards(tmp_path / "several", mixed)
    write(tmp_path / "odd", mixed, odd=1)
    write(tmp_path / "nanogpt", nanogpt(mixed), NANOGPT_CONFIG, odd=1)
    for name in ("one", "several", "odd", "nanogpt"):
        assert logits(GPT.from_pretrained(tmp_path / name)) == expected, name


def test_what_does_not_fit_a_dtype_is_named_and_nothing_is_written(tmp_path):
    model, directory = randomised(), tmp_path / "m"
    model.save_pretrained(directory)
    before = {path: path.read_bytes() for path in directory.iterdir()}
    bias = dict(model.named_parameters())["transformer.h.1.attn.c_attn.bias"].flat()
    bias[3] = 65520.0
    with pytest.raises(ValueError, match=r"^transformer.h.1.attn.c_attn.bias: holds 65520; "
                       "the largest float16 is 65504$"):
        model.save_pretrained(directory, dtype="float16")
    bias[3] = -3.4e38
    with pytest.raises(ValueError, match=r"holds -3.4e\+38; the largest bfloat16 is 3.38953e"):
        model.save_pretrained(directory, dtype="bfloat16")
    with pytest.raises(TypeError, match="^dtype=None is not a str$"):
        model.save_pretrained(directory, dtype=None)
    for dtype in "float64", "F16":
        with pytest.raises(ValueError, match=f"dtype={dtype!r} is not 'float32' or 'float16' or"):
            model.save_pretrained(directory, dtype=dtype)
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
    bias[3], bias[4] = math.inf, math.nan  # every dtype has these
    model.save_pretrained(directory, dtype="float16")


# ----------------------------------------------------------------------------- memory, training ---

def test_opening_float32_takes_no_memory(tmp_path, taken):
    MODEL.save_pretrained(tmp_path / "f32")
    shards(tmp_path / "shards")
    GPT.from_pretrained(tmp_path / "f32")
    GPT.from_pretrained(tmp_path / "shards")
    assert taken == []
    MODEL.save_pretrained(tmp_path / "bf16", "bfloat16")
    taken.clear()
    GPT.from_pretrained(tmp_path / "bf16")
    assert sum(taken) == 4 * MODEL.num_parameters()


@pytest.mark.parametrize("odd", [1, 2, 3])
def test_kernels_get_no_half_of_a_number(tmp_path, taken, odd):
    """Compiled loops may count on a number's alignment, even where single loads do not."""
    model = GPT.from_pretrained(write(tmp_path / "f32", odd=odd))
    assert all(kernels.address(p.ptr)[0] % 4 == 0 for _, p in model.named_parameters())
    assert sum(taken) == 4 * MODEL.num_parameters()
    _, stored, _ = model_files.read_model(tmp_path / "f32", parameter_shapes)
    assert not any(weight.is_used_in_place for weight in stored.values())
    taken.clear()
    halves = {name: converted(t, "BF16") for name, t in TENSORS.items()}
    GPT.from_pretrained(write(tmp_path / "bf16", halves, odd=odd))
    assert sum(taken) == (4 + 2 * (odd % 2)) * MODEL.num_parameters()


def test_weights_larger_than_memory_are_refused(tmp_path, monkeypatch):
    """Open a file that claims 4 million numbers and takes a few kB on the disk."""
    V = 600_000
    tensors = TENSORS | {"transformer.wte.weight": ("F32", (0, 8), b"")}
    tensors = {name: converted(t, "F16") for name, t in tensors.items()}
    directory = write(tmp_path / "m", dict(sorted(tensors.items(), key=lambda item: item[0][-9:]
                                                  == "te.weight")))
    path = directory / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8:8 + size]), len(data) - 8 - size
    header["transformer.wte.weight"] |= {"shape": [V, 8], "data_offsets": [rest, rest + 16 * V]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])
    os.truncate(path, 8 + len(text) + rest + 16 * V)
    config = directory / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 11', f'"vocab_size": {V}'))
    monkeypatch.setattr(model_files, "memory_limits", lambda: (30 << 20, 10 << 20))
    assert re.search("model.safetensors: as float32 its weights take 19 MB of memory, and 10 MB "
                     "are free", refusal(directory, MemoryError))
    monkeypatch.undo()
    assert GPT.from_pretrained(directory).config.vocab_size == V


def assert_learns(model):
    model.train()
    optimizer = pygpt.AdamW(model, lr=1e-2)
    losses = []
    for _ in range(30):
        losses.append(model.loss_and_grad(IDS, [row[1:] + [0] for row in IDS]))
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "nanogpt", "shards"])
def test_fine_tuning_lowers_the_loss_and_leaves_the_files(tmp_path, kind):
    directory = tmp_path / "m"
    if kind == "nanogpt":
        write(directory, nanogpt(), NANOGPT_CONFIG | {"dropout": 0.0})
    elif kind == "shards":
        shards(directory)
    else:
        MODEL.save_pretrained(directory, kind)
    before = {path: path.read_bytes() for path in directory.iterdir()}
    assert_learns(GPT.from_pretrained(directory))
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
