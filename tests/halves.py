"""Runs the tests in two processes, one for each half of them, for two cores: `make test`.

The first half tests numbers (kernels, ops, tape, weights, tokenizers), the second runs, files and
the command line. Both get the arguments. The second half prints its output as it runs; that of the
first follows. `python -m pytest` runs all tests in one process.
"""

import pathlib
import subprocess
import sys

NUMBERS = ("kernels", "gradients", "reference", "simd", "ops", "op_misuse", "backward", "tape",
           "edits", "model", "bpe", "special_tokens", "tokenizer", "tokenizer_files",
           "added_tokens", "refused_tokens", "generate", "nn", "optim", "recompute", "program",
           "tensor", "convert", "bfloat16", "operand_type", "quantized", "sampling",
           "ladder", "layers", "docs", "blocks", "units", "half_weights", "read_back",
           "decoding", "at_rest", "trace", "check", "study", "bad_calls")


def main():
    """Run both halves; return the first status that is not 0."""
    tests = pathlib.Path(__file__).parent
    first = [str(tests / f"test_{name}.py") for name in NUMBERS]
    second = sorted({str(path) for path in tests.glob("test_*.py")} - set(first))
    command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
    with subprocess.Popen([*command, *first], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as numbers:
        status = subprocess.run([*command, *second]).returncode
        output, _ = numbers.communicate()
    sys.stdout.buffer.write(output)
    sys.stdout.flush()
    return status or numbers.returncode


if __name__ == "__main__":
    sys.exit(main())
