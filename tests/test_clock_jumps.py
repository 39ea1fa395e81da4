"""Tests that nothing but the log's time of day follows a clock that jumps.

Clocks jump when a laptop wakes, a virtual machine goes on, or a server corrects them. Durations are
measured with clocks that do not (perf_counter, monotonic).
"""

import math
import re
import time
from pathlib import Path

import pytest
from runs import numbers, stop_after

import pygpt
from pygpt.continuation import Progress
from pygpt.progress import ProgressLine
from pygpt.training.run_log import read_log
from pygpt.training.trainer import train

HOUR, YEAR = 3600.0, 365 * 86400.0
PACKAGE = Path(pygpt.__file__).parent


@pytest.fixture(params=[-HOUR, YEAR, -YEAR], ids=["an hour back", "a year on", "a year back"])
def jump(request, monkeypatch):
    """Let the time of day jump at each call, there and back; return the length of a jump."""
    real, calls = time.time, []

    def jumping():
        calls.append(None)
        return real() + request.param * (len(calls) % 2)

    monkeypatch.setattr(time, "time", jumping)
    return request.param


def test_a_run_measures_its_time_and_resumes_as_ever(tiny, tmp_path, whole, jump):
    began, records = time.perf_counter(), []
    train(tiny(), [records.append, stop_after(5)])
    train(tiny(), [records.append], resume=True)
    most = time.perf_counter() - began
    for record in records:
        if record["event"] == "step":
            assert 0 < record["tokens_per_second"] < math.inf
            assert 0 <= record["seconds_left"] <= 10 * most
        if record["event"] == "end":
            assert 0 < record["seconds"] <= most
    assert numbers(tmp_path / "out") == numbers(whole)
    times = [record["time"] for record in read_log(tmp_path / "out" / "log.jsonl")]
    assert max(times) - min(times) > 0.9 * abs(jump)  # the log says what the clock said


def test_the_line_of_a_long_call_appears_and_is_removed(jump, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with ProgressLine(True) as line:
        for second in range(4):
            now[0] = float(second)
            line.update(Progress(texts=1, ended=0, tokens=2 * second, most=9, seconds=1.0))
    assert re.findall(r"(\d) tokens of at most 9", capsys.readouterr().err) == ["2", "4", "6"]


def test_only_the_log_asks_for_the_time_of_day():
    asks = re.compile(r"time\.(time|time_ns|ctime|localtime|gmtime|strftime)\(|\bdatetime\b"
                      r"|from time import|CLOCK_REALTIME|st_[mac]time|get[mac]time")
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")
             if asks.search(path.read_text(encoding="utf-8"))}
    found |= {path.name for path in (PACKAGE.parent / "csrc").glob("*.[chi]*")
              if re.search(r"CLOCK_REALTIME|gettimeofday|\btime\(", path.read_text())}
    # header.py compares the times of files with one another.
    assert found == {"training/run_log.py", "check/header.py"}
