"""Compares the speed of generation, ours and llama.cpp's, in processes that take turns.

    make compare-generation    or: python tests/bench/generation.py [--llama-bench PATH]
                               [--gguf DIR] [--seconds S] [--threads N] [--json]

The model has the shape of GPT-2 124M and random weights, in float32, bfloat16 and int8 (llama.cpp:
F32, BF16 and Q8_0), opened from files by both sides. For each form the table has

    one text     tokens/s of the model alone, a token a step, after a prompt of 8; llama.cpp's -n
    generate()   the same through pygpt.generate, with the choice of tokens, a prompt of 8 included
    16 texts     tokens/s of 16 texts of different lengths, a token of each in a step
    prompt       tokens/s of reading a prompt, -p

In a turn each process runs once. The table gives medians over turns. "of reading": the bytes of
weights that a step reads, times the steps in a second, as a share of the speed at which the same
threads only read memory (pygpt_measure_read), measured in the same turns. A step reads all weights
but the position embeddings; keys and values are left out. The ratio is that of the medians, ours by
llama.cpp's; its quartiles are over the turns.

Without llama-bench only our side is measured. Its GGUF files are kept in --gguf DIR.
"""

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE.parent.parent), str(HERE)) if path not in sys.path]

import gguf  # noqa: E402
import llama_cpp  # noqa: E402
from compare import model_name  # noqa: E402

import pygpt  # noqa: E402
from pygpt import generate  # noqa: E402
from pygpt.backend import kernels  # noqa: E402
from pygpt.backend.kernels import Memory, lib  # noqa: E402

SHAPE = dict(vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12)
FORMS = ("float32", "bfloat16", "int8")
# Of a weight. In int8 64 weights have a scale of 4 bytes, and in Q8_0 32 have one of 2.
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1 + 4 / 64}
ROWS = ("one text", "generate()", "16 texts", "prompt")
TEXTS_OF_A_STEP = {"one text": 1, "16 texts": 16}
BEGINNING = 8  # tokens of a prompt that is not measured
LEAST_TURNS = 3  # at least 2, for quartiles
READ = 2 ** 26  # floats: 256 MB, more than any cache


def ids(n, vocabulary):
    rng = random.Random(n)
    return [rng.randrange(vocabulary) for _ in range(n)]


def weight_bytes(parameters, form, is_step=True):
    """Return the bytes of a model's weights, {name: shape}: of those that a step reads, or of all.

    Vectors and position embeddings are float32. The head reads all of the token embedding.
    """
    total = 0
    for name, shape in parameters.items():
        is_positions = name == "transformer.wpe.weight"
        if not (is_step and is_positions):
            total += math.prod(shape) * (4 if is_positions or len(shape) == 1 else BYTES[form])
    return total


# ----------------------------------------------------------------- a process of our own side ---

def measured(form, sizes):
    """Return {row: tokens per second} of our side; for "reading", the bytes read in a second."""
    pygpt.set_num_threads(sizes.threads)
    if form == "reading":
        return {"reading": bytes_read_per_second()}
    model = pygpt.GPT.from_pretrained(sizes.model, weights=form)
    few = max(1, sizes.tokens // 4)  # a step of many texts takes a few times as long
    return {"one text": decoding(model, 1, sizes.tokens),
            "generate()": generating(model, sizes.tokens),
            "16 texts": decoding(model, TEXTS_OF_A_STEP["16 texts"], few),
            "prompt": reading(model, sizes.prompt)}


def bytes_read_per_second(seconds=0.3):
    memory, total, took = Memory(4 * READ), Memory(4), []
    memory.view[:] = bytes(4 * READ)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(took) < 3:
        start = time.perf_counter()
        lib.pygpt_measure_read(total.pointer("f"), memory.pointer("f"), READ)
        took.append(time.perf_counter() - start)
    return 4 * READ / statistics.median(took)


def decoding(model, texts, steps):
    """Read a prompt of 8 tokens, or several of 1 to 15; measure steps after the first, which is
    recorded."""
    V, lengths = model.config.vocab_size, [BEGINNING]
    if texts > 1:
        lengths = [1 + i % (2 * BEGINNING - 1) for i in range(texts)]
    cache = model.new_cache(texts, max(lengths) + 1 + steps)
    for row, length in enumerate(lengths):
        cache.read(row, ids(length, V))
    given = ids(texts * (1 + steps), V)
    cache.step(given[:texts])
    start = time.perf_counter()
    for i in range(texts, len(given), texts):
        cache.step(given[i:i + texts])
    return texts * steps / (time.perf_counter() - start)


def generating(model, tokens):
    prompt = ids(BEGINNING, model.config.vocab_size)
    start = time.perf_counter()
    made = generate.generate(model, prompt, tokens)
    assert len(made) == tokens
    return tokens / (time.perf_counter() - start)


def reading(model, length):
    """Read a prompt twice; measure the second time, when the cache has its memory."""
    cache, prompt = model.new_cache(1, length), ids(length, model.config.vocab_size)
    cache.read(0, prompt)
    cache.forget(0)
    start = time.perf_counter()
    cache.read(0, prompt)
    return length / (time.perf_counter() - start)


# --------------------------------------------------------------------------------- the turns ---

def in_a_process(form, sizes):
    """Run measured() in a process of its own."""
    command = [sys.executable, __file__, "--measure", form, "--model", sizes.model]
    for name in ("threads", "tokens", "prompt"):
        command += [f"--{name}", str(getattr(sizes, name))]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def take_turns(sizes, parameters, program):
    """Measure until the time is up; after each turn, say so on standard error.

    Returns:
        (reading, ours, theirs): a list of bytes per second; {form: [{row: tokens per second}]} of
        both sides, a dict for each turn, the second empty without llama-bench.
    """
    reads, ours, theirs = [], {form: [] for form in FORMS}, {form: [] for form in FORMS}
    count = sum(map(math.prod, parameters.values()))
    start = time.perf_counter()
    while time.perf_counter() < start + sizes.seconds or len(reads) < LEAST_TURNS:
        reads.append(in_a_process("reading", sizes)["reading"])
        for form in FORMS:
            sides = ["pygpt", "llama.cpp"] if program else ["pygpt"]
            for side in sides[::1 if len(reads) % 2 else -1]:  # each goes first in half the turns
                if side == "pygpt":
                    ours[form].append(in_a_process(form, sizes))
                    continue
                nbytes = weight_bytes(parameters, form, is_step=False)
                theirs[form].append(llama_cpp.measured(program, sizes.gguf, form, sizes, count,
                                                       nbytes))
        print(f"turn {len(reads)}: {time.perf_counter() - start:.0f} of {sizes.seconds:.0f} s",
              file=sys.stderr, flush=True)
    return reads, ours, theirs if program else {}


def summary(reads, ours, theirs, parameters):
    """Return the rows of the table, a list of dicts."""
    speed, rows = statistics.median(reads), []

    def of_reading(steps_per_second, form):
        return steps_per_second * weight_bytes(parameters, form) / speed

    for form in FORMS:
        for name in ROWS:
            found = median(ours[form], name)
            row = {"form": form, "row": name, "tokens_per_second": found,
                   "of_one_text": found / median(ours[form], "one text")}
            if name in TEXTS_OF_A_STEP:
                row["of_reading"] = of_reading(found / TEXTS_OF_A_STEP[name], form)
            if theirs and name in theirs[form][0]:
                row["llama_cpp"] = median(theirs[form], name)
                row["ratio"] = found / row["llama_cpp"]
                ratios = [a[name] / b[name] for a, b in zip(ours[form], theirs[form])]
                row["quartiles"] = statistics.quantiles(ratios, n=4, method="inclusive")[::2]
                if name == "one text":
                    row["llama_cpp_of_reading"] = of_reading(row["llama_cpp"], form)
            rows.append(row)
    return rows


def median(turns, name):
    return statistics.median(turn[name] for turn in turns)


# --------------------------------------------------------------------------------- the table ---

def print_table(rows):
    print(f"{'':10}{'':12}{'pygpt':>8}{'of reading':>12}{'of one text':>13}{'llama.cpp':>11}"
          f"{'of reading':>12}{'ratio':>7}  quartiles")
    for r in rows:
        def column(key, style, width):
            return format(format(r[key], style) if key in r else "", f">{width}")

        low, high = r.get("quartiles", (None, None))
        line = (f"{r['form'] if r['row'] == ROWS[0] else '':10}{r['row']:12}"
                + column("tokens_per_second", ".1f", 8) + column("of_reading", ".0%", 12)
                + column("of_one_text", ".2f", 13) + column("llama_cpp", ".1f", 11)
                + column("llama_cpp_of_reading", ".0%", 12) + column("ratio", ".2f", 7)
                + ("" if low is None else f"  {low:.2f}-{high:.2f}"))
        print(line.rstrip())
    prompts = [r for r in rows if r["row"] == "prompt" and "ratio" in r]
    if prompts:
        ours = max(prompts, key=lambda r: r["tokens_per_second"])
        theirs = max(prompts, key=lambda r: r["llama_cpp"])
        print(f"\nprompt, the fastest of each: {ours['tokens_per_second']:.0f} ({ours['form']}) "
              f"and {theirs['llama_cpp']:.0f} ({llama_cpp.TYPES[theirs['form']]}) tokens/s: "
              f"{ours['tokens_per_second'] / theirs['llama_cpp']:.2f} times as fast")


def heading(sizes, reads, build):
    info = kernels.info()
    return (f"{model_name() or 'unknown CPU'}; {sizes.threads} threads; reads "
            f"{statistics.median(reads) / 1e9:.1f} GB/s; medians of {len(reads)} turns\n"
            f"pygpt {pygpt.__version__} on {kernels.isa()}, {info['compiler']}"
            f"{'; llama.cpp ' + build if build else ''}; tokens/s, {sizes.tokens} generated, "
            f"prompts of {sizes.prompt}\n")


def make_files(sizes, program):
    """Write the model, and the GGUF files that are missing; return {name: shape}."""
    model = pygpt.GPT(pygpt.GPTConfig(**SHAPE))
    model.save_pretrained(sizes.model)
    for form in FORMS if program else ():
        path = Path(sizes.gguf) / llama_cpp.file_name(form)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            gguf.write(path, model, form)
    return {name: p.shape for name, p in model.named_parameters()}


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-bench", metavar="PATH", help="unset: $LLAMA_BENCH, or on PATH")
    parser.add_argument("--gguf", metavar="DIR", help="directory of the files gpt2-f32.gguf, "
                        "gpt2-bf16.gguf and gpt2-q8_0.gguf; those missing are written, 0.9 GB "
                        "(unset: a temporary one)")
    parser.add_argument("--seconds", type=float, default=300, help="time for all turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64, help="length of what is generated")
    parser.add_argument("--prompt", type=int, default=256, help="length of the prompt that is read")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", choices=("reading", *FORMS), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    sizes, most = parser.parse_args(arguments), SHAPE["n_positions"]
    if sizes.threads < 1:
        parser.error(f"--threads {sizes.threads}: at least 1")
    for name, end in (("prompt", most), ("tokens", most - 2 * BEGINNING)):
        if not 1 <= getattr(sizes, name) <= end:
            parser.error(f"--{name} {getattr(sizes, name)}: from 1 to {end}")
    return sizes


def main(arguments=None):
    sizes = parse(arguments)
    if sizes.measure:
        print(json.dumps(measured(sizes.measure, sizes)))
        return
    try:
        program = llama_cpp.found(sizes.llama_bench)
        if program is None:
            llama_cpp.print_how()
        with tempfile.TemporaryDirectory() as directory:
            sizes.model, sizes.gguf = directory, sizes.gguf or directory
            parameters = make_files(sizes, program)
            reads, ours, theirs = take_turns(sizes, parameters, program)
    except OSError as error:
        sys.exit(f"generation: error: {error}")
    rows = summary(reads, ours, theirs, parameters)
    build = theirs["float32"][0]["build"] if theirs else ""
    if sizes.json:
        print(json.dumps({"cpu": model_name(), "isa": kernels.isa(), "threads": sizes.threads,
                          "pygpt": pygpt.__version__, "llama.cpp": build, "turns": len(reads),
                          "reads": statistics.median(reads), "rows": rows}))
        return
    print(heading(sizes, reads, build))
    print_table(rows)


if __name__ == "__main__":
    main()
