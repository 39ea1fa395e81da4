"""Reads and writes a model on disk: a Hugging Face GPT-2 directory.

    DIR/config.json         the shape, in GPT-2's field names
    DIR/model.safetensors   the weights, linear ones stored (in, out); or shards (shards.py)
    DIR/tokenizer.json      written by the tokenizer (tokenizer/base.py)

A nanoGPT model is read as well, once its tensors are in safetensors files: its names, its matrices
(out, in), and a config.json of its model_args. Every value in a file is checked before it is used.
"""

import os
from dataclasses import asdict, fields
from functools import partial

from pygpt.backend.arguments import shown
from pygpt.backend.cpu import gigabytes, memory_limits
from pygpt.checkpoint import int8, names, safetensors, saved, shards
from pygpt.checkpoint.safetensors import CheckpointError, as_checkpoint_error
from pygpt.checkpoint.shards import WEIGHTS_FILE
from pygpt.checkpoint.weights import DTYPES, narrowed
from pygpt.config import GPTConfig
from pygpt.files import read_json_object, write_json_object

CONFIG_FILE = "config.json"
ADAPTER_FILE = "adapter_config.json"  # written by peft, for example for LoRA
END_KEY = "eos_token_id"

# config.json keys that change what GPT-2 computes, and the values this implementation computes.
# The first of each is written. All four GELU names mean the formula with tanh.
COMPUTED = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"),
    "tie_word_embeddings": (True,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
# The same for keys that are not written. Every other key is ignored, because it does not change
# what GPT-2's class in transformers computes: summaries, labels, tasks, settings of generation,
# dtypes (the files have their own), reorder_and_upcast_attn (the order of the same sums).
NEUTRAL = {
    "auto_map": (None,),  # code of its own
    "compression_config": (None,),
    "cross_attention_hidden_size": (None,),
    "is_encoder_decoder": (None, False),
    "pruned_heads": (None, {}),
    "quantization_config": (None, int8.CONFIG),
}
# Other names of GPTConfig's fields. GPT-2's own config.json has n_ctx, and llama.cpp's converter
# reads it; transformers takes the others for the same fields.
ALIASES = {
    "n_ctx": "n_positions",
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
# nanoGPT's names, in a config.json without model_type: GPT-2's names.
NANOGPT = {"block_size": ("n_positions",), "dropout": ("embd_pdrop", "attn_pdrop", "resid_pdrop")}


def find_model(directory):
    """Return the directory that holds the model: the one given, or a checkpoint of the run in it.

    In the directory of a run, this is `best`, or else `last`, or else the newest complete
    checkpoint, because a copy that was made without links has neither.

    Raises:
        FileNotFoundError: there is no model.
        CheckpointError: the model has an adapter, which would change its results.
    """
    given, directory = directory, saved.resolved(directory)
    for candidate in (directory, *(saved.named(directory, name) for name in ("best", "last"))):
        adapter = os.path.join(candidate, ADAPTER_FILE)
        if os.path.lexists(adapter):
            raise CheckpointError(f"{adapter}: describes an adapter, which pygpt does not read; "
                                  "merge it into the weights, and remove this file")
        if os.path.exists(os.path.join(candidate, CONFIG_FILE)):
            return candidate
    if newest := saved.newest(directory, is_complete):
        return newest
    problem = f"no {CONFIG_FILE} in it" if os.path.isdir(directory) else "no such directory"
    raise FileNotFoundError(f"{given}: {problem}")


def read_found(directory, read):
    """Return read(path), path being the one that find_model finds, although a run may save there.

    On a file system without links, `best` is read, and then the checkpoint that it names; before
    all of its files are opened, the run may have removed it. Then read is called again, with the
    path of the checkpoint that `best` names now.

    Raises:
        FileNotFoundError: there is no model, or read raises it although the model is still there.
    """
    found = find_model(directory)
    while True:
        try:
            return read(found)
        except FileNotFoundError:
            before, found = found, find_model(directory)
            if found == before:
                raise


def is_complete(directory):
    """Return whether the model in a directory can be read; an incomplete copy cannot."""
    try:
        read_config(directory)
        shards.read_tensors(directory)
    except (OSError, ValueError):
        return False
    return True


def read_model(directory, shapes_of):
    """Open the model in a directory; the weights stay on disk until they are touched.

    Args:
        directory: a Hugging Face GPT-2 directory, or the output directory of a training run.
        shapes_of: a function of a GPTConfig that returns {name: shape} of the model's parameters
            (model.parameter_shapes).
    Returns:
        (GPTConfig, {name: weights.Stored}, end of text): a weight for each name, of its shape, or
        int8.StoredInt8 for a matrix of a model in int8; and the end of a text in config.json, an
        id, a tuple of ids, or None.
    Raises:
        OSError: a file is missing or cannot be read.
        CheckpointError: a file is damaged, or is not a GPT-2 that is computed here.
        MemoryError: weights that are to be converted do not fit into memory.
    """
    return read_found(directory, lambda found: _read_model(found, shapes_of))


def _read_model(directory, shapes_of):
    config, has_biases, end_of_text, is_int8 = _read_config(directory)
    path, tensors = shards.read_tensors(directory)
    tensors = names.renamed(tensors)
    # The number of layers is compared first: a config may claim 10^9, whose shapes fill the memory.
    layers = names.layers_of(tensors)
    if layers < config.n_layer:
        raise CheckpointError(f"{path}: holds no layer {layers}, but {CONFIG_FILE} says "
                              f"n_layer={config.n_layer}")
    shapes, in_int8 = shapes_of(config), {}
    if is_int8:
        matrices = {name: shapes.pop(name) for name in list(shapes)
                    if name == names.EMBEDDING or names.is_layer_matrix(name)}
        in_int8 = int8.take(path, tensors, matrices, names.is_layer_matrix)
    weights = names.stored_parameters(path, tensors, shapes, has_biases)
    _refuse_too_much(path, weights)
    return config, weights | in_int8, end_of_text


def _refuse_too_much(path, weights):
    """Raise MemoryError if the converted weights do not fit into the free memory.

    A sparse file may take a few blocks of the disk, and yet have more bytes than the memory.
    """
    needed = sum(4 * w.size for w in weights.values() if not w.is_used_in_place)
    _, free = memory_limits()
    if free is not None and needed > max(free, 16 << 20):
        raise MemoryError(f"{path}: as float32 its weights take {gigabytes(needed)} of memory, and "
                          f"{gigabytes(free)} are free")


def read_config(directory):
    """Return the GPTConfig that a directory's config.json describes.

    Raises:
        OSError: the file is missing or cannot be read.
        CheckpointError: it is damaged, or describes a model that is not computed here.
    """
    return _read_config(directory)[0]


def has_int8_weights(directory):
    """Return whether a directory's config.json says that the weights are int8. Raises: as
    read_config."""
    return _read_config(directory)[3]


def _read_config(directory):
    """Return (GPTConfig, whether the model has biases, the end of a text, whether it is int8)."""
    path = os.path.join(directory, CONFIG_FILE)
    with as_checkpoint_error():
        document = read_json_object(path)
    if "model_type" not in document:
        document = _from_nanogpt(path, document)
    document = _without_aliases(path, document)
    values = {f.name: document[f.name] for f in fields(GPTConfig) if f.name in document}
    with as_checkpoint_error(f"{path}: "):
        config = GPTConfig(**values)
    for key, computed in (COMPUTED | NEUTRAL | {"bias": (True, False)}).items():
        if key in document and document[key] not in computed:
            raise CheckpointError(f"{path}: {key}={shown(document[key])} is not supported; "
                                  f"it must be {' or '.join(map(repr, computed))}")
    end_of_text = _end_of_text(path, document.get(END_KEY), config.vocab_size)
    is_int8 = document.get("quantization_config") is not None
    return config, document.get("bias", True), end_of_text, is_int8


def _end_of_text(path, value, vocab_size):
    """Convert eos_token_id to an id, a tuple of ids, or None.

    An id outside the vocabulary is ignored: transformers writes GPT-2's 50256 for any vocabulary.
    """
    ids = value if isinstance(value, list) else [value]
    if value is not None and not all(type(token) is int for token in ids):
        raise CheckpointError(f"{path}: {END_KEY}={shown(value)} is not an id, a list of ids or "
                              "null")
    known = tuple(token for token in ids if value is not None and 0 <= token < vocab_size)
    return (known if isinstance(value, list) else known[0]) if known else None


def _without_aliases(path, document):
    """Return the same config.json with each field under the name that GPTConfig has for it."""
    result, origins = dict(document), {}
    for alias, name in ALIASES.items():
        value = document.get(alias)
        if value is None:
            continue
        if type(value) is not int:
            raise CheckpointError(f"{path}: {alias}={shown(value)} is not an integer")
        if result.setdefault(name, value) != value:
            raise CheckpointError(f"{path}: {alias}={shown(value)} contradicts "
                                  f"{origins.get(name, name)}={shown(result[name])}")
        origins.setdefault(name, name if name in document else alias)
    return result


def _from_nanogpt(path, document):
    """Translate nanoGPT's model_args in a config.json to GPT-2's names."""
    if "block_size" not in document:
        raise CheckpointError(f"{path}: has neither GPT-2's model_type nor nanoGPT's block_size, "
                              "so it describes no model")
    document = dict(document)
    for theirs, ours in NANOGPT.items():
        for name in ours:
            if name in document:
                raise CheckpointError(f"{path}: has nanoGPT's block_size and GPT-2's {name}")
            if theirs in document:
                document[name] = document[theirs]
    return document


def write_model(directory, config, named_tensors, dtype="float32", end_of_text=None):
    """Write a model as a Hugging Face GPT-2 directory.

    Args:
        directory: its path. It is made if it is missing; each of the two files in it is replaced
            as a whole.
        config: the GPTConfig.
        named_tensors: an iterable of (name, shape, buffer), with the names of
            GPT.named_parameters, and C-contiguous buffers of float32, or functions that return
            them. A matrix in int8 has a buffer (values, scales), two of Memory, and the shape
            (OUT, IN).
        dtype: the type of the weights in the file, a key of DTYPES, or a function of a name that
            returns it.
        end_of_text: the id of the token between two texts, a tuple of ids, or None; it is written
            as eos_token_id, and the first id as bos_token_id, as in GPT-2.
    Raises:
        OSError: the directory cannot be made or written.
        ValueError: there is no such dtype, or a weight is too large for it.
    """
    if not callable(dtype) and (not isinstance(dtype, str) or dtype not in DTYPES):
        raise ValueError(f"dtype={shown(dtype)} is not {' or '.join(map(repr, DTYPES))}")
    os.makedirs(directory, exist_ok=True)
    tensors, is_int8 = [], False
    for name, shape, buffer in named_tensors:
        if isinstance(buffer, tuple):
            tensors += int8.entries(name, *buffer, shape)
            is_int8 = True
        else:
            in_file = dtype(name) if callable(dtype) else dtype
            tensors.append((name, DTYPES[in_file], shape, partial(narrowed, name, buffer, in_file)))
    safetensors.write(os.path.join(directory, WEIGHTS_FILE), tensors, {"format": "pt"})
    first = end_of_text[0] if isinstance(end_of_text, (tuple, list)) else end_of_text
    document = {key: values[0] for key, values in COMPUTED.items()} | asdict(config) | {
        "architectures": ["GPT2LMHeadModel"], "initializer_range": 0.02,
        "n_ctx": config.n_positions, "torch_dtype": "float32" if callable(dtype) else dtype,
        "bos_token_id": first, END_KEY: end_of_text}
    if is_int8:
        document["quantization_config"] = int8.CONFIG
    write_json_object(os.path.join(directory, CONFIG_FILE), document, indent=2, sort_keys=True)
