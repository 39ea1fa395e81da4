"""Continues texts: a model and its tokenizer in one, text in and text out.

    pipeline = Pipeline.from_pretrained("out")
    print(pipeline("Once", temperature=0.5))
    for piece in pipeline.stream("Once"):       # whole characters, each piece once it is drawn
        print(piece, end="", flush=True)

Several texts are computed together. Whichever of them is read next, all of them advance:

    stream([a, b]) -> [Continuation, Continuation]     each keeps the text that nobody has read yet
                          \\          /
                           _Together                  takes a step for all: generate.stream_together
"""

import random
import sys
import warnings

from pygpt.checkpoint.model_files import find_model
from pygpt.config import ConfigError, SampleConfig
from pygpt.continuation import Continuation, Text, Together
from pygpt.files import errors_begin_with
from pygpt.generate import MOST_ROWS, end_ids, stream_together
from pygpt.model import GPT
from pygpt.progress import ProgressLine
from pygpt.tokenizer import Tokenizer
from pygpt.tokenizer.base import prompt_ids

LACKING_SHOWN = 5  # a warning names this many of the characters that were left out


class Pipeline:
    """Continues texts with a model and its tokenizer.

    Args:
        model: a GPT.
        tokenizer: its Tokenizer.
        strict: whether a prompt is refused that is too long or holds characters that the
            vocabulary lacks. Otherwise its end is kept, they are left out, and a warning says so.
        on_warning: a function that takes the message of each warning; None: warnings.warn.

    Raises:
        ValueError: the tokenizer has more tokens than the model.

    Attributes:
        model, tokenizer, strict: the same.
    """

    def __init__(self, model, tokenizer, strict=False, on_warning=None):
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model "
                             f"vocab_size={model.config.vocab_size}")
        self.model, self.tokenizer, self.strict = model, tokenizer, strict
        self._on_warning = on_warning

    @classmethod
    def from_pretrained(cls, directory, weights=None, strict=False, on_warning=None):
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
        directory = find_model(directory)
        model = GPT.from_pretrained(directory, weights=weights)
        tokenizer = Tokenizer.from_pretrained(directory)
        with errors_begin_with(directory):
            return cls(model, tokenizer, strict, on_warning)

    def __call__(self, prompt, *, logprobs=None, progress=None, **settings):
        """Continue a prompt, or several together.

        Args:
            prompt, logprobs, settings: as those of stream.
            progress: whether a line on standard error tells how far a long call is; None: where
                IPython runs, as in a notebook.
        Returns:
            A Continuation that is complete; for several prompts a list of them. str() gives its
            text.
        Raises:
            As stream does.
        """
        with ProgressLine(progress) as line:
            found = self.stream(prompt, logprobs=logprobs, on_step=line.update, **settings)
            for text in found if isinstance(found, list) else [found]:
                text.finish()
        return found

    def stream(self, prompt, *, logprobs=None, on_step=None, **settings):
        """Continue a prompt, or several together, and hand out the text while it is made.

        Args:
            prompt: a str, in which the text of a special token is read as that token; or a list of
                token ids; or a list of several of these. Of "" the text begins after a new line.
            logprobs: None, or a number n >= 0, to keep what generate.stream describes.
            on_step: a function that is called after each step with a Progress, or None.
            settings: the fields of SampleConfig, which documents them, except threads. Of several
                prompts, seed may be a list with a seed for each. Without a seed each text gets one
                of its own.
        Returns:
            A Continuation, which is an iterator of pieces of text; for several prompts a list. It
            may be left at any piece: a step is computed only when text is asked for.
        Raises:
            TypeError: a prompt is neither text nor ids, or there is no such setting.
            ValueError: a setting is out of its range, or a prompt is refused. The model's logits
                are not finite: at the piece where that is found.
        """
        is_one = isinstance(prompt, str) or _are_ids(prompt)
        if not is_one and not isinstance(prompt, (list, tuple)):
            raise TypeError(f"prompt={prompt!r} is not a text, nor a list of texts")
        prompts = [self.read(one) for one in ([prompt] if is_one else prompt)]
        seeds = settings.pop("seed", None)
        if not isinstance(seeds, (list, tuple)):
            seeds = [seeds] * len(prompts)
        if len(seeds) != len(prompts):
            raise ConfigError(f"{len(seeds)} seeds for {len(prompts)} prompts")
        each = [SampleConfig(**settings, seed=any_seed() if seed is None else seed)
                for seed in seeds]
        if not prompts:
            return []
        settings = {name: value for name, value in settings.items() if name != "stop_strings"}
        settings.setdefault("max_new_tokens", each[0].max_new_tokens)
        steps = stream_together(self.model, prompts, stop=end_ids(self.model, self.tokenizer),
                                vocab_size=self.tokenizer.vocab_size, logprobs=logprobs,
                                seed=[one.seed for one in each], **settings)
        texts = [Text(self.tokenizer, ids, one) for ids, one in zip(prompts, each)]
        together = Together(steps, texts, MOST_ROWS, on_step)
        found = [Continuation(together, number, logprobs is not None)
                 for number in range(len(texts))]
        return found[0] if is_one else found

    def read(self, prompt):
        """Return the ids of a prompt as stream takes it: at least one, at most n_positions.

        Raises:
            TypeError: it is neither text nor ids.
            ValueError: the pipeline is strict, and a warning would have been needed.
        """
        if isinstance(prompt, str):
            ids = self._encoded(prompt)
        elif _are_ids(prompt):
            ids = list(prompt)
        else:
            raise TypeError(f"prompt={prompt!r} is neither a text nor a list of ids")
        limit = self.model.config.n_positions
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


def any_seed():
    """Draw a seed."""
    return random.SystemRandom().getrandbits(31)


def _are_ids(prompt):
    """Tell whether a prompt is a sequence of ids."""
    return (isinstance(prompt, (list, tuple)) and bool(prompt) and isinstance(prompt[0], int)
            and not isinstance(prompt[0], bool))
