"""Tests that a stopped run continues to the bit, and to more or fewer steps if asked."""

import os
import re

import pytest
from conftest import TEXT
from runs import checkpoint_files, numbers, records_of, snapshot, stop_after, warnings_of
from sharing import shared_among

from pygpt.cli.main import main
from pygpt.config import ConfigError
from pygpt.data.corpus import DataError
from pygpt.model import GPT
from pygpt.training import cost, trainer, trainer_state
from pygpt.training.run_directory import RunDirectory
from pygpt.training.run_log import read_log
from pygpt.training.trainer import train


@pytest.fixture
def tiny(tiny):
    """Give the tiny run twelve steps, so that it can stop and continue."""
    return lambda **changes: tiny(**dict(max_steps=12) | changes)


def assert_same_run(out, whole):
    """Check that two runs have the same numbers in their logs and checkpoints."""
    assert numbers(out) == numbers(whole)
    for link in ("last", "best"):
        assert checkpoint_files(out / link) == checkpoint_files(whole / link)


# ---------------------------------------------------------------------------------- exact resume

@pytest.mark.parametrize("stops", [(3,), (4,), (1, 2, 9)])
@pytest.mark.parametrize("changes", [{}, dict(dropout=0.2, grad_accumulation_steps=2)])
def test_n_steps_a_stop_and_m_steps_are_n_plus_m_steps(tiny, tmp_path, stops, changes):
    train(tiny(out=tmp_path / "whole", **changes))
    for number, stop in enumerate(stops):
        result = train(tiny(threads=1, **changes), [stop_after(stop)], resume=number > 0)
        assert result.interrupted and result.steps == stop
    with shared_among(3):
        train(tiny(threads=3, recompute=True, **changes), resume=True)
    assert_same_run(tmp_path / "out", tmp_path / "whole")


def test_a_stop_while_validating_loses_no_validation(tiny, tmp_path, monkeypatch):
    train(tiny(out=tmp_path / "whole"))
    config = tiny()

    def stop_at_8(model, batches, is_stopped):
        return None if model.forward_passes == 0 and stopping else evaluate(model, batches)

    evaluate, stopping = trainer.evaluate, False

    def watch(record):
        nonlocal stopping
        stopping = record["event"] == "step" and record["step"] == 8
        return stopping

    monkeypatch.setattr(trainer, "evaluate", stop_at_8)
    assert train(config, [watch]).steps == 8
    monkeypatch.undo()
    train(config, resume=True)
    assert_same_run(tmp_path / "out", tmp_path / "whole")


def test_what_was_not_saved_is_trained_and_logged_once_more(tiny, tmp_path):
    class Died(Exception):
        pass

    def die(record):
        if record["event"] == "step" and record["step"] == 7:
            raise Died

    train(tiny(out=tmp_path / "whole"))
    with pytest.raises(Died):
        train(tiny(), [die])
    assert numbers(tmp_path / "out")[-1][0] == 7
    with open(tmp_path / "out" / "log.jsonl", "a") as log:
        log.write('{"time": 1.0, "ev')  # a killed process leaves half a line
    records = records_of(tiny(), resume=True)
    assert records[0]["resumed"] and records[0]["step"] == 4
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")


def test_a_finished_run_has_nothing_to_go_on_with(tiny, tmp_path):
    train(tiny())
    before, records = snapshot(tmp_path / "out"), []
    (tmp_path / "text").unlink()  # a finished run needs no text
    result = train(tiny(), [records.append], resume=True)
    assert result.steps == 12 and not result.interrupted and result.val_loss is not None
    assert result.tokenizer.decode(result.tokenizer.encode("3 times")) == "3 times"
    assert result.model.num_parameters() == GPT.from_pretrained(tmp_path / "out").num_parameters()
    assert [record["event"] for record in records] == ["finished", "end"]
    assert records[1]["val_loss"] == result.val_loss and records[1]["step"] == 12
    assert snapshot(tmp_path / "out") == before


def test_the_command_says_that_a_run_is_finished(tiny, tmp_path, capsys):
    train(tiny())
    before = snapshot(tmp_path / "out")
    assert main(["train", "--resume", "--out", str(tmp_path / "out")]) == 0
    assert snapshot(tmp_path / "out") == before
    said = capsys.readouterr()
    assert said.err == "" and re.search(
        r"is finished: it has taken all of its 12 steps; to train longer: .*pygpt (train --resume"
        r" --out \S+ --max-steps 24)\n", said.out)
    longer = re.search(r"python -m pygpt (train .*)\n", said.out)[1].split()
    assert main(longer) == 0
    assert ("--max-steps 24 (it was 12): from step 13 on the learning rate follows the new schedule"
            in capsys.readouterr().out)
    assert trainer_state.load(tmp_path / "out" / "last").step == 24


def test_a_last_validation_that_a_signal_left_out_is_made_up_for(tiny, tmp_path, monkeypatch):
    evaluate = trainer.evaluate
    monkeypatch.setattr(trainer, "evaluate", lambda model, batches, is_stopped: None)
    train(tiny())
    assert trainer_state.load(tmp_path / "out" / "last").val_step == 0
    monkeypatch.setattr(trainer, "evaluate", evaluate)
    result = train(tiny(), resume=True)
    assert result.val_loss is not None and result.steps == 12


# --------------------------------------------------------------------------- longer and shorter

@pytest.mark.parametrize("stop", [5, None])
def test_a_run_is_made_longer(tiny, tmp_path, stop):
    train(tiny(), [stop_after(stop)] if stop else [])
    records = records_of(tiny(max_steps=20), resume=True)
    taken = stop or 12
    rates = {r["step"]: r["learning_rate"] for r in records if r["event"] == "step"}
    assert rates == {step: tiny(max_steps=20).learning_rate_at(step - 1)
                     for step in range(taken + 1, 21)}
    assert warnings_of(records) == [
        f"max_steps=20 (it was 12): from step {taken + 1} on the learning rate follows the new "
        "schedule"]
    assert records[-1]["step"] == 20
    records = records_of(tiny(max_steps=20), resume=True)
    assert [(r["event"], r["step"]) for r in records] == [("finished", 20), ("end", 20)]


def test_a_run_is_made_shorter_but_not_than_it_is(tiny, tmp_path):
    train(tiny(), [stop_after(5)])
    before = snapshot(tmp_path / "out")
    for force in (False, True):
        with pytest.raises(ConfigError, match="max_steps=4 is less than the 5 steps that the run"):
            train(tiny(max_steps=4), resume=True, force=force)
    assert snapshot(tmp_path / "out") == before
    assert train(tiny(max_steps=8), resume=True).steps == 8
    assert train(tiny(max_steps=8), resume=True).steps == 8
    with pytest.raises(ConfigError, match="max_steps=7 is less than the 8 steps"):
        train(tiny(max_steps=7), resume=True)


def test_a_changed_setting_is_refused_by_name(tiny, tmp_path):
    train(tiny(), [stop_after(4)])
    before = checkpoint_files(tmp_path / "out" / "last")
    for name, value in dict(learning_rate=0.5, n_embd=32, batch_size=2, dropout=0.1, seed=3,
                            grad_accumulation_steps=2, beta2=0.5, val_fraction=0.2).items():
        with pytest.raises(ConfigError, match=rf"other settings: .*\b{name}={value} \(it was "):
            train(tiny(**{name: value}), resume=True)
    assert checkpoint_files(tmp_path / "out" / "last") == before
    harmless = dict(threads=1, keep=2, eval_interval=3, sample_interval=5, log_interval=2)
    assert train(tiny(**harmless), [stop_after(6)], resume=True).steps == 6
    assert train(tiny(recompute=True), [stop_after(7)], resume=True).model.recompute
    assert train(tiny(max_steps=8), resume=True, force=True).steps == 8


def test_another_text_is_refused(tiny, tmp_path):
    train(tiny(), [stop_after(4)])
    (tmp_path / "text").write_text(TEXT[:-5] + "9999.")
    with pytest.raises(DataError, match="val_data: the text is no longer the one"):
        train(tiny(), resume=True)
    records = records_of(tiny(), resume=True, force=True)
    assert records[-1]["step"] == 12
    assert warnings_of(records) == ["val_data: the text is no longer the one that the run to "
                                    "resume was begun with; forced to continue anyway"]


def test_what_force_passes_over_is_said_one_by_one(tiny, tmp_path):
    train(tiny(), [stop_after(4)])
    (tmp_path / "text").write_text("9" + TEXT[1:])
    other = dict(learning_rate=0.5, min_learning_rate=1e-3, beta2=0.9, max_steps=14)
    texts = warnings_of(records_of(tiny(**other), resume=True, force=True))
    assert [text.split(" ")[0] for text in texts] == [
        "learning_rate=0.5", "beta2=0.9", "max_steps=14", "data:"]
    assert all("forced" in text for text in texts if not text.startswith("max_steps"))
    assert warnings_of(read_log(tmp_path / "out" / "log.jsonl")) == texts
    # the settings are those of the checkpoint now
    assert warnings_of(records_of(tiny(**other), resume=True, force=True)) == []


@pytest.mark.parametrize("changes", [dict(n_layer=1), dict(n_head=4), dict(n_embd=32),
                                     dict(n_positions=9), dict(tokenizer="byte")])
def test_what_the_checkpoint_fixes_cannot_be_forced(tiny, tmp_path, changes):
    train(tiny(), [stop_after(4)])
    before, (name, value) = snapshot(tmp_path / "out"), *changes.items()
    for force in (False, True):
        with pytest.raises(ConfigError, match=rf"{name}={value!r} \(it was .*; its checkpoint "
                                              f"fixes {name}$"):
            train(tiny(**changes), resume=True, force=force)
    assert snapshot(tmp_path / "out") == before


def test_memory_that_force_passes_over_is_said(tiny, monkeypatch):
    monkeypatch.setattr(cost, "memory_limits", lambda: (1 << 20, 1 << 20))
    with pytest.raises(MemoryError):
        train(tiny())
    (text,) = warnings_of(records_of(tiny(max_steps=1), force=True))
    assert "of memory" in text


# --------------------------------------------------------------------------------- what is kept

def test_older_checkpoints_are_kept(tiny, tmp_path):
    def steps(out):
        return sorted(name for name in os.listdir(out) if name.startswith("step"))

    train(tiny(eval_interval=1, keep=3))
    best = os.readlink(tmp_path / "out" / "best")
    assert steps(tmp_path / "out") == sorted(
        {best} | {f"step-{n:08d}" for n in [n for n in range(11, 0, -1)
                                            if f"step-{n:08d}" != best][:3] + [12]})


def test_two_runs_do_not_write_to_one_directory(tiny, tmp_path):
    holder = RunDirectory(tmp_path / "out")
    with pytest.raises(BlockingIOError, match="another run is writing"):
        train(tiny())
    holder.close()
    assert train(tiny(max_steps=1)).steps == 1
