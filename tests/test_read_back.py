"""Tests that every file a run leaves is read back, or refused in one line that names it.

This holds for pygpt's own files (the writer keeps the reader's rules) and for files that were
damaged or made by other programs.
"""

import json
import math
import os
import shutil
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import stop_after

from pygpt import files
from pygpt.checkpoint import safetensors
from pygpt.training import trainer_state
from pygpt.checkpoint.model_files import find_model
from pygpt.cli.main import main
from pygpt.config import ConfigError, GPTConfig, TrainConfig
from pygpt.training.run_log import read_log, rewind
from pygpt.model import GPT, parameter_shapes
from pygpt.optim import AdamW
from pygpt.training.plot import page, plot
from pygpt.training.settings import read_settings, write_settings
from pygpt.checkpoint.safetensors import CheckpointError
from pygpt.training.trainer import train
from pygpt.training.trainer_state import last_settings

shared_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

# Values of every type that JSON has, with the numbers at which arithmetic breaks.
NUMBERS = (st.sampled_from([0, -1, 1, True, False, 2**31, 2**63 - 1, 2**63, 2**64, -2**63, 10**400,
                            1e308, -1e308, 5e-324, 1e-320, 0.5, math.nan, math.inf, -math.inf])
           | st.integers() | st.floats())
TEXTS = st.sampled_from(["", "x", "\0", "\ud800", "step", "..", "/", "a\nb", "x" * 3000, "-",
                         "bpe:0", "char"]) | st.text(max_size=5)
VALUES = st.recursive(st.none() | NUMBERS | TEXTS,
                      lambda inner: st.lists(inner, max_size=3)
                      | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6)


def assert_refusal(error, path=None):
    """Check that the command line shows an error as one line."""
    text = str(error)
    assert isinstance(error, (ValueError, OSError)) and not isinstance(error, UnicodeError)
    assert "\n" not in text and len(text) < 600, text
    if path is not None:
        assert str(path) in text, text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the config of a run of four steps stopped after three, in a copied directory."""
    directory = tmp_path_factory.mktemp("run")
    (directory / "text").write_text("".join(f"{a} and {b}.\n" for a in range(9) for b in range(9)))
    config = TrainConfig(data=directory / "text", out=directory / "out", n_layer=1, n_head=1,
                         n_embd=8, n_positions=4, batch_size=2, max_steps=4, warmup_steps=1,
                         eval_interval=2, eval_batches=1, sample_interval=0)
    train(config, [stop_after(3)])
    return config


# ---------------------------------------------------------------------------------- trainer.json

def resume_with(run, tmp_path, name, data):
    """Try to resume with a replaced file of a checkpoint; return the error, or None."""
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(run.out, out, symlinks=True)
    path = out / name
    path.write_bytes(data)
    try:
        train(replace(run, out=str(out)), resume=True)
    except (ValueError, OSError) as error:
        return error, path
    return None, path


FIELDS = sorted(trainer_state.TrainerState.__dataclass_fields__)


@shared_fixture
@given(st.dictionaries(st.sampled_from(FIELDS) | TEXTS, VALUES, min_size=1, max_size=2))
def test_any_trainer_json_is_read_or_refused(run, tmp_path, changes):
    name = "last/trainer.json"
    good = json.loads(open(os.path.join(run.out, name)).read())
    error, path = resume_with(run, tmp_path, name, json.dumps(good | changes).encode())
    if error:
        assert_refusal(error)
    try:
        trainer_state.load(path.parent)
    except CheckpointError as error:
        assert_refusal(error, path)


@shared_fixture
@given(st.dictionaries(st.sampled_from(sorted(TrainConfig.__dataclass_fields__)) | TEXTS, VALUES,
                       min_size=1, max_size=2), st.booleans())
def test_any_settings_in_trainer_json_are_read_or_refused(run, tmp_path, changes, only):
    name = "last/trainer.json"
    good = json.loads(open(os.path.join(run.out, name)).read())
    good["config"] = changes if only else good["config"] | changes
    error, path = resume_with(run, tmp_path, name, json.dumps(good).encode())
    if error:
        assert_refusal(error)
    try:
        TrainConfig(**last_settings(path.parent.parent))
    except ValueError as error:
        assert_refusal(error, path)


@pytest.mark.parametrize("config", [{"init": "x"}, {}, {"init": "x", "n_layer": None},
                                    {"data": {"a": 1}}, {"out": None}, {"max_steps": 10 ** 999}])
def test_settings_that_are_too_few_are_no_traceback(run, tmp_path, config, capsys):
    name = "last/trainer.json"
    good = json.loads(open(os.path.join(run.out, name)).read())
    error, path = resume_with(run, tmp_path, name, json.dumps(good | {"config": config}).encode())
    assert_refusal(error)
    assert main(["train", "--resume", "--out", str(tmp_path / "out")]) in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1


@shared_fixture
@given(st.data())
def test_any_bytes_of_the_state_may_be_wrong(run, tmp_path, data):
    name = data.draw(st.sampled_from(["last/trainer.json", "last/optimizer.safetensors",
                                      "log.jsonl", "last/config.json", "last/tokenizer.json"]))
    good = open(os.path.join(run.out, name), "rb").read()
    place = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        bad = good[:place]
    else:
        bad = good[:place] + bytes([data.draw(st.integers(0, 255))]) + good[place + 1:]
    error, path = resume_with(run, tmp_path, name, bad)
    if error:
        assert_refusal(error)


# ------------------------------------------------------------------------- optimizer.safetensors

@shared_fixture
@given(st.dictionaries(st.sampled_from(["transformer.wte.weight.m", "transformer.wte.weight.v",
                                        "transformer.ln_f.bias.m", "x"]),
                       st.none() | VALUES | st.fixed_dictionaries({
                           "dtype": st.sampled_from(["F32", "I64", "BF16"]) | VALUES,
                           "shape": st.lists(NUMBERS, max_size=3) | VALUES,
                           "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | VALUES}),
                       min_size=1, max_size=2))
def test_any_moments_are_read_or_refused(run, tmp_path, changes):
    good = open(os.path.join(run.out, "last/optimizer.safetensors"), "rb").read()
    size = int.from_bytes(good[:8], "little")
    header = json.dumps(json.loads(good[8:8 + size]) | changes).encode()
    bad = len(header).to_bytes(8, "little") + header + good[8 + size:]
    (tmp_path / "optimizer.safetensors").write_bytes(bad)
    optimizer = AdamW(GPT.from_pretrained(os.path.join(run.out, "last")))
    try:
        trainer_state.load_optimizer(tmp_path, optimizer, 3)
    except CheckpointError as error:
        assert_refusal(error, tmp_path / "optimizer.safetensors")


# ------------------------------------------------------------------- train.json, --config FILE

def settings_error(path):
    try:
        TrainConfig(**read_settings(path))
    except (ValueError, OSError) as error:
        return error


@shared_fixture
@given(st.dictionaries(st.sampled_from(sorted(TrainConfig.__dataclass_fields__)) | TEXTS, VALUES,
                       max_size=3))
def test_any_settings_file_is_read_or_refused(tmp_path, document):
    (tmp_path / "c.json").write_text(json.dumps(document))
    error = settings_error(tmp_path / "c.json")
    if error:
        assert_refusal(error)


@pytest.mark.parametrize("name, value", [
    ("n_layer", [1]), ("n_layer", {}), ("n_layer", "1"), ("n_layer", True), ("n_layer", 1.5),
    ("n_layer", 2**63), ("n_layer", 10**999), ("max_steps", 10**999), ("max_steps", -1),
    ("learning_rate", "1"), ("learning_rate", []), ("learning_rate", False),
    ("learning_rate", 10**400), ("dropout", {}), ("recompute", 1), ("recompute", "yes"),
    ("data", 5), ("data", 0), ("data", False), ("data", {"a": 1}), ("data", [1]), ("data", [[]]),
    ("data", [None]), ("data", ""), ("data", "a\0b"), ("data", ["\ud800"]), ("val_data", {}),
    ("sample_prompts", {"a": 1}), ("sample_prompts", 0), ("sample_prompts", [{}]), ("errors", []),
    ("errors", None), ("errors", "loud"), ("out", None), ("out", ["a"]), ("out", "\0"),
    ("out", {}), ("init", 1), ("init", "\0"), ("tokenizer", ["char"]), ("tokenizer", {}),
])
def test_a_setting_of_a_wrong_type_is_named(tmp_path, name, value, capsys):
    (tmp_path / "c.json").write_text(json.dumps({name: value}))
    error = settings_error(tmp_path / "c.json")
    assert isinstance(error, ConfigError) and str(error).startswith(f"{name}=")
    assert_refusal(error)
    assert main(["train", "--config", str(tmp_path / "c.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


TOML = st.sampled_from(["n_layer = [1]", "data = {a = 1}", "data = 1979-05-27", "out = 07:32:00",
                        "n_layer = nan", "learning_rate = inf", "learning_rate = nan", "[n_layer]",
                        "n_layer = " + "9" * 5000, "n_layer = 1\nn_layer = 2", "[[data]]\na = 1",
                        "sample_prompts = [1, [2]]", "x = " + "[" * 9999, "\ud800", "\0",
                        "data = '''", "recompute = 'true'", "max_steps = 1.0"])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is in Python 3.11 and later")
@shared_fixture
@given(TOML | st.text(max_size=30) | st.binary(max_size=20))
def test_any_toml_is_read_or_refused(tmp_path, text):
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    (tmp_path / "c.toml").write_bytes(data)
    error = settings_error(tmp_path / "c.toml")
    if error:
        assert_refusal(error)


# ------------------------------------------------------------------------------------ log.jsonl

EVENTS = st.sampled_from(["step", "eval", "start", "end", "save", "sample", "warning"]) | TEXTS
STEPS = st.integers(0, 50) | st.sampled_from([2**63 - 1, 2**40]) | NUMBERS | VALUES
MEASURED = NUMBERS | VALUES
RECORDS = st.fixed_dictionaries({"event": EVENTS, "step": STEPS}, optional={
    name: MEASURED for name in ("loss", "val_loss", "learning_rate", "grad_norm",
                                "tokens_per_second", "time", "text")})


@shared_fixture
@given(st.lists(RECORDS | VALUES, max_size=6), st.binary(max_size=8))
def test_any_log_is_drawn_and_rewound_or_refused(tmp_path, records, torn):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records) + torn)
    before = log.read_bytes()
    for use in (lambda: plot([tmp_path], tmp_path / "p.html"), lambda: rewind(log, 5)):
        try:
            use()
        except ValueError as error:
            assert_refusal(error, log)
            assert log.read_bytes() == before
    if log.read_bytes() != before:
        assert all(record["step"] <= 5 for record in read_log(log))


@shared_fixture
@given(st.lists(st.tuples(st.integers(1, 2**63 - 1), st.floats(), st.floats()), min_size=1,
                max_size=5))
def test_any_numbers_are_drawn(points):
    records = [record for step, loss, val_loss in points for record in (
        dict(event="step", step=step, loss=loss, learning_rate=val_loss, grad_norm=loss),
        dict(event="eval", step=step, val_loss=val_loss))]
    text = page([("a", 0, records)])
    assert "nan" not in text and "inf" not in text.replace("info", "").lower()


@pytest.mark.parametrize("line", [{"event": "eval", "step": 1}, {"event": "step", "step": 1},
                                  {"event": "eval", "step": 1, "val_loss": "low"},
                                  {"event": "eval", "step": 1, "val_loss": math.nan}])
def test_a_record_without_its_number_is_not_drawn(tmp_path, line, capsys):
    good = {"event": "step", "step": 2, "loss": 1.0}
    text = "".join(json.dumps(record) + "\n" for record in (line, good))
    (tmp_path / "log.jsonl").write_text(text)
    assert main(["plot", str(tmp_path)]) == 0
    assert "best validation loss" not in (tmp_path / "plot.html").read_text()
    rewind(tmp_path / "log.jsonl", 2)
    assert (tmp_path / "log.jsonl").read_text() == text


def test_a_log_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "log.jsonl")
    for use in (lambda: read_log(tmp_path / "log.jsonl"), lambda: plot([tmp_path], tmp_path / "p")):
        with pytest.raises(ValueError, match="log.jsonl: is not a regular file"):
            use()


# ------------------------------------------------------------------------------ the pointer file

@shared_fixture
@given(st.binary(max_size=40) | st.sampled_from([b"step-00000003", b"step-00000003\n",
                                                 b"step-00000009", b"step-000000030\n" * 40]))
def test_any_file_in_the_place_of_a_link_is_followed_or_passed_over(run, tmp_path, data):
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    (out / "last").write_bytes(data)
    (out / "step-00000003").symlink_to(os.path.join(run.out, "step-00000003"))
    leads = data.rstrip(b"\n") == b"step-00000003" and data.count(b"\n") < 2
    assert (trainer_state.find_last(out) == str(out / "step-00000003")) is leads
    for path in (out, out / "last"):
        try:
            assert find_model(path) == str(out / "step-00000003") and leads
        except FileNotFoundError as error:
            assert_refusal(error, path)
            assert not leads


# ----------------------------------------------------------- what is written is what can be read

def test_twenty_thousand_files_make_settings_that_are_read(tmp_path):
    config = TrainConfig(data=[f"/a/long/name/of/a/file/of/some/corpus/{number:040}"
                               for number in range(20_000)], out=tmp_path / "out")
    write_settings(tmp_path / "train.json", config)
    assert (tmp_path / "train.json").stat().st_size > 1 << 20
    assert TrainConfig(**read_settings(tmp_path / "train.json")) == config


def test_a_run_of_many_files_is_resumed(tmp_path, tiny):
    (tmp_path / "text").write_text("1 2 3.\n" * 9)
    data = [os.path.join(tmp_path, *["."] * 900, "text")] * 800
    train(tiny(data=data), [stop_after(3)])
    assert (tmp_path / "out/last/trainer.json").stat().st_size > 1 << 20
    assert train(tiny(data=data), resume=True).steps == 10


def test_settings_that_could_not_be_read_are_refused_before_anything_is_written(tmp_path, tiny,
                                                                               monkeypatch):
    train(tiny(max_steps=1))
    before = sorted(os.listdir(tmp_path / "out"))
    monkeypatch.setattr("pygpt.training.settings.MOST_SETTINGS_BYTES", 5000)
    with pytest.raises(ConfigError, match="data has 300 entries: name a directory or a pattern"):
        train(tiny(data=[str(tmp_path / "text")] * 300))
    assert sorted(os.listdir(tmp_path / "out")) == before


@shared_fixture
@given(st.dictionaries(TEXTS, VALUES, max_size=3))
def test_json_that_is_written_is_read_the_same(tmp_path, document):
    path = tmp_path / "x.json"
    path.unlink(missing_ok=True)
    try:
        files.write_json_object(path, document, most_bytes=2000, indent=1)
    except ValueError as error:
        assert_refusal(error, path)
        assert not path.exists()
    else:
        assert files.read_json_object(path, most_bytes=2000) == document


def test_every_writer_of_json_is_held_to_its_reader():
    """Check that only files.py and the tokenizers, which have their own limit, write JSON files."""
    import pathlib
    import re
    for path in (pathlib.Path(files.__file__).parent).glob("*.py"):
        text = path.read_text()
        if "replacing(" in text and path.name not in ("files.py", "safetensors.py", "plot.py",
                                                      "log.py", "tokens.py"):
            assert not re.search(r"json\.dumps", text), path


def test_a_header_that_could_not_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors, "MAX_HEADER_BYTES", 1000)
    tensors = [(f"t{number}", "F32", (1,), bytes(4)) for number in range(30)]
    with pytest.raises(ValueError, match=r"header of 30 tensors would have \d+ bytes, more than"):
        safetensors.write(tmp_path / "x", tensors, {})
    assert os.listdir(tmp_path) == []
    safetensors.write(tmp_path / "x", tensors[:9], {})
    assert len(safetensors.read(tmp_path / "x")[0]) == 9


def test_a_model_too_deep_to_be_saved_is_refused_before_it_begins(tmp_path, tiny, monkeypatch):
    train(tiny(max_steps=1))
    before = sorted(os.listdir(tmp_path / "out"))
    monkeypatch.setattr(safetensors, "MAX_HEADER_BYTES", 8000)  # two layers' moments take 7 kB
    train(tiny(max_steps=1, out=tmp_path / "shallow"))
    with pytest.raises(ValueError, match="a model of fewer layers"):
        train(tiny(n_layer=4), [lambda record: pytest.fail("it began")])
    assert sorted(os.listdir(tmp_path / "out")) == before


def test_moments_of_a_thousand_layers_are_read(tmp_path):
    shapes = parameter_shapes(GPTConfig(vocab_size=2, n_positions=1, n_embd=1, n_layer=1900,
                                        n_head=1))
    moments = [(f"{name}.{moment}", "F32", shape, bytes(4 * math.prod(shape)))
               for moment in "mv" for name, shape in shapes.items()]
    safetensors.write(tmp_path / "x", moments, {})
    assert 4 << 20 < len(safetensors.header(moments, {})[0]) < safetensors.MAX_HEADER_BYTES
    assert len(safetensors.read(tmp_path / "x")[0]) == len(moments)
