"""Sampling: one token after another, each drawn from the model's prediction for the next.

A model is anything with `config.n_positions`, `config.vocab_size`, `new_cache()` and
`decode(ids, cache)`, as model.GPT has them; it may have `end_of_text`. Imports config; used by
model, train and the command line.
"""

import heapq
import math
import random
import reprlib

from pygpt.config import ConfigError, SampleConfig, token_id, token_ids, whole_number


def generate(model, ids, max_new_tokens=64, temperature=0.8, top_k=50, top_p=0.95, min_p=0.0,
             repetition_penalty=1.0, stop=None, seed=None, vocab_size=None):
    """Continue a sequence of tokens.

    Args:
        model: a GPT.
        ids: sequence of 1..n_positions token ids, the prompt.
        max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed: as
            config.SampleConfig documents them.
        stop: an id, or a collection of ids, that end the continuation and are no part of it; ():
            nothing ends it early; None: the model's end_of_text does.
        vocab_size: draw only ids below it, at least 1; None: any of the model's. A model may have
            more tokens than its tokenizer (GPT-2's 50257 are often padded to 50304): the
            tokenizer's vocab_size keeps to ids that it can decode.
    Returns:
        The list of the new ids, without the prompt.
    Raises:
        ValueError: an id or a setting is out of range, or the prompt empty or too long.
    """
    return list(stream(model, ids, max_new_tokens, temperature, top_k, top_p, min_p,
                       repetition_penalty, stop, seed, vocab_size))


def stream(model, ids, max_new_tokens=64, temperature=0.8, top_k=50, top_p=0.95, min_p=0.0,
           repetition_penalty=1.0, stop=None, seed=None, vocab_size=None):
    """Continue a sequence of tokens, handing out each new one as it is drawn.

    Args and Raises:
        As generate's; what is wrong is raised here, not at the first token.
    Returns:
        An iterator of the new ids.
    """
    settings = SampleConfig(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k,
                            top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
                            seed=seed)
    if vocab_size is not None and whole_number("vocab_size", vocab_size) < 1:
        raise ConfigError(f"vocab_size={vocab_size} leaves no id to draw")
    ids = _check_prompt(ids, model.config)
    if stop is None:
        stop = getattr(model, "end_of_text", None)
    stop = token_ids("stop", () if stop is None else stop, model.config.vocab_size)
    return _stream(model, ids, settings, frozenset(stop), vocab_size)


def end_ids(model, tokenizer):
    """The ids that end a text, a tuple: the model's own, and the tokenizer's."""
    own, theirs = model.end_of_text, tokenizer.end_of_text
    own = () if own is None else own if isinstance(own, tuple) else (own,)
    return own if theirs is None or theirs in own else (*own, theirs)


def _check_prompt(ids, config):
    if isinstance(ids, (str, bytes, bytearray, dict, set, frozenset)):
        raise ValueError(f"ids={reprlib.repr(ids)} is not a list of ids")
    try:
        ids = list(ids)
    except (TypeError, NotImplementedError):  # what cannot be iterated over; a matrix
        raise ValueError(f"ids={reprlib.repr(ids)} is not a list of ids") from None
    ids = [token_id(f"ids[{position}]", token, config.vocab_size)
           for position, token in enumerate(ids)]
    if not 1 <= len(ids) <= config.n_positions:
        raise ValueError(f"the prompt has {len(ids)} tokens; this model takes "
                         f"1..n_positions={config.n_positions}")
    return ids


def _stream(model, ids, settings, stop, vocab_size):
    rng = random.Random(settings.seed)
    window, cache, new = ids, model.new_cache(), ids
    for _ in range(settings.max_new_tokens):
        if cache.past + len(new) > model.config.n_positions:
            # The context is full: its oldest token goes, which moves every other one to a new
            # position, so nothing that was computed for them holds any longer.
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
        context: the ids that repetition_penalty applies to, as far as they have a logit.
    Returns:
        The token's id.
    Raises:
        ValueError: a logit is not finite.
    """
    if not math.isfinite(sum(logits)):
        raise ValueError("the model's logits are not finite")
    if settings.repetition_penalty != 1.0:
        for token in set(context):
            if token >= len(logits):
                continue
            if logits[token] > 0:
                logits[token] /= settings.repetition_penalty
            else:
                logits[token] *= settings.repetition_penalty
    if settings.temperature == 0:
        return logits.index(max(logits))
    tokens, weights = candidates(logits, settings)
    return rng.choices(tokens, weights)[0]


def candidates(logits, settings):
    """The tokens that may be drawn.

    Args:
        logits: list of V finite floats.
        settings: a SampleConfig of temperature above 0.
    Returns:
        (tokens, weights): the likeliest first, of equally likely ones the lower id; their
        probabilities, the likeliest one's being 1.
    """
    tokens = range(len(logits))
    if 0 < settings.top_k < len(logits):
        least = heapq.nlargest(settings.top_k, logits)[-1]  # one pass over V; the rest is short
        tokens = [token for token, logit in enumerate(logits) if logit >= least]
    tokens = sorted(tokens, key=logits.__getitem__, reverse=True)  # equal ones keep their order
    if settings.top_k:
        del tokens[settings.top_k :]
    highest = logits[tokens[0]]
    weights = [math.exp((logits[token] - highest) / settings.temperature) for token in tokens]
    if settings.top_p < 1.0:
        enough = settings.top_p * math.fsum(weights)
        reached = 0.0
        for count, weight in enumerate(weights, 1):
            reached += weight
            if reached >= enough:
                del weights[count:]
                break
    if settings.min_p > 0.0:
        weights = [weight for weight in weights if weight >= settings.min_p]
    return tokens[: len(weights)], weights
