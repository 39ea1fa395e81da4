"""Continues sequences of tokens, one token after another.

The model says how likely each token is as the next; a sampler (sampling.py) chooses one of them.
Several sequences are continued together, in less time than one after another, and each as if it
were alone. This file checks what a caller gives; Steps (steps.py) does the work.

A model is anything with `config.n_positions`, `config.vocab_size` and `new_cache(rows, length)`. A
cache is anything with the methods and `pasts` of decoding.Cache; the logits that it returns are
buffers of float32. The model may have `end_of_text`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from pygpt.backend.arguments import checked_parts, shown
from pygpt.config import (ConfigError, SampleConfig, check_names, items_of, refusal, token_id,
                          token_ids, whole_number)
from pygpt.sampling import Sampler
from pygpt.steps import Steps

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pygpt.options import Options, Settings

OPTIONS = "stop", "vocab_size", "logprobs", "sampler"  # of stream, besides settings
_ELSEWHERE = {"threads": "see set_num_threads",  # a setting of the command, not of a draw
              "stop_strings": "they end a text, and generate and stream make ids; "
                              "pygpt.Pipeline makes text"}


def generate(model: Any, ids: Any, max_new_tokens: int = 64,
             **options: Unpack[Options]) -> list[Any]:
    """Continue a sequence of tokens, or several at once.

    Args:
        model: a GPT.
        ids: a sequence of 1..n_positions token ids, the prompt; or several: a list, tuple or
            iterator of such sequences, or integers in memory of shape (B, T). Without items it is
            one prompt that is empty, which is refused.
        max_new_tokens: the length of a continuation, at least 0.
        options: those of stream. For several prompts, sampler is a list with a sampler for each,
            and seed may be a list with a seed for each: with one seed for all, equal prompts have
            equal continuations.
    Returns:
        The list of the new ids, without the prompt; with logprobs, a list of sampling.Choice. For
        several prompts a list of such lists, each as if its prompt were alone.
    Raises:
        ValueError: an id or a setting is out of range, a prompt is empty or too long, a logit is
            not finite, or all tokens are banned.
    """
    prompts = rows_of(ids)
    if not (isinstance(prompts, (list, tuple)) and prompts and hasattr(prompts[0], "__len__")):
        return list(stream(model, prompts, max_new_tokens, **options))
    found = [[] for _ in prompts]
    for step in stream_together(model, prompts, max_new_tokens, **options):
        for text, token in step:
            found[text].append(token)
    return found


def stream(model: Any, ids: Any, max_new_tokens: int = 64,
           **options: Unpack[Options]) -> Iterator[Any]:
    """Continue a sequence of tokens, and hand out each new one as it is chosen.

    When the context is full, a quarter of it is dropped: the model reads its last three quarters
    anew, at new positions, and goes on from there. Its positions are absolute, so nothing that it
    computed of the tokens at their old places could be kept.

    Args:
        model, ids, max_new_tokens: as those of generate.
        stop: an id, or a collection of ids, each of which ends the continuation and is not part of
            it; (): nothing ends it early; None: the model's end_of_text does.
        vocab_size: choose only ids below it, at least 1; None: any of the model's. A model may have
            more tokens than its tokenizer (GPT-2's 50257 are often padded to 50304): the
            tokenizer's vocab_size keeps to ids that it can decode.
        logprobs: None, or a number n >= 0: yield for each token a sampling.Choice (token, logprob,
            best): its log-probability, and [(id, logprob)] of the n likeliest tokens. The
            probabilities are the model's own among the ids below vocab_size, whatever the settings.
        sampler: an object whose choose(logits, ids) returns the next id, instead of
            sampling.Sampler, which documents the arguments; it then has no settings. The logits
            that it gets lie in memory that the next step overwrites. It must not change ids.
        settings: temperature, top_k and the other fields of config.SampleConfig, which documents
            them, except threads and stop_strings.
    Returns:
        An iterator of the new ids, or of Choices. It may be left at any token.
    Raises:
        As generate does. Errors of the arguments are raised here, those of logits at their token.
        TypeError: there is no such setting, or a sampler has no method choose.
    """
    if "sampler" in options and options["sampler"] is not None:
        options["sampler"] = [options["sampler"]]
    steps = stream_together(model, [ids], max_new_tokens, **options)
    return (token for step in steps for _, token in step)


def stream_together(model: Any, prompts: Any, max_new_tokens: int = 64, *,
                    stop: int | Collection[int] | None = None, vocab_size: int | None = None,
                    logprobs: int | None = None, sampler: Any = None,
                    **settings: Unpack[Settings]) -> Steps:
    """Continue several sequences, and hand out each step.

    At most MOST_ROWS texts grow at once, whose keys and values are in memory. The others wait, and
    no step has them yet; as one ends, the next begins. This changes no text.

    Args and Raises:
        As those of generate for several prompts.
    Returns:
        Steps: an iterator of the steps, which may be left at any step. Each is a list of (the
        number of a text, its new token or Choice), in the order of the numbers: one token of each
        text that grows and did not choose to end, at least one. Its end(text) ends a text.
    """
    if not isinstance(prompts := rows_of(prompts), (list, tuple)):
        raise refusal("prompts", prompts, "is not a list of prompts, which are lists of ids")
    if not isinstance(sampler, (list, tuple, type(None))):
        raise TypeError(f"sampler={shown(sampler)} is not a list with a sampler for each prompt")
    check_names(settings, SampleConfig, OPTIONS, _ELSEWHERE)
    if sampler is not None and settings:
        raise TypeError(f"{next(iter(settings))} is a setting of Sampler, but another sampler is "
                        "given")
    seeds = settings.pop("seed", None)
    if not isinstance(seeds, (list, tuple)):
        seeds = [seeds] * len(prompts)
    if len(seeds) != len(prompts):
        raise ConfigError(f"{len(seeds)} seeds for {len(prompts)} prompts")
    each = [SampleConfig(max_new_tokens=max_new_tokens, **settings,
                         **({} if seed is None else {"seed": seed})) for seed in seeds]
    max_new_tokens = each[0].max_new_tokens if each else 0
    V = checked_parts("model", model, "a model", "config", "new_cache").config.vocab_size
    if vocab_size is not None and (vocab_size := whole_number("vocab_size", vocab_size)) < 1:
        raise refusal("vocab_size", vocab_size, "leaves no id to draw")
    if logprobs is not None and (logprobs := whole_number("logprobs", logprobs)) < 0:
        raise refusal("logprobs", logprobs, "must be at least 0")
    for token, _ in each[0].logit_bias if each else ():
        token_id("logit_bias", token, V)
    prompts = [_check_prompt(ids, model.config, f"prompt {number}: " if len(prompts) > 1 else "")
               for number, ids in enumerate(prompts)]
    if stop is None:
        stop = getattr(model, "end_of_text", None)
    stop = frozenset(token_ids("stop", () if stop is None else stop, V))
    samplers = list(map(Sampler, each)) if sampler is None else list(sampler)
    if len(samplers) != len(prompts):
        raise ConfigError(f"{len(samplers)} samplers for {len(prompts)} prompts")
    for one in samplers:
        if isinstance(one, type) or not callable(getattr(one, "choose", None)):
            raise TypeError(f"sampler={shown(one)} is not an object with a method "
                            "choose(logits, ids)")
    return Steps(model, prompts, samplers, stop, vocab_size, max_new_tokens, logprobs)


def end_ids(model, tokenizer):
    """Return a tuple of the ids that end a text: the model's own, and the tokenizer's."""
    own, theirs = model.end_of_text, tokenizer.end_of_text
    own = () if own is None else own if isinstance(own, tuple) else (own,)
    return own if theirs is None or theirs in own else (*own, theirs)


def rows_of(ids):
    """Return a list of the items of a list or an iterator, or of the rows of a matrix in memory;
    else ids."""
    if hasattr(ids, "__next__") or isinstance(ids, list):
        return [*ids]  # of a list a copy: an id may be an object whose conversion changes it
    try:
        view = memoryview(ids)
    except (TypeError, ValueError):  # a ValueError: a view that was released
        return ids
    return view.tolist() if view.ndim == 2 else ids


def _check_prompt(ids, config, begin):
    items = items_of(f"{begin}ids", ids, "is not a list of ids; a tokenizer's encode() makes "
                     "them of a text")
    ids = [token_id(f"{begin}ids[{position}]", token, config.vocab_size)
           for position, token in enumerate(items)]
    if not 1 <= len(ids) <= config.n_positions:
        raise ValueError(f"{begin}the prompt has {len(ids)} tokens; this model takes "
                         f"1..n_positions={config.n_positions}")
    return ids
