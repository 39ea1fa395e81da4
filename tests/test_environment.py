"""Tests the choices that the environment makes, each in a process of its own."""

import math
import os
import pathlib
import re
import shutil
import sys

import pytest
from commands import pygpt as run, python

import pygpt
from pygpt.backend import kernels
from sharing import needs_threads


@pytest.mark.parametrize("env, message", [
    (dict(PYGPT_ISA="mmx"), "PYGPT_ISA: isa 'mmx' is not one of"),
    (dict(PYGPT_BACKEND="gpu"), "PYGPT_BACKEND='gpu' is neither 'c' nor 'reference'"),
])
def test_an_unknown_choice_is_one_line(env, message):
    result = run("info", **env)
    assert result.returncode == 1 and result.stdout == ""
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("backend, blocks", [
    ("c", r"tile \d+ x \d+, panel \d+ x \d+, with A transposed \d+ x \d+"),
    ("reference", "none")])
def test_info_shows_caches_pages_and_blocks(backend, blocks):
    if backend == "c" and kernels.BACKEND != "c":
        pytest.skip("the C library is not in use")
    lines = dict(line.split(":", 1) for line in run("info", PYGPT_BACKEND=backend)
                 .stdout.splitlines())
    size = r"[\d.]+ [KM]B"
    assert re.fullmatch(rf" +L1 {size}( \(assumed\))?, L2 {size}( \(assumed\))?(, L3 {size})?",
                        lines["caches"])
    assert re.fullmatch(rf" +{size}(, (no )?huge pages.*)?", lines["pages"])
    assert re.fullmatch(f" +{blocks}", lines["blocks"])
    assert re.search(r"\(in use\)|^ +no unit in use: .* with rounded operands", lines["bfloat16"])


def test_a_cache_size_that_is_assumed_is_marked(monkeypatch):
    monkeypatch.setattr(kernels.cpu, "found_caches", lambda root="/": (48 << 10, 0, 0))
    assert kernels.info()["caches"] == ["L1 48 KB", "L2 512 KB (assumed)"]


def test_an_instruction_set_that_this_cpu_lacks_is_named(monkeypatch):
    class Lacking:
        def __getattr__(self, name):
            return (lambda i: i > 0) if name == "pygpt_isa_supported" else getattr(lib, name)

    lib, best, *others = kernels.lib, *kernels.isa_names()
    if not others:
        pytest.skip("the library has one instruction set")
    monkeypatch.setattr(kernels, "lib", Lacking())
    if kernels.ffi.string(lib.pygpt_isa_name(0)).decode() != best:
        pytest.skip("this CPU lacks the first one anyway")
    with pytest.raises(ValueError, match=f"isa '{best}' is not supported by this CPU, which has "
                                         f"{', '.join(others)}$"):
        kernels.select_isa(best)


def test_scratch_memory_that_cannot_be_had_is_an_error_with_the_bytes():
    code = """
import resource
from pygpt.autograd import ops
from pygpt.autograd.tensor import Tensor
x, weight = Tensor.empty((2000, 16)), Tensor.empty((5000, 16))
ids = Tensor.empty((2000,), "i")
x.flat()[:], weight.flat()[:], ids.flat()[:] = (memoryview(bytes(4 * t.size)).cast(t.code)
                                                for t in (x, weight, ids))
size = next(int(line.split()[1]) << 10 for line in open("/proc/self/status")
            if line.startswith("VmSize"))
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), limits[1]))
try:
    ops.linear_cross_entropy(x, weight, ids)
except MemoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, limits)
print(float(ops.linear_cross_entropy(x, weight, ids)))
"""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("the size of the process is read from /proc")
    refused, loss = python(code, OMP_NUM_THREADS="1").stdout.splitlines()
    assert re.fullmatch(r"could not allocate [\d,]{9,} bytes of scratch memory", refused)
    assert abs(float(loss) - math.log(5000)) < 1e-5


@needs_threads
@pytest.mark.parametrize("asked, outcome", [
    ("1", "1"), ("64", "{cpus}"), ("nonsense", "{cores}"), ("0", "{cores}"), ("", "{cores}"),
    ("2,1", "{two}"),
])
def test_omp_num_threads(asked, outcome):
    code = "from pygpt.backend import kernels as k; print(k.get_num_threads(), k.logical_cpus(), " \
           "k.performance_cores())"
    result = python(code, OMP_NUM_THREADS=asked)
    threads, cpus, cores = result.stdout.split()
    assert threads == outcome.format(cpus=cpus, cores=cores, two=min(2, int(cpus)))
    assert ("ignored" in result.stderr) == (asked in ("nonsense", "0"))


def test_a_hybrid_cpu_gets_threads_for_its_performance_cores_only(monkeypatch):
    monkeypatch.setattr(kernels, "performance_cores", lambda: 3)
    monkeypatch.setattr(kernels, "physical_cores", lambda: 7)
    assert kernels._threads_at_start() == 3


def test_a_forked_process_goes_on_with_one_thread():
    code = """
import os, sys, pygpt
from pygpt.autograd import ops
from pygpt.check.threads import HAS_THREADS, sharing
pygpt.set_num_threads(2)
x = pygpt.Tensor([[1.0] * 300] * 300)
before = ops.matmul(x, x).tolist()
if HAS_THREADS and sharing()[1] != 2:
    sys.exit("the parent had one thread")
pid = os.fork()
if pid == 0:
    same = ops.matmul(x, x).tolist() == before and pygpt.get_num_threads() == 1
    try:
        pygpt.set_num_threads(2)
    except RuntimeError as error:
        os._exit(0 if same and "forked" in str(error) else 1)
    os._exit(2)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    result = python(code)
    assert result.returncode == 0, result.stderr


def test_importing_leaves_the_environment_as_it_was():
    code = "import os; before = dict(os.environ); import pygpt.backend.kernels; " \
           "assert dict(os.environ) == before"
    assert python(code).returncode == 0


def test_a_waiting_thread_spins_for_a_time():
    """OpenMP is given a number of rounds; it follows from how long a round takes."""
    code = """
import os, sys, types
from pygpt._spin import round_seconds
assert 0 < round_seconds() < 1
class Watch:
    def find_spec(self, name, path, target=None):
        if name == "pygpt._kernels":
            print(os.environ.get("GOMP_SPINCOUNT"))
spin = sys.modules["pygpt._spin"] = types.ModuleType("pygpt._spin")
spin.round_seconds = lambda: 1e-7
sys.meta_path.insert(0, Watch())
import pygpt.backend.kernels
"""
    if kernels.ffi is None:
        pytest.skip("the C library is not in use")
    assert python(code).stdout == "1000\n"
    for odd, rounds in (("1.0", 100), ("1e-15", 300_000)):  # a clock that does not tell the time
        assert python(code.replace("1e-7", odd)).stdout == f"{rounds}\n"
    assert python(code, GOMP_SPINCOUNT="7").stdout == "7\n"
    assert python(code, OMP_WAIT_POLICY="passive").stdout == "None\n"


def test_the_reference_backend_trains_without_the_c_library(tmp_path):
    data = tmp_path / "text"
    data.write_text("to be or not to be, that is the question. " * 20)
    result = run("train", "--data", data, "--out", tmp_path / "o", "--n-layer", 1, "--n-head", 2,
                 "--n-embd", 8, "--n-positions", 8, "--batch-size", 2, "--max-steps", 2,
                 "--eval-batches", 1, "--sample-length", 4, PYGPT_BACKEND="reference")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("val_loss=")


def test_the_reference_backend_takes_what_the_c_library_takes():
    code = "from pygpt.backend import kernels as k; print(k.OK, k.ERANGE, k.MAX_THREADS); " \
           "assert k.info()['openmp'] in ('on', 'off')"
    c, loops = python(code, PYGPT_BACKEND="c"), python(code, PYGPT_BACKEND="reference")
    assert c.returncode == 0 and c.stdout == loops.stdout, loops.stderr


# ---------------------------------------------------------------- a library that does not load ---

@pytest.fixture
def package(tmp_path):
    """Copy the package with its compiled modules, and what Python has cached of it, to a directory
    of its own."""
    return shutil.copytree(pathlib.Path(pygpt.__file__).parent, tmp_path / "pygpt",
                           ignore=shutil.ignore_patterns("*.c"))


def in_package(package, *words, **env):
    """Run this copy of pygpt to its end."""
    return run(*words, cwd=package.parent, PYTHONPATH=str(package.parent), **env)


def library(package, name="_kernels"):
    return next(package.glob(f"{name}*.so"))


def refuse_other_pythons():
    """Skip the test on PyPy, which brings cffi along and gives a module's init another name."""
    if sys.implementation.name != "cpython":
        pytest.skip("the test is for CPython")


def lose_cffi(package):
    (package.parent / "_cffi_backend.py").write_text(
        "raise ModuleNotFoundError(\"No module named '_cffi_backend'\", name='_cffi_backend')")


def damage_cffi(package):
    (package.parent / "_cffi_backend.py").write_text(
        "raise ImportError('/x/_cffi_backend.so: file too short')")


def lose(package):
    library(package).unlink()


def rename(package):
    path = library(package)
    path.rename(package / "_kernels.cpython-39-x86_64-linux-gnu.so")


def cut_off(share):
    def cut(package):
        os.truncate(library(package), int(library(package).stat().st_size * share))
    return cut


def overwrite(package):
    library(package).write_text("this is no library " * 99)


def lose_a_symbol(package):
    path = library(package)
    path.write_bytes(path.read_bytes().replace(b"PyInit__kernels", b"PyInit__kernelz"))


@pytest.mark.parametrize("damage, parts", [
    (lose_cffi, ["cffi is not installed in this Python, ", sys.executable, "-m pip install cffi`"]),
    (damage_cffi, ["cffi does not load (/x/_cffi_backend.so: file too short); run `",
                   "install --force-reinstall cffi`"]),
    (lose, ["the C library is not built for ", sys.executable]),
    (rename, ["_kernels.cpython-39-x86_64-linux-gnu.so was built for another Python than this one, "
              + sys.executable]),
    (cut_off(0), ["_kernels", ".so is damaged: its end is missing"]),
    (cut_off(0.00001), ["_kernels", ".so is damaged: its end is missing"]),
    (cut_off(0.02), ["_kernels", ".so is damaged: its end is missing"]),
    (cut_off(0.5), ["_kernels", ".so is damaged: its end is missing"]),
    (cut_off(0.999), ["_kernels", ".so is damaged: its end is missing"]),
    (overwrite, ["_kernels", ".so does not load (", "ELF header"]),
    (lose_a_symbol, ["_kernels", ".so does not load (dynamic module does not define"]),
])
@pytest.mark.parametrize("is_checkout", [False, True])
def test_why_the_library_does_not_load_is_said_with_the_remedy(package, damage, parts, is_checkout):
    if kernels.BACKEND != "c":
        pytest.skip("the C library is not in use")
    if damage in (lose_cffi, damage_cffi, lose_a_symbol):
        refuse_other_pythons()
    if is_checkout:
        (package.parent / "Makefile").touch()
    damage(package)
    result = in_package(package, *(["info"] if is_checkout else ["sample", "none"]))
    assert result.returncode == 1 and result.stdout == "", result.stderr
    assert result.stderr.startswith("pygpt: error: ") and result.stderr.count("\n") == 1
    for part in [*parts, "or set PYGPT_BACKEND=reference to use the Python loops"]:
        assert part in result.stderr
    if "cffi" not in parts[0]:
        remedy = f"in {package.parent}" if is_checkout else "install pygpt again"
        assert remedy in result.stderr
        is_clean = "make clean build" in result.stderr
        assert is_clean == (is_checkout and damage not in (lose, rename))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="has no _buffer")
@pytest.mark.parametrize("damage, part", [
    (lambda path: path.unlink(), "the C library is not built for"),
    (lambda path: os.truncate(path, 5000), "its end is missing"),
    (lambda path: path.rename(path.with_name("_buffer.cpython-39-x86_64-linux-gnu.so")),
     "was built for another Python")])
def test_the_second_module_is_held_to_the_same(package, damage, part):
    damage(library(package, "_buffer"))
    result = in_package(package, "info")
    assert result.returncode == 1 and part in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.skipif(kernels.BACKEND != "c", reason="the C library is not in use")
def test_a_library_of_older_sources_is_told_with_the_remedy(package):
    with open(package / "backend" / "kernels.py", "a") as file:
        file.write("\n\ndef get_num_threads():\n    return lib.pygpt_function_of_tomorrow()\n")
    (package.parent / "Makefile").touch()
    result = in_package(package, "info")
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    for part in ("was built from other sources than these", "pygpt_function_of_tomorrow",
                 f"run `make clean build` in {package.parent}"):
        assert part in result.stderr


def test_the_environment_that_make_made_is_proposed(package):
    refuse_other_pythons()
    (package.parent / "Makefile").touch()
    python = package.parent / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    lose_cffi(package)
    assert f" and start pygpt with {python}, or set" in in_package(package, "info").stderr


def test_the_reference_backend_needs_neither_cffi_nor_a_library(package):
    lose_cffi(package)
    for path in package.glob("*.so"):
        path.unlink()
    (package.parent / "text").write_text("to be or not to be, that is the question. " * 20)
    for words in ("info", "train --data text --n-layer 1 --n-head 2 --n-embd 8 --n-positions 8 "
                  "--batch-size 2 --max-steps 2 --eval-batches 1 --sample-length 4 "
                  "--tokenizer bpe:260", "sample out --max-new-tokens 3 --prompt to", "plot out",
                  "export out there", "tokenizer train --data text --out tok --vocab-size 270",
                  "tokenizer encode tok text"):
        result = in_package(package, *words.split(), PYGPT_BACKEND="reference")
        assert result.returncode == 0 and result.stderr == "", result.stderr


def test_python_is_told_the_same(package):
    refuse_other_pythons()
    lose_cffi(package)
    result = python("import pygpt\ntry: pygpt.GPT\nexcept ImportError as e: print(e)",
                    cwd=package.parent, PYTHONPATH=str(package.parent))
    assert result.stdout.startswith("cffi is not installed in this Python"), result.stderr


def test_a_python_that_is_too_old_is_told_so():
    code = ("import runpy, sys; sys.version_info = (3, 9, 18); sys.version = '3.9.18 (main)'; "
            "runpy.run_module('pygpt', run_name='__main__')")
    result = python(code)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (f"pygpt: error: pygpt needs Python 3.10 or later, and "
                             f"{sys.executable} is 3.9.18\n")
