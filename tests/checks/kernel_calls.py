"""Calls every kernel of pygpt.h, for checkers under which the tests themselves would take hours.

Each case of pygpt/check/cases.py is called at a few sizes on every instruction set that this CPU
has and the checker knows, by 1 and by several threads, with small jobs shared out too. Nothing is
compared but the bits between the numbers of threads: the tests compare results.

    python tests/checks/kernel_calls.py [--threads N,N] [--sizes N,N] [--poison] [KERNEL ...]
"""

import argparse
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import poisoned_margins  # noqa: E402

from pygpt.backend import kernels  # noqa: E402
from pygpt.check.calls import CCall  # noqa: E402
from pygpt.check.cases import CASES  # noqa: E402
from pygpt.check.header import flag_settings  # noqa: E402
from pygpt.check.sets import isas_for, use_isa  # noqa: E402
from pygpt.check.threads import small_jobs_shared  # noqa: E402

NUMBERS = ("dropout", "eps", "std", "part", "past", "spare", "ignore_index", "dtype", "NH", "B")


def call(case, size, dtype, threads):
    """Call a kernel with all dimensions of one size, on every instruction set."""
    sizes = {name: size for name in case.sizes if name not in NUMBERS}
    args = case.chosen(sizes | ({"dtype": dtype} if "dtype" in case.sizes else {}))
    flags = flag_settings(case.kernel)
    for isa in isas_for(dtype):
        with use_isa(isa), small_jobs_shared():
            for setting in flags[:1] + flags[1:][-1:]:
                results = []
                for count in threads:
                    kernels.set_num_threads(count)
                    code, outputs = CCall(kernels, case.kernel, args, case.inout).run(setting)
                    assert code == 0, f"{case} on {isa} returned {code}"
                    results.append({name: bytes(out.raw()) for name, out in outputs.items()})
                assert all(result == results[0] for result in results), f"{case} on {isa}"


def numbers(text):
    return [int(word) for word in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--sizes", type=numbers, default=[7, 17])
    parser.add_argument("--poison", action="store_true", help="margins of arrays, for make asan")
    parser.add_argument("names", nargs="*", metavar="KERNEL")
    options = parser.parse_args()
    if options.poison:
        poisoned_margins.pytest_configure()
    chosen = [case for case in CASES if not options.names or case.kernel in options.names]
    for case in chosen:
        for size in options.sizes:
            for dtype in case.dtypes:
                call(case, size, dtype, options.threads)
    print(f"{len(chosen)} cases of kernels, sizes {options.sizes}, threads {options.threads}, "
          f"sets {', '.join(kernels.isa_names())}")


if __name__ == "__main__":
    main()
