"""Whose names a file's tensors have, and which way round its matrices lie.

    GPT-2, Hugging Face   [transformer.]h.0.attn.c_attn.weight    (in, out) = (C, 3C), as here
    nanoGPT               [_orig_mod.]transformer.h.0. ...        (out, in) = (3C, C)

Both may bring lm_head.weight, the embedding once more, and masks of old (attn.bias). nanoGPT may
lack every bias. No name tells the two ways round apart, and attn.c_proj, (C, C), does not either:
the shape of the first layer's c_attn decides for all. Uses files, safetensors, stored; used by
checkpoint.
"""

import re

from pygpt.files import shown
from pygpt.checkpoint.safetensors import CheckpointError, Entry
from pygpt.checkpoint.weights import DTYPES, Stored

PREFIX = "transformer."
COMPILED = "_orig_mod."  # torch.compile's
HEAD, EMBEDDING = "lm_head.weight", PREFIX + "wte.weight"
FIRST = PREFIX + "h.0.attn.c_attn.weight"
COMPARED_ROWS = 64  # of the head and the embedding


def stored_parameters(path, tensors, shapes, has_biases=True):
    """Hold a file's tensors to the names and shapes of a model's parameters.

    Args:
        path: of the file that lists the tensors, for messages.
        tensors: {name: safetensors.Entry}, in any of the ways above.
        shapes: {name: shape} of the parameters, GPT-2's.
        has_biases: whether there must be biases; else there must be none, and they are all 0.
    Returns:
        {name: Stored} in the order of shapes.
    Raises:
        CheckpointError: a tensor is missing, is not asked for, or has another shape or dtype, or
            the head is not the embedding.
    """
    tensors = _with_our_names(tensors)
    head = tensors.pop(HEAD, None)
    tensors.setdefault(EMBEDDING, head)  # who writes a shared tensor once may call it either
    if tensors[EMBEDDING] is None:
        raise CheckpointError(f"{path}: {EMBEDDING} is missing")
    turned = FIRST in tensors and tensors[FIRST].shape == shapes[FIRST][::-1]
    stored = {}
    for name, shape in shapes.items():
        is_bias = name.endswith(".bias")
        if is_bias and not has_biases:  # the weight before it has shown the shape to be true
            zeros = memoryview(bytearray(4 * shape[0]))
            stored[name] = Stored(Entry("F32", shape, zeros, path, 0))
            continue
        if name not in tensors:
            hint = ' (without biases, config.json says "bias": false)' if is_bias else ""
            raise CheckpointError(f"{path}: {name} is missing{hint}")
        is_turned = turned and bool(re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name))
        _check(name, tensors[name], shape[::-1] if is_turned else shape)
        stored[name] = Stored(tensors.pop(name), is_turned)
    for name, entry in tensors.items():
        raise CheckpointError(f"{entry.path}: {shown(name)} is not a tensor of the model that "
                              "config.json describes")
    if head is not None:
        _check(HEAD, head, shapes[EMBEDDING])
        _refuse_another_head(head, stored[EMBEDDING].entry)
    return stored


def layers_of(tensors):
    """How many layers a file's names count, 0 to len(tensors)."""
    numbers = {int(found[1]) for name in tensors
               if (found := re.search(r"(?:^|\.)h\.(\d{1,9})\.ln_1\.weight$", name, re.ASCII))}
    return next(i for i in range(len(numbers) + 1) if i not in numbers)


def _with_our_names(tensors):
    """The same tensors, without masks, under the names of GPT.named_parameters and HEAD."""
    ours, theirs = {}, {}
    for name, entry in tensors.items():
        ours_is = name.removeprefix(COMPILED)
        if ours_is != HEAD:
            ours_is = PREFIX + ours_is.removeprefix(PREFIX)
        if re.search(r"\.attn\.(masked_)?bias$", name):
            continue
        if ours_is in ours:
            raise CheckpointError(f"{entry.path}: {shown(name)} and {shown(theirs[ours_is])} are "
                                  "the same tensor")
        ours[ours_is], theirs[ours_is] = entry, name
    return ours


def _check(name, entry, shape):
    if entry.shape != shape:
        raise CheckpointError(f"{entry.path}: {name} has shape {shown(list(entry.shape))}, but "
                              f"config.json asks for {list(shape)}")
    if entry.dtype not in DTYPES.values():
        raise CheckpointError(f"{entry.path}: {name} is {entry.dtype}; only "
                              f"{', '.join(DTYPES.values())} are read")


def _refuse_another_head(head, embedding):
    """Compare the two in rows spread over all of them.

    All rows would mean to read both from the disk, which opening otherwise does not. A head that
    was trained by itself differs from the embedding in every row; and where only rows in between
    were changed, the embedding is also what transformers computes with when the two are tied.
    """
    V, _ = head.shape
    for i in range(COMPARED_ROWS):
        row = i * (V - 1) // (COMPARED_ROWS - 1)
        if _row(head, row) != _row(embedding, row):
            raise CheckpointError(f"{head.path}: {HEAD} differs from {EMBEDDING} in row {row}; only"
                                  " a head that is the embedding is computed here")


def _row(entry, row):
    width = len(entry.buffer) // entry.shape[0]
    start = row * width
    part = entry._replace(shape=entry.shape[1:], buffer=entry.buffer[start:start + width],
                          offset=entry.offset + start)
    return bytes(Stored(part).memory().view)
