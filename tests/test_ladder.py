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
    """Return a function that builds and climbs the ladder at a shape, in a copy of its sources."""
    shutil.copytree(TOP / "csrc", tmp_path / "csrc")
    shutil.copy(TOP / "Makefile", tmp_path)

    def run(shape):
        env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(["make", "ladder", f"CC={CC}", f"SHAPE={shape}"], cwd=tmp_path,
                              env=env, capture_output=True, text=True, timeout=120)
    return run


def test_the_rungs_agree(ladder):
    """Use 12 x 128, two tiles of 6 x 64 each way and several of the other instruction sets'."""
    result = ladder("12 128 5")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    rates = re.findall(r"^\d  .+? +(\d+\.\d) +\d+\.\d$", result.stdout, re.MULTILINE)
    assert len(rates) == 7 and all(float(rate) > 0 for rate in rates), result.stdout


def test_a_wrong_rung_is_named(ladder, tmp_path):
    source = tmp_path / "csrc" / "ladder" / "rungs.inl"
    text = source.read_text(encoding="utf-8")
    right, wrong = "memcpy(strip + k * NR, b + k * N + n,", "memcpy(strip + k * NR, b + k * N,"
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong), encoding="utf-8")
    result = ladder("12 128 5")
    assert result.returncode == 2  # make's own for any failure
    assert "ladder: rung 6 (strips packed) is wrong at row 0, column " in result.stderr
    assert "Error 1" in result.stderr and "GFLOP/s" not in result.stdout
