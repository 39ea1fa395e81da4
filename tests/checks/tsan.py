"""Looks for data races in the kernels with ThreadSanitizer: `make tsan`.

ThreadSanitizer must see how threads wait for each other. It does not see it in GCC's OpenMP, whose
every barrier would count as a race, so the library is built with clang: LLVM's OpenMP runtime loads
Archer (libarcher.so), which tells ThreadSanitizer of each barrier, task and lock. kernel_calls.py
then calls every kernel with small jobs shared out among 2 and 4 threads. The sizes are not smaller,
because of a job of 17 rows the first thread has often done all before the second has begun. Python
itself is not instrumented and its accesses are not seen; the kernels' own are.

    python tests/checks/tsan.py [ARGUMENT OF kernel_calls.py ...]
"""

import glob
import os
import re
import shutil
import subprocess
import sys

import tree

CFLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=thread"
LDFLAGS = "-fsanitize=thread -shared-libsan"


def tools():
    """Return the paths of (clang, ThreadSanitizer's runtime, libarcher.so) of one version."""
    for name in [*(f"clang-{version}" for version in range(30, 13, -1)), "clang"]:
        if clang := shutil.which(name):
            root = os.path.dirname(os.path.dirname(os.path.realpath(clang)))
            archer = glob.glob(f"{root}/lib/libarcher.so")
            runtime = subprocess.run([clang, "-print-file-name=libclang_rt.tsan-x86_64.so"],
                                     capture_output=True, text=True).stdout.strip()
            if archer and os.path.isabs(runtime):
                return clang, runtime, archer[0]
    sys.exit("tsan: no clang with ThreadSanitizer and Archer here (Debian, Ubuntu: apt-get install "
             "clang-19 libomp-19-dev libclang-rt-19-dev)")


def main(arguments):
    clang, runtime, archer = tools()
    copy = tree.make("tsan", CFLAGS, LDFLAGS, clang)
    arguments = arguments or ["--threads", "2,4", "--sizes", "65,130"]
    variables = os.environ | {
        "LD_PRELOAD": runtime, "OMP_TOOL_LIBRARIES": archer, "OMP_TOOL_VERBOSE_INIT": "disabled",
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:exitcode=0:history_size=4",
        "LD_LIBRARY_PATH": os.path.dirname(archer)}
    # Without -R the kernel may put the program where ThreadSanitizer needs its own memory.
    command = ["setarch", "-R", sys.executable, "tests/checks/kernel_calls.py", *arguments]
    result = subprocess.run(command, cwd=copy, env=variables, stderr=subprocess.PIPE, text=True,
                            errors="replace")
    races = re.split(r"(?m)^={18}$", result.stderr)
    races = [text for text in races if "WARNING: ThreadSanitizer" in text]
    if races:
        print(*races[:10], sep="\n")
    if result.returncode:
        print(result.stderr[-3000:])
    print(f"tsan: {len(races)} races")
    return 1 if races or result.returncode else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
