"""Tests the advice on a run: each topic by records, the runs that get none, and real tiny runs."""

import io
import math
import random
from dataclasses import asdict

import pytest
from commands import here
from conftest import ROOT, TEXT
from hypothesis import given, strategies as st
from runs import TINY, records_of, stop_after

from pygpt.cli.terminal import Reporter
from pygpt.config import TrainConfig
from pygpt.training import advice
from pygpt.training.advice import Adviser
from pygpt.training.run_log import read_log

VOCAB = 100
GUESSING = math.log(VOCAB) + 128 * 0.02 ** 2 / 2  # of new weights of width 128


class Run:
    """Makes the records of a run of made-up losses, and lists the topics of the advice."""

    def __init__(self, train_tokens=10**6, val_tokens=10**5, **settings):
        settings = dict(max_steps=1000, batch_size=10, n_positions=10, warmup_steps=10) | settings
        self.config, self.adviser, self.told = TrainConfig(**settings), Adviser(), []
        self.best, self.best_step, self.step = math.inf, 0, 0
        self.tell("start", config=asdict(self.config), vocab_size=VOCAB,
                  train_tokens=train_tokens, val_tokens=val_tokens)

    def tell(self, event, **fields):
        self.told += [(self.step, a) for a in
                      self.adviser({"event": event, "step": self.step, **fields})]

    def steps(self, losses, grad_norm=1.0):
        for loss in losses:
            self.step += 1
            self.tell("step", loss=loss, grad_norm=grad_norm)

    def eval(self, val_loss):
        if val_loss < self.best:
            self.best, self.best_step = val_loss, self.step
        self.tell("eval", val_loss=val_loss, best_val_loss=self.best, best_step=self.best_step)

    def topics(self):
        return [(step, a.topic) for step, a in self.told]


def validated(losses_and_vals, **settings):
    """Return a Run of 50 steps of each loss, with a validation after them."""
    run = Run(**settings)
    for loss, val in losses_and_vals:
        run.steps([loss] * 50)
        run.eval(val)
    return run


# ------------------------------------------------------------------------------------ each topic

@pytest.mark.parametrize("warmup, steps, is_told", [(99, 100, False), (100, 100, True),
                                                    (1000, 100, True), (0, 1, False)])
def test_a_warm_up_that_is_longer_than_the_run(warmup, steps, is_told):
    run = Run(warmup_steps=warmup, max_steps=steps, learning_rate=0.5)
    assert run.topics() == ([(0, "warm_up")] if is_told else [])
    if is_told:
        highest = run.config.learning_rate_at(steps - 1)
        assert f"only rises, to {highest:.2g}," in run.told[0][1].text
        assert f"warmup_steps={warmup} " in run.told[0][1].text


@pytest.mark.parametrize("tokens, is_told", [(899, True), (900, False)])
def test_too_few_tokens_held_out(tokens, is_told):
    run = Run(val_tokens=tokens)
    assert run.topics() == ([(0, "few_tokens")] if is_told else [])
    if is_told:  # the standard error of the mean of 899 losses that spread by 1.5
        assert "899 tokens" in run.told[0][1].text and "by about 0.05:" in run.told[0][1].text


def test_a_loss_above_that_of_guessing():
    run = Run(learning_rate=3.0)
    run.steps([GUESSING] + 18 * [9.0])
    assert not run.told  # 19 steps are too few to tell
    run.steps([9.0] * 50)
    assert run.topics() == [(20, "above_guessing")]
    text = run.told[0][1].text
    assert f"ln 100 = {math.log(100):.2f}" in text and "learning_rate=3 may be too high" in text


@pytest.mark.parametrize("losses", [
    [GUESSING + 0.05 * (-1) ** i for i in range(100)],       # new weights that learn nothing
    [9.0] + [8.0] * 99,                                      # fine-tuned from another language
    [GUESSING] + [4.0] * 50 + [30.0] + [4.0] * 50,           # one bad batch
])
def test_a_loss_that_is_no_sign_of_a_high_learning_rate(losses):
    run = Run()
    run.steps(losses)
    assert not run.told


def test_a_validation_loss_that_rises():
    run = validated([(2.0, 2.2), (1.9, 2.1), (1.9, 2.15), (1.8, 2.2)])
    assert not run.told  # it has risen twice
    run.steps([1.7] * 50)
    run.eval(2.25)
    assert run.topics() == [(250, "rising")]
    text = run.told[0][1].text
    assert "risen for 3 validations: the best is 2.1000 at step 100; " in text
    assert "by heart" in text and "patience=3" in text
    for val in (2.3, 2.35):
        run.steps([1.7] * 50)
        run.eval(val)
    assert run.topics() == [(250, "rising")]  # 0.25 above the best is not yet twice 0.15
    run.steps([1.7] * 50)
    run.eval(2.41)
    assert run.topics() == [(250, "rising"), (400, "rising")]


def test_both_losses_rise():
    run = validated([(2.0, 2.1), (2.1, 2.2), (2.2, 2.3), (2.3, 2.4)])
    assert run.topics() == [(200, "rising")]
    assert "the training loss rises too" in run.told[0][1].text


@pytest.mark.parametrize("vals", [[2.0, 2.001, 2.002, 2.003], [2.0, 2.1, 2.2, 2.15, 2.3, 2.4],
                                  [2.0, 2.1, 2.1, 2.2], [2.3, 2.2, 2.1, 2.0]])
def test_a_validation_loss_that_does_not_rise_for_long_or_by_much(vals):
    assert not validated([(2.0, val) for val in vals]).told


def test_a_gap_in_the_first_epoch_is_another_text_and_later_learning_by_heart():
    run = validated([(2.0, 3.1)], train_tokens=5000)  # 50 steps of 100 tokens are one epoch
    assert run.topics() == [(50, "other_text")]
    assert "has not read its text once" in run.told[0][1].text
    run.steps([1.0] * 50)
    run.eval(1.6)
    assert run.topics()[1:] == [(100, "by_heart")]
    assert "after reading its text 2.0 times" in run.told[1][1].text
    run.steps([0.5] * 50)
    run.eval(2.6)
    assert len(run.told) == 2


@pytest.mark.parametrize("loss, val", [(1.07, 1.38), (0.2, 0.4), (2.0, 2.9), (5.0, 50.0)])
def test_no_gap_worth_a_word(loss, val):
    """The last row diverges: its training loss is above that of guessing."""
    assert not validated([(loss, val)]).told


def test_gradients_far_above_the_clip():
    for norm, clip, is_told in ((9.0, 1.0, False), (10.0, 1.0, True), (1e9, 0.0, False),
                                (1.0, 0.01, True)):
        run = Run(grad_clip=clip)
        run.steps([2.0] * 50, norm)
        run.eval(2.0)
        assert run.topics() == ([(50, "clipped")] if is_told else [])
    assert "scaled down to grad_clip=0.01" in run.told[0][1].text
    run.steps([2.0] * 50, 3.9)  # not four times as long
    run.eval(2.0)
    assert len(run.told) == 1
    run.steps([2.0] * 50, 4.1)
    run.eval(2.0)
    assert run.topics()[1:] == [(150, "clipped")]


def test_a_few_long_gradients_are_no_sign():
    run = Run()
    run.steps([2.0] * 26, 1.0)
    run.steps([2.0] * 24, 100.0)
    run.eval(2.0)
    run.steps([2.0] * 19, 100.0)  # too few steps
    run.eval(2.0)
    assert not run.told


def test_a_loss_that_falls_to_the_end():
    def at_end(last, before=2.0, steps=100, train_tokens=10**5):
        run = Run(train_tokens=train_tokens, max_steps=steps)
        run.steps([2.5] * (steps // 2) + [before] * (steps // 4) + [last] * (steps // 4))
        return run.adviser.at_end(run.step), run

    (told,), run = at_end(1.95)
    assert told.topic == "falling" and "by 0.05 in the last quarter" in told.text
    assert "read 10% of its text" in told.text and "about 1,000 read it once" in told.text
    assert not run.adviser.at_end(100)
    run.steps([1.9] * 50 + [1.8] * 50)  # it was resumed with twice as many steps
    assert [a.topic for a in run.adviser.at_end(200)] == ["falling"]
    assert not at_end(1.97)[0]                           # by 1.5 %
    assert not at_end(1.9, train_tokens=10**4)[0]        # one epoch
    assert not at_end(9.0, 10.0)[0]                      # it diverges
    assert not at_end(1.9, steps=4)[1].adviser.at_end(0) and not Adviser().at_end(4)


# ----------------------------------------------------------------------------------- no advice

def test_the_losses_of_full_runs_get_no_advice():
    """Losses of runs on an AMD EPYC (Zen 3, AVX2): those of the defaults on Python's reference, and
    of README.md's on Tiny Shakespeare; means of each eighth, and the gradient's usual norm."""
    for tokens, train, vals, norm in (
            (383_988, [2.766, 2.14, 1.736, 1.502, 1.35, 1.229, 1.139, 1.074],
             [2.461, 1.978, 1.744, 1.583, 1.497, 1.433, 1.395, 1.378], 2.4),
            (1_003_855, [2.724, 2.333, 2.163, 2.038, 1.948, 1.856, 1.805, 1.772],
             [2.429, 2.285, 2.141, 2.04, 1.984, 1.945, 1.899, 1.885], 1.6)):
        run = Run(train_tokens=tokens, val_tokens=tokens // 9, max_steps=2000, warmup_steps=100,
                  batch_size=12, n_positions=64)
        rng = random.Random(0)
        run.steps([4.6])
        for i, val in enumerate(vals):
            run.steps([rng.gauss(train[i], 0.05) for _ in range(249 if i == 0 else 250)], norm)
            run.eval(val)
        assert run.step == 2000 and not run.told and not run.adviser.at_end(2000)


# ------------------------------------------------------------------------------------ real runs

def advice_of(records):
    return [(record["step"], record["topic"]) for record in records if record["event"] == "advice"]


def test_a_real_run_whose_learning_rate_is_too_high(tiny, tmp_path):
    records = records_of(tiny(max_steps=40, learning_rate=10, eval_interval=20))
    topics = [topic for _, topic in advice_of(records)]
    assert "above_guessing" in topics and "falling" not in topics and "by_heart" not in topics
    assert advice_of(read_log(tmp_path / "out" / "log.jsonl")) == advice_of(records)
    assert records[-1]["event"] == "end"


def test_a_real_run_that_learns_a_tiny_text_by_heart(tiny, tmp_path):
    """Draw random letters: nothing in them helps with the held-out part."""
    rng = random.Random(0)
    (tmp_path / "noise").write_text("".join(rng.choice("abcdefgh") for _ in range(150)))
    records = records_of(tiny(data=tmp_path / "noise", n_layer=1, n_embd=64, batch_size=8,
                              learning_rate=5e-3, weight_decay=0, max_steps=140, warmup_steps=5,
                              eval_interval=10))
    assert {topic for _, topic in advice_of(records)} == {"by_heart", "rising", "few_tokens"}
    first = next(record for record in records if record.get("topic") == "rising")
    best = min((r["val_loss"], r["step"]) for r in records
               if r["event"] == "eval" and r["step"] <= first["step"])
    assert f"the best is {best[0]:.4f} at step {best[1]}; the training loss still" in first["text"]


def test_a_real_run_that_is_shorter_than_its_warm_up(tiny):
    assert (0, "warm_up") in advice_of(records_of(tiny(warmup_steps=100)))


def test_a_real_run_that_ends_too_early(tiny, tmp_path):
    (tmp_path / "text").write_text(TEXT * 5)
    records = records_of(tiny(max_steps=40))
    assert advice_of(records)[-1] == (40, "falling")
    assert [record["event"] for record in records[-2:]] == ["advice", "end"]
    for way in (dict(patience=1, learning_rate=0), dict()):  # it says nothing of other ends
        callbacks = [] if way else [stop_after(30)]
        told = advice_of(records_of(tiny(max_steps=40, **way), *callbacks))
        assert (40, "falling") not in told and (30, "falling") not in told


def test_a_real_run_of_the_lesson_gets_no_advice(tmp_path):
    """Train a model like the lesson's once over a text of 40,000 characters."""
    (tmp_path / "text").write_text("".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "csrc").glob("*.c")))[:40_000])
    records = records_of(TrainConfig(
        data=tmp_path / "text", out=tmp_path / "out", n_layer=1, n_head=2, n_embd=32,
        n_positions=32, batch_size=16, max_steps=80, warmup_steps=8, eval_interval=10,
        eval_batches=5, sample_interval=0))
    assert records[-1]["val_loss"] < 3.5 and not advice_of(records)


# ------------------------------------------------------------------------------ what is printed

def test_the_command_line_prints_advice_with_the_names_of_flags(tmp_path):
    (tmp_path / "text").write_text(TEXT)
    result = here("train", "--data", "text", *TINY, "--warmup-steps", 100, cwd=tmp_path)
    assert result.returncode == 0 and (
        "\nadvice: --warmup-steps 100 is no shorter than the run of --max-steps 4: the learning "
        "rate only rises, to 8e-05, and never decays; a tenth of the run is usual\n"
        in result.stdout)


def test_advice_is_wrapped_on_a_terminal(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    for columns in (40, 5):
        monkeypatch.setenv("COLUMNS", str(columns))
        screen = Screen()
        Reporter(screen)({"event": "advice", "step": 1, "topic": "t", "text": 30 * "word " + ".",
                          "severity": 1})
        first, *others = screen.getvalue().splitlines()
        assert first.startswith("advice: word") and len(others) > 3
        assert all(line.startswith("  word") or line == "  ." for line in others)
        assert max(map(len, [first, *others])) < max(columns, 21)


# ------------------------------------------------------------------------------------- resuming

def test_a_resumed_run_gets_the_advice_of_the_whole_run(tiny, tmp_path):
    def config(out):
        return tiny(max_steps=60, learning_rate=5, grad_clip=1e-3, eval_interval=20, out=out)

    whole = advice_of(records_of(config(tmp_path / "whole")))
    assert len(whole) > 2
    for stop in (10, 25, 40, 59):
        out = tmp_path / f"out{stop}"
        before = advice_of(records_of(config(out), stop_after(stop)))
        after = advice_of(records_of(config(out), resume=True))
        assert before + after == whole == advice_of(read_log(out / "log.jsonl"))


def test_the_gradients_before_the_last_validation_of_a_log_do_not_count():
    run, record = Run(), {"event": "step", "loss": 2.0, "grad_norm": 100.0}
    run.adviser.follow([record | {"step": step} for step in range(1, 51)]
                       + [{"event": "eval", "step": 50, "val_loss": 2.0}])
    run.step = 50
    run.steps([2.0] * 30, 1.0)
    run.eval(2.0)
    assert not run.told


def test_records_that_no_run_writes_are_passed_over():
    run = Run()
    run.adviser.follow([
        {"event": "step", "step": 1, "loss": 2.0}, {"event": "step", "step": 2, "grad_norm": 2.0},
        {"event": "step", "step": 3, "loss": 10**400, "grad_norm": 1.0},
        {"event": "step", "step": 4, "loss": math.nan, "grad_norm": True},
        {"event": "eval", "step": 5, "val_loss": "x"}, {"event": "eval", "step": 6},
        {"event": "advice", "step": 7, "topic": "rising", "severity": None}])
    run.eval(2.0)
    assert not run.told and run.adviser.at_end(9) == []


VALUES = st.sampled_from([None, True, "x", -1, 0, 2.5, 10**400, math.nan, math.inf, [], {}])


@given(st.lists(st.fixed_dictionaries(
    {"event": st.sampled_from(["start", "step", "eval", "advice", "end"]),
     "step": st.integers(0, 99)},
    optional=dict.fromkeys(["loss", "grad_norm", "val_loss", "severity", "topic"], VALUES)),
    max_size=20))
def test_any_log_can_be_followed(records):
    run = Run()
    run.adviser.follow(records)
    run.step = 99
    run.steps([3.0] * 30)
    run.eval(2.0)
    run.adviser.at_end(run.step)


def test_every_topic_is_tested_here():
    text = open(__file__, encoding="utf-8").read()
    for line in open(advice.__file__, encoding="utf-8").read().split('Advice("')[1:]:
        assert f'"{line.partition(chr(34))[0]}"' in text
