"""Compares pygpt.evaluate with the loop of transformers' perplexity guide, on random models.

    python tests/bench/perplexity.py [--size tiny|124m] [--tokens N]

It prints, for each stride, the nats per token of both sides, of the same ids and windows. The
status is 1 if they differ by more than float32's rounding explains. It needs torch and
transformers.
"""

import argparse
import random
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
ALLOWED = 1e-5  # of the nats: means of losses, each a difference of logits rounded to float32


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--tokens", type=int, help="length of the text (unset: 2.7 contexts)")
    options = parser.parse_args(arguments)
    size, transformers_gpt2 = SIZES[options.size], peer("transformers_gpt2")
    config, rng, worst = pygpt.GPTConfig(**size), random.Random(2), 0.0
    P = config.n_positions
    ids = [rng.randrange(config.vocab_size) for _ in range(options.tokens or 27 * P // 10)]
    print(f"{transformers_gpt2.VERSION}, {options.size}, {len(ids)} tokens, windows of {P}")
    with tempfile.TemporaryDirectory() as directory:
        transformers_gpt2.save(size, directory)
        model = pygpt.GPT.from_pretrained(directory)
        for stride in sorted({max(1, P // 8), P // 2, P - 1}):
            began = time.perf_counter()
            ours = pygpt.evaluate(model, ids, stride)
            middle = time.perf_counter()
            theirs = transformers_gpt2.nats_per_token(directory, ids, stride)
            worst = max(worst, abs(ours - theirs) / theirs)
            print(f"stride {stride:5}  pygpt {ours:.6f} ({middle - began:.1f} s)  transformers "
                  f"{theirs:.6f} ({time.perf_counter() - middle:.1f} s, with opening)", flush=True)
    print(f"worst difference {worst:.1e} of the nats")
    return 1 if worst > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
