"""Finds the differences between a resumed run and the run that wrote the checkpoint.

Besides the checkpoint, three things determine the steps that follow:

    settings   changed_settings
    kernels    changed_kernels
    text       data/dataset.py compares its fingerprint

Each function lists the differences in one of them. preparation.py refuses to continue, or with
force gives a warning for each difference.
"""

import hashlib
from dataclasses import replace

from pygpt.checkpoint.model_files import find_model
from pygpt.config import SHAPE, ConfigError, TrainConfig
from pygpt.model import GPT
from pygpt.tokenizer import Tokenizer
from pygpt.tokenizer.choice import parse

# A resumed run may change these settings: its steps stay exactly the same.
CHANGEABLE = {"out", "threads", "recompute", "keep", "log_interval", "eval_interval", "patience",
              "sample_interval", "sample_length", "sample_prompts"}
# These settings select the text. They may differ, because its fingerprint is compared instead.
TEXT_SETTINGS = {"data", "val_data", "errors"}
# These settings are built into the checkpoint, so another value would contradict it.
FIXED_BY_CHECKPOINT = {"n_layer", "n_head", "n_embd", "tokenizer", "init"}
REMEDIES = {"backend": "set PYGPT_BACKEND={}", "isa": "set PYGPT_ISA={}",
            "compiler": "build with {}"}


def with_shape_of(config, state):
    """Return the config with each shape setting that is None taken from the run to resume."""
    return replace(config, **{name: state.config[name] for name in SHAPE
                              if getattr(config, name) is None})


def changed_settings(config, state, last):
    """List the changed settings that would make a resumed run take different steps.

    Args:
        config: the TrainConfig of the resumed run.
        state: the TrainerState that it continues from.
        last: the path of the checkpoint.
    Returns:
        A list of sentences, "name=new (it was old)".
    Raises:
        ConfigError: a setting contradicts the checkpoint, which force cannot allow either.
        OSError, ValueError: the tokenizer or the model named by config cannot be read.
    """
    stored = TrainConfig(**state.config)
    others = {name: f"{name}={getattr(config, name)!r} (it was {getattr(stored, name)!r})"
              for name in TrainConfig.__dataclass_fields__
              if getattr(config, name) != getattr(stored, name)
              and name not in CHANGEABLE | TEXT_SETTINGS | {"max_steps"}}
    if "tokenizer" in others and _is_tokenizer_of(config.tokenizer, last):
        del others["tokenizer"]
    if "init" in others and stored.init and config.init and _is_init_of(config.init, state):
        del others["init"]
    fixed = [name for name in others if name in FIXED_BY_CHECKPOINT
             or name == "n_positions" and config.n_positions > stored.n_positions]
    if fixed:
        raise ConfigError(f"the run to resume was begun with other settings: "
                          f"{', '.join(others.values())}; its checkpoint fixes "
                          f"{' and '.join(fixed)}")
    if config.max_steps < state.step:
        raise ConfigError(f"max_steps={config.max_steps} is less than the {state.step} steps that "
                          "the run to resume has taken")
    return list(others.values())


def new_schedule(config, state):
    """Return a sentence when the resumed run has another max_steps, else None."""
    before = state.config["max_steps"]
    if config.max_steps == before:
        return None
    return (f"max_steps={config.max_steps} (it was {before}): from step {state.step + 1} on the "
            "learning rate follows the new schedule")


def new_ranks(ranks, state):
    """Return a sentence when another number of processes shares each batch, else None."""
    if ranks == state.ranks:
        return None
    return (f"the run had {state.ranks} rank{'s' * (state.ranks > 1)}, and now has {ranks}: from "
            f"step {state.step + 1} on its sums are rounded otherwise")


def changed_kernels(info, state):
    """List how the kernels differ from those of the run to resume.

    Other kernels round differently, so the steps would differ in their last bits.

    Args:
        info: kernels.what_rounds() of the run.
        state: the TrainerState. A property that it does not record is not compared.
    Returns:
        A list of sentences.
    """
    names = [name for name in REMEDIES if getattr(state, name) not in ("", info[name])]
    if "backend" in names:  # the other differences follow from this one
        names = ["backend"]
    return [f"{name}={info[name]!r} (it was {getattr(state, name)!r}) rounds otherwise; to take "
            f"the very steps, {REMEDIES[name].format(getattr(state, name))}" for name in names]


def fingerprint_of_weights(model):
    """Compute a hash of a model's weights, as hex digits; 1 GB takes about a second."""
    hash = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        hash.update(name.encode())
        hash.update(memoryview(parameter).cast("B"))
    return hash.hexdigest()


def _is_tokenizer_of(choice, last):
    """Return whether the tokenizer setting names a directory with a checkpoint's tokenizer."""
    if choice is None or parse(choice)[0] != "directory":
        return False
    return (Tokenizer.from_pretrained(choice)._document()
            == Tokenizer.from_pretrained(last)._document())


def _is_init_of(init, state):
    """Return whether the model at the path init has the weights that the run started from."""
    return state.init == fingerprint_of_weights(GPT.from_pretrained(find_model(init)))
