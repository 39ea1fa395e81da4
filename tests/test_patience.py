"""Tests --patience: a run ends after validations in a row that bring no new lowest loss."""

import json

import pytest
from commands import here
from runs import numbers, records_of, stop_after, tree, warnings_of

from pygpt.checkpoint.safetensors import CheckpointError
from pygpt.training import trainer, trainer_state
from pygpt.training.trainer import train

# Of validations after each two steps: the best at 4, 10 and 16, and then five others.
VALS = [3.0, 2.0, 2.5, 2.0, 1.5, 1.6, 1.7, 1.4, 1.4, 1.5, 1.6, 1.7, 1.8]


@pytest.fixture
def scripted(tiny, monkeypatch):
    """Return a function that makes the config of a run whose validations give VALS in turn."""
    def evaluate(model, batches, is_stopped):
        return VALS[is_stopped.__self__.step // 2 - 1]  # it is a method of the run

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    return lambda **changes: tiny(**dict(max_steps=26, eval_interval=2) | changes)


@pytest.mark.parametrize("patience, steps, reason, best", [
    (0, 26, "max_steps", 16), (1, 6, "patience", 4), (2, 8, "patience", 4),
    (3, 22, "patience", 16), (5, 26, "max_steps", 16), (6, 26, "max_steps", 16)])
def test_a_run_ends_when_its_patience_does(scripted, tmp_path, patience, steps, reason, best):
    records = records_of(scripted(patience=patience, sample_interval=100))
    end = records[-1]
    assert (end["step"], end["reason"], end["best_step"]) == (steps, reason, best)
    assert end["val_loss"] == VALS[steps // 2 - 1] and not end["interrupted"]
    assert (tmp_path / "out" / "best").readlink().name == f"step-{best:08d}"
    assert (tmp_path / "out" / "last").readlink().name == f"step-{steps:08d}"
    (sample,) = [record for record in records if record["event"] == "sample"]  # the long one
    assert (sample["step"], len(sample["text"])) == (steps, 20)
    since = [r["evals_since_best"] for r in records if r["event"] == "eval"]
    assert since == [0, 0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 5][:steps // 2]


@pytest.mark.parametrize("stop", [3, 6, 8, 17, 20, 21])
def test_patience_survives_a_resume(scripted, tmp_path, stop):
    train(scripted(patience=3, out=tmp_path / "whole"))
    result = train(scripted(patience=3), [stop_after(stop)])
    assert result.interrupted and result.reason == "callback"
    result = train(scripted(patience=3), resume=True)
    assert (result.steps, result.reason, result.best_step) == (22, "patience", 16)
    assert result.best_val_loss == 1.4 and not result.interrupted
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert ((tmp_path / "out/last" / name).read_bytes()
                == (tmp_path / "whole/last" / name).read_bytes())


def test_a_run_that_patience_ended_is_finished_and_goes_on_without(scripted, tmp_path):
    train(scripted(out=tmp_path / "whole"))
    train(scripted(patience=3))
    before = tree(tmp_path / "out")
    for patience in (3, 2):
        records = records_of(scripted(patience=patience), resume=True)
        assert [record["event"] for record in records] == ["finished", "end"]
        assert records[0]["reason"] == records[1]["reason"] == "patience"
        assert tree(tmp_path / "out") == before
    records = records_of(scripted(patience=0), resume=True)
    assert records[-1]["step"] == 26 and not warnings_of(records)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")


def test_a_smaller_patience_than_has_passed_ends_the_run_at_once(scripted):
    train(scripted(), [stop_after(7)])  # one validation without a new best
    result = train(scripted(patience=1), resume=True)
    assert (result.steps, result.reason, result.interrupted) == (7, "patience", False)


def test_a_real_run_of_a_constant_loss_ends_by_patience(tiny):
    result = train(tiny(learning_rate=0, patience=2, max_steps=100))
    assert (result.steps, result.best_step, result.reason) == (12, 4, "patience")


def test_the_command_line_says_what_patience_did(scripted, tmp_path):
    flags = ["train", "--config", "train.json"]
    (tmp_path / "train.json").write_text(json.dumps(
        vars(scripted()) | {"out": "run", "data": "text"}))
    result = here(*flags, "--patience", 3, cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    assert "step 20/26  validation loss 1.5000, best 1.4000 at step 16, patience 2 of 3\n" in (
        result.stdout)
    assert "best validation loss 1.4000 at step 16\nended after 22 steps of 26 in 0:0" in (
        result.stdout)
    assert ("because of --patience 3: 3 validations in a row without a new best; run/best holds "
            "the best; try: ") in result.stdout
    again = here("train", "--resume", "--out", "run", cwd=tmp_path)
    assert again.stdout.startswith("the run in run is finished: its patience ended it after 22 "
                                   "steps; to train longer: ")
    assert "train --resume --out run --patience 0\n" in again.stdout
    longer = here("train", "--resume", "--out", "run", "--patience", 0, cwd=tmp_path)
    assert "best validation loss 1.4000 at step 16\n26 steps in 0:0" in longer.stdout
    for bad, part in (("-1", "at least 0"), ("x", "not a whole number"), ("1.5", "not a whole")):
        refused = here(*flags, "--patience", bad, cwd=tmp_path)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
        assert f"--patience {bad}" in refused.stderr.replace(":", "").replace("'", "")
        assert part in refused.stderr


@pytest.mark.parametrize("changes, part", [
    (dict(best_step=9), r"best_step=9 must be in \[0, 8\], as val_step=8"),
    (dict(best_step=-1), "best_step=-1 must be in"),
    (dict(evals_since_best=5), r"evals_since_best=5 must be in \[0, 4\], as best_step=4"),
    (dict(evals_since_best="x"), "evals_since_best='x' is not an integer")])
def test_a_state_that_no_run_can_reach_is_refused(scripted, tmp_path, changes, part):
    train(scripted(), [stop_after(8)])
    path = tmp_path / "out/last/trainer.json"
    state = json.loads(path.read_text())
    assert (state["best_step"], state["evals_since_best"]) == (4, 2)
    path.write_text(json.dumps(state | changes))
    with pytest.raises(CheckpointError, match=part):
        trainer_state.load(path.parent)


def test_a_checkpoint_of_an_older_version_is_continued(scripted, tmp_path):
    train(scripted(), [stop_after(7)])
    path = tmp_path / "out/last/trainer.json"
    state = json.loads(path.read_text())
    for name in ("best_step", "evals_since_best"):
        del state[name]
    del state["config"]["patience"]
    path.write_text(json.dumps(state))
    records = records_of(scripted(patience=3), stop_after(9), resume=True)
    assert records[-1]["best_step"] is None and records[-1]["best_val_loss"] == 2.0
    result = train(scripted(patience=3), resume=True)
    assert (result.steps, result.best_step) == (22, 16)
