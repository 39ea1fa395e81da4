"""Tests runs in bfloat16: exact resume, refusals by name, and what they say of the CPU's units."""

import json
import types
from array import array

import pytest
from runs import checkpoint_files, numbers, records_of, snapshot, stop_after, warnings_of
from sharing import shared_among

import pygpt
from conftest import TEXT
from pygpt.autograd.precision import OPERAND_TYPES
from pygpt.backend import kernels
from pygpt.check.sets import isas_for, use_isa
from pygpt.cli import main
from pygpt.cli.terminal import Reporter
from pygpt.config import ConfigError
from pygpt.data.batches import split, validation_batches
from pygpt.model import GPT
from pygpt.training import cost, trainer_state
from pygpt.training.trainer import evaluate, train

DTYPES = "float32", "bfloat16"


# ------------------------------------------------------------------------------------- resuming ---

def test_a_run_computes_in_its_type(tiny):
    result = train(tiny(dtype="bfloat16"))
    assert result.model.compute_dtype == "bfloat16"
    assert train(tiny(dtype="bfloat16"), resume=True).model.compute_dtype == "bfloat16"  # finished
    tokens = memoryview(array("H", result.tokenizer.encode(TEXT)))
    batches = validation_batches(split(tokens, 0.1, 8)[1], 4, 8, 3)
    assert evaluate(result.model, batches) == result.val_loss
    opened = GPT.from_pretrained(tiny().out)
    assert evaluate(opened, batches) != result.val_loss
    opened.compute_dtype = "bfloat16"
    assert evaluate(opened, batches) == result.val_loss


@pytest.mark.parametrize("changes", [{}, dict(dropout=0.2, grad_accumulation_steps=2)])
def test_a_stopped_run_continues_to_the_bit(tiny, tmp_path, changes):
    changes |= dict(dtype="bfloat16")
    train(tiny(out=tmp_path / "whole", **changes))
    train(tiny(threads=1, **changes), [stop_after(3)])
    with shared_among(3):
        train(tiny(threads=3, recompute=True, **changes), resume=True)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")
    assert (checkpoint_files(tmp_path / "out" / "last")
            == checkpoint_files(tmp_path / "whole" / "last"))
    train(tiny(out=tmp_path / "other", **changes | dict(dtype="float32")))
    assert numbers(tmp_path / "other") != numbers(tmp_path / "whole")


@pytest.mark.parametrize("before, after", [DTYPES, DTYPES[::-1]])
def test_a_run_does_not_go_on_in_another_type_unless_forced(tiny, tmp_path, before, after):
    train(tiny(dtype=before), [stop_after(3)])
    files = snapshot(tmp_path / "out")
    with pytest.raises(ConfigError, match=rf"dtype='{after}' \(it was '{before}'\)"):
        train(tiny(dtype=after), resume=True)
    assert snapshot(tmp_path / "out") == files
    records = records_of(tiny(dtype=after), stop_after(5), resume=True, force=True)
    assert warnings_of(records)[0] == (f"dtype={after!r} (it was {before!r}); forced to continue "
                                       "anyway")
    assert train(tiny(dtype=after), resume=True).steps == 10  # it is the run's type now


def test_a_run_in_bfloat16_does_not_go_on_with_other_instructions(tiny):
    if len(isas_for(kernels.FLOAT32)) < 2:
        pytest.skip("this CPU has one instruction set")
    other, now = isas_for(kernels.FLOAT32)[-1], kernels.isa()
    with use_isa(other):
        train(tiny(dtype="bfloat16"), [stop_after(3)])
    with pytest.raises(ConfigError, match=f"begun on other kernels: isa='{now}' "
                                          rf"\(it was '{other}'\).*PYGPT_ISA={other}"):
        train(tiny(dtype="bfloat16"), resume=True)


def test_a_forced_type_is_the_only_difference_on_a_unit(tiny):
    """In another type a set with a unit counts as another set: no difference of its own."""
    if "amx_in_c" not in kernels.isa_names():
        pytest.skip("there is no unit")
    with use_isa("amx_in_c"):
        for before, after in DTYPES, DTYPES[::-1]:
            train(tiny(dtype=before), [stop_after(3)])
            records = records_of(tiny(dtype=after), stop_after(5), resume=True, force=True)
            assert warnings_of(records) == [
                f"dtype={after!r} (it was {before!r}); forced to continue anyway"]


def test_a_run_in_float32_goes_on_whatever_unit_multiplies_bfloat16(tiny, tmp_path):
    if "amx_in_c" not in kernels.isa_names():
        pytest.skip("there is no unit")
    with use_isa("amx_in_c"):
        train(tiny(), [stop_after(3)])
    document = json.loads((tmp_path / "out" / "last" / "trainer.json").read_text())
    assert document["isa"] == kernels.what_rounds("float32")["isa"] != "amx_in_c"
    assert train(tiny(), resume=True).steps == 10


def test_a_state_of_before_there_was_a_choice_is_one_in_float32(tiny, tmp_path):
    train(tiny(), [stop_after(3)])
    path = tmp_path / "out" / "last" / "trainer.json"
    document = json.loads(path.read_text())
    assert document["config"].pop("dtype") == "float32"
    path.write_text(json.dumps(document))
    assert trainer_state.load(path.parent).config["dtype"] == "float32"
    assert train(tiny(), resume=True).steps == 10


def test_the_command_trains_in_bfloat16_and_resumes_without_the_flag(tiny, tmp_path, capsys):
    words = ["train", "--out", str(tmp_path / "out"), "--data", str(tmp_path / "text")]
    tiny()  # writes the text
    flags = ("--n-layer 1 --n-head 1 --n-embd 8 --n-positions 8 --eval-batches 1 "
             "--sample-interval 0 --max-steps 2").split()
    assert main.main([*words, *flags, "--dtype", "bfloat16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(", products of bfloat16")
    assert main.main(["train", "--resume", "--out", str(tmp_path / "out"), "--max-steps", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(", products of bfloat16")
    assert main.main(["train", "--resume", "--out", str(tmp_path / "out"), "--max-steps", "4",
                      "--dtype", "float32"]) == 2
    assert "--dtype float32 (it was 'bfloat16')" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- units

@pytest.fixture
def units(monkeypatch):
    """Return a function that gives the library these units, a list of (name, state)."""
    return lambda *found: monkeypatch.setattr(kernels, "bfloat16_units", lambda: list(found))


def lines_of(tiny, capsys, **changes):
    capsys.readouterr()
    train(tiny(max_steps=1, **changes), [Reporter()])
    return capsys.readouterr().out


def test_the_units_are_shown(units):
    what = "the float32 tile" if kernels.ffi else "Python's loops"
    rounded = f"no unit in use: {what} with rounded operands"
    units()
    assert kernels.info()["bfloat16"] == [rounded] and kernels.bfloat16_unit() is None
    units(("amx", "in use"), ("avx512_bf16", "supported"))
    assert kernels.info()["bfloat16"] == ["amx (in use)", "avx512_bf16 (supported)"]
    assert kernels.bfloat16_unit() == "amx"
    units(("amx", "the system refuses it"), ("avx512_bf16", "supported"))
    assert kernels.info()["bfloat16"] == [rounded, "amx (the system refuses it)",
                                          "avx512_bf16 (supported)"]
    assert kernels.bfloat16_unit() is None


@pytest.mark.parametrize("gain, said", [
    (2.96, "this CPU multiplies bfloat16 3.0 times as fast as float32; --dtype bfloat16 uses it\n"),
    (1.0, None), (0.5, None)])
def test_a_run_in_float32_says_what_it_could_gain(tiny, units, monkeypatch, capsys, gain, said):
    units(("amx", "in use"))
    asked = []
    monkeypatch.setattr(cost, "bfloat16_gain", lambda *args: asked.append(args) or gain)
    out = lines_of(tiny, capsys)
    assert (said in out) if said else "bfloat16" not in out
    assert [(config.n_embd, rows) for config, rows in asked] == [(16, 32)]
    assert "times as fast" not in lines_of(tiny, capsys, dtype="bfloat16") and len(asked) == 1


def test_the_gain_is_measured_where_there_is_a_unit(units):
    config = pygpt.GPTConfig(vocab_size=9, n_positions=8, n_embd=16, n_layer=1, n_head=1)
    units(("amx", "supported"))
    assert cost.bfloat16_gain(config, 32, 0.001) is None
    units(("amx", "in use"))
    assert 0.01 < cost.bfloat16_gain(config, 32, 0.001) < 100


def test_a_run_in_bfloat16_without_a_unit_says_that_it_gains_nothing(tiny, units, capsys):
    units(("avx512_bf16", "supported"))
    text = "dtype='bfloat16' is not faster here"
    assert [w[:len(text)] for w in warnings_of(records_of(tiny(dtype="bfloat16")))] == [text]
    assert warnings_of(records_of(tiny())) == []
    units(("avx512_bf16", "in use"))
    assert warnings_of(records_of(tiny(dtype="bfloat16"))) == []


def test_the_peak_is_that_of_the_type_and_its_unit(tiny, monkeypatch):
    if kernels.ffi is None:
        pytest.skip("the reference has no peak")
    asked = []
    monkeypatch.setattr(cost, "lib", types.SimpleNamespace(
        pygpt_measure_peak=lambda n, dtype: asked.append(dtype) or 1e9))
    for name, number in OPERAND_TYPES.items():
        asked.clear()
        records = records_of(tiny(dtype=name, max_steps=1))
        assert set(asked) == {number}
        shares = [record["peak_share"] for record in records if "peak_share" in record]
        assert records[0]["peak_flops"] > 0 and shares and min(shares) > 0


def test_a_unit_has_a_peak_of_its_own():
    if "amx_in_c" not in kernels.isa_names():
        pytest.skip("there is no unit")
    with use_isa("amx_in_c"):
        assert kernels.lib.pygpt_measure_peak(2, kernels.BFLOAT16) == (
            2 * 2 * 32 * 32 * 128 * kernels.get_num_threads())


# ---------------------------------------------------------------------- memory

def test_bfloat16_halves_the_memory_of_activations(tiny):
    """In units of R x n_embd float32 numbers, a block keeps 10 in float32: its input, the sum in
    its middle, q, k, v, attention's result, and four of the MLP. In bfloat16 it keeps the first two
    and halves of the next four."""
    def activations(compute_dtype):
        few, many = (cost.memory_needed(pygpt.GPTConfig(
            vocab_size=50, n_positions=64, n_embd=128, n_layer=layers, n_head=4), 8, 64,
            compute_dtype=compute_dtype)["activations"] for layers in (10, 20))
        return (many - few) / 10 / (4 * 8 * 64 * 128)

    few = 8 / 128  # statistics of a row: two means and deviations, and a number for each head
    assert 10 <= activations("float32") <= 10 + few
    assert 4 <= activations("bfloat16") <= 4 + few


def test_a_run_is_checked_with_the_memory_of_its_type(tiny):
    records, config = [], tiny(dtype="bfloat16", max_steps=1)
    result = train(config, [records.append])
    assert records[0]["memory_needed"] == cost.memory_needed(
        result.model.config, config.batch_size, config.n_positions,
        compute_dtype="bfloat16")["total"]
