"""Continues texts: a model and its tokenizer in one, text in and text out.

    pipeline = Pipeline.from_pretrained("out")
    print(pipeline("Once", temperature=0.5))
    for piece in pipeline.stream("Once"):       # whole characters, each piece once it is drawn
        print(piece, end="", flush=True)

Several texts are computed together. Whichever of them is read next, all of them advance:

    stream([a, b]) -> [Continuation, Continuation]     each keeps the text that nobody has read yet
                          \\          /
                          Together            takes a step for all: generate.stream_together
"""

from __future__ import annotations

import contextlib
import random
import sys
import warnings
from typing import TYPE_CHECKING, Any, overload

from pygpt.backend.arguments import checked_flag, checked_function, checked_path, shown
from pygpt.checkpoint.model_files import read_found
from pygpt.config import (ConfigError, SampleConfig, check_names, is_whole_number, items_of,
                          token_id)
from pygpt.continuation import Continuation, Text, Together
from pygpt.files import errors_begin_with
from pygpt.generate import end_ids, rows_of, stream_together
from pygpt.model import GPT
from pygpt.progress import ProgressLine
from pygpt.steps import MOST_ROWS
from pygpt.tokenizer import Tokenizer
from pygpt.tokenizer.base import prompt_ids

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from typing_extensions import Unpack

    from pygpt.continuation import Progress
    from pygpt.options import TextOptions

    Prompt = str | list[int]
    Prompts = list[str] | list[list[int]] | list[str | list[int]] | tuple[str, ...]

LACKING_SHOWN = 5  # a warning names this many of the characters that were left out
_OPTIONS = "logprobs", "sampler"  # of a call, besides settings
_ELSEWHERE = {"threads": "pygpt.set_num_threads sets them for all that is computed",
              "stop": "a text ends where the model or the tokenizer says, and at stop_strings; "
                      "GPT.generate takes the ids that end it",
              "vocab_size": "only ids of the tokenizer are drawn",
              "on_step": "stream takes it; progress=True shows a line",
              "progress": "stream takes on_step, and a call without stream takes progress"}


class Pipeline:
    """Continues texts with a model and its tokenizer.

    Args:
        model: a GPT.
        tokenizer: its Tokenizer.
        strict: whether a prompt is refused that is too long or holds characters that the
            vocabulary lacks. Otherwise its end is kept, they are left out, and a warning says so.
        on_warning: a function that takes the message of each warning; None: warnings.warn.

    Raises:
        TypeError: these are not a model and a tokenizer, in this order.
        ValueError: the tokenizer has more tokens than the model.

    Attributes:
        model, tokenizer, strict: the same.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, strict: bool = False,
                 on_warning: Callable[[str], object] | None = None) -> None:
        for name, value, methods in (("model", model, ("config", "new_cache")),
                                     ("tokenizer", tokenizer, ("vocab_size", "encode"))):
            if isinstance(value, type) or not all(hasattr(value, part) for part in methods):
                raise TypeError(f"{name}={shown(value)} is no {name}: Pipeline takes a model and "
                                "its tokenizer, in this order")
        checked_flag("strict", strict)
        if on_warning is not None:
            checked_function("on_warning", on_warning)
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model "
                             f"vocab_size={model.config.vocab_size}")
        self.model, self.tokenizer, self.strict = model, tokenizer, strict
        self._on_warning = on_warning

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], weights: str | None = None,
                        strict: bool = False,
                        on_warning: Callable[[str], object] | None = None) -> Pipeline:
        """Open a model and its tokenizer.

        Args:
            directory: a GPT-2 directory, a training run's output directory, or one of its
                checkpoints.
            weights: the form of the weights in memory, as GPT.from_pretrained takes it.
            strict, on_warning: as those of the class.
        Raises:
            OSError: a file cannot be read.
            ValueError: the directory holds no such model, or a tokenizer with more tokens than it.
        """
        directory, model, tokenizer = read_found(
            checked_path("directory", directory), lambda found: (
                found, GPT.from_pretrained(found, weights=weights),
                Tokenizer.from_pretrained(found)))
        with errors_begin_with(directory):
            return cls(model, tokenizer, strict, on_warning)

    def __repr__(self) -> str:
        model = repr(self.model).partition("\n")[0]
        return f"Pipeline({model}, {self.tokenizer!r}{', strict=True' if self.strict else ''})"

    @overload
    def __call__(self, prompt: Prompt, *, logprobs: int | None = None,
                 sampler: Any = None, progress: bool | None = None,
                 **settings: Unpack[TextOptions]) -> Continuation: ...
    @overload
    def __call__(self, prompt: Prompts, *, logprobs: int | None = None,
                 sampler: Any = None, progress: bool | None = None,
                 **settings: Unpack[TextOptions]) -> list[Continuation]: ...

    def __call__(self, prompt: Any, *, progress: bool | None = None,
                 **settings: Any) -> Any:
        """Continue a prompt, or several together.

        Args:
            prompt, settings: as those of stream, which takes logprobs and sampler, too.
            progress: whether a line on standard error tells how far a long call is; None: where
                IPython runs, as in a notebook.
        Returns:
            A Continuation that is complete; for several prompts a list of them. str() gives its
            text.
        Raises:
            As stream does.
        """
        check_names(settings, SampleConfig, (*_OPTIONS, "progress"), _ELSEWHERE)
        if progress is not None:
            checked_flag("progress", progress)
        with ProgressLine(progress) as line:
            found = self.stream(prompt, on_step=line.update, **settings)
            for text in found if isinstance(found, list) else [found]:
                text.finish()
        return found

    @overload
    def stream(self, prompt: Prompt, *, logprobs: int | None = None,
               sampler: Any = None, on_step: Callable[[Progress], object] | None = None,
               **settings: Unpack[TextOptions]) -> Continuation: ...
    @overload
    def stream(self, prompt: Prompts, *, logprobs: int | None = None,
               sampler: Any = None, on_step: Callable[[Progress], object] | None = None,
               **settings: Unpack[TextOptions]) -> list[Continuation]: ...

    def stream(self, prompt: Any, *, logprobs: int | None = None,
               sampler: Any = None, on_step: Callable[[Progress], object] | None = None,
               **settings: Any) -> Any:
        """Continue a prompt, or several together, and hand out the text while it is made.

        Args:
            prompt: a str, in which the text of a special token is read as that token; or a sequence
                or iterator of token ids; or one of several of these, also integers in memory of
                shape (B, T). Of "" the text begins after a new line. [] means no prompts.
            logprobs: None, or a number n >= 0, to keep what generate.stream describes.
            sampler: an object that chooses the ids, as generate.stream takes it; it has no settings
                but max_new_tokens and stop_strings, and no seed. For several prompts a list with a
                sampler for each. None: sampling.Sampler.
            on_step: a function that is called after each step with a Progress, or None.
            settings: the fields of SampleConfig, which documents them, except threads. Of several
                prompts, seed may be a list with a seed for each: with one seed for all, equal
                prompts have equal texts. Without a seed each text gets one of its own.
        Returns:
            A Continuation, which is an iterator of pieces of text; for several prompts a list. It
            may be left at any piece: a step is computed only when text is asked for.
        Raises:
            TypeError: a prompt is neither text nor ids, there is no such setting, or a sampler has
                no method choose.
            ValueError: a setting is out of its range, or a prompt is refused. The model's logits
                are not finite: at the piece where that is found.
        """
        check_names(settings, SampleConfig, (*_OPTIONS, "on_step"), _ELSEWHERE)
        if on_step is not None:
            checked_function("on_step", on_step)
        prompts, is_one = _prompts_of(prompt)
        for number, one in enumerate(prompts):
            with contextlib.nullcontext() if is_one else errors_begin_with(f"prompt {number}"):
                prompts[number] = self.read(one)
        each = self._settings_of_each(settings, len(prompts), sampler)
        if not prompts:
            return []
        settings = {name: value for name, value in settings.items()
                    if name not in ("stop_strings", "seed")}
        settings.setdefault("max_new_tokens", each[0].max_new_tokens)
        if sampler is None:
            settings["seed"] = [one.seed for one in each]
        else:
            settings["sampler"] = [sampler] if is_one else sampler
        steps = stream_together(self.model, prompts, stop=end_ids(self.model, self.tokenizer),
                                vocab_size=self.tokenizer.vocab_size, logprobs=logprobs,
                                **settings)
        texts = [Text(self.tokenizer, ids, one) for ids, one in zip(prompts, each)]
        together = Together(steps, texts, MOST_ROWS, on_step)
        found = [Continuation(together, number, logprobs is not None)
                 for number in range(len(texts))]
        return found[0] if is_one else found

    def _settings_of_each(self, settings, count, sampler):
        """Return a SampleConfig for each of `count` texts. A sampler needs no seed."""
        seeds = settings.get("seed")
        if sampler is not None and seeds is not None:
            raise TypeError("seed is a setting of Sampler, but another sampler is given")
        if not isinstance(seeds, (list, tuple)):
            seeds = [seeds] * count
        if len(seeds) != count:
            raise ConfigError(f"{len(seeds)} seeds for {count} prompts")
        if sampler is None:
            seeds = [any_seed() if seed is None else seed for seed in seeds]
        return [SampleConfig(**settings | {"seed": seed}) for seed in seeds]

    def read(self, prompt: Prompt) -> list[int]:
        """Return the ids of a prompt as stream takes it: at least one, at most n_positions.

        Raises:
            TypeError: it is neither text nor ids.
            ValueError: it has no ids, or one that the model lacks. The pipeline is strict, and a
                warning would have been needed.
        """
        limit, vocab_size = self.model.config.n_positions, self.model.config.vocab_size
        if isinstance(prompt, str):
            ids = self._encoded(prompt)
        else:
            try:
                items = list(items_of("prompt", prompt, "is neither a text nor a list of ids"))
            except ConfigError as error:
                raise TypeError(str(error)) from None
            ids = [token_id(f"prompt[{place}]", token, vocab_size)
                   for place, token in enumerate(items)]
        if not ids:
            raise ValueError(f"the prompt has 0 tokens; this model takes 1..n_positions={limit}")
        if len(ids) > limit:
            if self.strict:
                raise ValueError(f"the prompt has {len(ids)} tokens; this model takes "
                                 f"1..n_positions={limit}")
            self._warn(f"the prompt has {len(ids)} tokens, and the model reads the last {limit}")
        return ids[-limit:]

    def _encoded(self, prompt):
        try:
            return prompt_ids(self.tokenizer, prompt)
        except ValueError:
            lacking = [] if self.strict else self._lacking(prompt)
            if not lacking:
                raise
        more = len(lacking) - LACKING_SHOWN
        self._warn("characters that the vocabulary lacks are left out of the prompt: "
                   + ", ".join(map(repr, lacking[:LACKING_SHOWN]))
                   + (f" and {more} more" if more > 0 else ""))
        return prompt_ids(self.tokenizer, prompt.translate(dict.fromkeys(map(ord, lacking))))

    def _lacking(self, text):
        """List the different characters of a text that the tokenizer cannot encode."""
        lacking = []
        for character in dict.fromkeys(text):
            try:
                self.tokenizer.encode(character, "all")
            except ValueError:
                lacking.append(character)
        return lacking

    def _warn(self, message):
        if self._on_warning is not None:
            self._on_warning(message)
            return
        level, frame = 1, sys._getframe()
        while frame is not None and frame.f_globals is globals():  # names the line of the caller
            level, frame = level + 1, frame.f_back
        warnings.warn(message, stacklevel=level)


def any_seed() -> int:
    """Draw a seed."""
    return random.SystemRandom().getrandbits(31)


def _prompts_of(prompt):
    """Return (a list of prompts, whether it is one prompt alone), from what stream takes."""
    if isinstance(prompt, str):
        return [prompt], True
    found = rows_of(prompt)
    try:
        items = list(items_of("prompt", found, "is not a text, nor a list of texts"))
    except ConfigError as error:
        raise TypeError(str(error)) from None
    # Ids in memory, such as an array or a range, are one prompt even if there are none.
    is_one = is_whole_number(items[0]) if items else not isinstance(found, (list, tuple))
    return ([items], True) if is_one else (items, False)
