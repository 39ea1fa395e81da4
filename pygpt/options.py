"""Declares the keyword arguments of generation for type checkers, which complete and check them.

generate.stream documents them. Where a program runs, nothing imports this file.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypedDict


class Chooser(Protocol):
    """An object that chooses tokens, as sampling.Sampler does."""

    def choose(self, logits: Any, ids: list[int], /) -> int:
        """Return the id of the next token."""


class Settings(TypedDict, total=False):
    """The fields of config.SampleConfig that say how a token is drawn."""

    logit_bias: Mapping[int, float] | Iterable[tuple[int, float]] | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | Sequence[int] | None


class Options(Settings, total=False):
    """The options of generate.stream."""

    stop: int | Collection[int] | None
    vocab_size: int | None
    logprobs: int | None
    sampler: Chooser | Sequence[Chooser] | None


class TextOptions(Settings, total=False):
    """The settings of Pipeline.stream and of a call of a Pipeline."""

    max_new_tokens: int
    stop_strings: str | Sequence[str] | None
