"""Shows by how much rounding the operands of products to bfloat16 changes a model's gradients.

    python tests/bench/rounding.py [DIR] [--data TEXT]

The model is that of the checkpoint DIR, or else the lesson preset's with new weights. One batch
gives a loss and gradients in float32 and in bfloat16; for each tensor the table has
|g16 - g32| / |g32|, with |g| the root of the sum of squares, and the cosine of the angle between
the two. The text's tokens are those of the checkpoint's tokenizer, or else its bytes.
"""

import argparse
import copy
import math
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [path for path in (str(ROOT),) if path not in sys.path]

import pygpt  # noqa: E402
from pygpt.config import PRESETS  # noqa: E402

BATCH = 8  # sequences


def opened(directory):
    """Return (model, tokenizer or None)."""
    if directory:
        return pygpt.GPT.from_pretrained(directory), pygpt.Tokenizer.from_pretrained(directory)
    shape = PRESETS["lesson"]
    names = ("n_positions", "n_embd", "n_layer", "n_head")
    return pygpt.GPT(pygpt.GPTConfig(vocab_size=256, **{n: shape[n] for n in names})).eval(), None


def batch_of(ids, T, rng):
    """Return (ids, targets) of BATCH pieces of T tokens."""
    starts = [rng.randrange(len(ids) - T) for _ in range(BATCH)]
    return ([list(ids[i:i + T]) for i in starts], [list(ids[i + 1:i + T + 1]) for i in starts])


def gradients(model, batch, dtype):
    """Return (loss, {name: list of floats})."""
    model = copy.deepcopy(model)  # without gradients
    model.compute_dtype = dtype
    loss = model.loss_and_grad(*batch)
    return loss, {name: list(memoryview(p.grad).cast("B").cast("f"))
                  for name, p in model.named_parameters()}


def difference(a, b):
    """Return |b - a| / |a| and the cosine of the angle between two lists."""
    length_a, length_b = math.hypot(*a), math.hypot(*b)
    apart = math.hypot(*(y - x for x, y in zip(a, b)))
    dot = sum(x * y for x, y in zip(a, b))
    return apart / (length_a or 1.0), dot / (length_a * length_b or 1.0)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", metavar="DIR", nargs="?")
    parser.add_argument("--data", metavar="TEXT", default=str(ROOT / "README.md"))
    options = parser.parse_args(arguments)
    model, tokenizer = opened(options.directory)
    text = Path(options.data).read_bytes()
    ids = tokenizer.encode(text.decode("utf-8", "replace")) if tokenizer else list(text)
    T = min(model.config.n_positions, len(ids) - 1)
    batch = batch_of(ids, T, random.Random(0))
    exact, reference = gradients(model, batch, "float32")
    rounded, found = gradients(model, batch, "bfloat16")
    print(f"loss {exact:.6f} in float32, {rounded:.6f} in bfloat16\n")
    print(f"{'gradient of':40}  error   cosine")
    for name, values in reference.items():
        error, cosine = difference(values, found[name])
        print(f"{name:40} {100 * error:4.1f} %  {cosine:.5f}")


if __name__ == "__main__":
    main()
