"""Finds the setting, flag or command that an unknown name most likely means.

A name may be written as a flag (`--top-k`) or as in Python (`top_k`).
"""

# Other programs use these names for our settings and commands.
ALSO_CALLED = {
    "epochs": "max-steps", "iters": "max-steps", "max-iters": "max-steps", "steps": "max-steps",
    "block-size": "n-positions", "context": "n-positions", "context-length": "n-positions",
    "seq-len": "n-positions", "sequence-length": "n-positions", "max-length": "max-new-tokens",
    "layers": "n-layer", "depth": "n-layer", "heads": "n-head", "width": "n-embd",
    "dim": "n-embd", "d-model": "n-embd", "hidden-size": "n-embd", "lr": "learning-rate",
    "min-lr": "min-learning-rate", "gradient-accumulation-steps": "grad-accumulation-steps",
    "eval-iters": "eval-batches", "eval-every": "eval-interval", "input": "data", "file": "data",
    "text": "data", "length": "max-new-tokens", "num-tokens": "max-new-tokens",
    "precision": "dtype", "compute-dtype": "dtype", "bf16": "dtype", "bfloat16": "dtype",
    "checkpoint": "init", "model": "init", "from": "init", "dir": "out",
    "generate": "sample", "write": "sample", "fit": "train", "learn": "train", "version": "info",
}


def nearest(word, names):
    """Return the one of names that an unknown word most likely means, or None."""
    bare = word.lstrip("-").replace("_", "-").lower()
    by_name = {name.lstrip("-").replace("_", "-"): name for name in names
               if name != "-h" and not name.startswith("--no-")}
    rules = (  # the first that holds for a name finds it
        lambda name: name.replace("-", "") == bare.replace("-", ""),
        lambda name: name == ALSO_CALLED.get(bare),
        lambda name: len(bare) > 1 and "".join(part[0] for part in name.split("-")) == bare,
        lambda name: (min(len(name), len(bare)) > 2
                      and (name.startswith(bare) or bare.startswith(name))),
    )
    found = [name for is_meant in rules for name in by_name if is_meant(name)]
    if not found:
        import difflib

        found = difflib.get_close_matches(bare, by_name, 1)
    return by_name[found[0]] if found else None
