"""Reads and writes the matrices of a model in int8, in the same model.safetensors.

    NAME          I8   (OUT, G, 64)   whole numbers, 64 of a row in a group, 0 after the last
    NAME.scales   F32  (OUT, G)       the scale of each group: weight = number * scale

OUT is the number of a matrix's outputs: a layer's matrix is stored transposed. Vectors and position
embeddings are float32 as ever. config.json says so under quantization_config.
"""

from typing import NamedTuple

from pygpt.backend.arguments import shown
from pygpt.backend.kernels import Memory, lib
from pygpt.checkpoint.safetensors import CheckpointError, Entry

GROUP = lib.PYGPT_INT8_GROUP
CONFIG = {"quant_method": "pygpt", "bits": 8, "group_size": GROUP}
SCALES = ".scales"


class StoredInt8(NamedTuple):
    """A matrix in int8 in a mapped file.

    Attributes:
        shape: (OUT, IN).
        values, scales: the safetensors.Entry of each.
    """

    shape: tuple
    values: Entry
    scales: Entry

    def memories(self):
        """Return (values, scales) as Memory: parts of the mapped file where they are aligned."""
        scales = self.scales.buffer
        if self.scales.offset % 4:
            scales = Memory(len(scales)).view
            scales[:] = self.scales.buffer
        return Memory(len(self.values.buffer), self.values.buffer), Memory(len(scales), scales)


def take(path, tensors, shapes, is_transposed):
    """Take the matrices in int8 out of a file's tensors.

    Args:
        path: the file's path, for messages.
        tensors: {name: safetensors.Entry}, from which they are removed.
        shapes: {name: shape} of the model's matrices.
        is_transposed: a function of a name: whether the matrix is stored as (out, in).
    Returns:
        {name: StoredInt8}.
    Raises:
        CheckpointError: a matrix is missing, or of another shape or dtype.
    """
    taken = {}
    for name, shape in shapes.items():
        OUT, IN = shape[::-1] if is_transposed(name) else shape
        groups = -(-IN // GROUP)
        parts = []
        for part, dtype, wanted in ((name, "I8", (OUT, groups, GROUP)),
                                    (name + SCALES, "F32", (OUT, groups))):
            entry = tensors.pop(part, None)
            if entry is None:
                raise CheckpointError(f"{path}: {part} is missing")
            if (entry.dtype, entry.shape) != (dtype, wanted):
                raise CheckpointError(
                    f"{entry.path}: {part} is {entry.dtype} {shown(list(entry.shape))}; with int8 "
                    f"weights config.json asks for {dtype} {list(wanted)}")
            parts.append(entry)
        taken[name] = StoredInt8((OUT, IN), *parts)
    return taken


def entries(name, values, scales, shape):
    """Return the two entries of a matrix for safetensors.write."""
    OUT, IN = shape
    groups = -(-IN // GROUP)
    return [(name, "I8", (OUT, groups, GROUP), values.view),
            (name + SCALES, "F32", (OUT, groups), scales.view)]
