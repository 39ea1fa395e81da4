"""Runs the tests that call C on a library built with AddressSanitizer and
UndefinedBehaviorSanitizer: `make asan`.

Any finding of these two ends the test process. LeakSanitizer reports at its end, and its reports
are sorted here, because CPython leaves much of its own memory to the operating system: a leak is
ours if the function that called malloc, calloc, realloc or aligned_alloc is in one of our modules.
(A suppression file would not do: it would match the interpreter's frames below each call of a
kernel, and so hide every leak of a kernel too.)

    python tests/checks/asan.py [ARGUMENT OF PYTEST ...]    the default: the files of TESTS
"""

import os
import re
import shutil
import subprocess
import sys

import tree

CFLAGS = ("-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined "
          "-fno-sanitize-recover=all")
LDFLAGS = "-fsanitize=address,undefined"
# The files whose tests call kernels on memory of their own, then those that reach every other
# function of pygpt.h.
TESTS = ("kernels", "units", "simd", "bpe", "sampling", "convert", "half_tensors", "operand_type",
         "at_rest", "quantized", "blocks", "bfloat16", "ops", "op_misuse", "optim", "tensor",
         "tape", "python_threads", "half_weights", "generate", "decoding", "special_tokens")
OURS = re.compile(r"/(_kernels|_spin|_buffer)\.[^ /]*so")
ALLOCATORS = "malloc", "calloc", "realloc", "aligned_alloc"


def runtime(compiler="gcc"):
    """Return the path of the compiler's libasan, which must be loaded before the program."""
    output = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True,
                            text=True, check=True).stdout.strip()
    if not os.path.isabs(output):
        sys.exit(f"asan: {compiler} has no libasan (Debian, Ubuntu: apt-get install libasan8)")
    return output


def environment(logs, **more):
    """Return the variables for a process whose reports go to files that begin with `logs`.

    PYTHONMALLOC=malloc: Python's own allocator takes its arenas by mmap, where LeakSanitizer does
    not look for pointers to our blocks. allocator_may_return_null: the tests ask for more memory
    than there is, and expect an error.
    """
    return os.environ | {
        "LD_PRELOAD": runtime(), "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": f"detect_leaks=1:log_path={logs}:allocator_may_return_null=1:"
                        "detect_stack_use_after_return=1:strict_string_checks=1:"
                        "max_allocation_size_mb=8192",
        "LSAN_OPTIONS": "exitcode=0",  # the reports decide, see report()
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={logs}"} | more


def our_leaks(text):
    """Return the leaks in a report whose block was allocated by a function of ours."""
    found = []
    for leak in re.split(r"\n\n+", text):
        frames = re.findall(r"^ +#\d+ 0x\w+ in (.*)$", leak, re.MULTILINE)
        while frames and frames[0].split("(")[0].strip().removeprefix("__interceptor_").split()[0] \
                in ALLOCATORS:
            frames.pop(0)
        if "leak of" in leak and frames and (OURS.search(frames[0]) or "csrc/" in frames[0]):
            found.append(leak)
    return found


def report(folder):
    """Print what the files of reports say; return whether they are free of findings of ours."""
    others, ours, errors = 0, [], []
    for path in sorted(folder.iterdir()):
        text = path.read_text(errors="replace")
        if "ERROR: AddressSanitizer" in text or "runtime error:" in text:
            errors.append(text)
        ours += our_leaks(text)
        others += text.count("leak of")
    print(*errors, *ours, sep="\n", end="" if not (errors or ours) else "\n")
    print(f"asan: {len(errors)} errors, {len(ours)} leaks of the library, "
          f"{others - len(ours)} of the interpreter")
    return not errors and not ours


def main(arguments):
    """Build, run the tests and return the status."""
    copy = tree.make("asan", CFLAGS, LDFLAGS, "gcc")
    logs = copy / "reports"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    files = arguments or ["-q", *(f"tests/test_{name}.py" for name in TESTS)]
    variables = environment(logs / "report")
    variables["PYTHONPATH"] = os.pathsep.join(["tests", "tests/checks"])
    command = [sys.executable, "-m", "pytest", "-p", "poisoned_margins", "-p", "no:cacheprovider",
               *files]
    calls = [sys.executable, "tests/checks/kernel_calls.py", "--poison", "--sizes", "0,1,7,17,65"]
    status = 0
    for each in [calls, command] if not arguments else [command]:
        status = status or subprocess.run(each, cwd=copy, env=variables).returncode
    if status:
        print(f"asan: status {status} of the tests (below 0: a signal); the reason is above")
    return 0 if report(logs) and status == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
