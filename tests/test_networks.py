"""Tests the networks of tests/bench/networks.py: what runs on the nodes, and what is left.

Bytes are counted on the links; no time is asserted. Making a network needs Linux and root.
"""

import contextlib
import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"
PROGRAM = [sys.executable, str(BENCH / "networks.py")]
# Rank 0 sends a megabyte to the last rank; each rank says where it runs.
RANK = """
import os, socket
from mpi4py import MPI
comm, data = MPI.COMM_WORLD, bytearray(1 << 20)
if comm.rank == 0:
    comm.Send([data, MPI.BYTE], comm.size - 1)
elif comm.rank == comm.size - 1:
    comm.Recv([data, MPI.BYTE], 0)
print(comm.rank, socket.gethostname(), os.environ["WORDS"], flush=True)
"""


@pytest.fixture
def networks():
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module("networks")
    sys.path.remove(str(BENCH))
    sys.modules.pop("networks")


def lacking():
    """Return what this machine lacks for a network, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root of Linux"
    for program in "ip", "tc", "unshare", "mpirun":
        if not shutil.which(program):
            return f"needs {program}"
    if importlib.util.find_spec("mpi4py") is None:
        return "needs mpi4py"
    made = subprocess.run(["ip", "netns", "add", f"pygpt-{os.getpid()}-probe"], capture_output=True)
    if made.returncode:
        return "may not make network namespaces"
    subprocess.run(["ip", "netns", "del", f"pygpt-{os.getpid()}-probe"], check=True)
    return None


@pytest.fixture
def able(networks):
    if reason := lacking():
        pytest.skip(reason)
    try:
        with networks.namespaces(2, "1gbit"), networks.namespaces(2, "1gbit", "1ms"):
            pass
    except networks.NetworkError as error:  # this kernel lacks a part, or a container forbids it
        pytest.skip(str(error))


def left_of(process):
    """Return the namespaces, folders and running commands left of a process's networks."""
    mark, found = f"pygpt-{process}-", []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # the process has ended
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [str(path) for path in (*Path("/run/netns").glob(f"{mark}*"),
                                   *Path(tempfile.gettempdir()).glob(f"pygpt-net-{process}-*"))
            ] + [command for command in found if mark in command or f"net-{process}-" in command]


@pytest.mark.parametrize("nodes, ranks, rate, delay", [(2, 3, "1gbit", None), (4, 4, None, "1ms")])
def test_ranks_reach_other_nodes_over_the_links(able, networks, nodes, ranks, rate, delay):
    with networks.namespaces(nodes, rate, delay) as net:
        before = net.bytes_sent()
        result = net.run(ranks, [sys.executable, "-c", RANK], os.environ | {"WORDS": "a 'b;$c"},
                         timeout=60)
        sent = [after - start for after, start in zip(net.bytes_sent(), before)]
        assert left_of(os.getpid())
    assert result.returncode == 0, result.stderr
    each = -(-ranks // nodes)
    assert sorted(result.stdout.splitlines()) == [
        f"{rank} node{rank // each + 1} a 'b;$c" for rank in range(ranks)]
    assert sent[0] > 1 << 20 and max(sent[1:]) < 1 << 19
    assert left_of(os.getpid()) == []


def test_a_command_that_fails_or_takes_too_long_leaves_nothing(able, networks):
    with networks.namespaces(2) as net:
        assert net.run(1, ["sh", "-c", "exit 7"], timeout=60).returncode == 7
        with pytest.raises(subprocess.TimeoutExpired):
            net.run(2, ["sleep", "60"], timeout=1)
        assert [networks.done("ip", "netns", "pids", name) for name in net.names] == ["", ""]
    with pytest.raises(ZeroDivisionError), networks.namespaces(2, None, "1ms"):
        1 / 0
    assert left_of(os.getpid()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_program_leaves_nothing(able, number):
    process = subprocess.Popen(
        [*PROGRAM, "--delay", "1ms", "--", "sh", "-c", "echo running; sleep 60"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "running\n"
    assert left_of(process.pid)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert left_of(process.pid) == []


def test_measure_counts_what_arrives(able, networks):
    with networks.namespaces(2, "1gbit") as net:
        found = net.measure(seconds=0.1, rounds=5)
        assert net.bytes_sent()[0] > 0
    assert found.keys() == {"round_trip_seconds", "bytes_per_second"}
    assert min(found.values()) > 0


@pytest.mark.parametrize("flags, part", [
    (["--rate", "1"], "rate '1' is not a number with one of kbit, mbit, gbit"),
    (["--rate", "1kbit"], "rate 1kbit is not in 100kbit..1000gbit"),
    (["--delay", "-1ms"], "delay '-1ms' is not a number with one of us, ms, s"),
    (["--delay", "11s"], "delay 11s is more than 10s"),
    (["--nodes", "65"], "nodes=65 is not in 1..64"),
    (["--nodes", "0"], "nodes=0 is not in 1..64")])
def test_a_bad_argument_is_refused(networks, flags, part):
    assert part in refused(networks, *[f"{flags[0]}={flags[1]}"])


def test_what_is_missing_is_named(networks, monkeypatch):
    monkeypatch.setattr(networks.sys, "platform", "linux")
    monkeypatch.setattr(networks.shutil, "which", lambda program: program)
    monkeypatch.setattr(networks.os, "geteuid", lambda: 1000)
    assert "only root may" in refused(networks)
    for program, package in networks.NEEDED.items():
        monkeypatch.setattr(networks.shutil, "which", lambda name: name != program)
        assert f"{program} is not installed (Debian: apt-get install {package})" in refused(
            networks)


def refused(networks, *flags):
    """Return the one line with which the program ends, with status 1."""
    with pytest.raises(SystemExit) as ended:
        networks.main([*flags, "--measure"])
    assert ended.value.code.startswith("networks: error: ") and "\n" not in ended.value.code
    return ended.value.code  # sys.exit prints a str, and the status is 1
