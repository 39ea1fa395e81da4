"""What the environment may ask for, and what comes of it: each in a process of its own."""

import math
import os
import re
import subprocess
import sys

import pytest

from pygpt import kernels


def python(code, **env):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, **env}, timeout=60)


def info(**env):
    return subprocess.run([sys.executable, "-m", "pygpt", "info"], capture_output=True, text=True,
                          env={**os.environ, **env}, timeout=60)


@pytest.mark.parametrize("env, message", [
    (dict(PYGPT_ISA="mmx"), "PYGPT_ISA: isa 'mmx' is not one of"),
    (dict(PYGPT_BACKEND="gpu"), "PYGPT_BACKEND='gpu' is neither 'c' nor 'reference'"),
])
def test_an_unknown_choice_is_one_line(env, message):
    result = info(**env)
    assert result.returncode == 1 and result.stdout == ""
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


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
from pygpt import ops
from pygpt.tensor import Tensor
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
    assert re.fullmatch(r"[\d,]{9,} bytes of scratch memory asked for and not to be had", refused)
    assert abs(float(loss) - math.log(5000)) < 1e-5


@pytest.mark.parametrize("asked, outcome", [
    ("1", "1"), ("64", "{cpus}"), ("nonsense", "{cores}"), ("0", "{cores}"), ("", "{cores}"),
    ("2,1", "{two}"),
])
def test_omp_num_threads(asked, outcome):
    code = "from pygpt import kernels as k; print(k.get_num_threads(), k.logical_cpus(), " \
           "k.physical_cores())"
    result = python(code, OMP_NUM_THREADS=asked)
    threads, cpus, cores = result.stdout.split()
    assert threads == outcome.format(cpus=cpus, cores=cores, two=min(2, int(cpus)))
    assert ("ignored" in result.stderr) == (asked in ("nonsense", "0"))


def test_a_forked_process_goes_on_with_one_thread():
    code = """
import os, sys, pygpt
from pygpt import ops
from sharing import HAS_THREADS, sharing
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
    result = python(code, PYTHONPATH=os.pathsep.join(sys.path))
    assert result.returncode == 0, result.stderr


def test_importing_leaves_the_environment_as_it_was():
    code = "import os; before = dict(os.environ); import pygpt.kernels; " \
           "assert dict(os.environ) == before"
    assert python(code).returncode == 0


def test_the_reference_backend_trains_without_the_c_library(tmp_path):
    data = tmp_path / "text"
    data.write_text("to be or not to be, that is the question. " * 20)
    result = subprocess.run(
        [sys.executable, "-m", "pygpt", "train", "--data", str(data), "--out", str(tmp_path / "o"),
         "--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--n-positions", "8",
         "--batch-size", "2", "--max-steps", "2", "--eval-batches", "1", "--sample-length", "4"],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYGPT_BACKEND": "reference"})
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("val_loss=")


def test_the_reference_backend_takes_what_the_c_library_takes():
    code = "from pygpt import kernels as k; print(k.OK, k.ERANGE, k.MAX_THREADS); " \
           "assert k.info()['openmp'] in ('on', 'off')"
    c, loops = python(code, PYGPT_BACKEND="c"), python(code, PYGPT_BACKEND="reference")
    assert c.returncode == 0 and c.stdout == loops.stdout, loops.stderr
