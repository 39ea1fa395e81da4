"""Tests `make ladder`: its rungs agree, and a wrong one is named. Needs make and a C compiler."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
CC = os.environ.get("CC", "cc").split()[0]


pytestmark = pytest.mark.skipif(not (shutil.which("make") and shutil.which(CC)),
                                reason="needs make and a C compiler")


@pytest.fixture
def ladder(tmp_path):
    """Return a function that builds and climbs a ladder at a shape, in a copy of its sources. It
    compiles with few optimizations, which takes a third of the time."""
    shutil.copytree(TOP / "csrc", tmp_path / "csrc")
    shutil.copy(TOP / "Makefile", tmp_path)

    def run(shape, kernel=""):
        env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(["make", "ladder", f"CC={CC}", f"SHAPE={shape}", f"KERNEL={kernel}",
                               "LADDER_FLAGS=-O1"], cwd=tmp_path,
                              env=env, capture_output=True, text=True, timeout=120)
    return run


def rungs(result):
    """Return for each rung of a table its number, name, rate, share and error, all as text."""
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return re.findall(r"^(\d+) +(\S.*?) +\d+\.\d{3}(?: +\d+\.\d\d)? +(\d+\.\d\d) +(\d+\.\d)?"
                      r"  (\S+(?: \(wrong\))?)$", result.stdout, re.MULTILINE)


def test_the_rungs_of_the_product_agree(ladder):
    """Use 12 x 128, two tiles of 6 x 64 each way and several of the other instruction sets'."""
    table = rungs(ladder("12 128 5"))
    assert [row[0] for row in table] == list("1234567")
    assert all(float(rate) > 0 and error == "0.0e+00" for _, _, rate, _, error in table), table


def test_a_wrong_rung_is_named(ladder, tmp_path):
    source = tmp_path / "csrc" / "ladder" / "matmul_rungs.inl"
    text = source.read_text(encoding="utf-8")
    right, wrong = "memcpy(strip + k * NR, b + k * N + n,", "memcpy(strip + k * NR, b + k * N,"
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong), encoding="utf-8")
    result = ladder("12 128 5")
    assert result.returncode == 2  # make's own for any failure
    assert "ladder: rung 6 (strips packed) is wrong at row 0, column " in result.stderr
    assert "Error 1" in result.stderr and "GFLOP/s" not in result.stdout


def test_an_unknown_ladder_is_refused(ladder):
    result = ladder("", "product")
    assert result.returncode == 2
    assert "ladder: there is none for KERNEL=product; choose one of: matmul" in result.stderr


def test_a_bad_shape_is_refused_by_its_number(ladder, tmp_path):
    assert "ladder: SHAPE has 2 numbers, but this ladder takes 3: M N K" in ladder("12 128").stderr
    for shape, line in [("1 128 5", r"M = 1 is not a multiple of 6 from 6 to 1048576"),
                        ("12 128 five", "K = five is not a whole number from 1 to 4096"),
                        ("12 128 4097", "K = 4097 is not a whole number from 1 to 4096")]:
        result = subprocess.run([tmp_path / "build" / "ladder", *shape.split()],
                                capture_output=True, text=True, timeout=60)
        assert result.returncode == 2 and result.stderr == f"ladder: {line}\n"
