"""A run that was stopped, killed or out of disk goes on as if nothing had been."""

import errno
import json
import os
import pathlib
import random
import re
import resource
import signal
import subprocess
import sys
import time

import pytest

from conftest import TEXT
from pygpt.backend import kernels
from pygpt.checkpoint import safetensors
from pygpt.training import trainer_state
from pygpt.checkpoint.model_files import read_model
from pygpt.cli.main import main
from pygpt.config import ConfigError
from pygpt.data.corpus import DataError
from pygpt.training.run_log import read_log
from pygpt.model import GPT, parameter_shapes
from pygpt.training.run_directory import RunDirectory
from pygpt.checkpoint.safetensors import CheckpointError
from pygpt.tokenizer import Tokenizer
from pygpt.training.trainer import train
from sharing import shared_among

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
KILLS = int(os.environ.get("PYGPT_TEST_KILLS", 6))


@pytest.fixture
def tiny(tiny):
    """The tiny run with room to stop and go on."""
    return lambda **changes: tiny(**dict(max_steps=12) | changes)


def stop_after(step):
    """A callback that ends a run as Ctrl-C does."""
    return lambda record: record["event"] == "step" and record["step"] == step


def files(directory):
    """What a checkpoint holds, but for the seconds it took and settings that change no number."""
    directory = pathlib.Path(directory)
    found = {name: (directory / name).read_bytes() for name in os.listdir(directory)}
    state = json.loads(found.pop("trainer.json"))
    del state["seconds"]
    for name in ("out", "threads", "recompute"):
        del state["config"][name]
    return found | {"trainer.json": state}


def numbers(out):
    """What the log says of each step and validation, in order."""
    return [(r["step"], r.get("loss"), r.get("grad_norm"), r.get("val_loss"))
            for r in read_log(out / "log.jsonl") if r["event"] in ("step", "eval")]


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
    for link in ("last", "best"):
        assert files(tmp_path / "out" / link) == files(tmp_path / "whole" / link)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")


def test_a_stop_while_validating_loses_no_validation(tiny, tmp_path, monkeypatch):
    train(tiny(out=tmp_path / "whole"))
    config = tiny()

    def stop_at_8(model, batches, is_stopped):
        return None if model.forward_passes == 0 and stopping else evaluate(model, batches)

    from pygpt.training import trainer
    evaluate, stopping = trainer.evaluate, False

    def watch(record):
        nonlocal stopping
        stopping = record["event"] == "step" and record["step"] == 8
        return stopping

    monkeypatch.setattr(trainer, "evaluate", stop_at_8)
    assert train(config, [watch]).steps == 8
    monkeypatch.undo()
    train(config, resume=True)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")
    for link in ("last", "best"):
        assert files(tmp_path / "out" / link) == files(tmp_path / "whole" / link)


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
        log.write('{"time": 1.0, "ev')  # a line that a killed process did not finish
    records = []
    train(tiny(), [records.append], resume=True)
    assert records[0]["resumed"] and records[0]["step"] == 4
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")


def snapshot(out):
    """{path: (bytes, time of the last change)} of all that is below a directory, and its own."""
    paths = [out, *sorted(out.rglob("*"))]
    return {str(path): (path.is_file() and path.read_bytes(), path.lstat().st_mtime_ns)
            for path in paths}


def test_a_finished_run_has_nothing_to_go_on_with(tiny, tmp_path):
    train(tiny())
    before, records = snapshot(tmp_path / "out"), []
    (tmp_path / "text").unlink()  # it takes no text to see that nothing is left to do
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
    assert "--max-steps 24 (it was 12): from step 13 on the learning rate follows the new schedule" \
        in capsys.readouterr().out
    assert trainer_state.load(tmp_path / "out" / "last").step == 24


def test_a_finished_run_is_held_to_its_settings_and_to_no_kernels(tiny, tmp_path):
    train(tiny())
    rewrite(tmp_path / "out", isa="avx9000")
    assert train(tiny(), resume=True).steps == 12
    with pytest.raises(ConfigError, match="learning_rate=0.5"):
        train(tiny(learning_rate=0.5), resume=True)


def test_a_last_validation_that_a_signal_left_out_is_made_up_for(tiny, tmp_path, monkeypatch):
    from pygpt.training import trainer
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
    records = []
    assert train(tiny(max_steps=20), [records.append], resume=True).steps == 20
    taken = stop or 12
    rates = {r["step"]: r["learning_rate"] for r in records if r["event"] == "step"}
    assert rates == {step: tiny(max_steps=20).learning_rate_at(step - 1)
                     for step in range(taken + 1, 21)}
    assert [r["text"] for r in records if r["event"] == "warning"] == [
        f"max_steps=20 (it was 12): from step {taken + 1} on the learning rate follows the new "
        "schedule"]
    records = []
    assert train(tiny(max_steps=20), [records.append], resume=True).steps == 20
    assert [r["event"] for r in records] == ["finished", "end"]


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
    before = files(tmp_path / "out" / "last")
    for name, value in dict(learning_rate=0.5, n_embd=32, batch_size=2, dropout=0.1, seed=3,
                            grad_accumulation_steps=2, beta2=0.5, val_fraction=0.2).items():
        with pytest.raises(ConfigError, match=rf"other settings: .*\b{name}={value} \(it was "):
            train(tiny(**{name: value}), resume=True)
    assert files(tmp_path / "out" / "last") == before
    harmless = dict(threads=1, keep=2, eval_interval=3, sample_interval=5, log_interval=2)
    assert train(tiny(**harmless), [stop_after(6)], resume=True).steps == 6
    assert train(tiny(recompute=True), [stop_after(7)], resume=True).model.recompute
    assert train(tiny(max_steps=8), resume=True, force=True).steps == 8


def told(records):
    return [record["text"] for record in records if record["event"] == "warning"]


def test_another_text_is_refused(tiny, tmp_path):
    train(tiny(), [stop_after(4)])
    (tmp_path / "text").write_text(TEXT[:-5] + "9999.")
    with pytest.raises(DataError, match="val_data: the text is no longer the one"):
        train(tiny(), resume=True)
    records = []
    assert train(tiny(), [records.append], resume=True, force=True).steps == 12
    assert told(records) == ["val_data: the text is no longer the one that the run to resume was "
                             "begun with; forced to continue anyway"]


def test_what_force_passes_over_is_said_one_by_one(tiny, tmp_path):
    train(tiny(), [stop_after(4)])
    (tmp_path / "text").write_text("9" + TEXT[1:])
    records, other = [], dict(learning_rate=0.5, min_learning_rate=1e-3, beta2=0.9, max_steps=14)
    train(tiny(**other), [records.append], resume=True, force=True)
    texts = told(records)
    assert [text.split(" ")[0] for text in texts] == [
        "learning_rate=0.5", "beta2=0.9", "max_steps=14", "data:"]
    assert all("forced" in text for text in texts if not text.startswith("max_steps"))
    assert told(read_log(tmp_path / "out" / "log.jsonl")) == texts
    records = []  # nothing differs any more, so that there is nothing to be said
    train(tiny(**other), [records.append], resume=True, force=True)
    assert told(records) == []


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
    from pygpt.training import cost
    monkeypatch.setattr(cost, "memory_limits", lambda: (1 << 20, 1 << 20))
    records = []
    with pytest.raises(MemoryError):
        train(tiny())
    train(tiny(max_steps=1), [records.append], force=True)
    assert len(told(records)) == 1 and "of memory" in told(records)[0]


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
    shape = dict(n_layer=None, n_head=None, n_embd=None, n_positions=None)
    begun = dict(init=tmp_path / "base", tokenizer=tmp_path / "base" / "last", **shape)
    train(tiny(out=tmp_path / "whole", **begun))
    train(tiny(**begun), [stop_after(5)])
    (tmp_path / "base").rename(tmp_path / "moved")
    begun = dict(init=tmp_path / "moved", tokenizer=tmp_path / "moved" / "last", **shape)
    train(tiny(**begun), [stop_after(6)], resume=True)
    (tmp_path / "moved").rename(tmp_path / "gone")  # a run that goes on reads neither
    train(tiny(**begun), resume=True)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")


def test_another_model_or_tokenizer_than_a_run_began_with_is_refused(tiny, tmp_path):
    shape = dict(n_layer=None, n_head=None, n_embd=None, n_positions=None)
    for name, seed in (("base", 1), ("other", 2)):
        train(tiny(out=tmp_path / name, max_steps=1, seed=seed))
    begun = dict(init=tmp_path / "base", **shape)
    train(tiny(**begun), [stop_after(5)])
    for changes in (dict(init=tmp_path / "other", **shape), dict(init=None), begun | dict(
            tokenizer="bpe:300")):
        with pytest.raises(ConfigError, match="other settings: .*its checkpoint fixes "):
            train(tiny(**changes), resume=True, force=True)
    with pytest.raises(OSError):
        train(tiny(init=tmp_path / "none", **shape), resume=True)


# ------------------------------------------------------------------------------- other kernels

def rewrite(out, **changes):
    """Change fields of a checkpoint's trainer.json; None takes one out."""
    path = out / "last" / "trainer.json"
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in document.items()
                                if value is not None or name == "val_loss"}))


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
    records = []
    train(tiny(), [records.append, stop_after(6)], resume=True, force=True)
    assert len(told(records)) == 1 and f"{name}={now!r}" in told(records)[0]
    assert train(tiny(), resume=True).steps == 12  # the kernels are those of the steps since


def test_a_run_does_not_go_on_with_other_instructions(tiny, tmp_path):
    if len(kernels.isa_names()) < 2:
        pytest.skip("this CPU has one instruction set")
    with kernels.use_isa(kernels.isa_names()[-1]):
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
    limits = {"forward_passes": 2**64 - 1, "dropout_seed": 2**64 - 1, "val_step": 0,
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


# ------------------------------------------------------------------------------ killed, disk full

def loadable(directory):
    """A checkpoint is whole: model, tokenizer, moments and state fit together."""
    model = GPT.from_pretrained(directory)
    assert Tokenizer.from_pretrained(directory).vocab_size == model.config.vocab_size
    state = trainer_state.load(directory)
    tensors, _ = safetensors.read(directory / "optimizer.safetensors")
    assert len(tensors) == 2 * sum(1 for _ in model.named_parameters())
    return state.step


def command(config, *flags):
    return [sys.executable, "-m", "pygpt", "train", "--config", str(config), *flags]


def test_a_killed_run_leaves_a_whole_checkpoint(tiny, tmp_path):
    """SIGKILL at random moments of a run that does little but save, each time resumed."""
    out, rng, inside_a_save, resumed = tmp_path / "out", random.Random(4), 0, 0
    trainer_state.write_settings(tmp_path / "config.json", tiny(
        max_steps=100_000, eval_interval=1, eval_batches=1, n_embd=64, keep=1))
    for kill in range(KILLS):
        flags = ["--resume"] if (out / "last").exists() else []
        resumed += bool(flags)
        process = subprocess.Popen(command(tmp_path / "config.json", *flags), env=ENVIRONMENT,
                                   stdout=subprocess.DEVNULL)
        began = time.monotonic()
        while not any(out.glob("step-*")) and time.monotonic() < began + 20:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.2, 0.6))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        inside_a_save += any(out.glob(".step-*.tmp"))
        step = loadable(out / "last")
        assert loadable(out / "best") <= step
    print(f"{KILLS} kills, {inside_a_save} inside a save, {resumed} resumed, {step} steps")
    directory = RunDirectory(out)  # clears out what the last one left
    assert not [name for name in os.listdir(out) if name.endswith(".tmp")]
    directory.close()


def test_a_file_size_limit_leaves_the_checkpoint_whole(tiny, tmp_path):
    """No room for the weights: the error names the checkpoint, the previous one stays."""
    train(tiny(n_embd=64), [stop_after(5)])
    before = files(tmp_path / "out" / "last")
    trainer_state.write_settings(tmp_path / "config.json", tiny(n_embd=64))
    result = subprocess.run(
        command(tmp_path / "config.json", "--resume"), env=ENVIRONMENT, capture_output=True,
        text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (99_999, 99_999)))
    assert result.returncode == 1
    assert result.stderr == (f"pygpt: error: {tmp_path}/out/step-00000008: "
                             f"{os.strerror(errno.EFBIG)}\n")
    assert files(tmp_path / "out" / "last") == before
    assert [name for name in os.listdir(tmp_path / "out") if name.endswith(".tmp")] == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_leaves_the_checkpoint_whole(tiny, small_disk):
    out = small_disk / "out"
    config = tiny(out=out, n_embd=64, keep=9, eval_interval=1)  # each takes 1.2 MB
    with pytest.raises(OSError) as error:
        train(config)
    assert error.value.errno == errno.ENOSPC and error.value.filename.startswith(f"{out}/step-")
    assert loadable(out / "last") == 2 and loadable(out / "best") in (1, 2)
    assert [name for name in os.listdir(out) if name.endswith(".tmp")] == []
