"""Tests log and plot: records become a page that needs no other file, with round axis numbers."""

import html
import json
import re
import xml.etree.ElementTree as ET

import browser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import records_of

from pygpt.cli import main
from pygpt.training.run_log import RunLog, read_log, rewind
from pygpt.training.plot import (BOTTOM, COLORS, DASHES, LEFT, RIGHT, TOP, Axis, page, plot, span,
                                 thinned, tick_label, tick_step)

needs_chromium = pytest.mark.skipif(browser.found() is None, reason="no Chromium (Debian: "
                                    "apt-get install chromium)")


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


def run_of(vals, *more):
    steps = [record for record in records(len(vals)) if record["event"] == "step"]
    return steps + [dict(event="eval", step=step, val_loss=loss)
                    for step, loss in enumerate(vals, 1)] + list(more)


def marks(runs):
    """Return the loss chart's rings as (color, x, y), and its labels, and the others' rings."""
    first, *others = re.findall(r"<svg viewBox.*?</svg>", page(runs), re.DOTALL)
    rings, *rest = ([(c.get("class").removeprefix("ring "), float(c.get("cx")), float(c.get("cy")))
                     for c in ET.fromstring(svg).iter("circle") if "ring" in c.get("class")]
                    for svg in (first, *others))
    labels = [t.text for t in ET.fromstring(first).iter("text") if "best" in t.get("class", "")]
    return rings, labels, sum(rest, [])


def test_the_best_validation_of_a_run_is_marked():
    rings, labels, others = marks([("a", 0, run_of([3.0, 2.0, 2.0, 4.0]))])
    ((color, x, y),) = rings
    assert (color, labels, others) == ("c0", ["best: step 2"], [])
    assert x == pytest.approx(Axis(0, 4, LEFT, RIGHT, 6).place(2), abs=0.1)
    text = page([("a", 0, run_of([3.0, 2.0, 2.0, 4.0]))])
    assert f'<circle class="c0 d0" cx="{x}" cy="{y}" r="2.6"/>' in text  # it is on the curve
    assert "4 steps, best validation loss 2.0000 at step 2" in text
    assert "advice\"" not in text


def test_of_several_runs_each_has_its_mark_and_none_a_label_that_lies_on_another():
    rings, labels, _ = marks([("a", 0, run_of([3.0, 2.0])), ("b", 1, run_of([1.0, 2.0])),
                              ("c", 2, run_of([]) + list(records(3)))])
    assert [color for color, *_ in rings] == ["c0", "c1"] and labels == []


def test_the_best_of_very_many_validations_lies_on_the_chart():
    """The curve averages its points, so that all of them lie higher."""
    vals = [2.0 + 1 / (1 + i % 10) for i in range(3000)]
    vals[777] = 0.5
    ((_, _, y),), labels, _ = marks([("a", 0, run_of(vals))])
    assert labels == ["best: step 778"] and TOP <= y <= BOTTOM


def test_advice_stands_under_the_name_of_its_run():
    def told(step, topic, text):
        return dict(event="advice", step=step, topic=topic, text=text, severity=1)

    run = run_of([3.0, 2.0], told(1, "t", "an <b>early</b> one"), told(2, "u", "x=1 is high"),
                 told(1200, "t", "a late <i>one</i>"), told(3, "v", None), told(4, [], "\ud800"))
    text = page([("first", 0, run), ("second", 1, list(records()))])
    one, other = re.findall(r'<span><svg class="key.*?</span></span>', text, re.DOTALL)
    assert re.findall(r'<small class="advice">(.*?)</small>', one) == [
        "Advice at step 2: x=1 is high.", "Advice at step 4: \ud800.",
        "Advice at step 1,200: a late &lt;i&gt;one&lt;/i&gt;."]
    assert "first" in one and "second" in other and "Advice" not in other


def test_what_stands_in_a_log_or_a_name_is_never_taken_for_a_place_of_the_page():
    name = "<img src=x> @VALUES@"
    advised = [*records(), {"event": "advice", "step": 3, "topic": "clipped",
                            "text": "see @CHARTS@, @GEOMETRY@."}]
    text = re.sub("<script>.*?</script>", "", page([(name, 0, advised)]), flags=re.DOTALL)
    assert "see @CHARTS@, @GEOMETRY@.</small>" in text and "<img" not in text
    assert text.count("&lt;img src=x&gt; @VALUES@") == 2  # in the title and the legend
    assert text.count("<figure") == page([("a", 0, list(records()))]).count("<figure")


def test_a_real_log_leads_to_the_advice_and_the_mark(tiny, tmp_path):
    records_of(tiny(max_steps=40, learning_rate=10, eval_interval=20))
    log = tmp_path / "out" / "log.jsonl"
    with open(log, "a") as file:
        file.write('{"event": "advice", "step": 40, "topic": "x", "text": "\\ud800"}\n')
    said = [r["text"] for r in read_log(log) if r.get("topic") == "above_guessing"]
    plot([tmp_path / "out"], tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert f": {html.escape(said[-1])}.</small>" in text and text.count('"ring ') == 1
    assert "Advice at step 40: ?." in text


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_every_screen_and_asks_for_nothing(tmp_path, width, dark):
    told = dict(event="advice", step=2, topic="t", text="a sentence that is long " * 9)
    (tmp_path / "x.html").write_text(page([("a", 0, run_of([3.0, 2.0, 4.0], told))]))
    with browser.Browser() as chromium:
        chromium.size(width, 800, dark, touch=width < 500)
        chromium.open((tmp_path / "x.html").as_uri())
        assert chromium.errors == []
        assert chromium.requests == [(tmp_path / "x.html").as_uri()]
        assert chromium.run("document.documentElement.scrollWidth") <= width
        worst = chromium.run(browser.LOWEST_CONTRAST % ("body", ".advice, small, nav span"))
        assert worst[0] >= 4.5, worst
        key, name = (chromium.run(f"document.querySelector('{what}').getBoundingClientRect().top")
                     for what in (".key", ".advice"))
        assert key < name  # the line of the key is beside the run's name


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
