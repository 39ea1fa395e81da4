"""Continues a sequence of tokens, one after another.

The model says how likely each token is as the next; a sampler (sampling.py) chooses one of them.

A model is anything with `config.n_positions`, `config.vocab_size`, `new_cache()` and
`decode(ids, cache)`, as model.GPT has them; decode returns a buffer of float32. It may have
`end_of_text`.
"""

from pygpt.config import (ConfigError, SampleConfig, items_of, token_id, token_ids,
                          whole_number)
from pygpt.sampling import Sampler, choice_of


def generate(model, ids, max_new_tokens=64, **options):
    """Continue a sequence of tokens.

    Args:
        model: a GPT.
        ids: a sequence of 1..n_positions token ids, the prompt.
        max_new_tokens: the length of the continuation, at least 0.
        options: those of stream.
    Returns:
        The list of the new ids, without the prompt; with logprobs, a list of sampling.Choice.
    Raises:
        ValueError: an id or a setting is out of range, the prompt is empty or too long, a logit is
            not finite, or all tokens are banned.
    """
    return list(stream(model, ids, max_new_tokens, **options))


def stream(model, ids, max_new_tokens=64, *, stop=None, vocab_size=None, logprobs=None,
           sampler=None, **settings):
    """Continue a sequence of tokens, and hand out each new one as it is chosen.

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
            sampling.Sampler, which documents the arguments; it then has no settings.
        settings: temperature, top_k and the other fields of config.SampleConfig, which documents
            them, except threads and stop_strings.
    Returns:
        An iterator of the new ids, or of Choices. It may be left at any token.
    Raises:
        As generate does. Errors of the arguments are raised here, those of logits at their token.
    """
    _check_settings(settings, sampler)
    settings = SampleConfig(max_new_tokens=max_new_tokens, **settings)
    V = model.config.vocab_size
    if vocab_size is not None and whole_number("vocab_size", vocab_size) < 1:
        raise ConfigError(f"vocab_size={vocab_size} leaves no id to draw")
    if logprobs is not None and whole_number("logprobs", logprobs) < 0:
        raise ConfigError(f"logprobs={logprobs} must be at least 0")
    for token, _ in settings.logit_bias:
        token_id("logit_bias", token, V)
    ids = _check_prompt(ids, model.config)
    if stop is None:
        stop = getattr(model, "end_of_text", None)
    stop = frozenset(token_ids("stop", () if stop is None else stop, V))
    choices = _choices(model, ids, sampler or Sampler(settings), vocab_size)
    return _until(stop, choices, settings.max_new_tokens, logprobs)


def _check_settings(settings, sampler):
    """Refuse settings of which stream has no use."""
    if "threads" in settings:  # a setting of the command, not of a draw
        raise TypeError("threads is not a setting of generate and stream: see set_num_threads")
    if "stop_strings" in settings:
        raise TypeError("stop_strings end a text, and generate and stream make ids: see "
                        "stop_strings.StopStrings")
    if sampler is not None and settings:
        raise TypeError(f"{next(iter(settings))} is a setting of Sampler, but another sampler is "
                        "given")


def end_ids(model, tokenizer):
    """Return a tuple of the ids that end a text: the model's own, and the tokenizer's."""
    own, theirs = model.end_of_text, tokenizer.end_of_text
    own = () if own is None else own if isinstance(own, tuple) else (own,)
    return own if theirs is None or theirs in own else (*own, theirs)


def _check_prompt(ids, config):
    ids = [token_id(f"ids[{position}]", token, config.vocab_size)
           for position, token in enumerate(items_of("ids", ids, "is not a list of ids"))]
    if not 1 <= len(ids) <= config.n_positions:
        raise ValueError(f"the prompt has {len(ids)} tokens; this model takes "
                         f"1..n_positions={config.n_positions}")
    return ids


def _choices(model, ids, sampler, vocab_size):
    """Yield (token, logits) for ever: the next id, and what it was chosen by."""
    cache, new = model.new_cache(), ids
    while True:
        if cache.past + len(new) > model.config.n_positions:
            # The context is full. Dropping its oldest token moves the others to new positions, and
            # the cache holds their keys and values at the old ones.
            cache = model.new_cache()
            new = ids[-model.config.n_positions:]
        logits = memoryview(model.decode(new, cache)).toreadonly()[:vocab_size]
        token = token_id("token", sampler.choose(logits, ids), len(logits))
        yield token, logits
        ids.append(token)
        new = [token]


def _until(stop, choices, max_new_tokens, logprobs):
    """Yield the tokens, or the Choices, of at most max_new_tokens choices, up to one of stop."""
    for _, (token, logits) in zip(range(max_new_tokens), choices):
        if token in stop:
            return
        yield token if logprobs is None else choice_of(token, logits, logprobs)
