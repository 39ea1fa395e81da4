"""Writes one small model into the files that GPT-2, nanoGPT and others would keep it in."""

import json
import os
import re
import struct
from array import array

import pytest
from models import randomise

from pygpt import GPT, GPTConfig
from pygpt.autograd.tape import no_grad
from pygpt.backend import reference
from pygpt.checkpoint import model_files, safetensors
from pygpt.checkpoint.safetensors import CheckpointError

CONFIG = GPTConfig(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2)
IDS = [[1, 2, 3, 4, 5, 10], [9, 8, 7, 6, 0, 0]]
LINEAR = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
NANOGPT_CONFIG = dict(vocab_size=11, block_size=8, n_embd=8, n_layer=2, n_head=2, bias=True,
                      dropout=0.25)


def randomised(config=CONFIG, seed=1):
    """Make a model in which every number matters, biases and layer norms too."""
    return randomise(GPT(config, seed=seed), 0.2, seed).eval()


def logits(model):
    with no_grad():
        return model(IDS).tolist()


MODEL = randomised()
EXPECTED = logits(MODEL)
TENSORS = {name: ("F32", p.shape, bytes(p.flat().cast("B"))) for name, p in
           MODEL.named_parameters()}
MASKS = {"transformer.h.0.attn.bias": ("U8", (1, 1, 8, 8), bytes(64)),
         "transformer.h.1.attn.masked_bias": ("F32", (), bytes(4))}
HEAD = {"lm_head.weight": TENSORS["transformer.wte.weight"]}
HEAD_ONLY = {name: t for name, t in (HEAD | TENSORS).items() if name != "transformer.wte.weight"}


def write(directory, tensors=TENSORS, config=None, file="model.safetensors", odd=False):
    """Write a file of tensors, and config.json unless it is there; return the directory."""
    directory.mkdir(exist_ok=True)
    if config is not None or not (directory / "config.json").exists():
        model_files.write_model(directory, CONFIG, ())
        os.unlink(directory / "model.safetensors")
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    path = directory / file
    safetensors.write(path, ((name, *t) for name, t in tensors.items()), {})
    if odd:  # so that the data begins at an odd offset
        data = path.read_bytes()
        path.write_bytes(struct.pack("<Q", int.from_bytes(data[:8], "little") + odd)
                         + data[8:].replace(b"}}", b"}}" + b" " * odd, 1))
    return directory


def converted(tensor, dtype):
    """Convert (dtype, shape, bytes) to another dtype with the reference kernels."""
    _, shape, data = tensor
    values = memoryview(data).cast("f")
    out = array("H", bytes(2 * len(values)))
    kernel = {"F16": reference.to_float16, "BF16": reference.to_bfloat16}[dtype]
    assert kernel(out, values, len(values)) == 0
    return dtype, shape, out.tobytes()


def rounded(data, dtype):
    """Round the bytes of float32 numbers to a 16-bit dtype and widen them again."""
    name = {"F16": "float16", "BF16": "bfloat16"}[dtype]
    n = len(data) // 4
    bits, out = array("H", bytes(2 * n)), array("f", bytes(4 * n))
    getattr(reference, f"to_{name}")(bits, memoryview(data).cast("f"), n)
    getattr(reference, f"from_{name}")(out, bits, n)
    return out.tobytes()


def transposed(tensor):
    """Transpose a matrix given as (dtype, shape, bytes)."""
    dtype, (R, C), data = tensor
    item = len(data) // (R * C)
    rows = [data[i * item:(i + 1) * item] for i in range(R * C)]
    return dtype, (C, R), b"".join(rows[r * C + c] for c in range(C) for r in range(R))


def nanogpt(tensors=TENSORS, prefix="", biases=True):
    """Give the same tensors the names and layouts of nanoGPT, with its mask and head."""
    theirs = {prefix + name: transposed(t) if LINEAR.search(name) else t
              for name, t in tensors.items() if biases or not name.endswith(".bias")}
    return theirs | {f"{prefix}lm_head.weight": tensors["transformer.wte.weight"],
                     f"{prefix}transformer.h.0.attn.bias": ("F32", (1, 1, 8, 8), bytes(256))}


def shards(directory, tensors=TENSORS, n=3):
    """Write the tensors into n files with an index; return its weight_map."""
    names, files = list(tensors), [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
    for i, file in enumerate(files):
        write(directory, {name: tensors[name] for name in names[i::n]}, file=file)
    weight_map = {name: files[i % n] for i, name in enumerate(names)}
    write_index(directory, {"metadata": {"total_size": 1}, "weight_map": weight_map})
    return weight_map


def write_index(directory, document):
    (directory / "model.safetensors.index.json").write_text(json.dumps(document))


def without_prefix(tensors):
    return {name.removeprefix("transformer."): t for name, t in tensors.items()}


def refusal(directory, error=CheckpointError):
    """Return the message with which GPT.from_pretrained refuses a directory."""
    with pytest.raises(error) as caught:
        GPT.from_pretrained(directory)
    return str(caught.value)
