"""What a run that goes on may change, and what is held against it.

Three things decide the steps still to come beside the checkpoint: the settings, the text, which
dataset.py holds to its fingerprint, and the kernels. Each function names the differences in one of
them; the trainer refuses them, or passes over them when it is forced to.

Uses checkpoint, config, model, tokenizer, trainer_state; used by train.
"""

import hashlib
from dataclasses import replace

from pygpt.checkpoint.model_files import find_model
from pygpt.config import SHAPE, ConfigError, TrainConfig
from pygpt.model import GPT
from pygpt.tokenizer import Tokenizer
from pygpt.tokenizer.choice import parse

# Settings that a resumed run may change and still take the very steps that the first would have.
FREE = {"out", "threads", "recompute", "keep", "log_interval", "eval_interval", "sample_interval",
        "sample_length", "sample_prompts"}
# They only say where the text is; it is held to its fingerprint, wherever it lies now.
BY_TEXT = {"data", "val_data", "errors"}
# They made the checkpoint what it is, so that another value would be a lie about it.
IN_CHECKPOINT = {"n_layer", "n_head", "n_embd", "tokenizer", "init"}
WAYS_OUT = {"backend": "set PYGPT_BACKEND={}", "isa": "set PYGPT_ISA={}",
            "compiler": "build with {}"}


def with_shape_of(config, state):
    """A run's config whose shape, where init leaves it open, is that of the run to resume."""
    return replace(config, **{name: state.config[name] for name in SHAPE
                              if getattr(config, name) is None})


def changed_settings(config, state, last):
    """The settings that would let a resumed run take other steps.

    Args:
        config: the TrainConfig it is to go on with.
        state: the TrainerState that it goes on from.
        last: path of the checkpoint.
    Returns:
        A list of sentences, "name=new (it was old)".
    Raises:
        ConfigError: a setting contradicts the checkpoint, so that none can pass over it.
        OSError, ValueError: a tokenizer or a model that is named now cannot be read.
    """
    stored = TrainConfig(**state.config)
    others = {name: f"{name}={getattr(config, name)!r} (it was {getattr(stored, name)!r})"
              for name in TrainConfig.__dataclass_fields__
              if getattr(config, name) != getattr(stored, name)
              and name not in FREE | BY_TEXT | {"max_steps"}}
    if "tokenizer" in others and _is_tokenizer_of(config.tokenizer, last):
        del others["tokenizer"]
    if "init" in others and stored.init and config.init and _is_init_of(config.init, state):
        del others["init"]
    fixed = [name for name in others if name in IN_CHECKPOINT
             or name == "n_positions" and config.n_positions > stored.n_positions]
    if fixed:
        raise ConfigError(f"the run to resume was begun with other settings: "
                          f"{', '.join(others.values())}; its checkpoint holds it to its "
                          f"{' and '.join(fixed)}")
    if config.max_steps < state.step:
        raise ConfigError(f"max_steps={config.max_steps} is less than the {state.step} steps that "
                          "the run to resume has taken")
    return list(others.values())


def new_schedule(config, state):
    """A sentence about a resumed run that is to be longer or shorter; else None."""
    before = state.config["max_steps"]
    if config.max_steps == before:
        return None
    return (f"max_steps={config.max_steps} (it was {before}): from step {state.step + 1} on the "
            "learning rate follows the new schedule")


def changed_kernels(info, state):
    """How the kernels differ from those of the run to resume, so that steps differ in their last
    bits.

    Args:
        info: kernels.info().
        state: the TrainerState; what it does not record is not compared.
    Returns:
        A list of sentences.
    """
    names = [name for name in WAYS_OUT if getattr(state, name) not in ("", info[name])]
    if "backend" in names:  # the others follow from it
        names = ["backend"]
    return [f"{name}={info[name]!r} (it was {getattr(state, name)!r}) rounds otherwise; to take "
            f"the very steps, {WAYS_OUT[name].format(getattr(state, name))}" for name in names]


def fingerprint_of_weights(model):
    """A text that two models share when their weights are the same: 1 GB takes about a second."""
    hash = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        hash.update(name.encode())
        hash.update(memoryview(parameter).cast("B"))
    return hash.hexdigest()


def _is_tokenizer_of(choice, last):
    """Whether a choice of a tokenizer is a directory that holds the one in a checkpoint."""
    if choice is None or parse(choice)[0] != "directory":
        return False
    return (Tokenizer.from_pretrained(choice)._document()
            == Tokenizer.from_pretrained(last)._document())


def _is_init_of(init, state):
    """Whether a model is the one that a run began with, wherever it lies now."""
    return state.init == fingerprint_of_weights(GPT.from_pretrained(find_model(init)))
