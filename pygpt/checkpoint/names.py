"""Maps the tensors of a file to the parameters of a model, in GPT-2's names or in nanoGPT's.

    GPT-2, Hugging Face   [transformer.]h.0.attn.c_attn.weight    (in, out) = (C, 3C), as here
    nanoGPT               [_orig_mod.]transformer.h.0. ...        (out, in) = (3C, C)

Both may hold lm_head.weight, which is tied to the embedding, and attention masks of old versions
(attn.bias). nanoGPT may lack every bias. The names do not tell the two layouts apart, nor does the
square attn.c_proj, (C, C): the shape of the first layer's c_attn decides for all matrices.
"""

import itertools
import re

from pygpt.backend.arguments import shown
from pygpt.checkpoint.safetensors import CheckpointError, Entry
from pygpt.checkpoint.weights import DTYPES, Stored

PREFIX = "transformer."
COMPILED = "_orig_mod."  # torch.compile's
HEAD, EMBEDDING = "lm_head.weight", PREFIX + "wte.weight"
FIRST = PREFIX + "h.0.attn.c_attn.weight"
COMPARED_ROWS = 64  # the number of rows in which the head is compared with the embedding


def stored_parameters(path, tensors, shapes, has_biases=True):
    """Check a file's tensors against the names and shapes of a model's parameters.

    Args:
        path: the path of the file that lists the tensors, for messages.
        tensors: {name: safetensors.Entry}, as renamed() returns it.
        shapes: {name: shape} of the parameters, in GPT-2's names.
        has_biases: whether the file must hold biases. If not, it must hold none, and all are 0.
    Returns:
        {name: Stored} in the order of shapes.
    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape or dtype, or the head
            differs from the embedding.
    """
    tensors = dict(tensors)
    head = tensors.pop(HEAD, None) if EMBEDDING in shapes else None
    if head is not None:
        tensors.setdefault(EMBEDDING, head)  # a file may store the tied weight under either name
    if EMBEDDING in shapes and EMBEDDING not in tensors:
        raise CheckpointError(f"{path}: {EMBEDDING} is missing")
    is_out_in = FIRST in tensors and tensors[FIRST].shape == shapes[FIRST][::-1]
    stored = {}
    for name, shape in shapes.items():
        is_bias = name.endswith(".bias")
        if is_bias and not has_biases:
            # shape[0] was checked against the weight just before, so a false config cannot ask for
            # more memory than the file has
            zeros = memoryview(bytearray(4 * shape[0]))
            stored[name] = Stored(Entry("F32", shape, zeros, path, 0))
            continue
        if name not in tensors:
            hint = (' (a model without biases has "bias": false in its config.json)'
                    if is_bias else "")
            raise CheckpointError(f"{path}: {name} is missing{hint}")
        is_transposed = is_out_in and is_layer_matrix(name)
        _check(name, tensors[name], shape[::-1] if is_transposed else shape)
        stored[name] = Stored(tensors.pop(name), is_transposed)
    if tensors:
        name, entry = next(iter(tensors.items()))
        raise CheckpointError(f"{entry.path}: {shown(name)} is not a tensor of the model that "
                              "config.json describes")
    if head is not None:
        _check(HEAD, head, shapes[EMBEDDING])
        _check_tied_head(head, stored[EMBEDDING].entry)
    return stored


def is_layer_matrix(name):
    """Return whether a parameter is the matrix of a linear layer, (in, out)."""
    return bool(re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name))


def layers_of(tensors):
    """Return the number of layers that renamed tensors belong to, in 0..len(tensors)."""
    return next(i for i in itertools.count() if f"{PREFIX}h.{i}.ln_1.weight" not in tensors)


def renamed(tensors):
    """Return a file's tensors, without masks, under the names of GPT.named_parameters and HEAD.

    Raises:
        CheckpointError: two names in the file mean the same tensor.
    """
    ours, theirs = {}, {}
    for name, entry in tensors.items():
        our_name = name.removeprefix(COMPILED)
        if our_name != HEAD:
            our_name = PREFIX + our_name.removeprefix(PREFIX)
        if re.search(r"\.attn\.(masked_)?bias$", name):
            continue
        if our_name in ours:
            raise CheckpointError(f"{entry.path}: {shown(name)} and {shown(theirs[our_name])} are "
                                  "the same tensor")
        ours[our_name], theirs[our_name] = entry, name
    return ours


def _check(name, entry, shape):
    if entry.shape != shape:
        raise CheckpointError(f"{entry.path}: {name} has shape {shown(list(entry.shape))}, but "
                              f"config.json asks for {list(shape)}")
    if entry.dtype not in DTYPES.values():
        raise CheckpointError(f"{entry.path}: {name} is {entry.dtype}; only "
                              f"{', '.join(DTYPES.values())} are read")


def _check_tied_head(head, embedding):
    """Compare the head with the embedding in rows that are spread over both.

    To compare all rows, both would have to be read from the disk; opening a model does not read
    them. A head that was trained separately differs from the embedding in every row. If only rows
    in between differ, the embedding is used, as transformers does with tied weights.
    """
    V, _ = head.shape
    for i in range(COMPARED_ROWS):
        row = i * (V - 1) // (COMPARED_ROWS - 1)
        if _row(head, row) != _row(embedding, row):
            raise CheckpointError(f"{head.path}: {HEAD} differs from {EMBEDDING} in row {row}; only"
                                  " a head that is tied to the embedding is supported")


def _row(entry, row):
    width = len(entry.buffer) // entry.shape[0]
    start = row * width
    part = entry._replace(shape=entry.shape[1:], buffer=entry.buffer[start:start + width],
                          offset=entry.offset + start)
    return bytes(Stored(part).memory().view)
