"""Tests the curve of the losses: the picture itself, and when a run draws it."""

import io
import math
import os
import pty
import random
import re
import subprocess
import unicodedata

import pytest
from commands import COMMAND, ENVIRONMENT, rest_of_terminal
from hypothesis import given, strategies as st
from runs import TEXT, TINY, stop_after

from pygpt.cli.curve import DOTS, LEAST_WIDTH, curve, is_fine
from pygpt.cli.main import main
from pygpt.cli.terminal import Reporter
from pygpt.training.thinned import Thinned
from pygpt.training.trainer import TrainingError, train

FALLING = [(step, 4.0 - 3 * step / 100) for step in range(1, 101)]


# ----------------------------------------------------------------------------------- the series

@given(st.lists(st.floats(-9, 9), max_size=300), st.sampled_from([2, 4, 16, 64]))
def test_a_thinned_series_keeps_its_mean_and_its_steps(values, most):
    series = Thinned(most)
    for step, value in enumerate(values, 1):
        series.add(step, value)
    points = series.points()
    assert len(points) <= most and len(points) > most / 2 - 1 or len(points) == len(values)
    assert [step for step, _ in points] == sorted({step for step, _ in points})
    if values:
        assert points[-1][0] == len(values)
        mean = math.fsum(values) / len(values)
        # a few hundred sums of numbers below 9, each rounded by at most 2^-53 of some thousand
        assert series.mean_between(0, len(values)) == pytest.approx(mean, abs=1e-9)
    if len(values) <= most:
        assert points == list(enumerate(values, 1))


def test_the_mean_between_two_steps():
    series = Thinned(4)
    for step in range(1, 9):  # groups of two: (1, 2), (3, 4), (5, 6), (7, 8)
        series.add(step, float(step))
    assert series.points() == [(2, 1.5), (4, 3.5), (6, 5.5), (8, 7.5)]
    assert series.mean_between(2, 6) == 4.5 and series.mean_between(8, 20) is None


# ---------------------------------------------------------------------------------- the picture

def cells(picture):
    """Return {row: text right of the axis} of the rows above the axis."""
    lines = picture.split("\n")[1:-2]
    return [re.split(r"[│|]", line)[1] for line in lines]


def test_the_picture_as_it_is():
    """25 columns beside the labels: step s is in column s / 20 * 25. The loss falls between step 9
    in column 11 and step 10 in column 12; step 20 is in the last column, 24."""
    steps = [(step, 4.0 if step < 10 else 1.0) for step in range(1, 21)]
    assert curve(steps, [(10, 2.0), (20, 1.0)], 30, 4, is_fine=False).split("\n") == [
        "loss  . training   o validation",
        "4.0 | " + 11 * ".",
        "    |" + 11 * " " + ".",
        "2.0 |" + 12 * " " + "o",
        "1.0 |" + 12 * " " + 12 * "." + "o",
        "    +" + 25 * "-",
        "     step 0" + "20".rjust(19)]


def test_a_falling_loss_goes_down_from_the_upper_left():
    for fine in (False, True):
        rows = cells(curve(FALLING, [], 60, 8, fine))
        assert len(rows) == 8 and all(row.strip() for row in rows)
        starts = [len(row) - len(row.lstrip()) for row in rows]
        assert starts == sorted(starts) and starts[0] <= 1 and starts[-1] >= 45


def test_a_braille_character_has_its_eight_dots_in_the_order_of_unicode():
    down = curve([(0, 1.0), (0, 1.0), (50, 1.0), (50, 0.0), (100, 0.0)], [], 46, 3)
    assert set("".join(cells(down))) <= {chr(c) for c in range(0x2800, 0x2900)} | {" "}
    first, last = cells(down)[0][0], cells(down)[-1][-1]
    assert first == "⠉" and last == "⣀"  # dots 1 and 4 are the upper row, 7 and 8 the lowest
    names = [[unicodedata.name(chr(0x2800 + bit)) for bit in column] for column in DOTS]
    assert names == [[f"BRAILLE PATTERN DOTS-{n}" for n in column] for column in (
        (1, 2, 3, 7), (4, 5, 6, 8))]


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(0, 20), st.integers(30, 100),
       st.integers(3, 12), st.booleans())
def test_any_losses_fit_into_the_width_and_the_height(seed, n, n_val, width, height, fine):
    rng = random.Random(seed)
    scale = 10.0 ** rng.randrange(-6, 20)
    train_points = [(step, rng.choice([rng.random() * scale, 1.0, math.nan, math.inf, 3]))
                    for step in sorted(rng.sample(range(1, 10**6), n))]
    val = [(step, rng.random() * scale) for step in sorted(rng.sample(range(1, 10**6), n_val))]
    picture = curve(train_points, val, width, height, fine)
    if sum(math.isfinite(loss) for _, loss in train_points) < 2:
        assert picture == ""
    elif picture:
        lines = picture.split("\n")
        assert len(lines) == height + 3 and max(map(len, lines[1:])) <= width
        assert "nan" not in picture and "inf" not in picture
        assert ("●" if fine else "o validation") in picture or not val


def test_there_is_no_curve_of_too_little():
    assert curve([], []) == curve([(1, 2.0)], []) == curve([(1, math.nan)] * 9, []) == ""
    assert curve(FALLING, [], LEAST_WIDTH + 4) == "" != curve(FALLING, [], LEAST_WIDTH + 6)
    assert curve([(1, 2.0), (2, 2.0)], [])  # a level loss has a height too


def test_one_spike_does_not_flatten_the_curve():
    spiked = [*FALLING[:50], (51, 1e6), *FALLING[51:]]
    rows = cells(curve(spiked, [], 120, 8))
    assert sum(bool(row.strip()) for row in rows) == 8 and "1000000" not in curve(spiked, [], 120)


# ------------------------------------------------------------------------------ when it is drawn

class Screen(io.StringIO):
    """Stands in for a terminal of an encoding."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("encoding, term, fine", [
    ("utf-8", "xterm", True), ("utf-8", "dumb", False), ("utf-8", "linux", False),
    ("utf-8", None, False), ("latin-1", "xterm", False), ("ascii", "xterm", False),
    (None, "xterm", False), ("no-such", "xterm", False)])
def test_braille_only_where_it_is_shown(monkeypatch, encoding, term, fine):
    monkeypatch.delenv("TERM")
    if term:
        monkeypatch.setenv("TERM", term)
    screen = Screen()
    screen.encoding = encoding
    assert is_fine(screen) is fine


def drawn(screen):
    return [line for line in screen.getvalue().splitlines() if re.search(r"^ +step 0 +\d", line)]


def test_a_run_draws_its_losses_at_its_end_and_a_resumed_run_all_of_them(tiny, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen, again = Screen(), Screen()
    train(tiny(max_steps=20), [Reporter(screen), stop_after(12)])
    assert drawn(screen)[0].split() == ["step", "0", "12"] and "●" in screen.getvalue()
    train(tiny(max_steps=20), [Reporter(again)], resume=True)
    (axis,) = drawn(again)
    whole = Screen()
    train(tiny(max_steps=20, out=tiny().out + "-2"), [Reporter(whole)])
    assert axis.split() == ["step", "0", "20"]

    def picture(screen):
        lines = screen.getvalue().splitlines()
        end = lines.index(axis)
        return lines[end - 10:end + 1]

    assert picture(again) == picture(whole) and picture(whole)[0].endswith("● validation")


def test_a_damaged_log_costs_the_earlier_part_of_the_curve_only(tiny, tmp_path, monkeypatch):
    train(tiny(max_steps=30), [stop_after(9)])
    log = tmp_path / "out" / "log.jsonl"
    lines = [line for line in log.read_text().splitlines() if '"step"' in line]
    log.write_text("\n".join([*lines, '{"event": "step", "step": 3, "loss": "x"}',
                              '{"event": "step", "step": 3, "loss": 1e999}',
                              '{"event": "eval", "step": 3, "val_loss": null}', ""]))
    screen = Screen()
    train(tiny(max_steps=30), [Reporter(screen)], resume=True)
    assert len(drawn(screen)) == 1


def test_no_curve_in_a_file_and_none_of_a_few_steps(tiny):
    file, screen = io.StringIO(), Screen()
    train(tiny(max_steps=20), [Reporter(file)])
    train(tiny(max_steps=9), [Reporter(screen)])
    assert not drawn(file) and not drawn(screen)


@pytest.mark.parametrize("columns, is_drawn", [(40, True), (20, False)])
def test_the_curve_fits_a_narrow_terminal(tmp_path, columns, is_drawn):
    (tmp_path / "text").write_text(TEXT)
    controller, terminal = pty.openpty()
    process = subprocess.Popen([*COMMAND, "train", "--data", "text", *TINY, "--max-steps", "20"],
                               cwd=tmp_path, stdout=terminal,
                               env=ENVIRONMENT | {"COLUMNS": str(columns), "TERM": "xterm"})
    os.close(terminal)
    lines = rest_of_terminal(controller).decode().splitlines()
    assert process.wait(timeout=60) == 0
    assert any(re.search("^ +step 0 +20$", line) for line in lines) is is_drawn
    assert all(len(line) < columns for line in lines if re.search("[│└●]", line))


def test_the_curve_stands_above_an_error(tmp_path, monkeypatch, capsys):
    def diverging(config, callbacks, **options):
        for step in range(1, 21):
            callbacks[0]({"event": "step", "step": step, "loss": step, "learning_rate": 1.0,
                          "grad_norm": 1.0, "tokens_per_second": 1, "peak_share": None,
                          "seconds_left": 0})
        raise TrainingError("the loss is nan")

    screen = Screen()
    monkeypatch.setattr("pygpt.training.trainer.train", diverging)
    monkeypatch.setattr(Reporter, "_step", Reporter._note_losses)  # no status line
    monkeypatch.setattr("sys.stdout", screen)
    assert main(["train", "--out", str(tmp_path / "out")]) == 1
    assert len(drawn(screen)) == 1
    assert capsys.readouterr().err == "pygpt: error: the loss is nan\n"
