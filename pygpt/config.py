"""Defines every setting of a model, a run and a sample: its name, default, range and help text.

There are three frozen dataclasses and the presets. The command line makes a flag from each field,
so the range in --help is the range that is checked.
"""

import math
import operator
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, get_args

from pygpt.backend.arguments import checked_type, is_path, shown
from pygpt.backend.single_precision import rounded
from pygpt.nearest import nearest

if TYPE_CHECKING:  # what these settings may be made of
    Texts = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    Biases = Mapping[int, float] | Iterable[tuple[int, float]] | None
else:  # what they hold; the annotations of the fields are read at run time (number_type)
    Texts = Biases = tuple


class ConfigError(ValueError):
    """A setting is out of its range or contradicts another; the message names both."""


def setting(default: Any, help: str, within: str | None = None, unit: str | None = None,
            choices: Collection[str] | None = None, metavar: str | None = None) -> Any:
    """Make a dataclass field that documents itself, and that check_settings() checks.

    Args:
        default: the value if none is given; None: it depends on other settings.
        help: a phrase for --help.
        within: the range as mathematics writes it, "[0, 1)" or "[1, inf)"; None: not a number.
        unit: the things that the number counts, such as "tokens".
        choices: the strings that it may be.
        metavar: the name of the value in --help, if it is not a number (None: PATH).
    """
    return field(default=default, metadata={"help": help, "within": within, "unit": unit,
                                            "choices": choices, "metavar": metavar})


def count(default: Any, help: str, unit: str | None = None, least: int = 1) -> Any:
    """Make a setting that is a whole number of at least `least`."""
    return setting(default, help, f"[{least}, inf)", unit)


def threads_setting() -> Any:
    """Make the field `threads`, which two dataclasses have."""
    return setting(0, "threads to compute with; 0: one for each physical core except efficiency "
                   "cores", "[0, 256]", "threads")


def number_type(field: Field[Any]) -> type | None:
    """Return int or float if the field holds a number, else None."""
    kinds = (field.type, *get_args(field.type))
    return next((kind for kind in (int, float) if kind in kinds), None)


def refusal(name: str, value: Any, reason: str) -> ConfigError:
    """Make a ConfigError with the message "name=value reason"."""
    return ConfigError(f"{name}={shown(value)} {reason}")


def check_settings(config: Any, are_for_kernels: bool = True) -> None:
    """Check each field against its type, its range and its choices; convert numbers to their type.

    Numbers that are for kernels must also be in their range after rounding to single precision.

    Raises:
        ConfigError: a check fails; the message gives the field, its value and its range.
    """
    for f in fields(config):
        value, kind = getattr(config, f.name), number_type(f)
        within, choices = f.metadata["within"], f.metadata["choices"]
        if f.type is bool and type(value) is not bool:
            raise refusal(f.name, value, "is not True or False")
        if choices and (not isinstance(value, str) or value not in choices):
            raise refusal(f.name, value, f"is not {' or '.join(map(repr, choices))}")
        if kind is None or (value is None and f.default is None):
            continue
        number = whole_number(f.name, value) if kind is int else _real_number(f.name, value)
        object.__setattr__(config, f.name, number)
        if not _is_within(number, within):
            must_be = describe_range(within) if number != math.inf else "finite"
            raise refusal(f.name, value, f"must be {must_be}")
        if kind is float and are_for_kernels:
            rounded(f.name, number, lambda x: _is_within(x, within), ConfigError)


def check_names(settings: Mapping[str, Any], config_class: type, others: Collection[str] = (),
                elsewhere: Mapping[str, str] = {}) -> None:
    """Refuse the names of settings that a call does not take.

    Args:
        settings: a dict, whose keys are checked.
        config_class: the dataclass whose fields the call takes, unless they are in elsewhere.
        others: the names of what else it takes.
        elsewhere: {name: a phrase that says what to use instead}.
    Raises:
        TypeError: a name is not one of these; the message names it, and the nearest or the phrase.
    """
    known = [f.name for f in fields(config_class) if f.name not in elsewhere] + list(others)
    for name in settings:
        if name in elsewhere:
            raise TypeError(f"{name} is not a setting here: {elsewhere[name]}")
        if name not in known:
            meant = nearest(name, known)
            raise TypeError(f"{name} is not a setting"
                            + (f"; did you mean {meant}?" if meant else ""))


def is_whole_number(value: Any) -> bool:
    """Return whether a value is an integer of any type other than bool."""
    try:
        operator.index(value)  # takes integers of any type, but neither 1.0 nor "1"
    except (TypeError, ValueError):  # a ValueError: a tensor of several values
        return False
    return not isinstance(value, bool)


def whole_number(name: str, value: Any) -> int:
    """Convert an integer of any type to an int.

    Raises:
        ConfigError: the value is not an integer; the message holds the name and the value.
    """
    if not is_whole_number(value):
        raise refusal(name, value, "is not an integer")
    return operator.index(value)


def _real_number(name, value):
    try:
        if not isinstance(value, (bool, str)):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise refusal(name, value, "is not a number")


def items_of(name: str, value: Any, reason: str, is_ordered: bool = True) -> Iterator[Any]:
    """Yield the items of a collection, which may have no end.

    Args:
        reason: the end of the message for a value that is not such a collection.
        is_ordered: whether the order of the items counts, so that sets are refused.
    Raises:
        ConfigError: the value is a text, bytes, a dict, or nothing that can be iterated over.
    """
    refused = (str, bytes, bytearray, dict, *((set, frozenset) if is_ordered else ()))
    try:
        items = None if isinstance(value, refused) or _is_matrix(value) else iter(value)
    except (TypeError, ValueError):  # it is not iterable; it is a view that was released
        items = None
    if items is None:
        raise refusal(name, value, reason)
    yield from items  # outside the try: an error of the caller's own iterator stays as it is


def _is_matrix(value):
    return isinstance(value, memoryview) and value.ndim != 1


def token_id(name: str, value: Any, vocab_size: int) -> int:
    """Convert a token's id to an int in 0..vocab_size-1; it raises as whole_number() does."""
    token = whole_number(name, value)
    if not 0 <= token < vocab_size:
        raise refusal(name, token, f"is not in 0..{vocab_size - 1}, the ids of this model's "
                      "vocabulary")
    return token


def token_ids(name: str, value: Any, vocab_size: int) -> tuple[int, ...]:
    """Convert an id, or a collection of ids, to a tuple of different ids in 0..vocab_size-1.

    Raises:
        ConfigError: the value is something else, such as a text.
    """
    if isinstance(value, bool) or is_whole_number(value):
        return (token_id(name, value, vocab_size),)
    items = items_of(name, value, "is neither an id nor a collection of ids; a tokenizer's "
                     "encode() makes ids of a text", is_ordered=False)  # it may have no end
    return tuple(dict.fromkeys(token_id(name, token, vocab_size) for token in items))


def _text(name, part, value):
    """Convert a part of a setting's value, a path or a text, to a str."""
    if isinstance(part, (str, os.PathLike)) and isinstance(text := os.fspath(part), str):
        return text
    raise refusal(name, value, "is not text")


def _texts(name, value):
    """Convert a path or a text, a sequence of them, or None to a tuple of str."""
    if value is None:
        return ()
    if isinstance(value, (str, os.PathLike)):
        return (_text(name, value, value),)
    parts = items_of(name, value, "is neither a text nor a list of texts")
    return tuple([_text(name, part, value) for part in parts])


def _check_paths(name, paths):
    """Refuse a path that no file can have: with a zero byte, or characters without bytes."""
    for path in paths:
        if not is_path(path):
            raise refusal(name, path, "is not a path: no file has such a name")


def describe_range(within: str) -> str:
    """Put a range into words: "[1, inf)" is "at least 1", "[0, 1)" is "in [0, 1)"."""
    low, high = within[1:-1].split(", ")
    if high != "inf":
        return f"in {within}"
    return f"at least {low}" if within[0] == "[" else f"above {low}"


def _is_within(number, within):
    low, high = (int(b) if b.isdigit() else float(b) for b in within[1:-1].split(", "))
    above = number >= low if within[0] == "[" else number > low
    below = number <= high if within[-1] == "]" else number < high
    return above and below  # False for a NaN


@dataclass(frozen=True)
class GPTConfig:
    """Holds the shape of a model, in the field names of a Hugging Face GPT-2 config.json.

    Raises:
        ConfigError: a value is out of its range, or n_embd is not a multiple of n_head.
    """

    vocab_size: int = setting(50257, "different tokens the model knows", "[1, 2147483647]")
    n_positions: int = count(1024, "longest context the model sees", "tokens")
    n_embd: int = count(768, "width: how many numbers represent one token")
    n_layer: int = count(12, "blocks of attention and MLP")
    n_head: int = count(12, "attention heads in a block; must divide n_embd")
    layer_norm_epsilon: float = setting(1e-5, "added to a variance before its root", "(0, 1]")
    embd_pdrop: float = setting(0.0, "dropout after the embeddings", "[0, 1)")
    attn_pdrop: float = setting(0.0, "dropout of attention weights", "[0, 1)")
    resid_pdrop: float = setting(0.0, "dropout before each residual addition", "[0, 1)")
    n_inner: int | None = count(None, "width inside an MLP (unset: 4 n_embd)")

    @property
    def mlp_width(self) -> int:
        """Return n_inner, or 4 n_embd if it is unset."""
        return self.n_inner or 4 * self.n_embd

    def __post_init__(self) -> None:
        check_settings(self)
        if self.n_embd % self.n_head:
            raise ConfigError(f"n_embd={shown(self.n_embd)} is not divisible by "
                              f"n_head={shown(self.n_head)}")


# The types to which matrix products may round their operands.
COMPUTE_DTYPES = "float32", "bfloat16"
# The shape of a model if neither the settings nor init give one.
SHAPE = dict(n_layer=4, n_head=4, n_embd=128, n_positions=128)


@dataclass(frozen=True)
class TrainConfig:
    """Holds the settings of a training run, with the shape of the model.

    The defaults are the run of `make train`; README.md says how long it takes.

    Raises:
        ConfigError: a value is out of its range, or two values contradict each other.
    """

    data: Texts = setting((), "the text to learn from: UTF-8 files, directories of them, "
                          "patterns such as 'books/*.txt', - for standard input, or one .bin file "
                          "of tokens (unset: Python's own reference)")
    val_data: Texts = setting((), "the same for validation (unset: the end of data)")
    errors: str = setting("strict", "treatment of bytes that are not UTF-8: strict ends the "
                          "run, replace turns each into U+FFFD", choices=("strict", "replace"))
    tokenizer: str | None = setting(None, "how text becomes tokens: char, byte, bpe, bpe:VOCAB "
                                    "(learned from the text), or a directory that holds a "
                                    "tokenizer (unset: that of init, else char)", metavar="KIND")
    out: str = setting("out", "directory for checkpoints and the log")
    init: str | None = setting(None, "directory of a GPT-2 model or of a run, whose weights the "
                               "run begins with (unset: random weights)")

    n_layer: int | None = count(None, "blocks of attention and MLP (unset: init's, else 4)")
    n_head: int | None = count(None, "attention heads in a block; must divide n_embd (unset: "
                               "init's, else 4)")
    n_embd: int | None = count(None, "width: how many numbers represent one token (unset: init's, "
                               "else 128)")
    n_positions: int | None = count(None, "longest context (unset: init's, else 128)", "tokens")
    dropout: float = setting(0.0, "share of values zeroed in training, in all three places",
                             "[0, 1)")

    max_steps: int = count(2000, "steps to train", "steps")
    patience: int = count(0, "validations in a row without a new lowest loss after which the run "
                          "ends; 0: it takes all its steps", "validations", least=0)
    batch_size: int = count(16, "sequences in a batch", "sequences")
    grad_accumulation_steps: int = count(1, "batches whose gradients are averaged into a step",
                                         "batches")
    recompute: bool = setting(False, "keep only the input of each block but the last, and run "
                              "the block's forward pass again in the backward pass: less memory, "
                              "more time, the same numbers")
    dtype: str = setting("float32", "type to which matrix products round their operands; sums, "
                         "weights and checkpoints stay float32", choices=COMPUTE_DTYPES)
    reduce_dtype: str = setting("float32", "type in which ranks send gradients to each other; "
                                "bfloat16 halves the traffic and rounds each gradient twice",
                                choices=COMPUTE_DTYPES)
    shard_optimizer: bool = setting(False, "let each rank hold and update only its share of "
                                    "AdamW's moments: less memory, the same numbers but for the "
                                    "rounding of the gradient's norm")
    learning_rate: float = setting(2e-3, "highest learning rate, reached after the warm-up",
                                   "[0, inf)")
    min_learning_rate: float | None = setting(None, "learning rate that the cosine decay ends at "
                                              "(unset: a tenth of learning_rate)", "[0, inf)")
    warmup_steps: int = count(100, "steps of linear warm-up", "steps", least=0)
    beta1: float = setting(0.9, "AdamW's decay of the gradient's mean", "[0, 1)")
    beta2: float = setting(0.99, "AdamW's decay of the gradient's square", "[0, 1)")
    weight_decay: float = setting(0.1, "AdamW's decay of weight matrices", "[0, inf)")
    grad_clip: float = setting(1.0, "largest norm of the gradient; a longer one is scaled "
                               "down; 0: no limit", "[0, inf)")

    val_fraction: float = setting(0.1, "share of the text, at its end, held out for validation",
                                  "(0, 1)")
    eval_interval: int = count(250, "steps between validations, each with a checkpoint", "steps")
    eval_batches: int = count(20, "batches that a validation averages over", "batches")
    keep: int = count(0, "older checkpoints to keep besides last and best", "checkpoints", least=0)
    log_interval: int = count(1, "steps between records of a step in the log", "steps")
    sample_interval: int = count(500, "steps between samples of text; 0: no samples",
                                 "steps", least=0)
    sample_length: int = count(200, "length of a sample; the last is four times as long", "tokens")
    sample_prompts: Texts = setting((), "texts that the samples continue (unset: a new line)",
                                    metavar="TEXT")
    seed: int = setting(1337, "decides the first weights, the batches and the dropout",
                        "[0, 9223372036854775807]")
    threads: int = threads_setting()

    def __post_init__(self) -> None:
        for name in ("data", "val_data", "sample_prompts"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        for name in ("out", "init", "tokenizer"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _text(name, value, value))
        for name in ("data", "val_data", "out", "init", "tokenizer"):
            _check_paths(name, _texts(name, getattr(self, name)))
        for name, value in SHAPE.items():
            if getattr(self, name) is None and self.init is None:
                object.__setattr__(self, name, value)
        check_settings(self)
        for f in fields(self):  # a larger one fits neither C nor the files of a run
            if number_type(f) is int and (value := getattr(self, f.name) or 0) >= 1 << 63:
                raise refusal(f.name, value, "must be less than 2^63")
        if not self.out:
            raise ConfigError(f"out={shown(self.out)} names no directory")
        for name in ("data", "val_data", "init"):
            if "" in _texts(name, value := getattr(self, name)):
                raise ConfigError(f"{name}={shown(value)} holds an empty path")
        if self.min_learning_rate is None:
            object.__setattr__(self, "min_learning_rate", self.learning_rate / 10)
        if self.min_learning_rate > self.learning_rate:
            raise ConfigError(f"min_learning_rate={self.min_learning_rate} is above "
                              f"learning_rate={self.learning_rate}")
        if self.init is None:
            self.model_config(vocab_size=1)  # refuses an impossible shape

    def model_config(self, vocab_size: int) -> GPTConfig:
        """Return the GPTConfig of this run for a vocabulary of vocab_size tokens."""
        return GPTConfig(vocab_size=vocab_size, n_positions=self.n_positions, n_embd=self.n_embd,
                         n_layer=self.n_layer, n_head=self.n_head, embd_pdrop=self.dropout,
                         attn_pdrop=self.dropout, resid_pdrop=self.dropout)

    def shaped_like(self, model_config: GPTConfig) -> "TrainConfig":
        """Return this config with its unset shape settings taken from a model's config.

        Raises:
            ConfigError: a setting contradicts the model. Only n_positions may be smaller.
        """
        checked_type("model_config", model_config, GPTConfig)
        unset = {}
        for name in SHAPE:
            ours, theirs = getattr(self, name), getattr(model_config, name)
            if ours is None:
                unset[name] = theirs
            elif ours > theirs or (ours < theirs and name != "n_positions"):
                origin = f"init={shown(self.init)}" if self.init else f"{self.out}/last"
                raise ConfigError(f"{name}={ours}, but the model in {origin} has {theirs}")
        return replace(self, **unset)

    def learning_rate_at(self, step: int) -> float:
        """Compute the learning rate of a step: a linear warm-up, then half a cosine.

        Args:
            step: 0..max_steps-1.
        Raises:
            ConfigError: step is not a whole number in that range.
        """
        step = whole_number("step", step)
        if not 0 <= step < self.max_steps:
            raise refusal("step", step, f"is not in 0..{self.max_steps - 1}")
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.max_steps - 1 - self.warmup_steps)
        height = (1 + math.cos(math.pi * min(1.0, done))) / 2  # 1 down to 0
        return height * self.learning_rate + (1 - height) * self.min_learning_rate


@dataclass(frozen=True)
class SampleConfig:
    """Holds the settings by which tokens are drawn. sampling.Sampler applies them in this order:

    1. logit_bias is added to the logits (OpenAI's API reference, "logit_bias"; llama.cpp and
       transformers, too, begin with it).
    2. repetition_penalty divides the logit of a token of the prompt or the new text if the logit
       is above 0, else multiplies it (Keskar et al., "CTRL", 2019, as transformers does it).
    3. frequency_penalty times the number of a token's occurrences in the new text, and
       presence_penalty if there is one, are subtracted from its logit (OpenAI's API reference,
       "frequency and presence penalties"). The prompt does not count.
    4. temperature divides the logits. At 0 the likeliest token is taken; nothing below matters.
    5. top_k keeps the k likeliest tokens (Fan et al., "Hierarchical neural story generation",
       2018); of equally likely ones, the lower ids. llama.cpp's default is 40, transformers' 50.
    6. top_p keeps the fewest likeliest of these whose probabilities, made to sum to 1 among them,
       reach top_p (Holtzman et al., "The curious case of neural text degeneration", 2020).
    7. min_p keeps the tokens whose probability is at least min_p times the likeliest one's (Nguyen
       et al., "Turning up the heat: min-p sampling", 2024).

    Steps 4 to 7 have the order of transformers.

    stop_strings are for text: stop_strings.StopStrings applies them to what the tokens decode to.

    Raises:
        ConfigError: a value is out of its range.
    """

    max_new_tokens: int = count(500, "length of the continuation", "tokens", least=0)
    stop_strings: Texts = setting((), "texts that end the continuation and are not part of it (a "
                                  "flag for each)", metavar="TEXT")
    logit_bias: Biases = setting((), "numbers to add to the logits of tokens, such as 50256=-2.5; "
                                "-inf bans a token (a flag for each)", metavar="ID=BIAS")
    repetition_penalty: float = setting(1.0, "above 1, tokens of the prompt and of the new text "
                                        "become less likely; 1: no change", "(0, inf)")
    presence_penalty: float = setting(0.0, "subtracted from the logits of tokens that the new text "
                                      "holds; 0: no change", "[-2, 2]")
    frequency_penalty: float = setting(0.0, "the same once for each time that the new text holds "
                                       "the token", "[-2, 2]")
    temperature: float = setting(0.8, "a low one keeps to likely tokens, a high one varies more; 0 "
                                 "always takes the likeliest token", "[0, inf)")
    top_k: int = count(50, "draw from the k likeliest tokens only; 0: from all", "tokens", least=0)
    top_p: float = setting(0.95, "draw from the fewest likeliest tokens whose probabilities "
                           "reach this sum; 1: from all", "(0, 1]")
    min_p: float = setting(0.0, "draw from tokens at least this probable, as a share of the "
                           "likeliest one's probability", "[0, 1]")
    seed: int | None = count(None, "makes a sample repeatable (unset: each is different)", least=0)
    threads: int = threads_setting()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_strings", _texts("stop_strings", self.stop_strings))
        if "" in self.stop_strings:
            raise ConfigError(f"stop_strings={shown(self.stop_strings)} holds an empty text")
        object.__setattr__(self, "logit_bias", _biases("logit_bias", self.logit_bias))
        check_settings(self, are_for_kernels=False)


def _biases(name, value):
    """Convert a dict {id: bias}, or pairs of these, or None, to a tuple of pairs (id, bias), in the
    order of the ids; of several biases of an id the last counts."""
    pairs = {} if value is None else value
    if not isinstance(pairs, dict):
        try:
            pairs = [(token, bias) for token, bias in items_of(name, pairs, "")]
        except (TypeError, ValueError, NotImplementedError):
            raise refusal(name, value, "is not a dict of biases by token id") from None
    biases = {}
    for token, bias in pairs.items() if isinstance(pairs, dict) else pairs:
        token, bias = whole_number(name, token), _real_number(name, bias)
        if token < 0:
            raise refusal(name, token, "is not a token id: it is below 0")
        if not bias < math.inf:
            raise refusal(name, f"{token}={bias}", "must be finite, or -inf to ban the token")
        biases[token] = bias
    return tuple(sorted(biases.items()))


# Each preset: a name for --preset, and the settings that it changes from TrainConfig's defaults.
PRESETS = {
    # the model of the lesson, small enough to look at every number
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
