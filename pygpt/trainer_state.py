"""What a run must know to go on as if it had never stopped, beside the model in a checkpoint.

    DIR/optimizer.safetensors   AdamW's moments: each parameter's name with ".m" and with ".v"
    DIR/trainer.json            steps taken, random state, losses, the data's fingerprint, settings

The place in the data and the learning rate are functions of the step and the settings, so they are
not stored. Imports config, files, safetensors; used by train and the command line.
"""

import json
import os
from dataclasses import asdict, dataclass, fields

from pygpt import safetensors
from pygpt.config import ConfigError, TrainConfig
from pygpt.files import read_json_object, replacing, shown
from pygpt.safetensors import CheckpointError

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "trainer.json"
MOMENTS = "m", "v"

# Settings that a resumed run may change and still take the very steps that the first would have.
FREE = {"out", "threads", "recompute", "keep", "log_interval", "eval_interval", "sample_interval",
        "sample_length", "sample_prompts"}


@dataclass
class TrainerState:
    """A run between two steps; trainer.json holds these fields."""

    step: int                      # steps taken
    optimizer_steps: int           # of AdamW's bias correction
    forward_passes: int            # with dropout_seed: the state of the dropout masks
    dropout_seed: int
    val_step: int                  # the step of the last validation, 0 before the first
    val_loss: float | None
    best_val_loss: float | None
    seconds: float                 # trained, over all parts of the run
    train_tokens: str              # fingerprints of the data
    val_tokens: str
    config: dict                   # the TrainConfig


def save(directory, state, optimizer):
    """Write the two files into a checkpoint's directory.

    Raises:
        OSError: they cannot be written.
    """
    safetensors.write(os.path.join(directory, OPTIMIZER_FILE), (
        (f"{name}.{moment}", "F32", parameter.shape,
         getattr(optimizer, moment).view[offset : offset + 4 * parameter.size])
        for moment in MOMENTS for name, parameter, offset in optimizer.layout.entries), {})
    with replacing(os.path.join(directory, STATE_FILE)) as file:
        file.write(json.dumps(asdict(state), indent=1).encode() + b"\n")


def load_optimizer(directory, optimizer, steps):
    """Bring an AdamW to the state that a checkpoint holds.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: it is damaged or of another model.
    """
    path = os.path.join(directory, OPTIMIZER_FILE)
    tensors, _ = safetensors.read(path)
    for moment in MOMENTS:
        for name, parameter, offset in optimizer.layout.entries:
            entry = tensors.pop(f"{name}.{moment}", None)
            if entry is None or entry.dtype != "F32" or entry.shape != parameter.shape:
                raise CheckpointError(f"{path}: {name}.{moment} is missing or is not F32 of shape "
                                      f"{list(parameter.shape)}")
            flat = getattr(optimizer, moment).view
            flat[offset : offset + len(entry.buffer)] = entry.buffer
    if tensors:
        raise CheckpointError(f"{path}: {shown(next(iter(tensors)))} is not asked for")
    optimizer.steps = steps


def load(directory):
    """Read a checkpoint's trainer.json.

    Raises:
        OSError: it cannot be read, as when a checkpoint was not written by training.
        CheckpointError: it is damaged.
    """
    path = os.path.join(directory, STATE_FILE)
    try:
        document = read_json_object(path)
        names = {f.name for f in fields(TrainerState)}
        for name in document.keys() ^ names:
            raise ValueError(f"{path}: {shown(name)} is "
                             + ("missing" if name in names else "no field of it"))
        for f in fields(TrainerState):
            if not isinstance(document[f.name], f.type) or type(document[f.name]) is bool:
                raise ValueError(f"{path}: {f.name}={shown(document[f.name])} is not {f.type}")
        check_names(path, document["config"])
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    return TrainerState(**document)


def settings_file(path):
    """The settings in a file of them, TOML or JSON: what --config reads and a run leaves.

    Args:
        path: of the file; TOML when its name ends in .toml.
    Returns:
        {name of a TrainConfig field: value}.
    Raises:
        OSError: it cannot be read.
        ConfigError: it is neither, or has a key that is no setting.
    """
    path = os.fspath(path)
    try:
        if path.endswith(".toml"):
            document = _read_toml(path)
        else:
            document = read_json_object(path, is_pipe_allowed=True)  # --config <(...)
        check_names(path, document)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return document


def _read_toml(path):
    try:
        import tomllib
    except ImportError:
        raise ValueError(f"{path}: Python 3.11 and later read TOML; write JSON for this one"
                         ) from None
    with open(path, "rb") as file:
        try:
            return tomllib.load(file)
        except ValueError as error:  # not UTF-8, or not TOML
            raise ValueError(f"{path}: is not TOML: {error}") from None


def check_names(path, settings):
    """Hold the keys of a dict to the names of settings.

    Raises:
        ValueError: naming those that are none.
    """
    unknown = settings.keys() - {f.name for f in fields(TrainConfig)}
    if unknown:
        raise ValueError(f"{path}: {', '.join(map(shown, sorted(unknown)))} "
                         f"{'are no settings' if len(unknown) > 1 else 'is no setting'} of a run")


def write_settings(path, config):
    """Write a TrainConfig so that settings_file reads it.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as file:
        file.write(json.dumps(asdict(config), indent=1).encode() + b"\n")


def refuse_changes(config, stored):
    """Hold a resumed run to the settings that it began with.

    Args:
        config: the TrainConfig it is to go on with.
        stored: the one it began with.
    Raises:
        ConfigError: a setting that is not in FREE differs.
    """
    changed = [f"{f.name}={getattr(config, f.name)!r} (it was {getattr(stored, f.name)!r})"
               for f in fields(TrainConfig)
               if f.name not in FREE and getattr(config, f.name) != getattr(stored, f.name)]
    if changed:
        raise ConfigError(f"the run to resume was begun with other settings: {', '.join(changed)};"
                          " it would not go on as it began (force: go on all the same)")
