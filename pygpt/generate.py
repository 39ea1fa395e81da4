"""Draws one token after another, each from the model's prediction for the next.

    logits -> penalize_repetition -> keep_top_k -> apply_temperature -> keep_top_p -> keep_min_p
           -> one of the tokens that are left, drawn in proportion to its weight

To add a setting of the sampler, add a field to config.SampleConfig, and a function to STAGES here.

A model is anything with `config.n_positions`, `config.vocab_size`, `new_cache()` and
`decode(ids, cache)`, as model.GPT has them; it may have `end_of_text`.
"""

import heapq
import itertools
import math
import random

from pygpt.config import (ConfigError, SampleConfig, items_of, token_id, token_ids,
                          whole_number)


def generate(model, ids, max_new_tokens=64, *, stop=None, vocab_size=None, **settings):
    """Continue a sequence of tokens.

    Args:
        model: a GPT.
        ids: a sequence of 1..n_positions token ids, the prompt.
        max_new_tokens: the length of the continuation, at least 0.
        stop: an id, or a collection of ids, each of which ends the continuation and is not part of
            it; (): nothing ends it early; None: the model's end_of_text does.
        vocab_size: draw only ids below it, at least 1; None: any of the model's. A model may have
            more tokens than its tokenizer (GPT-2's 50257 are often padded to 50304): the
            tokenizer's vocab_size keeps to ids that it can decode.
        settings: temperature, top_k and the other fields of config.SampleConfig, which documents
            them, except threads.
    Returns:
        The list of the new ids, without the prompt.
    Raises:
        ValueError: an id or a setting is out of range, or the prompt is empty or too long.
    """
    return list(stream(model, ids, max_new_tokens, stop=stop, vocab_size=vocab_size, **settings))


def stream(model, ids, max_new_tokens=64, *, stop=None, vocab_size=None, **settings):
    """Continue a sequence of tokens, and hand out each new one as it is drawn.

    Args and Raises:
        As those of generate; every error is raised here, not at the first token.
    Returns:
        An iterator of the new ids.
    """
    if "threads" in settings:  # a setting of the command, not of a draw
        raise TypeError("threads is not a setting of generate and stream: see set_num_threads")
    settings = SampleConfig(max_new_tokens=max_new_tokens, **settings)
    if vocab_size is not None and whole_number("vocab_size", vocab_size) < 1:
        raise ConfigError(f"vocab_size={vocab_size} leaves no id to draw")
    ids = _check_prompt(ids, model.config)
    if stop is None:
        stop = getattr(model, "end_of_text", None)
    stop = token_ids("stop", () if stop is None else stop, model.config.vocab_size)
    return _stream(model, ids, settings, frozenset(stop), vocab_size)


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


def _stream(model, ids, settings, stop, vocab_size):
    rng = random.Random(settings.seed)
    window, cache, new = ids, model.new_cache(), ids
    for _ in range(settings.max_new_tokens):
        if cache.past + len(new) > model.config.n_positions:
            # The context is full. Dropping its oldest token moves the others to new positions, and
            # the cache holds their keys and values at the old ones.
            cache = model.new_cache()
            window = new = window[-model.config.n_positions :]
        logits = model.decode(new, cache).tolist()[:vocab_size]
        token = draw(logits, settings, rng, window)
        if token in stop:
            return
        yield token
        new = [token]
        window = window + new


def draw(logits, settings, rng, context=()):
    """Draw a token.

    Args:
        logits: list of V floats; changed where repetition_penalty applies.
        settings: a SampleConfig.
        rng: a random.Random.
        context: the ids to which repetition_penalty applies; those without a logit are ignored.
    Returns:
        The token's id.
    Raises:
        ValueError: a logit is not finite.
    """
    if not math.isfinite(sum(logits)):
        raise ValueError("the model's logits are not finite")
    tokens, weights = candidates(logits, settings, context)
    return rng.choices(tokens, weights)[0]


def candidates(logits, settings, context=()):
    """Select the tokens that may be drawn, and give each a weight.

    Args:
        logits, settings, context: as those of draw; the logits are finite.
    Returns:
        (tokens, weights): the likeliest token first, of equally likely ones the lower id first.
        A weight is a probability, divided by that of the likeliest token.
    """
    tokens, scores = range(len(logits)), logits
    for stage in STAGES:
        tokens, scores = stage(tokens, scores, settings, context)
    return tokens, scores


def penalize_repetition(tokens, logits, settings, context):
    """Make the logits of the context's tokens smaller (larger if the penalty is below 1)."""
    if settings.repetition_penalty != 1.0:
        for token in set(context):
            if token >= len(logits):
                continue
            if logits[token] > 0:
                logits[token] /= settings.repetition_penalty
            else:
                logits[token] *= settings.repetition_penalty
    return tokens, logits


def keep_top_k(tokens, logits, settings, context):
    """Keep the k likeliest tokens, one if the temperature is 0, and sort them, likeliest first."""
    k = settings.top_k if settings.temperature else 1
    if k == 1:
        token = logits.index(max(logits))
        return [token], [logits[token]]
    if 0 < k < len(logits):
        least = heapq.nlargest(k, logits)[-1]  # one pass over V, so that few are left to sort
        tokens = [token for token, logit in enumerate(logits) if logit >= least]
    tokens = sorted(tokens, key=logits.__getitem__, reverse=True)  # equal ones keep their order
    if k:
        del tokens[k:]
    return tokens, [logits[token] for token in tokens]


def apply_temperature(tokens, logits, settings, context):
    """Turn sorted logits into weights, exp((logit - the highest) / temperature)."""
    temperature = settings.temperature or 1.0  # of 0: one token is left, whose weight is 1
    return tokens, [math.exp((logit - logits[0]) / temperature) for logit in logits]


def keep_top_p(tokens, weights, settings, context):
    """Keep the fewest likeliest tokens whose probabilities reach the sum top_p."""
    if settings.top_p < 1.0:
        enough = settings.top_p * math.fsum(weights)
        for count, reached in enumerate(itertools.accumulate(weights), 1):
            if reached >= enough:
                return tokens[:count], weights[:count]
    return tokens, weights


def keep_min_p(tokens, weights, settings, context):
    """Keep the tokens that are at least min_p times as probable as the likeliest."""
    if settings.min_p > 0.0:
        weights = [weight for weight in weights if weight >= settings.min_p]  # the first ones
    return tokens[:len(weights)], weights


# The stages of a draw, in their order. Each is a function of (tokens, scores, settings, context)
# that returns (tokens, scores): the ids that may still be drawn, and a number for each. The scores
# are logits, before keep_top_k those of the whole vocabulary in the order of the ids; after it they
# are sorted, and after apply_temperature they are weights.
STAGES = penalize_repetition, keep_top_k, apply_temperature, keep_top_p, keep_min_p
