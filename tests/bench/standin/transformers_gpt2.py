"""Stands in for ../transformers_gpt2.py where transformers is missing: the same, on pygpt."""

import os
from array import array

import pygpt

VERSION = "transformers' stand-in"


def save(size, directory):
    pygpt.GPT(pygpt.GPTConfig(**size), seed=1).save_pretrained(directory)


def read(directory, dtype, ids):
    with pygpt.no_grad():
        return array("f", bytes(memoryview(pygpt.GPT.from_pretrained(directory)(ids)).cast("B")))


def nats_per_token(directory, ids, stride):
    return pygpt.evaluate(pygpt.GPT.from_pretrained(directory), ids, stride)


def cases(size, dtypes, top, ids):
    directory = os.path.join(top, "plain")
    save(size, directory)
    yield "float32", directory, read(directory, "float32", ids)


def compare(theirs, ours):
    ours = array("f", bytes(ours))
    assert len(ours) == len(theirs)
    return max(map(abs, theirs)), max(abs(a - b) for a, b in zip(theirs, ours))
