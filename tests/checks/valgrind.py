"""Calls every kernel under valgrind's memcheck: `make valgrind`.

Memcheck finds what AddressSanitizer cannot: a branch or an address that depends on a number which
nothing has written. It knows no AVX-512 and tells the library so, which then has AVX2 and the
baseline (and AMX's operations in C). PYTHONMALLOC=malloc gives each object of Python a block of its
own. Only errors with a function of our modules among their topmost frames count: those of CPython
alone are not ours to mend. Leaks are `make asan`'s to find.

    python tests/checks/valgrind.py [ARGUMENT OF kernel_calls.py ...]
"""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OURS = re.compile(r"/(_kernels|_spin|_buffer)\.[^/]*so$")
# Where kernel_calls.py compares results: a number there that was never written is ours.
COMPARED = {"bytes_richcompare", "bytes_compare_eq"}
NEAR = 12  # frames from the top in which a function of ours is looked for


def errors_of(path):
    """Return (those with a function of ours near the top, the others) of a report, as texts."""
    ours, others = [], []
    for error in xml.parse(path).getroot().iter("error"):
        if error.findtext("kind", "").startswith("Leak_"):  # with XML it always looks for them
            continue
        frames = error.find("stack").findall("frame")
        lines = [f"    {frame.findtext('fn', '?')} "
                 f"({frame.findtext('file') or frame.findtext('obj')}:{frame.findtext('line', '')})"
                 for frame in frames[:NEAR]]
        text = "\n".join([error.findtext("what") or error.findtext("xwhat/text") or "?", *lines])
        is_ours = any(OURS.search(frame.findtext("obj", "")) or frame.findtext("fn") in COMPARED
                      for frame in frames[:NEAR])
        (ours if is_ours else others).append(text)
    return ours, others


def main(arguments):
    if shutil.which("valgrind") is None:
        sys.exit("valgrind: not found (Debian, Ubuntu: apt-get install valgrind)")
    report = ROOT / "build" / "valgrind.xml"
    report.parent.mkdir(exist_ok=True)
    command = ["valgrind", "--tool=memcheck", "--xml=yes", f"--xml-file={report}", sys.executable,
               str(HERE / "kernel_calls.py"), *arguments]
    variables = os.environ | {"PYTHONMALLOC": "malloc", "GOMP_SPINCOUNT": "0",
                              "OMP_NUM_THREADS": "2"}
    status = subprocess.run(command, cwd=ROOT, env=variables).returncode
    ours, others = errors_of(report)
    if ours:
        print(*ours[:20], sep="\n")
    print(f"valgrind: {len(ours)} errors of the library, {len(others)} of the interpreter")
    return 1 if status or ours else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
