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
    compiles without optimization, which takes a third of the time, and times each rung briefly."""
    shutil.copytree(TOP / "csrc", tmp_path / "csrc")
    shutil.copy(TOP / "Makefile", tmp_path)

    def run(shape, kernel=""):
        env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(["make", "ladder", f"CC={CC}", f"SHAPE={shape}", f"KERNEL={kernel}",
                               "LADDER_FLAGS=-O0 -DLEAST_SECONDS=0"], cwd=tmp_path, env=env,
                              capture_output=True, text=True, timeout=120)
    return run


def rungs(result):
    """Return for each rung of the tables its number, share of the limit and error, as text; the
    share is empty where there is no limit."""
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return re.findall(r"^(\d+) +\S.*? +\d+\.\d{3}(?: +\d+\.\d\d)? +\d+\.\d\d(?: +(\d+\.\d))?"
                      r"  (\S+(?: \(wrong\))?)$", result.stdout, re.MULTILINE)


# Each shape has several tiles of any instruction set, and more than one block of keys. The sizes of
# the product are multiples of no tile of AMX. Random letters have equal pairs that overlap.
@pytest.mark.parametrize("kernel, shapes, count, wrong", [
    ("matmul", ["36 128 37"], 7, None),
    ("attention", ["192 2 16"], 9, None),
    ("attention_backward", ["192 2 16"], 4, None),
    ("softmax", ["64 37"], 6, 1),
    ("layernorm", ["8 48"], 6, 2),
    ("bpe", ["300 0", "10 500"], 6, None),
])
def test_the_rungs_agree(ladder, tmp_path, kernel, shapes, count, wrong):
    results = [ladder(shapes[0], kernel)]
    results += [subprocess.run([tmp_path / "build" / "ladder", *shape.split()],
                               capture_output=True, text=True, timeout=120) for shape in shapes[1:]]
    for result in results:
        table = rungs(result)
        assert [int(number) for number, *_ in table] == list(range(1, count + 1)), result.stdout
        for number, share, error in table:
            assert share or kernel == "bpe"
            assert ("(wrong)" in error) == (int(number) == wrong), result.stdout
            assert kernel not in ("matmul", "bpe") or error == "0.0e+00"
        if kernel == "matmul":
            assert re.search(r"^8  tiles of bfloat16 \(AMX\) +(not on this CPU: checked by its "
                             r"plain-C twin|\d.* 0.0e\+00)$", result.stdout, re.MULTILINE)


@pytest.fixture
def change(tmp_path):
    """Return a function that changes the one place in a file of csrc/ladder that is as given."""
    def replace(name, right, wrong):
        source = tmp_path / "csrc" / "ladder" / name
        text = source.read_text(encoding="utf-8")
        assert text.count(right) == 1
        source.write_text(text.replace(right, wrong), encoding="utf-8")
    return replace


def test_a_wrong_rung_is_named(ladder, change):
    change("bpe_rungs.inl", "if (at > 0) rank[at - 1]", "if (at > 1) rank[at - 1]")
    result = ladder("300 0", "bpe")
    assert result.returncode == 2  # make's own for any failure
    assert "ladder: rung 3 (ranks kept) is wrong at row 0, column " in result.stderr
    assert "Error 1" in result.stderr and "MB/s" not in result.stdout


def test_a_rung_that_should_be_wrong_and_is_right_is_named(ladder, change):
    """Without the large numbers, the softmax needs no maximum."""
    change("softmax.c", "#define SHIFTED 100.0", "#define SHIFTED 10.0")
    result = ladder("64 37", "softmax")
    assert ("ladder: rung 1 (the formula) is right, but should be wrong: exp of a number above "
            "88.7 is no float\n") in result.stderr
    assert result.returncode == 2 and "GB/s" not in result.stdout


def test_an_unknown_ladder_is_refused(ladder):
    result = ladder("", "product")
    assert result.returncode == 2
    assert ("ladder: there is none for KERNEL=product; choose one of: matmul attention "
            "attention_backward softmax layernorm bpe\n") in result.stderr


def test_a_bad_shape_is_refused_by_its_number(ladder, tmp_path):
    assert "ladder: SHAPE has 1 numbers, but this ladder takes 2: W L\n" in ladder(
        "12", "bpe").stderr
    for shape, line in [("0 5", "W = 0 is not a whole number from 1 to 1048576"),
                        ("3 many", "L = many is not a whole number from 0 to 65536"),
                        ("3 65537", "L = 65537 is not a whole number from 0 to 65536")]:
        result = subprocess.run([tmp_path / "build" / "ladder", *shape.split()],
                                capture_output=True, text=True, timeout=60)
        assert result.returncode == 2 and result.stderr == f"ladder: {line}\n"
        assert result.stdout.count("\n") == 1  # no table
