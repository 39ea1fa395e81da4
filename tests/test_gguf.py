"""Checks the GGUF files that tests/bench/gguf.py writes for llama.cpp, by reading them back."""

import importlib
import struct
import sys
from pathlib import Path

import ggufreader
import pytest

import pygpt

SHAPE = dict(vocab_size=131, n_positions=32, n_embd=64, n_layer=2, n_head=2)


@pytest.fixture
def gguf(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "bench"))
    yield importlib.import_module("gguf")
    sys.modules.pop("gguf")


def small_model(**changes):
    """Return a model whose parameters all differ, vectors too."""
    model = pygpt.GPT(pygpt.GPTConfig(**SHAPE | changes))
    for i, (_, parameter) in enumerate(model.named_parameters()):
        values = parameter.flat()
        for j in range(len(values)):
            values[j] += 0.01 * i + 0.001 * (j % 50)
    return model


def decoded(kind, data):
    """Return the floats of a tensor of type F32, BF16 or Q8_0."""
    if kind == 0:
        return struct.unpack(f"<{len(data) // 4}f", data)
    if kind == 30:
        halves = struct.unpack(f"<{len(data) // 2}H", data)
        return struct.unpack(f"<{len(halves)}f", struct.pack(f"<{len(halves)}I", *(
            half << 16 for half in halves)))
    blocks = struct.iter_unpack("<e32b", data)
    return [scale * q for scale, *block in blocks for q in block]


def expected(model):
    """Return {llama.cpp's name: (sizes, floats)}; the names are those of its source, gpt2.cpp."""
    own = {name: p.tolist() for name, p in model.named_parameters()}
    found = {}

    def add(theirs, ours):
        values = own.pop(f"transformer.{ours}")
        if isinstance(values[0], list):
            if ours not in ("wte.weight", "wpe.weight"):
                values = list(zip(*values))
            found[theirs] = [len(values[0]), len(values)], [x for row in values for x in row]
        else:
            found[theirs] = [len(values)], values

    add("token_embd.weight", "wte.weight")
    add("position_embd.weight", "wpe.weight")
    for kind in ("weight", "bias"):
        add(f"output_norm.{kind}", f"ln_f.{kind}")
        for i in range(model.config.n_layer):
            for theirs, ours in (("attn_norm", "ln_1"), ("attn_qkv", "attn.c_attn"),
                                 ("attn_output", "attn.c_proj"), ("ffn_norm", "ln_2"),
                                 ("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")):
                add(f"blk.{i}.{theirs}.{kind}", f"h.{i}.{ours}.{kind}")
    assert not own
    return found


@pytest.mark.parametrize("form, file_type, number", [("float32", 0, 0), ("bfloat16", 32, 30),
                                                     ("int8", 7, 8)])
def test_a_gguf_file_is_read_back(gguf, tmp_path, form, file_type, number):
    model = small_model()
    gguf.write(tmp_path / "file", model, form)
    metadata, tensors = ggufreader.read(tmp_path / "file")
    epsilon = metadata.pop("gpt2.attention.layer_norm_epsilon")
    assert epsilon == pytest.approx(1e-5, rel=1e-6)
    assert metadata == {
        "general.architecture": "gpt2", "general.name": "GPT", "general.file_type": file_type,
        "gpt2.context_length": 32, "gpt2.embedding_length": 64, "gpt2.block_count": 2,
        "gpt2.feed_forward_length": 256, "gpt2.attention.head_count": 2, "gpt2.vocab_size": 131,
        "tokenizer.ggml.model": "none"}
    wanted = expected(model)
    assert tensors.keys() == wanted.keys()
    for name, (sizes, kind, data) in tensors.items():
        is_matrix = len(sizes) == 2 and name != "position_embd.weight"
        assert sizes == wanted[name][0] and kind == (number if is_matrix else 0), name
        floats, values = decoded(kind, data), wanted[name][1]
        assert len(floats) == len(values)
        for i in range(0, len(values), 32):
            block = values[i:i + 32]
            largest = max(map(abs, block))
            for a, b in zip(floats[i:i + 32], block):
                # Rounding to bfloat16's 8 bits changes a number by 2^-8 of it at most. In Q8_0 a
                # step is a 127th of the largest, by a scale of 11 bits, and the number is off by
                # half a step (and a rounding of float32 here and there).
                allowed = {0: 0, 30: abs(b) * 2 ** -8,
                           8: largest * (0.5 / 127 + 2 ** -11) * 1.0001}[kind]
                assert abs(a - b) <= allowed, name


def test_rows_that_are_no_blocks_are_refused_and_leave_no_file(gguf, tmp_path):
    model = small_model(n_embd=48, n_head=2)
    with pytest.raises(ValueError, match="transformer.wte.weight: rows of 48 numbers are not "
                                         "blocks of 32"):
        gguf.write(tmp_path / "file", model, "int8")
    assert not list(tmp_path.iterdir())
