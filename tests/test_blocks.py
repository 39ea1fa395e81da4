"""Tests the blocks that products are cut into: they follow the caches, and no result does.

Needs the built library.
"""

import pytest

from pygpt.backend import kernels as library
from pygpt.check.calls import CCall, run_everywhere
from pygpt.check.case import DTYPES
from pygpt.check.cases import CASES
from pygpt.check.header import flag_settings
from pygpt.check.sets import isas_for, use_isa

pytestmark = pytest.mark.skipif(library.ffi is None, reason="the C library is not in use")

KB, MB = 1 << 10, 1 << 20
# The rows of a panel, and where A is transposed.
ROWS, ACROSS = 768, 256
# Caches for which a panel has its fewest columns, its most, and some in between; the first are not
# sizes at all.
CACHES = ((-1, -2 ** 63), (32 * KB, 256 * KB), (48 * KB, 2 * MB), (2 ** 62, 2 ** 63 - 1))
# Sizes with which the sum over k is split and the columns take several panels.
PRODUCTS = {"matmul": {"M": 37, "N": 550, "K": 800},
            "linear_forward": {"R": 37, "IN": 800, "OUT": 550},
            "linear_backward_input": {"R": 37, "IN": 550, "OUT": 800},
            "linear_backward_weight": {"R": 300, "IN": 37, "OUT": 550},
            "linear_cross_entropy_forward": {"R": 37, "C": 800, "V": 300},
            "linear_cross_entropy_backward": {"R": 300, "C": 550, "V": 70}}


@pytest.mark.parametrize("cpu, l2, tile_columns, columns, columns_across", [
    ("Zen 3, AVX2", 512 * KB, 16, 128, 384),
    ("Zen 5, AVX-512", 1 * MB, 64, 256, 512),
    ("Xeon Sapphire Rapids, AVX-512", 2 * MB, 64, 512, 512),
    ("a laptop with AVX2", 256 * KB, 16, 64, 192),
    ("Skylake-X, AVX-512", 1 * MB, 64, 256, 512),
    ("Apple M1, NEON, 12 MB for four cores", 3 * MB, 16, 512, 512),
    ("Apple M2, NEON, 16 MB for four cores", 4 * MB, 16, 512, 512),
    ("Cortex-A76, NEON", 512 * KB, 16, 128, 384),
    ("any, baseline", 256 * KB, 8, 64, 192),
    ("a sixteenth of a shared L2", 32 * KB, 64, 128, 128),  # two tiles, whatever the cache
    ("L2 not a power of two", 1280 * KB, 16, 320, 512),
])
def test_the_columns_of_a_panel(cpu, l2, tile_columns, columns, columns_across):
    for rows, wanted in ((ROWS, columns), (ACROSS, columns_across)):
        got = library.lib.pygpt_panel_columns(l2, rows, tile_columns)
        assert got == wanted, f"{cpu}, {rows} rows"
        assert got % tile_columns == 0
        assert got * rows * 4 <= l2 * 3 // 4 or got == 2 * tile_columns


@pytest.mark.parametrize("l2, rows", [(-2 ** 63, 768), (0, 1), (2 ** 63 - 1, 0), (-1, -1)])
def test_nonsense_still_gives_columns(l2, rows):
    assert library.lib.pygpt_panel_columns(l2, rows, 16) == (512 if l2 > 0 else 32)


def test_every_kernel_that_computes_a_product_is_listed():
    named = {case.kernel for case in CASES if case.kernel.startswith(("matmul", "linear"))
             and "dtype" in case.sizes}  # those of weights at rest have blocks of their own
    assert named == set(PRODUCTS)


def test_the_blocks_in_use_are_those_of_the_instruction_set_and_the_caches(kernels):
    tiles = {"avx512": (6, 64), "avx2": (6, 16), "neon": (6, 16), "baseline": (6, 8)}
    for isa in isas_for(kernels.FLOAT32):
        for _, l2 in CACHES:
            with use_isa(isa), kernels.use_caches(32 * KB, l2):
                blocks = kernels.block_sizes()
                assert (blocks["TILE_ROWS"], blocks["TILE_COLUMNS"]) == tiles[isa]
                for name, rows in (("", ROWS), ("_ACROSS", ACROSS)):
                    assert blocks[f"PANEL_ROWS{name}"] == rows
                    assert blocks[f"PANEL_COLUMNS{name}"] == kernels.lib.pygpt_panel_columns(
                        l2, rows, tiles[isa][1])


def test_the_blocks_are_those_of_this_machine(kernels):
    wanted = kernels.lib.pygpt_panel_columns(kernels.cpu.caches()[1], ROWS,
                                             kernels.block_sizes()["TILE_COLUMNS"])
    assert kernels.block_sizes()["PANEL_COLUMNS"] == wanted
    with kernels.use_caches(32 * KB, 8 * MB):
        assert kernels.block_sizes()["PANEL_COLUMNS"] == 512
    assert kernels.block_sizes()["PANEL_COLUMNS"] == wanted


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [c for c in CASES if c.kernel in PRODUCTS], ids=str)
def test_no_cache_changes_a_bit(kernels, case, dtype):
    args = case.chosen({**PRODUCTS[case.kernel], "dtype": dtype})
    calls = [CCall(kernels, case.kernel, args)]
    if case.kernel == "linear_backward_input":  # where the sum over k must not be split
        calls.append(CCall(kernels, case.kernel, args, aliases={"dinp": "pre"}))
    for call in calls:
        for flags in flag_settings(case.kernel):
            if call.aliases and flags["accumulate"]:
                continue
            wanted = {isa: {name: output.raw() for name, output in outputs.items()}
                      for isa, outputs in run_everywhere(kernels, call, flags)}
            for l1, l2 in CACHES:
                with kernels.use_caches(l1, l2):
                    for isa, outputs in run_everywhere(kernels, call, flags):
                        for name, output in outputs.items():
                            assert output.raw() == wanted[isa][name], (
                                f"{case.kernel} on {isa}, {flags}: an L2 of {l2} bytes changes "
                                f"{name}")


@pytest.mark.parametrize("R, V, rows", [
    (1024, 50257, 512),    # as many as CHUNK_ROWS
    (1024, 65537, 384),    # the most multiples of 64 whose logits take 104 MB
    (1024, 10 ** 7, 64),   # one tile's columns at least
    (1, 50257, 1), (100, 65, 100)])
def test_the_head_computes_so_many_rows_at_a_time(kernels, R, V, rows):
    chunk, part = kernels.ffi.new("int64_t *"), kernels.ffi.new("int64_t *")
    kernels.lib.pygpt_head_chunk(chunk, part, R, V, 64)
    assert chunk[0] == rows
