"""Answers the live page: writes texts, explains them, and says what may follow.

Each request is a dict of JSON values from the page; it is checked here. "off" lists the heads that
are switched off, as [block, head] pairs.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from pygpt.config import SampleConfig
from pygpt.evaluation import evaluate
from pygpt.pipeline import Pipeline
from pygpt.study.ablation import heads_off
from pygpt.study.distribution import drawn_probabilities
from pygpt.study.explanation import (explanation, name_of, page, part, rounded, shortened,
                                         token_text)

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "max_new_tokens"
LISTED = 12         # candidates
MOST_NEW = 10_000   # tokens of one request


def live_page(directory: str, text: str) -> str:
    """Return the HTML text of the page of a model in a directory, which begins with a text."""
    start = json.dumps(text).replace("<", "\\u003c")
    controls = f'{part("play.html")}<script type="application/json" id="start">{start}</script>'
    return page(f"{name_of(directory)}, live", None, controls, part("play.js"))


class Play:
    """Holds the model of a page. Its methods take the model alone: call one at a time.

    Args:
        pipeline: a Pipeline whose weights are float32.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._model, self._tokenizer, self._notes = pipeline.model, pipeline.tokenizer, []
        self._pipeline = Pipeline(self._model, self._tokenizer, on_warning=self._notes.append)

    def write(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Continue a text.

        Yields:
            {"ids": those of the prompt}, then for each token drawn {"id", "text": the characters
            that it completes, "p", "best": [[text, p], ...]}, and at the end {"ids": those of the
            whole text, "stop": why it ended}.
        Raises:
            ValueError, TypeError: the request is wrong; the message says in what.
        """
        text = _field(request, "text", str)
        settings = _settings(request)
        if settings.get("max_new_tokens", 0) > MOST_NEW:
            raise ValueError(f"max_new_tokens={settings['max_new_tokens']} is more than {MOST_NEW}")
        self._notes.clear()
        with heads_off(self._model, _heads(request)):
            found = self._pipeline.stream(text, logprobs=LISTED, **settings)
            yield {"ids": list(found.prompt_ids)}
            count = 0
            for piece in found:
                for choice in found.logprobs[count:]:
                    count += 1
                    yield {"id": choice.token, "text": "", "p": rounded(math.exp(choice.logprob)),
                           "best": self._named(choice.best)}
                yield {"text": piece}
            yield {"ids": [*found.prompt_ids, *found.ids], "stop": found.stop}

    def explain(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the dict of explanation() for the end of a text, with two losses in nats a token
        if there are two tokens: "loss" as the request says, "loss_all_on" with every head."""
        self._notes.clear()
        ids, note = shortened(self._pipeline.read(_field(request, "text", str)))
        with heads_off(self._model, _heads(request)):
            found = explanation(self._model, self._tokenizer, ids, ". ".join(
                filter(None, [*self._notes, note])))
            losses = {"loss": self._loss(ids)} if len(ids) > 1 else {}
        if losses:
            losses["loss_all_on"] = self._loss(ids)
        return {**found, **losses}

    def candidates(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what may follow a text: {"model": [[text, p], ...] by the model alone, "drawn":
        the same by the request's settings, each likeliest first, "count": how many can be drawn}.
        """
        self._notes.clear()
        ids = self._pipeline.read(_field(request, "text", str))
        settings = SampleConfig(**_settings(request))
        with heads_off(self._model, _heads(request)):
            logits = self._model.decode(ids, self._model.new_cache(1, len(ids))).tolist()
        logits = logits[:self._tokenizer.vocab_size]
        plain = SampleConfig(temperature=1.0, top_k=0, top_p=1.0)
        found = {"model": drawn_probabilities(logits, plain),
                 "drawn": drawn_probabilities(logits, settings)}
        return {"count": len(found["drawn"]), **{
            name: [[token_text(self._tokenizer, id), rounded(p)] for id, p in pairs[:LISTED]]
            for name, pairs in found.items()}}

    def _loss(self, ids):
        return rounded(evaluate(self._model, ids, self._model.config.n_positions))

    def _named(self, best):
        return [[token_text(self._tokenizer, id), rounded(math.exp(logprob))]
                for id, logprob in best]


def _field(request, name, kind):
    value = request.get(name)
    if not isinstance(value, kind):
        raise ValueError(f"{name}={value!r:.80} is no {kind.__name__}")
    return value


def _settings(request):
    """Return the settings in a request, each a number."""
    settings = {name: request[name] for name in SETTINGS if name in request}
    for name, value in settings.items():
        if type(value) not in (int, float):
            raise ValueError(f"{name}={value!r:.80} is no number")
    return settings


def _heads(request):
    """Return the pairs (block, head) of a request that are off."""
    off = request.get("off", [])
    if not (isinstance(off, list) and all(
            isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)
            for pair in off)):
        raise ValueError(f"off={off!r:.80} is no list of [block, head] pairs")
    return [tuple(pair) for pair in off]
