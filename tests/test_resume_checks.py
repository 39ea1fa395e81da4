"""Tests the checks of a resumed run: its text, model, kernels and state must be those it had."""

import json

import pytest
from conftest import TEXT
from runs import FROM_INIT, numbers, records_of, snapshot, stop_after, warnings_of

from pygpt.backend import kernels
from pygpt.check.sets import use_isa
from pygpt.checkpoint import safetensors
from pygpt.checkpoint.model_files import read_model
from pygpt.checkpoint.safetensors import CheckpointError
from pygpt.config import ConfigError
from pygpt.data.corpus import DataError
from pygpt.model import parameter_shapes
from pygpt.training import trainer_state
from pygpt.training.trainer import train


# ------------------------------------------------------------------------------ moved, not changed

def test_the_same_text_at_another_place_is_no_change(tiny, tmp_path):
    (tmp_path / "val").write_text(TEXT)
    train(tiny(out=tmp_path / "whole", val_data=tmp_path / "val"))
    train(tiny(val_data=tmp_path / "val"), [stop_after(5)])
    (tmp_path / "text").rename(tmp_path / "moved")
    (tmp_path / "val").rename(tmp_path / "moved-val")
    train(tiny(data=[str(tmp_path / "mov?d")], val_data=tmp_path / "moved-val", errors="replace"),
          resume=True)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")


@pytest.mark.parametrize("moved, changed", [("data", "data"), ("val_data", "val_data")])
def test_another_text_at_another_place_is_refused(tiny, tmp_path, moved, changed):
    (tmp_path / "val").write_text(TEXT)
    (tmp_path / "other").write_text(TEXT[::-1])
    config = dict(data=tmp_path / "text", val_data=tmp_path / "val")
    train(tiny(**config), [stop_after(5)])
    with pytest.raises(DataError, match=f"^{changed}: the text is no longer the one"):
        train(tiny(**config | {moved: tmp_path / "other"}), resume=True)


def test_the_models_and_tokenizers_a_run_began_with_may_move(tiny, tmp_path):
    train(tiny(out=tmp_path / "base", max_steps=2))
    begun = dict(init=tmp_path / "base", tokenizer=tmp_path / "base" / "last", **FROM_INIT)
    train(tiny(out=tmp_path / "whole", **begun))
    train(tiny(**begun), [stop_after(5)])
    (tmp_path / "base").rename(tmp_path / "moved")
    begun = dict(init=tmp_path / "moved", tokenizer=tmp_path / "moved" / "last", **FROM_INIT)
    train(tiny(**begun), [stop_after(6)], resume=True)
    (tmp_path / "moved").rename(tmp_path / "gone")  # a resumed run reads neither
    train(tiny(**begun), resume=True)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")


def test_another_model_or_tokenizer_than_a_run_began_with_is_refused(tiny, tmp_path):
    for name, seed in (("base", 1), ("other", 2)):
        train(tiny(out=tmp_path / name, max_steps=1, seed=seed))
    begun = dict(init=tmp_path / "base", **FROM_INIT)
    train(tiny(**begun), [stop_after(5)])
    for changes in (dict(init=tmp_path / "other", **FROM_INIT), dict(init=None), begun | dict(
            tokenizer="bpe:300")):
        with pytest.raises(ConfigError, match="other settings: .*its checkpoint fixes "):
            train(tiny(**changes), resume=True, force=True)
    with pytest.raises(OSError):
        train(tiny(init=tmp_path / "none", **FROM_INIT), resume=True)


# ------------------------------------------------------------------------------- other kernels

def rewrite(out, **changes):
    """Change fields of a checkpoint's trainer.json; None removes a field."""
    path = out / "last" / "trainer.json"
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in document.items()
                                if value is not None or name == "val_loss"}))


def test_a_finished_run_is_held_to_its_settings_and_to_no_kernels(tiny, tmp_path):
    train(tiny())
    rewrite(tmp_path / "out", isa="avx9000")
    assert train(tiny(), resume=True).steps == 10
    with pytest.raises(ConfigError, match="learning_rate=0.5"):
        train(tiny(learning_rate=0.5), resume=True)


@pytest.mark.parametrize("name, other, way_out", [
    ("isa", "avx9000", "set PYGPT_ISA=avx9000"), ("compiler", "tcc 0.9", "build with tcc 0.9"),
    ("backend", "fortran", "set PYGPT_BACKEND=fortran")])
def test_other_kernels_are_refused_by_name(tiny, tmp_path, name, other, way_out):
    train(tiny(), [stop_after(5)])
    now = kernels.info()[name]
    assert json.loads((tmp_path / "out/last/trainer.json").read_text())[name] == now
    rewrite(tmp_path / "out", **{name: other})
    before = snapshot(tmp_path / "out")
    with pytest.raises(ConfigError) as error:
        train(tiny(), resume=True)
    text = str(error.value)
    assert f"{name}={now!r} (it was {other!r})" in text and way_out in text and "force" in text
    assert snapshot(tmp_path / "out") == before
    records = records_of(tiny(), stop_after(6), resume=True, force=True)
    assert len(warnings_of(records)) == 1 and f"{name}={now!r}" in warnings_of(records)[0]
    assert train(tiny(), resume=True).steps == 10  # the new checkpoint records the present kernels


def test_a_run_does_not_go_on_with_other_instructions(tiny, tmp_path):
    if kernels.isa() in ("baseline", "python"):
        pytest.skip("this CPU has one instruction set")
    with use_isa("baseline"):
        train(tiny(), [stop_after(5)])
    with pytest.raises(ConfigError, match="begun on other kernels: isa="):
        train(tiny(), resume=True)


def test_a_state_that_records_no_kernels_is_read(tiny, tmp_path):
    train(tiny(out=tmp_path / "whole"))
    train(tiny(), [stop_after(5)])
    rewrite(tmp_path / "out", backend=None, isa=None, compiler=None, init=None)
    assert "isa" not in json.loads((tmp_path / "out/last/trainer.json").read_text())
    train(tiny(), resume=True)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")


def test_nothing_to_resume(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="last/trainer.json"):
        train(tiny(), resume=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("field, value, part", [
    ("step", None, "step=None is not an integer"), ("step", True, "step=True is not an integer"),
    ("step", 1.0, "step=1.0 is not an integer"), ("step", -5, "step=-5 must be in [0, 2^63)"),
    ("step", 2**63, f"step={2**63} must be in [0, 2^63)"),
    ("optimizer_steps", -1, "optimizer_steps=-1 must be in [1, 1], as step=1"),
    ("optimizer_steps", 0, "optimizer_steps=0 must be in [1, 1], as step=1"),
    ("optimizer_steps", 2, "optimizer_steps=2 must be in [1, 1], as step=1"),
    pytest.param("optimizer_steps", 10**400, "must be in [1, 1], as step=1",
                 id="optimizer_steps-huge"),
    ("forward_passes", -1, "forward_passes=-1 must be in [0, 2^64)"),
    ("forward_passes", 2**64, f"forward_passes={2**64} must be in [0, 2^64)"),
    ("dropout_seed", 2**90, f"dropout_seed={2**90} must be in [0, 2^64)"),
    ("val_step", 10**9, "val_step=1000000000 must be in [0, 1], as step=1"),
    ("val_step", -1, "val_step=-1 must be in [0, 1], as step=1"),
    ("val_loss", "low", "val_loss='low' is not a number or null"),
    ("val_loss", False, "val_loss=False is not a number or null"),
    ("seconds", None, "seconds=None is not a number"),
    ("seconds", -1e300, "seconds=-1e+300 must be at least 0"),
    pytest.param("seconds", 10**400, "must be finite", id="seconds-huge"),
    ("train_tokens", 7, "train_tokens=7 is not a text"),
    ("config", [], "config=[] is not an object"),
    ("sep", 1, "'sep' is an unknown field"),
    ("config", {"n_heads": 3}, "'n_heads' is not a setting"),
    ("config", {"n_head": 3}, "n_embd=16 is not divisible by n_head=3"),
])
def test_a_damaged_state_is_refused(tiny, tmp_path, field, value, part):
    train(tiny(max_steps=1))
    path = tmp_path / "out" / "last" / "trainer.json"
    document = json.loads(path.read_text())
    document[field] = document[field] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError) as error:
        train(tiny(max_steps=1), resume=True)
    text = str(error.value)
    assert part in text and len(text) < 300
    if "divisible" not in part:
        assert text.startswith(f"{path}: ")


def test_whole_numbers_are_numbers_of_a_state(tiny, tmp_path):
    train(tiny(max_steps=1))
    path = tmp_path / "out" / "last" / "trainer.json"
    limits = {"forward_passes": 2**64 - 1, "dropout_seed": 2**64 - 1, "val_step": 0, "best_step": 0,
              "val_loss": None, "best_val_loss": 3, "seconds": 0}
    path.write_text(json.dumps(json.loads(path.read_text()) | limits))
    state = trainer_state.load(path.parent)
    assert {name: getattr(state, name) for name in limits} == limits
    assert type(state.seconds) is type(state.best_val_loss) is float


def test_foreign_moments_are_refused(tiny, tmp_path):
    train(tiny(), [stop_after(1)])
    last = tmp_path / "out" / "last"
    tensors, _ = safetensors.read(last / "optimizer.safetensors")
    assert len(tensors) == 2 * len(read_model(last, parameter_shapes)[1])
    assert all(name.endswith((".m", ".v")) for name in tensors)
    name = "transformer.wte.weight.m"
    entry = tensors[name]
    for bad, part in (([], f"{name} is missing"), ([(name, "I32", entry.shape, entry.buffer)],
                                                   f"{name} is missing or is not F32")):
        rest = [(n, e.dtype, e.shape, bytes(e.buffer)) for n, e in tensors.items() if n != name]
        safetensors.write(last / "optimizer.safetensors", rest + bad, {})
        with pytest.raises(CheckpointError, match=part):
            train(tiny(), resume=True)
