"""Tests that conftest.py gives the tests the state they rely on, from whatever state they start."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Starts the rest of its arguments in a state as far from the usual one as a process may be left.
IN_A_BAD_STATE = """
import os, signal, sys
stay = {signal.SIGKILL, signal.SIGSTOP}
for number in signal.valid_signals() - stay:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - stay)
os.umask(0o077)
os.close(0)
os.execv(sys.argv[1], sys.argv[1:])
"""
BAD = dict(PYTHONWARNINGS="error", PYTHONIOENCODING="ascii", PYTHONUNBUFFERED="1",
           PYTHONSAFEPATH="1", PYTHONOPTIMIZE="1", OMP_NUM_THREADS="1", OMP_THREAD_LIMIT="1",
           OMP_DYNAMIC="true", GOMP_SPINCOUNT="0", TERM="xterm", NO_COLOR="1", FORCE_COLOR="1",
           COLUMNS="20", LINES="5", LANG="C", LC_ALL="C", TZ="Asia/Kolkata", MAKEFLAGS="-k",
           CFLAGS="-Wnope",
           PYTHONPATH=os.pathsep.join(["elsewhere", *filter(None, sys.path)]))
PROBE = """
import json, os, signal, subprocess, sys, time, warnings
import conftest
child = subprocess.run(
    [sys.executable, "-c", "import pygpt, conftest, json, signal, sys; "
         "from pygpt.backend import kernels; "
     "print(json.dumps([sorted(n for n in signal.valid_signals() if signal.getsignal(n) == "
     "signal.SIG_IGN), sys.stdout.encoding, kernels.get_num_threads() == "
     "kernels.physical_cores() or kernels.ffi is None]))"], capture_output=True, text=True,
    cwd="/", check=True)
print(json.dumps({
    "ignored": sorted(n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN),
    "ctrl-c": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), "umask": os.umask(0),
    "zone": time.tzname[0], "warnings": [filter[0] for filter in warnings.filters],
    "names": sorted(os.environ), "path": os.environ["PYTHONPATH"].split(os.pathsep),
    "term": os.environ["TERM"], "child": json.loads(child.stdout)}))
"""


@pytest.mark.parametrize("before", [[], ["-c", IN_A_BAD_STATE, sys.executable]],
                         ids=["usual", "bad"])
def test_the_state_that_tests_rely_on(before, tmp_path):
    env = {**os.environ, **BAD} if before else dict(os.environ)
    code = f"import sys; sys.path[:0] = {[str(HERE), str(HERE.parent)]!r}\n{PROBE}"
    command = [sys.executable, *before, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    state = json.loads(result.stdout)
    pythons = sorted([signal.SIGPIPE, signal.SIGXFSZ])
    assert state.pop("child") == [pythons, "utf-8", True]
    assert state.pop("ignored") == pythons
    assert state.pop("path")[:2] == [str(HERE.parent), str(HERE)]
    assert "error" not in state.pop("warnings")
    names = state.pop("names")
    assert not set(BAD) - {"TERM", "TZ", "LC_ALL", "PYTHONPATH"} & set(names)
    assert state == {"ctrl-c": True, "blocked": [], "umask": 0o022, "zone": "UTC", "term": "dumb"}


def test_no_process_is_left(no_process_left, request):
    """Run the fixture to its end by hand: it ends a process that still runs."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    fixture = request.node._request._get_active_fixturedef("no_process_left")
    fixture.finish(request.node._request)
    assert process.poll() == -signal.SIGKILL
