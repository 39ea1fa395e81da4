"""Summarises a model on disk for `pygpt info DIR`: its parameters, its operations, its memory.

Only config.json, the headers of the weights and, in a run's directory, trainer.json and the log are
read; no weight is, so a model larger than the memory can be summarised.
"""

import os
import statistics
from dataclasses import asdict, replace
from math import prod

from pygpt.backend.kernels import lib
from pygpt.checkpoint import model_files, names, saved, shards
from pygpt.config import TrainConfig
from pygpt.model import parameter_shapes
from pygpt.training import cost, trainer_state
from pygpt.training.run_directory import LOG_FILE
from pygpt.training.run_log import each_record, has_numbers

BLOCK = names.PREFIX + "h.0."
LAST = 100  # steps of a log that show how fast its run is
WHAT = {  # the parts of a model, under GPT-2's names
    "wte": "embedding of each token, and the head",
    "wpe": "embedding of each position",
    "ln_1": "layer norm before the attention",
    "attn.c_attn": "queries, keys and values",
    "attn.c_proj": "projection after the attention",
    "ln_2": "layer norm before the MLP",
    "mlp.c_fc": "first layer of the MLP",
    "mlp.c_proj": "second layer of the MLP",
    "ln_f": "last layer norm",
}


def summarise(directory, batch_size=None):
    """Summarise a model.

    Args:
        directory: a GPT-2 directory, a run's output directory, or one of its checkpoints.
        batch_size: sequences of a training step; None: those of the run, or 1 without one.
    Returns:
        A dict of plain values:
            "directory", "model": the one given, and the one that holds the model.
            "config": the GPTConfig.
            "run": None, or {"step", "best_val_loss", "best_step", "max_steps", "peak_share", "isa",
                "threads"} of the run that trained it; the last three from its log, else None.
            "parts": a list of {"name", "what", "shapes": {"weight": [...], ...}, "each", "times",
                "total"}, in the order of the forward pass.
            "parameters": their number.
            "in_file": {"dtypes", "bytes"} of the weights on disk.
            "bytes": {form: bytes of the weights in memory, for generation}.
            "step": {"batch_size", "n_positions", "grad_accumulation_steps", "dtype", "recompute",
                "is_of_run"}, of the training step that is counted.
            "flops": {"forward_per_token", "training_per_token", "step"}.
            "memory": cost.memory_needed(), with "generation": the weights in float32, keys and
                values of n_positions tokens, and the process.
            "read_per_token": {form: bytes of the weights that a generated token reads}.
    Raises:
        OSError: there is no model, or a file cannot be read.
        ValueError: a file is damaged.
    """
    directory = os.fspath(directory)
    model = model_files.find_model(directory)
    config = model_files.read_config(model)
    run, train_config = _run(model)
    step = _step(config, train_config, batch_size)
    parts = _parts(config)
    B, T = step["batch_size"], step["n_positions"]
    per_token = cost.flops_per_token(config, T)
    memory = cost.memory_needed(config, B, T, step["recompute"], compute_dtype=step["dtype"])
    at_rest = {form: _bytes_at_rest(config, form) for form in ("float32", "bfloat16", "int8")}
    cache = 2 * 4 * config.n_layer * config.n_positions * config.n_embd
    _, tensors = shards.read_tensors(model)
    return {
        "directory": directory, "model": model, "config": asdict(config), "run": run,
        "parts": parts, "parameters": sum(part["total"] for part in parts),
        "in_file": {"dtypes": sorted({entry.dtype for entry in tensors.values()}),
                    "bytes": sum(len(entry.buffer) for entry in tensors.values())},
        "bytes": at_rest, "step": step,
        "flops": {"forward_per_token": per_token // 3, "training_per_token": per_token,
                  "step": per_token * B * T * step["grad_accumulation_steps"]},
        "memory": memory | {"cache": cache,
                            "generation": at_rest["float32"] + cache + cost.PROCESS_BYTES},
        "read_per_token": {form: size - 4 * config.n_positions * config.n_embd
                           for form, size in at_rest.items()},
    }


def _parts(config):
    """List the parts; all blocks are alike, so one stands for n_layer of them."""
    parts = {}
    for name, shape in parameter_shapes(replace(config, n_layer=1)).items():
        module, _, kind = name.removeprefix(names.PREFIX).rpartition(".")
        parts.setdefault(module, {})[kind] = list(shape)
    found = []
    for module, shapes in parts.items():
        short = module.removeprefix("h.0.")
        each = sum(map(prod, shapes.values()))
        times = config.n_layer if module != short else 1
        found.append({"name": short, "what": WHAT[short], "shapes": shapes, "each": each,
                      "times": times, "total": each * times})
    return found


def _bytes_at_rest(config, form):
    """Return the bytes of the weights in memory in a form (GPT.quantize): matrices in that form,
    with int8 a scale of 4 bytes for each group of a row; all else in float32."""
    total = 0
    for name, shape in parameter_shapes(replace(config, n_layer=1)).items():
        size = 4 * prod(shape)
        is_layer_matrix = names.is_layer_matrix(name)
        if is_layer_matrix or name == names.EMBEDDING:
            OUT, IN = shape[::-1] if is_layer_matrix else shape
            group = lib.PYGPT_INT8_GROUP
            size = {"float32": size, "bfloat16": size // 2,
                    "int8": OUT * -(-IN // group) * (group + 4)}[form]
        total += size * (config.n_layer if name.startswith(BLOCK) else 1)
    return total


def _run(model):
    """Return (a dict about the run that wrote a checkpoint, its TrainConfig), or (None, None)."""
    if not os.path.exists(os.path.join(model, saved.STATE_FILE)):
        return None, None
    state = trainer_state.load(model)
    log = os.path.join(os.path.dirname(os.path.realpath(model)), LOG_FILE)
    speed = dict.fromkeys(("peak_share", "isa", "threads"))
    if os.path.isfile(log):
        speed = _speed(log)
    return {"step": state.step, "best_val_loss": state.best_val_loss,
            "best_step": state.best_step or None, "max_steps": state.config["max_steps"],
            **speed}, TrainConfig(**state.config)


def _speed(log):
    """Return the median share of the peak of the last steps in a log, with what computed them."""
    shares, start = [], {}
    for record in each_record(log):
        if record["event"] == "start":
            start = record
        elif record["event"] == "step" and has_numbers(record, "peak_share"):
            shares = [*shares[1 - LAST:], record["peak_share"]]
    return {"peak_share": statistics.median(shares) if shares else None,
            "isa": start.get("isa"), "threads": start.get("threads")}


def _step(config, train_config, batch_size):
    """Return the settings of the training step that is counted."""
    step = {"batch_size": 1, "n_positions": config.n_positions, "grad_accumulation_steps": 1,
            "dtype": "float32", "recompute": False}
    if train_config:
        step = {name: getattr(train_config, name) for name in step}
    step["is_of_run"] = train_config is not None and batch_size in (None, step["batch_size"])
    return step | ({"batch_size": batch_size} if batch_size else {})
