"""Tests the files of a checkpoint: written files are read back, damaged files are refused in a
sentence, and a failed write leaves the earlier files."""

import errno
import json
import mmap
import os
import signal
import threading
from array import array
from functools import partial

import pytest

from pygpt import Tokenizer, files
from pygpt.checkpoint import model_files, safetensors
from pygpt.data import token_file
from pygpt.training import trainer_state
from pygpt.config import GPTConfig
from pygpt.model import parameter_shapes
from pygpt.training.run_directory import RunDirectory
from pygpt.training.settings import read_settings
from pygpt.checkpoint.safetensors import CheckpointError
from pygpt.checkpoint.shards import read_tensors

CONFIG = GPTConfig(vocab_size=5, n_positions=3, n_embd=4, n_layer=2, n_head=2, embd_pdrop=0.1)
read_model = partial(model_files.read_model, shapes_of=parameter_shapes)


def floats(*values):
    return memoryview(array("f", values))


def model_tensors(config=CONFIG):
    """Make tensors of the right names and shapes, all of whose values differ."""
    tensors, start = [], 0
    for name, shape in parameter_shapes(config).items():
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors.append((name, shape, floats(*range(start, start + size))))
        start += size
    return tensors


@pytest.fixture
def model_dir(tmp_path):
    model_files.write_model(tmp_path / "model", CONFIG, model_tensors())
    return tmp_path / "model"


# ------------------------------------------------------------------------------------- files ---

def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        with files.replacing(path) as file:
            file.write(b"half")
            1 / 0
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]
    with files.replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["f"]


def test_a_full_disk_is_named():
    def write_to_full_device():
        with files.replacing("/dev/full"):
            raise OSError(28, "No space left on device")  # write's own error names no file

    with pytest.raises(OSError) as error:
        write_to_full_device()
    assert error.value.filename == "/dev/full"


def test_long_json_is_not_read(tmp_path):
    (tmp_path / "j").write_bytes(b'{"a": "' + b"x" * 100 + b'"}')
    assert files.read_json_object(tmp_path / "j") == {"a": "x" * 100}
    with pytest.raises(ValueError, match="has more than 50 bytes"):
        files.read_json_object(tmp_path / "j", most_bytes=50)


@pytest.mark.parametrize("name, beside, read", [
    ("model.safetensors", [], read_tensors),
    ("model.safetensors.index.json", [], read_tensors),
    ("config.json", [], model_files.read_config),
    ("trainer.json", [], trainer_state.load),
    ("tokenizer.json", [], Tokenizer.from_pretrained),
    ("vocab.json", ["merges.txt"], Tokenizer.from_pretrained),
    ("merges.txt", ["vocab.json"], Tokenizer.from_pretrained),
    ("ranks.tiktoken", [], Tokenizer.from_pretrained),
])
def test_what_is_no_file_is_refused(tmp_path, name, beside, read):
    path = tmp_path / name
    for other in beside:
        (tmp_path / other).touch()
    os.mkfifo(path)
    previous = signal.signal(signal.SIGALRM, _stop_waiting)
    signal.alarm(10)
    try:
        with pytest.raises(ValueError) as error:
            read(tmp_path)
        assert str(error.value) == f"{path}: is not a regular file"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


def _stop_waiting(number, frame):
    raise TimeoutError("it waits for a writer")


@pytest.mark.parametrize("read", [safetensors.read, partial(token_file.map_tokens, code="H")])
def test_a_file_that_cannot_be_mapped_is_named(tmp_path, monkeypatch, read):
    def no_memory(*arguments, **keywords):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))  # mmap's own error names no file

    path = tmp_path / "bytes"
    path.write_bytes(bytes(16))
    monkeypatch.setattr(mmap, "mmap", no_memory)
    with pytest.raises(OSError) as error:
        read(path)
    assert (error.value.filename, error.value.errno) == (str(path), errno.ENOMEM)


def test_settings_may_come_from_a_pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=('{"max_steps": 3}',), daemon=True)
    writer.start()
    assert read_settings(path) == {"max_steps": 3}
    writer.join()


# -------------------------------------------------------------------------------- checkpoint ---

def test_a_model_is_read_back(model_dir):
    config, tensors, _ = read_model(model_dir)
    assert config == CONFIG
    for name, shape, values in model_tensors():
        assert tensors[name].entry.dtype == "F32" and tensors[name].shape == shape
        assert tensors[name].entry.buffer.cast("f") == values
    assert len(tensors) == len(model_tensors())


def test_the_config_is_hugging_faces(model_dir):
    document = json.loads((model_dir / "config.json").read_text())
    expected = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 5,
                "n_positions": 3, "n_embd": 4, "n_layer": 2, "n_head": 2, "n_inner": None,
                "activation_function": "gelu_new", "tie_word_embeddings": True,
                "layer_norm_epsilon": 1e-5, "embd_pdrop": 0.1, "attn_pdrop": 0.0}
    assert document | expected == document
    assert safetensors.read(model_dir / "model.safetensors")[1] == {"format": "pt"}


def test_names_without_prefix_and_masks_are_read(model_dir):
    tensors = [(name.removeprefix("transformer."), "F32", shape, values)
               for name, shape, values in model_tensors()]
    tensors += [("h.0.attn.bias", "U8", (1, 1, 3, 3), bytes(9)),
                ("h.1.attn.masked_bias", "F32", (), floats(-1e4))]
    safetensors.write(model_dir / "model.safetensors", tensors, {})
    config, read, _ = read_model(model_dir)
    assert read.keys() == parameter_shapes(config).keys()


def change_config(directory, **changes):
    path = directory / "config.json"
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in document.items() if v != "remove"}))


@pytest.mark.parametrize("changes, message", [
    (dict(model_type="llama"), "model_type='llama' is not supported; it must be 'gpt2'"),
    (dict(model_type="remove"), "has neither GPT-2's model_type nor nanoGPT's block_size"),
    (dict(activation_function="relu"), "activation_function='relu' is not supported"),
    (dict(activation_function=["gelu_new"]), "activation_function=['gelu_new'] is not supported"),
    (dict(n_inner=17), "transformer.h.0.mlp.c_fc.weight has shape [4, 16], but config.json asks "
                       "for [4, 17]"),
    (dict(n_inner=0), "n_inner=0 must be at least 1"),
    (dict(tie_word_embeddings=False), "tie_word_embeddings=False is not supported"),
    (dict(scale_attn_weights=False), "scale_attn_weights=False is not supported"),
    (dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx=True is not"),
    (dict(add_cross_attention=True), "add_cross_attention=True is not supported"),
    (dict(bias="no"), "bias='no' is not supported; it must be True or False"),
    (dict(n_embd=0), "n_embd=0 must be at least 1"),
    (dict(n_embd=[4]), "n_embd=[4] is not an integer"),
    (dict(n_head=3), "n_embd=4 is not divisible by n_head=3"),
    (dict(n_layer=10**12), "holds no layer 2, but config.json says n_layer=1000000000000"),
    (dict(n_layer=1), "is not a tensor of the model that config.json describes"),
    (dict(vocab_size=6),
     "transformer.wte.weight has shape [5, 4], but config.json asks for [6, 4]"),
])
def test_a_config_that_does_not_fit_is_refused(model_dir, changes, message):
    change_config(model_dir, **changes)
    with pytest.raises(CheckpointError) as error:
        read_model(model_dir)
    assert str(error.value).startswith(str(model_dir)) and message in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_damaged_config_is_refused(model_dir, content):
    (model_dir / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="config.json: "):
        read_model(model_dir)


def test_tensors_that_do_not_fit_are_refused(model_dir):
    good = [(name, "F32", shape, values) for name, shape, values in model_tensors()]
    for tensors, message in [
        (good[1:], "transformer.wte.weight is missing"),
        (good + [("lm_head.bias", "F32", (1,), floats(0))], "'transformer.lm_head.bias' is not a"),
        (good + [("wte.weight", "F32", (1,), floats(0))],
         "'wte.weight' and 'transformer.wte.weight' are the same tensor"),
        ([("transformer.wte.weight", "I16", (5, 4), bytes(40))] + good[1:],
         "transformer.wte.weight is I16; only F32, F16, BF16 are read"),
        ([(name, "F32", shape, values) for name, shape, values in model_tensors()
          if name != "transformer.h.1.ln_1.bias"],
         'h.1.ln_1.bias is missing (a model without biases has "bias": false in its config.json)'),
    ]:
        safetensors.write(model_dir / "model.safetensors", tensors, {})
        with pytest.raises(CheckpointError) as error:
            read_model(model_dir)
        assert message in str(error.value)


def test_every_truncation_is_refused(model_dir):
    content = (model_dir / "model.safetensors").read_bytes()
    for length in [*range(64), *range(64, len(content), 97), len(content) - 1]:
        (model_dir / "model.safetensors").write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_model(model_dir)


def test_a_missing_model(tmp_path, model_dir):
    with pytest.raises(FileNotFoundError, match="none: no such directory"):
        model_files.find_model(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no config.json in it"):
        model_files.find_model(tmp_path)
    (model_dir / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        read_model(model_dir)


# ----------------------------------------------------------------------------- run directory ---

def save(run, step, is_best=False):
    return run.save(step, is_best, lambda directory: model_files.write_model(
        directory, CONFIG, model_tensors()))


def test_last_and_best_name_checkpoints(tmp_path):
    run = RunDirectory(tmp_path / "deep" / "out")
    assert os.listdir(run.path) == [] and run.set_aside() is None
    save(run, 10, is_best=True)
    save(run, 20)
    save(run, 30)
    assert sorted(os.listdir(run.path)) == ["best", "last", "step-00000010", "step-00000030"]
    assert os.readlink(tmp_path / "deep/out/last") == "step-00000030"
    assert os.readlink(tmp_path / "deep/out/best") == "step-00000010"
    assert model_files.find_model(run.path).endswith("best")
    assert read_model(run.path)[0] == CONFIG


def test_a_failed_save_leaves_the_checkpoints_as_they_were(tmp_path):
    run = RunDirectory(tmp_path)
    save(run, 1, is_best=True)

    def fail(directory):
        model_files.write_model(directory, CONFIG, model_tensors())
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        run.save(2, True, fail)
    assert sorted(os.listdir(tmp_path)) == ["best", "last", "step-00000001"]
    assert read_model(tmp_path / "last")[0] == CONFIG


def test_what_a_killed_save_left_is_no_obstacle(tmp_path):
    run = RunDirectory(tmp_path)
    (tmp_path / ".step-00000001.tmp").mkdir()
    (tmp_path / ".step-00000001.tmp" / "half").write_bytes(b"x")
    (tmp_path / f"last.{os.getpid()}.tmp").symlink_to("nowhere")
    save(run, 1)
    assert sorted(os.listdir(tmp_path)) == ["last", "step-00000001"]
    assert sorted(os.listdir(tmp_path / "last")) == ["config.json", "model.safetensors"]


def test_an_earlier_run_is_set_aside(tmp_path):
    for number in (1, 2):
        run = RunDirectory(tmp_path)
        save(run, number, is_best=True)
        assert run.set_aside() == str(tmp_path / f"earlier-{number}")
        run.close()
    (tmp_path / "notes").write_text("not a checkpoint")
    assert run.set_aside() is None
    assert sorted(os.listdir(tmp_path)) == ["earlier-1", "earlier-2", "notes"]
    assert read_model(tmp_path / "earlier-2" / "last")[0] == CONFIG


def test_an_unwritable_directory_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError):
        RunDirectory(tmp_path / "file")
    with pytest.raises(OSError):
        RunDirectory(tmp_path / "file" / "out")
