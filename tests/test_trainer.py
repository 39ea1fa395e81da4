"""Tests train: two runs are equal to the bit, records report events, and errors lose no work."""

import math
import os
import signal
from array import array

import pytest

from conftest import TEXT
from pygpt.backend import kernels
from pygpt.checkpoint.model_files import read_model
from pygpt.config import TrainConfig
from pygpt.data.corpus import DataError
from pygpt.data.batches import TrainingBatches, split, validation_batches
from pygpt.model import GPT, parameter_shapes
from pygpt.optim import AdamW
from pygpt.sampling import Sampler
from pygpt.tokenizer import CharTokenizer, Tokenizer
from pygpt.training.trainer import TrainingError, evaluate, train
from sharing import needs_threads, shared_among


def run(config):
    """Return the records of a run, grouped by event, and its result."""
    records = []
    result = train(config, [records.append])
    events = {}
    for record in records:
        events.setdefault(record["event"], []).append(record)
    return events, result


def tokens_of(tokenizer):
    return memoryview(array("H", tokenizer.encode(TEXT)))


def losses(events):
    return [record["loss"] for record in events["step"]]


def test_records_tell_what_happened(tiny):
    events, result = run(tiny(sample_interval=5))
    (start,), (end,) = events["start"], events["end"]
    assert start["parameters"] == result.model.num_parameters()
    assert start["vocab_size"] == result.tokenizer.vocab_size == len(set(TEXT))
    assert start["train_tokens"] + start["val_tokens"] == len(TEXT)
    assert start["threads"] == kernels.get_num_threads() and start["earlier"] is None
    assert [record["step"] for record in events["step"]] == list(range(1, 11))
    assert all(record["grad_norm"] > 0 and record["tokens_per_second"] > 0
               and record["seconds_left"] >= 0 for record in events["step"])
    assert [record["learning_rate"] for record in events["step"]][:3] == [0.005, 0.01, 0.01]
    assert [record["step"] for record in events["eval"]] == [4, 8, 10]
    assert [record["step"] for record in events["save"]] == [4, 8, 10]
    assert [(r["step"], len(r["text"])) for r in events["sample"]] == [(5, 5), (10, 20)]
    assert end["val_loss"] == result.val_loss == events["eval"][-1]["val_loss"]
    assert end["best_val_loss"] == min(record["val_loss"] for record in events["eval"])
    assert result.steps == 10 and not result.interrupted and not end["interrupted"]
    assert result.reason == end["reason"] == "max_steps"
    best = min(events["eval"], key=lambda record: record["val_loss"])
    assert result.best_step == end["best_step"] == best["step"]


def test_the_first_loss_is_that_of_guessing(tiny):
    events, result = run(tiny(max_steps=1))
    assert losses(events)[0] == pytest.approx(math.log(result.tokenizer.vocab_size), rel=0.05)


def test_it_learns(tiny):
    events, result = run(tiny(max_steps=200, eval_interval=200))
    assert losses(events)[-1] < 0.6 * losses(events)[0]
    assert result.val_loss < 0.7 * losses(events)[0]


@needs_threads
@pytest.mark.parametrize("changes", [dict(), dict(dropout=0.2, grad_accumulation_steps=2)])
def test_runs_are_equal_to_the_bit_for_any_threads(tiny, changes):
    before = kernels.get_num_threads()
    first, _ = run(tiny(**changes))
    for threads in (1, 2, 3):
        with shared_among(threads):
            again, _ = run(tiny(threads=threads, **changes))
        assert (again["start"][0]["threads"], kernels.get_num_threads()) == (threads, before)
        assert losses(again) == losses(first)
        for key in ("val_loss", "grad_norm"):
            event = "eval" if key == "val_loss" else "step"
            assert [r[key] for r in again[event]] == [r[key] for r in first[event]]
    other, _ = run(tiny(seed=1, **changes))
    assert losses(other) != losses(first)


def test_it_is_the_loop_one_would_write(tiny):
    """Write the loop by hand: it gives the same numbers to the bit, so all settings matter."""
    config = tiny(max_steps=6, warmup_steps=3, learning_rate=0.03, min_learning_rate=0.02,
                  beta1=0.8, beta2=0.7, weight_decay=0.5, grad_clip=0.3, dropout=0.1, seed=7)
    events, _ = run(config)
    tokenizer = CharTokenizer.train(TEXT)
    batches = TrainingBatches(split(tokens_of(tokenizer), 0.1, 8)[0], 4, 8, seed=7)
    model = GPT(config.model_config(tokenizer.vocab_size), seed=7)
    optimizer = AdamW(model, betas=(0.8, 0.7), weight_decay=0.5)
    for step, record in enumerate(events["step"]):
        optimizer.lr = config.learning_rate_at(step)
        assert record["learning_rate"] == optimizer.lr
        assert record["loss"] == model.loss_and_grad(*batches[step])
        assert record["grad_norm"] == optimizer.clip_grad_norm(0.3)
        optimizer.step()
        optimizer.zero_grad()
    assert max(record["grad_norm"] for record in events["step"]) > 0.3


def test_recompute_reaches_the_model(tiny):
    assert not train(tiny(max_steps=1)).model.recompute
    assert train(tiny(max_steps=1, recompute=True)).model.recompute
    resumed = train(tiny(max_steps=2, recompute=True), resume=True, force=True)
    assert resumed.steps == 2 and resumed.model.recompute


def test_accumulation_is_a_larger_batch(tiny):
    whole, _ = run(tiny(batch_size=4))
    parts, _ = run(tiny(batch_size=2, grad_accumulation_steps=2))
    # the same windows and one step's sums in another order: float32 rounding, grown over ten steps
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)


def test_dropout_is_for_training_only(tiny):
    _, result = run(tiny(dropout=0.5))
    val = split(tokens_of(result.tokenizer), 0.1, 8)[1]
    batches = validation_batches(val, 4, 8, 3)
    assert result.model.training
    assert evaluate(result.model, batches) == evaluate(result.model, batches) == result.val_loss
    assert result.model.training


def test_the_checkpoint_is_the_model(tiny):
    config = tiny()
    events, result = run(config)
    model = GPT.from_pretrained(os.path.join(config.out, "last"))
    tokenizer = Tokenizer.from_pretrained(os.path.join(config.out, "last"))
    assert tokenizer.encode(TEXT) == result.tokenizer.encode(TEXT)
    val = split(tokens_of(tokenizer), 0.1, 8)[1]
    assert evaluate(model, validation_batches(val, 4, 8, 3)) == result.val_loss
    best = min(events["eval"], key=lambda record: record["val_loss"])
    assert os.readlink(os.path.join(config.out, "best")) == f"step-{best['step']:08d}"


def test_an_earlier_run_is_kept(tiny):
    config = tiny(max_steps=4)
    run(config)
    events, _ = run(config)
    assert events["start"][0]["earlier"] == os.path.join(config.out, "earlier-1")
    first = read_model(os.path.join(config.out, "earlier-1", "last"), parameter_shapes)[1]
    second = read_model(os.path.join(config.out, "last"), parameter_shapes)[1]
    assert all(first[name].entry.buffer == second[name].entry.buffer for name in first)


def test_an_interrupt_ends_the_step_and_saves(tiny):
    def interrupt(record):
        records.append(record)
        if record["event"] == "step" and record["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    records, before = [], signal.getsignal(signal.SIGINT)
    config = tiny()
    result = train(config, [interrupt])
    assert result.interrupted and result.steps == 3 and result.val_loss is None
    assert [r["event"] for r in records[-2:]] == ["save", "end"] and records[-1]["interrupted"]
    assert result.reason == records[-1]["reason"] == "signal" and result.best_step is None
    assert os.readlink(os.path.join(config.out, "last")) == "step-00000003"
    assert read_model(config.out, parameter_shapes)[0] == result.model.config
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_leaves_at_once(tiny):
    def interrupt(record):
        if record["event"] == "step" and record["step"] >= 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    config, before = tiny(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(config, [interrupt])
    assert os.readlink(os.path.join(config.out, "last")) == "step-00000004"
    assert signal.getsignal(signal.SIGINT) is before


def test_numbers_that_are_not_finite_end_the_run(tiny):
    train(tiny(max_steps=4))
    config = tiny(learning_rate=1e30, min_learning_rate=0, warmup_steps=0, grad_clip=0,
                  eval_interval=1)
    with pytest.raises(TrainingError, match=r"step \d+: the .*loss is .* a lower learning rate"):
        train(config, resume=True, force=True)
    _, tensors, _ = read_model(os.path.join(config.out, "last"), parameter_shapes)
    assert all(math.isfinite(x) for t in tensors.values() for x in t.entry.buffer.cast("f"))


def test_trouble_is_found_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(DataError, match="too short"):
        train(tiny(n_positions=len(TEXT)))
    with pytest.raises(FileNotFoundError):
        train(tiny(data=[tmp_path / "none"]))
    assert not (tmp_path / "out").exists()
    with pytest.raises(OSError):
        train(tiny(out=tmp_path / "text"), [lambda record: pytest.fail("it began")])


def test_without_data_it_learns_from_pythons_own_reference(tmp_path):
    result = train(TrainConfig(out=tmp_path / "o", n_layer=1, n_head=1, n_embd=8, n_positions=8,
                               batch_size=1, max_steps=1, eval_batches=1, sample_length=1))
    assert result.steps == 1 and result.tokenizer.vocab_size > 50


def test_samples_stop_at_the_end_of_a_text(tiny, monkeypatch):
    """Draw only <|endoftext|>, so that the samples are empty."""
    config = tiny(tokenizer="bpe:280", sample_interval=4, max_steps=4, n_positions=4)
    drawn = []
    monkeypatch.setattr(Sampler, "choose", lambda *_: drawn.append(279) or 279)
    records = []
    result = train(config, [records.append])
    assert result.tokenizer.end_of_text == result.model.end_of_text == 279
    texts = [record["text"] for record in records if record["event"] == "sample"]
    assert texts and set(texts) == {""} and len(drawn) == len(texts)
    assert GPT.from_pretrained(config.out).end_of_text == 279
    monkeypatch.undo()
    assert train(tiny(out=config.out + "-chars", max_steps=1)).model.end_of_text is None
