"""Scores held-out text with weights in float32, bfloat16 and int8, as generation reads it.

    python tests/bench/rest_perplexity.py DIR FILE [--contexts N]

DIR is a model, FILE a text that it was not trained on. `pygpt eval` reads a window at once, as a
prompt; here every token goes through a step of generation, whose few rows have products of their
own (csrc/few_rows.c): with int8 they round the inputs of each layer too. 16 contexts are read side
by side. Printed are the nats per token, the perplexity, and its change against float32.
"""

import argparse
import math
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE.parent.parent),) if path not in sys.path]

import pygpt  # noqa: E402
from pygpt.sampling import choice_of  # noqa: E402


def nats(model, contexts):
    """Return the mean of -log p over all tokens but the first of each context, of one length."""
    cache, total, length = model.new_cache(len(contexts)), 0.0, len(contexts[0])
    for t in range(length - 1):
        for ids, logits in zip(contexts, cache.step([ids[t] for ids in contexts])):
            total -= choice_of(ids[t + 1], logits.read(), 0).logprob
    return total / (len(contexts) * (length - 1))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("file")
    parser.add_argument("--contexts", type=int, default=16)
    options = parser.parse_args(arguments)
    tokenizer = pygpt.Tokenizer.from_pretrained(options.directory)
    ids = tokenizer.encode(Path(options.file).read_text(encoding="utf-8"))
    models = {form: pygpt.GPT.from_pretrained(options.directory, weights=form)
              for form in ("float32", "bfloat16", "int8")}
    length = models["float32"].config.n_positions
    contexts = [ids[i * length:(i + 1) * length] for i in range(options.contexts)]
    contexts = [context for context in contexts if len(context) == length]
    if not contexts:
        parser.error(f"{options.file} has {len(ids)} tokens, fewer than one context of {length}")
    print(f"{len(contexts)} contexts of {length} tokens")
    first = None
    for form, model in models.items():
        began, mean = time.perf_counter(), nats(model, contexts)
        first = first or math.exp(mean)
        print(f"{form:10}{mean:9.5f} nats  perplexity {math.exp(mean):9.4f}  "
              f"{math.exp(mean) / first - 1:+.4%}  ({time.perf_counter() - began:.0f} s)",
              flush=True)


if __name__ == "__main__":
    main()
