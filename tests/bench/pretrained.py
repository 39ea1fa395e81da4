"""Compares the logits of from_pretrained with those of transformers' GPT2LMHeadModel.

    python tests/bench/pretrained.py [--size tiny|124m] [--dtype float32|float16|bfloat16]

It prints the largest difference of any logit for each layout and dtype in which GPT-2's weights are
published, and for models that save_pretrained wrote. The models are random, their biases and gains
too. Both sides get the same ids and compute in float32. The status is 1 if a difference is larger
than float32's rounding explains. It needs torch and transformers.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE.parent.parent), str(HERE)) if path not in sys.path]

from peers import peer  # noqa: E402

import pygpt  # noqa: E402

SIZES = {"tiny": dict(vocab_size=101, n_positions=32, n_embd=48, n_layer=3, n_head=4),
         "124m": dict()}
DTYPES = "float32", "float16", "bfloat16"
ALLOWED = 1e-4  # of the largest logit: sums of some thousand roundings of 6e-8 each


def our_logits(directory, ids):
    """Return the logits as a buffer of floats."""
    model = pygpt.GPT.from_pretrained(directory)
    with pygpt.no_grad():
        return bytearray(memoryview(model(ids)).cast("B"))


def exports(transformers_gpt2, size, dtypes, top, ids):
    """Yield (name, their logits, ours) of models that are exported here."""
    source, directory = os.path.join(top, "source"), os.path.join(top, "exported")
    transformers_gpt2.save(size, source)
    model = pygpt.GPT.from_pretrained(source)
    for dtype in dtypes:
        model.save_pretrained(directory, dtype=dtype)
        theirs = transformers_gpt2.read(directory, dtype, ids)
        yield f"{dtype}, exported here, read by both", theirs, our_logits(directory, ids)
        shutil.rmtree(directory)


def compared(transformers_gpt2, size, dtypes, top, ids):
    """Yield (name, their logits, ours) of models of both origins."""
    for name, directory, theirs in transformers_gpt2.cases(size, dtypes, top, ids):
        yield name, theirs, our_logits(directory, ids)
        shutil.rmtree(directory)
    yield from exports(transformers_gpt2, size, dtypes, top, ids)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--dtype", nargs="+", default=DTYPES, choices=DTYPES)
    options = parser.parse_args(arguments)
    size, transformers_gpt2 = SIZES[options.size], peer("transformers_gpt2")
    config = pygpt.GPTConfig(**size)
    rng = random.Random(2)
    ids = [[rng.randrange(config.vocab_size) for _ in range(min(32, config.n_positions))]
           for _ in range(2)]
    start, worst = time.perf_counter(), 0.0
    print(f"{transformers_gpt2.VERSION}, {options.size}")
    with tempfile.TemporaryDirectory() as top:
        for name, theirs, ours in compared(transformers_gpt2, size, options.dtype, top, ids):
            largest, off = transformers_gpt2.compare(theirs, ours)
            worst = max(worst, off / largest)
            print(f"{name:<48} largest logit {largest:7.3f}  largest difference {off:.2e}",
                  flush=True)
    print(f"worst {worst:.2e} of the largest logit, {time.perf_counter() - start:.0f} s")
    return 1 if worst > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
