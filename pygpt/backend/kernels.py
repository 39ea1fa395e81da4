"""Gives Python the C library: memory, threads, instruction sets, and errors as exceptions.

Only this module imports pygpt._kernels; the modules above it pass the pointers that `Memory` gives
out. With PYGPT_BACKEND=reference the kernels are the Python loops of reference/ instead. They
work on Python's own memory, and no C is loaded.
"""

import contextlib
import importlib
import itertools
import math
import numbers
import os
import struct
import sys

from pygpt.backend import cpu, single_precision
from pygpt.backend.arguments import is_integer, shown
from pygpt.backend.cpu import logical_cpus, performance_cores, physical_cores
from pygpt.backend.installation import check_module, explained

BACKEND = os.environ.get("PYGPT_BACKEND") or "c"

SPIN_SECONDS = 100e-6  # the longest gaps between the parallel regions of a step are about as long
LEAST_ROUNDS, MOST_ROUNDS = 100, 300_000  # whatever the clock says; the latter is OpenMP's default


class IdRangeError(ValueError):
    """An id or target outside 0..vocab_size-1 reached a kernel."""


def _load():
    """Import the C library, and let OpenMP put a waiting thread to sleep soon.

    GCC's OpenMP lets a thread that waits at the end of a parallel region spin for 300,000 rounds,
    milliseconds, by default. On a machine with other work to do, the spinning thread keeps the very
    core that the thread it waits for needs: two busy processes beside it made the lesson preset's
    step on two cores (Zen 5) twice as long as 1000 rounds did. If the thread sleeps too soon, it
    must be woken for the next region, which takes longer than the region may. The step with two
    threads on a Zen 3, a round being 25 ns, in times of the step with 1000 rounds (medians of 25
    turns; with the two processes, of 12):

        rounds                           300    1000   2000   4000   12000   40000
        lesson                           1.15   1      0.95   0.91   0.94    0.87
        char-small                       1.06   1      0.99   0.90   0.90    0.88
        lesson, two busy processes       0.99   1      0.90   0.96   0.80

    A round takes 10 to 140 cycles by processor, so it is measured (csrc/python/spin.c), and the
    number of rounds follows. The library reads it once, when it is loaded.
    """
    chosen_by_user = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    try:
        if not chosen_by_user:
            spin = importlib.import_module("pygpt._spin")
            rounds = round(SPIN_SECONDS / spin.round_seconds())
            os.environ["GOMP_SPINCOUNT"] = str(min(max(rounds, LEAST_ROUNDS), MOST_ROUNDS))
        for module in MODULES:
            importlib.import_module(f"pygpt.{module}")
        from pygpt._kernels import ffi, lib
        return ffi, lib
    finally:
        if not chosen_by_user:
            os.environ.pop("GOMP_SPINCOUNT", None)


# The compiled modules. From 3.12 on, a Python class can export its memory without _buffer.
MODULES = ("_spin", "_kernels", *(("_buffer",) if sys.version_info < (3, 12) else ()))

if BACKEND == "c":
    for module in MODULES:
        check_module(module)
    try:
        ffi, lib = _load()
        OK, ENOMEM, ERANGE = lib.PYGPT_OK, lib.PYGPT_ENOMEM, lib.PYGPT_ERANGE
        EOVERFLOW = lib.PYGPT_EOVERFLOW
        MAX_THREADS = lib.PYGPT_MAX_THREADS
    except (ImportError, AttributeError, SystemError) as error:
        raise explained(error) from error
    NULL = ffi.NULL
elif BACKEND == "reference":
    from pygpt.backend import reference as lib
    ffi = NULL = None
    OK, ENOMEM, ERANGE, EOVERFLOW = lib.OK, None, lib.ERANGE, lib.EOVERFLOW
    MAX_THREADS = 256  # the numbers that C accepts are accepted, without effect
else:
    raise ImportError(f"PYGPT_BACKEND={BACKEND!r} is neither 'c' nor 'reference'")


FLOAT32, BFLOAT16 = lib.PYGPT_FLOAT32, lib.PYGPT_BFLOAT16  # the types of a product's operands
# Flags beside BFLOAT16, for operands that lie in memory as bfloat16.
INP_BFLOAT16, OUT_BFLOAT16 = lib.PYGPT_INP_BFLOAT16, lib.PYGPT_OUT_BFLOAT16
WEIGHT_BFLOAT16 = lib.PYGPT_WEIGHT_BFLOAT16
WEIGHT_TRANSPOSED = lib.PYGPT_WEIGHT_TRANSPOSED


def check_status(status: int) -> None:
    """Raise the exception that a kernel's status stands for; PYGPT_OK passes."""
    if status == ENOMEM:
        refused = lib.pygpt_refused_bytes()  # 0 where C's malloc refused
        raise MemoryError(f"could not allocate {refused:,} bytes of scratch memory" if refused
                          else "could not allocate scratch memory")
    if status == ERANGE:
        raise IdRangeError("an id is outside 0..vocab_size-1")
    if status == EOVERFLOW:
        raise OverflowError("a number is too large for its new type")
    if status != OK:
        raise RuntimeError(f"a kernel returned the unknown status {status}")


def in_float32(name, value, least, end=math.inf):
    """Round a number to single precision, in which kernels compute, and check its range.

    Args:
        name: the number's name, for the message.
        value: a real number.
        least, end: the number must lie in [least, end), also after rounding.

    Raises:
        ValueError: it does not, or it rounds to 0. The message has name and value.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and least <= value < end:
        return single_precision.rounded(name, value, lambda number: least <= number < end)
    if end < math.inf:
        within = f"in [{least:g}, {end:g})"
    else:
        within = "a finite number" + (f", {least:g} or more" if least > -math.inf else "")
    raise ValueError(f"{name}={shown(value)} is not {within}")


# -------------------------------------------------------------------------------------- memory ---

class Memory:
    """A block of bytes that kernels read and write, freed when the last reference is gone.

    Args:
        nbytes: its length. The contents are undefined.
        buffer: a writable or read-only buffer, such as a mapped file, to use instead of new memory.

    Raises:
        MemoryError: the system has no block of that size. The message gives the size.
    """

    __slots__ = ("nbytes", "view", "_owner", "_base", "__weakref__")

    def __init__(self, nbytes: int, buffer=None) -> None:
        self.nbytes = nbytes
        if buffer is not None:
            self.view = memoryview(buffer).cast("B")
            self._owner = buffer
            self._base = ffi and ffi.from_buffer("char[]", self.view)
        elif ffi is None:
            try:
                self.view = memoryview(bytearray(nbytes))
            except (MemoryError, OverflowError, ValueError):
                raise _refused(nbytes) from None
            self._owner = self._base = None
        else:
            block = lib.pygpt_alloc(nbytes) if nbytes < 2 ** 63 else ffi.NULL
            if block == ffi.NULL:
                raise _refused(nbytes)
            self._owner = ffi.gc(block, lib.pygpt_free, nbytes)
            # this view refers to the owner, so a memoryview of it keeps the block alive
            self.view = memoryview(ffi.buffer(self._owner, nbytes))
            self._base = ffi.cast("char *", block)

    def pointer(self, code: str, offset: int = 0):
        """Return the address of byte `offset` as kernels take it; code: f, i, Q, d, H or b."""
        if ffi is None:
            size = struct.calcsize(code)
            whole = (self.nbytes - offset) // size * size
            return self.view[offset:offset + whole].cast(code)
        return ffi.cast(_POINTER[code], self._base + offset)


def _refused(nbytes):
    size = f"{nbytes:,}" if nbytes < 2 ** 1024 else shown(nbytes)
    return MemoryError(f"could not allocate {size} bytes")


def address(argument):
    """Return (the address that a kernel's argument points to, the code of the numbers there, "f" or
    "H"), or (None, None) if it points to no such numbers."""
    if ffi is None:
        if not (isinstance(argument, memoryview) and argument.format in ("f", "H")
                and len(argument)):
            return None, None
        import ctypes
        return ctypes.addressof(ctypes.c_char.from_buffer(argument)), argument.format
    if isinstance(argument, ffi.CData):
        for code in ("f", "H"):
            if ffi.typeof(argument) is ffi.typeof(_POINTER[code]):
                return int(ffi.cast("uintptr_t", argument)), code
    return None, None


_POINTER = {"f": "float *", "i": "int32_t *", "Q": "uint64_t *", "d": "double *",
            "H": "uint16_t *", "b": "int8_t *"}


# ------------------------------------------------------------------------------------- threads ---

def _threads_at_start() -> int:
    """Return OMP_NUM_THREADS if it is positive, at most the number of hardware threads; otherwise
    the number of physical cores, on a hybrid CPU that of the performance cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdecimal() and int(asked) > 0:
        return min(int(asked), logical_cpus())
    if asked:
        print(f"pygpt: warning: OMP_NUM_THREADS={asked!r} is not a positive number; ignored",
              file=sys.stderr)
    return performance_cores()


_forked = False


def set_num_threads(n: int) -> None:
    """Let kernels use n threads, in the whole process.

    The threads start when a kernel first needs them. Where the system refuses them (a limit on
    processes: `ulimit -u`, a control group's pids.max), OpenMP's runtime prints a line and ends the
    process; no exception can be raised.

    Args:
        n: 1..MAX_THREADS, which is 256. More threads than cores make everything slower.

    Raises:
        ValueError: n is not in that range.
        RuntimeError: n > 1 in a process that was forked after pygpt was imported. It lacks its
            parent's threads, and OpenMP cannot start new ones.
    """
    if not is_integer(n) or not 1 <= n <= MAX_THREADS:
        raise ValueError(f"threads={shown(n)} is not a whole number from 1 to {MAX_THREADS}")
    if _forked and n > 1:
        raise RuntimeError(f"threads={n}: a forked process has one; start it with 'spawn' instead")
    if ffi is not None:
        lib.pygpt_set_num_threads(n)


def get_num_threads() -> int:
    """Return the number of threads of kernels: 1 without OpenMP or on the reference backend."""
    return lib.pygpt_get_num_threads() if ffi is not None else 1


@contextlib.contextmanager
def use_threads(n: int):
    """Within the block, use n threads, or as many as before if n is 0. It raises as
    set_num_threads does."""
    before = get_num_threads()
    set_num_threads(n or before)
    try:
        yield
    finally:
        set_num_threads(before)


def _after_fork() -> None:
    global _forked
    _forked = True
    lib.pygpt_set_num_threads(1)


# -------------------------------------------------------------------------------------- caches ---

def block_sizes() -> dict:
    """Return the sizes of the blocks of a matrix product, by their names in csrc/pygpt.h, such as
    "PANEL_COLUMNS"; the empty dict on the reference backend."""
    if ffi is None:
        return {}
    names = ("TILE_ROWS", "TILE_COLUMNS", "PANEL_ROWS", "PANEL_COLUMNS", "PANEL_ROWS_ACROSS",
             "PANEL_COLUMNS_ACROSS")
    out = ffi.new("int64_t[]", lib.BLOCK_SIZES)
    lib.pygpt_block_sizes(out)
    return {name: out[getattr(lib, f"BLOCK_{name}")] for name in names}


@contextlib.contextmanager
def use_caches(l1: int, l2: int):
    """Within the block, cut products into blocks as for these caches; after it, as for this
    machine's. No result changes. For tests and measurements."""
    lib.pygpt_set_caches(l1, l2)
    try:
        yield
    finally:
        lib.pygpt_set_caches(*cpu.caches()[:2])


def _described_caches():
    sizes = zip((1, 2, 3), cpu.caches(), cpu.found_caches())
    return [f"L{level} {cpu.binary_size(size)}{'' if found else ' (assumed)'}"
            for level, size, found in sizes if size]


def _described_pages():
    size, huge = cpu.pages()
    return [cpu.binary_size(size),
            *{"always": ["huge pages always"], "never": ["no huge pages"],
              "madvise": ["huge pages on request"]}.get(huge, []),
            *([f"spread over {_nodes} NUMA nodes"] if _nodes else [])]


def _described_blocks():
    if not (blocks := block_sizes()):
        return ["none"]
    return [text.format(**blocks) for text in (
        "tile {TILE_ROWS} x {TILE_COLUMNS}", "panel {PANEL_ROWS} x {PANEL_COLUMNS}",
        "with A transposed {PANEL_ROWS_ACROSS} x {PANEL_COLUMNS_ACROSS}")]


# ---------------------------------------------------------------------------- instruction sets ---

LACKING = "this CPU lacks it"  # the reason that csrc/internal.h gives


def isa_names() -> list:
    """List the instruction sets that were built in and that can be used here, best first.

    The last, "amx_in_c", is for tests, and never chosen by itself.
    """
    if ffi is None:
        return ["python"]
    return [name for name, i in _built().items() if lib.pygpt_isa_supported(i)]


def _built():
    """Return {name: number} of the instruction sets that were built in, best first."""
    names = map(lib.pygpt_isa_name, itertools.count())
    names = itertools.takewhile(lambda name: name != ffi.NULL, names)
    return {ffi.string(name).decode(): i for i, name in enumerate(names)}


def refused_isas() -> dict:
    """Return {name: why} of the instruction sets that were built in and cannot be used here, such
    as "this CPU lacks it". On a CPU that has the set, the operating system refuses it."""
    if ffi is None:
        return {}
    return {name: ffi.string(lib.pygpt_isa_refused(i)).decode() for name, i in _built().items()
            if lib.pygpt_isa_refused(i) != ffi.NULL}


def isa() -> str:
    """Return the instruction set in use."""
    return _isa


def what_rounds(compute_dtype: str) -> dict:
    """Return {"backend", "isa", "compiler"}: the kernels whose rounding decides the bits of results
    in this type. In float32 a set with a unit for bfloat16 counts as the set whose loops it shares.
    """
    if ffi is None:
        return {"backend": BACKEND, "isa": isa(), "compiler": "none"}
    loops = ffi.string(lib.pygpt_isa_loops(_built()[isa()])).decode()
    return {"backend": BACKEND, "isa": loops if compute_dtype == "float32" else isa(),
            "compiler": ffi.string(lib.pygpt_compiler()).decode()}


def select_isa(name=None) -> None:
    """Use the named instruction set, or the best one this CPU has.

    Raises:
        ValueError: it was not built in, this CPU lacks it, or the system refuses it.
    """
    global _isa
    if ffi is None:
        _isa = "python"
        return
    built = _built()
    if name is None:
        name = isa_names()[0]
    if name not in built:
        raise ValueError(f"isa {shown(name)} is not one of {', '.join(built)}")
    if not lib.pygpt_isa_supported(built[name]):
        why = refused_isas().get(name, LACKING)
        raise ValueError(f"isa {shown(name)} is not supported by this CPU, which has "
                         f"{', '.join(isa_names())}" if why == LACKING else
                         f"isa {shown(name)} cannot be used: {why}")
    lib.pygpt_isa_select(built[name])
    _isa = name


def bfloat16_units() -> list:
    """List (name, state) of the units of this CPU that multiply bfloat16, best first.

    The state is "in use", "supported", or "refused: " and the system's reason. AMX's operations in
    C, which are for tests, count only while they are in use.
    """
    if ffi is None:
        return []
    refused = refused_isas()
    states = {name: "in use" if name == isa() else refused.get(name, "supported")
              for name, i in _built().items() if lib.pygpt_isa_has_unit(i)}
    return [(name, state if name not in refused else f"refused: {state}")
            for name, state in states.items() if state != LACKING and
            (name != "amx_in_c" or state == "in use")]


def bfloat16_unit():
    """Return the name of the unit in use that multiplies bfloat16, or None."""
    return next((name for name, state in bfloat16_units() if state == "in use"), None)


def _described_units():
    loops = "Python's loops" if ffi is None else "the float32 tile"
    instead = [] if bfloat16_unit() else [f"no unit in use: {loops} with rounded operands"]
    return instead + [f"{name} ({state})" for name, state in bfloat16_units()]


def info() -> dict:
    """Return a dict of the settings in use: backend, compiler, isa, isas, threads, cores, openmp
    ("on" or "off"), and lists of texts: bfloat16 (the units that multiply it), caches, pages, and
    blocks (those of a matrix product)."""
    c = ffi is not None
    return {
        "backend": BACKEND,
        "compiler": ffi.string(lib.pygpt_compiler()).decode() if c else "none",
        "isa": isa(),
        "isas": isa_names(),
        "bfloat16": _described_units(),
        "threads": get_num_threads(),
        "cores": physical_cores(),
        "openmp": "on" if c and lib.pygpt_openmp() else "off",
        "caches": _described_caches(),
        "pages": _described_pages(),
        "blocks": _described_blocks(),
    }


_isa = ""
_nodes = 0  # the NUMA nodes over which large blocks of memory are spread
try:
    select_isa(os.environ.get("PYGPT_ISA") or None)
except ValueError as error:
    raise ImportError(f"PYGPT_ISA: {error}") from error
if ffi is not None:
    lib.pygpt_set_caches(*cpu.caches()[:2])
    _mask = sum(1 << node for node in cpu.numa_nodes() if node < 64)
    _nodes = _mask.bit_count() if lib.pygpt_set_nodes(_mask) else 0
    set_num_threads(min(_threads_at_start(), MAX_THREADS))
    os.register_at_fork(after_in_child=_after_fork)
