"""GPT.from_pretrained and save_pretrained: every layout that GPT-2's weights come in is the same
model, and no file, whatever its bytes, is more than refused in a sentence.

The fixtures are made here; tests/bench/pretrained.py compares with transformers itself.
"""

import json
import math
import os
import re
import struct
import tracemalloc
from array import array
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pygpt
from pygpt import GPT, GPTConfig
from pygpt.backend import kernels, reference
from pygpt.checkpoint import model_files, safetensors, weights
from pygpt.checkpoint.safetensors import CheckpointError
from pygpt.autograd.tape import no_grad
from pygpt.model import Block, parameter_shapes

CONFIG = GPTConfig(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2)
IDS = [[1, 2, 3, 4, 5, 10], [9, 8, 7, 6, 0, 0]]
LINEAR = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
NANOGPT_CONFIG = dict(vocab_size=11, block_size=8, n_embd=8, n_layer=2, n_head=2, bias=True,
                      dropout=0.25)


def randomised(config=CONFIG, seed=1):
    """A model of which every number counts, biases and layer norms too."""
    model, rng = GPT(config, seed=seed), Random(seed)
    for _, p in model.named_parameters():
        p.flat()[:] = array("f", (x + rng.gauss(0, 0.2) for x in p.flat()))
    return model.eval()


def logits(model):
    with no_grad():
        return model(IDS).tolist()


def flat(values):
    return [x for row in values for column in row for x in column]


MODEL = randomised()
EXPECTED = logits(MODEL)
TENSORS = {name: ("F32", p.shape, bytes(p.flat().cast("B"))) for name, p in
           MODEL.named_parameters()}


def write(directory, tensors=TENSORS, config=None, file="model.safetensors", odd=False):
    """Files of a model: config.json, unless it is there, and a file of tensors."""
    directory.mkdir(exist_ok=True)
    if config is not None or not (directory / "config.json").exists():
        model_files.write_model(directory, CONFIG, ())
        os.unlink(directory / "model.safetensors")
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    path = directory / file
    safetensors.write(path, ((name, *t) for name, t in tensors.items()), {})
    if odd:  # the data then begins at an odd place
        data = path.read_bytes()
        path.write_bytes(struct.pack("<Q", int.from_bytes(data[:8], "little") + odd)
                         + data[8:].replace(b"}}", b"}}" + b" " * odd, 1))
    return directory


def converted(tensor, dtype):
    """(dtype, shape, bytes) in another dtype, by the reference."""
    _, shape, data = tensor
    values = memoryview(data).cast("f")
    out = array("H", bytes(2 * len(values)))
    kernel = {"F16": reference.to_float16, "BF16": reference.to_bfloat16}[dtype]
    assert kernel(out, values, len(values)) == 0
    return dtype, shape, out.tobytes()


def rounded(data, dtype):
    """float32 bytes that went through the 16 bits of a dtype."""
    name = {"F16": "float16", "BF16": "bfloat16"}[dtype]
    n = len(data) // 4
    bits, out = array("H", bytes(2 * n)), array("f", bytes(4 * n))
    getattr(reference, f"to_{name}")(bits, memoryview(data).cast("f"), n)
    getattr(reference, f"from_{name}")(out, bits, n)
    return out.tobytes()


def transposed(tensor):
    dtype, (R, C), data = tensor
    item = len(data) // (R * C)
    rows = [data[i * item:(i + 1) * item] for i in range(R * C)]
    return dtype, (C, R), b"".join(rows[r * C + c] for c in range(C) for r in range(R))


def nanogpt(tensors=TENSORS, prefix="", biases=True):
    """The same tensors as a nanoGPT has them, mask and head included."""
    theirs = {prefix + name: transposed(t) if LINEAR.search(name) else t
              for name, t in tensors.items() if biases or not name.endswith(".bias")}
    return theirs | {f"{prefix}lm_head.weight": tensors["transformer.wte.weight"],
                     f"{prefix}transformer.h.0.attn.bias": ("F32", (1, 1, 8, 8), bytes(256))}


def shards(directory, tensors=TENSORS, n=3):
    """The tensors dealt out to n files with an index."""
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
    with pytest.raises(error) as caught:
        GPT.from_pretrained(directory)
    return str(caught.value)


# --------------------------------------------------------------------------------- the layouts ---

MASKS = {"transformer.h.0.attn.bias": ("U8", (1, 1, 8, 8), bytes(64)),
         "transformer.h.1.attn.masked_bias": ("F32", (), bytes(4))}
HEAD = {"lm_head.weight": TENSORS["transformer.wte.weight"]}
HEAD_ONLY = {name: t for name, t in (HEAD | TENSORS).items() if name != "transformer.wte.weight"}


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
    assert 'is missing (without biases, config.json says "bias": false)' in refusal(directory)
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
    """Counted on modules that have no memory yet."""
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
    """Each tensor in the next of three dtypes, plain, sharded, odd, and as nanoGPT has them."""
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
    with pytest.raises(ValueError, match=r"^transformer.h.1.attn.c_attn.bias: holds 65520, but "
                       "float16 ends at 65504$"):
        model.save_pretrained(directory, dtype="float16")
    bias[3] = -3.4e38
    with pytest.raises(ValueError, match=r"holds -3.4e\+38, but bfloat16 ends at 3.38953e\+38"):
        model.save_pretrained(directory, dtype="bfloat16")
    for dtype in ("float64", "F16", None):
        with pytest.raises(ValueError, match=f"dtype={dtype!r} is not 'float32' or 'float16' or"):
            model.save_pretrained(directory, dtype=dtype)
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
    bias[3], bias[4] = math.inf, math.nan  # are as much in one dtype as in another
    model.save_pretrained(directory, dtype="float16")


# ----------------------------------------------------------------------------- memory, training ---

@pytest.fixture
def taken(monkeypatch):
    """The sizes of the memory that opening takes, in bytes."""
    sizes, Memory = [], weights.Memory

    def counted(nbytes, buffer=None):
        if buffer is None:
            sizes.append(nbytes)
        return Memory(nbytes, buffer)

    monkeypatch.setattr(weights, "Memory", counted)
    return sizes


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
    assert all(kernels.address(p.ptr) % 4 == 0 for _, p in model.named_parameters())
    assert sum(taken) == 4 * MODEL.num_parameters()
    _, stored, _ = model_files.read_model(tmp_path / "f32", parameter_shapes)
    assert not any(weight.is_used_in_place for weight in stored.values())
    taken.clear()
    halves = {name: converted(t, "BF16") for name, t in TENSORS.items()}
    GPT.from_pretrained(write(tmp_path / "bf16", halves, odd=odd))
    assert sum(taken) == (4 + 2 * (odd % 2)) * MODEL.num_parameters()


def test_weights_larger_than_memory_are_refused(tmp_path, monkeypatch):
    """A file that claims 4 million numbers and takes a few kB on the disk."""
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


# -------------------------------------------------------------------------------- hostile files ---

@pytest.mark.parametrize("file, message", [
    ("../m/model-00001-of-00003.safetensors", "gives 'transformer.wte.weight' the file "),
    ("/etc/passwd", "the file '/etc/passwd', not the name of a .safetensors file beside it"),
    ("..", "the file '..', not"), ("", "the file '', not"), (None, "the file None, not"),
    ("\ud800.safetensors", r"the file '\ud800.safetensors', not"),
    ("a\0.safetensors", r"the file 'a\x00.safetensors', not"),
    ("a" * 300 + ".safetensors", "the file 'aaa"),
    (".hidden.safetensors", "the file '.hidden.safetensors', not"),
    ("config.json", "the file 'config.json', not"),
    ("none.safetensors", "weight_map names none.safetensors, which is missing"),
    ("model-00002-of-00003.safetensors",
     "holds 'transformer.wte.weight', which is in model-00002-of-00003.safetensors according to"),
])
def test_an_index_that_names_a_wrong_file_is_refused(tmp_path, file, message):
    weight_map = shards(tmp_path / "m")
    write_index(tmp_path / "m", {"weight_map": weight_map | {"transformer.wte.weight": file}})
    text = refusal(tmp_path / "m")
    assert text.startswith(str(tmp_path / "m")) and message in text and len(text) < 400


@pytest.mark.parametrize("document, message", [
    ({}, "weight_map is None, not files"), ({"weight_map": []}, "weight_map is [], not files"),
    ({"weight_map": {}}, "weight_map is {}, not files"), ([], "is not a JSON object"),
])
def test_an_index_without_a_map_is_refused(tmp_path, document, message):
    shards(tmp_path / "m")
    write_index(tmp_path / "m", document)
    assert f"model.safetensors.index.json: {message}" in refusal(tmp_path / "m")


def test_an_index_and_its_files_must_agree(tmp_path):
    directory, first = tmp_path / "m", "model-00001-of-00003.safetensors"
    weight_map = shards(directory)
    write_index(directory, {"weight_map": weight_map | {"more": first}})
    assert f"weight_map says that 'more' is in {first}, but it is not" in refusal(directory)
    weight_map.pop("transformer.wte.weight")
    write_index(directory, {"weight_map": weight_map})
    assert f"{first}: holds 'transformer.wte.weight', which does not exist" in refusal(directory)
    shards(directory)
    name = "transformer.wpe.weight"  # a second time, in a file that is not its own
    tensors, _ = safetensors.read(directory / first)
    again = {key: tuple(t)[:3] for key, t in tensors.items()} | {name: TENSORS[name]}
    write(directory, again, file=first)
    assert f"{first}: holds '{name}', which is in model-00002-of-00003" in refusal(directory)


def test_one_file_goes_before_an_index(tmp_path):
    shards(tmp_path / "m")
    write(tmp_path / "m")
    write_index(tmp_path / "m", [])
    assert logits(GPT.from_pretrained(tmp_path / "m")) == EXPECTED


def test_a_pickle_is_named_and_not_read(tmp_path):
    write(tmp_path / "m")
    os.rename(tmp_path / "m" / "model.safetensors", tmp_path / "m" / "pytorch_model.bin")
    assert re.search("pytorch_model.bin: is a pickle, which is never read", refusal(tmp_path / "m"))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """{layout: its files}, one good directory for each."""
    top = tmp_path_factory.mktemp("good")
    write(top / "gpt2", HEAD | without_prefix(TENSORS) | MASKS)
    MODEL.save_pretrained(top / "bfloat16", "bfloat16")
    shards(top / "shards", {name: converted(t, "F16") for name, t in TENSORS.items()}, n=2)
    write(top / "nanogpt", nanogpt(biases=False), NANOGPT_CONFIG | {"bias": False})
    return {directory.name: {path.name: path.read_bytes() for path in directory.iterdir()}
            for directory in top.iterdir()}


NUMBERS = [b"0", b"1", b"2", b"3", b"5", b"9", b"16", b"-1", b"4.0", b"1e3", b"true", b"9" * 30]
MARKS = [b"0", b"9", b"-", b"1e9", b'"', b",", b"{", b"[", b"]", b"}", b"\\", b"\0", b"\xff",
         b"null", b"true", b"F16", b"I64", b"../", b"99999999999999999999", b" ", b"h.7."]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=500)
@given(data=st.data())
def test_files_with_any_bytes_wrong_are_read_or_refused(good, tmp_path, taken, data):
    """Bytes replaced, put in, taken out, or cut off: one sentence that names a file, no memory."""
    layout = data.draw(st.sampled_from(sorted(good)), label="layout")
    files = dict(good[layout])
    name = data.draw(st.sampled_from(sorted(files)), label="file")
    content = bytearray(files[name])
    text_ends = len(content)
    if name.endswith(".safetensors"):
        text_ends = 8 + int.from_bytes(content[:8], "little")
    digits = [place for place in range(8, text_ends) if content[place] in b"0123456789"]
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        if data.draw(st.booleans(), label="a digit"):  # the JSON stays good, what it says does not
            place = data.draw(st.sampled_from(digits), label="place")
            removed, put = 1, data.draw(st.sampled_from(NUMBERS), label="put")
        else:
            place = data.draw(st.integers(0, text_ends), label="place")
            removed = data.draw(st.sampled_from([0, 1, 1, 1, 2, 7, 1 << 30]), label="removed")
            put = data.draw(st.sampled_from(MARKS) | st.binary(max_size=2), label="put")
        grows = len(put) - len(content[place:place + removed])
        content[place:place + removed] = put
        if name.endswith(".safetensors") and data.draw(st.booleans(), label="length mended"):
            length = max(0, int.from_bytes(content[:8], "little") + grows)
            content[:8] = struct.pack("<Q", min(length, 2 ** 64 - 1))
    directory = tmp_path / "m"
    directory.mkdir(exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    for each, good_content in files.items():
        (directory / each).write_bytes(content if each == name else good_content)
    taken.clear()
    compared = 2 * 64 * 32  # rows of the head and the embedding, of 32 bytes
    tracemalloc.start()
    try:
        model = GPT.from_pretrained(directory)
        assert len(flat(logits(model))) == 2 * 6 * 11
    except (CheckpointError, OSError) as error:
        message = str(error)
        assert str(directory) in message and len(message) < 700 and "\n" not in message
        assert sum(taken) <= compared
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20 and sum(taken) <= 10 * MODEL.num_parameters() + compared


# ----------------------------------------------------------- keys and files of other programs ---

# As openai-community/gpt2 has it, but for the sizes.
GPT2S_OWN = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
    "bos_token_id": 10, "embd_pdrop": 0.1, "eos_token_id": 10, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 8, "n_embd": 8, "n_head": 2,
    "n_layer": 2, "n_positions": 8, "resid_pdrop": 0.1, "summary_activation": None,
    "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
    "summary_use_proj": True, "vocab_size": 11,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}


def without(document, *keys):
    return {key: value for key, value in document.items() if key not in keys}


@pytest.mark.parametrize("config", [
    GPT2S_OWN,
    without(GPT2S_OWN, "n_positions"),
    GPT2S_OWN | {"n_ctx": None},
    without(GPT2S_OWN, "n_positions", "n_ctx", "n_embd", "n_head", "n_layer") | {
        "max_position_embeddings": 8, "hidden_size": 8, "num_attention_heads": 2,
        "num_hidden_layers": 2},
    GPT2S_OWN | {"n_inner": None, "dtype": "bfloat16", "torch_dtype": None, "use_cache": True,
                 "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
                 "reorder_and_upcast_attn": True, "add_cross_attention": False,
                 "pruned_heads": {}, "quantization_config": None, "is_encoder_decoder": False,
                 "id2label": {"0": "LABEL_0"}, "_name_or_path": "gpt2", "pad_token_id": None,
                 "transformers_version": "5.24.0", "gradient_checkpointing": False},
], ids=["own", "n_ctx alone", "n_positions alone", "aliases", "transformers"])
def test_configs_of_other_programs_are_read(tmp_path, config):
    write(tmp_path / "m", config=config)
    assert logits(GPT.from_pretrained(tmp_path / "m")) == EXPECTED
    MODEL.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written["n_ctx"] == written["n_positions"] == 8


@pytest.mark.parametrize("changes, complaint", [
    ({"n_ctx": 9}, "n_ctx=9 contradicts n_positions=8"),
    ({"n_ctx": "8"}, "n_ctx='8' is not an integer"),
    ({"n_ctx": 8.0}, "n_ctx=8.0 is not an integer"),
    ({"max_position_embeddings": 16}, "max_position_embeddings=16 contradicts n_positions=8"),
    ({"hidden_size": 9}, "hidden_size=9 contradicts n_embd=8"),
    ({"num_attention_heads": 1}, "num_attention_heads=1 contradicts n_head=2"),
    ({"num_hidden_layers": 12}, "num_hidden_layers=12 contradicts n_layer=2"),
    ({"quantization_config": {"load_in_4bit": True}}, "quantization_config={'load_in_4bit': True"),
    ({"compression_config": {}}, "compression_config={} is not supported"),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads={'0': [1]} is not supported"),
    ({"auto_map": {"AutoModel": "x.X"}}, "auto_map={'AutoModel': 'x.X'} is not supported"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder=True is not supported"),
    ({"cross_attention_hidden_size": 4}, "cross_attention_hidden_size=4 is not supported"),
    ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not"),
])
def test_keys_that_change_the_computation_are_refused(tmp_path, changes, complaint):
    directory = write(tmp_path / "m", config=GPT2S_OWN | changes)
    assert refusal(directory).startswith(f"{directory / 'config.json'}: {complaint}")


def test_two_aliases_that_contradict_one_another_are_both_named(tmp_path):
    config = without(GPT2S_OWN, "n_positions") | {"max_position_embeddings": 9}
    message = refusal(write(tmp_path / "m", config=config))
    assert message.endswith("config.json: max_position_embeddings=9 contradicts n_ctx=8")


def test_an_adapter_is_refused_by_name(tmp_path):
    for directory in (write(tmp_path / "m"), tmp_path / "alone"):
        directory.mkdir(exist_ok=True)
        (directory / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        assert refusal(directory).startswith(
            f"{directory / 'adapter_config.json'}: describes an adapter, which pygpt does not read")


def test_files_that_change_nothing_are_not_read(tmp_path):
    for name in ("generation_config.json", "pytorch_model.bin", "model.safetensors.index.json",
                 "training_args.bin", "README.md"):
        write(tmp_path / "m")
        (tmp_path / "m" / name).write_bytes(b"\xff not read")
    assert logits(GPT.from_pretrained(tmp_path / "m")) == EXPECTED
