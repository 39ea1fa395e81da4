"""A model on disk: a Hugging Face GPT-2 directory.

    DIR/config.json         the shape, in GPT-2's field names
    DIR/model.safetensors   the weights, F32, linear ones stored (in, out)
    DIR/tokenizer.json      beside them, the tokenizer's matter

What is read is checked before it is used. Imports config, files and safetensors; used by model
and the command line.
"""

import json
import os
import re
from dataclasses import asdict, fields

from pygpt import safetensors
from pygpt.config import ConfigError, GPTConfig
from pygpt.files import read_json_object, replacing, shown
from pygpt.safetensors import CheckpointError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PREFIX = "transformer."

# config.json keys that change what GPT-2 computes, and the values this implementation computes.
# The first of each is written. n_inner has one more: 4 * n_embd, which is what None stands for.
COMPUTED = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "n_inner": (None,),
    "tie_word_embeddings": (True,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
# Keys that are only written, for the programs that read them.
WRITTEN = {
    "architectures": ["GPT2LMHeadModel"],
    "torch_dtype": "float32",
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": None,
}


def find_model(directory):
    """The directory that holds the model: the one given, or else its `best` or its `last`.

    Raises:
        FileNotFoundError: there is none.
    """
    for candidate in (directory, os.path.join(directory, "best"), os.path.join(directory, "last")):
        if os.path.exists(os.path.join(candidate, CONFIG_FILE)):
            return candidate
    what = f"no {CONFIG_FILE} in it" if os.path.isdir(directory) else "no such directory"
    raise FileNotFoundError(f"{directory}: {what}")


def read_model(directory):
    """Open the model in a directory; the weights stay on disk until they are touched.

    Args:
        directory: a Hugging Face GPT-2 directory, or the output directory of a training run.
    Returns:
        (GPTConfig, {name: safetensors.Entry}): F32 entries named as GPT.named_parameters names
        its parameters, each of that parameter's shape.
    Raises:
        OSError: a file is missing or cannot be read.
        CheckpointError: a file is damaged, or is not a GPT-2 that is computed here.
    """
    directory = find_model(directory)
    config = read_config(directory)
    path = os.path.join(directory, WEIGHTS_FILE)
    tensors = {}
    for name, entry in safetensors.read(path)[0].items():
        full_name = name if name.startswith(PREFIX) else PREFIX + name
        if full_name in tensors:
            raise CheckpointError(f"{path}: {full_name} comes with and without {PREFIX!r}")
        if not re.search(r"\.attn\.(masked_)?bias$", name):  # old files' masks, no parameters
            tensors[full_name] = entry
    # The number of layers is compared first, so that a config of 10^9 of them is not counted out.
    if f"{PREFIX}h.{config.n_layer - 1}.ln_1.weight" not in tensors:
        raise CheckpointError(f"{path}: holds no layer {config.n_layer - 1}, but {CONFIG_FILE} "
                              f"says n_layer={config.n_layer}")
    check_names(directory, tensors, parameter_shapes(config))
    return config, tensors


def check_names(directory, tensors, shapes):
    """Hold the tensors read from a directory to the names and shapes they must have, all F32.

    Args:
        tensors: {name: safetensors.Entry}.
        shapes: {name: shape}.
    Raises:
        CheckpointError: one is missing, is not asked for, or is of another shape or dtype.
    """
    path = os.path.join(directory, WEIGHTS_FILE)
    for name in tensors.keys() - shapes.keys():
        raise CheckpointError(f"{path}: {shown(name)} is not a tensor of the model that "
                              f"{CONFIG_FILE} describes")
    for name, shape in shapes.items():
        if name not in tensors:
            raise CheckpointError(f"{path}: {name} is missing")
        if tensors[name].shape != shape:
            raise CheckpointError(f"{path}: {name} has shape {shown(list(tensors[name].shape))}, "
                                  f"but {CONFIG_FILE} asks for {list(shape)}")
        if tensors[name].dtype != "F32":
            raise CheckpointError(f"{path}: {name} is {tensors[name].dtype}; only F32 is read")


def read_config(directory):
    """The GPTConfig that a directory's config.json describes.

    Raises:
        OSError: the file is missing or cannot be read.
        CheckpointError: it is damaged, or describes a model that is not computed here.
    """
    path = os.path.join(directory, CONFIG_FILE)
    try:
        document = read_json_object(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if "model_type" not in document:
        raise CheckpointError(f"{path}: has no model_type, so it describes no model")
    values = {f.name: document[f.name] for f in fields(GPTConfig) if f.name in document}
    try:
        config = GPTConfig(**values)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    for key, computed in COMPUTED.items():
        if key == "n_inner":
            computed += (4 * config.n_embd,)
        if key in document and document[key] not in computed:
            raise CheckpointError(f"{path}: {key}={shown(document[key])} is not supported; "
                                  f"it must be {' or '.join(map(repr, computed))}")
    return config


def parameter_shapes(config):
    """{name: shape} of every parameter of a model, in GPT-2's names and its order."""
    C = config.n_embd
    shapes = {"wte.weight": (config.vocab_size, C), "wpe.weight": (config.n_positions, C)}
    block = {
        "ln_1.weight": (C,), "ln_1.bias": (C,),
        "attn.c_attn.weight": (C, 3 * C), "attn.c_attn.bias": (3 * C,),
        "attn.c_proj.weight": (C, C), "attn.c_proj.bias": (C,),
        "ln_2.weight": (C,), "ln_2.bias": (C,),
        "mlp.c_fc.weight": (C, 4 * C), "mlp.c_fc.bias": (4 * C,),
        "mlp.c_proj.weight": (4 * C, C), "mlp.c_proj.bias": (C,),
    }
    for layer in range(config.n_layer):
        shapes |= {f"h.{layer}.{name}": shape for name, shape in block.items()}
    shapes |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
    return {PREFIX + name: shape for name, shape in shapes.items()}


def write_model(directory, config, named_tensors):
    """Write a model as a Hugging Face GPT-2 directory.

    Args:
        directory: made if it is missing; the two files in it are replaced, each whole.
        config: the GPTConfig.
        named_tensors: iterable of (name, shape, buffer), names as GPT.named_parameters gives
            them, buffers float32 and C-contiguous.
    Raises:
        OSError: the directory cannot be made or written.
    """
    os.makedirs(directory, exist_ok=True)
    document = {key: values[0] for key, values in COMPUTED.items()} | WRITTEN | asdict(config)
    with replacing(os.path.join(directory, CONFIG_FILE)) as file:
        file.write(json.dumps(document, indent=2, sort_keys=True).encode() + b"\n")
    safetensors.write(os.path.join(directory, WEIGHTS_FILE),
                      ((name, "F32", shape, buffer) for name, shape, buffer in named_tensors),
                      {"format": "pt"})
