"""Saves and reads all that a run needs besides its model to continue as if it had never stopped.

    DIR/optimizer.safetensors   the optimizer's state buffers, "<parameter>.<buffer>": with AdamW
                                each parameter's name with ".m" and with ".v"
    DIR/trainer.json            steps taken, random state, losses, the data's fingerprints, the
                                settings, and the kernels that took the steps

The position in the data and the learning rate are functions of the step and the settings, so they
are not stored. resume.py says which settings a resumed run may change.
"""

import errno
import math
import os
import sys
from dataclasses import MISSING, asdict, dataclass, fields
from functools import partial

from pygpt.backend.arguments import shown
from pygpt.checkpoint import model_files, safetensors, saved
from pygpt.checkpoint.safetensors import CheckpointError
from pygpt.checkpoint.saved import STATE_FILE
from pygpt.config import SHAPE, ConfigError, TrainConfig
from pygpt.files import read_json_object, write_json_object
from pygpt.training.settings import check_names

OPTIMIZER_FILE = "optimizer.safetensors"


@dataclass
class TrainerState:
    """Holds the state of a run between two steps: the fields of trainer.json."""

    step: int                      # number of steps taken
    optimizer_steps: int           # the optimizer's steps; it counts none without gradients
    forward_passes: int            # with dropout_seed, the state of the dropout masks
    dropout_seed: int
    val_step: int                  # the step of the last validation; 0 before the first
    val_loss: float | None
    best_val_loss: float | None
    seconds: float                 # training time, over all parts of the run
    train_tokens: str              # fingerprints of the data
    val_tokens: str
    config: dict                   # the TrainConfig
    backend: str = ""              # of the kernels of the last steps; "" when not recorded
    isa: str = ""
    compiler: str = ""
    init: str = ""                 # fingerprint of the weights loaded from init
    best_step: int = 0             # the step of best_val_loss; 0 when not recorded
    evals_since_best: int = 0      # validations after that one
    ranks: int = 1                 # processes that shared each batch


def save(directory, state, optimizer):
    """Write the two files into a checkpoint's directory.

    Raises:
        OSError: they cannot be written.
    """
    safetensors.write(os.path.join(directory, OPTIMIZER_FILE), _buffers(optimizer), {})
    write_json_object(os.path.join(directory, STATE_FILE), asdict(state), indent=1)


def check_readable(optimizer):
    """Check, before a run spends hours, that its optimizer's state file will be readable.

    That file has the longest header of a checkpoint.

    Raises:
        ValueError: there are too many tensors.
    """
    safetensors.header(_buffers(optimizer), {})


def _buffers(optimizer):
    """Yield the tensors as safetensors.write takes them: each buffer is read when it is written."""
    for buffer in optimizer.buffers:
        for name, parameter, offset in optimizer.layout.entries:
            yield (f"{name}.{buffer}", "F32", parameter.shape,
                   partial(_part, optimizer, buffer, offset, offset + 4 * parameter.size))


def _part(optimizer, buffer, first, end):
    return getattr(optimizer, buffer).view[first:end]


def find_last(out):
    """Find the checkpoint that a run in an output directory continues from.

    Returns:
        The path of `last`. If that is missing, the path of the newest complete checkpoint, if
        there is one.
    """
    last = saved.named(out, "last")
    if os.path.isdir(last):
        return last
    return saved.newest(out, _is_complete) or last


def _is_complete(directory):
    """Return whether a run can continue from a directory; an interrupted copy is incomplete."""
    try:
        load(directory)
        safetensors.read(os.path.join(directory, OPTIMIZER_FILE))
    except (OSError, ValueError):
        return False
    return model_files.is_complete(directory)


def last_settings(out):
    """Read the settings of the run in an output directory from its last checkpoint, as a dict.

    Raises:
        OSError, CheckpointError: there is no such checkpoint, or it is damaged.
    """
    last = find_last(out)
    if not os.path.isdir(last):
        problem = "holds no run to resume" if os.path.isdir(out) else "there is no such directory"
        raise FileNotFoundError(errno.ENOENT, problem, os.fspath(out))
    return load(last).config


def load_optimizer(directory, optimizer, steps):
    """Give an optimizer the state that a checkpoint holds.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: it is damaged, or belongs to another model or optimizer.
    """
    path = os.path.join(directory, OPTIMIZER_FILE)
    tensors, _ = safetensors.read(path)
    for buffer in optimizer.buffers:
        for name, parameter, offset in optimizer.layout.entries:
            entry = tensors.pop(f"{name}.{buffer}", None)
            if entry is None or entry.dtype != "F32" or entry.shape != parameter.shape:
                raise CheckpointError(f"{path}: {name}.{buffer} is missing or is not F32 of shape "
                                      f"{list(parameter.shape)}")
            flat = getattr(optimizer, buffer).view
            flat[offset : offset + len(entry.buffer)] = entry.buffer
    if tensors:
        raise CheckpointError(f"{path}: {shown(next(iter(tensors)))} is not part of the state of "
                              f"{type(optimizer).__name__}")
    optimizer.steps = steps


def load(directory):
    """Read a checkpoint's trainer.json, and check it.

    Raises:
        OSError: it cannot be read, for example because no training wrote the checkpoint.
        CheckpointError: it is damaged.
    """
    path = os.path.join(directory, STATE_FILE)
    try:
        state = _state(path, read_json_object(path))
        _check_ranges(path, state)
        state.config = asdict(_config(path, state.config))
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    return state


def _state(path, document):
    """Make a TrainerState of the object in trainer.json, and check the types of its fields."""
    known = {f.name: f for f in fields(TrainerState)}
    needed = {name for name, f in known.items() if f.default is MISSING}
    for name in sorted(needed - document.keys() | document.keys() - known.keys()):
        raise ValueError(f"{path}: {shown(name)} is "
                         + ("missing" if name in known else "an unknown field"))
    return TrainerState(**{name: _checked(path, known[name], value)
                           for name, value in document.items()})


def _config(path, settings):
    """Make and check the TrainConfig that trainer.json holds."""
    check_names(path, settings)
    try:
        config = TrainConfig(**settings)
    except ConfigError as error:
        raise ValueError(f"{path}: config: {error}") from None
    for name in SHAPE:  # a run stores them all, also when they came from init
        if getattr(config, name) is None:
            raise ValueError(f"{path}: config: {name} is missing")
    return config


_NOUNS = {int: "an integer", float: "a number", float | None: "a number or null", str: "a text",
          dict: "an object"}


def _checked(path, field, value):
    """Convert a value to the type of its field in trainer.json; refuse NaN and infinity."""
    kind = field.type
    is_float = kind in (float, float | None)
    if isinstance(value, bool) or not isinstance(value, kind | int if is_float else kind):
        raise ValueError(f"{path}: {field.name}={shown(value)} is not {_NOUNS[kind]}")
    if not is_float or value is None:
        return value
    if not abs(value) <= sys.float_info.max:  # true for an integer of 309 digits, and for a NaN
        raise ValueError(f"{path}: {field.name}={shown(value)} must be finite")
    return float(value)


def _check_ranges(path, state):
    """Refuse numbers that no run can reach; C takes two of them as uint64_t."""
    step, val_step, best_step = state.step, state.val_step, state.best_step
    least = min(step, 1)
    for name, low, high, must_be in (
            ("step", 0, 2 ** 63 - 1, "in [0, 2^63)"),
            ("forward_passes", 0, 2 ** 64 - 1, "in [0, 2^64)"),
            ("dropout_seed", 0, 2 ** 64 - 1, "in [0, 2^64)"),
            ("optimizer_steps", least, step, f"in [{least}, {step}], as step={step}"),
            ("val_step", 0, step, f"in [0, {step}], as step={step}"),
            ("best_step", 0, val_step, f"in [0, {val_step}], as val_step={val_step}"),
            ("evals_since_best", 0, val_step - best_step,  # at most one after each step
             f"in [0, {val_step - best_step}], as best_step={best_step} and val_step={val_step}"),
            ("ranks", 1, 2 ** 31 - 1, "in [1, 2^31)"),
            ("seconds", 0, math.inf, "at least 0")):
        if not low <= getattr(state, name) <= high:
            raise ValueError(f"{path}: {name}={shown(getattr(state, name))} must be {must_be}")
