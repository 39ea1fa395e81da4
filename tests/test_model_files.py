"""Tests model files of other programs, or with wrong bytes: they open or are refused by name."""

import json
import os
import re
import struct
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modelfiles import (EXPECTED, HEAD, MASKS, MODEL, NANOGPT_CONFIG, TENSORS, converted, logits,
                        nanogpt, refusal, shards, without_prefix, write, write_index)

from pygpt import GPT
from pygpt.checkpoint import safetensors
from pygpt.checkpoint.safetensors import CheckpointError


# -------------------------------------------------------------------- indexes and other bytes ---

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
    name = "transformer.wpe.weight"  # stored a second time, in another file
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
    """Return {layout: {file name: bytes}}, a good directory for each layout."""
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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_files_with_any_bytes_wrong_are_read_or_refused(good, tmp_path, taken, data):
    """Replace, insert or remove bytes: one line names the file, and little memory is taken."""
    layout = data.draw(st.sampled_from(sorted(good)), label="layout")
    files = dict(good[layout])
    name = data.draw(st.sampled_from(sorted(files)), label="file")
    content = bytearray(files[name])
    text_ends = len(content)
    if name.endswith(".safetensors"):
        text_ends = 8 + int.from_bytes(content[:8], "little")
    digits = [place for place in range(8, text_ends) if content[place] in b"0123456789"]
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        if data.draw(st.booleans(), label="a digit"):  # the JSON stays valid, its numbers do not
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
    compared = 2 * 64 * 32  # rows of 32 bytes of the head and the embedding
    tracemalloc.start()
    try:
        model = GPT.from_pretrained(directory)
        assert sum(len(scores) for row in logits(model) for scores in row) == 2 * 6 * 11
    except (CheckpointError, OSError) as error:
        message = str(error)
        assert str(directory) in message and len(message) < 700 and "\n" not in message
        assert sum(taken) <= compared
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20 and sum(taken) <= 10 * MODEL.num_parameters() + compared


# ----------------------------------------------------------- keys and files of other programs ---

# The config.json of openai-community/gpt2, except for the sizes.
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
