"""Tests log and plot: records become a page that needs no other file, with round axis numbers."""

import json
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygpt.cli import main
from pygpt.training.run_log import RunLog, read_log, rewind
from pygpt.training.plot import (COLORS, DASHES, Axis, page, plot, span, thinned, tick_label,
                                 tick_step)


def records(n=20):
    for step in range(1, n + 1):
        yield dict(event="step", step=step, loss=3 / step, learning_rate=1e-3, grad_norm=1.0,
                   tokens_per_second=12345.0)
        if step % 5 == 0:
            yield dict(event="eval", step=step, val_loss=4 / step, is_best=True)


def test_a_log_is_read_back_without_its_torn_end(tmp_path):
    log = RunLog(tmp_path / "log.jsonl", interval=5)
    for record in records():
        log(record)
    log.close()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"event": "st')
    read = read_log(tmp_path / "log.jsonl")
    assert [r["step"] for r in read if r["event"] == "step"] == [5, 10, 15, 20]
    assert all(r["time"] > 1e9 for r in read)
    rewind(tmp_path / "log.jsonl", 10)
    assert max(r["step"] for r in read_log(tmp_path / "log.jsonl")) == 10
    rewind(tmp_path / "none", 10)


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"event": 1, "step": 1}', "[" * 99999])
def test_a_file_that_is_no_log(tmp_path, line):
    (tmp_path / "log.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match="log.jsonl: line 1 is not a record of a run"):
        read_log(tmp_path / "log.jsonl")


def test_the_page_stands_alone_and_is_well_formed():
    text = page([("a <b> & c", 0, list(records())), ("d", 1, list(records(7)))])
    assert "@" not in re.sub("@(media|container)", "", text)
    assert not re.search(r"(src|href)=|https?:|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text and "a &lt;b&gt; &amp; c" in text
    charts = re.findall(r"<svg viewBox.*?</svg>", text, re.DOTALL)
    assert len(charts) == 4
    for svg, curves in zip(charts, (4, 2, 2, 2)):
        root = ET.fromstring(svg)
        classes = [path.get("class") for path in root.iter("path")]
        assert sum(name.split()[0] in ("thin", "line", "thick") for name in classes) == curves
        assert len([t for t in root.iter("text") if t.get("class") == "y"]) >= 3
    values = json.loads(re.search(r"values = (\[.*\]);", text)[1])
    assert [len(chart["lines"]) for chart in values] == [4, 2, 2, 2]
    assert values[0]["lines"][0]["points"][1] == [2, 1.5]


def test_what_is_not_finite_is_left_out():
    bad = [dict(event="step", step=1, loss=float("nan"), learning_rate=1.0, grad_norm=float("inf"),
                tokens_per_second=None), *list(records())[1:]]
    assert "nan" not in page([("a", 0, bad)]) and "Infinity" not in page([("a", 0, bad)])
    assert page([("a", 0, bad[:1])]).count("<svg viewBox") == 4


def test_the_command_writes_a_page(tmp_path, capsys):
    for name in "ab":
        (tmp_path / name).mkdir()
        log = RunLog(tmp_path / name / "log.jsonl")
        for record in records():
            log(record)
        log.close()
    assert main.main(["plot", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/a/plot.html\n"
    assert (tmp_path / "a" / "plot.html").read_text().startswith("<!DOCTYPE html>")
    assert main.main(["plot", str(tmp_path / "a"), "--output", str(tmp_path / "x.html")]) == 0
    (tmp_path / "b" / "log.jsonl").write_text("")
    assert main.main(["plot", str(tmp_path / "b")]) == 1
    assert main.main(["plot", str(tmp_path / "none")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert "no step has been logged yet" in errors[0] and "No such file" in errors[1]


def test_many_runs_look_different(tmp_path):
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, records())) + "\n")
    plot([tmp_path] * (COLORS * DASHES), tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    looks = re.findall(r'class="key (c\d d\d)"', text)
    assert len(set(looks)) == len(looks) == COLORS * DASHES
    for name in {part for classes in looks for part in classes.split()} - {"d0"}:  # d0: no dashes
        assert f".{name} {{" in text


@given(low=st.floats(-1e6, 1e6), length=st.floats(1e-6, 1e9), round_out=st.booleans())
def test_ticks_are_few_round_and_different(low, length, round_out):
    axis = Axis(low, low + length, 100, 500, 5, round_out)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 9
    slack = 1e-3 + 400 * abs(low) * 2.0 ** -50 / length  # the ends are floats
    assert all(100 - slack <= place <= 500 + slack for place, _ in ticks)
    if length > 1e-4 * abs(low):
        assert len({label for _, label in ticks}) == len(ticks)


@pytest.mark.parametrize("value, step, label", [
    (0, 1, "0"), (500, 500, "500"), (1000, 500, "1,000"), (15000, 5000, "15k"),
    (0.002, 0.002, "0.002"),
    (2e-5, 1e-5, "2e-5"), (1.5e-4, 5e-5, "1.5e-4"), (1e-4, 5e-5, "1.0e-4"),
    (250000, 50000, "250k"), (2.5, 0.5, "2.5"), (-1, 0.5, "-1.0")])
def test_tick_labels(value, step, label):
    assert tick_label(value, step) == label


def test_tick_steps():
    assert [tick_step(length, 5) for length in (10, 4, 0.9, 2600)] == [2, 1, 0.2, 1000]


def test_spikes_do_not_flatten_a_curve():
    assert span([1.0] * 99 + [1e9], False) == (1.0, 1.5)
    assert span([2.0], False) == (1.0, 3.0) and span([0.0], True)[1] > 0
    low, high = span([1.0, 2.0, 3.0], True)
    assert (low, high) == (0.0, 3.0)


def test_long_runs_are_averaged():
    points = thinned([(i, float(i % 2)) for i in range(1, 10_001)], 500)
    assert len(points) == 500 and points[-1][0] == 10_000
    assert all(value == 0.5 for _, value in points)
    assert thinned([(1, 2.0)]) == [(1, 2.0)]
    values = json.loads(re.search(r"values = (\[.*\]);", page([("a", 0, list(records(2000)))]))[1])
    assert [line["mean_of"] for line in values[0]["lines"]] == [4, 1]
