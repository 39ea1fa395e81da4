"""Every setting of a model, a training run and a sample: its name, default, range and help text.

Three frozen dataclasses. A field carries its own documentation, so the command line makes its
flags from this file and the range printed by --help is the range that is checked. The presets are
here too. Imports nothing of pygpt; used by model, checkpoint, generate, train and the command
line.
"""

import math
import operator
import os
import reprlib
from dataclasses import dataclass, field, fields, replace
from typing import get_args


class ConfigError(ValueError):
    """A setting is out of its range or contradicts another; the message names both."""


def setting(default, help, within=None, unit=None, choices=None, metavar=None):
    """A dataclass field that documents and checks itself.

    Args:
        default: the value when none is given; None means that the run works it out.
        help: one phrase, for --help.
        within: the range as mathematics writes it, "[0, 1)" or "[1, inf)"; None: not a number.
        unit: what the number counts, e.g. "tokens".
        choices: the strings it may be.
        metavar: what stands for a value that is no number in --help (unset: PATH).
    """
    return field(default=default, metadata={"help": help, "within": within, "unit": unit,
                                            "choices": choices, "metavar": metavar})


def same_setting(config_class, name, default):
    """The field of that name of another dataclass again, with a default of its own."""
    return field(default=default, metadata=config_class.__dataclass_fields__[name].metadata)


def number_type(field):
    """int or float when the field holds a number (or None), else None."""
    kinds = (field.type, *get_args(field.type))
    return next((kind for kind in (int, float) if kind in kinds), None)


def check_settings(config):
    """Bring each number of a dataclass to its type, hold it to its range, and a bool to its type.

    Raises:
        ConfigError: naming the field, its value and what it must be.
    """
    for f in fields(config):
        value, kind = getattr(config, f.name), number_type(f)
        if f.type is bool and type(value) is not bool:
            raise ConfigError(f"{f.name}={_shown(value)} is not True or False")
        if f.metadata["choices"] and value not in f.metadata["choices"]:
            raise ConfigError(f"{f.name}={_shown(value)} is not "
                              f"{' or '.join(map(repr, f.metadata['choices']))}")
        if kind is None or (value is None and f.default is None):
            continue
        try:
            # operator.index takes every kind of integer and no 1.0, no "1"
            number = operator.index(value) if kind is int else float(value)
            if isinstance(value, (bool, str)):
                raise TypeError
        except (TypeError, ValueError, OverflowError):
            noun = "an integer" if kind is int else "a number"
            raise ConfigError(f"{f.name}={_shown(value)} is not {noun}") from None
        object.__setattr__(config, f.name, number)
        if not _is_within(number, f.metadata["within"]):
            must_be = describe_range(f.metadata["within"]) if number != math.inf else "finite"
            raise ConfigError(f"{f.name}={_shown(value)} must be {must_be}")


def is_whole_number(value):
    """Whether a value is an integer of any kind, a bool not being one."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def whole_number(name, value):
    """An integer of any kind, as an int.

    Raises:
        ConfigError: it is none; the message names it and the value.
    """
    if not is_whole_number(value):
        raise ConfigError(f"{name}={reprlib.repr(value)} is not an integer")
    return operator.index(value)


def token_id(name, value, vocab_size):
    """A token's id as an int in 0..vocab_size-1; errors as whole_number's."""
    token = whole_number(name, value)
    if not 0 <= token < vocab_size:
        raise ConfigError(f"{name}={reprlib.repr(token)} is not in 0..{vocab_size - 1}, the ids of "
                          "this model's vocabulary")
    return token


def token_ids(name, value, vocab_size):
    """One id, or a collection of them, as a tuple of ids in 0..vocab_size-1, each once.

    Raises:
        ConfigError: the value is something else, such as a text.
    """
    if isinstance(value, bool) or is_whole_number(value):
        return (token_id(name, value, vocab_size),)
    try:
        if isinstance(value, (str, bytes, bytearray, dict)):
            raise TypeError
        return tuple(dict.fromkeys(token_id(name, token, vocab_size) for token in value))
    except (TypeError, NotImplementedError):  # what cannot be iterated over; a matrix in memory
        raise ConfigError(f"{name}={reprlib.repr(value)} is neither an id nor a collection of ids; "
                          "a tokenizer's encode() makes ids of a text") from None


def _text(name, value, part):
    """A part of a setting's value, a path or a text, as a str."""
    if isinstance(part, (str, os.PathLike)) and isinstance(text := os.fspath(part), str):
        return text
    raise ConfigError(f"{name}={_shown(value)} is not text")


_NO_SEQUENCES = bytes, bytearray, dict, set, frozenset


def _texts(name, value):
    """A path or a text, a sequence of them, or None, as a tuple of str."""
    if isinstance(value, (str, os.PathLike)):
        value = (value,)
    if value is None:
        return ()
    if isinstance(value, _NO_SEQUENCES) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{name}={_shown(value)} is neither a text nor a list of texts")
    return tuple([_text(name, value, part) for part in value])


def _paths(name, value):
    """As _texts, of paths: held to what a file can be named."""
    for path in (texts := _texts(name, value)):
        try:
            is_name = b"\0" not in os.fsencode(path)
        except UnicodeEncodeError:
            is_name = False
        if not is_name:
            raise ConfigError(f"{name}={_shown(path)} is no path: no file has such a name")
    return texts


def _shown(value):
    return reprlib.repr(value)


def describe_range(within):
    """The words for a range: "[1, inf)" is "at least 1", "[0, 1)" is "in [0, 1)"."""
    low, high = within[1:-1].split(", ")
    if high != "inf":
        return f"in {within}"
    return f"at least {low}" if within[0] == "[" else f"above {low}"


def _is_within(number, within):
    low, high = (int(b) if b.isdigit() else float(b) for b in within[1:-1].split(", "))
    above = number >= low if within[0] == "[" else number > low
    below = number <= high if within[-1] == "]" else number < high
    return above and below  # a NaN is neither


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model, in the field names of a Hugging Face GPT-2 config.json.

    Raises:
        ConfigError: a value is out of its range, or n_embd is not a multiple of n_head.
    """

    vocab_size: int = setting(50257, "different tokens the model knows", "[1, 2147483647]")
    n_positions: int = setting(1024, "longest context the model sees", "[1, inf)", "tokens")
    n_embd: int = setting(768, "width: the numbers that represent one token", "[1, inf)")
    n_layer: int = setting(12, "blocks of attention and MLP", "[1, inf)")
    n_head: int = setting(12, "attention heads in a block; must divide n_embd", "[1, inf)")
    layer_norm_epsilon: float = setting(1e-5, "added to a variance before its root", "(0, 1]")
    embd_pdrop: float = setting(0.0, "dropout after the embeddings", "[0, 1)")
    attn_pdrop: float = setting(0.0, "dropout of attention weights", "[0, 1)")
    resid_pdrop: float = setting(0.0, "dropout before each residual addition", "[0, 1)")
    n_inner: int | None = setting(None, "width inside an MLP (unset: 4 n_embd)", "[1, inf)")

    @property
    def mlp_width(self):
        """n_inner, or 4 n_embd where it is unset."""
        return self.n_inner or 4 * self.n_embd

    def __post_init__(self):
        check_settings(self)
        if self.n_embd % self.n_head:
            raise ConfigError(f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}")


# The shape of a model when neither a flag nor init says another.
SHAPE = dict(n_layer=4, n_head=4, n_embd=128, n_positions=128)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run, the model's shape included.

    The defaults are the run of `make train`: about two minutes on two cores.

    Raises:
        ConfigError: a value is out of its range, or two contradict one another.
    """

    data: tuple = setting((), "what to learn from: UTF-8 text files, directories of them, "
                          "patterns such as 'books/*.txt', - for standard input, or one .bin file "
                          "of tokens (unset: Python's own reference)")
    val_data: tuple = setting((), "the same for validation (unset: the end of data)")
    errors: str = setting("strict", "what becomes of bytes that are not UTF-8: strict ends the "
                          "run, replace makes each U+FFFD", choices=("strict", "replace"))
    tokenizer: str | None = setting(None, "how text becomes tokens: char, byte, bpe, bpe:VOCAB "
                                    "(learned from the text), or a directory that holds a "
                                    "tokenizer (unset: that of init, else char)", metavar="KIND")
    out: str = setting("out", "directory for checkpoints and the log")
    init: str | None = setting(None, "a GPT-2 directory, or a run's, whose weights the run begins "
                               "with (unset: random ones)")

    n_layer: int | None = setting(None, "blocks of attention and MLP (unset: init's, else 4)",
                                  "[1, inf)")
    n_head: int | None = setting(None, "attention heads in a block; must divide n_embd (unset: "
                                 "init's, else 4)", "[1, inf)")
    n_embd: int | None = setting(None, "width: the numbers that represent one token (unset: "
                                 "init's, else 128)", "[1, inf)")
    n_positions: int | None = setting(None, "context to learn with (unset: init's, else 128)",
                                      "[1, inf)", "tokens")
    dropout: float = setting(0.0, "share of values zeroed in training, in all three places",
                             "[0, 1)")

    max_steps: int = setting(2000, "steps to train", "[1, inf)", "steps")
    batch_size: int = setting(16, "sequences in a batch", "[1, inf)", "sequences")
    grad_accumulation_steps: int = setting(1, "batches whose gradients are averaged into a step",
                                           "[1, inf)", "batches")
    recompute: bool = setting(False, "keep only what goes into each block and run the block's "
                              "forward pass again for the backward one: less memory, more time, "
                              "the same numbers")
    learning_rate: float = setting(2e-3, "highest learning rate, reached after the warm-up",
                                   "[0, inf)")
    min_learning_rate: float | None = setting(None, "learning rate that the cosine decay ends at "
                                              "(unset: a tenth of learning_rate)", "[0, inf)")
    warmup_steps: int = setting(100, "steps of linear warm-up", "[0, inf)", "steps")
    beta1: float = setting(0.9, "AdamW's decay of the gradient's mean", "[0, 1)")
    beta2: float = setting(0.99, "AdamW's decay of the gradient's square", "[0, 1)")
    weight_decay: float = setting(0.1, "AdamW's decay of weight matrices", "[0, inf)")
    grad_clip: float = setting(1.0, "length that a longer gradient is scaled down to; 0: none "
                               "is", "[0, inf)")

    val_fraction: float = setting(0.1, "share of the text, at its end, held out for validation",
                                  "(0, 1)")
    eval_interval: int = setting(250, "steps from one validation and checkpoint to the next",
                                 "[1, inf)", "steps")
    eval_batches: int = setting(20, "batches that a validation averages over", "[1, inf)",
                                "batches")
    keep: int = setting(0, "older checkpoints to keep besides last and best", "[0, inf)",
                        "checkpoints")
    log_interval: int = setting(1, "steps from one record of a step in the log to the next",
                                "[1, inf)", "steps")
    sample_interval: int = setting(500, "steps from one sample of text to the next; 0: no samples",
                                   "[0, inf)", "steps")
    sample_length: int = setting(200, "length of such a sample; the last is four times as long",
                                 "[1, inf)", "tokens")
    sample_prompts: tuple = setting((), "texts that samples continue (unset: a new line)",
                                    metavar="TEXT")
    seed: int = setting(1337, "decides the first weights, the batches and the dropout",
                        "[0, 9223372036854775807]")
    threads: int = setting(0, "threads to compute with; 0: one for each physical core",
                           "[0, 256]", "threads")

    def __post_init__(self):
        object.__setattr__(self, "sample_prompts", _texts("sample_prompts", self.sample_prompts))
        for name in ("data", "val_data"):
            object.__setattr__(self, name, _paths(name, getattr(self, name)))
        for name in ("out", "init", "tokenizer", "errors"):
            value = getattr(self, name)
            if value is None and name == "out":
                raise ConfigError("out=None names no directory")
            if value is not None or name == "errors":
                object.__setattr__(self, name, _paths(name, _text(name, value, value))[0])
        for name, value in SHAPE.items():
            if getattr(self, name) is None and self.init is None:
                object.__setattr__(self, name, value)
        check_settings(self)
        for f in fields(self):  # the files that hold a run's numbers, and C, take no larger ones
            if number_type(f) is int and (getattr(self, f.name) or 0) >= 1 << 63:
                raise ConfigError(f"{f.name}={_shown(getattr(self, f.name))} must be less than "
                                  "2^63")
        if not self.out:
            raise ConfigError(f"out={self.out!r} names no directory")
        for name in ("data", "val_data", "init"):
            value = getattr(self, name)
            if value == "" or isinstance(value, tuple) and "" in value:
                raise ConfigError(f"{name}={value!r} holds an empty path")
        if self.min_learning_rate is None:
            object.__setattr__(self, "min_learning_rate", self.learning_rate / 10)
        if self.min_learning_rate > self.learning_rate:
            raise ConfigError(f"min_learning_rate={self.min_learning_rate} is above "
                              f"learning_rate={self.learning_rate}")
        if self.init is None:
            self.model_config(vocab_size=1)  # a shape that cannot be is refused here already

    def model_config(self, vocab_size):
        """The GPTConfig of this run for a vocabulary of that size."""
        return GPTConfig(vocab_size=vocab_size, n_positions=self.n_positions, n_embd=self.n_embd,
                         n_layer=self.n_layer, n_head=self.n_head, embd_pdrop=self.dropout,
                         attn_pdrop=self.dropout, resid_pdrop=self.dropout)

    def shaped_like(self, model_config):
        """This config for a run that begins with a model of that shape.

        Raises:
            ConfigError: a setting contradicts the model; the context may be shorter than its.
        """
        shape = {name: getattr(model_config, name) for name in SHAPE}
        for name, theirs in shape.items():
            ours = getattr(self, name)
            if ours not in (None, theirs) and (name != "n_positions" or ours > theirs):
                origin = f"init={self.init!r}" if self.init else f"{self.out}/last"
                raise ConfigError(f"{name}={ours}, but the model in {origin} has {theirs}")
        return replace(self, **{name: shape[name] for name in SHAPE
                                if getattr(self, name) is None})

    def learning_rate_at(self, step):
        """The learning rate of a step: a linear warm-up, then half a cosine.

        Args:
            step: 0..max_steps-1.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.max_steps - 1 - self.warmup_steps)
        height = (1 + math.cos(math.pi * min(1.0, done))) / 2  # 1 down to 0
        return height * self.learning_rate + (1 - height) * self.min_learning_rate


@dataclass(frozen=True)
class SampleConfig:
    """How tokens are drawn from a model's predictions.

    The draws are made in the order of the fields: penalty, temperature, top_k, top_p, min_p.

    Raises:
        ConfigError: a value is out of its range.
    """

    max_new_tokens: int = setting(500, "length of the continuation", "[0, inf)", "tokens")
    repetition_penalty: float = setting(1.0, "makes tokens that the context holds less "
                                        "likely; 1: no less", "(0, inf)")
    temperature: float = setting(0.8, "below 1 bolder, above 1 more varied; 0 always takes the "
                                 "likeliest token", "[0, inf)")
    top_k: int = setting(50, "draw from the k likeliest tokens only; 0: from all", "[0, inf)",
                         "tokens")
    top_p: float = setting(0.95, "draw from the fewest likeliest tokens whose probabilities "
                           "reach this sum; 1: from all", "(0, 1]")
    min_p: float = setting(0.0, "draw from tokens at least this probable, as a share of the "
                           "likeliest one's probability", "[0, 1]")
    seed: int | None = setting(None, "makes a sample repeatable (unset: each is different)",
                               "[0, inf)")
    threads: int = same_setting(TrainConfig, "threads", 0)

    def __post_init__(self):
        check_settings(self)


# What a preset changes of TrainConfig's defaults.
PRESETS = {
    # the model of the lesson: small enough that every number can be looked at
    "lesson": dict(n_layer=4, n_head=8, n_embd=64, n_positions=64, batch_size=16, max_steps=3000,
                   learning_rate=2e-3),
    # nanoGPT's settings for characters on a GPU, with a batch for a CPU
    "char": dict(n_layer=6, n_head=6, n_embd=384, n_positions=256, batch_size=16, max_steps=5000,
                 learning_rate=1e-3, dropout=0.2),
    # the shape of GPT-2 124M
    "gpt2": dict(n_layer=12, n_head=12, n_embd=768, n_positions=1024, batch_size=1,
                 grad_accumulation_steps=8, max_steps=5000, learning_rate=6e-4, beta2=0.95,
                 warmup_steps=200),
}
