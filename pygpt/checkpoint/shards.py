"""Reads the tensors of a model's directory: from one file, or from several that an index lists.

    DIR/model.safetensors                   all of them, or else
    DIR/model.safetensors.index.json        {"weight_map": {name: file, ...}, ...}
    DIR/model-00001-of-00002.safetensors    the files it names, in the same directory

It knows no model. The claims of the index are checked like those of the files.
"""

import os
import re

from pygpt.backend.arguments import shown
from pygpt.checkpoint import safetensors
from pygpt.checkpoint.safetensors import CheckpointError, as_checkpoint_error
from pygpt.files import read_json_object

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILES = "pytorch_model.bin", "pytorch_model.bin.index.json"


def read_tensors(directory):
    """Map the files, and return the tensors in them.

    Returns:
        (path, {name: safetensors.Entry}): the path of the one file, or of the index.
    Raises:
        OSError: a file is missing or cannot be read.
        CheckpointError: a file is damaged, or the index and the files contradict one another.
    """
    path = os.path.join(directory, WEIGHTS_FILE)
    index = os.path.join(directory, INDEX_FILE)
    if not os.path.lexists(path) and os.path.lexists(index):
        return index, _read_sharded(directory, index)
    if not os.path.lexists(path):
        for name in PICKLE_FILES:
            if os.path.lexists(os.path.join(directory, name)):
                raise CheckpointError(f"{os.path.join(directory, name)}: is a pickle, which is "
                                      f"never read; save the model as {WEIGHTS_FILE}")
    return path, safetensors.read(path)[0]


def _read_sharded(directory, index):
    files = _files_of(index)
    tensors = {}
    for file in dict.fromkeys(files.values()):
        path = os.path.join(directory, file)
        if not os.path.exists(path):
            raise CheckpointError(f"{index}: weight_map names {file}, which is missing")
        for name, entry in safetensors.read(path)[0].items():
            if files.get(name) != file:
                other = f"is in {files[name]}" if name in files else "does not exist"
                raise CheckpointError(f"{path}: holds {shown(name)}, which {other} according to "
                                      f"weight_map in {INDEX_FILE}")
            tensors[name] = entry
    for name, file in files.items():
        if name not in tensors:
            raise CheckpointError(f"{index}: weight_map says that {shown(name)} is in {file}, but "
                                  "it is not")
    return tensors


def _files_of(index):
    """Return {tensor's name: file's name} of an index, whose directory holds the files."""
    with as_checkpoint_error():
        document = read_json_object(index)
    files = document.get("weight_map")
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{index}: weight_map is {shown(files)}, not files by tensors' names")
    for name, file in files.items():
        # no separator, no leading dot: a file of this directory and of no other
        if not isinstance(file, str) or not re.fullmatch(r"\w[\w.-]{0,200}\.safetensors", file,
                                                         re.ASCII):
            raise CheckpointError(f"{index}: weight_map gives {shown(name)} the file "
                                  f"{shown(file)}, not the name of a .safetensors file beside it")
    return files
