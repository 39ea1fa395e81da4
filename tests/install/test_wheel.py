"""Installs the wheel where there is no compiler, and builds the source archive in isolation.

Run by `make test-install`. It prints the sizes of the wheel and the time of an import, which are
goals (2 MB, 50 ms) and depend on the machine; it checks that the wheel trains and writes text, and
that one wheel does so on every CPython that is found.
"""

import os
import re
import statistics
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import pythons
import wheel as wheels

TOP = Path(__file__).parent.parent.parent
TRAIN = ["train", "--data", "text", "--out", "out", "--n-layer", "1", "--n-head", "2", "--n-embd",
         "32", "--n-positions", "64", "--batch-size", "8", "--max-steps", "3", "--eval-batches",
         "1", "--sample-length", "4"]
SAMPLE = ["sample", "out", "--prompt", "to", "--max-new-tokens", "8", "--seed", "1"]
IMPORTS = 7  # of which the median is printed
# pygpt looks names up late; this is what every use of a model loads.
IMPORT = "import time; t = time.perf_counter(); import pygpt{}; print(time.perf_counter() - t)"
USE = """
import pygpt
tensor = pygpt.Tensor([[1.0, 2.0], [3.0, 4.0]])
memoryview(tensor)[0, 1] = 7.0
assert memoryview(tensor).shape == (2, 2) and tensor.tolist() == [[1.0, 7.0], [3.0, 4.0]]
print(pygpt.info()["backend"], pygpt.info()["openmp"])
"""


def without_compiler(folder, command):
    """Run a command that must find no compiler; return what it wrote. It must succeed."""
    (folder / "empty").mkdir(exist_ok=True)
    env = {"PATH": str(folder / "empty"), "CC": "/nonexistent", "HOME": str(folder)}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True,
                            timeout=600)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The path of a wheel, built from this tree."""
    before = os.getcwd()
    os.chdir(TOP)
    try:
        return wheels.build(tmp_path_factory.mktemp("dist"), Path("build", "wheel-tools"))
    finally:
        os.chdir(before)


def trained(folder, python):
    """Train and write text in a folder; return (the line with the loss, the text)."""
    (folder / "text").write_text("to be or not to be, that is the question. " * 60)
    loss = without_compiler(folder, [python, "-m", "pygpt", *TRAIN]).splitlines()[-1]
    return loss, without_compiler(folder, [python, "-m", "pygpt", *SAMPLE])


def test_the_wheel_is_for_every_python_and_carries_openmp(wheel, capsys):
    assert re.fullmatch(r"pygpt-[\d.]+-cp310-abi3-(manylinux|musllinux|macosx)_\w+\.whl",
                        wheel.name)
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    compiled = {name.split(".")[0].removeprefix("pygpt/") for name in names
                if re.fullmatch(r"pygpt/\w+\.abi3\.so", name)}
    assert compiled == {"_spin", "_kernels", "_buffer"}
    assert [name for name in names if re.match(r"pygpt\.libs/lib(gomp|omp)", name)]
    assert not [name for name in names if name.endswith((".c", ".h", ".inl"))]
    with capsys.disabled():
        print(f"\n{wheels.described(wheel)}")


@pytest.mark.parametrize("minor", range(pythons.OLDEST, pythons.NEWEST))
def test_one_wheel_trains_on_each_python_without_a_compiler(wheel, tmp_path, capsys, minor):
    interpreter = pythons.found().get((3, minor))
    if interpreter is None:
        pytest.skip(f"no CPython 3.{minor} here")
    python = pythons.environment(interpreter, tmp_path / "venv", str(wheel))
    assert without_compiler(tmp_path, [python, "-W", "error", "-c", USE]).split() == ["c", "on"]
    loss, text = trained(tmp_path, python)
    assert loss.startswith("val_loss=") and text
    with capsys.disabled():
        print(f"\n3.{minor}: {loss}; import pygpt {import_time(tmp_path, python, ''):.0f} ms, "
              f"with pygpt.GPT {import_time(tmp_path, python, '; pygpt.GPT'):.0f} ms")


def import_time(folder, python, further):
    """Return the median of the milliseconds that an import takes in a new process."""
    command = [python, "-c", IMPORT.format(further)]
    return 1000 * statistics.median(float(without_compiler(folder, command))
                                    for _ in range(IMPORTS))


def test_the_wheel_runs_with_the_oldest_cffi(wheel, tmp_path):
    interpreter = pythons.found().get((3, 11))
    if interpreter is None:
        pytest.skip("no CPython 3.11 here, the newest for which cffi 1.15 has wheels")
    python = pythons.environment(interpreter, tmp_path / "venv", "cffi==1.15.1", str(wheel))
    assert trained(tmp_path, python)[0].startswith("val_loss=")


def test_the_source_archive_builds_in_isolation_and_passes_its_tests(tmp_path):
    subprocess.run([sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path)],
                   cwd=TOP, check=True)
    archive = next(tmp_path.glob("pygpt-*.tar.gz"))
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter")
                                       else {}))
    tree = tmp_path / archive.name.removesuffix(".tar.gz")
    python = pythons.environment(sys.executable, tmp_path / "venv", *pythons.PACKAGES)
    subprocess.run([python, "setup.py", "-q", "build_ext", "--inplace"], cwd=tree, check=True)
    subprocess.run([python, "-m", "pytest", "tests/test_layers.py", "tests/test_docs.py",
                    "tests/test_tensor.py", "tests/test_model.py"], cwd=tree, check=True,
                   env={name: value for name, value in os.environ.items()
                        if name != "PYTHONPATH"})
