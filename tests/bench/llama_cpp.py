"""Runs llama-bench, the benchmark of llama.cpp, for generation.py, and checks what it measured."""

import json
import os
import shutil
import subprocess
import sys

TYPES = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0"}  # in llama-bench's model_type
HOW = """\
llama-bench is not here, so only pygpt is measured. llama.cpp's source comes with llama-cpp-python:
  pip download --no-deps --no-binary llama-cpp-python llama-cpp-python
  tar xf llama_cpp_python-*.tar.gz && cd llama_cpp_python-*/vendor/llama.cpp
  cmake -B build -DCMAKE_BUILD_TYPE=Release && cmake --build build --target llama-bench
Then give its path, build/bin/llama-bench, by --llama-bench or in LLAMA_BENCH, or put it on PATH.
"""


def found(path=None):
    """Return the path of llama-bench: that given, that in LLAMA_BENCH, or that on PATH; or None.

    Raises:
        FileNotFoundError: the first or the second is no program.
    """
    given = path or os.environ.get("LLAMA_BENCH")
    if not given:
        return shutil.which("llama-bench")
    program = shutil.which(given)
    if program is None:
        raise FileNotFoundError(f"{given!r} is not a program: give the path of llama-bench")
    return os.path.abspath(program)


def file_name(form):
    """Return the name of the GGUF file with weights of this form."""
    return f"gpt2-{TYPES[form].lower()}.gguf"


def measured(program, directory, form, sizes, parameters, nbytes):
    """Run llama-bench once on a file, on the CPU, after its own warm-up.

    Args:
        program: the path of llama-bench.
        directory: that of the GGUF files.
        form: "float32", "bfloat16" or "int8" (Q8_0).
        sizes: has threads, prompt and tokens, the number of tokens to read and to generate.
        parameters, nbytes: their number and size in the file. Another number, a size that differs
            by a hundredth or a model of another type is an error.
    Returns:
        A dict: "one text" and "prompt", tokens per second; "build", llama.cpp's.
    Raises:
        ChildProcessError: llama-bench fails, or did not measure this; the message says what it did.
    """
    command = [program, "-m", os.path.join(directory, file_name(form)), "-ngl", "0", "-r", "1",
               "-t", str(sizes.threads), "-p", str(sizes.prompt), "-n", str(sizes.tokens),
               "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise ChildProcessError(f"{' '.join(command)}: status {done.returncode}: {last}")
    try:
        rows = json.loads(done.stdout)
        by_length = {(row["n_prompt"], row["n_gen"]): row for row in rows}
        reading, writing = by_length[sizes.prompt, 0], by_length[0, sizes.tokens]
        for row in rows:
            check(row, TYPES[form], sizes.threads, parameters, nbytes)
        return {"one text": writing["avg_ts"], "prompt": reading["avg_ts"],
                "build": f"build {writing['build_number']} ({writing['build_commit']})"}
    except (ValueError, KeyError, TypeError) as error:
        raise ChildProcessError(f"{' '.join(command)}: {error!r}") from None


def check(row, name, threads, parameters, nbytes):
    """Raise ValueError if a row of llama-bench is about another model or another setting."""
    if row["model_type"].split()[-1] != name:
        raise ValueError(f"model_type {row['model_type']!r} is not {name}")
    for key, value, allowed in (("n_threads", threads, 0), ("model_n_params", parameters, 0),
                                ("model_size", nbytes, nbytes / 100)):
        if abs(row[key] - value) > allowed:
            raise ValueError(f"{key} {row[key]} is not {value}")


def print_how():
    """Say on standard error how to get llama.cpp."""
    sys.stderr.write(HOW)
